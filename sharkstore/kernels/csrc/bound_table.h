// A table bound to arrays that Python holds, and lookups on arrays that Python passes.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <memory>
#include <vector>

#include "dispatch.h"

namespace sharkstore {

namespace nb = nanobind;

// below this many values a call is over before another thread could take the lock
constexpr std::int64_t kUnlockValues = 1 << 13;

// The memory of a C-contiguous array, for as long as this lives.
class Buffer {
 public:
  Buffer(nb::handle object, int flags) {
    held_ = PyObject_GetBuffer(object.ptr(), &view_, flags | PyBUF_FORMAT | PyBUF_ND) == 0;
    if (!held_) PyErr_Clear();
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() {
    if (held_) PyBuffer_Release(&view_);
  }

  // Whether the elements are of one of these kinds, of that size, and aligned.
  bool holds(const char* formats, std::size_t size) const {
    if (!held_ || view_.format == nullptr || view_.format[0] == 0 || view_.format[1] != 0)
      return false;
    for (const char* one = formats; *one; ++one)
      if (*one == view_.format[0])
        return static_cast<std::size_t>(view_.itemsize) == size &&
               reinterpret_cast<std::uintptr_t>(view_.buf) % size == 0;
    return false;
  }
  bool integers() const { return holds("lq", 8) || holds("i", 4); }
  bool wide() const { return view_.itemsize == 8; }
  bool floats() const { return holds("f", 4); }

  int dimensions() const { return view_.ndim; }
  std::int64_t length(int axis) const { return view_.shape[axis]; }
  std::int64_t count() const { return view_.len / view_.itemsize; }
  template <class T>
  T* data() const {
    return static_cast<T*>(view_.buf);
  }
  bool overlaps(const Buffer& other) const {
    const char* mine = data<char>();
    const char* theirs = other.data<char>();
    return mine < theirs + other.view_.len && theirs < mine + view_.len;
  }

 private:
  Py_buffer view_{};
  bool held_;
};

class BoundTable {
 public:
  BoundTable(const BoundTable&) = delete;
  BoundTable& operator=(const BoundTable&) = delete;

  // tiers: (kind, rows, factor, data) of each; data uint8 (stored rows, row bytes), with
  // kReadPastEnd readable bytes behind it.
  BoundTable(std::int64_t rows, int dim, nb::list tiers, nb::object rowmap, nb::object default_row)
      : held_(nb::make_tuple(tiers, rowmap, default_row)) {
    if (rows < 0 || rows >= std::int64_t{1} << 32 || dim < 1 || dim > 4096 || tiers.size() < 1 ||
        tiers.size() > kMaxTiers)
      throw nb::value_error("table out of range");
    table_.rows = static_cast<std::uint64_t>(rows);
    table_.dim = dim;
    table_.tiers = static_cast<int>(tiers.size());
    while ((1 << table_.planes) < table_.tiers) ++table_.planes;
    for (int i = 0; i < table_.tiers; ++i) take_tier(table_.tier[i], nb::tuple(tiers[i]));
    take_rowmap(rowmap);
    const Buffer& row = hold(default_row);
    if (!row.floats() || row.count() != dim) throw nb::value_error("default row of another shape");
    default_row_.assign(row.data<float>(), row.data<float>() + dim);
    default_row_.resize(static_cast<std::size_t>(dim) + kReadPastEnd);
    table_.default_row = default_row_.data();
  }

  // ids int32 or int64 of any shape, out float32 (*ids.shape, dim): None when all went well, a
  // tuple when not, NotImplemented for arrays of another kind.
  nb::object lookup(nb::handle ids, nb::handle out) const {
    const Buffer from(ids, PyBUF_C_CONTIGUOUS), to(out, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE);
    if (!from.integers() || !to.floats() || to.dimensions() != from.dimensions() + 1 ||
        to.length(from.dimensions()) != table_.dim || to.overlaps(from))
      return not_implemented();
    for (int axis = 0; axis < from.dimensions(); ++axis)
      if (to.length(axis) != from.length(axis)) return not_implemented();
    const Ids rows{from.data<void>(), from.count(), from.wide()};
    const Backend& kernels = *current_backend();
    Outcome outcome;
    run(rows.count, [&] { kernels.lookup(table_, rows, to.data<float>(), outcome); });
    return report(outcome);
  }

  // offsets int64 (bags,) or, with last, (bags + 1,); None for ids (bags, ids a bag).
  nb::object embedding_bag(nb::handle ids, nb::handle offsets, nb::handle weights, bool last,
                           int pool, std::int64_t padding, nb::handle out) const {
    const Buffer from(ids, PyBUF_C_CONTIGUOUS), to(out, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE);
    if (!from.integers() || !to.floats() || to.dimensions() != 2 ||
        to.length(1) != table_.dim || to.overlaps(from))
      return not_implemented();
    Bags bags{nullptr, to.length(0), 0, nullptr, static_cast<Pool>(pool), padding};
    std::unique_ptr<Buffer> starts, factors;
    if (!offsets.is_none()) {
      starts = std::make_unique<Buffer>(offsets, PyBUF_C_CONTIGUOUS);
      if (!starts->holds("lq", 8) || starts->dimensions() != 1 || from.dimensions() != 1 ||
          starts->count() - last != bags.count || to.overlaps(*starts))
        return not_implemented();
      bags.offsets = starts->data<std::int64_t>();
    } else {
      if (from.dimensions() != 2 || from.length(0) != bags.count) return not_implemented();
      bags.each = from.length(1);
    }
    if (!weights.is_none()) {
      factors = std::make_unique<Buffer>(weights, PyBUF_C_CONTIGUOUS);
      if (!factors->floats() || factors->count() != from.count() || to.overlaps(*factors))
        return not_implemented();
      bags.weights = factors->data<float>();
    }
    const Ids rows{from.data<void>(), from.count(), from.wide()};
    const Backend& kernels = *current_backend();
    Outcome outcome;
    run(rows.count + bags.count,
        [&] { kernels.pool(table_, rows, bags, to.data<float>(), outcome); });
    const bool ends = !last || !bags.offsets || bags.offsets[bags.count] == rows.count;
    if (bags.offsets && (!ends || (bags.count == 0 && rows.count > 0))) outcome.bad_offsets = true;
    return report(outcome);
  }

 private:
  static nb::object not_implemented() { return nb::borrow(Py_NotImplemented); }

  const Buffer& hold(nb::handle object) {
    buffers_.push_back(std::make_unique<Buffer>(object, PyBUF_C_CONTIGUOUS));
    return *buffers_.back();
  }

  void take_tier(Tier& tier, const nb::tuple& from) {
    const int kind = nb::cast<int>(from[0]);
    const Buffer& data = hold(from[3]);
    const std::int64_t rows = nb::cast<std::int64_t>(from[1]);
    if (kind < 0 || kind > static_cast<int>(Kind::kAffineFloat32) || rows < 0)
      throw nb::value_error("tier out of range");
    if (!data.holds("B", 1) || data.dimensions() != 2)
      throw nb::value_error("tier data must be uint8 of two dimensions");
    tier.kind = static_cast<Kind>(kind);
    tier.rows = static_cast<std::uint64_t>(rows);
    tier.factor = nb::cast<float>(from[2]);
    tier.data = data.data<std::uint8_t>();
    tier.row_bytes = static_cast<std::uint32_t>(data.length(1));
    const bool one_for_all = data.length(0) == 1;
    tier.stride = one_for_all ? 0 : tier.row_bytes;
    if (data.length(1) != stored_bytes(tier.kind, table_.dim) ||
        (!one_for_all && data.length(0) != rows))
      throw nb::value_error("tier data of another shape");
  }

  void take_rowmap(nb::handle rowmap) {
    if (table_.rows == 0) table_.planes = 0;  // every id is outside: nothing is read
    if (table_.planes == 0) {
      if (table_.tier[0].rows != table_.rows)
        throw nb::value_error("the tier must have all rows of the table");
      return;
    }
    const Buffer& blocks = hold(rowmap);
    const std::int64_t wanted = static_cast<std::int64_t>((table_.rows + 63) / 64);
    if (!blocks.holds("B", 1) || blocks.dimensions() != 2 || blocks.length(0) != wanted ||
        blocks.length(1) != 8 << table_.planes)
      throw nb::value_error("row map of another shape");
    table_.rowmap = blocks.data<std::uint8_t>();
  }

  static std::int64_t stored_bytes(Kind kind, int dim) {
    switch (kind) {
      case Kind::kFloat32: return 4 * dim;
      case Kind::kFloat16: return 2 * dim;
      case Kind::kInt8: return 2 + dim;
      case Kind::kInt8Float32:
      case Kind::kAffine: return 4 + dim;
      case Kind::kAffineFloat32: return 8 + dim;
    }
    return -1;
  }

  template <class Work>
  void run(std::int64_t rows, Work work) const {
    if (rows > kUnlockValues / table_.dim) {
      nb::gil_scoped_release unlocked;
      work();
    } else {
      work();
    }
  }

  static nb::object report(const Outcome& o) {
    if (o.outside == 0 && o.bad_row < 0 && !o.bad_offsets) return nb::none();
    return nb::make_tuple(o.outside, o.first_outside, o.bad_row, o.bad_tier, o.bad_offsets);
  }

  Table table_;
  std::vector<std::unique_ptr<Buffer>> buffers_;
  std::vector<float> default_row_;
  nb::object held_;
};

}  // namespace sharkstore
