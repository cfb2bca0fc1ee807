// What the rows of a block come to: finite or not, and by tier how large.
#pragma once

#include "rows.h"
#include "tierrows.h"

namespace sharkstore::SHARKSTORE_BACKEND {

// Bin of the exponent that `frexp` gives for a float32 of these bits, not 0: 148 more.
SHARKSTORE_INLINE int exponent_bin(std::uint32_t bits) {
  bits &= 0x7fffffffu;  // a NaN may have a sign
  const int biased = static_cast<int>(bits >> 23);
  return biased ? biased + 22 : 31 - __builtin_clz(bits);
}

// Sizes of a group of rows.
struct Sizes {
  static constexpr int kRows = Group::kRows;
  std::uint32_t largest[kRows];  // bits of the largest absolute value
  std::uint32_t range[kRows];    // bits of the largest less the least value
};

template <bool Ranges, int Dim>
SHARKSTORE_INLINE void measure_group(const Group& group, Values<Dim> values, Sizes& sizes,
                                     Vec& bits) {
  Vec tops[Group::kRows], bottoms[Group::kRows];  // the greatest x, and the greatest -x
  const Vec zero = Vec::all(0.0f);
  for (int r = 0; r < Group::kRows; ++r) {
    if constexpr (Ranges) {
      const Vec first = Vec::all(group.row[r][0]);
      Vec top = first, bottom = zero - first;
      values.each(group.row[r], first, [&](int, Vec x, int) SHARKSTORE_LAMBDA {
        top = Vec::max(top, x);
        bottom = Vec::max(bottom, zero - x);
        bits = Vec::bits_max(bits, x);
      });
      tops[r] = top;
      bottoms[r] = bottom;
    } else {
      Vec top = zero;
      values.each(group.row[r], zero,
                  [&](int, Vec x, int) SHARKSTORE_LAMBDA { top = Vec::bits_max(top, x); });
      bits = Vec::bits_max(bits, top);
      tops[r] = top;
    }
  }
  const Vec top = Vec::across_max(tops);
  float held[Group::kRows];
  if constexpr (Ranges) {
    const Vec bottom = Vec::across_max(bottoms);
    (top + bottom).store(held);
    std::memcpy(sizes.range, held, sizeof held);
    Vec::max(Vec::abs_max(zero, top), Vec::abs_max(zero, bottom)).store(held);
  } else {
    top.store(held);
  }
  std::memcpy(sizes.largest, held, sizeof held);
}

template <bool Ranges, int Dim>
bool measure_rows(const Block& block, std::uint32_t ranged, Measures& found) {
  const Source source{block.values, nullptr, block.count, block.dim};
  const Values<Dim> values{block.dim};
  Vec bits = Vec::all(0.0f);
  Sizes sizes;
  for (std::int64_t first = 0; first < block.count; first += kBlockRows) {
    const Planes planes(block, first / kBlockRows);
    for (std::int64_t i = 0; i < planes.rows; i += Group::kRows) {
      const Group group(source, first + i);
      measure_group<Ranges>(group, values, sizes, bits);
      for (int r = 0; r < group.count; ++r) {
        const int tier = block.rowmap ? planes.tier(i + r) : 0;
        std::uint32_t& largest = found.largest[tier];
        largest = largest > sizes.largest[r] ? largest : sizes.largest[r];
        const std::uint32_t size =
            Ranges && (ranged >> tier & 1) ? sizes.range[r] : sizes.largest[r];
        if (size != 0) ++found.rows[tier][exponent_bin(size)];
      }
    }
  }
  const float infinity = __builtin_inff();
  float held[Vec::kLanes];
  bits.store(held);
  for (float one : held)
    if (!(one < infinity)) return false;
  return true;
}

template <int... Dims>
bool pick_measure(const Block& block, std::uint32_t ranged, Measures& found) {
  bool finite = true;
  const bool known = ((block.dim == Dims && (finite = measure_rows<false, Dims>(block, 0, found),
                                             true)) || ...);
  return known ? finite : measure_rows<false, 0>(block, ranged, found);
}

// Adds up what a block comes to. Bit t of `ranged`: rows of tier t count by their range.
// False if a value is not finite: `found` is then of no use.
inline bool measure(const Block& block, std::uint32_t ranged, Measures& found) {
  if (ranged) return measure_rows<true, 0>(block, ranged, found);
#ifdef SHARKSTORE_PLAIN
  return pick_measure<>(block, ranged, found);
#else
  return pick_measure<8, 16, 32, 64, 128>(block, ranged, found);
#endif
}

}  // namespace sharkstore::SHARKSTORE_BACKEND
