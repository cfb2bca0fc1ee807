// The most bytes of mapped rows that a process holds: pages beyond it are let go of.
//
// What counts are pages in the page tables of the process, which are part of its RSS. Letting go
// leaves them in the page cache, where the system takes them when it needs memory.
#pragma once

#include <fcntl.h>

#include <cstdio>

#include "cold.h"

namespace sharkstore {

// Bytes of files, all of them, in the page tables of this process; -1 where it is not told.
inline std::int64_t file_bytes_held() {
  const int file = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
  if (file < 0) return -1;
  char text[128];
  const ssize_t read_bytes = read(file, text, sizeof text - 1);
  close(file);
  if (read_bytes <= 0) return -1;
  text[read_bytes] = 0;
  long long size, resident, shared;
  if (std::sscanf(text, "%lld %lld %lld", &size, &resident, &shared) != 3) return -1;
  return shared * static_cast<std::int64_t>(page_bytes());
}

// Shared by the tables of a store. All of it under Python's lock.
class Budget {
 public:
  explicit Budget(std::int64_t limit) : limit_(limit) {}

  // Rows that count; those added first are the first to go.
  void add(const Pages& span) {
    spans_.push_back({span, 0});
    // by huge pages, a single row would count 2 MiB
#ifdef MADV_NOHUGEPAGE
    span.advise(MADV_NOHUGEPAGE);
#endif
  }

  // Ids to be looked up at a time, so that what is read for them is a small part of the budget.
  std::int64_t part() const { return std::max<std::int64_t>(1, limit_ / 16 / kMost); }

  // What was held, and let go of, when a lookup began.
  struct Before {
    std::int64_t held = 0, dropped = 0;
  };

  // Before ids are looked up: makes room for what they may bring.
  Before reserve(std::int64_t ids) {
    pledged_ += ids * kMost;
    if (held_ + pledged_ > limit_) make_room();
    return {file_bytes_held(), dropped_};
  }
  // Afterwards: counts what they brought; other files count too, until the next round.
  void settle(std::int64_t ids, const Before& before) {
    pledged_ -= ids * kMost;
    const std::int64_t now = file_bytes_held();
    const std::int64_t brought = now - before.held + dropped_ - before.dropped;
    held_ += now < 0 ? ids * kMost : std::max<std::int64_t>(brought, 0);
    if (held_ + pledged_ > limit_) make_room();  // a bag is looked up as a whole, however large
  }

  std::int64_t dropped() const { return dropped_; }

 private:
  struct Held {
    Pages span;
    std::uintptr_t hand;  // where the last round stopped, from the span's begin
  };
  // a fault maps all of the page that the system caches, up to a huge one (Linux 6.18)
  static constexpr std::int64_t kMost = 2 << 20;
  static constexpr std::uintptr_t kStep = 32 << 20;

  // Lets go of half of the budget, and counts anew when nothing is left.
  void make_room() {
    const std::int64_t wanted = limit_ / 2;
    for (Held& one : spans_) {
      if (held_ + pledged_ <= wanted) return;
      drop(one, wanted);
    }
    if (held_ + pledged_ > wanted) held_ = 0;
  }

  // Lets go of a span's pages from the hand on, once around, until few enough are held.
  void drop(Held& from, std::int64_t wanted) {
    const std::uintptr_t all = from.span.bytes();
    for (std::uintptr_t done = 0; done < all && held_ + pledged_ > wanted;) {
      if (from.hand >= all) from.hand = 0;
      const std::uintptr_t bytes = std::min(kStep, all - from.hand);
      const std::int64_t before = file_bytes_held();
      const std::uintptr_t at = from.span.begin + from.hand;
      Pages{at, at + bytes}.advise(MADV_DONTNEED);
      // other threads map files meanwhile
      const std::int64_t gone =
          before < 0 ? 0 : std::max<std::int64_t>(before - file_bytes_held(), 0);
      dropped_ += gone;
      held_ -= gone;
      from.hand += bytes;
      done += bytes;
    }
  }

  std::int64_t limit_;
  std::int64_t held_ = 0;     // bytes in the page tables, at most
  std::int64_t pledged_ = 0;  // of lookups that run
  std::int64_t dropped_ = 0;
  std::vector<Held> spans_;
};

}  // namespace sharkstore
