"""Who carries tasks out: threads of this process, processes of this machine, or a Dask cluster.

A task is a pure function of its inputs: carried out twice, or on another machine, it gives the same
bytes. All go through the Executor protocol of `concurrent.futures`.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Protocol, Self

from sharkstore.errors import WorkerError

# one encodes while the other waits for the disk
THREADS = 2
# a task that killed so many workers kills all of them
TRIES = 3
# tasks handed to each worker at a time: one to do, and one to go on with
AHEAD = 2


class Submit(Protocol):
    """Hands a task over."""

    def __call__(self, task: Any, /) -> Future[Any]: ...


@dataclass(frozen=True, slots=True)
class Crew:
    """Those who carry tasks out. As a context manager: behind it nothing runs any more.

    Args:
        executor: of the protocol.
        width: tasks to hand over at a time.
        near: they run in this process, and share its memory.
    """

    executor: Executor
    width: int
    near: bool

    @classmethod
    def of_threads(cls, threads: int = THREADS) -> Crew:
        """Threads of this process."""
        return cls(ThreadPoolExecutor(threads, "tasks"), threads, near=True)

    @classmethod
    def of_processes(cls, workers: int) -> Crew:
        """So many processes of this machine."""
        return cls(Workers(workers), AHEAD * workers, near=False)

    @classmethod
    def of_dask(cls, address: str) -> Crew:
        """The workers of the Dask cluster with this scheduler."""
        from sharkstore.write.cluster import Cluster

        cluster = Cluster(address)
        return cls(cluster, AHEAD * cluster.threads, near=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        self.executor.shutdown(wait=True, cancel_futures=True)

    def results(self, submit: Submit, tasks: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """Carry tasks out; the place and the result of each, as they come.

        Raises:
            WorkerError: workers were lost, again and again.
        """
        running: dict[Future[Any], int] = {}
        left = enumerate(tasks)
        try:
            for place, task in islice(left, self.width):
                running[submit(task)] = place
            while running:
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    place = running.pop(future)
                    for next_place, task in islice(left, 1):
                        running[submit(task)] = next_place
                    yield place, future.result()
        finally:
            for future in running:
                future.cancel()


class Workers(Executor):
    """Processes of this machine, each its own: one that dies costs the task that it had."""

    def __init__(self, workers: int) -> None:
        self._context = multiprocessing.get_context("spawn")
        # workers end when nobody has our end of it any more
        self._theirs, self._ours = self._context.Pipe(duplex=False)
        # it is these threads that start workers
        self._threads = ThreadPoolExecutor(workers, "workers", _leave_interrupts)
        self._idle: queue.SimpleQueue[ProcessPoolExecutor] = queue.SimpleQueue()
        for _ in range(workers):
            self._idle.put(self._process())

    def submit(self, call: Callable[..., Any], /, *arguments: Any, **options: Any) -> Future[Any]:
        """Have a worker call a function of a module."""
        return self._threads.submit(self._call, call, arguments, options)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let the workers go; with `cancel_futures` in the midst of what they do."""
        if cancel_futures:
            self._ours.close()
        self._threads.shutdown(wait=wait, cancel_futures=cancel_futures)
        while not self._idle.empty():
            self._idle.get().shutdown(wait=wait, cancel_futures=cancel_futures)

    def _call(
        self, call: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any]
    ) -> Any:
        process = self._idle.get()
        try:
            for _ in range(TRIES):
                try:
                    return process.submit(call, *arguments, **options).result()
                except BrokenProcessPool:
                    if self._ours.closed:
                        raise WorkerError("the workers were let go") from None
                    process.shutdown(wait=False)
                    process = self._process()
        finally:
            self._idle.put(process)
        remedy = (
            "was it out of memory? Fewer --workers need less; the same command goes on from here"
        )
        raise WorkerError(f"{TRIES} workers were lost at the same task", remedy=remedy)

    def _process(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(1, self._context, _prepare, (self._theirs,))


def _leave_interrupts() -> None:
    """Leave interrupts to the main thread: processes started here never see them."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


def _prepare(parent: Connection) -> None:
    """In a worker: go when the parent lets it go, or is gone."""

    def watch() -> None:
        with contextlib.suppress(EOFError, OSError):
            parent.recv_bytes()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
