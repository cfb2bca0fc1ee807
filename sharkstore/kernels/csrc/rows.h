// Rows of float32 as encoders and measures read them: a vector at a time, in groups.
#pragma once

#include <memory>

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

// Value j of each of a group's rows, for all j.
class Transposed {
 public:
  explicit Transposed(int dim)
      : dim_(dim), held_(new float[static_cast<std::size_t>((dim + 1) * Vec::kLanes)]) {
    const auto address = reinterpret_cast<std::uintptr_t>(held_.get());
    values_ = held_.get() + (4 * Vec::kLanes - address % (4 * Vec::kLanes)) / 4 % Vec::kLanes;
  }

  SHARKSTORE_INLINE void take(const Group& group) {
    constexpr int kLanes = Vec::kLanes;
    for (int r = 0; r < kLanes; ++r) group.fetch(r, dim_);
    int j = 0;
    for (; j + kLanes <= dim_; j += kLanes) {
      Vec block[kLanes];
      for (int r = 0; r < kLanes; ++r)
        block[r] = Vec::load_f32(reinterpret_cast<const std::uint8_t*>(group.row[r] + j));
      Vec::transpose(block);
      for (int k = 0; k < kLanes; ++k) block[k].store(values_ + (j + k) * kLanes);
    }
    for (; j < dim_; ++j)
      for (int r = 0; r < kLanes; ++r) values_[j * kLanes + r] = group.row[r][j];
  }

  SHARKSTORE_INLINE int dim() const { return dim_; }
  SHARKSTORE_INLINE Vec operator[](int j) const {
    return Vec::load_f32(reinterpret_cast<const std::uint8_t*>(values_ + j * Vec::kLanes));
  }

 private:
  int dim_;
  std::unique_ptr<float[]> held_;
  float* values_;
};

}  // namespace sharkstore::SHARKSTORE_BACKEND
