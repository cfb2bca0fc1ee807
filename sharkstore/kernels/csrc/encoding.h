// What is to be encoded or measured, and how: rows of float32, an encoding, what rows come to.
//
// Spec: formats/sharkstore-1.md, "Encodings".
#pragma once

#include "table.h"

namespace sharkstore {

// What rows are told by that are stored as codes of a codebook, as in kernels/pq.py.
struct Book {
  int entries;
  const float* terms;   // (blocks, entries, 1 + sub): half a size, then the entry less the center
  const float* center;  // (blocks, sub)
  const float* metric;  // (blocks, sub, sub), or null
  const float* values;  // (blocks, entries, sub)
};

// How rows are stored. `up` is 2^e and `down` 2^-e, with e the tier's scale exponent.
struct Code {
  Kind kind;
  float up = 1.0f;
  float down = 1.0f;
  const Book* book = nullptr;
};

// What distortions are measured by.
struct Gauge {
  const float* root = nullptr;  // (dim, dim), lower triangular, or its diagonal; null: identity
  bool diagonal = false;
  const float* stand_in = nullptr;  // the row that is served for all; null: rows are encoded
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
