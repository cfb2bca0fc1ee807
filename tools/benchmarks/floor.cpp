// The least that a lookup can cost: the same bytes gathered with every address known. No row
// map, no decoding. Compiled for one table: DIM values a row; ROW_BYTES and HEAD_BYTES have a
// figure for each tier; CACHE is the cache that rows are prefetched into, 1 or 2.
#include <cstddef>
#include <cstdint>
#include <cstring>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define ALWAYS static __attribute__((always_inline)) inline

namespace {

#if defined(__AVX512F__)
constexpr int kVector = 64;
#elif defined(__AVX__)
constexpr int kVector = 32;
#else
constexpr int kVector = 16;
#endif
template <int kBytes>
struct Floats {
  typedef float Value __attribute__((vector_size(kBytes)));
  typedef float Anywhere __attribute__((vector_size(kBytes), aligned(1), may_alias));
};
using Vector = Floats<kVector>::Value;

constexpr int kDim = DIM;
constexpr int kRow[] = {ROW_BYTES};    // of a stored row, by tier
constexpr int kHead[] = {HEAD_BYTES};  // of them ahead of the codes
constexpr int kTiers = sizeof kRow / sizeof *kRow;
constexpr int kLine = 64;
constexpr int kRowsAhead = 64;  // how much earlier a row-map block is asked for than its row
static_assert(kDim * 4 % kVector == 0, "whole vectors only");

// lines that a row of some bytes can touch; arrays start on a line
constexpr int lines_of(int bytes) {
  if (kLine % bytes == 0) return 1;
  return bytes / kLine + (bytes % kLine ? 2 : 0);
}

constexpr int most_lines() {
  int most = 0;
  for (int bytes : kRow) most = lines_of(bytes) > most ? lines_of(bytes) : most;
  return most;
}

// an entry: where a row starts, and its tier above
ALWAYS const std::uint8_t* row_of(std::uint64_t entry) {
  return reinterpret_cast<const std::uint8_t*>(entry & ((std::uint64_t{1} << 60) - 1));
}

// gcc 12 takes a helper that only prefetches for a pure function and drops calls of it, unless
// it is inlined
ALWAYS void prefetch(const void* p) { __builtin_prefetch(p, 0, CACHE == 1 ? 3 : 2); }

// every line of a row, without a branch on the tier
ALWAYS void prefetch_row(std::uint64_t entry) {
  static constexpr int kLines = most_lines();
  const std::uint8_t* row = row_of(entry);
  const int last = kRow[entry >> 60] - 1;
  prefetch(row);
#pragma GCC unroll 64
  for (int i = 1; i < kLines; ++i) prefetch(row + (kLine * i < last ? kLine * i : last));
}

// Some bytes, zeros behind them. A masked load would do, but touches the line behind, too.
template <int kBytes>
ALWAYS Vector load(const std::uint8_t* p) {
#if defined(__AVX512F__)
  const auto low = [p]() __attribute__((always_inline)) {
    return _mm512_zextsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  };
  const auto part = [p](int at) __attribute__((always_inline)) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + at));
  };
  if constexpr (kBytes == 16) return reinterpret_cast<Vector>(_mm512_zextsi128_si512(part(0)));
  if constexpr (kBytes == 32) return reinterpret_cast<Vector>(low());
  if constexpr (kBytes == 48)
    return reinterpret_cast<Vector>(_mm512_inserti32x4(low(), part(32), 2));
#elif defined(__AVX__)
  if constexpr (kBytes == 16)
    return reinterpret_cast<Vector>(
        _mm256_zextsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#endif
  return *reinterpret_cast<const Floats<kVector>::Anywhere*>(p);
}

// Two ways to take a row as it lies, repeated to the length of its answer, or added up once. The
// first has a branch on the tier: nothing is loaded in vain, but it is guessed wrong as often as
// tiers are mixed.
struct Branching {
  using Value = Vector;
  static constexpr int kCount = kDim * 4 / kVector;

  template <bool kPool, int kTier = 0>
  ALWAYS void take(const std::uint8_t* row, unsigned tier, Value* sums) {
    if constexpr (kTier + 1 < kTiers) {
      if (tier != kTier) return take<kPool, kTier + 1>(row, tier, sums);
    }
    constexpr int kCodes = kRow[kTier] - kHead[kTier];
    constexpr int kEach = kCodes < kVector ? kCodes : kVector;
#pragma GCC unroll 64
    for (int j = 0; j < (kPool ? (kCodes + kEach - 1) / kEach : kCount); ++j) {
      const int from = j * kVector < kCodes - kEach ? j * kVector : kCodes - kEach;
      const Value v = load<kEach>(row + kHead[kTier] + from);
      sums[j] = kPool ? sums[j] + v : v;
    }
  }
};

constexpr int smallest_row() {
  int least = kRow[0];
  for (int bytes : kRow) least = bytes < least ? bytes : least;
  return least;
}

constexpr int piece_bytes() {
  int bytes = 16;
  while (bytes < kVector && 2 * bytes <= smallest_row()) bytes *= 2;
  return bytes;
}

// The second has none: a row is loaded in as many pieces as the longest, the later ones of a
// short row from its end, so that no line is touched beside its own.
struct BranchFree {
  static constexpr int kPiece = piece_bytes();
  using Value = Floats<kPiece>::Value;
  static constexpr int kCount = kDim * 4 / kPiece;

  template <bool kPool>
  ALWAYS void take(const std::uint8_t* row, unsigned tier, Value* sums) {
    const int last = kRow[tier] - kPiece;
#pragma GCC unroll 64
    for (int j = 0; j < kCount; ++j) {
      const int from = j * kPiece < last ? j * kPiece : last;
      const Value v = *reinterpret_cast<const Floats<kPiece>::Anywhere*>(row + from);
      sums[j] = kPool ? sums[j] + v : v;
    }
  }
};

template <bool kStream, class Way>
ALWAYS void store(float* out, const typename Way::Value* values) {
  constexpr int kBytes = sizeof(typename Way::Value);
#pragma GCC unroll 64
  for (int j = 0; j < Way::kCount; ++j) {
    float* to = out + j * (kBytes / 4);
#if defined(__AVX512F__)
    if constexpr (kStream && kBytes == 64) {
      _mm512_stream_ps(to, values[j]);
      continue;
    }
#endif
#if defined(__AVX__)
    if constexpr (kStream && kBytes == 32) {
      _mm256_stream_ps(to, values[j]);
      continue;
    }
#endif
#if defined(__x86_64__)
    if constexpr (kStream && kBytes == 16) {
      _mm_stream_ps(to, values[j]);
      continue;
    }
#endif
    *reinterpret_cast<typename Floats<kBytes>::Anywhere*>(to) = values[j];
  }
}

struct Task {
  const std::uint64_t* entries;
  const std::int64_t* ids;     // with a row map only
  const std::uint8_t* rowmap;  // null: none
  std::int64_t block_bytes;    // of the row map
  std::int64_t count;
  std::int64_t ahead;  // rows between prefetch and use
};

template <bool kMap>
struct Pipe {
  const Task& task;
  std::uint64_t seen = 0;  // so that loads of the row map are not dropped

  ALWAYS const std::uint8_t* block(const Task& task, std::int64_t i) {
    return task.rowmap + (task.ids[i] >> 6) * task.block_bytes;
  }
  __attribute__((always_inline)) inline void ask_row(std::int64_t i) {
    if constexpr (kMap) {
      std::uint64_t word;
      std::memcpy(&word, block(task, i), 8);
      seen ^= word;
    }
    prefetch_row(task.entries[i]);
  }
  __attribute__((always_inline)) inline void start() {
    if constexpr (kMap)
      for (std::int64_t i = 0; i < task.ahead + kRowsAhead && i < task.count; ++i)
        prefetch(block(task, i));
    for (std::int64_t i = 0; i < task.ahead && i < task.count; ++i) ask_row(i);
  }
  // the last row that has no end in sight
  __attribute__((always_inline)) inline std::int64_t calm() const {
    return task.count - task.ahead - (kMap ? kRowsAhead : 0);
  }
  __attribute__((always_inline)) inline void step(std::int64_t i) {
    if constexpr (kMap) prefetch(block(task, i + task.ahead + kRowsAhead));
    ask_row(i + task.ahead);
  }
  __attribute__((always_inline)) inline void last_step(std::int64_t i) {
    if (i + task.ahead < task.count) ask_row(i + task.ahead);
  }
};

template <class Way, bool kStream, bool kMap>
std::uint64_t lookup(const Task& task, float* out) {
  Pipe<kMap> pipe{task};
  pipe.start();
  const auto one = [&](std::int64_t i) __attribute__((always_inline)) {
    typename Way::Value values[Way::kCount];
    const std::uint64_t entry = task.entries[i];
    Way::template take<false>(row_of(entry), entry >> 60, values);
    store<kStream, Way>(out + i * kDim, values);
  };
  std::int64_t i = 0;
  for (; i < pipe.calm(); ++i) {
    one(i);
    pipe.step(i);
  }
  for (; i < task.count; ++i) {
    one(i);
    pipe.last_step(i);
  }
  return pipe.seen;
}

template <class Way, bool kStream, bool kMap>
std::uint64_t bags(const Task& task, const std::int64_t* offsets, std::int64_t count, float* out) {
  Pipe<kMap> pipe{task};
  pipe.start();
  std::int64_t i = 0;
  for (std::int64_t bag = 0; bag < count; ++bag) {
    typename Way::Value sums[Way::kCount] = {};
    const auto one = [&] __attribute__((always_inline)) {
      const std::uint64_t entry = task.entries[i];
      Way::template take<true>(row_of(entry), entry >> 60, sums);
    };
    const std::int64_t end = offsets[bag + 1];
    if (end <= pipe.calm())
      for (; i < end; ++i) {
        one();
        pipe.step(i);
      }
    else
      for (; i < end; ++i) {
        one();
        pipe.last_step(i);
      }
    store<kStream, Way>(out + bag * kDim, sums);
  }
  return pipe.seen;
}

template <class Way, bool kStream>
std::uint64_t run(const Task& task, const std::int64_t* offsets, std::int64_t count, float* out) {
  std::uint64_t seen;
  if (offsets)
    seen = task.rowmap ? bags<Way, kStream, true>(task, offsets, count, out)
                       : bags<Way, kStream, false>(task, offsets, count, out);
  else
    seen = task.rowmap ? lookup<Way, kStream, true>(task, out)
                       : lookup<Way, kStream, false>(task, out);
#if defined(__x86_64__)
  if constexpr (kStream) _mm_sfence();
#endif
  return seen;
}

}  // namespace

// Gathers rows; in bags where there are offsets.
extern "C" std::uint64_t floor_run(const Task* task, int branching, int stream,
                                   const std::int64_t* offsets, std::int64_t count, float* out) {
  if (branching)
    return stream ? run<Branching, true>(*task, offsets, count, out)
                  : run<Branching, false>(*task, offsets, count, out);
  return stream ? run<BranchFree, true>(*task, offsets, count, out)
                : run<BranchFree, false>(*task, offsets, count, out);
}
