// Scales and biases in front of a row's codes.
#pragma once

#include "rows.h"

namespace sharkstore::SHARKSTORE_BACKEND {

// Whether rows have a scale, and codes that it is for.
constexpr bool has_scale(Kind kind) { return kind >= Kind::kInt8 && !has_codebook(kind); }

// The scales, or biases, of a group as they are stored: float16 or float32.
template <Kind K>
struct Head {
  static constexpr std::size_t kBytes = is_half(K) ? 2 : 4;
  std::uint8_t stored[4 * Group::kRows];

  // Takes values in; gives them back as rounded.
  SHARKSTORE_INLINE Vec take(Vec values) {
    if constexpr (is_half(K)) {
      values.store_f16(stored);
      return Vec::load_f16(stored);
    } else {
      std::memcpy(stored, &values, sizeof values);
      return values;
    }
  }
  // Writes that of row r; gives the address behind it.
  SHARKSTORE_INLINE std::uint8_t* put(std::uint8_t* p, int r) const {
    std::memcpy(p, stored + static_cast<std::size_t>(r) * kBytes, kBytes);
    return p + kBytes;
  }
};

}  // namespace sharkstore::SHARKSTORE_BACKEND
