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

// float32 to float16, half to even: subnormals and infinity included.
SHARKSTORE_INLINE std::uint16_t narrow_half(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, 4);
  const std::uint32_t sign = bits >> 16 & 0x8000u;
  std::uint32_t size = bits & 0x7fffffffu;
  if (size > 0x7f800000u) {
    size = 0x7e00u;  // NaN
  } else if (size >= 0x477ff000u) {
    size = 0x7c00u;  // 65520 and more round to infinity
  } else if (size >= 0x38800000u) {
    size = (size - ((127u - 15u) << 23) + 0xfffu + (size >> 13 & 1u)) >> 13;
  } else {
    // the sum's last bit is worth 2^-24, as that of a subnormal float16: it rounds as that does
    float sum;
    std::memcpy(&sum, &size, 4);
    sum += 0.5f;
    std::memcpy(&size, &sum, 4);
    size -= 0x3f000000u;
  }
  return static_cast<std::uint16_t>(sign | size);
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
  // the first `lanes` values, and those of `fill` behind them
  SHARKSTORE_INLINE static Vec load_part(const float* p, int lanes, Vec fill) {
    for (int i = 0; i < lanes; ++i) fill.v[i] = p[i];
    return fill;
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

  // values of the codes of Bits bits at p: of unsigned ones with a bias, else of offset ones
  template <int Bits, bool Affine>
  SHARKSTORE_INLINE static Vec low_bits(const std::uint8_t* p, Vec step, Vec bias) {
    Vec codes;
    for (int i = 0; i < kLanes; ++i)
      codes.v[i] = static_cast<float>(p[i * Bits / 8] >> (i * Bits % 8) & ((1 << Bits) - 1));
    if constexpr (Affine) return codes * step + bias;
    return (codes - all(static_cast<float>(1 << (Bits - 1)))) * step;
  }

  // a vector of pieces of Taken values (2 or 4), Bytes each: piece i lies at at(i)
  template <int Taken, int Bytes, class At>
  SHARKSTORE_INLINE static Vec pieces(At at) {
    std::uint8_t joined[kLanes * Bytes];
    SHARKSTORE_UNROLL
    for (int i = 0; i < kLanes / Taken; ++i)
      std::memcpy(joined + i * Taken * Bytes, at(i), Taken * Bytes);
    return Bytes == 2 ? load_f16(joined) : load_f32(joined);
  }

  SHARKSTORE_INLINE void store(float* p) const { std::memcpy(p, v, sizeof v); }
  SHARKSTORE_INLINE void stream(float* p) const { store(p); }
  SHARKSTORE_INLINE void store_part(float* p, int lanes) const {
    for (int i = 0; i < lanes; ++i) p[i] = v[i];
  }

  SHARKSTORE_INLINE void store_f16(std::uint8_t* p) const { store_f16_part(p, kLanes); }
  SHARKSTORE_INLINE void store_f16_part(std::uint8_t* p, int lanes) const {
    for (int i = 0; i < lanes; ++i) {
      const std::uint16_t bits = narrow_half(v[i]);
      std::memcpy(p + 2 * i, &bits, 2);
    }
  }

  SHARKSTORE_INLINE friend Vec operator+(Vec a, Vec b) {
    for (int i = 0; i < kLanes; ++i) a.v[i] += b.v[i];
    return a;
  }
  SHARKSTORE_INLINE friend Vec operator-(Vec a, Vec b) {
    for (int i = 0; i < kLanes; ++i) a.v[i] -= b.v[i];
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

  SHARKSTORE_INLINE static Vec max(Vec a, Vec b) {
    for (int i = 0; i < kLanes; ++i) a.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i];
    return a;
  }
  SHARKSTORE_INLINE static Vec abs_max(Vec held, Vec x) {
    for (int i = 0; i < kLanes; ++i) x.v[i] = __builtin_fabsf(x.v[i]);
    return max(x, held);
  }
  // the greater of the magnitudes, as integers: infinity and NaN stay visible
  SHARKSTORE_INLINE static Vec bits_max(Vec held, Vec x) {
    for (int i = 0; i < kLanes; ++i) {
      std::int32_t mine, other;
      std::memcpy(&mine, &held.v[i], 4);
      std::memcpy(&other, &x.v[i], 4);
      other &= 0x7fffffff;
      mine = mine > other ? mine : other;
      std::memcpy(&held.v[i], &mine, 4);
    }
    return held;
  }
  // lane i: the greatest lane of rows[i]
  SHARKSTORE_INLINE static Vec across_max(const Vec (&rows)[kLanes]) {
    Vec r = all(0.0f);
    for (int i = 0; i < kLanes; ++i) {
      r.v[i] = rows[i].v[0];
      for (int j = 1; j < kLanes; ++j)
        r.v[i] = r.v[i] > rows[i].v[j] ? r.v[i] : rows[i].v[j];
    }
    return r;
  }
  // lane j of rows[i] becomes lane i of rows[j]
  SHARKSTORE_INLINE static void transpose(Vec (&rows)[kLanes]) {
    for (int i = 0; i < kLanes; ++i)
      for (int j = 0; j < i; ++j) {
        const float held = rows[i].v[j];
        rows[i].v[j] = rows[j].v[i];
        rows[j].v[i] = held;
      }
  }
  // x within [low, high]; `low` for NaN
  SHARKSTORE_INLINE static Vec clip(Vec x, Vec low, Vec high) {
    x = max(x, low);
    for (int i = 0; i < kLanes; ++i) x.v[i] = x.v[i] < high.v[i] ? x.v[i] : high.v[i];
    return x;
  }

  // the nearest integer to x, below 2^22 in magnitude, half to even
  SHARKSTORE_INLINE static Vec nearest_whole(Vec x) { return x + all(kUnit) - all(kUnit); }
  // x where a < b, else y
  SHARKSTORE_INLINE static Vec where_less(Vec a, Vec b, Vec x, Vec y) {
    for (int i = 0; i < kLanes; ++i) x.v[i] = a.v[i] < b.v[i] ? x.v[i] : y.v[i];
    return x;
  }
  // bit i: lane i is above that of `limit`, or NaN
  SHARKSTORE_INLINE static unsigned above(Vec x, Vec limit) {
    unsigned lanes = 0;
    for (int i = 0; i < kLanes; ++i) lanes |= (x.v[i] <= limit.v[i] ? 0u : 1u) << i;
    return lanes;
  }

  // integers of 32 bits, of which the low byte is a code
  struct Int {
    std::int32_t v[kLanes];
  };
  // x, below 2^22 in magnitude, as an integer, half to even
  SHARKSTORE_INLINE static Int nearest(Vec x) {
    // a float of this size has no bits behind its point: the low ones are x as an integer
    x = x + all(kUnit);
    Int r;
    std::memcpy(r.v, x.v, sizeof r.v);
    return r;
  }
  // the nearest integer of x * factor, half to even, and how far off it the product lies
  SHARKSTORE_INLINE static Int round_product(Vec x, Vec factor, Vec& off) {
    const Vec product = x * factor;
    off = product - (product + all(kUnit) - all(kUnit));
    return nearest(product);
  }
  SHARKSTORE_INLINE static void store_bytes(std::uint8_t* p, Int a) {
    store_bytes_part(p, a, kLanes);
  }
  SHARKSTORE_INLINE static void store_bytes_part(std::uint8_t* p, Int a, int lanes) {
    for (int i = 0; i < lanes; ++i) p[i] = static_cast<std::uint8_t>(a.v[i]);
  }
  SHARKSTORE_INLINE static void fence() {}

 private:
  static constexpr float kUnit = 0x1.8p23f;
};

}  // namespace sharkstore::SHARKSTORE_BACKEND
