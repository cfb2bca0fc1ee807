// Rows of files, read for one call into a small table that the kernels see in place of the whole.
#pragma once

#include <memory>

#include "findings.h"
#include "parts.h"
#include "rowmap.h"

namespace sharkstore {

inline bool in_files(const Table& table) { return table.tier[0].files != nullptr; }

// What is read at a time, and what goes with it, at most; a larger bag is read as a whole.
constexpr std::int64_t kReadBytes = 4 << 20;

// Ids to be looked up at a time.
inline std::int64_t ids_at_a_time(const Table& table) {
  std::int64_t most = 40;  // of an id itself: as it is sorted, and as kernels see it
  for (int i = 0; i < table.tiers; ++i)
    most = std::max<std::int64_t>(most, table.tier[i].row_bytes + 40);
  return std::max<std::int64_t>(1, kReadBytes / most);
}

// The rows that some ids lead to, as a table: each row once, by tier and slot. Its row 0 is of
// zeros, and stands for ids that lead to none.
class RowsRead {
 public:
  // Rows that can't be read are told in `found`, as are slots past their tier. `numbers`, one for
  // each id: the row of this table that it leads to, -1 for ids outside.
  RowsRead(const Table& from, const Ids& ids, std::uint64_t padding, std::int64_t* numbers,
           Outcome& found)
      : table_(from) {
    number(from, ids, padding, numbers, found);
    lay_out(from);
    found.unread = read(from);
  }

  const Table& table() const { return table_; }

 private:
  // neighbours with less between them are read by one call: a call costs more than this to copy
  static constexpr std::uint64_t kGap = 4 << 10;
  static constexpr std::uint64_t kRun = 64 << 10;

  struct Wanted {
    std::uint64_t place;
    std::int64_t position;
  };

  void number(const Table& from, const Ids& ids, std::uint64_t padding, std::int64_t* numbers,
              Outcome& found) {
    std::vector<Wanted> wanted;
    wanted.reserve(static_cast<std::size_t>(ids.count));
    for (std::int64_t i = 0; i < ids.count; ++i) {
      const std::uint64_t id = id_of(ids, i);
      numbers[i] = id < from.rows ? 0 : -1;
      if (id >= from.rows || id == padding) continue;
      int tier;
      std::uint64_t slot;
      if (find_slot(from, id, tier, slot)) {
        wanted.push_back({place_of(from.tier[tier], tier, slot), i});
      } else if (found.bad_row < 0) {
        found.bad_row = static_cast<std::int64_t>(id);
        found.bad_tier = tier;
      }
    }
    std::sort(wanted.begin(), wanted.end(),
              [](const Wanted& a, const Wanted& b) { return a.place < b.place; });
    places_.reserve(wanted.size());
    for (const Wanted& one : wanted) {
      if (places_.empty() || places_.back() != one.place) places_.push_back(one.place);
      numbers[one.position] = static_cast<std::int64_t>(places_.size());
    }
  }

  // Room for the rows, and a row map of them.
  void lay_out(const Table& from) {
    std::vector<std::uint8_t> tiers(1 + places_.size());
    for (std::size_t i = 0; i < places_.size(); ++i)
      tiers[1 + i] = static_cast<std::uint8_t>(places_[i] >> kTierShift);
    std::uint64_t rows[kMaxTiers] = {};
    for (const std::uint8_t tier : tiers) ++rows[tier];
    std::size_t bytes = 0;
    for (int i = 0; i < from.tiers; ++i) bytes += rows[i] * from.tier[i].row_bytes;
    rows_.reset(new std::uint8_t[bytes + kReadPastEnd]);
    std::memset(rows_.get() + bytes, 0, kReadPastEnd);
    const std::uint8_t* data = rows_.get();
    for (int i = 0; i < from.tiers; ++i) {
      Tier& tier = table_.tier[i];
      tier.files = nullptr;
      tier.data = data;
      tier.rows = rows[i];
      tier.stride = tier.row_bytes;
      data += rows[i] * tier.row_bytes;
    }
    table_.rows = tiers.size();
    if (!table_.planes) return;
    const std::size_t blocks = (tiers.size() + kRowsPerBlock - 1) / kRowsPerBlock;
    rowmap_.resize(blocks * (std::size_t{8} << table_.planes));
    std::uint32_t before[kMaxTiers] = {};
    build_rowmap(tiers.data(), static_cast<std::int64_t>(tiers.size()), table_.planes, before,
                 rowmap_.data());
    table_.rowmap = rowmap_.data();
  }

  // Reads the rows in order, neighbours together.
  Unread read(const Table& from) {
    std::uint8_t* to = rows_.get();
    std::memset(to, 0, from.tier[0].row_bytes);
    to += from.tier[0].row_bytes;
    std::vector<std::uint8_t> run;
    for (std::size_t first = 0, last; first < places_.size(); first = last) {
      const std::uint64_t begin = places_[first];
      const Tier& tier = from.tier[begin >> kTierShift];
      std::uint64_t end = begin + tier.row_bytes;
      for (last = first + 1; last < places_.size(); ++last) {
        const std::uint64_t next = places_[last];
        if (next > end + kGap || next + tier.row_bytes > begin + kRun) break;
        end = next + tier.row_bytes;
      }
      const std::size_t rows = last - first, bytes = end - begin;
      const bool whole = bytes == rows * tier.row_bytes;
      if (!whole) run.resize(kRun);
      std::uint8_t* into = whole ? to : run.data();
      const Unread unread = tier.files->read(begin & kTierMask, bytes, into);
      if (unread.path) return unread;
      for (std::size_t i = 0; !whole && i < rows; ++i)
        std::memcpy(to + i * tier.row_bytes, into + (places_[first + i] - begin), tier.row_bytes);
      to += rows * tier.row_bytes;
    }
    return {};
  }

  Table table_;
  std::vector<std::uint64_t> places_;  // of the rows, from row 1 on
  std::vector<std::uint8_t> rowmap_;
  std::unique_ptr<std::uint8_t[]> rows_;
};

// Calls use(table, ids, padding): with what is given, or with what was read for it.
template <class Use>
void with_rows(const Table& table, const Ids& ids, std::int64_t padding, Outcome& found,
               Use use) try {
  if (!in_files(table)) return use(table, ids, padding);
  std::vector<std::int64_t> numbers(static_cast<std::size_t>(ids.count));
  const std::uint64_t left_out = padding < 0 ? table.rows : static_cast<std::uint64_t>(padding);
  const RowsRead rows(table, ids, left_out, numbers.data(), found);
  if (!found.unread.path) use(rows.table(), Ids{numbers.data(), ids.count, true}, padding < 0 ? -1 : 0);
} catch (const std::bad_alloc&) {
  found.unread = {"", ENOMEM};
}

// The same for a part of a request, of which ids `from` to `to` are looked at: use(request).
template <class Use>
void with_rows(const Request& request, std::int64_t from, std::int64_t to, Findings& found,
               Use use) try {
  std::vector<std::int64_t> numbers(static_cast<std::size_t>(to - from));
  std::vector<Feature> features(request.features, request.features + request.count);
  std::deque<RowsRead> read;
  for (int i = 0; i < request.count; ++i) {
    const std::int64_t begin = std::clamp(request.offset(i * request.batch), from, to);
    const std::int64_t end = std::clamp(request.offset((i + 1) * request.batch), begin, to);
    const Ids ids = ids_from(request.ids, begin, end - begin);
    std::int64_t* mine = numbers.data() + (begin - from);
    Feature& feature = features[static_cast<std::size_t>(i)];
    const Table& table = *feature.table;
    if (!in_files(table)) {
      for (std::int64_t k = 0; k < ids.count; ++k)
        mine[k] = static_cast<std::int64_t>(id_of(ids, k));
      continue;
    }
    const std::uint64_t padding = feature.places.padding;
    Outcome& outcome = found.outcome;
    const bool good = outcome.bad_row < 0;
    // all of them, so that no id leads to a table without memory, whatever the offsets say
    const RowsRead& rows = read.emplace_back(table, ids, padding, mine, outcome);
    if (good && outcome.bad_row >= 0) found.bad_feature = i;
    if (outcome.unread.path) return;
    const std::int64_t column = feature.column;
    feature = Feature(rows.table(), feature.pool, padding == table.rows ? -1 : 0);
    feature.column = column;
  }
  Request part = request;
  part.features = features.data();
  // positions are those among all ids
  part.ids.data = reinterpret_cast<const void*>(reinterpret_cast<std::uintptr_t>(numbers.data()) -
                                                8 * static_cast<std::uintptr_t>(from));
  part.ids.wide = true;
  use(part);
} catch (const std::bad_alloc&) {
  found.outcome.unread = {"", ENOMEM};
}

}  // namespace sharkstore
