// What is cold of a request: asked of the disk for all of its tables before the first is gathered.
#pragma once

#include "cold.h"
#include "request.h"

namespace sharkstore {

// One call of a request, as the watches of its tables see it. `begin` and `end` under Python's
// lock, `ask` without.
class WatchedCall {
 public:
  // watches: of each feature's table
  void begin(const Request& request, const std::vector<Watch*>& watches) {
    for (int i = 0; i < request.count; ++i) {
      const std::int64_t from = request.offset(i * request.batch);
      const std::int64_t to = request.offset((i + 1) * request.batch);
      if (from < 0 || to < from || to > request.ids.count) return;  // kernels refuse it
      const Ids ids = ids_from(request.ids, from, to - from);
      Watch& watch = *watches[static_cast<std::size_t>(i)];
      const Table& table = *request.features[i].table;
      const Watch::Turn turn = watch.begin(table, ids);
      if (!turn.look || to == from) continue;
      (turn.ask ? asked_ : others_).push_back({&watch, &table, ids, true});
      if (!turn.ask) ids_of_others_ += ids.count;
    }
  }

  bool cold() const { return !asked_.empty(); }

  // Asks for the rows of cold tables. What is read for a table tells whether it still is.
  void ask() {
    for (Part& part : asked_) {
      const Usage before = Usage::now();
      ask_for_rows(*part.table, part.ids);
      part.quiet = Usage::now().since(before).few(part.ids.count);
    }
  }

  // Around the gather, which `threads` share.
  void start() {
    if (!others_.empty()) before_ = Usage::now();
  }
  void end(int threads) {
    for (const Part& part : asked_) part.watch->end(part.ids.count, part.quiet);
    if (others_.empty()) return;
    const Usage read = Usage::now().since(before_);
    // which table is waited for is not told; rows that were asked for are, but not read again
    const std::int64_t mine = ids_of_others_ / threads;
    const bool quiet = cold() ? Usage::few(read.pages, mine) : read.few(mine);
    for (const Part& part : others_) part.watch->end(part.ids.count, quiet);
  }

 private:
  struct Part {
    Watch* watch;
    const Table* table;
    Ids ids;
    bool quiet;
  };
  std::vector<Part> asked_, others_;
  std::int64_t ids_of_others_ = 0;
  Usage before_{};
};

}  // namespace sharkstore
