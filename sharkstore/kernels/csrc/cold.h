// Rows that are not in memory, asked of the disk all at once before they are gathered.
//
// A page fault waits for the disk, and a gather makes one after the other; a disk answers
// dozens of requests in the time of one. What is in memory is not known, only what was read:
// so a table counts as cold until its rows are looked up without reads.
#pragma once

#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <new>
#include <vector>

#include "chunk_files.h"
#include "table.h"

namespace sharkstore {

inline std::uintptr_t page_bytes() {
  static const auto bytes = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
  return bytes;
}

// Whole pages.
struct Pages {
  std::uintptr_t begin, end;

  static Pages around(const void* data, std::size_t bytes) {
    const auto first = reinterpret_cast<std::uintptr_t>(data);
    const std::uintptr_t mask = page_bytes() - 1;
    return {first & ~mask, (first + bytes + mask) & ~mask};
  }
  std::size_t bytes() const { return end - begin; }
  // Whether the system heeds it.
  bool advise(int how) const {
    return madvise(reinterpret_cast<void*>(begin), bytes(), how) == 0;
  }
  // Asks for them to be read into the page cache; waits for none of them.
  bool ask() const {
    bool heeded = true;
    for (std::uintptr_t at = begin; at < end; at += kAskedBytes)
      heeded &= Pages{at, std::min<std::uintptr_t>(end, at + kAskedBytes)}.advise(MADV_WILLNEED);
    return heeded;
  }
};

// What the calling thread had to wait for, and has read.
struct Usage {
  std::int64_t waits, pages;

  static Usage now() {
#ifdef RUSAGE_THREAD
    constexpr int who = RUSAGE_THREAD;
#else
    constexpr int who = RUSAGE_SELF;
#endif
    struct rusage used {};
    getrusage(who, &used);
    constexpr long blocks_a_page = 4096 / 512;
    return {used.ru_majflt, used.ru_inblock / blocks_a_page};
  }
  Usage since(const Usage& before) const {
    return {waits - before.waits, pages - before.pages};
  }
  // A few misses cost less than asking for everything: a request takes about a 128th of a read.
  static bool few(std::int64_t missed, std::int64_t ids) {
    return missed == 0 || (ids >= 128 && missed * 128 <= ids);
  }
  bool few(std::int64_t ids) const { return few(std::max(waits, pages), ids); }
};

// The id at a position; as unsigned, negative ones are past every table.
inline std::uint64_t id_of(const Ids& ids, std::int64_t position) {
  return static_cast<std::uint64_t>(
      ids.wide ? static_cast<const std::int64_t*>(ids.data)[position]
               : static_cast<const std::int32_t*>(ids.data)[position]);
}

// Ids from one position on.
inline Ids ids_from(const Ids& ids, std::int64_t first, std::int64_t count) {
  return {static_cast<const char*>(ids.data) + first * (ids.wide ? 8 : 4), count, ids.wide};
}

// Tier and slot of the row of an id of the table; false for slots past their tier. Kernels resolve
// many at once: this is for what the disk, not the processor, takes the time of.
// Spec: "Row map", "Lookup".
inline bool find_slot(const Table& table, std::uint64_t id, int& tier, std::uint64_t& slot) {
  slot = id;
  tier = 0;
  if (!table.planes) return true;
  const std::uint8_t* block = table.rowmap + (id >> 6 << (table.planes + 3));
  const int bit = static_cast<int>(id & 63);
  std::uint64_t same = (std::uint64_t{1} << bit) - 1;
  for (int plane = 0; plane < table.planes; ++plane) {
    std::uint64_t word;
    std::memcpy(&word, block + 8 * plane, 8);
    const std::uint64_t mine = word >> bit & 1;
    tier |= static_cast<int>(mine) << plane;
    same &= mine ? word : ~word;
  }
  std::uint32_t before;
  std::memcpy(&before, block + 8 * table.planes + 4 * tier, 4);
  slot = before + static_cast<std::uint64_t>(__builtin_popcountll(same));
  return tier < table.tiers && slot < table.tier[tier].rows;
}

// Where rows of files are, one number for all tiers: the tier, then the byte of its array.
constexpr int kTierShift = 48;
constexpr std::uint64_t kTierMask = (std::uint64_t{1} << kTierShift) - 1;

inline std::uint64_t place_of(const Tier& tier, int index, std::uint64_t slot) {
  return (static_cast<std::uint64_t>(index) << kTierShift) + slot * tier.stride;
}

// The pages of a row; of files, its places.
inline Pages span_of_row(const Tier& tier, int index, std::uint64_t slot) {
  if (!tier.files) return Pages::around(tier.data + slot * tier.stride, tier.row_bytes);
  const std::uint64_t at = place_of(tier, index, slot);
  return {at, at + tier.row_bytes};
}

// Asks for a span of rows.
inline void ask_for(const Table& table, const Pages& span) {
  if (!table.tier[0].files) {
    span.ask();
    return;
  }
  const ChunkFiles& files = *table.tier[span.begin >> kTierShift].files;
  files.ask(span.begin & kTierMask, span.bytes());
}

// Asks for the pages of rows, in order and neighbours together; waits for none of them.
inline void ask_for_rows(const Table& table, const Ids& ids) try {
  constexpr std::int64_t kWindow = 1 << 16;
  // reading pages that nobody asked for takes less of a disk than a request of its own
  const std::uintptr_t gap = 4 * page_bytes();
  std::vector<Pages> spans;
  for (std::int64_t first = 0; first < ids.count; first += kWindow) {
    spans.clear();
    for (std::int64_t i = first; i < std::min(ids.count, first + kWindow); ++i) {
      const std::uint64_t id = id_of(ids, i);
      int tier;
      std::uint64_t slot;
      if (id < table.rows && find_slot(table, id, tier, slot))
        spans.push_back(span_of_row(table.tier[tier], tier, slot));
    }
    std::sort(spans.begin(), spans.end(),
              [](const Pages& a, const Pages& b) { return a.begin < b.begin; });
    for (std::size_t i = 0; i < spans.size();) {
      Pages all = spans[i];
      while (++i < spans.size() && spans[i].begin <= all.end + gap)
        all.end = std::max(all.end, spans[i].end);
      ask_for(table, all);
    }
  }
} catch (const std::bad_alloc&) {
  // the gather reads them by itself
}

// Whether a table is cold, and what was looked up in it. All of it under Python's lock.
class Watch {
 public:
  // What is done about one call.
  struct Turn {
    bool ask = false;   // for rows ahead of the gather
    bool look = false;  // at what the call reads
    Usage before{};
  };

  // From now on, rows are asked for when they are cold.
  void start() { on_ = true; }
  // All of the table was read, by somebody who knows.
  void warmed() { quiet_ = kQuietIds; }
  bool cold() const { return on_ && quiet_ < kQuietIds; }

  Turn begin(const Table& table, const Ids& ids) {
    ++calls;
    const std::int64_t so_far = rows += ids.count;
    if ((so_far - ids.count) / kSampleIds != so_far / kSampleIds) sample(table, ids);
    Turn turn;
    if (!on_) return turn;
    turn.ask = cold();
    unseen_ += ids.count;
    turn.look = turn.ask || unseen_ >= kLookIds;
    if (turn.look) unseen_ = 0;
    return turn;
  }

  // After ids that were looked at, and whether next to nothing was read for them.
  void end(std::int64_t ids, bool quiet) {
    quiet_ = quiet ? std::min(quiet_ + ids, kQuietIds) : 0;
  }

  std::int64_t calls = 0, rows = 0;
  std::int64_t sampled[kMaxTiers] = {};  // rows by tier, one in every kSampleIds

 private:
  static constexpr std::int64_t kLookIds = 8192;    // between two looks; one takes 0.5 µs
  // without reads: the table is not cold; one that misses as often as matters would pass once in
  // a million times
  static constexpr std::int64_t kQuietIds = 2048;
  static constexpr std::int64_t kSampleIds = 4096;

  void sample(const Table& table, const Ids& ids) {
    const auto turn = static_cast<std::uint64_t>(rows) * 0x9E3779B97F4A7C15;
    const std::uint64_t chosen = (turn >> 32) % static_cast<std::uint64_t>(ids.count);
    const std::uint64_t id = id_of(ids, static_cast<std::int64_t>(chosen));
    int tier;
    std::uint64_t slot;
    if (id < table.rows && find_slot(table, id, tier, slot)) ++sampled[tier];
  }

  bool on_ = false;
  std::int64_t quiet_ = 0, unseen_ = 0;
};

}  // namespace sharkstore
