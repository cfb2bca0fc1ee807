// Encoding and measuring of arrays that Python passes.
#pragma once

#include <cmath>
#include <deque>
#include <initializer_list>
#include <optional>

#include "bound_table.h"
#include "rowmap.h"
#include "unlocked.h"

namespace sharkstore {

// The memory of a C-contiguous array, for as long as this lives.
class Held : public Buffer {
 public:
  explicit Held(nb::handle object, int flags = 0) { get(object.ptr(), flags); }
  Held(const Held&) = delete;
  Held& operator=(const Held&) = delete;
  ~Held() { release(); }
};

// Rows float32 (n, dim), and with them blocks of the row map, uint8 (ceil(n / 64), 16 | 32 | 64).
class BoundRows {
 public:
  BoundRows(nb::handle rows, nb::handle rowmap)
      : values_(rows), rowmap_(rowmap) {
    if (!values_.floats() || values_.dimensions() != 2 || values_.length(1) < 1 ||
        values_.length(1) > 4096 || values_.length(0) >= std::int64_t{1} << 32)
      throw nb::value_error("rows must be float32 (n, dim) of 1 to 4096 values");
    block_ = {values_.data<float>(), values_.length(0), static_cast<int>(values_.length(1)),
              nullptr, 0};
    if (!rowmap.is_none()) take_rowmap();
  }

  const Block& block() const { return block_; }
  bool overlaps(const Buffer& other) const {
    return other.overlaps(values_) || (block_.rowmap && other.overlaps(rowmap_));
  }

 private:
  void take_rowmap() {
    if (!rowmap_.holds("B", 1) || rowmap_.dimensions() != 2 ||
        rowmap_.length(0) != (block_.count + 63) / 64)
      throw nb::value_error("row map of another shape");
    while (block_.planes < 4 && 8 << block_.planes != rowmap_.length(1)) ++block_.planes;
    if (block_.planes < 1 || block_.planes > 3) throw nb::value_error("row map of another shape");
    block_.rowmap = rowmap_.data<std::uint8_t>();
  }

  Held values_, rowmap_;
  Block block_;
};

// Whether an array is of these lengths.
inline bool is_shaped(const Buffer& array, std::initializer_list<std::int64_t> lengths) {
  if (array.dimensions() != static_cast<int>(lengths.size())) return false;
  int axis = 0;
  for (const std::int64_t wanted : lengths)
    if (array.length(axis++) != wanted) return false;
  return true;
}

// Whether an array, int64 (count,), names each of 0 to count - 1 in some place: a number outside
// would be read outside.
inline bool is_order(const Held& array, std::int64_t count) {
  if (!array.holds("lq", 8) || !is_shaped(array, {count})) return false;
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t one = array.data<std::int64_t>()[i];
    if (one < 0 || one >= count) return false;
  }
  return true;
}

// The parts of a tuple, which may hold None.
class BoundParts {
 public:
  BoundParts(nb::handle object, std::size_t count, const char* wrong) {
    nb::tuple parts;
    if (!nb::try_cast(object, parts) || parts.size() != count) throw nb::value_error(wrong);
    for (const nb::handle part : parts) {
      if (part.is_none()) held_.emplace_back();
      else held_.emplace_back(part);
    }
  }
  // Whether part i is float32 of this shape.
  bool floats(std::size_t i, std::initializer_list<std::int64_t> lengths) const {
    return held_[i] && held_[i]->floats() && is_shaped(*held_[i], lengths);
  }
  const std::optional<Held>& operator[](std::size_t i) const { return held_[i]; }
  const float* values(std::size_t i) const { return held_[i] ? held_[i]->data<float>() : nullptr; }

 private:
  std::deque<std::optional<Held>> held_;
};

// A codebook: (terms, center, values, order, root or None), of shapes as in `Book`.
class BoundBook {
 public:
  BoundBook(nb::handle codebook, Kind kind, int dim) {
    if (!has_codebook(kind)) return;
    const BoundParts& parts = parts_.emplace(codebook, 5, "encoding without its codebook");
    const std::int64_t blocks = stored_bytes(kind, dim), sub = sub_values(kind);
    const std::int64_t all = blocks * sub;
    const std::int64_t entries =
        parts[2] && parts[2]->dimensions() == 3 ? parts[2]->length(1) : 0;
    const bool diagonal = parts[4] && parts[4]->dimensions() == 1;
    if (entries < 1 || entries > 256 || !parts.floats(0, {blocks, entries, 1 + sub}) ||
        !parts.floats(1, {blocks, sub}) || !parts.floats(2, {blocks, entries, sub}) ||
        !parts[3] || !is_order(*parts[3], blocks) ||
        (parts[4] && !(diagonal ? parts.floats(4, {all}) : parts.floats(4, {all, all}))))
      throw nb::value_error("codebook of another shape");
    book_ = {static_cast<int>(entries), parts.values(0), parts.values(1), parts.values(2),
             parts[3]->data<std::int64_t>(), parts.values(4), diagonal};
  }

  const Book* book() const { return parts_ ? &book_ : nullptr; }

 private:
  std::optional<BoundParts> parts_;
  Book book_;
};

// A factor: None, or (order, feed or None, diagonal), of shapes as in `Factor`.
class BoundFactor {
 public:
  BoundFactor(nb::handle factor, int dim) {
    if (factor.is_none()) return;
    const BoundParts& parts = parts_.emplace(factor, 3, "factor of another kind");
    if (!parts[0] || !is_order(*parts[0], dim) || !parts.floats(2, {dim}) ||
        (parts[1] && !parts.floats(1, {dim, dim})))
      throw nb::value_error("factor of another shape");
    factor_ = {parts[0]->data<std::int64_t>(), parts.values(1), parts.values(2)};
  }

  const Factor* factor() const { return parts_ ? &factor_ : nullptr; }

 private:
  std::optional<BoundParts> parts_;
  Factor factor_;
};

inline Code code_of(int kind, int exponent) {
  if (kind < 0 || kind >= kKinds || std::abs(exponent) > 126)
    throw nb::value_error("encoding out of range");
  return {static_cast<Kind>(kind), std::ldexp(1.0f, exponent), std::ldexp(1.0f, -exponent)};
}

// How rows are to be encoded, and what that takes.
class BoundCode {
 public:
  BoundCode(int kind, int exponent, nb::handle codebook, nb::handle factor, int dim)
      : code_(code_of(kind, exponent)), book_(codebook, code_.kind, dim), factor_(factor, dim) {
    code_.book = book_.book();
    code_.factor = factor_.factor();
  }
  BoundCode(const BoundCode&) = delete;
  BoundCode& operator=(const BoundCode&) = delete;

  const Code& code() const { return code_; }

 private:
  Code code_;
  BoundBook book_;
  BoundFactor factor_;
};

// Where stored rows go: uint8 (n, row bytes).
inline void check_stored(const Buffer& out, const Code& code, const BoundRows& rows) {
  if (!out.holds("B", 1) || out.dimensions() != 2 ||
      out.length(1) != stored_bytes(code.kind, rows.block().dim) || rows.overlaps(out))
    throw nb::value_error("out must be uint8 (n, row bytes), apart from the rows");
}

inline void bound_encode(int kind, int exponent, nb::handle codebook, nb::handle factor,
                         nb::handle rows, nb::handle out) {
  const BoundRows from(rows, nb::none());
  const Block& block = from.block();
  const BoundCode how(kind, exponent, codebook, factor, block.dim);
  const Held to(out, PyBUF_WRITABLE);
  check_stored(to, how.code(), from);
  if (to.length(0) != block.count) throw nb::value_error("out must have as many rows");
  const Backend& kernels = *current_backend();
  const Unlocked unlocked;
  kernels.encode(how.code(), {block.values, nullptr, block.count, block.dim},
                 to.data<std::uint8_t>());
}

// Encodes rows of one tier, after the first `skip`, until `out` is full; gives how many.
inline std::int64_t bound_encode_tier(int kind, int exponent, nb::handle codebook,
                                      nb::handle factor, nb::handle rows, nb::handle rowmap,
                                      int tier, std::int64_t skip, nb::handle out) {
  const BoundRows from(rows, rowmap);
  const BoundCode how(kind, exponent, codebook, factor, from.block().dim);
  const Held to(out, PyBUF_WRITABLE);
  check_stored(to, how.code(), from);
  if (tier < 0 || tier >= kMaxTiers || skip < 0) throw nb::value_error("tier out of range");
  const Backend& kernels = *current_backend();
  const Unlocked unlocked;
  return kernels.encode_tier(how.code(), from.block(), tier, skip, to.length(0),
                             to.data<std::uint8_t>());
}

// stand_in: None or float32 (dim,); out: float32 (n,)
inline void bound_distort(int kind, int exponent, nb::handle codebook, nb::handle factor,
                          nb::handle rows, nb::handle stand_in, nb::handle out) {
  const BoundRows from(rows, nb::none());
  const Block& block = from.block();
  const BoundCode how(kind, exponent, codebook, factor, block.dim);
  const Held served(stand_in), to(out, PyBUF_WRITABLE);
  if (!stand_in.is_none() && !(served.floats() && is_shaped(served, {block.dim})))
    throw nb::value_error("stand-in must be float32 (dim,)");
  if (!to.floats() || !is_shaped(to, {block.count}) || from.overlaps(to))
    throw nb::value_error("out must be float32 (n,), apart from the rows");
  const float* one = stand_in.is_none() ? nullptr : served.data<float>();
  const Backend& kernels = *current_backend();
  const Unlocked unlocked;
  kernels.distort(how.code(), {block.values, nullptr, block.count, block.dim}, one,
                  to.data<float>());
}

// Adds what rows come to, to largest float32 (tiers,) and magnitudes int64 (tiers, kExponents);
// leaves them alone and gives False if a value is not finite.
inline bool bound_measure(nb::handle rows, nb::handle rowmap, std::uint32_t ranged,
                          nb::handle largest, nb::handle magnitudes) {
  const BoundRows from(rows, rowmap);
  const Held top(largest, PyBUF_WRITABLE);
  const Held bins(magnitudes, PyBUF_WRITABLE);
  if (!top.floats() || top.dimensions() != 1 || top.count() > kMaxTiers || top.count() < 1 ||
      !bins.holds("lq", 8) || bins.dimensions() != 2 || bins.length(0) != top.count() ||
      bins.length(1) != kExponents)
    throw nb::value_error("largest must be float32 (tiers,), magnitudes int64 (tiers, 278)");
  const Backend& kernels = *current_backend();
  Measures found;
  bool finite;
  {
    const Unlocked unlocked;
    finite = kernels.measure(from.block(), ranged, found);
  }
  for (std::int64_t t = 0; finite && t < top.count(); ++t) {
    float one;
    std::memcpy(&one, &found.largest[t], 4);
    float& held = top.data<float>()[t];
    held = held > one ? held : one;
    for (int bin = 0; bin < kExponents; ++bin)
      bins.data<std::int64_t>()[t * kExponents + bin] += found.rows[t][bin];
  }
  return finite;
}

// tiers uint8 (n,), below 2^planes; before uint32 (2^planes,), raised to the rows of each tier up
// to their end; out uint8 (ceil(n / 64), 16 | 32 | 64).
inline void bound_build_rowmap(nb::handle tiers, int planes, nb::handle before, nb::handle out) {
  const Held from(tiers), counts(before, PyBUF_WRITABLE), to(out, PyBUF_WRITABLE);
  if (planes < 1 || planes > 3 || !from.holds("B", 1) || from.dimensions() != 1)
    throw nb::value_error("tiers must be uint8 (n,), in 1 to 3 planes");
  if (!counts.holds("I", 4) || counts.count() != 1 << planes || !to.holds("B", 1) ||
      to.dimensions() != 2 || to.length(0) != (from.count() + 63) / 64 ||
      to.length(1) != 8 << planes)
    throw nb::value_error("counters or blocks of another shape");
  build_rowmap(from.data<std::uint8_t>(), from.count(), planes, counts.data<std::uint32_t>(),
               to.data<std::uint8_t>());
}

}  // namespace sharkstore
