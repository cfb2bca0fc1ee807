"""Those who carry tasks out: let go, and interrupted, at any time."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest

from sharkstore.write.crew import Crew

# more than any of these tests takes
LONG = 60
WORKING = """
import time
from sharkstore.write.crew import Crew
if __name__ == "__main__":
    with Crew.of_processes(2) as crew:
        print("working", flush=True)
        running = [crew.executor.submit(time.sleep, 60) for _ in range(2)]
        for future in running:
            future.result()
"""


def test_workers_end_in_the_midst_of_their_tasks_when_a_run_is_stopped():
    def stopped():
        with Crew.of_processes(2) as crew:
            assert crew.executor.submit(os.getpid).result() != os.getpid()
            crew.executor.submit(time.sleep, LONG)
            raise KeyboardInterrupt

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert time.monotonic() - start < LONG / 2
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("delay", [0.0, 0.1, 1.0])
def test_an_interrupt_of_all_processes_ends_them_and_only_the_first_tells(tmp_path, delay):
    script = tmp_path / "working.py"
    script.write_text(WORKING)
    with subprocess.Popen(
        [sys.executable, script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as run:
        assert run.stdout.readline() == "working\n"
        time.sleep(delay)
        os.killpg(run.pid, signal.SIGINT)
        _, told = run.communicate(timeout=LONG / 2)
    assert told.count("Traceback") == told.count("KeyboardInterrupt") == 1
