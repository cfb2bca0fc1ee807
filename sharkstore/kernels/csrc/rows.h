// Rows of float32 as encoders and measures read them: a vector at a time, in groups.
#pragma once

#include "encoding.h"
#include "vector.h"

namespace sharkstore::SHARKSTORE_BACKEND {

// The vectors of a row of Dim values; of a length known at run time only with Dim 0.
template <int Dim>
struct Values {
  static constexpr int kLanes = Vec::kLanes;
  int dim;

  SHARKSTORE_INLINE int count() const { return Dim ? Dim : dim; }
  SHARKSTORE_INLINE int whole() const { return count() / kLanes; }
  SHARKSTORE_INLINE int rest() const { return count() % kLanes; }

  // Calls use(j, values, lanes) for every vector j of a row; the last one is filled up.
  template <class Use>
  SHARKSTORE_INLINE void each(const float* row, Vec fill, Use use) const {
    const auto at = reinterpret_cast<const std::uint8_t*>(row);
    if constexpr (Dim > 0) {
      SHARKSTORE_UNROLL
      for (int j = 0; j < Dim / kLanes; ++j) use(j, Vec::load_f32(at + 4 * j * kLanes), kLanes);
    } else {
      for (int j = 0; j < whole(); ++j) use(j, Vec::load_f32(at + 4 * j * kLanes), kLanes);
    }
    if (rest()) use(whole(), Vec::load_part(row + whole() * kLanes, rest(), fill), rest());
  }
};

// As many rows as a vector has lanes, so that what is one number a row is one vector a group.
struct Group {
  static constexpr int kRows = Vec::kLanes;
  // rows that are taken out of order are fetched this many groups ahead
  static constexpr int kAhead = 2;

  const float* row[kRows];
  int count;  // rows that there are; behind them, the last one stands again

  SHARKSTORE_INLINE Group(const Source& source, std::int64_t first) {
    const std::int64_t left = source.count - first;
    count = static_cast<int>(left < kRows ? left : kRows);
    for (int r = 0; r < kRows; ++r) row[r] = at(source, first + (r < count ? r : count - 1));
    if (source.index) fetch(source, first + kAhead * kRows);
  }

  SHARKSTORE_INLINE static const float* at(const Source& source, std::int64_t i) {
    return source.values + (source.index ? source.index[i] : i) * source.dim;
  }
  SHARKSTORE_INLINE static void fetch(const Source& source, std::int64_t first) {
    const std::int64_t last = first + kRows < source.count ? first + kRows : source.count;
    for (std::int64_t i = first; i < last; ++i) {
      const float* from = at(source, i);
      for (int j = 0; j < source.dim; j += 16) prefetch(from + j);
      prefetch(from + source.dim - 1);
    }
  }
};

}  // namespace sharkstore::SHARKSTORE_BACKEND
