// Calls of a request, as Python makes them.
#pragma once

#include "bound_request.h"

namespace sharkstore {

// Plain C, as the calls of a table. NotImplemented for arrays of another kind.

// embedding_bags(values, offsets, weights, out, threads)
inline PyObject* request_embedding_bags(PyObject* self, PyObject* const* arguments,
                                        Py_ssize_t count) {
  if (count != 5)
    return PyErr_Format(PyExc_TypeError,
                        "embedding_bags takes values, offsets, weights, out, threads");
  const BoundRequest& request = *nb::inst_ptr<BoundRequest>(self);
  const long threads = PyLong_AsLong(arguments[4]);
  if (threads == -1 && PyErr_Occurred()) return nullptr;
  BoundRequest::Arrays a;
  a.have_weights = arguments[2] != Py_None;
  a.ids.get(arguments[0], 0);
  a.offsets.get(arguments[1], 0);
  if (a.have_weights) a.weights.get(arguments[2], 0);
  a.out.get(arguments[3], PyBUF_WRITABLE);
  PyObject* result = nullptr;
  if (request.fits_bags(a)) {
    Findings found = request.embedding_bags(a, static_cast<int>(std::min(threads, 1024l)));
    result = request.report(found);
  } else {
    result = Py_NewRef(Py_NotImplemented);
  }
  a.release();
  return result;
}

// lookups(values, offsets, out, threads)
inline PyObject* request_lookups(PyObject* self, PyObject* const* arguments, Py_ssize_t count) {
  if (count != 4)
    return PyErr_Format(PyExc_TypeError, "lookups takes values, offsets, out, threads");
  const BoundRequest& request = *nb::inst_ptr<BoundRequest>(self);
  const long threads = PyLong_AsLong(arguments[3]);
  if (threads == -1 && PyErr_Occurred()) return nullptr;
  BoundRequest::Arrays a;
  a.ids.get(arguments[0], 0);
  a.offsets.get(arguments[1], 0);
  a.out.get(arguments[2], PyBUF_WRITABLE);
  PyObject* result = nullptr;
  if (request.fits_rows(a)) {
    Findings found = request.lookups(a, static_cast<int>(std::min(threads, 1024l)));
    result = request.report(found);
  } else {
    result = Py_NewRef(Py_NotImplemented);
  }
  a.release();
  return result;
}

}  // namespace sharkstore
