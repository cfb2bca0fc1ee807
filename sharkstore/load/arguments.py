"""What callers pass to lookups, checked and brought into one form."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sharkstore.errors import ArgumentError, DtypeError, IdError

I64 = NDArray[np.int64]
F32 = NDArray[np.float32]

ACCEPTED = (np.dtype(np.int64), np.dtype(np.int32))
BOUNDS = ("raise", "default")


def as_ids(values: ArrayLike, what: str = "ids") -> I64:
    """Integers as int64, of any shape.

    Raises:
        DtypeError: an array of another dtype than int32 and int64.
        IdError: a Python integer beyond 64 bits.
    """
    array = _as_array(values, what)
    plain = not hasattr(values, "dtype")  # lists and numbers have the dtype numpy gives them
    if plain:
        _check_64_bits(array, what)
    if array.dtype not in ACCEPTED and not (plain and (array.dtype.kind == "i" or not array.size)):
        raise DtypeError(f"{what} of dtype {array.dtype}", expected="int64 or int32")
    wide: I64 = array.astype(np.int64, copy=False)
    return wide


def _as_array(values: ArrayLike, what: str) -> NDArray[Any]:
    try:
        return np.asarray(values)
    except ValueError as error:
        raise ArgumentError(f"{what} of uneven lengths make no array") from error


def _check_64_bits(array: NDArray[Any], what: str) -> None:
    """Numpy makes unsigned integers or objects of Python integers that int64 can't hold."""
    if array.dtype.kind not in "uO":
        return
    for value in array.reshape(-1).tolist():
        if type(value) is int and not -(2**63) <= value < 2**63:
            raise IdError(f"{value} in {what} does not fit 64 bits")


def as_weights(values: ArrayLike, ids: I64) -> F32:
    """Weights as float32 (n,), one for each id.

    Raises:
        DtypeError: an array of another dtype than float32.
        ArgumentError: another shape than the ids'.
    """
    array = _as_array(values, "per_sample_weights")
    if not hasattr(values, "dtype") and array.dtype.kind in "fiu":
        with np.errstate(over="ignore"):
            array = array.astype(np.float32)
    if array.dtype != np.float32:
        raise DtypeError(f"per_sample_weights of dtype {array.dtype}", expected="float32")
    if array.shape != ids.shape:
        raise ArgumentError(
            "per_sample_weights must have the shape of ids", got=array.shape, expected=ids.shape
        )
    return array.reshape(-1)


def check_bounds(ids: I64, rows: int, table: str) -> None:
    """Refuse ids outside the table.

    Raises:
        IdError: naming the first bad id and its position.
    """
    bad = np.flatnonzero((ids < 0) | (ids >= rows))
    if len(bad):
        raise IdError(
            f"id {ids[bad[0]]} at position {bad[0]} is outside the table"
            + (f", as are {len(bad) - 1:,} more" if len(bad) > 1 else ""),
            where=f"table {table!r}",
            expected=f"0 to {rows - 1}" if rows else "no id: the table has no rows",
            remedy="bounds='default' returns the table's default row instead",
        )


def bag_offsets(ids: I64, offsets: ArrayLike | None, *, include_last: bool) -> I64:
    """Offsets of bags with the end of the last one: int64 (bags + 1,).

    2-D ids are one bag a row and take no offsets; 1-D ids need them.

    Raises:
        ArgumentError: offsets that don't start at 0, fall, or pass the end.
    """
    if ids.ndim == 2:
        if offsets is not None:
            raise ArgumentError("ids of two dimensions are one bag a row: no offsets then")
        even: I64 = np.arange(ids.shape[0] + 1, dtype=np.int64) * ids.shape[1]
        return even
    if ids.ndim != 1:
        raise ArgumentError("bags take ids of one or two dimensions", got=ids.ndim)
    if offsets is None:
        raise ArgumentError("ids of one dimension need offsets")
    starts = as_ids(offsets, "offsets")
    if starts.ndim != 1:
        raise ArgumentError("offsets must have one dimension", got=starts.ndim)
    whole = starts if include_last else np.append(starts, len(ids))
    if len(whole) == 0:
        raise ArgumentError("include_last_offset needs at least one offset")
    _check_offsets(whole, len(ids))
    return whole


def _check_offsets(whole: I64, count: int) -> None:
    if len(whole) == 1 and count:
        raise ArgumentError(f"no bags, but {count} ids")
    if whole[0] != 0:
        raise ArgumentError("the first offset must be 0", got=int(whole[0]))
    falls = np.flatnonzero(whole[1:] < whole[:-1])  # a difference could overflow
    if len(falls) and whole[falls[0]] > count:
        at = int(falls[0])
        raise ArgumentError(f"offset {at} passes the end of {count} ids", got=int(whole[at]))
    if len(falls):
        at = int(falls[0]) + 1
        raise ArgumentError(
            f"offset {at} falls", got=int(whole[at]), expected=f">= {whole[at - 1]}"
        )
    if whole[-1] != count:
        raise ArgumentError(
            "the last offset must be the number of ids", got=int(whole[-1]), expected=count
        )


def without_padding(
    ids: I64, offsets: I64, weights: F32 | None, padding: int, rows: int
) -> tuple[I64, I64, F32 | None]:
    """Ids, offsets and weights without the ids equal to `padding` (negative: from the end)."""
    try:
        padding = operator.index(padding)
    except TypeError as error:
        raise DtypeError("padding_idx must be an integer", got=repr(padding)) from error
    if not -rows <= padding < rows:
        raise ArgumentError(
            "padding_idx outside the table", got=padding, expected=f"{-rows} to {rows - 1}"
        )
    keep = ids != padding % rows
    kept = np.concatenate([[0], np.cumsum(keep)])
    return ids[keep], kept[offsets], None if weights is None else weights[keep]


def out_array(out: Any, shape: tuple[int, ...], *inputs: NDArray[Any] | None) -> F32:
    """The array to write into: a fresh one, or the caller's, which must fit exactly.

    Args:
        inputs: arrays that are read while it is written.

    Raises:
        DtypeError: not float32.
        ArgumentError: another shape, read-only, not C-contiguous, or memory of an input.
    """
    if out is None:
        return np.empty(shape, np.float32)
    if not isinstance(out, np.ndarray) or out.dtype != np.float32:
        got = out.dtype if isinstance(out, np.ndarray) else type(out).__name__
        raise DtypeError("out must be a numpy array", got=got, expected="float32")
    if out.shape != shape:
        raise ArgumentError("out has the wrong shape", got=out.shape, expected=shape)
    if not out.flags.c_contiguous or not out.flags.writeable:
        raise ArgumentError("out must be C-contiguous and writable")
    if any(one is not None and np.may_share_memory(out, one) for one in inputs):
        raise ArgumentError("out shares memory with what is looked up")
    return out


def check_choice(what: str, value: Any, known: tuple[str, ...]) -> None:
    """Refuse an option that isn't one of the known."""
    if not isinstance(value, str) or value not in known:
        raise ArgumentError(f"{what} {value!r} is not known", expected=" or ".join(known))
