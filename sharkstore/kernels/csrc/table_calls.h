// Calls of a table, as Python makes them.
#pragma once

#include "bound_files.h"
#include "bound_table.h"

namespace sharkstore {

// None when all went well, else what was found.
inline PyObject* report(const Outcome& o) {
  if (o.outside == 0 && o.bad_row < 0 && !o.bad_offsets && !o.unread.path) Py_RETURN_NONE;
  return Py_BuildValue("(LLLiNN)", o.outside, o.first_outside, o.bad_row, o.bad_tier,
                       told(o.unread), PyBool_FromLong(o.bad_offsets));
}

// The two hot calls are plain C: a call costs a fraction, and a daemon thread that the
// interpreter ends in the middle of one (before Python 3.14) passes no frame that forbids it.
// NotImplemented for arrays of another kind.

// lookup(ids, out)
inline PyObject* table_lookup(PyObject* self, PyObject* const* arguments, Py_ssize_t count) {
  if (count != 2) return PyErr_Format(PyExc_TypeError, "lookup takes ids, out");
  BoundTable& table = *nb::inst_ptr<BoundTable>(self);
  Buffer ids, out;
  ids.get(arguments[0], 0);
  out.get(arguments[1], PyBUF_WRITABLE);
  PyObject* result = nullptr;
  if (table.fits(ids, out)) {
    result = report(table.lookup(ids, out));
  } else {
    result = Py_NewRef(Py_NotImplemented);
  }
  ids.release();
  out.release();
  return result;
}

// embedding_bag(ids, offsets, weights, last, pool, padding, out)
inline PyObject* table_embedding_bag(PyObject* self, PyObject* const* arguments,
                                     Py_ssize_t count) {
  if (count != 7)
    return PyErr_Format(PyExc_TypeError,
                        "embedding_bag takes ids, offsets, weights, last, pool, padding, out");
  BoundTable& table = *nb::inst_ptr<BoundTable>(self);
  BoundTable::BagArrays a;
  a.have_offsets = arguments[1] != Py_None;
  a.have_weights = arguments[2] != Py_None;
  a.last = arguments[3] == Py_True;
  const long pool = PyLong_AsLong(arguments[4]);
  const long long padding = PyLong_AsLongLong(arguments[5]);
  if (PyErr_Occurred()) return nullptr;
  if (pool < 0 || pool > static_cast<long>(Pool::kMax))
    return PyErr_Format(PyExc_ValueError, "no pool %ld", pool);
  a.ids.get(arguments[0], 0);
  if (a.have_offsets) a.offsets.get(arguments[1], 0);
  if (a.have_weights) a.weights.get(arguments[2], 0);
  a.out.get(arguments[6], PyBUF_WRITABLE);
  PyObject* result = nullptr;
  if (table.fits(a)) {
    result = report(table.embedding_bag(a, static_cast<Pool>(pool), padding));
  } else {
    result = Py_NewRef(Py_NotImplemented);
  }
  a.ids.release();
  a.offsets.release();
  a.weights.release();
  a.out.release();
  return result;
}

}  // namespace sharkstore
