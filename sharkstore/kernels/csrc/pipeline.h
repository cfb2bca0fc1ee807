// One pipeline a batch: row-map blocks prefetched far ahead, ids resolved into a ring, row bytes
// prefetched, then each row decoded into its place or its bag.
#pragma once

#include "decode.h"

namespace sharkstore::SHARKSTORE_BACKEND {

constexpr std::int64_t kMapAhead = 64;    // ids between prefetch and use of a row-map block
constexpr std::int64_t kRowsAhead = 128;  // rows between prefetch and use
constexpr std::int64_t kSegment = 32;     // rows used between two refills of the ring
static_assert(kRing >= kRowsAhead + 2 * kSegment + 8, "rows in use would be overwritten");
static_assert(kRing >= kRowsAhead + kMapAhead, "the first blocks would be overwritten");

// How far a batch has come: ids whose row-map blocks are prefetched, and rows in the ring.
struct Progress {
  std::int64_t mapped = 0, ready = 0;
};
using Advance = void (*)(Resolver&, const Ids&, Progress&, std::int64_t to, Ring&);

// Makes rows ready up to `to`, a multiple of eight; behind the last id, rows that are not used.
template <class Id, int Planes>
__attribute__((noinline)) void advance(Resolver& r, const Ids& all, Progress& at, std::int64_t to,
                                       Ring& ring) {
  const Id* ids = static_cast<const Id*>(all.data);
  const auto within = [&](std::int64_t end) { return end < all.count ? end : all.count; };
  if (at.mapped < all.count) {
    prefetch_blocks<Id, Planes>(r, ids, at.mapped, within(to + kMapAhead), ring);
    at.mapped = within(to + kMapAhead);
  }
  if (at.ready < all.count) {
    resolve_range<Id, Planes>(r, ids, at.ready, within(to), ring);
    at.ready = within(to);
  }
  for (; at.ready < to; ++at.ready) {
    ring.rows[at.ready & kRingMask] = r.default_row;
    ring.tags[at.ready & kRingMask] = kDefaultTag;
  }
}

template <class Id>
Advance pick_advance(int planes) {
  switch (planes) {
    case 0: return advance<Id, 0>;
    case 1: return advance<Id, 1>;
    case 2: return advance<Id, 2>;
    default: return advance<Id, 3>;
  }
}

// The rows of a batch in order, resolved and prefetched ahead.
template <int Dim>
class Rows {
 public:
  Rows(const Table& table, const Ids& ids, std::int64_t padding, Outcome& outcome)
      : resolver_(table, padding, outcome),
        ids_(ids),
        advance_(ids.wide ? pick_advance<std::int64_t>(table.planes)
                          : pick_advance<std::int32_t>(table.planes)) {
    for (int line = 1; line < kLines; ++line)
      for (int i = 0; i < table.tiers; ++i) {
        const std::uint64_t last = table.tier[i].row_bytes - 1, next = 64 * line;
        offset_[line][i] = next < last && kLines > 2 ? next : last;
      }
    for (int i = 0; i < table.tiers; ++i) {
      offset_[0][i] = table.tier[i].row_bytes;
      if (table.tier[i].row_bytes > 65) more_than_two_ = true;
    }
    advance_(resolver_, ids_, at_, kRowsAhead, ring_);
    for (std::int64_t i = 0; i < kRowsAhead && i < ids.count; ++i) prefetch_row(i);
  }

  // Makes rows ready up to `to`, at most kSegment after the last one used.
  SHARKSTORE_INLINE void prepare(std::int64_t to) {
    const std::int64_t wanted = to + kRowsAhead;
    if (wanted > at_.ready)
      advance_(resolver_, ids_, at_, (wanted + kSegment - 1) / kSegment * kSegment, ring_);
  }

  // Row i, of those made ready.
  SHARKSTORE_INLINE Address row(std::int64_t i) const { return ring_.rows[i & kRingMask]; }
  SHARKSTORE_INLINE int tag(std::int64_t i) const { return ring_.tags[i & kRingMask]; }

  SHARKSTORE_INLINE void prefetch_ahead(std::int64_t i) const { prefetch_row(i + kRowsAhead); }

 private:
  // lines that are prefetched of every row; rows may have more with many values only
  static constexpr int kLines = Dim == 0 ? 2 : Dim <= 16 ? 2 : Dim >= 64 ? 4 : (4 * Dim + 63) / 64;

  SHARKSTORE_INLINE void prefetch_row(std::int64_t i) const {
    const std::uint8_t* p = reinterpret_cast<const std::uint8_t*>(row(i));
    const int tag = this->tag(i);
    prefetch(p);
    prefetch(p + offset_[1][tag]);
    if (more_than_two_) {
      SHARKSTORE_UNROLL
      for (int line = 2; line < kLines; ++line) prefetch(p + offset_[line][tag]);
    }
    if constexpr (Dim == 0 || Dim > 64)
      for (std::uint64_t at = 64 * (kLines - 1); at < offset_[0][tag]; at += 64) prefetch(p + at);
  }

  Resolver resolver_;
  const Ids& ids_;
  Advance advance_;
  Progress at_;
  std::uint64_t offset_[kLines][kTags] = {};  // of the lines behind the first, by tag
  bool more_than_two_ = false;  // whether rows of some tier lie on three lines or more
  Ring ring_;
};

// out: (ids, dim). With Stream, rows are whole vectors, aligned, and bypass the cache.
template <int Dim, bool Stream>
void lookup(const Table& table, const Ids& ids, float* out, Outcome& outcome) {
  const Decoder<Dim> decode(table);
  const Columns<Dim> columns = decode.columns();
  Rows<Dim> rows(table, ids, -1, outcome);
  for (std::int64_t i = 0; i < ids.count;) {
    const std::int64_t stop = ids.count - i < kSegment ? ids.count : i + kSegment;
    rows.prepare(stop);
    for (; i < stop; ++i, out += columns.values()) {
      rows.prefetch_ahead(i);
      decode(rows.row(i), rows.tag(i), [&](int j, Vec value) SHARKSTORE_LAMBDA {
        columns.template put<Stream>(out, j, value);
      });
    }
  }
  if (Stream) Vec::fence();
}

enum class Fold { kAdd, kWeigh, kMax };

// out: (bags, dim)
template <int Dim, Fold How>
void pool(const Table& table, const Ids& ids, const Bags& bags, float* out, Outcome& outcome) {
  const Decoder<Dim> decode(table);
  const Columns<Dim> columns = decode.columns();
  Rows<Dim> rows(table, ids, bags.padding, outcome);
  const Vec start = Vec::all(How == Fold::kMax ? -__builtin_inff() : 0.0f);
  std::int64_t i = 0;
  if (bags.count > 0 && bags.offsets && bags.offsets[0] != 0) outcome.bad_offsets = true;
  for (std::int64_t bag = 0; bag < bags.count; ++bag, out += columns.values()) {
    std::int64_t end = ids.count;
    if (bag + 1 < bags.count) end = bags.offsets ? bags.offsets[bag + 1] : i + bags.each;
    if (SHARKSTORE_UNLIKELY(end < i || end > ids.count)) outcome.bad_offsets = true;
    if (SHARKSTORE_UNLIKELY(outcome.bad_offsets)) return;
    Vec sum[Columns<Dim>::kRoom];
    columns.each([&](int j) SHARKSTORE_LAMBDA { sum[j] = start; });
    std::int64_t count = end - i;
    while (i < end) {
      const std::int64_t stop = end - i < kSegment ? end : i + kSegment;
      rows.prepare(stop);
      for (; i < stop; ++i) {
        rows.prefetch_ahead(i);
        const int tag = rows.tag(i);
        if (SHARKSTORE_UNLIKELY(tag == kSkippedTag)) {
          --count;
          continue;
        }
        Vec weight;
        if constexpr (How == Fold::kWeigh) weight = Vec::all(bags.weights[i]);
        decode(rows.row(i), tag, [&](int j, Vec value) SHARKSTORE_LAMBDA {
          if constexpr (How == Fold::kAdd) sum[j] = sum[j] + value;
          if constexpr (How == Fold::kWeigh) sum[j] = sum[j] + weight * value;
          if constexpr (How == Fold::kMax) sum[j] = Vec::later_max(sum[j], value);
        });
      }
    }
    if (bags.pool == Pool::kMean && count > 1) {
      const Vec divisor = Vec::all(static_cast<float>(count));
      columns.each([&](int j) SHARKSTORE_LAMBDA { sum[j] = sum[j] / divisor; });
    }
    if (How == Fold::kMax && count == 0)
      columns.each([&](int j) SHARKSTORE_LAMBDA { sum[j] = Vec::all(0.0f); });
    columns.each([&](int j) SHARKSTORE_LAMBDA { columns.template put<false>(out, j, sum[j]); });
  }
}

}  // namespace sharkstore::SHARKSTORE_BACKEND
