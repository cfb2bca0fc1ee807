"""Which tensors of a checkpoint are embedding tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import combinations

from sharkstore.errors import PlanError
from sharkstore.format.layout import MAX_DIM, MAX_ROWS
from sharkstore.tensors import FLOATS, Tensor


def choose_tables(
    tensors: Mapping[str, Tensor],
    patterns: Sequence[str],
    in_stats: set[str],
    left: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Tables, with the reason each was taken.

    Args:
        patterns: globs over the checkpoint's keys; they replace the rule.
        in_stats: tables that the stats name: always taken.
        left: what of the checkpoint can't be stored, with why, for messages.

    The rule: floating tensors of two dimensions, without a sibling `.bias`, whose key has
    `emb` or `table` in it or that have at least 8 times as many rows as values a row.

    Raises:
        PlanError: none found, a pattern or the stats name what can't be a table, or a table
            has too many rows.
    """
    chosen = {}
    for name, tensor in tensors.items():
        why = _why_taken(tensor, tensors, patterns, in_stats)
        if why:
            check_size(tensor)
            chosen[name] = why
    _check_named(tensors, chosen, patterns, in_stats, left or {})
    return chosen


def optimizer_state(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """What an optimizer keeps beside a parameter, with the reason why it is left.

    Its key has that of the parameter in it, and something behind (`state.emb.weight.exp_avg`), and
    it has as many values, or one a row, or one.
    """
    found = {}
    for name, tensor in tensors.items():
        parts = name.split(".")
        for start, stop in combinations(range(len(parts)), 2):
            owner = tensors.get(".".join(parts[start:stop]))
            if owner is not None and len(owner.shape) == 2:
                rows = owner.shape[0]
                if tensor.shape in (owner.shape, (rows,), (rows, 1), (1,), ()):
                    found[name] = "kept beside a parameter, as optimizers do"
    return found


def _why_taken(
    tensor: Tensor, tensors: Mapping[str, Tensor], patterns: Sequence[str], in_stats: set[str]
) -> str:
    if not can_be_table(tensor):
        return ""
    name, (rows, dim) = tensor.name, tensor.shape
    if name in in_stats:
        return "named in the stats"
    if patterns:
        match = next((one for one in patterns if fnmatchcase(name, one)), None)
        return "" if match is None else f"matches {match!r}"
    owner, dot, last = name.rpartition(".")
    if (dot or last == "weight") and f"{owner}{dot}bias" in tensors:
        return ""
    found = next((word for word in ("emb", "table") if word in name.lower()), None)
    if found:
        return f"{found!r} in its key"
    return f"{rows:,} rows of {dim}" if rows >= 8 * dim else ""


def can_be_table(tensor: Tensor) -> bool:
    """Floating, of two dimensions, neither too wide nor without width."""
    two = len(tensor.shape) == 2 and tensor.dtype in FLOATS
    return two and 1 <= tensor.shape[1] <= MAX_DIM


def check_size(tensor: Tensor) -> None:
    """Refuse a table whose row map could not count its rows."""
    if tensor.rows > MAX_ROWS:
        raise PlanError(
            "too many rows for one table", where=tensor.name, got=tensor.rows, expected=MAX_ROWS
        )


def _check_named(
    tensors: Mapping[str, Tensor],
    chosen: Mapping[str, str],
    patterns: Sequence[str],
    in_stats: set[str],
    left: Mapping[str, str],
) -> None:
    missing = sorted(in_stats - set(chosen))
    if missing:
        tensor = tensors[missing[0]]
        raise PlanError(
            f"the stats name a table that can't be one: {tensor.dtype} {tensor.shape}",
            where=tensor.name,
        )
    unmatched = [one for one in patterns if not any(fnmatchcase(name, one) for name in chosen)]
    if unmatched:
        raise PlanError(
            f"--tables {unmatched[0]!r} matches no floating tensor of two dimensions",
            expected=f"at most {MAX_DIM} values a row",
            remedy=f"the checkpoint has {_sample(tensors)}{_without(left)}",
        )
    if not chosen:
        raise PlanError(
            "no embedding tables found",
            remedy=f"name them by --tables 'GLOB'; the checkpoint has "
            f"{_sample(tensors)}{_without(left)}",
        )


def _sample(tensors: Mapping[str, Tensor]) -> str:
    shown = [f"{t.name} {t.dtype} {list(t.shape)}" for t in list(tensors.values())[:6]]
    return (", ".join(shown) + (", …" if len(tensors) > 6 else "")) or "no tensors"


def _without(left: Mapping[str, str]) -> str:
    """What was left, which may be all tables: of a file of one rank, say."""
    shown = [f"{name:.80}: {why}" for name, why in list(left.items())[:4]]
    return f"; left out are {', '.join(shown)}{', …' if len(left) > 4 else ''}" if left else ""
