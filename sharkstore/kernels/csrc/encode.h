// Rows of float32 to stored rows, bit for bit as kernels/reference.py. Spec: "Encodings".
#pragma once

#include "assign.h"
#include "head.h"
#include "rounding.h"
#include "search.h"
#include "tierrows.h"

namespace sharkstore::SHARKSTORE_BACKEND {

// A code is rint(x / s). A division takes as long as the rest together, so x * (1 / s) stands in
// where it can't matter: with |x / s| < 256, both the rounded quotient and the product of two
// rounded factors lie within 3 * 256 * 2^-24 < 2^-14 of each other, so they have the same nearest
// integer unless the product comes that close to the middle between two. Rows with such a value
// (one of 128 at dim 64) are divided.
constexpr float kSafelyOff = 0.5f - 0x1p-14f;

// What the values of each row of a group are subtracted and divided by.
struct Steps {
  static constexpr int kRows = Group::kRows;
  float low[kRows], step[kRows], inverse[kRows];
  unsigned divided;  // bit r: row r must be divided

  // reach: the largest quotient times the step; it must be within `limit`, below 256.
  SHARKSTORE_INLINE Steps(Vec lows, Vec steps, Vec reach, float limit) {
    const Vec inverses = Vec::all(1.0f) / steps;
    lows.store(low);
    steps.store(step);
    inverses.store(inverse);
    divided = Vec::above(reach * inverses, Vec::all(limit));
  }
};

SHARKSTORE_INLINE void put_codes(std::uint8_t* codes, int j, Vec::Int of, int lanes) {
  std::uint8_t* p = codes + j * Vec::kLanes;
  if (lanes == Vec::kLanes) Vec::store_bytes(p, of);
  else Vec::store_bytes_part(p, of, lanes);
}

// Writes the codes of row r, by multiplication; gives whether they may be wrong.
template <bool Affine, int Dim>
SHARKSTORE_INLINE bool multiply_row(const float* row, Values<Dim> values, const Steps& steps,
                                    int r, std::uint8_t* codes) {
  const Vec low = Vec::all(Affine ? steps.low[r] : 0.0f), inverse = Vec::all(steps.inverse[r]);
  Vec off = Vec::all(0.0f);
  values.each(row, low, [&](int j, Vec x, int lanes) SHARKSTORE_LAMBDA {
    Vec part;
    put_codes(codes, j, Vec::round_product(Affine ? x - low : x, inverse, part), lanes);
    off = Vec::abs_max(off, part);
  });
  return Vec::above(off, Vec::all(kSafelyOff)) != 0;
}

// Writes the codes of row r as they are defined.
template <bool Affine, int Dim>
void divide_row(const float* row, Values<Dim> values, const Steps& steps, int r,
                std::uint8_t* codes) {
  const Vec least = Vec::all(Affine ? 0.0f : -127.0f), most = Vec::all(Affine ? 255.0f : 127.0f);
  const Vec low = Vec::all(Affine ? steps.low[r] : 0.0f);
  // codes are 0 where the scale is
  const Vec divisor = Vec::all(steps.step[r] == 0.0f ? __builtin_inff() : steps.step[r]);
  values.each(row, low, [&](int j, Vec x, int lanes) SHARKSTORE_LAMBDA {
    const Vec quotient = (Affine ? x - low : x) / divisor;
    put_codes(codes, j, Vec::nearest(Vec::clip(quotient, least, most)), lanes);
  });
}

// Writes the codes of a group: by multiplication, then again those that must be divided.
template <bool Affine, int Dim>
SHARKSTORE_INLINE void encode_codes(const Group& group, Values<Dim> values, const Steps& steps,
                                    std::uint8_t* codes, std::int64_t stride) {
  unsigned divided = steps.divided;
  for (int r = 0; r < group.count; ++r) {
    group.fetch(r, values.count());
    const bool unsure =
        multiply_row<Affine>(group.row[r], values, steps, r, codes + r * stride);
    divided |= static_cast<unsigned>(unsure) << r;
  }
  divided &= (2u << (group.count - 1)) - 1;
  for (; SHARKSTORE_UNLIKELY(divided != 0); divided &= divided - 1) {
    const int r = __builtin_ctz(divided);
    divide_row<Affine>(group.row[r], values, steps, r, codes + r * stride);
  }
}

template <Kind K, int Dim>
void encode_symmetric(const Code& code, const Source& source, std::uint8_t* out) {
  const Values<Dim> values{source.dim};
  const std::int64_t stride = stored_bytes(K, values.count());
  const Vec zero = Vec::all(0.0f);
  for (std::int64_t i = 0; i < source.count; i += Group::kRows, out += Group::kRows * stride) {
    const Group group(source, i);
    Vec sizes[Group::kRows];
    for (int r = 0; r < Group::kRows; ++r) {
      Vec size = zero;
      values.each(group.row[r], zero,
                  [&](int, Vec x, int) SHARKSTORE_LAMBDA { size = Vec::abs_max(size, x); });
      sizes[r] = size;
    }
    const Vec largest = Vec::across_max(sizes);
    Head<K> scales;
    const Vec stored = scales.take(largest / Vec::all(127.0f) * Vec::all(code.up));
    // with this limit no quotient rounds to a code past the last one
    const Steps steps(zero, stored * Vec::all(code.down), largest, 127.25f);
    for (int r = 0; r < group.count; ++r) scales.put(out + r * stride, r);
    encode_codes<false>(group, values, steps, out + Head<K>::kBytes, stride);
  }
}

template <Kind K, int Dim>
void encode_affine(const Code&, const Source& source, std::uint8_t* out) {
  const Values<Dim> values{source.dim};
  const std::int64_t stride = stored_bytes(K, values.count());
  const Vec zero = Vec::all(0.0f);
  for (std::int64_t i = 0; i < source.count; i += Group::kRows, out += Group::kRows * stride) {
    const Group group(source, i);
    Vec tops[Group::kRows], bottoms[Group::kRows];  // the greatest x, and the greatest -x
    for (int r = 0; r < Group::kRows; ++r) {
      const Vec first = Vec::all(group.row[r][0]);
      Vec top = first, bottom = zero - first;
      values.each(group.row[r], first, [&](int, Vec x, int) SHARKSTORE_LAMBDA {
        top = Vec::max(top, x);
        bottom = Vec::max(bottom, zero - x);
      });
      tops[r] = top;
      bottoms[r] = bottom;
    }
    const Vec bottom = Vec::across_max(bottoms);
    Head<K> biases, scales;
    // adding zero turns -0 into +0
    const Vec low = biases.take(zero - bottom + zero);
    const Vec reach = Vec::across_max(tops) - low;
    // a bias rounded up can leave a range below zero: such a row is its bias
    const Vec step = scales.take(Vec::max(reach / Vec::all(255.0f), zero));
    // the least value may lie below the bias: by a quarter of a step at most, its code is 0
    const Vec below = (low + bottom) * Vec::all(1021.0f);
    const Steps steps(low, step, Vec::max(below, reach), 255.25f);
    for (int r = 0; r < group.count; ++r) biases.put(scales.put(out + r * stride, r), r);
    encode_codes<true>(group, values, steps, out + 2 * Head<K>::kBytes, stride);
  }
}

inline void encode_f16(const Source& source, std::uint8_t* out) {
  const Values<0> values{source.dim};
  for (std::int64_t i = 0; i < source.count; i += Group::kRows) {
    const Group group(source, i);
    for (int r = 0; r < group.count; ++r) {
      if (source.index) group.fetch(r, source.dim);
      std::uint8_t* row = out + (i + r) * 2 * source.dim;
      values.each(group.row[r], Vec::all(0.0f), [&](int j, Vec x, int lanes) SHARKSTORE_LAMBDA {
        std::uint8_t* p = row + 2 * j * Vec::kLanes;
        if (lanes == Vec::kLanes) x.store_f16(p);
        else x.store_f16_part(p, lanes);
      });
    }
  }
}

inline void encode_f32(const Source& source, std::uint8_t* out) {
  const std::size_t size = 4 * static_cast<std::size_t>(source.dim);
  if (!source.index) {
    std::memcpy(out, source.values, size * static_cast<std::size_t>(source.count));
    return;
  }
  for (std::int64_t i = 0; i < source.count; i += Group::kRows) {
    const Group group(source, i);
    for (int r = 0; r < group.count; ++r) {
      group.fetch(r, source.dim);
      std::memcpy(out + static_cast<std::size_t>(i + r) * size, group.row[r], size);
    }
  }
}

using EncodeRows = void (*)(const Code&, const Source&, std::uint8_t*);

// The encoders for one number of values a row; 0 for any.
struct Encoders {
  int dim;
  EncodeRows int8, int8_float32, affine, affine_float32;
};

template <int Dim>
constexpr Encoders encoders() {
  return {Dim, encode_symmetric<Kind::kInt8, Dim>, encode_symmetric<Kind::kInt8Float32, Dim>,
          encode_affine<Kind::kAffine, Dim>, encode_affine<Kind::kAffineFloat32, Dim>};
}

template <int... Dims>
const Encoders& pick_encoders(int dim) {
  static constexpr Encoders known[] = {encoders<0>(), encoders<Dims>()...};
  for (const Encoders& one : known)
    if (one.dim == dim) return one;
  return known[0];
}

// Writes the stored rows of `source`, one behind the other, to `out`.
inline void encode_rows(const Code& code, const Source& source, std::uint8_t* out) {
  if (code.factor && has_scale(code.kind)) return encode_rounded(code, source, out, nullptr);
#ifdef SHARKSTORE_PLAIN
  const Encoders& chosen = pick_encoders<>(source.dim);
#else
  const Encoders& chosen = pick_encoders<8, 16, 32, 64, 128>(source.dim);
#endif
  switch (code.kind) {
    case Kind::kFloat32: return encode_f32(source, out);
    case Kind::kFloat16: return encode_f16(source, out);
    case Kind::kInt8: return chosen.int8(code, source, out);
    case Kind::kInt8Float32: return chosen.int8_float32(code, source, out);
    case Kind::kAffine: return chosen.affine(code, source, out);
    case Kind::kAffineFloat32: return chosen.affine_float32(code, source, out);
    case Kind::kInt4: return encode_searched<Kind::kInt4>(code, source, out);
    case Kind::kInt4Float32: return encode_searched<Kind::kInt4Float32>(code, source, out);
    case Kind::kInt4Affine: return encode_searched<Kind::kInt4Affine>(code, source, out);
    case Kind::kInt4AffineFloat32:
      return encode_searched<Kind::kInt4AffineFloat32>(code, source, out);
    case Kind::kInt2: return encode_searched<Kind::kInt2>(code, source, out);
    case Kind::kInt2Float32: return encode_searched<Kind::kInt2Float32>(code, source, out);
    case Kind::kInt2Affine: return encode_searched<Kind::kInt2Affine>(code, source, out);
    case Kind::kInt2AffineFloat32:
      return encode_searched<Kind::kInt2AffineFloat32>(code, source, out);
    default: return encode_pq(code, source, out);
  }
}

// Writes the stored rows of one tier of a block to `out`: at most `wanted`, after the first
// `skip`. Gives how many.
inline std::int64_t encode_tier(const Code& code, const Block& block, int tier, std::int64_t skip,
                                std::int64_t wanted, std::uint8_t* out) {
  const std::int64_t stride = stored_bytes(code.kind, block.dim);
  if (!block.rowmap) {
    const std::int64_t left = block.count > skip ? block.count - skip : 0;
    const std::int64_t count = left < wanted ? left : wanted;
    encode_rows(code, {block.values + skip * block.dim, nullptr, count, block.dim}, out);
    return count;
  }
  return each_of_tier(block, tier, skip, wanted,
                      [&](const std::uint32_t* rows, std::int64_t count) {
                        encode_rows(code, {block.values, rows, count, block.dim}, out);
                        out += count * stride;
                      });
}

}  // namespace sharkstore::SHARKSTORE_BACKEND
