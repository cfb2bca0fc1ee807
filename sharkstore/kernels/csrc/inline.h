// What the kernels ask of the compiler.
#pragma once

#include <cstdint>
#include <cstring>

// gcc takes a function that only prefetches for pure and drops calls of it unless it is inlined
#define SHARKSTORE_INLINE __attribute__((always_inline)) inline

#if defined(__clang__)
#define SHARKSTORE_UNROLL _Pragma("unroll")
#else
#define SHARKSTORE_UNROLL _Pragma("GCC unroll 64")
#endif

#define SHARKSTORE_LAMBDA __attribute__((always_inline))
#define SHARKSTORE_UNLIKELY(x) __builtin_expect(!!(x), 0)

namespace sharkstore {

// Into the second cache: what lies ahead of a batch is as large as the first, where it would push
// itself out before it is used (twice as slow on rows out of cache).
SHARKSTORE_INLINE void prefetch(const void* address) { __builtin_prefetch(address, 0, 2); }

}  // namespace sharkstore
