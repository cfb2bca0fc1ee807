// The least that a lookup can cost: the same bytes gathered with every address known. No row
// map, no decoding. Compiled for one table: DIM values a row; ROW_BYTES and HEAD_BYTES have a
// figure for each tier.
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
typedef float Vector __attribute__((vector_size(kVector)));
typedef float Loose __attribute__((vector_size(kVector), aligned(1), may_alias));

constexpr int kDim = DIM;
constexpr int kRow[] = {ROW_BYTES};    // of a stored row, by tier
constexpr int kHead[] = {HEAD_BYTES};  // of them ahead of the codes
constexpr int kTiers = sizeof kRow / sizeof *kRow;
constexpr int kVectors = kDim * 4 / kVector;
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
ALWAYS void prefetch(const void* p) { __builtin_prefetch(p, 0, 3); }

// every line of a row, without a branch on the tier
ALWAYS void prefetch_row(std::uint64_t entry) {
  static constexpr int kLines = most_lines();
  const std::uint8_t* row = row_of(entry);
  const int last = kRow[entry >> 60] - 1;
  prefetch(row);
#pragma GCC unroll 64
  for (int i = 1; i < kLines; ++i) prefetch(row + (kLine * i < last ? kLine * i : last));
}

template <int kBytes>
ALWAYS Vector load(const std::uint8_t* p) {
#if defined(__AVX512F__)
  if constexpr (kBytes == 16)
    return reinterpret_cast<Vector>(
        _mm512_zextsi128_si512(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
  if constexpr (kBytes == 32)
    return reinterpret_cast<Vector>(
        _mm512_zextsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
#elif defined(__AVX__)
  if constexpr (kBytes == 16)
    return reinterpret_cast<Vector>(
        _mm256_zextsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#endif
  if constexpr (kBytes < kVector) {
    Vector v = {};
    std::memcpy(&v, p, kBytes);
    return v;
  }
  return *reinterpret_cast<const Loose*>(p);
}

// a row as it lies, repeated to the length of its answer, or added up once
template <int kTier, bool kPool>
ALWAYS void take_tier(const std::uint8_t* row, Vector* sums) {
  constexpr int kCodes = kRow[kTier] - kHead[kTier];
  constexpr int kEach = kCodes < kVector ? kCodes : kVector;
#pragma GCC unroll 64
  for (int j = 0; j < (kPool ? (kCodes + kEach - 1) / kEach : kVectors); ++j) {
    const Vector v = load<kEach>(row + kHead[kTier] + j * kVector % kCodes);
    sums[j] = kPool ? sums[j] + v : v;
  }
}

template <bool kPool, int kTier = 0>
ALWAYS void take(const std::uint8_t* row, unsigned tier, Vector* sums) {
  if constexpr (kTier + 1 < kTiers) {
    if (tier != kTier) return take<kPool, kTier + 1>(row, tier, sums);
  }
  take_tier<kTier, kPool>(row, sums);
}

template <bool kStream>
ALWAYS void store(float* out, const Vector* values) {
#pragma GCC unroll 64
  for (int j = 0; j < kVectors; ++j) {
    float* to = out + j * (kVector / 4);
#if defined(__AVX512F__)
    if constexpr (kStream) _mm512_stream_ps(to, values[j]);
#elif defined(__AVX__)
    if constexpr (kStream) _mm256_stream_ps(to, values[j]);
#elif defined(__x86_64__)
    if constexpr (kStream) _mm_stream_ps(to, values[j]);
#else
    if constexpr (kStream) *reinterpret_cast<Loose*>(to) = values[j];
#endif
    if constexpr (!kStream) *reinterpret_cast<Loose*>(to) = values[j];
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

template <bool kStream, bool kMap>
std::uint64_t lookup(const Task& task, float* out) {
  Pipe<kMap> pipe{task};
  pipe.start();
  std::int64_t i = 0;
  const auto one = [&](std::int64_t at) __attribute__((always_inline)) {
    Vector values[kVectors];
    const std::uint64_t entry = task.entries[at];
    take<false>(row_of(entry), entry >> 60, values);
    store<kStream>(out + at * kDim, values);
  };
  for (; i < pipe.calm(); ++i) {
    one(i);
    pipe.step(i);
  }
  for (; i < task.count; ++i) {
    one(i);
    pipe.last_step(i);
  }
#if defined(__x86_64__)
  if constexpr (kStream) _mm_sfence();
#endif
  return pipe.seen;
}

template <bool kStream, bool kMap>
std::uint64_t bags(const Task& task, const std::int64_t* offsets, std::int64_t count, float* out) {
  Pipe<kMap> pipe{task};
  pipe.start();
  std::int64_t i = 0;
  for (std::int64_t bag = 0; bag < count; ++bag) {
    Vector sums[kVectors] = {};
    const std::int64_t end = offsets[bag + 1];
    if (end <= pipe.calm())
      for (; i < end; ++i) {
        const std::uint64_t entry = task.entries[i];
        take<true>(row_of(entry), entry >> 60, sums);
        pipe.step(i);
      }
    else
      for (; i < end; ++i) {
        const std::uint64_t entry = task.entries[i];
        take<true>(row_of(entry), entry >> 60, sums);
        pipe.last_step(i);
      }
    store<kStream>(out + bag * kDim, sums);
  }
#if defined(__x86_64__)
  if constexpr (kStream) _mm_sfence();
#endif
  return pipe.seen;
}

}  // namespace

extern "C" std::uint64_t floor_lookup(const Task* task, int stream, float* out) {
  if (task->rowmap) return stream ? lookup<true, true>(*task, out) : lookup<false, true>(*task, out);
  return stream ? lookup<true, false>(*task, out) : lookup<false, false>(*task, out);
}

extern "C" std::uint64_t floor_bags(const Task* task, int stream, const std::int64_t* offsets,
                                    std::int64_t count, float* out) {
  if (task->rowmap)
    return stream ? bags<true, true>(*task, offsets, count, out)
                  : bags<false, true>(*task, offsets, count, out);
  return stream ? bags<true, false>(*task, offsets, count, out)
                : bags<false, false>(*task, offsets, count, out);
}
