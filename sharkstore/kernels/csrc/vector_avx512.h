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
  // the first `lanes` values, and those of `fill` behind them
  SHARKSTORE_INLINE static Vec load_part(const float* p, int lanes, Vec fill) {
    return {_mm512_mask_loadu_ps(fill.v, first(lanes), p)};
  }
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

  // values of the codes of Bits bits at p: of unsigned ones with a bias, else of offset ones
  template <int Bits, bool Affine>
  SHARKSTORE_INLINE static Vec low_bits(const std::uint8_t* p, Vec step, Vec bias) {
    std::int32_t word, next;
    std::memcpy(&word, p, 4);
    __m512i words = _mm512_set1_epi32(word), shifts;
    Vec levels;
    if constexpr (Bits == 4) {
      std::memcpy(&next, p + 4, 4);
      words = _mm512_mask_set1_epi32(words, 0xff00, next);
      shifts = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28);
      levels = {_mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)};
    } else {
      shifts = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
      levels = {_mm512_setr_ps(0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3)};
    }
    levels = Affine ? levels * step + bias : (levels - all(1 << (Bits - 1))) * step;
    // a permutation looks at the low bits of a lane alone: codes need no mask
    return {_mm512_permutexvar_ps(_mm512_srlv_epi32(words, shifts), levels.v)};
  }

  // a vector of pieces of Taken values (2, 4 or 8), Bytes each: piece i lies at at(i)
  template <int Taken, int Bytes, class At>
  SHARKSTORE_INLINE static Vec pieces(At at) {
    if constexpr (Bytes == 2) {
      return {_mm512_cvtph_ps(joined<Taken * Bytes>(at, 0))};
    } else {
      const __m256i low = joined<Taken * Bytes>(at, 0), high = joined<Taken * Bytes>(at, 8 / Taken);
      return {_mm512_castsi512_ps(_mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1))};
    }
  }

  SHARKSTORE_INLINE void store(float* p) const { _mm512_storeu_ps(p, v); }
  SHARKSTORE_INLINE void stream(float* p) const { _mm512_stream_ps(p, v); }
  SHARKSTORE_INLINE void store_part(float* p, int lanes) const {
    _mm512_mask_storeu_ps(p, first(lanes), v);
  }

  SHARKSTORE_INLINE void store_f16(std::uint8_t* p) const {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), half());
  }
  SHARKSTORE_INLINE void store_f16_part(std::uint8_t* p, int lanes) const {
    _mm256_mask_storeu_epi16(p, first(lanes), half());
  }

  SHARKSTORE_INLINE friend Vec operator+(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
  SHARKSTORE_INLINE friend Vec operator-(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
  SHARKSTORE_INLINE friend Vec operator*(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
  SHARKSTORE_INLINE friend Vec operator/(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }
  // `next` where it is greater than `held` or NaN, else `held`
  SHARKSTORE_INLINE static Vec later_max(Vec held, Vec next) {
    const __m512 greater = _mm512_max_ps(next.v, held.v);
    const __mmask16 nan = _mm512_cmp_ps_mask(next.v, next.v, _CMP_UNORD_Q);
    return {_mm512_mask_mov_ps(greater, nan, next.v)};
  }

  SHARKSTORE_INLINE static Vec max(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }
  SHARKSTORE_INLINE static Vec abs_max(Vec held, Vec x) {
    return {_mm512_range_ps(held.v, x.v, kAbsMax)};
  }
  // the greater of the magnitudes, as integers: infinity and NaN stay visible
  SHARKSTORE_INLINE static Vec bits_max(Vec held, Vec x) {
    const __m512i size = _mm512_castps_si512(_mm512_abs_ps(x.v));
    return {_mm512_castsi512_ps(_mm512_max_epi32(_mm512_castps_si512(held.v), size))};
  }
  // lane i: the greatest lane of rows[i]
  SHARKSTORE_INLINE static Vec across_max(const Vec (&rows)[kLanes]) {
    __m512 four[4];
    SHARKSTORE_UNROLL
    for (int i = 0; i < 4; ++i) {
      const __m512 low = pairs(rows[4 * i].v, rows[4 * i + 1].v);
      const __m512 high = pairs(rows[4 * i + 2].v, rows[4 * i + 3].v);
      const __m512d a = _mm512_castps_pd(low), b = _mm512_castps_pd(high);
      four[i] = _mm512_max_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)),
                              _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
    }
    return {quarters(quarters(four[0], four[1]), quarters(four[2], four[3]))};
  }
  // lane j of rows[i] becomes lane i of rows[j]
  SHARKSTORE_INLINE static void transpose(Vec (&rows)[kLanes]) {
    __m512 pair[kLanes], four[kLanes];
    SHARKSTORE_UNROLL
    for (int i = 0; i < kLanes; i += 2) {
      pair[i] = _mm512_unpacklo_ps(rows[i].v, rows[i + 1].v);
      pair[i + 1] = _mm512_unpackhi_ps(rows[i].v, rows[i + 1].v);
    }
    SHARKSTORE_UNROLL
    for (int i = 0; i < kLanes; ++i) {
      const int at = i / 4 * 4 + i / 2 % 2;
      const __m512d a = _mm512_castps_pd(pair[at]), b = _mm512_castps_pd(pair[at + 2]);
      four[i] = _mm512_castpd_ps(i % 2 ? _mm512_unpackhi_pd(a, b) : _mm512_unpacklo_pd(a, b));
    }
    // four[4 k + j]: values j, j + 4, j + 8 and j + 12 of rows 4 k to 4 k + 3
    SHARKSTORE_UNROLL
    for (int j = 0; j < 4; ++j) {
      const __m512 low = _mm512_shuffle_f32x4(four[j], four[4 + j], 0x88);
      const __m512 high = _mm512_shuffle_f32x4(four[8 + j], four[12 + j], 0x88);
      const __m512 low2 = _mm512_shuffle_f32x4(four[j], four[4 + j], 0xdd);
      const __m512 high2 = _mm512_shuffle_f32x4(four[8 + j], four[12 + j], 0xdd);
      rows[j] = {_mm512_shuffle_f32x4(low, high, 0x88)};
      rows[j + 8] = {_mm512_shuffle_f32x4(low, high, 0xdd)};
      rows[j + 4] = {_mm512_shuffle_f32x4(low2, high2, 0x88)};
      rows[j + 12] = {_mm512_shuffle_f32x4(low2, high2, 0xdd)};
    }
  }
  // x within [low, high]; `low` for NaN
  SHARKSTORE_INLINE static Vec clip(Vec x, Vec low, Vec high) {
    return {_mm512_min_ps(_mm512_max_ps(x.v, low.v), high.v)};
  }

  SHARKSTORE_INLINE static Vec nearest_whole(Vec x) {
    return {_mm512_roundscale_ps(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
  }
  // x where a < b, else y
  SHARKSTORE_INLINE static Vec where_less(Vec a, Vec b, Vec x, Vec y) {
    return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ), y.v, x.v)};
  }
  // bit i: lane i is above that of `limit`, or NaN
  SHARKSTORE_INLINE static unsigned above(Vec x, Vec limit) {
    return _mm512_cmp_ps_mask(x.v, limit.v, _CMP_NLE_UQ);
  }

  // integers of 32 bits, of which the low byte is a code
  struct Int {
    __m512i v;
  };
  // x as an integer, half to even
  SHARKSTORE_INLINE static Int nearest(Vec x) { return {_mm512_cvtps_epi32(x.v)}; }
  // the nearest integer of x * factor, half to even, and how far off it the product lies
  SHARKSTORE_INLINE static Int round_product(Vec x, Vec factor, Vec& off) {
    // a sum of this size has no bits behind its point: the low ones are the integer
    const __m512 unit = _mm512_set1_ps(0x1.8p23f);
    const __m512 sum = _mm512_fmadd_ps(x.v, factor.v, unit);
    off = {_mm512_fmadd_ps(x.v, factor.v, _mm512_sub_ps(unit, sum))};
    return {_mm512_castps_si512(sum)};
  }
  SHARKSTORE_INLINE static void store_bytes(std::uint8_t* p, Int a) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a.v));
  }
  SHARKSTORE_INLINE static void store_bytes_part(std::uint8_t* p, Int a, int lanes) {
    _mm_mask_storeu_epi8(p, first(lanes), _mm512_cvtepi32_epi8(a.v));
  }
  SHARKSTORE_INLINE static void fence() { _mm_sfence(); }

 private:
  static constexpr int kAbsMax = 0xb;  // the greater magnitude, without its sign
  SHARKSTORE_INLINE static __mmask16 first(int lanes) {
    return static_cast<__mmask16>((1u << lanes) - 1);
  }
  SHARKSTORE_INLINE __m256i half() const {
    return _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  SHARKSTORE_INLINE static __m512 pairs(__m512 a, __m512 b) {
    return _mm512_max_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
  }
  SHARKSTORE_INLINE static __m512 quarters(__m512 a, __m512 b) {
    return _mm512_max_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
  }
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
  // 32 bytes: pieces of Size bytes, from piece `first` on
  template <int Size, class At>
  SHARKSTORE_INLINE static __m256i joined(At at, int first) {
    if constexpr (Size == 32) {
      return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at(first)));
    } else {
      const __m128i low = half_joined<Size>(at, first);
      const __m128i high = half_joined<Size>(at, first + 16 / Size);
      return _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
    }
  }
  template <int Size, class At>
  SHARKSTORE_INLINE static __m128i half_joined(At at, int first) {
    if constexpr (Size == 16) {
      return bytes(at(first));
    } else if constexpr (Size == 8) {
      const __m128 low = _mm_castsi128_ps(eight(at(first)));
      return _mm_castps_si128(_mm_loadh_pi(low, reinterpret_cast<const __m64*>(at(first + 1))));
    } else {
      const __m128i low = _mm_unpacklo_epi32(four(at(first)), four(at(first + 1)));
      const __m128i high = _mm_unpacklo_epi32(four(at(first + 2)), four(at(first + 3)));
      return _mm_unpacklo_epi64(low, high);
    }
  }
  SHARKSTORE_INLINE static __m128i four(const std::uint8_t* p) {
    std::int32_t bits;
    std::memcpy(&bits, p, 4);
    return _mm_cvtsi32_si128(bits);
  }
  SHARKSTORE_INLINE static __m128i eight(const std::uint8_t* p) {
    return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
  }
};

}  // namespace sharkstore::SHARKSTORE_BACKEND
