// Which kernels this build has, which of them this machine runs, and which are in use.
#pragma once

#include <string>
#include <vector>

#include "backend.h"

namespace sharkstore {

#define SHARKSTORE_DECLARE(name) \
  namespace name {               \
  extern const Backend backend;  \
  }
SHARKSTORE_DECLARE(portable)
#if defined(__x86_64__)
SHARKSTORE_DECLARE(avx2)
SHARKSTORE_DECLARE(avx512)
#elif defined(__aarch64__)
SHARKSTORE_DECLARE(neon)
#endif
#undef SHARKSTORE_DECLARE

// Kernels that this machine runs, the fastest first.
inline std::vector<const Backend*> usable_backends() {
  std::vector<const Backend*> usable;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool narrow = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi") &&
                    __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("popcnt");
  const bool wide =
      __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512vpopcntdq");
  if (narrow && wide) usable.push_back(&avx512::backend);
  if (narrow) usable.push_back(&avx2::backend);  // every processor with AVX2 has F16C
#elif defined(__aarch64__)
  usable.push_back(&neon::backend);
#endif
  usable.push_back(&portable::backend);
  return usable;
}

// The kernels in use.
inline const Backend*& current_backend() {
  static const Backend* current = usable_backends().front();
  return current;
}

inline const Backend* find_backend(const std::string& name) {
  for (const Backend* one : usable_backends())
    if (name == one->name) return one;
  return nullptr;
}

}  // namespace sharkstore
