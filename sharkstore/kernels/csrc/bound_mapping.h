// Mapped memory as arrays of Python.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <memory>
#include <string>
#include <vector>

#include "chunk_files.h"
#include "mapping.h"
#include "unlocked.h"

namespace sharkstore {

namespace nb = nanobind;

using Bytes = nb::ndarray<nb::numpy, const std::uint8_t, nb::ndim<1>>;

[[noreturn]] inline void raise_os_error(int error, const std::string& path) {
  errno = error;
  PyErr_SetFromErrnoWithFilename(PyExc_OSError, path.c_str());
  throw nb::python_error();
}

// Does what may meet a chunk file that can't be opened, or has another size; `path`: of the file
// that was last worked on.
template <class Work>
void raising(const std::string& path, Work work) try {
  work();
} catch (const std::system_error& error) {
  raise_os_error(error.code().value(), path);
} catch (const NotOpened& error) {
  raise_os_error(error.error, error.path);
} catch (const WrongSize& wrong) {
  const nb::bytes name(wrong.path.data(), wrong.path.size());
  PyErr_SetObject(PyExc_ValueError, nb::make_tuple(name, wrong.bytes).ptr());
  throw nb::python_error();
}

inline std::vector<std::string> file_names(const std::vector<nb::bytes>& paths) {
  std::vector<std::string> files;
  files.reserve(paths.size());
  for (const nb::bytes& path : paths) files.emplace_back(path.c_str(), path.size());
  return files;
}

// Chunk files as one read-only array, advised to lie on huge pages.
//
// Paths, below the folder of a descriptor, are bytes: file names need not be UTF-8.
inline Bytes map_chunks(int folder, const std::vector<nb::bytes>& paths, std::size_t chunk_bytes,
                 std::size_t file_bytes) {
  const std::vector<std::string> files = file_names(paths);
  const std::size_t bytes = files.size() * chunk_bytes;
  auto mapping = std::make_unique<Mapping>();
  std::string current;
  raising(current, [&] {
    const Unlocked unlocked;
    if (!mapping->fits_alone(files.size(), chunk_bytes)) mapping->reserve(bytes);
    for (std::size_t i = 0; i < files.size(); ++i) {
      current = files[i];
      mapping->place(folder, current, i * chunk_bytes, chunk_bytes, file_bytes);
    }
    mapping->advise_huge_pages(bytes);
  });
  const std::uint8_t* data = mapping->data();
  nb::capsule owner(mapping.release(),
                    [](void* p) noexcept { delete static_cast<Mapping*>(p); });
  return Bytes(data, {bytes}, owner);
}

// Fresh zeros on huge pages where the system has them, with room to read past the end.
inline nb::ndarray<nb::numpy, std::uint8_t, nb::ndim<1>> huge_array(std::size_t bytes) {
  auto mapping = std::make_unique<Mapping>();
  try {
    mapping->reserve(bytes, true);
  } catch (const std::system_error&) {
    throw std::bad_alloc();
  }
  mapping->advise_huge_pages(bytes);
  std::uint8_t* data = mapping->data();
  nb::capsule owner(mapping.release(), [](void* p) noexcept { delete static_cast<Mapping*>(p); });
  return nb::ndarray<nb::numpy, std::uint8_t, nb::ndim<1>>(data, {bytes}, owner);
}

}  // namespace sharkstore
