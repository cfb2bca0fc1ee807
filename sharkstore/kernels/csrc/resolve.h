// Row ids to addresses of rows, branch-free, with every id and every slot checked.
//
// Ids outside the table, and slots past their tier, lead to the default row, so an address
// always leads to bytes that may be read.
#pragma once

#include "inline.h"
#include "request.h"

#if defined(__AVX512F__) && defined(__AVX512VPOPCNTDQ__)
#include <immintrin.h>
#define SHARKSTORE_RESOLVE_EIGHT 1
#endif

namespace sharkstore::SHARKSTORE_BACKEND {

using Address = std::uint64_t;

// What an address leads to: a row of the tier of this index, or one of these.
constexpr int kDefaultTag = kMaxTiers;      // the default row, float32
constexpr int kSkippedTag = kMaxTiers + 1;  // no row: the padding id of a bag
static_assert(kTags == kMaxTiers + 2, "tags are tiers and these");

static_assert(kTags <= 1 << kTagBits, "tags have these bits");
constexpr std::uint64_t kTagMask = (1 << kTagBits) - 1;

constexpr std::int64_t kRing = 256;
constexpr std::int64_t kRingMask = kRing - 1;

// Where ids are on their way: row-map blocks first, then addresses of rows, and kRing entries
// behind each its tag and reach.
struct Ring {
  alignas(64) std::uint64_t blocks[kRing];
  alignas(64) Address rows[kRing];
  alignas(64) std::uint64_t marks[kRing];
};

inline void note_outside(Outcome& found, std::int64_t position) {
  if (found.outside++ == 0) found.first_outside = position;
}
inline void note_slot(Outcome& found, std::uint64_t row, int tier) {
  if (found.bad_row >= 0) return;
  found.bad_row = static_cast<std::int64_t>(row);
  found.bad_tier = tier;
}

template <int Planes>
constexpr int kBlockBytes = Planes == 1 ? 16 : Planes == 2 ? 32 : 64;

// Where a row's block of the row map is: a number, as ids may be of no row.
template <int Planes>
SHARKSTORE_INLINE std::uintptr_t rowmap_block(const Places& r, std::uint64_t id) {
  return reinterpret_cast<std::uintptr_t>(r.rowmap) + (id >> 6) * kBlockBytes<Planes>;
}

template <class Id>
SHARKSTORE_INLINE std::uint64_t id_at(const Id* ids, std::int64_t position) {
  return static_cast<std::uint64_t>(static_cast<std::int64_t>(ids[position]));
}

template <int Planes>
SHARKSTORE_INLINE void resolve_one(const Places& r, std::uint64_t id, std::int64_t position,
                                   std::int64_t slot, Ring& ring, Outcome& found) {
  Address& row = ring.rows[slot & kRingMask];
  std::uint64_t& mark = ring.marks[slot & kRingMask];
  row = r.default_row;
  mark = kDefaultTag;
  if (SHARKSTORE_UNLIKELY(id >= r.rows)) return note_outside(found, position);
  if (SHARKSTORE_UNLIKELY(id == r.padding)) {
    mark = kSkippedTag;
    return;
  }
  std::uint64_t index = id;
  unsigned tier = 0;
  if constexpr (Planes > 0) {
    const auto* block = reinterpret_cast<const std::uint8_t*>(rowmap_block<Planes>(r, id));
    const unsigned bit = static_cast<unsigned>(id) & 63;
    std::uint64_t same = (std::uint64_t{1} << bit) - 1;
    for (int plane = 0; plane < Planes; ++plane) {
      std::uint64_t word;
      std::memcpy(&word, block + 8 * plane, 8);
      const std::uint64_t mine = (word >> bit) & 1;
      tier |= static_cast<unsigned>(mine) << plane;
      same &= ~(word ^ (std::uint64_t{0} - mine));
    }
    std::uint32_t before;
    std::memcpy(&before, block + 8 * Planes + 4 * tier, 4);
    index = before + static_cast<std::uint64_t>(__builtin_popcountll(same));
    if (SHARKSTORE_UNLIKELY(index >= r.length[tier]))
      return note_slot(found, id, static_cast<int>(tier));
  }
  row = r.first[tier] + index * r.stride[tier];
  mark = r.mark[tier];
}

#ifdef SHARKSTORE_RESOLVE_EIGHT
SHARKSTORE_INLINE __m512i all_lanes(std::uint64_t value) {
  return _mm512_set1_epi64(static_cast<long long>(value));
}
SHARKSTORE_INLINE __m512i load_ids(const std::int64_t* ids, __mmask8 lanes) {
  return _mm512_maskz_loadu_epi64(lanes, ids);
}
SHARKSTORE_INLINE __m512i load_ids(const std::int32_t* ids, __mmask8 lanes) {
  return _mm512_cvtepi32_epi64(_mm256_maskz_loadu_epi32(lanes, ids));
}

// What is wrong among eight ids: rare, so out of the way.
inline __attribute__((noinline, cold)) void note_eight(Outcome& found, __m512i id, __m512i tier,
                                                       unsigned outside, unsigned past,
                                                       std::int64_t position) {
  alignas(64) std::uint64_t rows[8], tiers[8];
  _mm512_store_si512(rows, id);
  _mm512_store_si512(tiers, tier);
  for (int lane = 0; lane < 8; ++lane) {
    if (outside >> lane & 1) note_outside(found, position + lane);
    if (past >> lane & 1) note_slot(found, rows[lane], static_cast<int>(tiers[lane]));
  }
}

// Addresses of the row-map blocks of up to eight ids; of the first block for ids outside.
template <class Id, int Planes>
SHARKSTORE_INLINE void find_blocks(const Places& r, const Id* ids, __mmask8 lanes,
                                   std::uint64_t* out) {
  constexpr int shift = 3 + Planes;
  const __m512i id = load_ids(ids, lanes);
  const __mmask8 inside = _mm512_mask_cmplt_epu64_mask(lanes, id, all_lanes(r.rows));
  const __m512i block =
      _mm512_maskz_slli_epi64(inside, _mm512_srli_epi64(id, 6), static_cast<unsigned>(shift));
  _mm512_storeu_si512(
      out, _mm512_add_epi64(block, all_lanes(reinterpret_cast<std::uint64_t>(r.rowmap))));
}

// The planes of eight blocks, and of each the counter of its row's tier, by loads and shuffles:
// with gathers, resolving takes nearly twice as long (Zen 4).
struct Eight {
  __m512i tier, same, before;
};

SHARKSTORE_INLINE __m512i pair(const std::uint64_t* blocks, int i, int j) {
  const auto half = [&](int k) SHARKSTORE_LAMBDA {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(blocks[k]));
  };
  return _mm512_inserti64x4(_mm512_castsi256_si512(half(i)), half(j), 1);
}

SHARKSTORE_INLINE __m512i quad(const std::uint64_t* blocks, int i) {
  const auto part = [&](int k) SHARKSTORE_LAMBDA {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(blocks[k]));
  };
  __m512i all = _mm512_castsi128_si512(part(i));
  all = _mm512_inserti64x2(all, part(i + 2), 1);
  all = _mm512_inserti64x2(all, part(i + 4), 2);
  return _mm512_inserti64x2(all, part(i + 6), 3);
}

// Takes one plane into account; returns the lanes whose bit is set.
SHARKSTORE_INLINE __mmask8 split_plane(__m512i word, __m512i self, Eight& e) {
  const __mmask8 mine = _mm512_test_epi64_mask(word, self);
  e.same = _mm512_mask_and_epi64(_mm512_andnot_si512(word, e.same), mine, e.same, word);
  return mine;
}

// Two counters a lane: the upper one where asked for.
SHARKSTORE_INLINE __m512i pick_counter(__m512i counters, __mmask8 upper) {
  const __m512i picked = _mm512_mask_srli_epi64(counters, upper, counters, 32);
  return _mm512_and_si512(picked, all_lanes(0xffffffff));
}

template <int Planes>
SHARKSTORE_INLINE Eight read_blocks(const std::uint64_t* blocks, __m512i id) {
  const __m512i one = all_lanes(1), two = all_lanes(2);
  const __m512i self = _mm512_sllv_epi64(one, _mm512_and_si512(id, all_lanes(63)));
  Eight e{_mm512_setzero_si512(), _mm512_sub_epi64(self, one), _mm512_setzero_si512()};
  if constexpr (Planes == 1) {
    const __m512i even = quad(blocks, 0), odd = quad(blocks, 1);
    const __mmask8 low = split_plane(_mm512_unpacklo_epi64(even, odd), self, e);
    e.tier = _mm512_maskz_mov_epi64(low, one);
    e.before = pick_counter(_mm512_unpackhi_epi64(even, odd), low);
  } else if constexpr (Planes == 2) {
    const __m512i b02 = pair(blocks, 0, 2), b13 = pair(blocks, 1, 3);
    const __m512i b46 = pair(blocks, 4, 6), b57 = pair(blocks, 5, 7);
    // first and third words of four blocks, then second and fourth
    const __m512i odd0 = _mm512_unpacklo_epi64(b02, b13), odd1 = _mm512_unpacklo_epi64(b46, b57);
    const __m512i even0 = _mm512_unpackhi_epi64(b02, b13), even1 = _mm512_unpackhi_epi64(b46, b57);
    const __mmask8 low = split_plane(_mm512_shuffle_i64x2(odd0, odd1, 0x88), self, e);
    const __mmask8 high = split_plane(_mm512_shuffle_i64x2(even0, even1, 0x88), self, e);
    e.tier = _mm512_maskz_mov_epi64(low, one);
    e.tier = _mm512_mask_or_epi64(e.tier, high, e.tier, two);
    const __m512i counters = _mm512_mask_shuffle_i64x2(
        _mm512_shuffle_i64x2(odd0, odd1, 0xdd), high, even0, even1, 0xdd);
    e.before = pick_counter(counters, low);
  } else {
    const __m512i block = _mm512_loadu_si512(blocks);
    for (int plane = 0; plane < Planes; ++plane) {
      const auto* words = reinterpret_cast<const void*>(8 * plane);
      const __mmask8 mine = split_plane(_mm512_i64gather_epi64(block, words, 1), self, e);
      e.tier = _mm512_mask_or_epi64(e.tier, mine, e.tier, all_lanes(1u << plane));
    }
    const __m512i counter = _mm512_add_epi64(block, _mm512_slli_epi64(e.tier, 2));
    e.before = _mm512_cvtepu32_epi64(
        _mm512_i64gather_epi32(counter, reinterpret_cast<const void*>(8 * Planes), 1));
  }
  return e;
}

// Addresses and tags of up to eight ids; those of other lanes are of no meaning.
template <class Id, int Planes>
SHARKSTORE_INLINE void resolve_eight(const Places& r, const Id* ids, std::int64_t position,
                                     std::int64_t ahead, __mmask8 lanes, Ring& ring,
                                     Outcome& found) {
  const std::int64_t at = (position + ahead) & kRingMask;
  const __m512i id = load_ids(ids + position, lanes);
  __mmask8 skip = 0;
  if (r.padding != r.rows) {
    skip = _mm512_mask_cmpeq_epi64_mask(lanes, id, all_lanes(r.padding));
    lanes = static_cast<__mmask8>(lanes & ~skip);
  }
  const __mmask8 inside = _mm512_mask_cmplt_epu64_mask(lanes, id, all_lanes(r.rows));
  __m512i row, mark, tier = _mm512_setzero_si512();
  __mmask8 good = inside;
  if constexpr (Planes == 0) {
    row = _mm512_add_epi64(all_lanes(r.first[0]), _mm512_mul_epu32(id, all_lanes(r.stride[0])));
    mark = all_lanes(r.mark[0]);
  } else {
    const Eight e = read_blocks<Planes>(ring.blocks + at, id);
    tier = e.tier;
    const __m512i slot = _mm512_add_epi64(e.before, _mm512_popcnt_epi64(e.same));
    const __m512i length = _mm512_permutexvar_epi64(tier, _mm512_load_si512(r.length));
    const __m512i base = _mm512_permutexvar_epi64(tier, _mm512_load_si512(r.first));
    const __m512i step = _mm512_permutexvar_epi64(tier, _mm512_load_si512(r.stride));
    good = _mm512_mask_cmplt_epu64_mask(inside, slot, length);
    row = _mm512_add_epi64(base, _mm512_mul_epu32(slot, step));
    mark = _mm512_permutexvar_epi64(tier, _mm512_load_si512(r.mark));
  }
  if (SHARKSTORE_UNLIKELY(good != lanes)) {
    note_eight(found, id, tier, static_cast<unsigned>(lanes & ~inside),
               static_cast<unsigned>(inside & ~good), position);
    row = _mm512_mask_mov_epi64(all_lanes(r.default_row), good, row);
    mark = _mm512_mask_mov_epi64(all_lanes(kDefaultTag), good, mark);
  }
  mark = _mm512_mask_mov_epi64(mark, skip, all_lanes(kSkippedTag));
  _mm512_store_si512(ring.rows + at, row);
  _mm512_store_si512(ring.marks + at, mark);
}
#endif

#ifdef SHARKSTORE_RESOLVE_EIGHT
// Lanes of the ids that are left, eight at most.
SHARKSTORE_INLINE __mmask8 lanes_left(std::int64_t left) {
  return left >= 8 ? 0xff : static_cast<__mmask8>((1u << left) - 1);
}
#endif

// Prefetches the row-map blocks of the ids from `from` to `to`. Id i has its place in the ring at
// i + ahead; that of `from` is a multiple of eight.
template <class Id, int Planes>
SHARKSTORE_INLINE void prefetch_blocks(const Places& r, const Id* ids, std::int64_t from,
                                       std::int64_t to, std::int64_t ahead, Ring& ring) {
  if constexpr (Planes == 0) return;
#ifdef SHARKSTORE_RESOLVE_EIGHT
  for (; from < to; from += 8) {
    std::uint64_t* blocks = ring.blocks + ((from + ahead) & kRingMask);
    find_blocks<Id, Planes>(r, ids + from, lanes_left(to - from), blocks);
    SHARKSTORE_UNROLL
    for (int lane = 0; lane < 8; ++lane) prefetch(reinterpret_cast<const void*>(blocks[lane]));
  }
#else
  (void)ring, (void)ahead;
  for (; from < to; ++from)
    prefetch(reinterpret_cast<const void*>(rowmap_block<Planes>(r, id_at(ids, from))));
#endif
}

// Addresses and tags of the ids from `from` to `to`, whose blocks were prefetched.
template <class Id, int Planes>
SHARKSTORE_INLINE void resolve_range(const Places& r, const Id* ids, std::int64_t from,
                                     std::int64_t to, std::int64_t ahead, Ring& ring,
                                     Outcome& found) {
#ifdef SHARKSTORE_RESOLVE_EIGHT
  for (; from < to; from += 8)
    resolve_eight<Id, Planes>(r, ids, from, ahead, lanes_left(to - from), ring, found);
#else
  for (; from < to; ++from)
    resolve_one<Planes>(r, id_at(ids, from), from, from + ahead, ring, found);
#endif
}

}  // namespace sharkstore::SHARKSTORE_BACKEND
