// Row-map blocks made from tiers. Spec: "Row map".
#pragma once

#include <cstdint>
#include <cstring>

namespace sharkstore {

constexpr std::int64_t kRowsPerBlock = 64;

// Bit i of the result: the lowest bit of byte i.
inline std::uint64_t pack_low_bits(std::uint64_t bytes) {
  // byte i has its bit at 8 i; the factor's bit at 7 (8 - i) takes it to 56 + i
  return ((bytes & 0x0101010101010101u) * 0x0102040810204080u) >> 56;
}

// Plane k of up to 64 rows: bit i is bit k of the tier of row i.
inline std::uint64_t plane_of(const std::uint8_t (&tiers)[kRowsPerBlock], int k) {
  std::uint64_t plane = 0;
  for (int i = 0; i < 8; ++i) {
    std::uint64_t eight;
    std::memcpy(&eight, tiers + 8 * i, 8);
    plane |= pack_low_bits(eight >> k) << 8 * i;
  }
  return plane;
}

// Writes the blocks of `rows` rows, whose tiers are below 2^planes; `before`: rows of each tier
// ahead of them, raised to those up to their end.
inline void build_rowmap(const std::uint8_t* tiers, std::int64_t rows, int planes,
                         std::uint32_t* before, std::uint8_t* out) {
  for (std::int64_t first = 0; first < rows; first += kRowsPerBlock, out += 8 << planes) {
    const std::int64_t left = rows - first;
    const std::int64_t present = left < kRowsPerBlock ? left : kRowsPerBlock;
    std::uint8_t held[kRowsPerBlock] = {};
    std::memcpy(held, tiers + first, static_cast<std::size_t>(present));
    const std::uint64_t there = ~std::uint64_t{0} >> (kRowsPerBlock - present);
    std::uint64_t plane[3];
    for (int k = 0; k < planes; ++k) plane[k] = plane_of(held, k);
    std::memset(out, 0, std::size_t{8} << planes);
    std::memcpy(out, plane, 8 * static_cast<std::size_t>(planes));
    std::memcpy(out + 8 * planes, before, std::size_t{4} << planes);
    for (int tier = 0; tier < 1 << planes; ++tier) {
      std::uint64_t mask = there;
      for (int k = 0; k < planes; ++k) mask &= tier >> k & 1 ? plane[k] : ~plane[k];
      before[tier] += static_cast<std::uint32_t>(__builtin_popcountll(mask));
    }
  }
}

}  // namespace sharkstore
