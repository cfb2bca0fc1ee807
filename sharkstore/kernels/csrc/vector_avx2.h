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
  // the first `lanes` values, and those of `fill` behind them
  SHARKSTORE_INLINE static Vec load_part(const float* p, int lanes, Vec fill) {
    const __m256i mask = first(lanes);
    return {_mm256_blendv_ps(fill.v, _mm256_maskload_ps(p, mask), _mm256_castsi256_ps(mask))};
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

  // values of the codes of Bits bits at p: of unsigned ones with a bias, else of offset ones
  template <int Bits, bool Affine>
  SHARKSTORE_INLINE static Vec low_bits(const std::uint8_t* p, Vec step, Vec bias) {
    std::int32_t word;
    std::memcpy(&word, p, 4);
    const __m256i shifts = _mm256_setr_epi32(0, Bits, 2 * Bits, 3 * Bits, 4 * Bits, 5 * Bits,
                                             6 * Bits, 7 * Bits);
    const __m256i apart = _mm256_srlv_epi32(_mm256_set1_epi32(word), shifts);
    if constexpr (Bits == 2) {
      // a lookup looks at three bits of a lane: the levels stand there twice
      const Vec levels = levelled<Bits, Affine>(_mm256_setr_epi32(0, 1, 2, 3, 0, 1, 2, 3), step, bias);
      return {_mm256_permutevar8x32_ps(levels.v, apart)};
    } else {
      return levelled<Bits, Affine>(_mm256_and_si256(apart, _mm256_set1_epi32(15)), step, bias);
    }
  }

  // a vector of pieces of Taken values (2, 4 or 8), Bytes each: piece i lies at at(i)
  template <int Taken, int Bytes, class At>
  SHARKSTORE_INLINE static Vec pieces(At at) {
    if constexpr (Bytes == 2) {
      return {_mm256_cvtph_ps(joined<Taken * Bytes>(at, 0))};
    } else if constexpr (Taken == kLanes) {
      return load_f32(at(0));
    } else {
      const __m128 low = _mm_castsi128_ps(joined<Taken * Bytes>(at, 0));
      const __m128 high = _mm_castsi128_ps(joined<Taken * Bytes>(at, 4 / Taken));
      return {_mm256_insertf128_ps(_mm256_castps128_ps256(low), high, 1)};
    }
  }

  SHARKSTORE_INLINE void store(float* p) const { _mm256_storeu_ps(p, v); }
  SHARKSTORE_INLINE void stream(float* p) const { _mm256_stream_ps(p, v); }
  SHARKSTORE_INLINE void store_part(float* p, int lanes) const {
    if (lanes == 4) {
      _mm_storeu_ps(p, _mm256_castps256_ps128(v));
      return;
    }
    _mm256_maskstore_ps(p, first(lanes), v);
  }

  SHARKSTORE_INLINE void store_f16(std::uint8_t* p) const {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), half());
  }
  SHARKSTORE_INLINE void store_f16_part(std::uint8_t* p, int lanes) const {
    std::uint8_t all_lanes[16];
    store_f16(all_lanes);
    std::memcpy(p, all_lanes, 2 * static_cast<std::size_t>(lanes));
  }

  SHARKSTORE_INLINE friend Vec operator+(Vec a, Vec b) { return {_mm256_add_ps(a.v, b.v)}; }
  SHARKSTORE_INLINE friend Vec operator-(Vec a, Vec b) { return {_mm256_sub_ps(a.v, b.v)}; }
  SHARKSTORE_INLINE friend Vec operator*(Vec a, Vec b) { return {_mm256_mul_ps(a.v, b.v)}; }
  SHARKSTORE_INLINE friend Vec operator/(Vec a, Vec b) { return {_mm256_div_ps(a.v, b.v)}; }
  // `next` where it is greater than `held` or NaN, else `held`
  SHARKSTORE_INLINE static Vec later_max(Vec held, Vec next) {
    const __m256 greater = _mm256_max_ps(next.v, held.v);
    return {_mm256_blendv_ps(greater, next.v, _mm256_cmp_ps(next.v, next.v, _CMP_UNORD_Q))};
  }

  SHARKSTORE_INLINE static Vec max(Vec a, Vec b) { return {_mm256_max_ps(a.v, b.v)}; }
  SHARKSTORE_INLINE static Vec abs_max(Vec held, Vec x) {
    return {_mm256_max_ps(held.v, size(x))};
  }
  // the greater of the magnitudes, as integers: infinity and NaN stay visible
  SHARKSTORE_INLINE static Vec bits_max(Vec held, Vec x) {
    const __m256i bits = _mm256_castps_si256(size(x));
    return {_mm256_castsi256_ps(_mm256_max_epi32(_mm256_castps_si256(held.v), bits))};
  }
  // lane i: the greatest lane of rows[i]
  SHARKSTORE_INLINE static Vec across_max(const Vec (&rows)[kLanes]) {
    __m256 four[2];
    SHARKSTORE_UNROLL
    for (int i = 0; i < 2; ++i) {
      const __m256 low = pairs(rows[4 * i].v, rows[4 * i + 1].v);
      const __m256 high = pairs(rows[4 * i + 2].v, rows[4 * i + 3].v);
      const __m256d a = _mm256_castps_pd(low), b = _mm256_castps_pd(high);
      four[i] = _mm256_max_ps(_mm256_castpd_ps(_mm256_unpacklo_pd(a, b)),
                              _mm256_castpd_ps(_mm256_unpackhi_pd(a, b)));
    }
    return {_mm256_max_ps(_mm256_permute2f128_ps(four[0], four[1], 0x20),
                          _mm256_permute2f128_ps(four[0], four[1], 0x31))};
  }
  // lane j of rows[i] becomes lane i of rows[j]
  SHARKSTORE_INLINE static void transpose(Vec (&rows)[kLanes]) {
    __m256 pair[kLanes], four[kLanes];
    SHARKSTORE_UNROLL
    for (int i = 0; i < kLanes; i += 2) {
      pair[i] = _mm256_unpacklo_ps(rows[i].v, rows[i + 1].v);
      pair[i + 1] = _mm256_unpackhi_ps(rows[i].v, rows[i + 1].v);
    }
    SHARKSTORE_UNROLL
    for (int i = 0; i < kLanes; ++i) {
      const int at = i / 4 * 4 + i / 2 % 2;
      const __m256d a = _mm256_castps_pd(pair[at]), b = _mm256_castps_pd(pair[at + 2]);
      four[i] = _mm256_castpd_ps(i % 2 ? _mm256_unpackhi_pd(a, b) : _mm256_unpacklo_pd(a, b));
    }
    // four[4 k + j]: values j and j + 4 of rows 4 k to 4 k + 3
    SHARKSTORE_UNROLL
    for (int j = 0; j < 4; ++j) {
      rows[j] = {_mm256_permute2f128_ps(four[j], four[4 + j], 0x20)};
      rows[j + 4] = {_mm256_permute2f128_ps(four[j], four[4 + j], 0x31)};
    }
  }
  // x within [low, high]; `low` for NaN
  SHARKSTORE_INLINE static Vec clip(Vec x, Vec low, Vec high) {
    return {_mm256_min_ps(_mm256_max_ps(x.v, low.v), high.v)};
  }

  SHARKSTORE_INLINE static Vec nearest_whole(Vec x) {
    return {_mm256_round_ps(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
  }
  // x where a < b, else y
  SHARKSTORE_INLINE static Vec where_less(Vec a, Vec b, Vec x, Vec y) {
    return {_mm256_blendv_ps(y.v, x.v, _mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ))};
  }
  // bit i: lane i is above that of `limit`, or NaN
  SHARKSTORE_INLINE static unsigned above(Vec x, Vec limit) {
    return static_cast<unsigned>(_mm256_movemask_ps(_mm256_cmp_ps(x.v, limit.v, _CMP_NLE_UQ)));
  }

  // integers of 32 bits, of which the low byte is a code
  struct Int {
    __m256i v;
  };
  // x as an integer, half to even
  SHARKSTORE_INLINE static Int nearest(Vec x) { return {_mm256_cvtps_epi32(x.v)}; }
  // the nearest integer of x * factor, half to even, and how far off it the product lies
  SHARKSTORE_INLINE static Int round_product(Vec x, Vec factor, Vec& off) {
    const __m256 product = _mm256_mul_ps(x.v, factor.v);
    const __m256 whole =
        _mm256_round_ps(product, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    off = {_mm256_sub_ps(product, whole)};
    return {_mm256_cvtps_epi32(product)};
  }
  SHARKSTORE_INLINE static void store_bytes(std::uint8_t* p, Int a) {
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), low_bytes(a));
  }
  SHARKSTORE_INLINE static void store_bytes_part(std::uint8_t* p, Int a, int lanes) {
    const long long codes = _mm_cvtsi128_si64(low_bytes(a));
    std::memcpy(p, &codes, static_cast<std::size_t>(lanes));
  }
  SHARKSTORE_INLINE static void fence() { _mm_sfence(); }

 private:
  template <int Bits, bool Affine>
  SHARKSTORE_INLINE static Vec levelled(__m256i codes, Vec step, Vec bias) {
    const Vec values = {_mm256_cvtepi32_ps(codes)};
    if constexpr (Affine) return values * step + bias;
    return (values - all(static_cast<float>(1 << (Bits - 1)))) * step;
  }
  SHARKSTORE_INLINE static __m256i first(int lanes) {
    const __m256i index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(lanes), index);
  }
  SHARKSTORE_INLINE __m128i half() const {
    return _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  SHARKSTORE_INLINE static __m256 size(Vec x) {
    return _mm256_and_ps(x.v, _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff)));
  }
  SHARKSTORE_INLINE static __m256 pairs(__m256 a, __m256 b) {
    return _mm256_max_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
  }
  SHARKSTORE_INLINE static __m128i low_bytes(Int a) {
    const __m128i words =
        _mm_packs_epi32(_mm256_castsi256_si128(a.v), _mm256_extracti128_si256(a.v, 1));
    return _mm_packus_epi16(_mm_and_si128(words, _mm_set1_epi16(0xff)), words);
  }
  // 16 bytes: pieces of Size bytes, from piece `first` on
  template <int Size, class At>
  SHARKSTORE_INLINE static __m128i joined(At at, int first) {
    if constexpr (Size == 16) {
      return _mm_loadu_si128(reinterpret_cast<const __m128i*>(at(first)));
    } else if constexpr (Size == 8) {
      const __m128 low = _mm_castsi128_ps(bytes(at(first)));
      return _mm_castps_si128(_mm_loadh_pi(low, reinterpret_cast<const __m64*>(at(first + 1))));
    } else {
      const __m128i low = _mm_unpacklo_epi32(four(at(first)), four(at(first + 1)));
      const __m128i high = _mm_unpacklo_epi32(four(at(first + 2)), four(at(first + 3)));
      return _mm_unpacklo_epi64(low, high);
    }
  }
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
