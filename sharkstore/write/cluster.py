"""Workers of a Dask cluster, behind the Executor protocol of `concurrent.futures`."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from importlib.metadata import version
from typing import Any

from sharkstore.errors import WorkerError

# a task is done again where its worker was lost; one that lost so many workers is not
RETRIES = 3
SECONDS = 20


class Cluster(Executor):
    """The workers behind a scheduler.

    Attributes:
        threads: of all workers together: tasks that run at a time.

    Raises:
        WorkerError: no scheduler at the address, no workers, or workers of another version.
    """

    def __init__(self, address: str) -> None:
        try:
            import distributed
        except ImportError as error:
            remedy = "pip install 'sharkstore[dask]'"
            raise WorkerError("dask.distributed is not installed", remedy=remedy) from error
        # its methods have no types
        open_client: Callable[..., Any] = distributed.Client
        try:
            self._client = open_client(address, timeout=SECONDS, set_as_default=False)
        except (TimeoutError, OSError, ValueError) as error:
            raise WorkerError(f"no Dask scheduler: {error}", where=address) from error
        try:
            self._check(address)
        except BaseException:
            self._client.close()
            raise
        self.threads = sum(self._client.nthreads().values())
        self._executor = self._client.get_executor(retries=RETRIES, pure=False)

    def submit(self, call: Callable[..., Any], /, *arguments: Any, **options: Any) -> Future[Any]:
        """Have a worker call a function of a module."""
        theirs = self._executor.submit(call, *arguments, **options)
        ours: Future[Any] = Future()
        theirs.add_done_callback(lambda done: _hand_on(done, ours))
        return ours

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Leave the cluster to others."""
        self._executor.shutdown(wait=wait and not cancel_futures)
        self._client.close()

    def _check(self, address: str) -> None:
        """Refuse workers that would do other work, and those that can't do any."""
        expected, versions = _version(), self._client.run(_version)
        if not versions:
            remedy = "start some: dask worker ADDRESS"
            raise WorkerError("the cluster has no workers", where=address, remedy=remedy)
        for worker, got in versions.items():
            if got != expected:
                raise WorkerError("another sharkstore", where=worker, got=got, expected=expected)


def _version() -> str:
    """In a worker: the version of sharkstore that it has."""
    return version("sharkstore")


def _hand_on(done: Future[Any], ours: Future[Any]) -> None:
    """What a task came to; a cluster's own errors as ours."""
    from distributed import KilledWorker

    if done.cancelled():
        ours.cancel()
        ours.set_running_or_notify_cancel()
        return
    error = done.exception()
    if error is None:
        ours.set_result(done.result())
    elif isinstance(error, KilledWorker):
        remedy = "see the workers' logs; the same command goes on from here"
        lost = WorkerError("workers were lost at the same task, again and again", remedy=remedy)
        ours.set_exception(lost)
    else:
        ours.set_exception(error)
