"""What callers pass to lookups, checked and brought into one form."""

from __future__ import annotations

import math
import operator
from typing import Any, NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sharkstore.errors import ArgumentError, DtypeError, IdError

Ids = NDArray[np.int64] | NDArray[np.int32]
I64 = NDArray[np.int64]
F32 = NDArray[np.float32]

# kernels store whole vectors; fewer rows are not worth the aligning
ALIGNMENT = 64
ALIGNED_ROWS = 512
ACCEPTED = (np.dtype(np.int64), np.dtype(np.int32))
BOUNDS = ("raise", "default")


def as_ids(values: ArrayLike, what: str = "ids") -> Ids:
    """Integers as an array of any shape that kernels can read: int64, or int32 as it came.

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
    kept = array if array.dtype == np.int32 else array.astype(np.int64, copy=False)
    return np.require(kept, requirements=["C", "A"])


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


def as_weights(values: ArrayLike, ids: Ids) -> F32:
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
    return np.require(array, requirements=["C", "A"]).reshape(-1)


def refuse_outside(ids: ArrayLike, position: int, count: int, rows: int, table: str) -> NoReturn:
    """Refuse ids outside the table.

    Args:
        position: of the first of them.
        count: how many they are.

    Raises:
        IdError: naming the first bad id and its position.
    """
    more = f", as are {count - 1:,} more" if count > 1 else ""
    raise IdError(
        f"id {np.asarray(ids).reshape(-1)[position]} at position {position} is outside the table"
        + more,
        where=f"table {table!r}",
        expected=f"0 to {rows - 1}" if rows else "no id: the table has no rows",
        remedy="bounds='default' returns the table's default row instead",
    )


def bag_starts(ids: Ids, offsets: ArrayLike | None) -> I64 | None:
    """Offsets of bags as int64 (n,); None for ids of two dimensions, one bag a row.

    Raises:
        ArgumentError: shapes that make no bags.
    """
    if ids.ndim == 2:
        if offsets is not None:
            raise ArgumentError("ids of two dimensions are one bag a row: no offsets then")
        return None
    if ids.ndim != 1:
        raise ArgumentError("bags take ids of one or two dimensions", got=ids.ndim)
    if offsets is None:
        raise ArgumentError("ids of one dimension need offsets")
    starts = as_ids(offsets, "offsets")
    if starts.ndim != 1:
        raise ArgumentError("offsets must have one dimension", got=starts.ndim)
    return starts.astype(np.int64, copy=False)


def bag_count(ids: Ids, starts: I64 | None, *, include_last: bool) -> int:
    """Number of bags.

    Raises:
        ArgumentError: no end of the last bag where there must be one.
    """
    if starts is None:
        return len(ids)
    if include_last and len(starts) == 0:
        raise ArgumentError("include_last_offset needs at least one offset")
    return len(starts) - include_last


def check_offsets(starts: I64, count: int, *, include_last: bool) -> None:
    """Refuse offsets that don't start at 0, fall, or pass the end of `count` ids.

    Raises:
        ArgumentError: naming the first bad offset.
    """
    whole = starts if include_last else np.append(starts, count)
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


def padding_id(padding: int, rows: int) -> int:
    """The id that is left out of bags; a negative one counts from the end.

    Raises:
        DtypeError: not an integer.
        ArgumentError: outside the table.
    """
    try:
        padding = operator.index(padding)
    except TypeError as error:
        raise DtypeError("padding_idx must be an integer", got=repr(padding)) from error
    if not -rows <= padding < rows:
        raise ArgumentError(
            "padding_idx outside the table", got=padding, expected=f"{-rows} to {rows - 1}"
        )
    return padding % rows


def fresh_array(shape: tuple[int, ...], rows: int) -> F32:
    """An array of float32 (rows in all) to write into; a large one starts on a cache line."""
    if rows < ALIGNED_ROWS:
        return np.empty(shape, np.float32)
    count = rows * shape[-1]
    held = np.empty(count + ALIGNMENT // 4, np.float32)
    start = -held.__array_interface__["data"][0] % ALIGNMENT // 4
    return held[start : start + count].reshape(shape)


def out_array(out: Any, shape: tuple[int, ...], *inputs: NDArray[Any] | None) -> F32:
    """The array to write into: a fresh one, or the caller's, which must fit exactly.

    Args:
        inputs: arrays that are read while it is written.

    Raises:
        DtypeError: not float32.
        ArgumentError: another shape, read-only, not C-contiguous, or memory of an input.
    """
    if out is None:
        return fresh_array(shape, math.prod(shape[:-1]))
    if not isinstance(out, np.ndarray) or out.dtype != np.float32:
        got = out.dtype if isinstance(out, np.ndarray) else type(out).__name__
        raise DtypeError("out must be a numpy array", got=got, expected="float32")
    if out.shape != shape:
        raise ArgumentError("out has the wrong shape", got=out.shape, expected=shape)
    if not out.flags.carray:
        raise ArgumentError("out must be C-contiguous, aligned and writable")
    if any(one is not None and np.may_share_memory(out, one) for one in inputs):
        raise ArgumentError("out shares memory with what is looked up")
    return out


def check_choice(what: str, value: Any, known: tuple[str, ...]) -> None:
    """Refuse an option that isn't one of the known."""
    if not isinstance(value, str) or value not in known:
        raise ArgumentError(f"{what} {value!r} is not known", expected=" or ".join(known))
