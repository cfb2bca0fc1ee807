"""Answers before times: a contender that computes something else is no peer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.data import F32, Part, Source, Work
from benchmarks.timing import Claim, Contender
from sharkstore.kernels import reference

CHECKED = 4096  # ids or bags of the first and of the last batch


class WrongAnswerError(Exception):
    """A contender's answer is not what it claims to compute."""


@dataclass(frozen=True, slots=True)
class Truth:
    """What answers must be.

    Args:
        view: the store's table, for the numpy reference.
    """

    source: Source
    view: reference.TableView

    def check(self, contenders: Sequence[Contender], work: Work) -> None:
        """Run every contender on the first and the last batch.

        Raises:
            WrongAnswerError: naming who was wrong, and where.
        """
        for index in (0, len(work.whole.ids) - 1):
            wanted = {part.out.ctypes.data: self._wanted(part, index) for part in work.parts}
            for contender in contenders:
                if contender.claim.of != "bytes":
                    self._check_one(contender, work, index, list(wanted.values()))

    def _check_one(
        self, contender: Contender, work: Work, index: int, wanted: Sequence[Wanted]
    ) -> None:
        lanes = len(contender.lanes)
        parts = work.parts if lanes == len(work.parts) else (work.whole,)
        if lanes != len(work.parts):  # a library that splits a batch among threads itself
            wanted = [self._wanted(work.whole, index)]
        contender.prepare()
        for lane, part, one in zip(contender.lanes, parts, wanted, strict=True):
            part.out[:] = np.nan  # yesterday's answer doesn't count
            got = np.asarray(lane(index))
            one.compare(contender, got)

    def _wanted(self, part: Part, index: int) -> Wanted:
        if part.offsets is None:
            ids, offsets = part.ids[index][:CHECKED], None
        else:
            offsets = part.offsets[: CHECKED + 1]
            ids = part.ids[index][: offsets[-1]]
        source = self.source.values()[ids]
        stored = np.empty_like(source)
        reference.lookup(self.view, ids, stored)
        return Wanted(part.out.shape, offsets, source, stored)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Rows of the checked ids: float32 in the source, and as the store's reference has them.

    Args:
        shape: of the whole answer, which starts with what is checked.
        offsets: of the checked bags; None for lookups.
    """

    shape: tuple[int, ...]
    offsets: NDArray[np.int64] | None
    source: F32
    stored: F32

    def compare(self, contender: Contender, got: NDArray[Any]) -> None:
        if got.shape != self.shape or got.dtype != np.float32:
            raise WrongAnswerError(f"{contender.name}: {got.dtype} {got.shape}, not {self.shape}")
        claim = contender.claim
        if claim.of == "stored":
            wanted = self._pooled(self.stored)
            bad = got[: len(wanted)].view(np.uint32) != wanted.view(np.uint32)
        else:
            wanted = self._pooled(self.source)
            bad = ~(np.abs(got[: len(wanted)] - wanted) <= self._bound(claim))
        if bad.any():
            row, column = (int(place[0]) for place in np.nonzero(bad))
            answer = f"{got[row, column]!r}, not {wanted[row, column]!r}"
            message = f"{contender.name}: {answer}, at answer {row}, value {column}"
            raise WrongAnswerError(f"{message}; {bad.mean():.1%} of the values are wrong")

    def _bound(self, claim: Claim) -> NDArray[Any]:
        """How far off each value may be: (rows or bags, 1)."""
        largest = np.abs(self.source).max(axis=1, keepdims=True).astype(np.float64)
        bound: NDArray[Any] = largest * claim.relative
        if claim.steps:
            bound += np.ptp(self.source, axis=1, keepdims=True) / claim.steps * 0.5001
        if self.offsets is None:
            return bound
        rounding = 1e-6 * largest  # sums of 20 float32 in any order
        summed: NDArray[Any] = np.add.reduceat(bound + rounding, self.offsets[:-1], axis=0)
        return summed

    def _pooled(self, rows: F32) -> F32:
        if self.offsets is None:
            return rows
        out = np.empty((len(self.offsets) - 1, rows.shape[1]), np.float32)
        reference.pool(rows, self.offsets, None, "sum", out)
        return out
