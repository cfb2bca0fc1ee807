// The kernels of one instruction set, and the choice among those that this machine runs.
#pragma once

#include <cstddef>
#include <cstdint>

#include "encoding.h"
#include "request.h"

namespace sharkstore {

struct Backend {
  const char* name;
  // out: (ids, dim); ids outside the table give its default row
  void (*lookup)(const Table&, const Ids&, float* out, Outcome&);
  // out: (bags, dim)
  void (*pool)(const Table&, const Ids&, const Bags&, float* out, Outcome&);
  // bags `first` to `last` of all, key after key; ids of the others are not looked at
  void (*pool_many)(const Request&, std::int64_t first, std::int64_t last, Findings&);
  // rows of ids `first` to `last` of all; batch is 1, and offsets rise from 0 to the ids' number
  void (*lookup_many)(const Request&, std::int64_t first, std::int64_t last, Findings&);
  // writes stored rows, one behind the other
  void (*encode)(const Code&, const Source&, std::uint8_t* out);
  // the same for at most `wanted` rows of a tier, after the first `skip`; gives how many
  std::int64_t (*encode_tier)(const Code&, const Block&, int tier, std::int64_t skip,
                              std::int64_t wanted, std::uint8_t* out);
  // adds up what rows come to; bit t of `ranged`: those of tier t by their range; false if a
  // value is not finite
  bool (*measure)(const Block&, std::uint32_t ranged, Measures&);
  // out: (count,), how far each row is from what would be served: from `stand_in`, else from its
  // codes; `source` has no index
  void (*distort)(const Code&, const Source&, const float* stand_in, float* out);
};

}  // namespace sharkstore
