"""Commands that are watched while they run: the memory of all their processes together."""

from __future__ import annotations

import re
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SAMPLED = 0.02  # seconds between looks
FIELDS = ("RssAnon", "RssShmem", "RssFile")


@dataclass(frozen=True, slots=True)
class Ran:
    """A command that ran.

    Args:
        peak: largest resident bytes of its processes, mapped files included in each.
        private: largest without mapped files.
        code: exit status.
    """

    seconds: float
    peak: int
    private: int
    out: str
    code: int


def watched(command: Sequence[str], *, fails: bool = False) -> Ran:
    """Run a command, and look at its processes meanwhile; zeros where there is no /proc.

    What the system counts for a child in the end begins with its parent's memory, so they are
    looked at while they run.

    Raises:
        CalledProcessError: it failed, and was not to.
    """
    ended = threading.Event()
    most = [0, 0]
    begin = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        watcher = threading.Thread(target=_watch, args=(process.pid, most, ended))
        watcher.start()
        out, _ = process.communicate()
        seconds = time.perf_counter() - begin
        ended.set()
        watcher.join()
    if process.returncode and not fails:
        raise subprocess.CalledProcessError(process.returncode, command)
    return Ran(seconds, most[0], most[1], out, process.returncode)


def _watch(pid: int, most: list[int], ended: threading.Event) -> None:
    while not ended.wait(SAMPLED):
        found = [_resident(one) for one in family(pid)]
        most[0] = max(most[0], sum(private + mapped for private, mapped in found))
        most[1] = max(most[1], sum(private for private, _ in found))


def family(pid: int) -> list[int]:
    """A process, those that it started, and theirs."""
    found = [pid]
    for one in found:
        for thread in Path(f"/proc/{one}/task").glob("*"):
            found += map(int, _read(thread / "children").split())
    return found


def _resident(pid: int) -> tuple[int, int]:
    """Bytes beyond mapped files, and bytes of these."""
    fields = dict(re.findall(r"(\w+):\s+(\d+) kB", _read(Path(f"/proc/{pid}/status"))))
    anon, shared, mapped = (int(fields.get(name, 0)) << 10 for name in FIELDS)
    return anon + shared, mapped


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
