// Rows of float32 to codes of 4 and 2 bits: scales (and biases) of least squared error, by the
// search of kernels/lowbits.py, bit for bit. Spec: "int4 and int2".
//
// A lane is a row, so that every sum goes from a row's first value to its last.
#pragma once

#include "head.h"

namespace sharkstore::SHARKSTORE_BACKEND {

constexpr int kRefits = 2;
constexpr int kTried = 4;  // fits that are tried in one pass over the values
constexpr int kParts = 8;  // scales that are tried

// What the search tries, as in kernels/lowbits.py.
template <int Bits>
struct Grid;
template <>
struct Grid<4> {
  static constexpr float part(int i) { return static_cast<float>(66 - 5 * i) / 512; }
  static constexpr float cut(int i) { return static_cast<float>(i) / 16; }
};
template <>
struct Grid<2> {
  // each with both signs
  static constexpr float part(int i) {
    return (i % 2 ? -1.0f : 1.0f) * static_cast<float>(84 - 18 * (i / 2)) / 128;
  }
  static constexpr float cut(int i) { return static_cast<float>(i) / 8; }
};

template <Kind K>
class Search {
 public:
  static constexpr int kBits = code_bits(K);
  static constexpr bool kAffine = is_affine(K);

  Search(const Code& code, const Transposed& values)
      : up_(Vec::all(code.up)), down_(Vec::all(code.down)), values_(values) {}

  // Scales, and biases, of a group; rounded as they are stored.
  struct Fit {
    Vec scale, low;
  };

  SHARKSTORE_INLINE Fit best() {
    kAffine ? try_ends() : try_scales();
    Sums sums;
    add(best_, sums);
    Fit last = best_;
    for (int i = 0; i < kRefits; ++i) {
      last = refit(last, sums);
      take_better(last, add(last, sums));
    }
    return best_;
  }

  // Calls use(j, stored) with the codes of each value under the best fit, as they are stored.
  template <class Use>
  SHARKSTORE_INLINE void codes(Use use) const {
    const Vec zero = Vec::all(0.0f);
    Scaled by(*this, best_);
    // codes are 0 where the scale is
    by.inverse = Vec::where_less(Vec::abs_max(zero, by.step), Vec::all(0x1p-149f), zero, by.inverse);
    for (int j = 0; j < values_.dim(); ++j)
      use(j, Scaled::code(by.quotient(values_[j])) - Vec::all(kLowest));
  }

 private:
  static constexpr float kLowest = kAffine ? 0 : -(1 << (kBits - 1));
  static constexpr float kHighest = kLowest + (1 << kBits) - 1;
  static constexpr float kLargest = 0x1.fffffep127f;

  // What values are divided by.
  struct Scaled {
    Vec step, inverse, low;

    SHARKSTORE_INLINE Scaled(const Search& search, const Fit& fit) {
      step = kAffine ? fit.scale : fit.scale * search.down_;
      low = fit.low;
      inverse =
          Vec::clip(Vec::all(1.0f) / step, Vec::all(-kLargest), Vec::all(kLargest));
    }
    SHARKSTORE_INLINE Vec quotient(Vec x) const { return (kAffine ? x - low : x) * inverse; }
    SHARKSTORE_INLINE static Vec code(Vec quotient) {
      return Vec::nearest_whole(Vec::clip(quotient, Vec::all(kLowest), Vec::all(kHighest)));
    }
    // From the sum of squares in steps: squares of steps themselves could overflow, or vanish.
    SHARKSTORE_INLINE Vec error(Vec squares, Vec size) const {
      const Vec part = step / size;
      return squares * (part * part);
    }
  };

  // Of the codes of a fit, and of values times codes.
  struct Sums {
    Vec codes, squares, offsets, products;
  };

  // Numbers as they come back from where they are stored.
  SHARKSTORE_INLINE static Vec stored(Vec values) { return Head<K>().take(values); }

  // Tries fits side by side.
  SHARKSTORE_INLINE void attempt(const Fit (&fits)[kTried]) {
    const Scaled by[kTried] = {{*this, fits[0]}, {*this, fits[1]}, {*this, fits[2]},
                               {*this, fits[3]}};
    Vec squares[kTried];
    for (Vec& one : squares) one = Vec::all(0.0f);
    for (int j = 0; j < values_.dim(); ++j) {
      const Vec x = values_[j];
      SHARKSTORE_UNROLL
      for (int i = 0; i < kTried; ++i) {
        const Vec quotient = by[i].quotient(x), off = quotient - Scaled::code(quotient);
        squares[i] = squares[i] + off * off;
      }
    }
    for (int i = 0; i < kTried; ++i) take_better(fits[i], by[i].error(squares[i], size_));
  }

  // Adds up what the codes of a fit come to; gives its error.
  SHARKSTORE_INLINE Vec add(const Fit& fit, Sums& sums) const {
    const Vec zero = Vec::all(0.0f);
    const Scaled by(*this, fit);
    Vec squares = zero;
    sums = {zero, zero, zero, zero};
    for (int j = 0; j < values_.dim(); ++j) {
      const Vec x = values_[j], quotient = by.quotient(x), code = Scaled::code(quotient);
      const Vec off = quotient - code, offset = kAffine ? x - by.low : x;
      squares = squares + off * off;
      if (kAffine) sums.codes = sums.codes + code;
      if (kAffine) sums.offsets = sums.offsets + offset;
      sums.squares = sums.squares + code * code;
      sums.products = sums.products + code * offset;
    }
    return by.error(squares, size_);
  }

  SHARKSTORE_INLINE void take_better(const Fit& fit, Vec error) {
    best_.scale = Vec::where_less(error, error_, fit.scale, best_.scale);
    best_.low = Vec::where_less(error, error_, fit.low, best_.low);
    error_ = Vec::where_less(error, error_, error, error_);
  }

  SHARKSTORE_INLINE void start(const Fit& fit) {
    best_ = fit;
    error_ = Vec::all(__builtin_inff());
  }

  // The greatest value of each row, and the greatest when negated.
  SHARKSTORE_INLINE void extremes(Vec& top, Vec& bottom) const {
    const Vec zero = Vec::all(0.0f);
    top = values_[0];
    bottom = zero - values_[0];
    for (int j = 1; j < values_.dim(); ++j) {
      top = Vec::max(top, values_[j]);
      bottom = Vec::max(bottom, zero - values_[j]);
    }
  }

  SHARKSTORE_INLINE void try_scales() {
    const Vec zero = Vec::all(0.0f);
    Vec top, bottom;
    extremes(top, bottom);
    size_ = Vec::max(top, bottom) + zero;  // never -0
    // the value farthest from zero takes the lowest code
    const Vec farthest = Vec::where_less(bottom, top, zero - size_, size_);
    const auto fit = [&](int i) SHARKSTORE_LAMBDA {
      return Fit{stored(farthest * Vec::all(Grid<kBits>::part(i)) * up_), zero};
    };
    start(fit(0));
    for (int i = 0; i < kParts; i += kTried)
      attempt({fit(i), fit(i + 1), fit(i + 2), fit(i + 3)});
  }

  SHARKSTORE_INLINE void try_ends() {
    const Vec limit = Vec::all(kLargest), steps = Vec::all(kHighest);
    Vec top, bottom;
    extremes(top, bottom);
    const Vec range = top + bottom;
    size_ = Vec::where_less(limit, range, limit, range);
    for (int below = 0; below < kTried; ++below) {
      const Vec low = stored(size_ * Vec::all(Grid<kBits>::cut(below)) - bottom);
      const auto fit = [&](int above) SHARKSTORE_LAMBDA {
        const Vec high = top - size_ * Vec::all(Grid<kBits>::cut(above));
        return Fit{positive(stored((high - low) / steps)), low};
      };
      if (below == 0) start(fit(0));
      attempt({fit(0), fit(1), fit(2), fit(3)});
    }
  }

  // The scale, or line, of least squared error through the codes of a fit.
  SHARKSTORE_INLINE Fit refit(const Fit& last, const Sums& sums) const {
    if (!kAffine) return {stored(sums.products / sums.squares * up_), last.low};
    const Vec count = Vec::all(static_cast<float>(values_.dim())), mean = sums.codes / count;
    const Vec slope = (sums.products - mean * sums.offsets) / (sums.squares - mean * sums.codes);
    const Vec scale = positive(stored(slope));
    return {scale, stored(last.low + (sums.offsets - scale * sums.codes) / count)};
  }

  // The scale, or 0 where it is not positive.
  SHARKSTORE_INLINE static Vec positive(Vec scale) {
    const Vec zero = Vec::all(0.0f);
    return Vec::where_less(zero, scale, scale, zero);
  }

  const Vec up_, down_;
  const Transposed& values_;
  Vec size_;  // the largest absolute value if symmetric, else the range
  Fit best_;
  Vec error_;
};

// Writes the codes of a group, as found.codes() tells them: words of 16 bits are made side by side, then sorted to their rows.
template <Kind K, class Found>
SHARKSTORE_INLINE void put_codes(const Found& found, int dim, int rows, Vec::Int* words,
                                    std::uint8_t* out, std::int64_t stride) {
  constexpr int kPerWord = 16 / code_bits(K);
  Vec word = Vec::all(0.0f);
  found.codes([&](int j, Vec code) SHARKSTORE_LAMBDA {
    const int place = j % kPerWord;
    word = word + code * Vec::all(static_cast<float>(1 << (place * code_bits(K))));
    if (place + 1 < kPerWord && j + 1 < dim) return;
    words[j / kPerWord] = Vec::nearest(word);
    word = Vec::all(0.0f);
  });
  const std::int64_t bytes = stride - head_bytes(K);
  for (int r = 0; r < rows; ++r, out += stride) {
    const auto* from = reinterpret_cast<const std::uint8_t*>(words) + 4 * r;
    for (std::int64_t at = 0; at + 1 < bytes; at += 2, from += sizeof(Vec::Int))
      std::memcpy(out + at, from, 2);
    if (bytes % 2) out[bytes - 1] = *from;
  }
}

template <Kind K>
void encode_searched(const Code& code, const Source& source, std::uint8_t* out) {
  const std::int64_t stride = stored_bytes(K, source.dim);
  Transposed values(source.dim);
  const std::unique_ptr<Vec::Int[]> words(new Vec::Int[static_cast<std::size_t>(stride)]);
  for (std::int64_t i = 0; i < source.count; i += Group::kRows, out += Group::kRows * stride) {
    const Group group(source, i);
    values.take(group);
    Search<K> search(code, values);
    const auto best = search.best();
    Head<K> scales, biases;
    scales.take(best.scale);
    biases.take(best.low);
    for (int r = 0; r < group.count; ++r) {
      std::uint8_t* row = scales.put(out + r * stride, r);
      if (is_affine(K)) biases.put(row, r);
    }
    put_codes<K>(search, source.dim, group.count, words.get(), out + head_bytes(K), stride);
  }
}

}  // namespace sharkstore::SHARKSTORE_BACKEND
