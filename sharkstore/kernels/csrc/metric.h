// Errors in a metric, dim after dim, as in kernels/factor.py. A lane is a row.
#pragma once

#include "rows.h"

namespace sharkstore::SHARKSTORE_BACKEND {

// Groups of rows that are worked on side by side: one alone waits for its results.
constexpr int kSides = 2;

// Columns of an upper triangle, `Wide` at a time and filled up with zeros: of tile t the rows up
// to its own last one, `Wide` numbers each.
template <int Wide>
class Tiles {
 public:
  // With `diagonal`, the matrix is its diagonal, and tiles are their own rows alone.
  Tiles(const float* matrix, int dim, bool diagonal)
      : count_((dim + Wide - 1) / Wide), diagonal_(diagonal) {
    held_.reset(new float[static_cast<std::size_t>(at(count_))]());
    for (int column = 0; column < dim; ++column) {
      const int t = column / Wide, first = diagonal ? t * Wide : 0;
      float* to = held_.get() + at(t) + column % Wide;
      if (diagonal) to[(column - first) * Wide] = matrix[column];
      else
        for (int row = 0; row <= column; ++row)
          to[row * Wide] = matrix[static_cast<std::int64_t>(row) * dim + column];
    }
  }

  int count() const { return count_; }
  // The first row that a tile has.
  SHARKSTORE_INLINE int first(int t) const { return diagonal_ ? t * Wide : 0; }
  SHARKSTORE_INLINE const float* operator[](int t) const { return held_.get() + at(t); }

 private:
  SHARKSTORE_INLINE std::int64_t at(int t) const {
    const std::int64_t tiles = diagonal_ ? t : std::int64_t{t} * (t + 1) / 2;
    return tiles * Wide * Wide;
  }

  int count_;
  bool diagonal_;
  std::unique_ptr<float[]> held_;
};

// What errors add to the values of one tile.
template <int Wide>
struct Pull {
  Vec at[kSides][Wide];

  // The errors before the tile: errors[i * kSides + side]. `tile` moves on to its own rows.
  SHARKSTORE_INLINE Pull(const float*& tile, const Vec* errors, int first, int last) {
    SHARKSTORE_UNROLL
    for (int w = 0; w < Wide; ++w)
      for (int side = 0; side < kSides; ++side) at[side][w] = Vec::all(0.0f);
    for (int i = first; i < last; ++i, tile += Wide) {
      const Vec error[kSides] = {errors[i * kSides], errors[i * kSides + 1]};
      SHARKSTORE_UNROLL
      for (int w = 0; w < Wide; ++w) {
        const Vec part = Vec::all(tile[w]);
        SHARKSTORE_UNROLL
        for (int side = 0; side < kSides; ++side)
          at[side][w] = at[side][w] + part * error[side];
      }
    }
  }
};

// Writes squared errors, infinity for those that are not finite.
SHARKSTORE_INLINE void put_sizes(float* out, Vec total, int rows) {
  const Vec infinite = Vec::all(__builtin_inff());
  total = Vec::where_less(total, infinite, total, infinite);
  if (rows == Vec::kLanes) total.store(out);
  else if (rows > 0) total.store_part(out, rows);
}

}  // namespace sharkstore::SHARKSTORE_BACKEND
