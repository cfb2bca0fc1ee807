// Tables of a request bound together, and lookups in all of them on arrays that Python passes.
#pragma once

#include <algorithm>

#include "bound_files.h"
#include "bound_table.h"
#include "threads.h"
#include "watched.h"

namespace sharkstore {

// below this many values for each, another thread costs more than it saves
constexpr std::int64_t kThreadValues = 1 << 18;
constexpr std::int64_t kReadValues = 1 << 14;  // where rows are read from files
constexpr int kPartsPerThread = 4;             // so that threads end together

class BoundRequest {
 public:
  BoundRequest(const BoundRequest&) = delete;
  BoundRequest& operator=(const BoundRequest&) = delete;

  // features: (table, pool, padding) of each key
  explicit BoundRequest(nb::list features) : held_(features) {
    for (nb::handle one : features) {
      const nb::tuple parts = nb::cast<nb::tuple>(one);
      BoundTable& bound = nb::cast<BoundTable&>(parts[0]);
      const Table& table = bound.table();
      const int pool = nb::cast<int>(parts[1]);
      if (pool < 0 || pool > static_cast<int>(Pool::kMax)) throw nb::value_error("no such pool");
      features_.emplace_back(table, static_cast<Pool>(pool), nb::cast<std::int64_t>(parts[2]));
      features_.back().column = width_;
      width_ += table.dim;
      bytes_ += table.bytes;
      watches_.push_back(&bound.watched_by());
      if (bound.budget()) budget_ = bound.budget();  // a store has one
      if (in_files(table)) at_a_time_ = std::min(at_a_time_, ids_at_a_time(table));
    }
    if (features_.empty()) throw nb::value_error("no tables");
    for (const Feature& one : features_) unpadded_.emplace_back(*one.table, one.pool, -1);
  }

  struct Arrays {
    Buffer ids, offsets, weights, out;
    bool have_weights = false;

    void release() {
      for (Buffer* one : {&ids, &offsets, &weights, &out}) one->release();
    }
  };

  // offsets: (keys * batch + 1,); weights: (number of ids,); out: (batch, width)
  bool fits_bags(const Arrays& a) const {
    if (!fits(a) || a.out.dimensions() != 2 || a.out.length(1) != width_) return false;
    if (a.have_weights && (!a.weights.floats() || a.weights.dimensions() != 1 ||
                           a.weights.count() != a.ids.count() || a.out.overlaps(a.weights)))
      return false;
    return a.offsets.count() == count() * a.out.length(0) + 1;
  }

  // offsets: (keys + 1,), rising from 0 to the number of ids; out: (values of all rows,)
  bool fits_rows(const Arrays& a) const {
    if (!fits(a) || a.out.dimensions() != 1 || a.offsets.count() != count() + 1) return false;
    const Request request = ask(a, unpadded_, 1);
    std::int64_t values = 0;
    for (int i = 0; i < count(); ++i) {
      const std::int64_t ids = request.offset(i + 1) - request.offset(i);
      if (request.offset(i) < 0 || ids < 0 || request.offset(i + 1) > a.ids.count()) return false;
      values += ids * features_[static_cast<std::size_t>(i)].table->dim;
    }
    return request.offset(0) == 0 && request.offset(count()) == a.ids.count() &&
           values == a.out.count();
  }

  Findings embedding_bags(const Arrays& a, int threads) const {
    Request request = ask(a, features_, a.out.length(0));
    const std::vector<std::int64_t> own = own_offsets(request);
    const std::int64_t bags = count() * request.batch;
    const auto ids_before = [&](std::int64_t bag) { return request.offset(bag); };
    // as many ids and bags in each part
    const auto start = [&](int part, int parts) {
      const std::int64_t wanted = (request.ids.count + bags) / parts * part;
      std::int64_t low = 0, high = bags;
      while (low < high) {
        const std::int64_t middle = low + (high - low) / 2;
        if (request.offset(middle) + middle < wanted) low = middle + 1;
        else high = middle;
      }
      return low;
    };
    const std::int64_t values = (request.ids.count + bags) * (width_ / count() + 1);
    Findings all = run({request, bags, values, current_backend()->pool_many}, threads, start,
                       ids_before);
    if (request.offset(0) != 0 || request.offset(bags) != request.ids.count)
      all.outcome.bad_offsets = true;
    return all;
  }

  Findings lookups(const Arrays& a, int threads) const {
    Request request = ask(a, unpadded_, 1);
    const std::vector<std::int64_t> own = own_offsets(request);
    const std::int64_t ids = request.ids.count;
    const auto start = [&](int part, int parts) { return ids / parts * part; };
    return run({request, ids, a.out.count(), current_backend()->lookup_many}, threads, start,
               [](std::int64_t id) { return id; });
  }

  // None when all went well, else what was found.
  PyObject* report(Findings& found) const {
    const Outcome& o = found.outcome;
    PyObject* result = nullptr;
    if (o.outside == 0 && o.bad_row < 0 && !o.bad_offsets && !o.unread.path) {
      result = Py_NewRef(Py_None);
    } else if (o.outside > 0 && !found.outside) {
      PyErr_NoMemory();
    } else if (PyObject* counts = PyList_New(found.outside ? count() : 0)) {
      for (int i = 0; found.outside && i < count(); ++i)
        PyList_SET_ITEM(counts, i, PyLong_FromLongLong(found.outside[i]));
      result = Py_BuildValue("(LLiLiNNN)", o.outside, o.first_outside, found.bad_feature, o.bad_row,
                             o.bad_tier, PyBool_FromLong(o.bad_offsets), counts, told(o.unread));
    }
    std::free(found.outside);
    return result;
  }

 private:
  // What is done of a request: items from 0 on, bags or ids, and the values they are made of.
  struct Work {
    const Request& request;
    std::int64_t items, values;
    void (*kernel)(const Request&, std::int64_t first, std::int64_t last, Findings&);
  };

  int count() const { return static_cast<int>(features_.size()); }

  bool fits(const Arrays& a) const {
    return a.ids.integers() && a.ids.dimensions() == 1 && a.offsets.integers() &&
           a.offsets.dimensions() == 1 && a.out.floats() && !a.out.overlaps(a.ids) &&
           !a.out.overlaps(a.offsets);
  }

  Request ask(const Arrays& a, const std::vector<Feature>& features, std::int64_t batch) const {
    return {features.data(),
            count(),
            {a.ids.data<void>(), a.ids.count(), a.ids.wide()},
            a.offsets.data<void>(),
            a.offsets.wide(),
            batch,
            a.have_weights ? a.weights.data<float>() : nullptr,
            a.out.data<float>(),
            width_,
            bypasses_cache(4 * a.out.count(), bytes_)};
  }

  // Where rows are read from files, offsets are of this call only: what was read is for those.
  std::vector<std::int64_t> own_offsets(Request& request) const {
    std::vector<std::int64_t> own;
    if (!reads()) return own;
    for (std::int64_t i = 0; i <= request.count * request.batch; ++i)
      own.push_back(request.offset(i));
    request.offsets = own.data();
    request.wide = true;
    return own;
  }

  // Does items of the work, by as few as can be read at a time.
  template <class Before>
  void run_some(const Work& work, std::int64_t first, std::int64_t last, Before ids_before,
                Findings& found) const {
    if (!reads()) return work.kernel(work.request, first, last, found);
    const std::int64_t ids = work.request.ids.count;
    each_piece(first, last, at_a_time_, ids_before, [&](std::int64_t begin, std::int64_t end) {
      if (found.outcome.unread.path) return;
      const std::int64_t from = std::clamp<std::int64_t>(ids_before(begin), 0, ids);
      const std::int64_t to = std::clamp<std::int64_t>(ids_before(end), from, ids);
      Findings some;
      with_rows(work.request, from, to, some,
                [&](const Request& read) { work.kernel(read, begin, end, some); });
      merge(found, some, work.request.count);
    });
  }

  // start(part, parts): the first item of a part; ids_before(item).
  template <class Start, class Before>
  Findings run(const Work& work, int threads, Start start, Before ids_before) const {
    const std::int64_t least = reads() ? kReadValues : kThreadValues;
    threads = static_cast<int>(std::min<std::int64_t>(threads, work.values / least));
    if (budget_ || threads < 1) threads = 1;
    WatchedCall call;
    call.begin(work.request, watches_);
    const bool unlock = budget_ || reads() || call.cold() || work.values > kUnlockValues;
    PyThreadState* state = unlock ? PyEval_SaveThread() : nullptr;
    Findings all;
    call.ask();
    call.start();
    if (budget_) {
      PyEval_RestoreThread(state);
      all = within_budget(work, ids_before);
      state = nullptr;
    } else if (threads > 1) {
      all = share(work, threads, start, ids_before);
    } else {
      run_some(work, 0, work.items, ids_before, all);
    }
    if (state) PyEval_RestoreThread(state);
    call.end(threads);
    return all;
  }

  template <class Start, class Before>
  Findings share(const Work& work, int threads, Start start, Before ids_before) const {
    const int parts = threads * kPartsPerThread;
    std::vector<std::int64_t> starts;
    for (int part = 0; part < parts; ++part)
      starts.push_back(std::max(starts.empty() ? 0 : starts.back(), start(part, parts)));
    starts.push_back(work.items);
    std::vector<Findings> found(static_cast<std::size_t>(parts));
    share_work(threads, parts, [&](int part) {
      const auto i = static_cast<std::size_t>(part);
      run_some(work, starts[i], starts[i + 1], ids_before, found[i]);
    });
    Findings all;
    for (Findings& one : found) merge(all, one, work.request.count);
    return all;
  }

  // Few ids at a time, with room made for what they bring.
  template <class Before>
  Findings within_budget(const Work& work, Before ids_before) const {
    Findings all;
    const std::int64_t most = budget_->part();
    each_piece(0, work.items, most, ids_before, [&](std::int64_t first, std::int64_t last) {
      const std::int64_t ids = std::clamp<std::int64_t>(ids_before(last) - ids_before(first), 0,
                                                        work.request.ids.count);
      const Budget::Before held = budget_->reserve(ids);
      PyThreadState* state = PyEval_SaveThread();
      Findings found;
      run_some(work, first, last, ids_before, found);
      PyEval_RestoreThread(state);
      budget_->settle(ids, held);
      merge(all, found, work.request.count);
    });
    return all;
  }

  bool reads() const { return at_a_time_ < std::numeric_limits<std::int64_t>::max(); }

  nb::list held_;  // tables, so that they stay
  std::vector<Feature> features_;
  std::vector<Feature> unpadded_;  // for rows that are not pooled
  std::int64_t width_ = 0;
  std::uint64_t bytes_ = 0;
  std::vector<Watch*> watches_;  // of each feature's table
  Budget* budget_ = nullptr;
  std::int64_t at_a_time_ = std::numeric_limits<std::int64_t>::max();  // ids, if rows are read
};

}  // namespace sharkstore
