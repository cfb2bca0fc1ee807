// Encoding and measuring of arrays that Python passes.
#pragma once

#include <cmath>

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

// A codebook: float32 arrays (terms, center, metric or None, values), of shapes as in `Book`.
class BoundBook {
 public:
  BoundBook(nb::handle codebook, Kind kind, int dim) {
    if (!has_codebook(kind)) return;
    nb::tuple parts;
    if (!nb::try_cast(codebook, parts) || parts.size() != 4)
      throw nb::value_error("encoding without its codebook");
    const std::int64_t blocks = stored_bytes(kind, dim), sub = sub_values(kind);
    for (std::size_t i = 0; i < 4; ++i)
      if (!parts[i].is_none()) held_.emplace_back(parts[i]);
      else if (i != 2) throw nb::value_error("codebook lacks a part");
    const bool pulls = held_.size() == 4;
    const Held& values = held_.back();
    const std::int64_t entries = values.floats() && values.dimensions() == 3 ? values.length(1) : 0;
    if (entries < 1 || entries > 256 || !is(values, blocks, entries, sub) ||
        !is(held_[0], blocks, entries, 1 + sub) || !is(held_[1], blocks, sub) ||
        (pulls && !is(held_[2], blocks, sub, sub)))
      throw nb::value_error("codebook of another shape");
    book_ = {static_cast<int>(entries), held_[0].data<float>(), held_[1].data<float>(),
             pulls ? held_[2].data<float>() : nullptr, values.data<float>()};
  }

  const Book* book() const { return held_.empty() ? nullptr : &book_; }

 private:
  template <class... Lengths>
  static bool is(const Held& array, Lengths... lengths) {
    const std::int64_t wanted[] = {lengths...};
    constexpr int kAxes = sizeof...(lengths);
    if (!array.floats() || array.dimensions() != kAxes) return false;
    for (int axis = 0; axis < kAxes; ++axis)
      if (array.length(axis) != wanted[axis]) return false;
    return true;
  }

  std::deque<Held> held_;
  Book book_;
};

inline Code code_of(int kind, int exponent) {
  if (kind < 0 || kind >= kKinds || std::abs(exponent) > 126)
    throw nb::value_error("encoding out of range");
  return {static_cast<Kind>(kind), std::ldexp(1.0f, exponent), std::ldexp(1.0f, -exponent)};
}

// Where stored rows go: uint8 (n, row bytes).
inline void check_stored(const Buffer& out, const Code& code, const BoundRows& rows) {
  if (!out.holds("B", 1) || out.dimensions() != 2 ||
      out.length(1) != stored_bytes(code.kind, rows.block().dim) || rows.overlaps(out))
    throw nb::value_error("out must be uint8 (n, row bytes), apart from the rows");
}

inline void bound_encode(int kind, int exponent, nb::handle codebook, nb::handle rows,
                         nb::handle out) {
  Code code = code_of(kind, exponent);
  const BoundRows from(rows, nb::none());
  const BoundBook book(codebook, code.kind, from.block().dim);
  code.book = book.book();
  const Held to(out, PyBUF_WRITABLE);
  check_stored(to, code, from);
  const Block& block = from.block();
  if (to.length(0) != block.count) throw nb::value_error("out must have as many rows");
  const Backend& kernels = *current_backend();
  const Unlocked unlocked;
  kernels.encode(code, {block.values, nullptr, block.count, block.dim}, to.data<std::uint8_t>());
}

// Encodes rows of one tier, after the first `skip`, until `out` is full; gives how many.
inline std::int64_t bound_encode_tier(int kind, int exponent, nb::handle codebook,
                                      nb::handle rows, nb::handle rowmap, int tier,
                                      std::int64_t skip, nb::handle out) {
  Code code = code_of(kind, exponent);
  const BoundRows from(rows, rowmap);
  const BoundBook book(codebook, code.kind, from.block().dim);
  code.book = book.book();
  const Held to(out, PyBUF_WRITABLE);
  check_stored(to, code, from);
  if (tier < 0 || tier >= kMaxTiers || skip < 0) throw nb::value_error("tier out of range");
  const Backend& kernels = *current_backend();
  const Unlocked unlocked;
  return kernels.encode_tier(code, from.block(), tier, skip, to.length(0),
                             to.data<std::uint8_t>());
}

// root: None, float32 (dim,) or (dim, dim); stand_in: None or float32 (dim,); out: float32 (n,)
inline void bound_distort(int kind, int exponent, nb::handle codebook, nb::handle rows,
                          nb::handle root, nb::handle stand_in, nb::handle out) {
  Code code = code_of(kind, exponent);
  const BoundRows from(rows, nb::none());
  const Block& block = from.block();
  const BoundBook book(codebook, code.kind, block.dim);
  code.book = book.book();
  const Held metric(root), served(stand_in), to(out, PyBUF_WRITABLE);
  Gauge gauge;
  if (!root.is_none()) {
    if (!metric.floats() || metric.dimensions() < 1 || metric.dimensions() > 2 ||
        metric.length(0) != block.dim || metric.length(metric.dimensions() - 1) != block.dim)
      throw nb::value_error("root must be float32 (dim,) or (dim, dim)");
    gauge.root = metric.data<float>();
    gauge.diagonal = metric.dimensions() == 1;
  }
  if (!stand_in.is_none()) {
    if (!served.floats() || served.dimensions() != 1 || served.length(0) != block.dim)
      throw nb::value_error("stand-in must be float32 (dim,)");
    gauge.stand_in = served.data<float>();
  }
  if (!to.floats() || to.dimensions() != 1 || to.length(0) != block.count || from.overlaps(to))
    throw nb::value_error("out must be float32 (n,), apart from the rows");
  const Backend& kernels = *current_backend();
  const Unlocked unlocked;
  kernels.distort(code, {block.values, nullptr, block.count, block.dim}, gauge, to.data<float>());
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
