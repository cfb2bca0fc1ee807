"""Our own ways to answer a request, and the floor under them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks import memory
from benchmarks.data import I64, Part, Work
from benchmarks.floor import AHEAD, CACHES, NAME, Floor, Setting, entries_of, supports
from benchmarks.ours import STORED, view_of
from benchmarks.timing import Contender, Effort, Lane
from benchmarks.traffic import Requests
from sharkstore.load.store import Store

OURS = "store.request"
ONE_SHOT, BY_TABLE = "store.embedding_bags", "Table.embedding_bag, one by one"
# ids of a request from which not all settings of the floor are tried
LARGE = 1_000_000


def threaded(threads: int) -> str:
    """The name of `store.request` on some threads."""
    return OURS if threads == 1 else f"{OURS}, {threads} threads"


def contenders(
    store: Store, requests: Requests, note: str, threads: Sequence[int]
) -> list[Contender]:
    """One call for all tables, reused or not, on some threads, and one call a table."""
    ids, offsets, names = requests.ids, requests.offsets, requests.model.names
    request = store.request(names)
    out = request.empty(requests.batch)

    def prepared(threads: int) -> Lane:
        return lambda i: request(ids[i], offsets, out=out, threads=threads)

    lanes = [(threaded(count), prepared(count), "reused, out=") for count in threads]
    lanes += [
        (ONE_SHOT, lambda i: store.embedding_bags(names, ids[i], offsets), "allocates"),
        (BY_TABLE, _by_table(store, requests), "out="),
    ]
    return [Contender(name, (lane,), 1, STORED, f"{note}, {said}") for name, lane, said in lanes]


def _by_table(store: Store, requests: Requests) -> Lane:
    model, starts = requests.model, requests.starts
    split = [requests.split(ids) for ids in requests.ids]
    outs = [np.empty((requests.batch, model.dim), np.float32) for _ in model.names]
    calls = [store[name].embedding_bag for name in model.names]

    def run(index: int) -> list[NDArray[np.float32]]:
        for call, ids, out in zip(calls, split[index], outs, strict=True):
            call(ids, starts, include_last_offset=True, out=out)
        return outs

    return run


class RequestFloor(Floor):
    """The floor under requests: the rows of all tables gathered, every address known.

    Its answers lie table after table; the bytes are the same.
    """

    def __init__(self, store: Store, requests: Requests, folder: Path, effort: Effort) -> None:
        self._views = [view_of(store[name]) for name in requests.model.names]
        self._requests = requests
        super().__init__(self._views[0], folder, effort)

    def contenders_of_requests(self) -> list[Contender]:
        """The floor at its best setting; none where there is none for these tiers."""
        if not all(map(supports, self._views)):
            return []
        requests = self._requests
        out = memory.huge((requests.bags, requests.model.dim), np.float32)
        out[:] = 0
        part = Part(requests.ids, None if requests.pooled == 1 else requests.offsets, out)
        work = Work(requests.distribution, "bag", part, (part,))
        large = len(requests.ids[0]) >= LARGE
        # one tier leaves nothing to branch on
        branching = (False,) if len(self._views[0].tiers) == 1 else (True, False)
        # large answers are best written past the caches
        tried = product(branching, (True,) if large else (True, False), AHEAD, CACHES)
        best = self.contender(NAME, work, [Setting(*one) for one in tried], mapped=False)
        return [replace(best, items=1)]

    def _entries(self, ids: I64) -> NDArray[np.uint64]:
        parts = zip(self._views, self._requests.split(ids), strict=True)
        return np.concatenate([entries_of(view, some) for view, some in parts])
