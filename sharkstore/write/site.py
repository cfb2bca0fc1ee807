"""A store under way: where it lies, what is done of it, who works on it, and who is told."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from sharkstore.errors import ArgumentError
from sharkstore.plan.stats import Stats
from sharkstore.tensors import Tensor, TensorSource
from sharkstore.write.crew import Crew
from sharkstore.write.journal import Journal

# told of a stage, what was just done, and how much there is: see `convert_checkpoint`
Progress = Callable[[str, int, int], None]
Item = TypeVar("Item")


class Opened(TensorSource, Protocol):
    """A checkpoint, as far as tasks need it."""

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """All tensors that can be stored."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """What is converted: open here, and how another process opens it.

    Args:
        reopen: opens the checkpoint again; a function that can be pickled.
        restat: the same for the stats.
    """

    source: TensorSource
    tensors: Mapping[str, Tensor]
    stats: Stats
    reopen: Callable[[], Opened] | None = None
    restat: Callable[[], Stats] | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """How a process opens what the tasks of a run read; small, for it goes with every task.

    Args:
        scratch: a folder of this run only, by which it is told from others.
        folder: of the files that earlier stages made.
        store: folder of the store under way.
        reopen: opens the checkpoint.
        restat: opens the stats.
    """

    scratch: str
    folder: str = field(compare=False)
    store: str = field(compare=False)
    reopen: Callable[[], Opened] = field(compare=False)
    restat: Callable[[], Stats] = field(compare=False)


@dataclass(frozen=True, slots=True)
class Site:
    """What is converted, where tasks are carried out, and by whom.

    Args:
        found: told, stage by stage, how many tasks an earlier run had done, of how many.
    """

    inputs: Inputs
    journal: Journal
    crew: Crew
    progress: Progress
    found: Callable[[str, int, int], None]

    def submit(
        self, near: Callable[..., Any], far: Callable[..., Any], inputs: Any
    ) -> Callable[[Any], Future[Any]]:
        """Hands tasks over, with what they read, or with how another process opens it.

        Args:
            near: called with `inputs` and a task, in this process.
            far: called with a `Job` and a task, in another one.
        """
        crew, own, journal = self.crew, self.inputs, self.journal
        if crew.near:
            return lambda task: crew.executor.submit(near, inputs, task)
        if own.reopen is None or own.restat is None:
            raise ArgumentError("other processes need to know how to open the checkpoint")
        job = Job(journal.scratch, journal.folder, journal.store, own.reopen, own.restat)
        return lambda task: crew.executor.submit(far, job, task)

    def carry_out(
        self,
        stage: str,
        tasks: Sequence[Any],
        costs: Sequence[int],
        submit: Callable[[Any], Future[Any]],
        holds: Callable[[int, Any], bool] = lambda _task, _result: True,
    ) -> Iterator[Any]:
        """Carry out what is not done yet; the results of all tasks, in their order.

        Args:
            stage: name of the stage; with a task's number the name of the task.
            costs: of the tasks, in the unit of progress.
            holds: whether what an earlier run did is still there, by number and result.
        """
        names = [f"{stage} {number}" for number in range(len(tasks))]
        kept = {
            number
            for number, name in enumerate(names)
            if name in self.journal and holds(number, self.journal[name])
        }
        total = sum(costs)
        if kept:
            self.found(stage, len(kept), len(tasks))
            self.progress(stage, sum(costs[number] for number in kept), total)
        todo = [number for number in range(len(tasks)) if number not in kept]
        results = self.crew.results(submit, [tasks[number] for number in todo])
        for number, name in enumerate(names):
            while number not in kept:
                place, result = next(results)
                done = todo[place]
                self.journal.add(names[done], result)
                self.progress(stage, costs[done], total)
                kept.add(done)
            yield self.journal[name]


def batches(items: Iterable[Item], cost: Callable[[Item], int], most: int) -> list[list[Item]]:
    """Items in consecutive batches that cost so much at most, or have one item."""
    found: list[list[Item]] = []
    left = 0
    for item in items:
        if not found or cost(item) > left:
            found.append([])
            left = most
        found[-1].append(item)
        left -= cost(item)
    return found
