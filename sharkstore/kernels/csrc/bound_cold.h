// Memory that arrays of Python lie in: what of it is held, read ahead, or let go of.
#pragma once

#include <fcntl.h>
#include <nanobind/stl/string.h>

#include "bound_table.h"
#include "unlocked.h"

namespace sharkstore {

inline Pages span_of(const Buffer& array) {
  return Pages::around(array.data<void>(), static_cast<std::size_t>(array.bytes()));
}

// A budget and the arrays that it is for; those named first are the first to go.
class BoundBudget {
 public:
  BoundBudget(std::int64_t limit, nb::list arrays) : budget_(limit) {
    if (limit < 1) throw nb::value_error("limit out of range");
    for (nb::handle array : arrays) {
      Buffer& held = buffers_.all.emplace_back();
      held.get(array.ptr(), 0);
      if (!held.holds("B", 1)) throw nb::value_error("arrays must be uint8");
      if (held.bytes()) budget_.add(span_of(held));
    }
  }
  Budget& budget() { return budget_; }

 private:
  Buffers buffers_;
  Budget budget_;
};

inline void BoundTable::watch(nb::object budget) {
  watch_.start();
  if (budget.is_none()) return;
  budget_ = &nb::cast<BoundBudget&>(budget).budget();
  held_budget_ = budget;
}

inline nb::tuple BoundTable::counts() const {
  nb::list sampled;
  for (int i = 0; i < table_.tiers; ++i) sampled.append(watch_.sampled[i]);
  return nb::make_tuple(watch_.calls, watch_.rows, sampled, watch_.cold());
}

// Runs with the pages of an array, uint8 and contiguous, without Python's lock.
template <class Work>
auto with_pages(nb::handle array, Work work) {
  Buffers held;
  Buffer& buffer = held.all.emplace_back();
  buffer.get(array.ptr(), 0);
  if (!buffer.holds("B", 1)) throw nb::value_error("the array must be uint8 and contiguous");
  const Pages span = buffer.bytes() ? span_of(buffer) : Pages{0, 0};
  const Unlocked unlocked;
  return work(span);
}

// How an array of mapped files will be read: `random`, `normal`, `willneed` soon; or `pageout`:
// not at all, and the page cache lets go of what no other process maps. Gives whether the system
// heeds it.
inline bool advise_pages(nb::handle array, const std::string& how) {
  int advice = how == "random"     ? MADV_RANDOM
               : how == "normal"   ? MADV_NORMAL
               : how == "willneed" ? MADV_WILLNEED
                                   : -1;
#ifdef MADV_PAGEOUT
  if (how == "pageout") advice = MADV_PAGEOUT;
#else
  if (how == "pageout") return false;
#endif
  if (advice < 0) throw nb::value_error("no such advice");
  return with_pages(array, [&](const Pages& span) {
    return advice == MADV_WILLNEED ? span.ask() : span.advise(advice);
  });
}

// Reads all pages of an array, and maps them.
inline void populate(nb::handle array) {
  with_pages(array, [](const Pages& span) {
#ifdef MADV_POPULATE_READ
    if (span.advise(MADV_POPULATE_READ)) return;
#endif
    for (std::uintptr_t at = span.begin; at < span.end; at += page_bytes())
      (void)*reinterpret_cast<const volatile char*>(at);
  });
}

// Calls each(offset, pages) with the pages of a span that are in the page tables, counted by
// blocks; false where the system does not tell.
template <class Each>
bool each_block_held(const Pages& span, std::uintptr_t block, Each each) {
  const int file = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  if (file < 0) return false;
  const std::uintptr_t page = page_bytes();
  std::vector<std::uint64_t> entries(block / page);
  bool told = true;
  for (std::uintptr_t at = span.begin; at < span.end && told; at += block) {
    const std::size_t pages = std::min(span.end - at, block) / page;
    const auto wanted = static_cast<ssize_t>(8 * pages);
    told = pread(file, entries.data(), 8 * pages, static_cast<off_t>(at / page * 8)) == wanted;
    std::size_t held = 0;
    for (std::size_t i = 0; told && i < pages; ++i) held += entries[i] >> 63;
    if (held) each(at - span.begin, held);
  }
  close(file);
  return told;
}

// Bytes of an array's pages in memory, and of those in the page tables of this process; -1 where
// the system does not tell.
inline nb::tuple resident(nb::handle array) {
  std::int64_t cached = 0, mapped = 0;
  with_pages(array, [&](const Pages& span) {
    constexpr std::uintptr_t kWindow = 64 << 20;
    const std::uintptr_t page = page_bytes();
#ifdef __linux__
    std::vector<unsigned char> present(kWindow / page);
    for (std::uintptr_t at = span.begin; at < span.end && cached >= 0; at += kWindow) {
      const std::uintptr_t bytes = std::min(kWindow, span.end - at);
      if (mincore(reinterpret_cast<void*>(at), bytes, present.data()) != 0) {
        cached = -1;
        break;
      }
      for (std::uintptr_t i = 0; i < bytes / page; ++i)
        cached += (present[i] & 1) * static_cast<std::int64_t>(page);
    }
#else
    cached = -1;
#endif
    const bool told = each_block_held(span, kWindow, [&](std::uintptr_t, std::size_t pages) {
      mapped += static_cast<std::int64_t>(pages * page);
    });
    if (!told) mapped = -1;
  });
  return nb::make_tuple(cached, mapped);
}

}  // namespace sharkstore
