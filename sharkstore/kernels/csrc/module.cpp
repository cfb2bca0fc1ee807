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

// Paths are bytes: file names need not be UTF-8.
Bytes map_chunks(const std::vector<nb::bytes>& paths, std::size_t chunk_bytes,
                 std::size_t file_bytes) {
  auto mapping = std::make_unique<sharkstore::Mapping>();
  std::string current;
  try {
    if (!mapping->fits_alone(paths.size(), chunk_bytes))
      mapping->reserve(paths.size() * chunk_bytes);
    for (std::size_t i = 0; i < paths.size(); ++i) {
      current.assign(paths[i].c_str(), paths[i].size());
      mapping->place(current, i * chunk_bytes, chunk_bytes, file_bytes);
    }
  } catch (const std::system_error& error) {
    raise_os_error(error, current);
  } catch (const sharkstore::WrongSize& wrong) {
    PyErr_SetObject(PyExc_ValueError, nb::make_tuple(nb::bytes(wrong.path.data(), wrong.path.size()), wrong.bytes).ptr());
    throw nb::python_error();
  }
  const std::uint8_t* data = mapping->data();
  nb::capsule owner(mapping.release(),
                    [](void* p) noexcept { delete static_cast<sharkstore::Mapping*>(p); });
  return Bytes(data, {paths.size() * chunk_bytes}, owner);
}

}  // namespace

NB_MODULE(_native, m) {
  m.doc() = "Native parts of sharkstore.";
  m.def("map_chunks", &map_chunks, "paths"_a, "chunk_bytes"_a, "file_bytes"_a);
}
