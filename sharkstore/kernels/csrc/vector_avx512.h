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
  // the first Lanes values (4, 8, 12 or all), and nothing read behind them
  template <int Lanes>
  SHARKSTORE_INLINE static Vec load_f32(const std::uint8_t* p) {
    return {_mm512_castsi512_ps(exactly<4 * Lanes>(p))};
  }
  template <int Lanes>
  SHARKSTORE_INLINE static Vec load_f16(const std::uint8_t* p) {
    return {_mm512_cvtph_ps(_mm512_castsi512_si256(exactly<2 * Lanes>(p)))};
  }
  template <int Lanes>
  SHARKSTORE_INLINE static Vec load_i8(const std::uint8_t* p) {
    const __m128i codes = _mm512_castsi512_si128(exactly<Lanes>(p));
    return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(codes))};
  }
  template <int Lanes>
  SHARKSTORE_INLINE static Vec load_u8(const std::uint8_t* p) {
    const __m128i codes = _mm512_castsi512_si128(exactly<Lanes>(p));
    return {_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(codes))};
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
  template <int Bytes>
  SHARKSTORE_INLINE static __m512i exactly(const std::uint8_t* p) {
    if constexpr (Bytes == 4 || Bytes == 12) {
      std::int32_t last;
      std::memcpy(&last, p + Bytes - 4, 4);
      if constexpr (Bytes == 4) return _mm512_zextsi128_si512(_mm_cvtsi32_si128(last));
      return _mm512_zextsi128_si512(_mm_insert_epi32(eight(p), last, 2));
    } else if constexpr (Bytes == 8) {
      return _mm512_zextsi128_si512(eight(p));
    } else if constexpr (Bytes == 16) {
      return _mm512_zextsi128_si512(bytes(p));
    } else if constexpr (Bytes == 24) {
      return _mm512_inserti64x2(_mm512_zextsi128_si512(bytes(p)), eight(p + 16), 1);
    } else if constexpr (Bytes == 32 || Bytes == 48) {
      const auto* low = reinterpret_cast<const __m256i*>(p);
      const __m512i first = _mm512_zextsi256_si512(_mm256_loadu_si256(low));
      if constexpr (Bytes == 32) return first;
      return _mm512_inserti64x2(first, bytes(p + 32), 2);
    } else {
      return _mm512_loadu_si512(p);
    }
  }
  SHARKSTORE_INLINE static __m128i eight(const std::uint8_t* p) {
    return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
  }
};

}  // namespace sharkstore::SHARKSTORE_BACKEND
