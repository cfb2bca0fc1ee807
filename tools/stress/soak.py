"""Memory of a process that serves: it must not grow."""

from __future__ import annotations

import re

MIB = 1 << 20
SETTLED = 0.25  # of the samples: by then every way was gone through
MOST = 4 * MIB


class Memory:
    """Bytes of this process's own memory, from time to time."""

    def __init__(self) -> None:
        self._samples: list[int] = []

    def sample(self) -> None:
        """Take one."""
        with open("/proc/self/status") as status:
            found = re.search(r"RssAnon:\s+(\d+)", status.read())
        self._samples.append(int(found[1]) << 10 if found else 0)

    @property
    def growth(self) -> int:
        """Bytes, from the most when it had settled to the most of the last quarter."""
        count = len(self._samples)
        settled = self._samples[int(count * SETTLED) : int(count * 2 * SETTLED)]
        last = self._samples[int(count * (1 - SETTLED)) :]
        return max(last) - max(settled) if settled and last else 0

    @property
    def grew(self) -> bool:
        """Whether it grows beyond what the system's allocator does."""
        return self.growth > MOST

    def told(self) -> str:
        """For people."""
        if len(self._samples) < 8:
            return "memory: too few samples to tell"
        most = max(self._samples) / MIB
        return f"memory of its own: {most:.0f} MiB at most, {self.growth / MIB:+.2f} MiB in the end"
