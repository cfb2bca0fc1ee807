// Sixteen floats: AVX-512 F, BW, DQ, VL.
#pragma once

#include <immintrin.h>

#include "inline.h"

namespace sharkstore::SHARKSTORE_BACKEND {

struct Vec {
  static constexpr int kLanes = 16;
  __m512 v;

  SHARKSTORE_INLINE static Vec all(float x) { return {_mm512_set1_ps(x)}; }
  SHARKSTORE_INLINE static Vec load_f32(const std::uint8_t* p) { return {_mm512_loadu_ps(p)}; }
  SHARKSTORE_INLINE static Vec load_f16(const std::uint8_t* p) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
  }
  SHARKSTORE_INLINE static Vec load_i8(const std::uint8_t* p) {
    return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes(p)))};
  }
  SHARKSTORE_INLINE static Vec load_u8(const std::uint8_t* p) {
    return {_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes(p)))};
  }
  SHARKSTORE_INLINE static Vec all_f16(const std::uint8_t* p) {
    std::int16_t bits;
    std::memcpy(&bits, p, 2);
    return {_mm512_cvtph_ps(_mm256_set1_epi16(bits))};
  }

  SHARKSTORE_INLINE void store(float* p) const { _mm512_storeu_ps(p, v); }
  SHARKSTORE_INLINE void stream(float* p) const { _mm512_stream_ps(p, v); }
  SHARKSTORE_INLINE void store_part(float* p, int lanes) const {
    _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << lanes) - 1), v);
  }

  SHARKSTORE_INLINE friend Vec operator+(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
  SHARKSTORE_INLINE friend Vec operator*(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
  SHARKSTORE_INLINE friend Vec operator/(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }
  // `next` where it is greater than `held` or NaN, else `held`
  SHARKSTORE_INLINE static Vec later_max(Vec held, Vec next) {
    const __m512 greater = _mm512_max_ps(next.v, held.v);
    const __mmask16 nan = _mm512_cmp_ps_mask(next.v, next.v, _CMP_UNORD_Q);
    return {_mm512_mask_mov_ps(greater, nan, next.v)};
  }
  SHARKSTORE_INLINE static void fence() { _mm_sfence(); }

 private:
  SHARKSTORE_INLINE static __m128i bytes(const std::uint8_t* p) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  }
};

}  // namespace sharkstore::SHARKSTORE_BACKEND
