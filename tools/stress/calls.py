"""Random calls of an open store, and what they must answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import sharkstore
from stress.served import F32, Model

LARGE = 400  # one in so many is large: without Python's lock, and by several threads


class Caller:
    """One thread's calls: others hold the same store and the same requests.

    Args:
        request: of all tables, which threads share.
    """

    def __init__(
        self, model: Model, store: sharkstore.Store, request: Any, seed: list[int]
    ) -> None:
        self._rows = model.rows
        self._names = tuple(model.rows)
        self._store, self._request = store, request
        self._rng = np.random.default_rng(seed)
        self._out = request.empty(2)
        self._calls: list[Callable[[int, bool], str | None]] = [
            self._bags,
            self._bags,
            self._sequences,
            self._rows_of_one,
            self._bags_of_one,
        ]

    def __call__(self, number: int, *, compare: bool) -> str | None:
        """Make call `number`: what was wrong about its answer, if it is compared."""
        if number % 5000 == 4999:
            self._store.stats()
        if number % 20_000 == 19_999:
            self._store.warm()
        call = self._calls[int(self._rng.integers(len(self._calls)))]
        return call(3000 if number % LARGE == LARGE - 1 else 2, compare)

    def _ids(self, name: str, count: int) -> Any:
        return self._rng.integers(len(self._rows[name]), size=count)

    def _bags(self, batch: int, compare: bool) -> str | None:
        parts = [self._ids(name, batch) for name in self._names]
        out = self._out if batch == len(self._out) else None
        ids, starts = np.concatenate(parts), np.arange(len(parts) * batch + 1)
        got = self._request(ids, starts, None, out, threads=1 if batch == 2 else 2)
        if not compare:
            return None
        return differs("request", got, pooled(np.concatenate(self._expected(parts), axis=1)))

    def _sequences(self, batch: int, compare: bool) -> str | None:
        parts = [self._ids(name, batch) for name in self._names]
        ids, starts = np.concatenate(parts), np.arange(len(parts) + 1) * batch
        got = self._request.lookups(ids, starts, threads=1 if batch == 2 else 2)
        if not compare:
            return None
        pairs = zip(got, self._expected(parts), strict=True)
        return next((wrong for one in pairs if (wrong := differs("lookups", *one))), None)

    def _expected(self, parts: list[Any]) -> list[F32]:
        return [self._rows[name][ids] for name, ids in zip(self._names, parts, strict=True)]

    def _one(self) -> str:
        return self._names[int(self._rng.integers(len(self._names)))]

    def _rows_of_one(self, count: int, compare: bool) -> str | None:
        name = self._one()
        ids = self._ids(name, count)
        got = self._store[name].lookup(ids)
        return differs(name, got, self._rows[name][ids]) if compare else None

    def _bags_of_one(self, count: int, compare: bool) -> str | None:
        name = self._one()
        ids = self._ids(name, count)
        ids[0] = -1  # outside: its row is zeros, and counted
        got = self._store[name].embedding_bag(ids, np.arange(count), bounds="default")
        expected = self._rows[name][ids]
        expected[0] = 0
        return differs(name, got, pooled(expected)) if compare else None


def pooled(rows: F32) -> F32:
    """Bags of one row each: a sum begins with +0, so that -0 becomes +0."""
    return rows + np.float32(0)


def differs(what: str, got: F32, expected: F32) -> str | None:
    """What to say of an answer that is not what it must be, bit for bit."""
    if got.tobytes() == expected.tobytes():
        return None
    at = np.argwhere(got != expected)[:1].tolist()
    return f"{what}: {got.shape} of {expected.shape}, first at {at}"
