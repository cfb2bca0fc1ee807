// The native module: binds what the headers compute, and nothing else.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <memory>

#include "mapping.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using Bytes = nb::ndarray<nb::numpy, const std::uint8_t, nb::ndim<1>>;

[[noreturn]] void raise_os_error(const std::system_error& error, const std::string& path) {
  errno = error.code().value();
  PyErr_SetFromErrnoWithFilename(PyExc_OSError, path.c_str());
  throw nb::python_error();
}

// Paths, below the folder of a descriptor, are bytes: file names need not be UTF-8.
Bytes map_chunks(int folder, const std::vector<nb::bytes>& paths, std::size_t chunk_bytes,
                 std::size_t file_bytes) {
  std::vector<std::string> files;
  files.reserve(paths.size());
  for (const nb::bytes& path : paths) files.emplace_back(path.c_str(), path.size());
  const std::size_t bytes = files.size() * chunk_bytes;
  auto mapping = std::make_unique<sharkstore::Mapping>();
  std::string current;
  try {
    nb::gil_scoped_release unlocked;
    if (!mapping->fits_alone(files.size(), chunk_bytes)) mapping->reserve(bytes);
    for (std::size_t i = 0; i < files.size(); ++i) {
      current = files[i];
      mapping->place(folder, current, i * chunk_bytes, chunk_bytes, file_bytes);
    }
  } catch (const std::system_error& error) {
    raise_os_error(error, current);
  } catch (const sharkstore::WrongSize& wrong) {
    const nb::bytes path(wrong.path.data(), wrong.path.size());
    PyErr_SetObject(PyExc_ValueError, nb::make_tuple(path, wrong.bytes).ptr());
    throw nb::python_error();
  }
  const std::uint8_t* data = mapping->data();
  nb::capsule owner(mapping.release(),
                    [](void* p) noexcept { delete static_cast<sharkstore::Mapping*>(p); });
  return Bytes(data, {bytes}, owner);
}

}  // namespace

NB_MODULE(_native, m) {
  m.doc() = "Native parts of sharkstore.";
  m.def("map_chunks", &map_chunks, "folder"_a, "paths"_a, "chunk_bytes"_a, "file_bytes"_a);
}
