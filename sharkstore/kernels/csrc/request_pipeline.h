// One pipeline through all tables of a request: while rows of one table are used, those of the
// next are fetched, so that no table starts with a wait.
#pragma once

#include <cstddef>

#include "pipeline.h"

namespace sharkstore::SHARKSTORE_BACKEND {

constexpr std::uint64_t kShortReach = 64;  // of rows on two lines at most
// ids a bag above which its place is fetched while they are summed, rather than written past the
// cache: places of one feature lie on a page each, and such a store waits for the page
constexpr std::int64_t kLargeBag = 6;
static_assert(kRing >= kRowsAhead + kSegment + kMapAhead + 8, "blocks would be overwritten");

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

// A row in the ring.
struct Slot {
  const Address* at;

  SHARKSTORE_INLINE Address row() const { return at[0]; }
  SHARKSTORE_INLINE Address last_line() const { return at[0] + (at[kRing] >> kTagBits); }
  SHARKSTORE_INLINE int tag() const { return static_cast<int>(at[kRing] & kTagMask); }
};
static_assert(offsetof(Ring, marks) - offsetof(Ring, rows) == kRing * sizeof(Address),
              "marks would be sought elsewhere");

// Consecutive rows of one feature that are ready, and as many that are prefetched meanwhile.
struct Segment {
  Slot first;
  std::int64_t lead;  // slots from a row to the one that is prefetched
  std::int64_t end;   // id behind the last row
  bool long_lead;     // whether rows that are prefetched lie on more than two lines
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
    lead_span_ = spans_[0] = {part.begin, -part.begin, part.first};
    advance_(*this);
  }

  // The ids of a feature, of those in the part; features are asked for in order.
  SHARKSTORE_INLINE Span enter(int feature) {
    const Span& next = spans_[(used_ + 1) & kSpanMask];
    if (used_ < made_ && next.feature == feature) ++used_;
    return spans_[used_ & kSpanMask];
  }

  // The rows of the feature that was entered, from id i on, which is used next. With `lead_short`,
  // only such as lie on two lines at most are left to be prefetched meanwhile.
  __attribute__((noinline)) Segment prepare(std::int64_t i, bool lead_short) {
    const Span span = spans_[used_ & kSpanMask];
    const std::int64_t slot = i + span.ahead, at = slot & kRingMask;
    std::int64_t count = least(least(kSegment, span.end - i), kRing - at);
    if (slot + count + kRowsAhead > ready_slots_) {
      ready_slots_ = (slot + count + kRowsAhead + 7) / 8 * 8;
      advance_(*this);
    }
    // where ids of one feature are few, the next ones are nearer than they seem
    while (lead_.id < ready_.id && lead_.id + lead_span_.ahead < slot + kRowsAhead) prefetch_row();
    if (lead_.id == lead_span_.end && lead_.id < ready_.id) lead_next();
    std::int64_t fetched = (lead_.id + lead_span_.ahead) & kRingMask;
    const bool alike = !lead_short || reach_ <= kShortReach;
    if (alike && lead_.id + count <= least(ready_.id, lead_span_.end)) {
      count = least(count, kRing - fetched);
      lead_.id += count;
    } else {
      fetched = at;
      const std::int64_t last = least(lead_.id + count, ready_.id);
      while (lead_.id < last) prefetch_row();
    }
    return {{ring_.rows + at}, fetched - at, i + count, reach_ > kShortReach};
  }

  // Prefetches a row; with `long_row`, which may lie on more than two lines.
  SHARKSTORE_INLINE void prefetch(Slot slot, bool long_row) const {
    const Address first = slot.row(), last = slot.last_line();
    line(first);
    if (long_row) {
      line(first + 64 < last ? first + 64 : last);
      line(first + 128 < last ? first + 128 : last);
      if (reach_ > 192)
        for (Address at = first + 192; at < last; at += 64) line(at);
    }
    line(last);
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

  SHARKSTORE_INLINE static void line(Address at) {
    sharkstore::prefetch(reinterpret_cast<const void*>(at));
  }
  SHARKSTORE_INLINE static std::int64_t least(std::int64_t a, std::int64_t b) {
    return a < b ? a : b;
  }

  SHARKSTORE_INLINE void lead_next() {
    lead_span_ = spans_[++lead_.span & kSpanMask];
    reach_ = request_.features[lead_span_.feature].places.reach;
  }
  SHARKSTORE_INLINE void prefetch_row() {
    if (SHARKSTORE_UNLIKELY(lead_.id == lead_span_.end)) lead_next();
    prefetch({ring_.rows + ((lead_.id++ + lead_span_.ahead) & kRingMask)}, reach_ > kShortReach);
  }

  // The next feature that has ids, if there is one. Offsets that fall are told when they are used.
  bool make_span() {
    const Span before = spans_[made_ & kSpanMask];
    while (next_feature_ < part_.last) {
      const int feature = next_feature_++;
      std::int64_t bag = next_feature_ * request_.batch;
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
  std::int64_t ready_slots_ = kRowsAhead + kSegment;
  std::uint64_t reach_ = 0;  // of the rows that are prefetched
  Span lead_span_;
  Span spans_[kSpans];
  Ring ring_;
};

// The ids of a feature in order. Segments go on from one bag to the next: where bags are small, a
// call for each would cost more than its rows.
template <int Dim>
class FeatureWalk {
 public:
  SHARKSTORE_INLINE FeatureWalk(SharedRows& rows, std::int64_t begin) : rows_(rows), next_(begin) {
    segment_.end = begin;
  }

  SHARKSTORE_INLINE std::int64_t next() const { return next_; }

  // Calls use(i, row, tag) for the ids up to `end`, with the rows of later ones on their way.
  template <class Use>
  SHARKSTORE_INLINE void to(std::int64_t end, Use use) {
    while (next_ < end) {
      if (next_ == segment_.end) {
        segment_ = rows_.prepare(next_, kShort);
        slot_ = segment_.first;
      }
      const std::int64_t stop = end < segment_.end ? end : segment_.end;
      for (; next_ < stop; ++next_, ++slot_.at) {
        rows_.prefetch({slot_.at + segment_.lead}, !kShort && segment_.long_lead);
        use(next_, slot_.row(), slot_.tag());
      }
    }
  }

 private:
  static constexpr bool kShort = Dim > 0 && Dim <= 16;

  SharedRows& rows_;
  std::int64_t next_;
  Slot slot_{};
  Segment segment_{};
};

// Pools the bags of a feature that are in the part; gives where the last one ends, or -1.
template <int Dim, Fold How>
std::int64_t pool_feature(SharedRows& all, const Request& request, const Share& part, int index,
                          std::int64_t begin) {
  const Feature& feature = request.features[index];
  const Span span = all.enter(index);
  FeatureWalk<Dim> rows(all, begin);
  const Decoder<Dim> decode(*feature.table);
  const std::int64_t before = index * request.batch;
  const std::int64_t first = part.first_bag > before ? part.first_bag - before : 0;
  const std::int64_t left = part.last_bag - before;
  const std::int64_t last = left < request.batch ? left : request.batch;
  const auto* ends = request.wide ? static_cast<const std::int64_t*>(request.offsets) : nullptr;
  const std::int64_t next_bag = before + first + 1;
  const auto end_of = [&](std::int64_t bag, std::int64_t) SHARKSTORE_LAMBDA {
    return ends ? ends[next_bag + bag] : request.offset(next_bag + bag);
  };
  float* out = request.out + first * request.width + feature.column;
  const auto place = reinterpret_cast<std::uintptr_t>(out);
  const auto next = reinterpret_cast<std::uintptr_t>(out + request.width);
  // places that are not aligned, and parts of vectors, would cost more past the cache than in it
  const bool aligned = (place | next) % (4 * Vec::kLanes) == 0;
  const bool large_bags = span.end - begin > kLargeBag * (last - first);
  const Write write = !request.stream           ? Write::kPlain
                      : large_bags || !aligned ? Write::kAhead
                                               : Write::kStream;
  const std::int64_t ended =
      put_bags<Dim, How>(decode, rows, span.end, last - first, end_of, request.weights,
                         feature.pool == Pool::kMean, out, request.width, write);
  return ended == span.end ? ended : -1;
}

// Writes the rows of a feature that are in the part to `out`; gives where its ids end.
template <int Dim, bool Stream>
std::int64_t lookup_feature(SharedRows& all, const Request& request, int index, std::int64_t begin,
                            float* out) {
  const Span span = all.enter(index);
  FeatureWalk<Dim> rows(all, begin);
  const Decoder<Dim> decode(*request.features[index].table);
  put_rows<Dim, Stream>(decode, rows, span.end, out);
  return span.end;
}

}  // namespace sharkstore::SHARKSTORE_BACKEND
