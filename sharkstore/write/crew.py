"""Who carries tasks out: threads of this process, processes of this machine, or a Dask cluster.

A task is a pure function of its inputs: carried out twice, or on another machine, it gives the same
bytes. All go through the Executor protocol of `concurrent.futures`.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
import time
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
        self._threads = ThreadPoolExecutor(workers, "workers", _leave_interrupts)
        self._idle: queue.SimpleQueue[ProcessPoolExecutor] = queue.SimpleQueue()
        for _ in range(workers):
            self._idle.put(_process())

    def submit(self, call: Callable[..., Any], /, *arguments: Any, **options: Any) -> Future[Any]:
        """Have a worker call a function of a module."""
        return self._threads.submit(self._call, call, arguments, options)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let the workers go."""
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
                    process.shutdown(wait=False)
                    process = _process()
        finally:
            self._idle.put(process)
        remedy = (
            "was it out of memory? Fewer --workers need less; the same command goes on from here"
        )
        raise WorkerError(f"{TRIES} workers were lost at the same task", remedy=remedy)


def _process() -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, context, _prepare, (os.getpid(),))


def _leave_interrupts() -> None:
    """In a thread that starts workers: leave interrupts to the main thread.

    Workers inherit it, so that none is interrupted either, not even while it starts.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


def _prepare(parent: int) -> None:
    """In a worker: go when the parent is gone."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
