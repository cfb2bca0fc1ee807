// Which rows of a block are of which tier, as its part of the row map says. Spec: "Row map".
#pragma once

#include <cstring>

#include "encoding.h"

namespace sharkstore::SHARKSTORE_BACKEND {

constexpr std::int64_t kBlockRows = 64;

// The planes of 64 rows.
struct Planes {
  std::uint64_t plane[3] = {};
  std::int64_t rows;  // that there are: fewer than 64 at the end

  Planes(const Block& block, std::int64_t index) {
    const std::int64_t left = block.count - index * kBlockRows;
    rows = left < kBlockRows ? left : kBlockRows;
    if (block.rowmap)
      std::memcpy(plane, block.rowmap + (index << (block.planes + 3)),
                  8 * static_cast<std::size_t>(block.planes));
  }

  int tier(std::int64_t row) const {
    return static_cast<int>((plane[0] >> row & 1) | (plane[1] >> row & 1) << 1 |
                            (plane[2] >> row & 1) << 2);
  }

  // Bit i: row i is of this tier.
  std::uint64_t of(int tier) const {
    std::uint64_t mask = rows < kBlockRows ? (std::uint64_t{1} << rows) - 1 : ~std::uint64_t{0};
    for (int k = 0; k < 3; ++k) mask &= tier >> k & 1 ? plane[k] : ~plane[k];
    return mask;
  }
};

// Calls use(rows, count) with the numbers of the rows of a tier, some thousands at a time: the
// first `skip` are left out, and at most `wanted` given. Gives how many were.
template <class Use>
std::int64_t each_of_tier(const Block& block, int tier, std::int64_t skip, std::int64_t wanted,
                          Use use) {
  constexpr int kRoom = 4096;
  std::uint32_t rows[kRoom];
  std::int64_t held = 0, given = 0;
  for (std::int64_t first = 0; first < block.count && given + held < wanted; first += kBlockRows) {
    std::uint64_t mask = Planes(block, first / kBlockRows).of(tier);
    const int present = __builtin_popcountll(mask);
    if (skip >= present) {
      skip -= present;
      continue;
    }
    for (; skip > 0; --skip) mask &= mask - 1;
    for (; mask != 0 && given + held < wanted; mask &= mask - 1)
      rows[held++] = static_cast<std::uint32_t>(first + __builtin_ctzll(mask));
    if (held + kBlockRows > kRoom) {
      use(rows, held);
      given += held;
      held = 0;
    }
  }
  if (held) use(rows, held);
  return given + held;
}

}  // namespace sharkstore::SHARKSTORE_BACKEND
