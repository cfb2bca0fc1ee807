// The kernels, compiled once for each instruction set: SHARKSTORE_BACKEND names the set.
#include "backend.h"

#include "distort.h"
#include "encode.h"
#include "measure.h"
#include "request_pipeline.h"

namespace sharkstore::SHARKSTORE_BACKEND {
namespace {

using Lookup = void (*)(const Table&, const Ids&, float*, Outcome&);
using PoolRows = void (*)(const Table&, const Ids&, const Bags&, float*, bool, Outcome&);
using LookupFeature = std::int64_t (*)(SharedRows&, const Request&, int, std::int64_t, float*);
using PoolFeature = std::int64_t (*)(SharedRows&, const Request&, const Share&, int, std::int64_t);

// The kernels for one number of values a row; 0 for any.
struct Fast {
  int dim;
  Lookup lookup, stream;
  PoolRows add, weigh, max;
  LookupFeature lookup_feature, stream_feature;
  PoolFeature add_feature, weigh_feature, max_feature;
};

template <int Dim>
constexpr Fast fast() {
  return {Dim,
          lookup<Dim, false>,
          lookup<Dim, kStreams<Dim>>,
          pool<Dim, Fold::kAdd>,
          pool<Dim, Fold::kWeigh>,
          pool<Dim, Fold::kMax>,
          lookup_feature<Dim, false>,
          lookup_feature<Dim, kStreams<Dim>>,
          pool_feature<Dim, Fold::kAdd>,
          pool_feature<Dim, Fold::kWeigh>,
          pool_feature<Dim, Fold::kMax>};
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

bool aligned(const float* out) {
  return reinterpret_cast<std::uintptr_t>(out) % (4 * Vec::kLanes) == 0;
}

void run_lookup(const Table& table, const Ids& ids, float* out, Outcome& outcome) {
  const Fast& kernels = kernels_for(table.dim);
  const bool stream = aligned(out) && bypasses_cache(4 * table.dim * ids.count, table.bytes);
  (stream ? kernels.stream : kernels.lookup)(table, ids, out, outcome);
}

void run_pool(const Table& table, const Ids& ids, const Bags& bags, float* out, Outcome& outcome) {
  const Fast& kernels = kernels_for(table.dim);
  const PoolRows pool = bags.weights               ? kernels.weigh
                        : bags.pool == Pool::kMax ? kernels.max
                                                   : kernels.add;
  const bool stream = aligned(out) && bypasses_cache(4 * table.dim * bags.count, table.bytes);
  pool(table, ids, bags, out, stream, outcome);
}

// The kernels of one feature after the other.
class Kernels {
 public:
  const Fast& operator()(const Feature& feature) {
    if (feature.table->dim != dim_) last_ = &kernels_for(dim_ = feature.table->dim);
    return *last_;
  }

 private:
  int dim_ = -1;
  const Fast* last_ = nullptr;
};

void run_pool_many(const Request& request, std::int64_t first, std::int64_t last,
                   Findings& found) {
  if (first >= last) return;
  const Share part{request.offset(first),
                  request.offset(last),
                  static_cast<int>(first / request.batch),
                  static_cast<int>((last - 1) / request.batch + 1),
                  first,
                  last};
  if (part.begin < 0 || part.end < part.begin || part.end > request.ids.count) {
    found.outcome.bad_offsets = true;
    return;
  }
  SharedRows rows(request, part, found);
  Kernels kernels;
  std::int64_t at = part.begin;
  for (int i = part.first; i < part.last && at >= 0; ++i) {
    const Feature& feature = request.features[i];
    const Fast& fast = kernels(feature);
    const PoolFeature pool = request.weights              ? fast.weigh_feature
                             : feature.pool == Pool::kMax ? fast.max_feature
                                                          : fast.add_feature;
    at = pool(rows, request, part, i, at);
  }
  if (at != part.end) found.outcome.bad_offsets = true;
}

void run_lookup_many(const Request& request, std::int64_t first, std::int64_t last,
                     Findings& found) {
  if (first >= last) return;
  const Share part{first, last, 0, request.count, 0, request.count};
  SharedRows rows(request, part, found);
  Kernels kernels;
  float* out = request.out;
  std::int64_t at = first;
  for (int i = 0; i < request.count && at < last; ++i) {
    const std::int64_t skipped = at - request.offset(i), ids = request.offset(i + 1) - at;
    const int dim = request.features[i].table->dim;
    if (ids > 0) {
      const Fast& fast = kernels(request.features[i]);
      float* to = out + skipped * dim;
      const bool stream = request.stream && aligned(to);
      at = (stream ? fast.stream_feature : fast.lookup_feature)(rows, request, i, at, to);
    }
    out += (request.offset(i + 1) - request.offset(i)) * dim;
  }
}

}  // namespace

#define SHARKSTORE_TEXT_OF(name) #name
#define SHARKSTORE_TEXT(name) SHARKSTORE_TEXT_OF(name)
extern const Backend backend;
const Backend backend = {SHARKSTORE_TEXT(SHARKSTORE_BACKEND), run_lookup, run_pool,
                         run_pool_many, run_lookup_many, encode_rows, encode_tier, measure, distort};

}  // namespace sharkstore::SHARKSTORE_BACKEND
