// The kernels, compiled once for each instruction set: SHARKSTORE_BACKEND names the set.
#include "backend.h"

#include "distort.h"
#include "encode.h"
#include "measure.h"
#include "pipeline.h"

namespace sharkstore::SHARKSTORE_BACKEND {
namespace {

using Lookup = void (*)(const Table&, const Ids&, float*, Outcome&);
using PoolRows = void (*)(const Table&, const Ids&, const Bags&, float*, Outcome&);

// The kernels for one number of values a row; 0 for any.
struct Fast {
  int dim;
  Lookup lookup, stream;
  PoolRows add, weigh, max;
};

template <int Dim>
constexpr Lookup streaming() {
  if constexpr (Dim > 0 && Dim % Vec::kLanes == 0) return lookup<Dim, true>;
  else return lookup<Dim, false>;
}

template <int Dim>
constexpr Fast fast() {
  return {Dim, lookup<Dim, false>, streaming<Dim>(), pool<Dim, Fold::kAdd>,
          pool<Dim, Fold::kWeigh>, pool<Dim, Fold::kMax>};
}

template <int... Dims>
const Fast& pick(int dim) {
  static constexpr Fast known[] = {fast<0>(), fast<Dims>()...};
  for (const Fast& one : known)
    if (one.dim == dim) return one;
  return known[0];
}

const Fast& kernels_for(int dim) {
#ifdef SHARKSTORE_PLAIN
  return pick<>(dim);
#else
  return pick<4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256>(dim);
#endif
}

// A large output goes past the cache, so that it does not push the table out; not where the table
// is small enough to stay, nor where the output is small enough to be found there by its reader.
constexpr std::int64_t kStreamedOutput = 1 << 20;
constexpr std::uint64_t kStreamedTable = 32 << 20;

void run_lookup(const Table& table, const Ids& ids, float* out, Outcome& outcome) {
  const Fast& kernels = kernels_for(table.dim);
  const bool aligned = reinterpret_cast<std::uintptr_t>(out) % (4 * Vec::kLanes) == 0;
  const bool stream = aligned && ids.count > kStreamedOutput / (4 * table.dim) &&
                      table.bytes > kStreamedTable;
  (stream ? kernels.stream : kernels.lookup)(table, ids, out, outcome);
}

void run_pool(const Table& table, const Ids& ids, const Bags& bags, float* out, Outcome& outcome) {
  const Fast& kernels = kernels_for(table.dim);
  const PoolRows pool = bags.weights               ? kernels.weigh
                        : bags.pool == Pool::kMax ? kernels.max
                                                   : kernels.add;
  pool(table, ids, bags, out, outcome);
}

}  // namespace

#define SHARKSTORE_TEXT_OF(name) #name
#define SHARKSTORE_TEXT(name) SHARKSTORE_TEXT_OF(name)
extern const Backend backend;
const Backend backend = {SHARKSTORE_TEXT(SHARKSTORE_BACKEND), run_lookup, run_pool,
                         encode_rows, encode_tier, measure, distort};

}  // namespace sharkstore::SHARKSTORE_BACKEND
