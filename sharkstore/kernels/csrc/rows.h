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
  // groups from one that is worked on to one that is fetched: where rows are picked out or read
  // twice, the processor does not foresee what comes
  static constexpr int kAhead = 4;

  const float* row[kRows];
  int count;  // rows that there are; behind them, the last one stands again

  SHARKSTORE_INLINE Group(const Source& source, std::int64_t first)
      : source_(source), ahead_(first + kAhead * kRows) {
    const std::int64_t left = source.count - first;
    count = static_cast<int>(left < kRows ? left : kRows);
    for (int r = 0; r < kRows; ++r) row[r] = at(source, first + (r < count ? r : count - 1));
  }

  // Fetches the row that will be in place of row r.
  SHARKSTORE_INLINE void fetch(int r, int values) const {
    if (ahead_ + r >= source_.count) return;
    const float* from = at(source_, ahead_ + r);
    for (int j = 0; j < values; j += 16) prefetch(from + j);
  }

 private:
  SHARKSTORE_INLINE static const float* at(const Source& source, std::int64_t i) {
    return source.values + (source.index ? source.index[i] : i) * source.dim;
  }

  const Source& source_;
  std::int64_t ahead_;
};

}  // namespace sharkstore::SHARKSTORE_BACKEND
