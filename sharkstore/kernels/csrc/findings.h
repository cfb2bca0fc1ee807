// What was found in the parts of a request, put together; and the cutting into parts.
#pragma once

#include <algorithm>
#include <deque>

#include "request.h"

namespace sharkstore {

// Adds what was found behind it.
inline void merge(Findings& all, Findings& next, int count) {
  Outcome& sum = all.outcome;
  const Outcome& more = next.outcome;
  if (sum.outside == 0) sum.first_outside = more.first_outside;
  if (!sum.unread.path) sum.unread = more.unread;
  if (sum.bad_row < 0) {
    sum.bad_row = more.bad_row;
    sum.bad_tier = more.bad_tier;
    all.bad_feature = next.bad_feature;
  }
  sum.outside += more.outside;
  sum.bad_offsets |= more.bad_offsets;
  if (!all.outside) {
    all.outside = next.outside;
  } else if (next.outside) {
    for (int i = 0; i < count; ++i) all.outside[i] += next.outside[i];
    std::free(next.outside);
  }
}

// Calls use(first, last) for items of at most `most` ids together, of which one may have more.
template <class Before, class Use>
void each_piece(std::int64_t first, std::int64_t end, std::int64_t most, Before ids_before,
                Use use) {
  for (std::int64_t last; first < end; first = last) {
    last = first + 1;
    // as unsigned, ends that fall are more than any
    while (last < end && static_cast<std::uint64_t>(ids_before(last + 1)) -
                                 static_cast<std::uint64_t>(ids_before(first)) <=
                             static_cast<std::uint64_t>(most))
      ++last;
    use(first, last);
  }
}

}  // namespace sharkstore
