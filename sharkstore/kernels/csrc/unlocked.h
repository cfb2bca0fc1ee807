// Python's lock given up while the system maps files.
#pragma once

#include <Python.h>
#include <unistd.h>

namespace sharkstore {

// Taking the lock back ends a thread whose interpreter is gone: daemon threads at exit. Python
// does that by unwinding the stack, which frames of C++ answer by ending the process; so such a
// thread waits here for the process to end, as it does in Python itself from 3.14 on.
class Unlocked {
 public:
  Unlocked() : state_(PyEval_SaveThread()) {}
  Unlocked(const Unlocked&) = delete;
  Unlocked& operator=(const Unlocked&) = delete;
  ~Unlocked() {
    try {
      PyEval_RestoreThread(state_);
    } catch (...) {
      for (;;) pause();
    }
  }

 private:
  PyThreadState* state_;
};

}  // namespace sharkstore
