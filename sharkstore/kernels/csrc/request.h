// Lookups in many tables at once, as the kernels are asked for them.
#pragma once

#include <cstdlib>

#include "table.h"

namespace sharkstore {

constexpr int kTags = kMaxTiers + 2;  // of rows: their tier, the default row, no row

// One key of a request: a table, how its rows are pooled, and where they go.
struct Feature {
  Places places;
  const Table* table;
  std::int64_t column = 0;  // where its values begin in a row of the output
  Pool pool;

  __attribute__((always_inline)) Feature(const Table& of, Pool how, std::int64_t padding)
      : places(of, padding), table(&of), pool(how) {}
};

// Ids of all keys, those of one behind those of the other.
struct Request {
  const Feature* features;
  int count;
  Ids ids;
  const void* offsets;   // (count * batch + 1,), where bags start, key after key, and their end
  bool wide;             // offsets are int64, else int32
  std::int64_t batch;    // bags a key
  const float* weights;  // one an id, or null
  float* out;            // (batch, width); of rows that are not pooled, one behind the other
  std::int64_t width;
  bool stream;  // whether the output should bypass the cache

  __attribute__((always_inline)) std::int64_t offset(std::int64_t bag) const {
    return wide ? static_cast<const std::int64_t*>(offsets)[bag]
                : static_cast<const std::int32_t*>(offsets)[bag];
  }
};

// What went wrong in a part of a request, if anything did.
struct Findings {
  Outcome outcome;             // positions are those among all ids
  int bad_feature = 0;         // whose row's slot lies past its tier
  std::int64_t* outside = nullptr;  // ids outside the table of each key, once there are any
};

}  // namespace sharkstore
