"""Which pages arrays lie on, as the system tells it.

A random row on a page of 4 KiB costs a walk of the page tables; on 2 MiB pages lookups are 1.3 to
1.75 times as fast. The loader asks for them; whether they come is up to kernel and file system.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

HUGE_PAGE = 2 << 20
SMAPS = "/proc/self/smaps"
SWITCH = "/sys/kernel/mm/transparent_hugepage/enabled"
HEADER = re.compile(r"([0-9a-f]+)-([0-9a-f]+) ")
HUGE_FIELDS = ("AnonHugePages", "FilePmdMapped", "ShmemPmdMapped")
# a tail shorter than a huge page stays on small ones
MOST = 0.9


@dataclass(slots=True)
class Region:
    """A range of addresses that the system tells as one, and its bytes in memory."""

    start: int
    end: int
    resident: int = 0
    huge: int = 0


def huge_pages(arrays: Iterable[NDArray[np.uint8]]) -> dict[str, Any]:
    """How much of some arrays is in memory, and how much of that on huge pages.

    Returns:
        `eligible`, `resident`, `huge`: bytes of the arrays of 2 MiB and more; `note`: why they
        are not on huge pages, None where they are.
    """
    spans = [(a.ctypes.data, a.ctypes.data + a.nbytes) for a in arrays if a.nbytes >= HUGE_PAGE]
    report: dict[str, Any] = {"eligible": sum(end - start for start, end in spans)}
    try:
        with open(SMAPS) as file:
            regions = [region for region in read_regions(file) if _meets(region, spans)]
    except OSError:
        return report | {"resident": None, "huge": None, "note": "this system does not tell"}
    report["resident"] = sum(region.resident for region in regions)
    report["huge"] = sum(region.huge for region in regions)
    report["note"] = _note(report["eligible"], report["resident"], report["huge"])
    return report


def read_regions(lines: Iterable[str]) -> Iterator[Region]:
    """Regions from the text of smaps."""
    region = None
    for line in lines:
        if header := HEADER.match(line):
            if region:
                yield region
            region = Region(int(header[1], 16), int(header[2], 16))
            continue
        name, _, value = line.partition(":")
        if region and name == "Rss":
            region.resident = int(value.split()[0]) << 10
        elif region and name in HUGE_FIELDS:
            region.huge += int(value.split()[0]) << 10
    if region:
        yield region


def _meets(region: Region, spans: list[tuple[int, int]]) -> bool:
    return any(region.start < end and start < region.end for start, end in spans)


def _note(eligible: int, resident: int, huge: int) -> str | None:
    if not eligible:
        return "no array is as large as a huge page"
    if not resident:
        return "nothing was read yet"
    if huge >= MOST * resident:
        return None
    if _switched_off():
        return f"the system has huge pages switched off: {SWITCH} says never"
    return (
        "kernel or file system did not give huge pages for all that was read; "
        "io='ram' copies the tables onto huge pages"
    )


def _switched_off() -> bool:
    try:
        with open(SWITCH) as file:
            return "[never]" in file.read()
    except OSError:
        return True
