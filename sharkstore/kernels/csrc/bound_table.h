// A table bound to arrays that Python holds, and lookups on arrays that Python passes.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <limits>
#include <vector>

#include "budget.h"
#include "buffers.h"
#include "dispatch.h"
#include "pread.h"

namespace sharkstore {

namespace nb = nanobind;

// below this many values a call is over before another thread could take the lock
constexpr std::int64_t kUnlockValues = 1 << 13;

class BoundTable {
 public:
  BoundTable(const BoundTable&) = delete;
  BoundTable& operator=(const BoundTable&) = delete;

  // tiers: (kind, rows, factor, data, codebook) of each; data uint8 (stored rows, row bytes), with
  // kReadPastEnd readable bytes behind it, or all tiers ChunkFiles of one row behind the other;
  // codebook uint8 (codes a row, bytes of kEntries
  // entries), or None.
  BoundTable(std::int64_t rows, int dim, nb::list tiers, nb::object rowmap, nb::object default_row) {
    if (rows < 0 || rows >= std::int64_t{1} << 32 || dim < 1 || dim > 4096 || tiers.size() < 1 ||
        tiers.size() > kMaxTiers)
      throw nb::value_error("table out of range");
    table_.rows = static_cast<std::uint64_t>(rows);
    table_.dim = dim;
    table_.tiers = static_cast<int>(tiers.size());
    while ((1 << table_.planes) < table_.tiers) ++table_.planes;
    for (int i = 0; i < table_.tiers; ++i) {
      take_tier(table_.tier[i], nb::tuple(tiers[i]));
      table_.bytes += table_.tier[i].rows * table_.tier[i].stride;
      if (in_files(table_) != (table_.tier[i].files != nullptr))
        throw nb::value_error("some tiers in memory, and some in files");
    }
    take_rowmap(rowmap);
    const Buffer& row = hold(default_row);
    if (!row.floats() || row.count() != dim) throw nb::value_error("default row of another shape");
    default_row_.assign(row.data<float>(), row.data<float>() + dim);
    default_row_.resize(static_cast<std::size_t>(dim) + kReadPastEnd);
    table_.default_row = default_row_.data();
  }

  const Table& table() const { return table_; }

  // out: (*ids.shape, dim)
  bool fits(const Buffer& ids, const Buffer& out) const {
    if (!ids.integers() || !out.floats() || out.dimensions() != ids.dimensions() + 1 ||
        out.length(ids.dimensions()) != table_.dim || out.overlaps(ids))
      return false;
    for (int axis = 0; axis < ids.dimensions(); ++axis)
      if (out.length(axis) != ids.length(axis)) return false;
    return true;
  }

  Outcome lookup(const Buffer& ids, const Buffer& out) {
    const Backend& kernels = *current_backend();
    Outcome outcome;
    const Ids all{ids.data<void>(), ids.count(), ids.wide()};
    watched(all, [&] {
      each_part(all, part_ids(), [&](const Ids& rows, std::int64_t first) {
        Outcome found;
        float* to = out.data<float>() + first * table_.dim;
        run(rows.count, rows.count, [&] {
          with_rows(table_, rows, -1, found, [&](const Table& table, const Ids& some, auto) {
            kernels.lookup(table, some, to, found);
          });
        });
        add_outcome(outcome, found, first);
      });
    });
    return outcome;
  }

  struct BagArrays {
    Buffer ids, offsets, weights, out;
    bool have_offsets, have_weights, last;
  };

  // offsets: (bags,), or (bags + 1,) with last; without, ids are (bags, ids a bag); weights:
  // (number of ids,)
  bool fits(const BagArrays& a) const {
    if (!a.ids.integers() || !a.out.floats() || a.out.dimensions() != 2 ||
        a.out.length(1) != table_.dim || a.out.overlaps(a.ids))
      return false;
    if (a.have_weights && (!a.weights.floats() || a.weights.dimensions() != 1 ||
                           a.weights.count() != a.ids.count() || a.out.overlaps(a.weights)))
      return false;
    if (!a.have_offsets) return a.ids.dimensions() == 2 && a.ids.length(0) == a.out.length(0);
    return a.offsets.holds("lq", 8) && a.offsets.dimensions() == 1 && a.ids.dimensions() == 1 &&
           a.offsets.count() - a.last == a.out.length(0) && !a.out.overlaps(a.offsets);
  }

  Outcome embedding_bag(const BagArrays& a, Pool pool, std::int64_t padding) {
    const Ids rows{a.ids.data<void>(), a.ids.count(), a.ids.wide()};
    const std::int64_t* starts = a.have_offsets ? a.offsets.data<std::int64_t>() : nullptr;
    const std::int64_t count = a.out.length(0);
    const Bags bags{starts, count, starts ? 0 : a.ids.length(1),
                    a.have_weights ? a.weights.data<float>() : nullptr, pool, padding};
    const Backend& kernels = *current_backend();
    Outcome outcome;
    const auto make = [&](const Ids& ids, const Bags& some, std::int64_t first, std::int64_t bag) {
      Outcome found;
      float* to = a.out.data<float>() + bag * table_.dim;
      run(ids.count, ids.count + some.count, [&] {
        with_rows(table_, ids, padding, found, [&](const Table& table, const Ids& rows, auto none) {
          Bags bags = some;
          bags.padding = none;
          kernels.pool(table, rows, bags, to, found);
        });
      });
      add_outcome(outcome, found, first);
    };
    watched(rows, [&] {
      if (budget_ || in_files(table_)) {
        each_part(rows, bags, part_ids(), make);
      } else {
        make(rows, bags, 0, 0);
      }
    });
    const bool ends = !starts || !a.last || starts[count] == rows.count;
    if (starts && (!ends || (count == 0 && rows.count > 0))) outcome.bad_offsets = true;
    return outcome;
  }

  // Rows are in memory, as far as is known.
  void warmed() { watch_.warmed(); }
  // From now on rows are asked for ahead when they are cold, and kept within the budget.
  void watch(nb::object budget);
  // Calls, rows, sampled rows of each tier, whether the table is cold.
  nb::tuple counts() const;
  // For calls that go through several tables: under Python's lock.
  Watch& watched_by() { return watch_; }
  Budget* budget() { return budget_; }

 private:
  const Buffer& hold(nb::handle object) {
    buffers_.all.emplace_back();
    buffers_.all.back().get(object.ptr(), 0);
    return buffers_.all.back();
  }

  void take_tier(Tier& tier, const nb::tuple& from) {
    const int kind = nb::cast<int>(from[0]);
    const std::int64_t rows = nb::cast<std::int64_t>(from[1]);
    if (kind < 0 || kind >= kKinds || rows < 0)
      throw nb::value_error("tier out of range");
    tier.kind = static_cast<Kind>(kind);
    tier.rows = static_cast<std::uint64_t>(rows);
    tier.factor = nb::cast<float>(from[2]);
    tier.row_bytes = static_cast<std::uint32_t>(stored_bytes(tier.kind, table_.dim));
    if (nb::isinstance<ChunkFiles>(from[3])) take_files(tier, from[3]);
    else take_data(tier, hold(from[3]));
    if (has_codebook(tier.kind)) take_codebook(tier, from[4]);
  }

  static void take_data(Tier& tier, const Buffer& data) {
    if (!data.holds("B", 1) || data.dimensions() != 2)
      throw nb::value_error("tier data must be uint8 of two dimensions");
    const bool one_for_all = data.length(0) == 1;
    tier.data = data.data<std::uint8_t>();
    tier.stride = one_for_all ? 0 : tier.row_bytes;
    if (data.length(1) != tier.row_bytes ||
        (!one_for_all && static_cast<std::uint64_t>(data.length(0)) != tier.rows))
      throw nb::value_error("tier data of another shape");
  }

  void take_files(Tier& tier, nb::handle from) {
    const ChunkFiles& files = nb::cast<ChunkFiles&>(from);
    const bool one_for_all = files.bytes() == tier.row_bytes;
    tier.files = &files;
    tier.stride = one_for_all ? 0 : tier.row_bytes;
    if (!one_for_all && files.bytes() != tier.rows * tier.row_bytes)
      throw nb::value_error("chunk files of another shape");
    held_.append(from);
  }

  void take_codebook(Tier& tier, nb::handle from) {
    const Buffer& entries = hold(from);
    const int bytes = kEntries * sub_values(tier.kind) * entry_bytes(tier.kind);
    if (!entries.holds("B", 1) || entries.dimensions() != 2 ||
        entries.length(0) != tier.row_bytes || entries.length(1) != bytes)
      throw nb::value_error("codebook of another shape");
    tier.codebook = entries.data<std::uint8_t>();
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

  std::int64_t part_ids() const {
    if (in_files(table_)) return ids_at_a_time(table_);
    return budget_ ? budget_->part() : std::numeric_limits<std::int64_t>::max();
  }

  // Reads rows ahead of the work if they are cold, and learns from what it reads.
  template <class Work>
  void watched(const Ids& ids, Work work) {
    Watch::Turn turn = watch_.begin(table_, ids);
    if (turn.look) turn.before = Usage::now();
    if (turn.ask) {
      PyThreadState* state = PyEval_SaveThread();
      ask_for_rows(table_, ids);
      PyEval_RestoreThread(state);
    }
    work();
    if (turn.look) watch_.end(ids.count, Usage::now().since(turn.before).few(ids.count));
  }

  // ids: that are looked up, rows: that are made or read
  template <class Work>
  void run(std::int64_t ids, std::int64_t rows, Work work) {
    Budget::Before held;
    if (budget_) held = budget_->reserve(ids);
    const bool unlock =
        budget_ || in_files(table_) || watch_.cold() || rows > kUnlockValues / table_.dim;
    PyThreadState* state = unlock ? PyEval_SaveThread() : nullptr;
    work();
    if (state) PyEval_RestoreThread(state);
    if (budget_) budget_->settle(ids, held);
  }

  Table table_;
  Watch watch_;
  nb::object held_budget_;
  nb::list held_;  // chunk files, so that they stay
  Budget* budget_ = nullptr;
  Buffers buffers_;
  std::vector<float> default_row_;
};

}  // namespace sharkstore
