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
  // the first `lanes` values, and those of `fill` behind them
  SHARKSTORE_INLINE static Vec load_part(const float* p, int lanes, Vec fill) {
    float all_lanes[kLanes];
    vst1q_f32(all_lanes, fill.v);
    for (int i = 0; i < lanes; ++i) all_lanes[i] = p[i];
    return {vld1q_f32(all_lanes)};
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

  // values of the codes of Bits bits at p: of unsigned ones with a bias, else of offset ones
  template <int Bits, bool Affine>
  SHARKSTORE_INLINE static Vec low_bits(const std::uint8_t* p, Vec step, Vec bias) {
    std::uint16_t word = 0;
    std::memcpy(&word, p, Bits / 2);
    const std::int32_t shifts[kLanes] = {0, -Bits, -2 * Bits, -3 * Bits};
    const uint32x4_t apart = vshlq_u32(vdupq_n_u32(word), vld1q_s32(shifts));
    const Vec codes = {vcvtq_f32_u32(vandq_u32(apart, vdupq_n_u32((1u << Bits) - 1)))};
    if constexpr (Affine) return codes * step + bias;
    return (codes - all(static_cast<float>(1 << (Bits - 1)))) * step;
  }

  // a vector of pieces of Taken values (2 or 4), Bytes each: piece i lies at at(i)
  template <int Taken, int Bytes, class At>
  SHARKSTORE_INLINE static Vec pieces(At at) {
    if constexpr (Taken == kLanes) {
      return Bytes == 2 ? load_f16(at(0)) : load_f32(at(0));
    } else if constexpr (Bytes == 4) {
      const uint8x16_t joined = vcombine_u8(vld1_u8(at(0)), vld1_u8(at(1)));
      return {vreinterpretq_f32_u8(joined)};
    } else {
      std::uint32_t low, high;
      std::memcpy(&low, at(0), 4);
      std::memcpy(&high, at(1), 4);
      const uint64x1_t joined = vcreate_u64(low | static_cast<std::uint64_t>(high) << 32);
      return {vcvt_f32_f16(vreinterpret_f16_u64(joined))};
    }
  }

  SHARKSTORE_INLINE void store(float* p) const { vst1q_f32(p, v); }
  SHARKSTORE_INLINE void stream(float* p) const { vst1q_f32(p, v); }
  SHARKSTORE_INLINE void store_part(float* p, int lanes) const {
    float all_lanes[kLanes];
    vst1q_f32(all_lanes, v);
    for (int i = 0; i < lanes; ++i) p[i] = all_lanes[i];
  }

  SHARKSTORE_INLINE void store_f16(std::uint8_t* p) const {
    vst1_u8(p, vreinterpret_u8_f16(vcvt_f16_f32(v)));
  }
  SHARKSTORE_INLINE void store_f16_part(std::uint8_t* p, int lanes) const {
    std::uint8_t all_lanes[8];
    store_f16(all_lanes);
    std::memcpy(p, all_lanes, 2 * static_cast<std::size_t>(lanes));
  }

  SHARKSTORE_INLINE friend Vec operator+(Vec a, Vec b) { return {vaddq_f32(a.v, b.v)}; }
  SHARKSTORE_INLINE friend Vec operator-(Vec a, Vec b) { return {vsubq_f32(a.v, b.v)}; }
  SHARKSTORE_INLINE friend Vec operator*(Vec a, Vec b) { return {vmulq_f32(a.v, b.v)}; }
  SHARKSTORE_INLINE friend Vec operator/(Vec a, Vec b) { return {vdivq_f32(a.v, b.v)}; }
  // `next` where it is greater than `held` or NaN, else `held`
  SHARKSTORE_INLINE static Vec later_max(Vec held, Vec next) {
    const uint32x4_t number = vceqq_f32(next.v, next.v);
    const uint32x4_t keep = vbicq_u32(number, vcgtq_f32(next.v, held.v));
    return {vbslq_f32(keep, held.v, next.v)};
  }

  SHARKSTORE_INLINE static Vec max(Vec a, Vec b) { return {vmaxq_f32(a.v, b.v)}; }
  SHARKSTORE_INLINE static Vec abs_max(Vec held, Vec x) {
    return {vmaxq_f32(held.v, vabsq_f32(x.v))};
  }
  // the greater of the magnitudes, as integers: infinity and NaN stay visible
  SHARKSTORE_INLINE static Vec bits_max(Vec held, Vec x) {
    const int32x4_t size = vreinterpretq_s32_f32(vabsq_f32(x.v));
    return {vreinterpretq_f32_s32(vmaxq_s32(vreinterpretq_s32_f32(held.v), size))};
  }
  // lane i: the greatest lane of rows[i]
  SHARKSTORE_INLINE static Vec across_max(const Vec (&rows)[kLanes]) {
    return {vpmaxq_f32(vpmaxq_f32(rows[0].v, rows[1].v), vpmaxq_f32(rows[2].v, rows[3].v))};
  }
  // lane j of rows[i] becomes lane i of rows[j]
  SHARKSTORE_INLINE static void transpose(Vec (&rows)[kLanes]) {
    const float32x4x2_t a = vzipq_f32(rows[0].v, rows[2].v), b = vzipq_f32(rows[1].v, rows[3].v);
    const float32x4x2_t low = vzipq_f32(a.val[0], b.val[0]), high = vzipq_f32(a.val[1], b.val[1]);
    rows[0] = {low.val[0]};
    rows[1] = {low.val[1]};
    rows[2] = {high.val[0]};
    rows[3] = {high.val[1]};
  }
  // x within [low, high]; `low` for NaN
  SHARKSTORE_INLINE static Vec clip(Vec x, Vec low, Vec high) {
    return {vminnmq_f32(vmaxnmq_f32(x.v, low.v), high.v)};
  }

  SHARKSTORE_INLINE static Vec nearest_whole(Vec x) { return {vrndnq_f32(x.v)}; }
  // x where a < b, else y
  SHARKSTORE_INLINE static Vec where_less(Vec a, Vec b, Vec x, Vec y) {
    return {vbslq_f32(vcltq_f32(a.v, b.v), x.v, y.v)};
  }
  // bit i: lane i is above that of `limit`, or NaN
  SHARKSTORE_INLINE static unsigned above(Vec x, Vec limit) {
    const std::uint32_t bits[kLanes] = {1, 2, 4, 8};
    return vaddvq_u32(vbicq_u32(vld1q_u32(bits), vcleq_f32(x.v, limit.v)));
  }

  // integers of 32 bits, of which the low byte is a code
  struct Int {
    int32x4_t v;
  };
  // x as an integer, half to even
  SHARKSTORE_INLINE static Int nearest(Vec x) { return {vcvtnq_s32_f32(x.v)}; }
  // the nearest integer of x * factor, half to even, and how far off it the product lies
  SHARKSTORE_INLINE static Int round_product(Vec x, Vec factor, Vec& off) {
    const float32x4_t product = vmulq_f32(x.v, factor.v);
    off = {vsubq_f32(product, vrndnq_f32(product))};
    return {vcvtnq_s32_f32(product)};
  }
  SHARKSTORE_INLINE static void store_bytes(std::uint8_t* p, Int a) {
    store_bytes_part(p, a, kLanes);
  }
  SHARKSTORE_INLINE static void store_bytes_part(std::uint8_t* p, Int a, int lanes) {
    const int16x4_t words = vmovn_s32(a.v);
    const int8x8_t codes = vmovn_s16(vcombine_s16(words, words));
    const std::uint32_t bits = vget_lane_u32(vreinterpret_u32_s8(codes), 0);
    std::memcpy(p, &bits, static_cast<std::size_t>(lanes));
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
