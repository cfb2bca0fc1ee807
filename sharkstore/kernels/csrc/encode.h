// Rows of float32 to stored rows, bit for bit as kernels/reference.py. Spec: "Encodings".
#pragma once

#include "rows.h"
#include "tierrows.h"

namespace sharkstore::SHARKSTORE_BACKEND {

// A code is rint(x / s). A division takes as long as the rest together, so x * (1 / s) stands in
// where it can't matter: with |x / s| < 256, both the rounded quotient and the product of two
// rounded factors lie within 3 * 256 * 2^-24 < 2^-14 of each other, so they have the same nearest
// integer unless the product comes that close to the middle between two. Rows with such a value
// (one of 250 at dim 64) are divided.
constexpr float kSafelyOff = 0.5f - 0x1p-14f;

// The scales, or biases, of a group as they are stored.
struct Head {
  static constexpr int kRows = Group::kRows;
  bool half;
  std::uint16_t halves[kRows];
  float floats[kRows];

  SHARKSTORE_INLINE explicit Head(bool is_half) : half(is_half) {}

  // Takes values in; gives them back as rounded.
  SHARKSTORE_INLINE Vec take(Vec values) {
    if (!half) {
      values.store(floats);
      return values;
    }
    const auto at = reinterpret_cast<std::uint8_t*>(halves);
    values.store_f16(at);
    return Vec::load_f16(at);
  }
  // Writes that of row r; gives the address behind it.
  SHARKSTORE_INLINE std::uint8_t* put(std::uint8_t* p, int r) const {
    if (!half) {
      std::memcpy(p, &floats[r], 4);
      return p + 4;
    }
    std::memcpy(p, &halves[r], 2);
    return p + 2;
  }
};

// What the rows of a group are divided by.
struct Steps {
  static constexpr int kRows = Group::kRows;
  float step[kRows], inverse[kRows], reach[kRows];

  // reach: the largest magnitude of each row, what is subtracted left out.
  SHARKSTORE_INLINE Steps(Vec steps, Vec reaches) {
    const Vec inverses = Vec::all(1.0f) / steps;
    steps.store(step);
    inverses.store(inverse);
    (reaches * inverses).store(reach);
  }
  // What row r is divided by; by infinity where the scale is 0, so that its codes are 0.
  SHARKSTORE_INLINE Vec divisor(int r) const {
    return Vec::all(step[r] == 0.0f ? __builtin_inff() : step[r]);
  }
};

SHARKSTORE_INLINE void put_codes(std::uint8_t* codes, int j, Vec quotient, int lanes) {
  std::uint8_t* p = codes + j * Vec::kLanes;
  if (lanes == Vec::kLanes) Vec::store_bytes(p, Vec::nearest(quotient));
  else Vec::store_bytes_part(p, Vec::nearest(quotient), lanes);
}

// Writes the codes of one row: the nearest integers of (value - low) / step, within bounds.
template <bool Affine, int Dim>
SHARKSTORE_INLINE void encode_row(const float* row, Values<Dim> values, const Steps& steps, int r,
                                  Vec low, std::uint8_t* codes) {
  const Vec least = Vec::all(Affine ? 0.0f : -127.0f), most = Vec::all(Affine ? 255.0f : 127.0f);
  // with this reach no quotient rounds to a code past the last one
  if (SHARKSTORE_LIKELY(steps.reach[r] <= (Affine ? 255.25f : 127.25f))) {
    const Vec inverse = Vec::all(steps.inverse[r]);
    Vec off = Vec::all(0.0f);
    values.each(row, low, [&](int j, Vec x, int lanes) SHARKSTORE_LAMBDA {
      const Vec q = Affine ? Vec::clip((x - low) * inverse, least, most) : x * inverse;
      off = Vec::abs_max(off, Vec::off_nearest(q));
      put_codes(codes, j, q, lanes);
    });
    if (SHARKSTORE_LIKELY(Vec::none_above(off, Vec::all(kSafelyOff)))) return;
  }
  const Vec divisor = steps.divisor(r);
  values.each(row, low, [&](int j, Vec x, int lanes) SHARKSTORE_LAMBDA {
    const Vec q = (Affine ? x - low : x) / divisor;
    put_codes(codes, j, Vec::clip(q, least, most), lanes);
  });
}

template <int Dim>
void encode_symmetric(const Code& code, const Source& source, std::uint8_t* out) {
  const Values<Dim> values{source.dim};
  const std::int64_t stride = stored_bytes(code.kind, values.count());
  const Vec zero = Vec::all(0.0f);
  for (std::int64_t i = 0; i < source.count; i += Group::kRows) {
    const Group group(source, i);
    Vec sizes[Group::kRows];
    for (int r = 0; r < Group::kRows; ++r) {
      Vec size = zero;
      values.each(group.row[r], zero,
                  [&](int, Vec x, int) SHARKSTORE_LAMBDA { size = Vec::abs_max(size, x); });
      sizes[r] = size;
    }
    const Vec largest = Vec::across_max(sizes);
    Head scales(code.kind == Kind::kInt8);
    const Vec stored = scales.take(largest / Vec::all(127.0f) * Vec::all(code.up));
    const Steps steps(stored * Vec::all(code.down), largest);
    for (int r = 0; r < group.count; ++r)
      encode_row<false>(group.row[r], values, steps, r, zero,
                        scales.put(out + (i + r) * stride, r));
  }
}

template <int Dim>
void encode_affine(const Code& code, const Source& source, std::uint8_t* out) {
  const Values<Dim> values{source.dim};
  const std::int64_t stride = stored_bytes(code.kind, values.count());
  const Vec zero = Vec::all(0.0f);
  for (std::int64_t i = 0; i < source.count; i += Group::kRows) {
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
    const bool half = code.kind == Kind::kAffine;
    Head biases(half), scales(half);
    // adding zero turns -0 into +0
    const Vec low = biases.take(zero - Vec::across_max(bottoms) + zero);
    const Vec reach = Vec::across_max(tops) - low;
    // a bias rounded up can leave a range below zero: such a row is its bias
    const Vec scale = scales.take(Vec::max(reach / Vec::all(255.0f), zero));
    const Steps steps(scale, reach);
    float lows[Group::kRows];
    low.store(lows);
    for (int r = 0; r < group.count; ++r) {
      std::uint8_t* codes = biases.put(scales.put(out + (i + r) * stride, r), r);
      encode_row<true>(group.row[r], values, steps, r, Vec::all(lows[r]), codes);
    }
  }
}

inline void encode_f16(const Source& source, std::uint8_t* out) {
  const Values<0> values{source.dim};
  for (std::int64_t i = 0; i < source.count; i += Group::kRows) {
    const Group group(source, i);
    for (int r = 0; r < group.count; ++r) {
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
    for (int r = 0; r < group.count; ++r)
      std::memcpy(out + static_cast<std::size_t>(i + r) * size, group.row[r], size);
  }
}

using EncodeRows = void (*)(const Code&, const Source&, std::uint8_t*);

// The encoders for one number of values a row; 0 for any.
struct Encoders {
  int dim;
  EncodeRows symmetric, affine;
};

template <int... Dims>
const Encoders& pick_encoders(int dim) {
  static constexpr Encoders known[] = {{0, encode_symmetric<0>, encode_affine<0>},
                                       {Dims, encode_symmetric<Dims>, encode_affine<Dims>}...};
  for (const Encoders& one : known)
    if (one.dim == dim) return one;
  return known[0];
}

// Writes the stored rows of `source`, one behind the other, to `out`.
inline void encode_rows(const Code& code, const Source& source, std::uint8_t* out) {
#ifdef SHARKSTORE_PLAIN
  const Encoders& encoders = pick_encoders<>(source.dim);
#else
  const Encoders& encoders = pick_encoders<8, 16, 32, 64, 128>(source.dim);
#endif
  switch (code.kind) {
    case Kind::kFloat32: return encode_f32(source, out);
    case Kind::kFloat16: return encode_f16(source, out);
    case Kind::kInt8:
    case Kind::kInt8Float32: return encoders.symmetric(code, source, out);
    case Kind::kAffine:
    case Kind::kAffineFloat32: return encoders.affine(code, source, out);
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
