"""What is done of a conversion, across runs that are killed."""

import os

from sharkstore.errors import WorkerError
from sharkstore.write.files import IDENTITY, Destination
from sharkstore.write.journal import Journal


def run(path, identity, task):
    """A run that does one task and is stopped; what it knew before."""
    try:
        with (
            Destination(str(path), overwrite=False) as place,
            Journal(place, identity) as journal,
        ):
            known = "task" in journal
            found = journal["task"] if known else None
            journal.add("task", task)
            raise WorkerError("stopped")
    except WorkerError:
        return found


def test_work_is_known_to_the_next_run_for_the_same_alone(tmp_path):
    path = tmp_path / "m.shark"
    assert run(path, {"a plan": "1"}, 1) is None
    assert run(path, {"a plan": "1"}, 2) == 1
    assert run(path, {"a plan": "2"}, 3) is None
    assert run(path, {"a plan": "2"}, 4) == 3


def test_a_run_that_goes_on_does_not_write_again_what_the_work_is_for(tmp_path):
    identity = tmp_path / ".m.shark.partial" / "work" / IDENTITY
    run(tmp_path / "m.shark", {"a plan": "1"}, 1)
    os.utime(identity, ns=(0, 0))  # killed while it is written, all work would be lost
    run(tmp_path / "m.shark", {"a plan": "1"}, 2)
    assert identity.stat().st_mtime_ns == 0
