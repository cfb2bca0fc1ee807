// Batches cut into parts, so that what one call brings into memory is bounded.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "cold.h"

namespace sharkstore {

// Adds what was found in the part of a batch that starts at position `first`.
inline void add_outcome(Outcome& all, const Outcome& part, std::int64_t first) {
  if (part.outside && !all.outside) all.first_outside = first + part.first_outside;
  all.outside += part.outside;
  if (all.bad_row < 0) {
    all.bad_row = part.bad_row;
    all.bad_tier = part.bad_tier;
  }
  all.bad_offsets |= part.bad_offsets;
  if (!all.unread.path) all.unread = part.unread;
}

// Calls use(part, first) with at most `most` ids at a time; once where there are none.
template <class Use>
void each_part(const Ids& ids, std::int64_t most, Use use) {
  std::int64_t first = 0;
  do {
    const std::int64_t count = std::min(most, ids.count - first);
    use(ids_from(ids, first, count), first);
    first += count;
  } while (first < ids.count);
}

// The same with whole bags, of which one may have more ids: use(part, bags, first id, first bag).
// Offsets that don't rise end the cutting: kernels find them in the rest.
template <class Use>
void each_part(const Ids& ids, const Bags& bags, std::int64_t most, Use use) {
  const auto start_of = [&](std::int64_t bag) {
    if (bag == bags.count) return ids.count;
    return bags.offsets ? bags.offsets[bag] : bag * bags.each;
  };
  std::vector<std::int64_t> starts;
  std::int64_t bag = 0, first = 0;
  do {
    std::int64_t stop = bag, end = first;
    while (stop < bags.count) {
      const std::int64_t next = start_of(stop + 1);
      if (next < end || next > ids.count) {
        stop = bags.count;
      } else if (stop == bag || next - first <= most) {
        end = next;
        ++stop;
      } else {
        break;
      }
    }
    if (stop == bags.count) end = ids.count;
    Bags part = bags;
    part.count = stop - bag;
    if (bags.offsets) {
      starts.assign(bags.offsets + bag, bags.offsets + stop);
      for (std::int64_t& start : starts) start -= first;
      part.offsets = starts.data();
    }
    if (bags.weights) part.weights += first;
    use(ids_from(ids, first, end - first), part, first, bag);
    bag = stop;
    first = end;
  } while (bag < bags.count);
}

}  // namespace sharkstore
