// Work shared by threads that live as long as a call: no pool that a fork could leave without them.
#pragma once

#include <atomic>
#include <thread>
#include <vector>

namespace sharkstore {

// Calls work(part) once for each part, by this thread and up to `threads` - 1 others; by fewer
// where the system has no more.
template <class Work>
void share_work(int threads, int parts, Work work) {
  std::atomic<int> next{0};
  const auto take = [&] {
    for (int part = next.fetch_add(1); part < parts; part = next.fetch_add(1)) work(part);
  };
  std::vector<std::thread> others;
  try {
    while (static_cast<int>(others.size()) + 1 < threads) others.emplace_back(take);
  } catch (...) {  // those that started will do
  }
  take();
  for (std::thread& one : others) one.join();
}

}  // namespace sharkstore
