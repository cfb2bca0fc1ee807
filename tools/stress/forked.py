"""Workers forked from one process that has the store open."""

from __future__ import annotations

import multiprocessing
import zlib
from multiprocessing.connection import Connection

import sharkstore
from stress.calls import Caller
from stress.served import Model


def run_processes(model: Model, processes: int, requests: int, seed: int) -> int:
    """Let every worker make the same calls: 0 if all answers are right, and lookups the same."""
    with sharkstore.open(model.path) as store:
        request = store.request(list(model.rows))
        store.warm()

        def serve(pipe: Connection) -> None:
            caller = Caller(model, store, request, [seed, 0])
            wrong = [caller(number, compare=True) for number in range(requests)]
            table = store["emb.user"]
            sum_of_rows = zlib.crc32(table.lookup(range(0, table.rows, 7)).tobytes())
            pipe.send(([one for one in wrong if one], sum_of_rows))

        context = multiprocessing.get_context("fork")
        answers = []
        for _ in range(processes):
            mine, theirs = context.Pipe(duplex=False)
            context.Process(target=serve, args=(theirs,)).start()
            answers.append(mine)
        got = [pipe.recv() for pipe in answers]
    wrong = [one for all_wrong, _ in got for one in all_wrong]
    same = len({crc for _, crc in got}) == 1
    print(f"{processes} forked processes, {requests:,} requests each: {len(wrong)} wrong, ", end="")
    print("all alike" if same else f"rows differ: {got}")
    return 0 if same and not wrong else 1
