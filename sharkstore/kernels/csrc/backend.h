// The kernels of one instruction set, and the choice among those that this machine runs.
#pragma once

#include <cstddef>
#include <cstdint>

#include "table.h"

namespace sharkstore {

struct Backend {
  const char* name;
  // out: (ids, dim); ids outside the table give its default row
  void (*lookup)(const Table&, const Ids&, float* out, Outcome&);
  // out: (bags, dim)
  void (*pool)(const Table&, const Ids&, const Bags&, float* out, Outcome&);
};

}  // namespace sharkstore
