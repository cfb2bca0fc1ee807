// One pipeline through all tables of a request: while rows of one table are used, those of the
// next are fetched, so that no table starts with a wait.
#pragma once

#include "pipeline.h"
#include "request.h"

namespace sharkstore::SHARKSTORE_BACKEND {

// Consecutive ids of one feature. Id i has its place in the ring at i + ahead: a span begins at a
// multiple of eight, as ids are resolved by eights.
struct Span {
  std::int64_t end, ahead;
  int feature;
};

// The part of a request that one thread works on: ids, and in which features they may be.
struct Share {
  std::int64_t begin, end;
  int first, last;                   // features, the last one not included
  std::int64_t first_bag, last_bag;  // of all features
};

// The rows of a part of a request in order, resolved and prefetched ahead.
class SharedRows {
 public:
  SharedRows(const Request& request, const Share& part, Findings& found)
      : request_(request),
        part_(part),
        found_(found),
        advance_(request.ids.wide ? advance<std::int64_t> : advance<std::int32_t>),
        next_feature_(part.first),
        mapped_{part.begin, 0},
        ready_{part.begin, 0},
        lead_{part.begin, 0} {
    spans_[0] = {part.begin, -part.begin, part.first};
    lead_span_ = spans_[0];
    lead_feature_ = request.features + part.first;
    prepare(0, 0, 0);
  }

  // The ids of a feature, of those in the part; features are asked for in order.
  SHARKSTORE_INLINE Span enter(int feature) {
    const Span& next = spans_[(used_ + 1) & kSpanMask];
    if (used_ < made_ && next.feature == feature) ++used_;
    return spans_[used_ & kSpanMask];
  }

  // Makes rows ready from id i on, which is used next, up to `to`, at most kSegment behind it.
  SHARKSTORE_INLINE void prepare(std::int64_t i, std::int64_t to, std::int64_t ahead) {
    const std::int64_t wanted = to + ahead + kRowsAhead;
    if (wanted > ready_slots_) {
      ready_slots_ = (wanted + kSegment - 1) / kSegment * kSegment;
      advance_(*this);
    }
    // where ids of one feature are few, the next ones are nearer than they seem
    while (lead_.id < ready_.id && lead_.id + lead_span_.ahead < i + ahead + kRowsAhead)
      prefetch_row();
  }

  SHARKSTORE_INLINE Address row(std::int64_t slot) const { return ring_.rows[slot & kRingMask]; }
  SHARKSTORE_INLINE int tag(std::int64_t slot) const { return ring_.tags[slot & kRingMask]; }

  // Takes the next rows to prefetch, if so many are ready of one feature; gives the slot of the
  // first of them, or -1.
  SHARKSTORE_INLINE std::int64_t take(std::int64_t count) {
    const std::int64_t end = lead_span_.end < ready_.id ? lead_span_.end : ready_.id;
    if (count > end - lead_.id) return -1;
    const std::int64_t slot = lead_.id + lead_span_.ahead;
    lead_.id += count;
    return slot;
  }
  SHARKSTORE_INLINE void prefetch_slot(std::int64_t slot) const {
    const auto* p = reinterpret_cast<const std::uint8_t*>(row(slot));
    const int tag = this->tag(slot);
    const Feature& feature = *lead_feature_;
    prefetch(p);
    prefetch(p + feature.line[0][tag]);
    if (!feature.more_than_two) return;
    prefetch(p + feature.line[1][tag]);
    prefetch(p + feature.line[2][tag]);
    if (!feature.more_than_four) return;
    for (std::uint32_t at = 64 * kLinesTold; at < feature.last[tag]; at += 64) prefetch(p + at);
    prefetch(p + feature.last[tag]);
  }
  SHARKSTORE_INLINE void prefetch_ahead() {
    if (lead_.id < ready_.id) prefetch_row();
  }

 private:
  static constexpr unsigned kSpans = 64, kSpanMask = kSpans - 1;
  static_assert(8 * (kSpans - 2) >= kRowsAhead + kMapAhead + 2 * kSegment,
                "spans in use would be overwritten");

  // How far a stage has come: the id that is next, and the span that it is in, or behind.
  struct Cursor {
    std::int64_t id;
    unsigned span;
  };

  SHARKSTORE_INLINE void prefetch_row() {
    if (SHARKSTORE_UNLIKELY(lead_.id == lead_span_.end)) {
      lead_span_ = spans_[++lead_.span & kSpanMask];
      lead_feature_ = request_.features + lead_span_.feature;
    }
    prefetch_slot(lead_.id++ + lead_span_.ahead);
  }

  // The next feature that has ids, if there is one. Offsets that fall are told when they are used.
  bool make_span() {
    const Span before = spans_[made_ & kSpanMask];
    while (next_feature_ < part_.last) {
      const int feature = next_feature_++;
      std::int64_t bag = (feature + 1) * request_.batch;
      if (bag > part_.last_bag) bag = part_.last_bag;
      std::int64_t end = request_.offset(bag);
      if (end > part_.end) end = part_.end;
      if (end <= before.end) continue;
      const std::int64_t slot = (before.end + before.ahead + 7) / 8 * 8;
      spans_[++made_ & kSpanMask] = {end, slot - before.end, feature};
      return true;
    }
    return false;
  }

  // Moves a cursor up to a slot: calls work(feature, from, to, ahead) for ids of one span each.
  template <class More, class Work>
  SHARKSTORE_INLINE void move(Cursor& at, std::int64_t slot, More more, Work work) {
    for (;;) {
      if (at.id == spans_[at.span & kSpanMask].end) {
        if (at.span == made_ && !more()) return;
        ++at.span;
      }
      const Span span = spans_[at.span & kSpanMask];
      const std::int64_t left = slot - span.ahead;
      if (left <= at.id) return;
      const std::int64_t to = left < span.end ? left : span.end;
      work(span.feature, at.id, to, span.ahead);
      at.id = to;
    }
  }

  // Makes rows ready up to `ready_slots_`, and row-map blocks further.
  template <class Id>
  __attribute__((noinline)) static void advance(SharedRows& s) {
    const Id* ids = static_cast<const Id*>(s.request_.ids.data);
    const auto make = [&]() SHARKSTORE_LAMBDA { return s.make_span(); };
    s.move(s.mapped_, s.ready_slots_ + kMapAhead, make,
           [&](int f, std::int64_t from, std::int64_t to, std::int64_t ahead) SHARKSTORE_LAMBDA {
             const Places& places = s.request_.features[f].places;
             switch (s.planes(f)) {
               case 0: return;
               case 1: return prefetch_blocks<Id, 1>(places, ids, from, to, ahead, s.ring_);
               case 2: return prefetch_blocks<Id, 2>(places, ids, from, to, ahead, s.ring_);
               default: return prefetch_blocks<Id, 3>(places, ids, from, to, ahead, s.ring_);
             }
           });
    Outcome& found = s.found_.outcome;
    const auto none = []() SHARKSTORE_LAMBDA { return false; };
    s.move(s.ready_, s.ready_slots_, none,
           [&](int f, std::int64_t from, std::int64_t to, std::int64_t ahead) SHARKSTORE_LAMBDA {
             const Places& places = s.request_.features[f].places;
             const std::int64_t outside = found.outside, bad_row = found.bad_row;
             switch (s.planes(f)) {
               case 0: resolve_range<Id, 0>(places, ids, from, to, ahead, s.ring_, found); break;
               case 1: resolve_range<Id, 1>(places, ids, from, to, ahead, s.ring_, found); break;
               case 2: resolve_range<Id, 2>(places, ids, from, to, ahead, s.ring_, found); break;
               default: resolve_range<Id, 3>(places, ids, from, to, ahead, s.ring_, found);
             }
             if (SHARKSTORE_UNLIKELY(found.outside != outside)) s.note_outside(f, outside);
             if (SHARKSTORE_UNLIKELY(found.bad_row != bad_row)) s.found_.bad_feature = f;
           });
  }

  SHARKSTORE_INLINE int planes(int feature) const {
    return request_.features[feature].table->planes;
  }

  // Counts ids outside the table of a feature: all found but those from `before`.
  __attribute__((noinline, cold)) void note_outside(int feature, std::int64_t before) {
    std::int64_t*& counts = found_.outside;
    if (!counts)
      counts = static_cast<std::int64_t*>(
          std::calloc(static_cast<std::size_t>(request_.count), sizeof *counts));
    if (counts) counts[feature] += found_.outcome.outside - before;
  }

  const Request& request_;
  const Share& part_;
  Findings& found_;
  void (*advance_)(SharedRows&);
  int next_feature_;
  unsigned made_ = 0, used_ = 0;
  Cursor mapped_, ready_, lead_;
  std::int64_t ready_slots_ = 0;
  Span lead_span_;
  const Feature* lead_feature_;
  Span spans_[kSpans];
  Ring ring_;
};

// The rows of one feature, as those of a table are used: see `Rows`.
struct FeatureRows {
  SharedRows& rows;
  std::int64_t ahead;
  std::int64_t lead;  // from a row to the slot that is prefetched meanwhile
  bool together;      // those of a segment are of one feature, and taken

  SHARKSTORE_INLINE void prepare(std::int64_t i, std::int64_t to) {
    rows.prepare(i, to, ahead);
    const std::int64_t slot = rows.take(to - i);
    together = slot >= 0;
    lead = slot - i;
  }
  SHARKSTORE_INLINE Address row(std::int64_t i) const { return rows.row(i + ahead); }
  SHARKSTORE_INLINE int tag(std::int64_t i) const { return rows.tag(i + ahead); }
  SHARKSTORE_INLINE void prefetch_ahead(std::int64_t i) {
    if (together) rows.prefetch_slot(i + lead);
    else rows.prefetch_ahead();
  }
};

// Pools the bags of a feature that are in the part; gives where the last one ends, or -1.
template <int Dim, Fold How>
std::int64_t pool_feature(SharedRows& all, const Request& request, const Share& part, int index,
                          std::int64_t begin) {
  const Feature& feature = request.features[index];
  const Span span = all.enter(index);
  FeatureRows rows{all, span.ahead, 0, false};
  const Decoder<Dim> decode(*feature.table);
  const std::int64_t before = index * request.batch;
  const std::int64_t first = part.first_bag > before ? part.first_bag - before : 0;
  const std::int64_t left = part.last_bag - before;
  const std::int64_t last = left < request.batch ? left : request.batch;
  const auto end_of = [&](std::int64_t bag, std::int64_t) SHARKSTORE_LAMBDA {
    return request.offset(before + first + bag + 1);
  };
  float* out = request.out + first * request.width + feature.column;
  const auto place = reinterpret_cast<std::uintptr_t>(out);
  const auto next = reinterpret_cast<std::uintptr_t>(out + request.width);
  // places that are not aligned, and parts of vectors, would cost more past the cache than in it
  const bool stream = request.stream && (place | next) % (4 * Vec::kLanes) == 0;
  const std::int64_t ended =
      put_bags<Dim, How>(decode, rows, begin, span.end, last - first, end_of, request.weights,
                         feature.pool == Pool::kMean, out, request.width, stream);
  return ended == span.end ? ended : -1;
}

// Writes the rows of a feature that are in the part to `out`; gives where its ids end.
template <int Dim, bool Stream>
std::int64_t lookup_feature(SharedRows& all, const Request& request, int index,
                            std::int64_t begin, float* out) {
  const Span span = all.enter(index);
  FeatureRows rows{all, span.ahead, 0, false};
  const Decoder<Dim> decode(*request.features[index].table);
  put_rows<Dim, Stream>(decode, rows, begin, span.end, out);
  return span.end;
}

}  // namespace sharkstore::SHARKSTORE_BACKEND
