// Four floats: NEON of 64-bit ARM.
#pragma once

#include <arm_neon.h>

#include "inline.h"

namespace sharkstore::SHARKSTORE_BACKEND {

struct Vec {
  static constexpr int kLanes = 4;
  float32x4_t v;

  SHARKSTORE_INLINE static Vec all(float x) { return {vdupq_n_f32(x)}; }
  SHARKSTORE_INLINE static Vec load_f32(const std::uint8_t* p) {
    return {vreinterpretq_f32_u8(vld1q_u8(p))};
  }
  SHARKSTORE_INLINE static Vec load_f16(const std::uint8_t* p) {
    return {vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(p)))};
  }
  SHARKSTORE_INLINE static Vec load_i8(const std::uint8_t* p) {
    const int16x8_t wide = vmovl_s8(vreinterpret_s8_u8(four(p)));
    return {vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide)))};
  }
  SHARKSTORE_INLINE static Vec load_u8(const std::uint8_t* p) {
    const uint16x8_t wide = vmovl_u8(four(p));
    return {vcvtq_f32_u32(vmovl_u16(vget_low_u16(wide)))};
  }
  SHARKSTORE_INLINE static Vec all_f16(const std::uint8_t* p) {
    std::uint16_t bits;
    std::memcpy(&bits, p, 2);
    return {vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(bits)))};
  }
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

  SHARKSTORE_INLINE void store(float* p) const { vst1q_f32(p, v); }
  SHARKSTORE_INLINE void stream(float* p) const { vst1q_f32(p, v); }
  SHARKSTORE_INLINE void store_part(float* p, int lanes) const {
    float all_lanes[kLanes];
    vst1q_f32(all_lanes, v);
    for (int i = 0; i < lanes; ++i) p[i] = all_lanes[i];
  }

  SHARKSTORE_INLINE friend Vec operator+(Vec a, Vec b) { return {vaddq_f32(a.v, b.v)}; }
  SHARKSTORE_INLINE friend Vec operator*(Vec a, Vec b) { return {vmulq_f32(a.v, b.v)}; }
  SHARKSTORE_INLINE friend Vec operator/(Vec a, Vec b) { return {vdivq_f32(a.v, b.v)}; }
  // `next` where it is greater than `held` or NaN, else `held`
  SHARKSTORE_INLINE static Vec later_max(Vec held, Vec next) {
    const uint32x4_t number = vceqq_f32(next.v, next.v);
    const uint32x4_t keep = vbicq_u32(number, vcgtq_f32(next.v, held.v));
    return {vbslq_f32(keep, held.v, next.v)};
  }
  SHARKSTORE_INLINE static void fence() {}

 private:
  SHARKSTORE_INLINE static uint8x8_t four(const std::uint8_t* p) {
    std::uint32_t bits;
    std::memcpy(&bits, p, 4);
    return vreinterpret_u8_u32(vdup_n_u32(bits));
  }
};

}  // namespace sharkstore::SHARKSTORE_BACKEND
