"""Runs that were stopped: what tells whether their work is of use, and what is said of it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any

from sharkstore import __version__
from sharkstore.conversion.asked import Asked
from sharkstore.readers.files import open_files

# of the files of a conversion under way
WORK = "work 1"


@dataclass(slots=True)
class Earlier:
    """What is found of an earlier run, and told.

    Args:
        chunks: batches of chunks that it had written, and how many there are.
    """

    tell: Callable[[str], None]
    chunks: tuple[int, int] | None = None

    def found(self, stage: str, done: int, total: int) -> None:
        """Take in what an earlier run had done of a stage."""
        words = {
            "measure": ("checkpoint", "measured"),
            "read": ("checkpoint", "read"),
            "write": ("store", "written"),
        }
        if stage in words:
            of, what = words[stage]
            share = f"{done:,} of {total:,} parts of the {of} are {what} already"
            self.tell(f"going on where an earlier run stopped: {share}")
        if stage == "write":
            self.chunks = (done, total)

    def tell_changed(self, changed: Sequence[str]) -> None:
        """Say why the work of an earlier run is of no use."""
        if changed:
            others = " and ".join(changed)
            self.tell(f"an earlier run stopped here, for {others} of before: starting anew")


def identity(asked: Asked, stats: str | None) -> dict[str, Any]:
    """What the bytes of a store depend on, in words that a person is told if it changes."""
    source = asked.source
    shapes = [[one.name, one.dtype, one.shape] for one in source.tensors.values()]
    policy = None if asked.policy is None else asdict(asked.policy)
    told = {
        "a checkpoint": [source.stamp, shapes],
        "stats": None if stats is None else _stamp(stats),
        "a plan": [asked.plan.document(), policy, asked.curve],
    }
    digests = {name: sha256(json.dumps(one).encode()).hexdigest() for name, one in told.items()}
    return {**digests, "a version": f"sharkstore {__version__}, {WORK}"}


def _stamp(path: str) -> str:
    folder, name = os.path.split(path)
    return f"{name} {open_files(folder).stamp(name)}"
