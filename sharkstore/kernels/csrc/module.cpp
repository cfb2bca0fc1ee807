// The native module: binds what the headers compute, and nothing else.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "bound_cold.h"
#include "bound_encode.h"
#include "bound_files.h"
#include "bound_mapping.h"
#include "request_calls.h"
#include "table_calls.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace sharkstore;

namespace {

PyMethodDef table_methods[] = {
    {"lookup", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(table_lookup)),
     METH_FASTCALL, nullptr},
    {"embedding_bag",
     reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(table_embedding_bag)),
     METH_FASTCALL, nullptr},
    {nullptr, nullptr, 0, nullptr}};
PyType_Slot table_slots[] = {{Py_tp_methods, table_methods}, {0, nullptr}};

PyMethodDef request_methods[] = {
    {"embedding_bags",
     reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(request_embedding_bags)),
     METH_FASTCALL, nullptr},
    {"lookups", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(request_lookups)),
     METH_FASTCALL, nullptr},
    {nullptr, nullptr, 0, nullptr}};
PyType_Slot request_slots[] = {{Py_tp_methods, request_methods}, {0, nullptr}};

}  // namespace

NB_MODULE(_native, m) {
  m.doc() = "Native parts of sharkstore.";
  nb::set_leak_warnings(false);  // daemon threads hold tables when the interpreter goes
  m.def("map_chunks", &map_chunks, "folder"_a, "paths"_a, "chunk_bytes"_a, "file_bytes"_a);
  m.def("huge_array", &huge_array, "size"_a);
  m.def("advise_pages", &advise_pages, "array"_a, "how"_a);
  m.def("populate", &populate, "array"_a);
  m.def("resident", &resident, "array"_a);
  m.def("backends", [] {
    std::vector<std::string> names;
    for (const Backend* one : usable_backends()) names.emplace_back(one->name);
    return names;
  });
  m.def("backend", [] { return std::string(current_backend()->name); });
  m.def("use_backend", [](const std::string& name) {
    const Backend* chosen = find_backend(name);
    if (!chosen) throw nb::value_error("no such kernels here");
    current_backend() = chosen;
  }, "name"_a);
  m.def("encode", &bound_encode, "kind"_a, "exponent"_a, "codebook"_a.none(), "factor"_a.none(),
        "rows"_a, "out"_a);
  m.def("encode_tier", &bound_encode_tier, "kind"_a, "exponent"_a, "codebook"_a.none(),
        "factor"_a.none(), "rows"_a, "rowmap"_a.none(), "tier"_a, "skip"_a, "out"_a);
  m.def("distort", &bound_distort, "kind"_a, "exponent"_a, "codebook"_a.none(),
        "factor"_a.none(), "rows"_a, "stand_in"_a.none(), "out"_a);
  m.def("measure", &bound_measure, "rows"_a, "rowmap"_a.none(), "ranged"_a, "largest"_a,
        "magnitudes"_a);
  m.def("build_rowmap", &bound_build_rowmap, "tiers"_a, "planes"_a, "before"_a, "out"_a);
  nb::class_<ChunkFiles>(m, "ChunkFiles")
      .def(nb::new_(&open_chunks), "folder"_a, "paths"_a, "size"_a, "chunk_bytes"_a,
           "file_bytes"_a)
      .def("read", &read_chunks, "at"_a, "out"_a)
      .def("ask", &ask_chunks, "at"_a, "size"_a)
      .def("cached", &cached_chunks)
      .def_prop_ro("nbytes", &ChunkFiles::bytes);
  nb::class_<BoundTable>(m, "Table", nb::type_slots(table_slots))
      .def(nb::init<std::int64_t, int, nb::list, nb::object, nb::object>(), "rows"_a, "dim"_a,
           "tiers"_a, "rowmap"_a.none(), "default"_a)
      .def("watch", &BoundTable::watch, "budget"_a.none())
      .def("warmed", &BoundTable::warmed)
      .def("counts", &BoundTable::counts);
  nb::class_<BoundRequest>(m, "Request", nb::type_slots(request_slots))
      .def(nb::init<nb::list>(), "features"_a);
  nb::class_<BoundBudget>(m, "Budget")
      .def(nb::init<std::int64_t, nb::list>(), "limit"_a, "arrays"_a)
      .def_prop_ro("dropped", [](BoundBudget& b) { return b.budget().dropped(); });
}
