"""Workers of a Dask cluster, behind the Executor protocol of `concurrent.futures`."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from concurrent.futures import Executor, Future
from importlib.metadata import version
from typing import Any

from sharkstore.errors import WorkerError

# for an answer
SECONDS = 20
GO_ON = "see the cluster's logs; the same command goes on from here"


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
            _knock(address)
            self._client = open_client(address, timeout=SECONDS, set_as_default=False)
        except (OSError, ValueError, OverflowError) as error:
            raise WorkerError(f"no Dask scheduler: {error}", where=address) from error
        try:
            self._check(address)
        except BaseException:
            self._client.close()
            raise
        self.threads = sum(self._client.nthreads().values())
        # a task whose worker was lost is done again, but none that failed
        self._executor = self._client.get_executor(retries=0, pure=False)

    def submit(self, call: Callable[..., Any], /, *arguments: Any, **options: Any) -> Future[Any]:
        """Have a worker call a function of a module.

        Raises:
            WorkerError: the scheduler is gone.
        """
        try:
            theirs = self._executor.submit(call, *arguments, **options)
        except Exception as error:
            if self._client.status == "running":
                raise
            raise WorkerError(f"the scheduler was lost: {error}", remedy=GO_ON) from error
        ours: Future[Any] = Future()
        theirs.add_done_callback(lambda done: self._hand_on(done, ours))
        return ours

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Leave the cluster to others."""
        with contextlib.suppress(Exception):  # it may be gone
            self._executor.shutdown(wait=wait and not cancel_futures)
        self._client.close()

    def _hand_on(self, done: Future[Any], ours: Future[Any]) -> None:
        """What a task came to; a cluster's own errors as ours."""
        from distributed import KilledWorker

        if not ours.set_running_or_notify_cancel():
            return  # nobody waits for it any more
        error: BaseException | None = None
        if done.cancelled() or self._client.status != "running":
            # without its scheduler a task may come to anything
            error = WorkerError("the cluster dropped a task", remedy=GO_ON)
        elif isinstance(error := done.exception(), KilledWorker):
            error = WorkerError("workers were lost at the same task, again and again", remedy=GO_ON)
        if error is None:
            ours.set_result(done.result())
        else:
            ours.set_exception(error)

    def _check(self, address: str) -> None:
        """Refuse workers that would do other work, and those that can't do any."""
        expected, versions = _version(), self._client.run(_version, on_error="return")
        if not versions:
            remedy = "start some: dask worker ADDRESS"
            raise WorkerError("the cluster has no workers", where=address, remedy=remedy)
        for worker, got in versions.items():
            if isinstance(got, BaseException):
                remedy = f"install sharkstore {expected} there"
                raise WorkerError(f"no sharkstore: {got}", where=worker, remedy=remedy) from got
            if got != expected:
                raise WorkerError("another sharkstore", where=worker, got=got, expected=expected)


def _knock(address: str) -> None:
    """See whether anybody listens: a client would try for long where nobody does.

    Raises:
        OSError, ValueError, OverflowError: nobody, or that is no address.
    """
    from distributed.comm.addressing import get_address_host_port, parse_address

    if parse_address(address)[0] in ("tcp", "tls"):
        socket.create_connection(get_address_host_port(address), SECONDS).close()


def _version() -> str:
    """In a worker: the version of sharkstore that it has."""
    return version("sharkstore")
