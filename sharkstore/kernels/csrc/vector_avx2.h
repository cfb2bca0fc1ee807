// Eight floats: AVX2 and F16C.
#pragma once

#include <immintrin.h>

#include "inline.h"

namespace sharkstore::SHARKSTORE_BACKEND {

struct Vec {
  static constexpr int kLanes = 8;
  __m256 v;

  SHARKSTORE_INLINE static Vec all(float x) { return {_mm256_set1_ps(x)}; }
  SHARKSTORE_INLINE static Vec load_f32(const std::uint8_t* p) {
    return {_mm256_loadu_ps(reinterpret_cast<const float*>(p))};
  }
  SHARKSTORE_INLINE static Vec load_f16(const std::uint8_t* p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
  }
  SHARKSTORE_INLINE static Vec load_i8(const std::uint8_t* p) {
    return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes(p)))};
  }
  SHARKSTORE_INLINE static Vec load_u8(const std::uint8_t* p) {
    return {_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes(p)))};
  }
  SHARKSTORE_INLINE static Vec all_f16(const std::uint8_t* p) {
    std::int16_t bits;
    std::memcpy(&bits, p, 2);
    return {_mm256_cvtph_ps(_mm_set1_epi16(bits))};
  }
  // the first Lanes values (4 or all), and nothing read behind them
  template <int Lanes>
  SHARKSTORE_INLINE static Vec load_f32(const std::uint8_t* p) {
    if constexpr (Lanes != 4) return load_f32(p);
    return {_mm256_castps128_ps256(_mm_loadu_ps(reinterpret_cast<const float*>(p)))};
  }
  template <int Lanes>
  SHARKSTORE_INLINE static Vec load_f16(const std::uint8_t* p) {
    if constexpr (Lanes != 4) return load_f16(p);
    return {_mm256_cvtph_ps(bytes(p))};
  }
  template <int Lanes>
  SHARKSTORE_INLINE static Vec load_i8(const std::uint8_t* p) {
    if constexpr (Lanes != 4) return load_i8(p);
    return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(four(p)))};
  }
  template <int Lanes>
  SHARKSTORE_INLINE static Vec load_u8(const std::uint8_t* p) {
    if constexpr (Lanes != 4) return load_u8(p);
    return {_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(four(p)))};
  }

  SHARKSTORE_INLINE void store(float* p) const { _mm256_storeu_ps(p, v); }
  SHARKSTORE_INLINE void stream(float* p) const { _mm256_stream_ps(p, v); }
  SHARKSTORE_INLINE void store_part(float* p, int lanes) const {
    if (lanes == 4) {
      _mm_storeu_ps(p, _mm256_castps256_ps128(v));
      return;
    }
    const __m256i index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    _mm256_maskstore_ps(p, _mm256_cmpgt_epi32(_mm256_set1_epi32(lanes), index), v);
  }

  SHARKSTORE_INLINE friend Vec operator+(Vec a, Vec b) { return {_mm256_add_ps(a.v, b.v)}; }
  SHARKSTORE_INLINE friend Vec operator*(Vec a, Vec b) { return {_mm256_mul_ps(a.v, b.v)}; }
  SHARKSTORE_INLINE friend Vec operator/(Vec a, Vec b) { return {_mm256_div_ps(a.v, b.v)}; }
  // `next` where it is greater than `held` or NaN, else `held`
  SHARKSTORE_INLINE static Vec later_max(Vec held, Vec next) {
    const __m256 greater = _mm256_max_ps(next.v, held.v);
    return {_mm256_blendv_ps(greater, next.v, _mm256_cmp_ps(next.v, next.v, _CMP_UNORD_Q))};
  }
  SHARKSTORE_INLINE static void fence() { _mm_sfence(); }

 private:
  SHARKSTORE_INLINE static __m128i bytes(const std::uint8_t* p) {
    return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
  }
  SHARKSTORE_INLINE static __m128i four(const std::uint8_t* p) {
    std::int32_t bits;
    std::memcpy(&bits, p, 4);
    return _mm_cvtsi32_si128(bits);
  }
};

}  // namespace sharkstore::SHARKSTORE_BACKEND
