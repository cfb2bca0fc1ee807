// Memory of arrays that Python holds.
#pragma once

#include <Python.h>

#include <cstdint>
#include <deque>

namespace sharkstore {

// The memory of a C-contiguous array, from `get` to `release`. Nothing is released by itself:
// a thread that ends while it waits for the interpreter must not touch Python any more.
class Buffer {
 public:
  void get(PyObject* object, int flags) {
    held_ = PyObject_GetBuffer(object, &view_, flags | PyBUF_C_CONTIGUOUS | PyBUF_FORMAT) == 0;
    if (!held_) PyErr_Clear();
  }
  void release() {
    if (held_) PyBuffer_Release(&view_);
    held_ = false;
  }

  // Whether the elements are of one of these kinds, of that size, and aligned.
  bool holds(const char* formats, std::size_t size) const {
    if (!held_ || !view_.format || !view_.format[0] || view_.format[1]) return false;
    for (const char* one = formats; *one; ++one)
      if (*one == view_.format[0])
        return static_cast<std::size_t>(view_.itemsize) == size &&
               reinterpret_cast<std::uintptr_t>(view_.buf) % size == 0;
    return false;
  }
  bool integers() const { return holds("lq", 8) || holds("i", 4); }
  bool wide() const { return view_.itemsize == 8; }
  bool floats() const { return holds("f", 4); }

  int dimensions() const { return view_.ndim; }
  std::int64_t length(int axis) const { return view_.shape[axis]; }
  std::int64_t count() const { return view_.len / view_.itemsize; }
  std::int64_t bytes() const { return view_.len; }
  template <class T>
  T* data() const {
    return static_cast<T*>(view_.buf);
  }
  bool overlaps(const Buffer& other) const {
    const char* mine = data<char>();
    const char* theirs = other.data<char>();
    return view_.len > 0 && other.view_.len > 0 && mine < theirs + other.view_.len &&
           theirs < mine + view_.len;
  }

 private:
  Py_buffer view_;
  bool held_ = false;
};

// Buffers that are released together.
struct Buffers {
  std::deque<Buffer> all;
  Buffers() = default;
  Buffers(const Buffers&) = delete;
  Buffers& operator=(const Buffers&) = delete;
  ~Buffers() {
    for (Buffer& one : all) one.release();
  }
};

}  // namespace sharkstore
