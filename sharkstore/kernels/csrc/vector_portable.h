// Four floats in plain C++, for any machine.
#pragma once

#include "inline.h"

namespace sharkstore::SHARKSTORE_BACKEND {

// float16 to float32: exact, subnormals included.
SHARKSTORE_INLINE float widen_half(std::uint16_t half) {
  const std::uint32_t magnitude = half & 0x7fffu;
  const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000u) << 16;
  std::uint32_t bits = magnitude << 13;
  if (magnitude >= 0x7c00u) {
    bits += (255u - 31u) << 23;  // infinity and NaN
  } else if (magnitude >= 0x0400u) {
    bits += (127u - 15u) << 23;
  } else {
    const float subnormal = static_cast<float>(magnitude) * 0x1p-24f;
    std::memcpy(&bits, &subnormal, 4);
  }
  bits |= sign;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

struct Vec {
  static constexpr int kLanes = 4;
  float v[kLanes];

  SHARKSTORE_INLINE static Vec all(float x) { return {{x, x, x, x}}; }
  SHARKSTORE_INLINE static Vec load_f32(const std::uint8_t* p) {
    Vec r;
    std::memcpy(r.v, p, sizeof r.v);
    return r;
  }
  SHARKSTORE_INLINE static Vec load_f16(const std::uint8_t* p) {
    Vec r;
    for (int i = 0; i < kLanes; ++i) r.v[i] = half(p + 2 * i);
    return r;
  }
  SHARKSTORE_INLINE static Vec load_i8(const std::uint8_t* p) {
    Vec r;
    for (int i = 0; i < kLanes; ++i) r.v[i] = static_cast<float>(static_cast<std::int8_t>(p[i]));
    return r;
  }
  SHARKSTORE_INLINE static Vec load_u8(const std::uint8_t* p) {
    Vec r;
    for (int i = 0; i < kLanes; ++i) r.v[i] = static_cast<float>(p[i]);
    return r;
  }
  SHARKSTORE_INLINE static float half(const std::uint8_t* p) {
    std::uint16_t bits;
    std::memcpy(&bits, p, 2);
    return widen_half(bits);
  }
  SHARKSTORE_INLINE static Vec all_f16(const std::uint8_t* p) { return all(half(p)); }
  // all lanes: common rows are whole vectors here
  template <int Lanes>
  SHARKSTORE_INLINE static Vec load_f32(const std::uint8_t* p) {
    return load_f32(p);
  }
  template <int Lanes>
  SHARKSTORE_INLINE static Vec load_f16(const std::uint8_t* p) {
    return load_f16(p);
  }
  template <int Lanes>
  SHARKSTORE_INLINE static Vec load_i8(const std::uint8_t* p) {
    return load_i8(p);
  }
  template <int Lanes>
  SHARKSTORE_INLINE static Vec load_u8(const std::uint8_t* p) {
    return load_u8(p);
  }

  SHARKSTORE_INLINE void store(float* p) const { std::memcpy(p, v, sizeof v); }
  SHARKSTORE_INLINE void stream(float* p) const { store(p); }
  SHARKSTORE_INLINE void store_part(float* p, int lanes) const {
    for (int i = 0; i < lanes; ++i) p[i] = v[i];
  }

  SHARKSTORE_INLINE friend Vec operator+(Vec a, Vec b) {
    for (int i = 0; i < kLanes; ++i) a.v[i] += b.v[i];
    return a;
  }
  SHARKSTORE_INLINE friend Vec operator*(Vec a, Vec b) {
    for (int i = 0; i < kLanes; ++i) a.v[i] *= b.v[i];
    return a;
  }
  SHARKSTORE_INLINE friend Vec operator/(Vec a, Vec b) {
    for (int i = 0; i < kLanes; ++i) a.v[i] /= b.v[i];
    return a;
  }
  // `next` where it is greater than `held` or NaN, else `held`
  SHARKSTORE_INLINE static Vec later_max(Vec held, Vec next) {
    for (int i = 0; i < kLanes; ++i)
      if (next.v[i] > held.v[i] || next.v[i] != next.v[i]) held.v[i] = next.v[i];
    return held;
  }
  SHARKSTORE_INLINE static void fence() {}
};

}  // namespace sharkstore::SHARKSTORE_BACKEND
