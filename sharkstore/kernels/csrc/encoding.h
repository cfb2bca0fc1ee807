// What is to be encoded or measured, and how: rows of float32, an encoding, what rows come to.
//
// Spec: formats/sharkstore-1.md, "Encodings".
#pragma once

#include "table.h"

namespace sharkstore {

// What rows are told by that are stored as codes of a codebook, as in kernels/pq.py.
struct Book {
  int entries;
  const float* terms;         // (blocks, entries, 1 + sub): half a size, then what it is of
  const float* center;        // (blocks, sub)
  const float* values;        // (blocks, entries, sub)
  const std::int64_t* order;  // (blocks,): the block at each position
  const float* root;          // (blocks * sub, blocks * sub), or its diagonal; null: identity
  bool diagonal;
};

// The metric that codes are rounded in, as in kernels/factor.py.
struct Factor {
  const std::int64_t* order;  // (dim,): the dim at each position
  const float* feed;          // (dim, dim); null: zeros
  const float* diagonal;      // (dim,)
};

// How rows are stored. `up` is 2^e and `down` 2^-e, with e the tier's scale exponent.
struct Code {
  Kind kind;
  float up = 1.0f;
  float down = 1.0f;
  const Book* book = nullptr;      // of kinds with a codebook
  const Factor* factor = nullptr;  // of others; null: values are rounded each for itself
};

// Rows of float32: all `count` from `values`, or those that `index` names, in its order.
struct Source {
  const float* values;
  const std::uint32_t* index;  // or null
  std::int64_t count;
  int dim;
};

// Rows one behind the other, with the part of a row map that tells their tiers.
struct Block {
  const float* values;
  std::int64_t count;
  int dim;
  const std::uint8_t* rowmap;  // its first block has the first row; null: all are of tier 0
  int planes;
};

// binary exponents of float32 as `frexp` gives them, from -148 to 129
constexpr int kExponents = 278;

// What the rows of a block come to, by tier.
struct Measures {
  std::uint32_t largest[kMaxTiers] = {};  // bits of the largest absolute value
  // rows by the exponent of their largest absolute value, or of their range; 0 is left out
  std::uint32_t rows[kMaxTiers][kExponents] = {};
};

}  // namespace sharkstore
