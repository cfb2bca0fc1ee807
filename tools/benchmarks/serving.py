"""A process that serves, told by lines on stdin: WAY PLACE JSON.

It says when it is ready to open, opens on any line, says the bytes of its tables, and then
answers requests for as many seconds as each line says.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import sharkstore
from benchmarks.timing import Lane, quiet
from benchmarks.traffic import Model, Requests

IDS = 500_000  # of the requests in rotation

# opens tables and reads all of them: what answers a request, and their bytes
Open = Callable[[], tuple[Lane, int]]


def main(way: str, place: str, how: dict[str, int]) -> None:
    """Serve until stdin ends."""
    model = Model(Path(place), how["tables"], how["rows"], how["dim"])
    requests = _requests(model, how["batch"], how["seed"])
    tables = _torch(requests) if way == "nn.EmbeddingBag" else _store(requests)
    print(json.dumps("here"), flush=True)
    sys.stdin.readline()
    lane, size = tables()
    _serve(lane, len(requests.ids), 0)
    print(json.dumps(size), flush=True)
    for line in sys.stdin:
        with quiet():
            print(json.dumps(_serve(lane, len(requests.ids), json.loads(line))), flush=True)


def _requests(model: Model, batch: int, seed: int) -> Requests:
    size = model.tables * batch
    rng = np.random.default_rng(seed)
    count = max(1, IDS // size)
    ids = rng.integers(0, model.rows, (count, size))
    return Requests(model, "uniform", batch, 1, tuple(ids))


def _store(requests: Requests) -> Open:
    def tables() -> tuple[Lane, int]:
        model, ids, offsets = requests.model, requests.ids, requests.offsets
        store = sharkstore.open(model.folder)
        store.warm()
        request = store.request(model.names)
        out = request.empty(requests.batch)
        return lambda i: request(ids[i], offsets, out=out), store.nbytes

    return tables


def _torch(requests: Requests) -> Open:
    # before memory is looked at, and only where it is needed
    import torch

    from benchmarks.peers_torch import set_threads
    from benchmarks.traffic_torch import float_tables

    set_threads(1)
    torch.set_grad_enabled(mode=False)

    def tables() -> tuple[Lane, int]:
        held = float_tables(requests.model)
        split = [requests.split(torch.from_numpy(ids)) for ids in requests.ids]
        starts = torch.from_numpy(requests.starts)
        size = sum(weight.nbytes for weight in held.parameters())
        return lambda i: held(split[i], starts), size

    return tables


def _serve(lane: Lane, count: int, seconds: float) -> dict[str, float]:
    """Answer requests for some time, and once around at the least if that is 0."""
    found: list[float] = []
    begin = now = time.perf_counter()
    while now - begin < seconds or len(found) < (count if not seconds else 1):
        lane(len(found) % count)
        before, now = now, time.perf_counter()
        found.append(now - before)
    return {"rate": len(found) / (now - begin), "p99": float(np.quantile(found, 0.99))}


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
