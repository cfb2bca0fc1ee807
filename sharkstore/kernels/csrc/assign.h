// Rows of float32 to codes of a codebook, bit for bit as kernels/pq.py. Spec: "pq".
//
// A lane is a row.
#pragma once

#include "rows.h"

namespace sharkstore::SHARKSTORE_BACKEND {

// Groups of rows that are told side by side: one alone waits for its comparisons.
constexpr int kSide = 2;

// What the entries of one block are compared with.
template <int Sub>
struct Target {
  Vec at[Sub];

  Target() = default;
  SHARKSTORE_INLINE Target(const Book& book, const Transposed& values, int block) {
    const float* center = book.center + block * Sub;
    SHARKSTORE_UNROLL
    for (int d = 0; d < Sub; ++d) {
      const int j = block * Sub + d;
      at[d] = j < values.dim() ? values[j] - Vec::all(center[d]) : Vec::all(0.0f);
    }
    if (book.metric) pull(book.metric + block * Sub * Sub);
  }

 private:
  SHARKSTORE_INLINE void pull(const float* metric) {
    Vec pulled[Sub];
    SHARKSTORE_UNROLL
    for (int d = 0; d < Sub; ++d) {
      pulled[d] = Vec::all(0.0f);
      SHARKSTORE_UNROLL
      for (int e = 0; e < Sub; ++e) pulled[d] = pulled[d] + Vec::all(metric[d * Sub + e]) * at[e];
    }
    SHARKSTORE_UNROLL
    for (int d = 0; d < Sub; ++d) at[d] = pulled[d];
  }
};

// The entry of least score for each row, the first of equal ones; never one of NaN.
template <int Sub>
SHARKSTORE_INLINE void nearest_entries(const Book& book, int block,
                                       const Target<Sub> (&target)[kSide], Vec (&code)[kSide]) {
  const float* term = book.terms + block * book.entries * (1 + Sub);
  Vec best[kSide], number = Vec::all(0.0f);
  for (int side = 0; side < kSide; ++side) {
    best[side] = Vec::all(__builtin_inff());
    code[side] = number;
  }
  for (int k = 0; k < book.entries; ++k, term += 1 + Sub) {
    SHARKSTORE_UNROLL
    for (int side = 0; side < kSide; ++side) {
      Vec score = Vec::all(term[0]);
      SHARKSTORE_UNROLL
      for (int d = 0; d < Sub; ++d) score = score - target[side].at[d] * Vec::all(term[1 + d]);
      code[side] = Vec::where_less(score, best[side], number, code[side]);
      best[side] = Vec::where_less(score, best[side], score, best[side]);
    }
    number = number + Vec::all(1.0f);
  }
}

template <int Sub>
void encode_nearest(const Code& code, const Source& source, std::uint8_t* out) {
  constexpr int kRows = kSide * Group::kRows;
  const Book& book = *code.book;
  const int blocks = (source.dim + Sub - 1) / Sub;
  Transposed values[kSide] = {Transposed(source.dim), Transposed(source.dim)};
  // by block, then by row
  const std::unique_ptr<std::uint8_t[]> codes(
      new std::uint8_t[static_cast<std::size_t>(blocks * kRows)]);
  for (std::int64_t i = 0; i < source.count; i += kRows) {
    for (int side = 0; side < kSide; ++side)
      values[side].take(Group(source, i + side * Group::kRows));
    for (int b = 0; b < blocks; ++b) {
      const Target<Sub> target[kSide] = {{book, values[0], b}, {book, values[1], b}};
      Vec found[kSide];
      nearest_entries(book, b, target, found);
      for (int side = 0; side < kSide; ++side)
        Vec::store_bytes(codes.get() + b * kRows + side * Group::kRows, Vec::nearest(found[side]));
    }
    const std::int64_t left = source.count - i;
    for (int r = 0; r < (left < kRows ? left : kRows); ++r)
      for (int b = 0; b < blocks; ++b) *out++ = codes[b * kRows + r];
  }
}

inline void encode_pq(const Code& code, const Source& source, std::uint8_t* out) {
  switch (sub_values(code.kind)) {
    case 2: return encode_nearest<2>(code, source, out);
    case 4: return encode_nearest<4>(code, source, out);
    default: return encode_nearest<8>(code, source, out);
  }
}

}  // namespace sharkstore::SHARKSTORE_BACKEND
