// Rows of float32 to codes of a codebook, bit for bit as kernels/pq.py. Spec: "pq".
//
// A lane is a row.
#pragma once

#include "metric.h"

namespace sharkstore::SHARKSTORE_BACKEND {

// Values of one block, of some groups of rows.
template <int Sub>
using Few = Vec[kSides][Sub];

// The values of a block less its center; zeros behind a row's end.
template <int Sub>
SHARKSTORE_INLINE void center_values(const Book& book, const Transposed (&values)[kSides],
                                     int block, Few<Sub>& out) {
  const float* center = book.center + block * Sub;
  for (int side = 0; side < kSides; ++side) {
    const Transposed& from = values[side];
    SHARKSTORE_UNROLL
    for (int d = 0; d < Sub; ++d) {
      const int j = block * Sub + d;
      out[side][d] = j < from.dim() ? from[j] - Vec::all(center[d]) : Vec::all(0.0f);
    }
  }
}

// Entries that are told from the others at once.
constexpr int kNear = 16;

// The terms of a codebook as they are searched, filled up with entries that are never the least.
template <int Sub>
class Sought {
 public:
  Sought(const Book& book, int blocks)
      : groups_((book.entries + kNear - 1) / kNear),
        held_(new float[static_cast<std::size_t>(2 * blocks * terms())]()),
        most_(new float[static_cast<std::size_t>(blocks * (1 + Sub))]()) {
    for (int b = 0; b < blocks; ++b) {
      float* each = held_.get() + 2 * b * terms();
      float* most = most_.get() + b * (1 + Sub);
      const float* from = book.terms + b * book.entries * (1 + Sub);
      for (int k = 0; k < groups_ * kNear; ++k, from += 1 + Sub)
        for (int d = 0; d <= Sub; ++d) {
          const bool none = k >= book.entries;
          const float term = !none ? from[d] : d ? 0.0f : __builtin_inff();
          each[k * (1 + Sub) + d] = d ? term : -term;
          each[terms() + (k / kNear * (1 + Sub) + d) * kNear + k % kNear] = term;
          const float size = __builtin_fabsf(term);
          // once NaN, always NaN
          if (!none && most[d] == most[d] && !(size <= most[d])) most[d] = size;
        }
    }
  }

  int groups() const { return groups_; }
  // Of each entry its negative half size, then what it is of.
  SHARKSTORE_INLINE const float* each(int block) const { return held_.get() + 2 * block * terms(); }
  // Of each kNear entries their half sizes, then what these are of.
  SHARKSTORE_INLINE const float* beside(int block) const { return each(block) + terms(); }
  // The largest size of each term.
  SHARKSTORE_INLINE const float* most(int block) const { return most_.get() + block * (1 + Sub); }

 private:
  SHARKSTORE_INLINE std::int64_t terms() const {
    return std::int64_t{groups_} * kNear * (1 + Sub);
  }

  int groups_;
  std::unique_ptr<float[]> held_, most_;
};

// sum + a * b, rounded once where that is faster, else twice.
SHARKSTORE_INLINE Vec roughly(Vec sum, Vec a, Vec b) {
#if defined(__AVX512F__) && defined(__AVX512VPOPCNTDQ__)
  return {_mm512_fmadd_ps(a.v, b.v, sum.v)};
#elif defined(__ARM_NEON) && !defined(SHARKSTORE_PLAIN)
  return {vfmaq_f32(sum.v, a.v, b.v)};
#else
  return sum + a * b;
#endif
}

// Which kNear entries have the one of least score, by scores that are rounded otherwise: for each
// row its `group`, and bit r of `unsure` where another group comes too near.
template <int Sub>
SHARKSTORE_INLINE void nearest_groups(const Sought<Sub>& sought, int block,
                                      const Few<Sub>& target, Vec (&group)[kSides],
                                      unsigned (&unsure)[kSides]) {
  const float *term = sought.each(block), *most = sought.most(block);
  Vec best[kSides], next[kSides], number = Vec::all(0.0f);
  for (int side = 0; side < kSides; ++side) {
    best[side] = next[side] = Vec::all(-__builtin_inff());
    group[side] = number;
  }
  for (int g = 0; g < sought.groups(); ++g) {
    Vec held[2][kSides];
    for (int k = 0; k < kNear; ++k, term += 1 + Sub) {
      SHARKSTORE_UNROLL
      for (int side = 0; side < kSides; ++side) {
        Vec score = Vec::all(term[0]);
        SHARKSTORE_UNROLL
        for (int d = 0; d < Sub; ++d) score = roughly(score, target[side][d], Vec::all(term[1 + d]));
        held[k % 2][side] = k < 2 ? score : Vec::max(score, held[k % 2][side]);
      }
    }
    for (int side = 0; side < kSides; ++side) {
      const Vec own = Vec::max(held[0][side], held[1][side]);
      next[side] = Vec::max(next[side], Vec::where_less(best[side], own, best[side], own));
      group[side] = Vec::where_less(best[side], own, number, group[side]);
      best[side] = Vec::max(best[side], own);
    }
    number = number + Vec::all(1.0f);
  }
  for (int side = 0; side < kSides; ++side) {
    // Both ways of rounding are off by (2 Sub + 1) / 2 units of 2^-23 of this sum at most; four
    // times it must be finite, so that neither way overflows.
    Vec sum = Vec::all(most[0]);
    for (int d = 0; d < Sub; ++d) {
      const Vec value = target[side][d];
      sum = sum + Vec::max(value, Vec::all(0.0f) - value) * Vec::all(most[1 + d]);
    }
    const Vec off = sum * Vec::all(4.0f) * Vec::all((Sub + 2) * 0x1p-24f) + Vec::all(0x1p-120f);
    // a difference of infinities is never sure
    const Vec one = Vec::all(1.0f), zero = Vec::all(0.0f);
    const Vec sure = Vec::where_less(next[side] + off, best[side], one, zero);
    unsure[side] = Vec::above(one, sure);
  }
}

// Scores of entries at `terms` and beside it, of a row whose values lie kLanes apart.
template <int Sub>
SHARKSTORE_INLINE Vec scores_beside(const float* terms, const float* row) {
  const auto at = reinterpret_cast<const std::uint8_t*>(terms);
  Vec score = Vec::load_f32(at);
  SHARKSTORE_UNROLL
  for (int d = 0; d < Sub; ++d)
    score = score - Vec::all(row[d * Vec::kLanes]) * Vec::load_f32(at + 4 * (1 + d) * kNear);
  return score;
}

// The entry of least score in each row's own group, the first of equal ones.
template <int Sub>
SHARKSTORE_INLINE Vec nearest_within(const float* beside, const float* rows, Vec group) {
  float groups[Vec::kLanes];
  group.store(groups);
  Vec best = Vec::all(__builtin_inff()), code = Vec::all(0.0f);
  for (int first = 0; first < kNear; first += Vec::kLanes) {
    Vec scores[Vec::kLanes];
    SHARKSTORE_UNROLL
    for (int r = 0; r < Vec::kLanes; ++r) {
      const float* terms = beside + static_cast<int>(groups[r]) * (kNear * (1 + Sub)) + first;
      scores[r] = scores_beside<Sub>(terms, rows + r);
    }
    Vec::transpose(scores);
    SHARKSTORE_UNROLL
    for (int k = 0; k < Vec::kLanes; ++k) {
      const Vec number = Vec::all(static_cast<float>(first + k));
      code = Vec::where_less(scores[k], best, number, code);
      best = Vec::where_less(scores[k], best, scores[k], best);
    }
  }
  return group * Vec::all(static_cast<float>(kNear)) + code;
}

// The entry of least score of all for one row, the first of equal ones; never one of NaN.
template <int Sub>
float nearest_of_all(const Sought<Sub>& sought, int block, const float* row) {
  const float* terms = sought.beside(block);
  float least = __builtin_inff();
  int code = 0;
  for (int g = 0; g < sought.groups(); ++g, terms += kNear * (1 + Sub))
    for (int first = 0; first < kNear; first += Vec::kLanes) {
      const Vec scores = scores_beside<Sub>(terms + first, row);
      const Vec limit = Vec::all(least);
      if (!Vec::above(limit, scores)) continue;
      float held[Vec::kLanes];
      scores.store(held);
      for (int k = 0; k < Vec::kLanes; ++k)
        if (held[k] < least) {
          least = held[k];
          code = g * kNear + first + k;
        }
    }
  return static_cast<float>(code);
}

// The entry of least score for each row, the first of equal ones; never one of NaN. The scores
// themselves are taken of kNear entries alone, where it is sure that one of these is the least.
template <int Sub>
SHARKSTORE_INLINE void nearest_entries(const Sought<Sub>& sought, int block,
                                       const Few<Sub>& target, Vec (&code)[kSides]) {
  Vec group[kSides];
  unsigned unsure[kSides];
  nearest_groups<Sub>(sought, block, target, group, unsure);
  for (int side = 0; side < kSides; ++side) {
    float rows[Sub * Vec::kLanes];
    for (int d = 0; d < Sub; ++d) target[side][d].store(rows + d * Vec::kLanes);
    code[side] = nearest_within<Sub>(sought.beside(block), rows, group[side]);
    if (SHARKSTORE_UNLIKELY(unsure[side] != 0)) {
      float codes[Vec::kLanes];
      code[side].store(codes);
      for (unsigned left = unsure[side]; left != 0; left &= left - 1) {
        const int r = __builtin_ctz(left);
        codes[r] = nearest_of_all<Sub>(sought, block, rows + r);
      }
      code[side] = Vec::load_f32(reinterpret_cast<const std::uint8_t*>(codes));
    }
  }
}

// Codes of some groups of rows: by block, then by row.
class Codes {
 public:
  static constexpr int kRows = kSides * Group::kRows;

  explicit Codes(int blocks)
      : blocks_(blocks), held_(new std::uint8_t[static_cast<std::size_t>(blocks * kRows)]) {}

  SHARKSTORE_INLINE void put(int block, const Vec (&code)[kSides]) {
    for (int side = 0; side < kSides; ++side)
      Vec::store_bytes(held_.get() + block * kRows + side * Group::kRows,
                       Vec::nearest(code[side]));
  }
  SHARKSTORE_INLINE const std::uint8_t* of(int block) const {
    return held_.get() + block * kRows;
  }
  // Writes the codes of rows one behind the other; gives the address behind them.
  SHARKSTORE_INLINE std::uint8_t* write(std::uint8_t* out, std::int64_t rows) const {
    for (int r = 0; r < (rows < kRows ? rows : kRows); ++r)
      for (int b = 0; b < blocks_; ++b) *out++ = held_[b * kRows + r];
    return out;
  }

 private:
  int blocks_;
  std::unique_ptr<std::uint8_t[]> held_;
};

// Values of one block times its own part of the root, added to what errors before it come to.
template <int Sub>
SHARKSTORE_INLINE void root_values(const Pull<Sub>& pull, const float* own,
                                   const Few<Sub>& values, Few<Sub>& out) {
  SHARKSTORE_UNROLL
  for (int side = 0; side < kSides; ++side) {
    SHARKSTORE_UNROLL
    for (int d = 0; d < Sub; ++d) {
      Vec sum = pull.at[side][d];
      SHARKSTORE_UNROLL
      for (int i = 0; i <= d; ++i) sum = sum + Vec::all(own[i * Sub + d]) * values[side][i];
      out[side][d] = sum;
    }
  }
}

// The values of a block less the entries that codes name; zeros behind a row's end.
template <int Sub>
SHARKSTORE_INLINE void off_entries(const Book& book, const Transposed (&values)[kSides],
                                   const std::uint8_t* codes, int block, Few<Sub>& out) {
  const float* entries = book.values + block * book.entries * Sub;
  float held[kSides][Sub][Vec::kLanes];
  for (int side = 0; side < kSides; ++side)
    for (int r = 0; r < Vec::kLanes; ++r) {
      const float* from = entries + codes[side * Vec::kLanes + r] * Sub;
      SHARKSTORE_UNROLL
      for (int d = 0; d < Sub; ++d) held[side][d][r] = from[d];
    }
  for (int side = 0; side < kSides; ++side) {
    SHARKSTORE_UNROLL
    for (int d = 0; d < Sub; ++d) {
      const int j = block * Sub + d;
      const Vec entry = Vec::load_f32(reinterpret_cast<const std::uint8_t*>(held[side][d]));
      out[side][d] = j < values[side].dim() ? values[side][j] - entry : Vec::all(0.0f);
    }
  }
}

template <int Sub>
SHARKSTORE_INLINE void add_squares(const Few<Sub>& errors, Vec (&total)[kSides]) {
  for (int side = 0; side < kSides; ++side) {
    SHARKSTORE_UNROLL
    for (int d = 0; d < Sub; ++d) total[side] = total[side] + errors[side][d] * errors[side][d];
  }
}

// Writes squared errors of some groups of rows, as far as rows are left.
SHARKSTORE_INLINE void put_sides(float* sizes, const Vec (&total)[kSides], std::int64_t left) {
  for (int side = 0; side < kSides; ++side, sizes += Group::kRows, left -= Group::kRows)
    put_sizes(sizes, total[side], left < Vec::kLanes ? static_cast<int>(left) : Vec::kLanes);
}

// Writes codes to `out` and squared errors to `sizes`, where they are not null.
template <int Sub>
void encode_nearest(const Code& code, const Source& source, std::uint8_t* out, float* sizes) {
  const Book& book = *code.book;
  const int blocks = (source.dim + Sub - 1) / Sub;
  const Sought<Sub> sought(book, blocks);
  Transposed values[kSides] = {Transposed(source.dim), Transposed(source.dim)};
  Codes codes(blocks);
  for (std::int64_t i = 0; i < source.count; i += Codes::kRows) {
    for (int side = 0; side < kSides; ++side)
      values[side].take(Group(source, i + side * Group::kRows));
    Vec total[kSides] = {Vec::all(0.0f), Vec::all(0.0f)};
    for (int b = 0; b < blocks; ++b) {
      Few<Sub> target;
      Vec found[kSides];
      center_values<Sub>(book, values, b, target);
      nearest_entries<Sub>(sought, b, target, found);
      codes.put(b, found);
      if (!sizes) continue;
      off_entries<Sub>(book, values, codes.of(b), b, target);
      add_squares<Sub>(target, total);
    }
    if (sizes) put_sides(sizes + i, total, source.count - i);
    if (out) out = codes.write(out, source.count - i);
  }
}

// The same in a metric.
template <int Sub>
void encode_rooted(const Code& code, const Source& source, std::uint8_t* out, float* sizes) {
  const Book& book = *code.book;
  const int blocks = (source.dim + Sub - 1) / Sub;
  const Tiles<Sub> root(book.root, blocks * Sub, book.diagonal);
  const Sought<Sub> sought(book, blocks);
  Transposed values[kSides] = {Transposed(source.dim), Transposed(source.dim)};
  Codes codes(blocks);
  const std::unique_ptr<Vec[]> errors(new Vec[static_cast<std::size_t>(blocks * Sub * kSides)]);
  for (std::int64_t i = 0; i < source.count; i += Codes::kRows) {
    for (int side = 0; side < kSides; ++side)
      values[side].take(Group(source, i + side * Group::kRows));
    Vec total[kSides] = {Vec::all(0.0f), Vec::all(0.0f)};
    for (int at = 0; at < blocks; ++at) {
      const int b = static_cast<int>(book.order[at]);
      const float* own = root[at];
      const Pull<Sub> pull(own, errors.get(), root.first(at), at * Sub);
      Few<Sub> off, target;
      Vec found[kSides];
      center_values<Sub>(book, values, b, off);
      root_values<Sub>(pull, own, off, target);
      nearest_entries<Sub>(sought, b, target, found);
      codes.put(b, found);
      off_entries<Sub>(book, values, codes.of(b), b, off);
      for (int side = 0; side < kSides; ++side) {
        SHARKSTORE_UNROLL
        for (int d = 0; d < Sub; ++d) errors[(at * Sub + d) * kSides + side] = off[side][d];
      }
      if (!sizes) continue;
      root_values<Sub>(pull, own, off, target);
      add_squares<Sub>(target, total);
    }
    if (sizes) put_sides(sizes + i, total, source.count - i);
    if (out) out = codes.write(out, source.count - i);
  }
}

template <int Sub>
void encode_entries(const Code& code, const Source& source, std::uint8_t* out, float* sizes) {
  if (code.book->root) encode_rooted<Sub>(code, source, out, sizes);
  else encode_nearest<Sub>(code, source, out, sizes);
}

// `out`: where codes go, `sizes`: where squared errors do; or null.
inline void encode_pq(const Code& code, const Source& source, std::uint8_t* out,
                      float* sizes = nullptr) {
  switch (sub_values(code.kind)) {
    case 2: return encode_entries<2>(code, source, out, sizes);
    case 4: return encode_entries<4>(code, source, out, sizes);
    default: return encode_entries<8>(code, source, out, sizes);
  }
}

}  // namespace sharkstore::SHARKSTORE_BACKEND
