// The vector type of this build.
#pragma once

#if defined(__AVX512F__) && defined(__AVX512VPOPCNTDQ__)
#include "vector_avx512.h"
#elif defined(__AVX2__) && defined(__F16C__)
#include "vector_avx2.h"
#elif defined(__ARM_NEON) && !defined(SHARKSTORE_PLAIN)
#include "vector_neon.h"
#else
#include "vector_portable.h"
#endif
