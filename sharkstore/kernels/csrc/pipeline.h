// One pipeline a batch: row-map blocks prefetched far ahead, ids resolved into a ring, row bytes
// prefetched, then each row decoded into its place or its bag.
#pragma once

#include "decode.h"

namespace sharkstore::SHARKSTORE_BACKEND {

constexpr std::int64_t kMapAhead = 64;    // ids between prefetch and use of a row-map block
constexpr std::int64_t kRowsAhead = 128;  // rows between prefetch and use
constexpr std::int64_t kSegment = 48;     // rows used between two refills of the ring: of requests
constexpr std::int64_t kTableSegment = 32;  // and of a single table
static_assert(kRing >= kRowsAhead + 2 * kSegment + 8, "rows in use would be overwritten");
static_assert(kRing >= kRowsAhead + kMapAhead, "the first blocks would be overwritten");

// How far a batch has come: ids whose row-map blocks are prefetched, and rows in the ring.
struct Progress {
  std::int64_t mapped = 0, ready = 0;
};
using Advance = void (*)(const Places&, const Ids&, Progress&, std::int64_t to, Ring&, Outcome&);

// Makes rows ready up to `to`, a multiple of eight; behind the last id, rows that are not used.
template <class Id, int Planes>
__attribute__((noinline)) void advance(const Places& r, const Ids& all, Progress& at,
                                       std::int64_t to, Ring& ring, Outcome& found) {
  const Id* ids = static_cast<const Id*>(all.data);
  const auto within = [&](std::int64_t end) { return end < all.count ? end : all.count; };
  if (at.mapped < all.count) {
    prefetch_blocks<Id, Planes>(r, ids, at.mapped, within(to + kMapAhead), 0, ring);
    at.mapped = within(to + kMapAhead);
  }
  if (at.ready < all.count) {
    resolve_range<Id, Planes>(r, ids, at.ready, within(to), 0, ring, found);
    at.ready = within(to);
  }
  for (; at.ready < to; ++at.ready) {
    ring.rows[at.ready & kRingMask] = r.default_row;
    ring.marks[at.ready & kRingMask] = kDefaultTag;
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
      : places_(table, padding),
        outcome_(outcome),
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
    advance_(places_, ids_, at_, kRowsAhead, ring_, outcome_);
    for (std::int64_t i = 0; i < kRowsAhead && i < ids.count; ++i) prefetch_row(i);
  }

  // Makes rows ready up to `to`, at most kTableSegment behind the one used next.
  SHARKSTORE_INLINE void prepare(std::int64_t to) {
    constexpr std::int64_t step = kTableSegment;
    const std::int64_t wanted = (to + kRowsAhead + step - 1) / step * step;
    if (wanted > at_.ready) advance_(places_, ids_, at_, wanted, ring_, outcome_);
  }

  // Row i, of those made ready.
  SHARKSTORE_INLINE Address row(std::int64_t i) const { return ring_.rows[i & kRingMask]; }
  SHARKSTORE_INLINE int tag(std::int64_t i) const {
    return static_cast<int>(ring_.marks[i & kRingMask] & kTagMask);
  }

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

  Places places_;
  Outcome& outcome_;
  const Ids& ids_;
  Advance advance_;
  Progress at_;
  std::uint64_t offset_[kLines][kTags] = {};  // of the lines behind the first, by tag
  bool more_than_two_ = false;  // whether rows of some tier lie on three lines or more
  Ring ring_;
};

// The ids of a table in order: see `FeatureWalk`.
template <int Dim>
class TableWalk {
 public:
  TableWalk(const Table& table, const Ids& ids, std::int64_t padding, Outcome& outcome)
      : rows_(table, ids, padding, outcome) {}

  SHARKSTORE_INLINE std::int64_t next() const { return next_; }

  // Calls use(i, row, tag) for the ids up to `end`, with the rows of later ones on their way.
  template <class Use>
  SHARKSTORE_INLINE void to(std::int64_t end, Use use) {
    std::int64_t i = next_;
    while (i < end) {
      const std::int64_t stop = end - i < kTableSegment ? end : i + kTableSegment;
      rows_.prepare(stop);
      for (; i < stop; ++i) {
        rows_.prefetch_ahead(i);
        use(i, rows_.row(i), rows_.tag(i));
      }
    }
    next_ = i;
  }

 private:
  Rows<Dim> rows_;
  std::int64_t next_ = 0;
};

enum class Fold { kAdd, kWeigh, kMax };

// How places of bags are written: as they are, fetched some bags ahead, or past the cache.
enum class Write { kPlain, kAhead, kStream };
constexpr std::int64_t kPlacesAhead = 8;  // bags between prefetch of a place and its use

// Whether rows of Dim values are whole vectors, so that they can bypass the cache.
template <int Dim>
constexpr bool kStreams = Dim > 0 && Dim % Vec::kLanes == 0;

// The rows up to `end`, each into its place at `out`. With Stream, rows are whole vectors, aligned,
// and bypass the cache.
template <int Dim, bool Stream, class Walk>
SHARKSTORE_INLINE void put_rows(const Decoder<Dim>& decode, Walk& rows, std::int64_t end,
                                float* out) {
  const Columns<Dim> columns = decode.columns();
  rows.to(end, [&](std::int64_t, Address row, int tag) SHARKSTORE_LAMBDA {
    decode(row, tag, [&](int j, Vec value) SHARKSTORE_LAMBDA {
      columns.template put<Stream>(out, j, value);
    });
    out += columns.values();
  });
  if (Stream) Vec::fence();
}

// Bags of consecutive rows, each into its place at `out`, `step` values from one to the next; bag
// b ends at end_of(b, where it starts). Gives where the last one ends, or -1 for ends that fall or
// pass the limit. With kStream, places are aligned.
template <int Dim, Fold How, class Walk, class End>
SHARKSTORE_INLINE std::int64_t put_bags(const Decoder<Dim>& decode, Walk& rows, std::int64_t limit,
                                        std::int64_t bags, End end_of, const float* weights,
                                        bool mean, float* out, std::int64_t step, Write write) {
  const Columns<Dim> columns = decode.columns();
  const Vec start = Vec::all(How == Fold::kMax ? -__builtin_inff() : 0.0f);
  for (std::int64_t bag = 0; bag < bags; ++bag, out += step) {
    const std::int64_t end = end_of(bag, rows.next());
    if (SHARKSTORE_UNLIKELY(end < rows.next() || end > limit)) return -1;
    if (write == Write::kAhead) columns.prefetch(out, kPlacesAhead * step);
    Vec sum[Columns<Dim>::kRoom];
    columns.each([&](int j) SHARKSTORE_LAMBDA { sum[j] = start; });
    std::int64_t count = end - rows.next();
    rows.to(end, [&](std::int64_t i, Address row, int tag) SHARKSTORE_LAMBDA {
      if (SHARKSTORE_UNLIKELY(tag == kSkippedTag)) {
        --count;
        return;
      }
      Vec weight;
      if constexpr (How == Fold::kWeigh) weight = Vec::all(weights[i]);
      decode(row, tag, [&](int j, Vec value) SHARKSTORE_LAMBDA {
        if constexpr (How == Fold::kAdd) sum[j] = sum[j] + value;
        if constexpr (How == Fold::kWeigh) sum[j] = sum[j] + weight * value;
        if constexpr (How == Fold::kMax) sum[j] = Vec::later_max(sum[j], value);
      });
    });
    if (mean && count > 1) {
      const Vec divisor = Vec::all(static_cast<float>(count));
      columns.each([&](int j) SHARKSTORE_LAMBDA { sum[j] = sum[j] / divisor; });
    }
    if (How == Fold::kMax && count == 0)
      columns.each([&](int j) SHARKSTORE_LAMBDA { sum[j] = Vec::all(0.0f); });
    if (kStreams<Dim> && write == Write::kStream) {
      columns.each([&](int j) SHARKSTORE_LAMBDA {
        columns.template put<kStreams<Dim>>(out, j, sum[j]);
      });
    } else {
      columns.each([&](int j) SHARKSTORE_LAMBDA { columns.template put<false>(out, j, sum[j]); });
    }
  }
  if (kStreams<Dim> && write == Write::kStream) Vec::fence();
  return rows.next();
}

// out: (ids, dim)
template <int Dim, bool Stream>
void lookup(const Table& table, const Ids& ids, float* out, Outcome& outcome) {
  const Decoder<Dim> decode(table);
  TableWalk<Dim> rows(table, ids, -1, outcome);
  put_rows<Dim, Stream>(decode, rows, ids.count, out);
}

// out: (bags, dim); with `stream`, past the cache.
template <int Dim, Fold How>
void pool(const Table& table, const Ids& ids, const Bags& bags, float* out, bool stream,
          Outcome& outcome) {
  const Decoder<Dim> decode(table);
  TableWalk<Dim> rows(table, ids, bags.padding, outcome);
  if (bags.count > 0 && bags.offsets && bags.offsets[0] != 0) outcome.bad_offsets = true;
  if (SHARKSTORE_UNLIKELY(outcome.bad_offsets)) return;
  const auto end_of = [&](std::int64_t bag, std::int64_t start) SHARKSTORE_LAMBDA {
    if (bag + 1 == bags.count) return ids.count;
    return bags.offsets ? bags.offsets[bag + 1] : start + bags.each;
  };
  const std::int64_t ended =
      put_bags<Dim, How>(decode, rows, ids.count, bags.count, end_of, bags.weights,
                         bags.pool == Pool::kMean, out, decode.columns().values(),
                         stream && Dim > 16 ? Write::kStream : Write::kPlain);
  if (SHARKSTORE_UNLIKELY(ended < 0)) outcome.bad_offsets = true;
}

}  // namespace sharkstore::SHARKSTORE_BACKEND
