// Chunk files that Python holds open.
#pragma once

#include "bound_mapping.h"
#include "buffers.h"
#include "chunk_files.h"

namespace sharkstore {

// Paths, below the folder of a descriptor, are bytes: file names need not be UTF-8.
inline ChunkFiles* open_chunks(int folder, const std::vector<nb::bytes>& paths,
                               std::uint64_t bytes, std::size_t chunk_bytes,
                               std::size_t file_bytes) {
  const std::vector<std::string> names = file_names(paths);
  if (chunk_bytes < 1 || (bytes + chunk_bytes - 1) / chunk_bytes != names.size())
    throw nb::value_error("bytes out of range");
  auto files = std::make_unique<ChunkFiles>(bytes, chunk_bytes);
  raising("", [&] {
    const Unlocked unlocked;
    try {
      for (const std::string& name : names) files->add(folder, name, file_bytes);
    } catch (...) {
      files.reset();  // room for what tells of the error to open files of its own
      throw;
    }
  });
  return files.release();
}

inline void ask_chunks(const ChunkFiles& files, std::uint64_t at, std::uint64_t bytes) {
  if (at > files.bytes()) throw nb::value_error("out of range");
  files.ask(at, std::min(bytes, files.bytes() - at));
}

inline std::int64_t cached_chunks(const ChunkFiles& files) {
  const Unlocked unlocked;
  return files.cached();
}

// Reads bytes of the array from `at` on into memory: uint8, contiguous.
inline void read_chunks(const ChunkFiles& files, std::uint64_t at, nb::handle out) {
  Buffers held;
  Buffer& buffer = held.all.emplace_back();
  buffer.get(out.ptr(), PyBUF_WRITABLE);
  if (!buffer.holds("B", 1)) throw nb::value_error("out must be uint8, contiguous and writable");
  const auto bytes = static_cast<std::uint64_t>(buffer.bytes());
  if (at > files.bytes() || bytes > files.bytes() - at) throw nb::value_error("out of range");
  Unread unread;
  {
    const Unlocked unlocked;
    unread = files.read(at, bytes, buffer.data<std::uint8_t>());
  }
  if (!unread.path) return;
  PyErr_SetObject(PyExc_ValueError, nb::make_tuple(nb::bytes(unread.path), unread.error).ptr());
  throw nb::python_error();
}

// The path of a chunk file, and what kept it from being read; or None.
inline PyObject* told(const Unread& unread) {
  if (!unread.path) return Py_NewRef(Py_None);
  return Py_BuildValue("(yi)", unread.path, unread.error);
}

}  // namespace sharkstore
