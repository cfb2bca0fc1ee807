// A table as the kernels see it, what they are asked, and what they find out.
//
// Spec: formats/sharkstore-1.md, "Encodings", "Row map", "Lookup".
#pragma once

#include <cstdint>

namespace sharkstore {

constexpr int kMaxTiers = 8;
// bytes behind the last row of every array that may be read, and are not used
constexpr int kReadPastEnd = 64;
constexpr std::uint64_t kLineBytes = 64;  // of a cache
constexpr int kTagBits = 8;               // of a mark: see `Places`

// How the bytes of a row become float32.
enum class Kind : std::uint8_t {
  kFloat32,
  kFloat16,
  kInt8,           // float16 scale, signed codes
  kInt8Float32,    // float32 scale, signed codes
  kAffine,         // float16 scale and bias, unsigned codes
  kAffineFloat32,  // float32 scale and bias, unsigned codes
  kInt4,           // the same four of 4 bits, ...
  kInt4Float32,
  kInt4Affine,
  kInt4AffineFloat32,
  kInt2,  // ... and of 2
  kInt2Float32,
  kInt2Affine,
  kInt2AffineFloat32,
  kPq2,  // codes of a codebook, each for 2, 4 or 8 values; its entries float16, ...
  kPq2Float32,
  kPq4,
  kPq4Float32,
  kPq8,
  kPq8Float32,
};
constexpr int kKinds = 20;

// Entries of a codebook that a code chooses from, as kernels see it: so every byte is a code.
constexpr int kEntries = 256;

// Of kinds with a codebook: values a code.
constexpr bool has_codebook(Kind kind) { return kind >= Kind::kPq2; }
constexpr int sub_values(Kind kind) {
  return kind >= Kind::kPq8 ? 8 : kind >= Kind::kPq4 ? 4 : 2;
}

// Of kinds with scales: bits of a code, whether there is a bias, whether heads are float16.
constexpr int code_bits(Kind kind) {
  return kind >= Kind::kInt2 ? 2 : kind >= Kind::kInt4 ? 4 : 8;
}
constexpr bool is_affine(Kind kind) { return (static_cast<int>(kind) >> 1 & 1) == 0; }
constexpr bool is_half(Kind kind) { return (static_cast<int>(kind) & 1) == 0; }
constexpr int head_bytes(Kind kind) { return (is_half(kind) ? 2 : 4) * (is_affine(kind) ? 2 : 1); }

// Bytes of one value of a codebook.
constexpr int entry_bytes(Kind kind) { return is_half(kind) ? 2 : 4; }

// Bytes of a stored row of dim values.
inline std::int64_t stored_bytes(Kind kind, int dim) {
  switch (kind) {
    case Kind::kFloat32: return 4 * dim;
    case Kind::kFloat16: return 2 * dim;
    case Kind::kPq2:
    case Kind::kPq2Float32:
    case Kind::kPq4:
    case Kind::kPq4Float32:
    case Kind::kPq8:
    case Kind::kPq8Float32: return (dim + sub_values(kind) - 1) / sub_values(kind);
    default: return head_bytes(kind) + (code_bits(kind) * dim + 7) / 8;
  }
}

class ChunkFiles;

struct Tier {
  const std::uint8_t* data = nullptr;
  std::uint64_t rows = 0;
  std::uint32_t row_bytes = 0;
  std::uint32_t stride = 0;  // 0 where one row stands for all
  Kind kind = Kind::kFloat32;
  float factor = 1.0f;  // what stored symmetric scales are multiplied with
  const std::uint8_t* codebook = nullptr;  // kEntries entries for each code of a row
  const ChunkFiles* files = nullptr;  // what rows are read from that are not in memory: no `data`
};

struct Table {
  std::uint64_t rows = 0;
  int dim = 0;
  int tiers = 0;
  int planes = 0;  // of the row map; 0 with one tier
  Tier tier[kMaxTiers];
  const std::uint8_t* rowmap = nullptr;
  const float* default_row = nullptr;  // dim values
  std::uint64_t bytes = 0;             // of all stored rows
};

// Where the rows of a table are, as ids are resolved.
struct Places {
  const std::uint8_t* rowmap;
  std::uint64_t rows;
  std::uint64_t padding;  // id that leads to no row; `rows` for none
  std::uint64_t default_row;
  alignas(64) std::uint64_t first[kMaxTiers];  // each tier's first row
  alignas(64) std::uint64_t stride[kMaxTiers];
  alignas(64) std::uint64_t length[kMaxTiers];
  // each tier's index, and from bit kTagBits on the way from a row to a byte on its last line
  alignas(64) std::uint64_t mark[kMaxTiers];
  std::uint64_t reach = 0;  // the longest of these ways

  // Inlined, as all that is compiled for more than one instruction set.
  __attribute__((always_inline)) Places(const Table& table, std::int64_t padding_id)
      : rowmap(table.rowmap),
        rows(table.rows),
        padding(padding_id < 0 ? table.rows : static_cast<std::uint64_t>(padding_id)),
        default_row(reinterpret_cast<std::uint64_t>(table.default_row)) {
    for (int i = 0; i < kMaxTiers; ++i) {
      const Tier& tier = table.tier[i];
      first[i] = reinterpret_cast<std::uint64_t>(tier.data);
      stride[i] = tier.stride;
      length[i] = i < table.tiers ? tier.rows : 0;
      // rows and lines start at multiples of `apart`: what lies between two is on one line
      const std::uint64_t starts = first[i] | tier.stride | kLineBytes, apart = starts & -starts;
      const std::uint64_t reaches = i < table.tiers ? (tier.row_bytes - 1) & -apart : 0;
      mark[i] = reaches << kTagBits | static_cast<std::uint64_t>(i);
      if (reaches > reach) reach = reaches;
    }
  }
};

// Row ids of one batch, as the caller holds them.
struct Ids {
  const void* data;
  std::int64_t count;
  bool wide;  // int64, else int32
};

enum class Pool : std::uint8_t { kSum, kMean, kMax };

struct Bags {
  const std::int64_t* offsets;  // where bags start, the last one ends with the ids; or null
  std::int64_t count;
  std::int64_t each;  // ids a bag, without offsets
  const float* weights;  // one an id, or null
  Pool pool;
  std::int64_t padding;  // id that is left out; -1 for none
};

// A large output goes past the cache, so that it does not push the tables out; not where they are
// small enough to stay, nor where the output is small enough to be found there by its reader.
constexpr std::int64_t kStreamedOutput = 1 << 20;
constexpr std::uint64_t kStreamedTable = 32 << 20;
__attribute__((always_inline)) inline bool bypasses_cache(std::int64_t output,
                                                          std::uint64_t tables) {
  return output > kStreamedOutput && tables > kStreamedTable;
}

// A file that rows could not be read from.
struct Unread {
  const char* path = nullptr;  // null: there is none; empty: of no file, memory was missing
  int error = 0;               // as errno has it; 0: the file ends before the row
};

// What went wrong, if anything did.
struct Outcome {
  std::int64_t outside = 0;        // ids outside the table; answered by the default row
  std::int64_t first_outside = 0;  // position of the first of them
  std::int64_t bad_row = -1;       // a row whose slot lies past its tier
  int bad_tier = 0;
  bool bad_offsets = false;  // offsets don't start at 0, fall, or pass the end
  Unread unread;
};

}  // namespace sharkstore
