// Rows of float32 to codes of a codebook, bit for bit as kernels/pq.py. Spec: "pq".
//
// A lane is a row.
#pragma once

#include "metric.h"

namespace sharkstore::SHARKSTORE_BACKEND {

// Values of one block, of some groups of rows.
template <int Sub>
using Few = Vec[kSides][Sub];

// The values of a block less its center; zeros behind a row's end.
template <int Sub>
SHARKSTORE_INLINE void center_values(const Book& book, const Transposed (&values)[kSides],
                                     int block, Few<Sub>& out) {
  const float* center = book.center + block * Sub;
  for (int side = 0; side < kSides; ++side) {
    const Transposed& from = values[side];
    SHARKSTORE_UNROLL
    for (int d = 0; d < Sub; ++d) {
      const int j = block * Sub + d;
      out[side][d] = j < from.dim() ? from[j] - Vec::all(center[d]) : Vec::all(0.0f);
    }
  }
}

// The entry of least score for each row, the first of equal ones; never one of NaN.
template <int Sub>
SHARKSTORE_INLINE void nearest_entries(const Book& book, int block, const Few<Sub>& target,
                                       Vec (&code)[kSides]) {
  const float* term = book.terms + block * book.entries * (1 + Sub);
  Vec best[kSides], number = Vec::all(0.0f);
  for (int side = 0; side < kSides; ++side) {
    best[side] = Vec::all(__builtin_inff());
    code[side] = number;
  }
  for (int k = 0; k < book.entries; ++k, term += 1 + Sub) {
    SHARKSTORE_UNROLL
    for (int side = 0; side < kSides; ++side) {
      Vec score = Vec::all(term[0]);
      SHARKSTORE_UNROLL
      for (int d = 0; d < Sub; ++d) score = score - target[side][d] * Vec::all(term[1 + d]);
      code[side] = Vec::where_less(score, best[side], number, code[side]);
      best[side] = Vec::where_less(score, best[side], score, best[side]);
    }
    number = number + Vec::all(1.0f);
  }
}

// Codes of some groups of rows: by block, then by row.
class Codes {
 public:
  static constexpr int kRows = kSides * Group::kRows;

  explicit Codes(int blocks)
      : blocks_(blocks), held_(new std::uint8_t[static_cast<std::size_t>(blocks * kRows)]) {}

  SHARKSTORE_INLINE void put(int block, const Vec (&code)[kSides]) {
    for (int side = 0; side < kSides; ++side)
      Vec::store_bytes(held_.get() + block * kRows + side * Group::kRows,
                       Vec::nearest(code[side]));
  }
  SHARKSTORE_INLINE const std::uint8_t* of(int block) const {
    return held_.get() + block * kRows;
  }
  // Writes the codes of rows one behind the other; gives the address behind them.
  SHARKSTORE_INLINE std::uint8_t* write(std::uint8_t* out, std::int64_t rows) const {
    for (int r = 0; r < (rows < kRows ? rows : kRows); ++r)
      for (int b = 0; b < blocks_; ++b) *out++ = held_[b * kRows + r];
    return out;
  }

 private:
  int blocks_;
  std::unique_ptr<std::uint8_t[]> held_;
};

template <int Sub>
void encode_nearest(const Code& code, const Source& source, std::uint8_t* out) {
  const Book& book = *code.book;
  const int blocks = (source.dim + Sub - 1) / Sub;
  Transposed values[kSides] = {Transposed(source.dim), Transposed(source.dim)};
  Codes codes(blocks);
  for (std::int64_t i = 0; i < source.count; i += Codes::kRows) {
    for (int side = 0; side < kSides; ++side)
      values[side].take(Group(source, i + side * Group::kRows));
    for (int b = 0; b < blocks; ++b) {
      Few<Sub> target;
      Vec found[kSides];
      center_values<Sub>(book, values, b, target);
      nearest_entries<Sub>(book, b, target, found);
      codes.put(b, found);
    }
    out = codes.write(out, source.count - i);
  }
}

// Values of one block times its own part of the root, added to what errors before it come to.
template <int Sub>
SHARKSTORE_INLINE void root_values(const Pull<Sub>& pull, const float* own,
                                   const Few<Sub>& values, Few<Sub>& out) {
  SHARKSTORE_UNROLL
  for (int side = 0; side < kSides; ++side) {
    SHARKSTORE_UNROLL
    for (int d = 0; d < Sub; ++d) {
      Vec sum = pull.at[side][d];
      SHARKSTORE_UNROLL
      for (int i = 0; i <= d; ++i) sum = sum + Vec::all(own[i * Sub + d]) * values[side][i];
      out[side][d] = sum;
    }
  }
}

// The values of a block less the entries that codes name; zeros behind a row's end.
template <int Sub>
SHARKSTORE_INLINE void off_entries(const Book& book, const Transposed (&values)[kSides],
                                   const std::uint8_t* codes, int block, Few<Sub>& out) {
  const float* entries = book.values + block * book.entries * Sub;
  float held[kSides][Sub][Vec::kLanes];
  for (int side = 0; side < kSides; ++side)
    for (int r = 0; r < Vec::kLanes; ++r) {
      const float* from = entries + codes[side * Vec::kLanes + r] * Sub;
      SHARKSTORE_UNROLL
      for (int d = 0; d < Sub; ++d) held[side][d][r] = from[d];
    }
  for (int side = 0; side < kSides; ++side) {
    SHARKSTORE_UNROLL
    for (int d = 0; d < Sub; ++d) {
      const int j = block * Sub + d;
      const Vec entry = Vec::load_f32(reinterpret_cast<const std::uint8_t*>(held[side][d]));
      out[side][d] = j < values[side].dim() ? values[side][j] - entry : Vec::all(0.0f);
    }
  }
}

// Writes codes to `out` and squared errors to `sizes`, where they are not null.
template <int Sub>
void encode_rooted(const Code& code, const Source& source, std::uint8_t* out, float* sizes) {
  const Book& book = *code.book;
  const int blocks = (source.dim + Sub - 1) / Sub;
  const Tiles<Sub> root(book.root, blocks * Sub, book.diagonal);
  Transposed values[kSides] = {Transposed(source.dim), Transposed(source.dim)};
  Codes codes(blocks);
  const std::unique_ptr<Vec[]> errors(new Vec[static_cast<std::size_t>(blocks * Sub * kSides)]);
  for (std::int64_t i = 0; i < source.count; i += Codes::kRows) {
    for (int side = 0; side < kSides; ++side)
      values[side].take(Group(source, i + side * Group::kRows));
    Vec total[kSides] = {Vec::all(0.0f), Vec::all(0.0f)};
    for (int at = 0; at < blocks; ++at) {
      const int b = static_cast<int>(book.order[at]);
      const float* own = root[at];
      const Pull<Sub> pull(own, errors.get(), root.first(at), at * Sub);
      Few<Sub> off, target;
      Vec found[kSides];
      center_values<Sub>(book, values, b, off);
      root_values<Sub>(pull, own, off, target);
      nearest_entries<Sub>(book, b, target, found);
      codes.put(b, found);
      off_entries<Sub>(book, values, codes.of(b), b, off);
      for (int side = 0; side < kSides; ++side) {
        SHARKSTORE_UNROLL
        for (int d = 0; d < Sub; ++d) errors[(at * Sub + d) * kSides + side] = off[side][d];
      }
      if (!sizes) continue;
      root_values<Sub>(pull, own, off, target);
      for (int side = 0; side < kSides; ++side) {
        SHARKSTORE_UNROLL
        for (int d = 0; d < Sub; ++d)
          total[side] = total[side] + target[side][d] * target[side][d];
      }
    }
    for (int side = 0; sizes && side < kSides; ++side) {
      const std::int64_t first = i + side * Group::kRows, left = source.count - first;
      put_sizes(sizes + first, total[side], left < Vec::kLanes ? static_cast<int>(left) : Vec::kLanes);
    }
    if (out) out = codes.write(out, source.count - i);
  }
}

template <int Sub>
void encode_entries(const Code& code, const Source& source, std::uint8_t* out, float* sizes) {
  if (code.book->root) encode_rooted<Sub>(code, source, out, sizes);
  else encode_nearest<Sub>(code, source, out);
}

// `sizes`: in a metric, where squared errors go; or null.
inline void encode_pq(const Code& code, const Source& source, std::uint8_t* out,
                      float* sizes = nullptr) {
  switch (sub_values(code.kind)) {
    case 2: return encode_entries<2>(code, source, out, sizes);
    case 4: return encode_entries<4>(code, source, out, sizes);
    default: return encode_entries<8>(code, source, out, sizes);
  }
}

}  // namespace sharkstore::SHARKSTORE_BACKEND
