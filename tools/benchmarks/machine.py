"""What a report says of the machine and of the versions."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import sharkstore
from benchmarks import ours
from benchmarks.floor import compiler

PACKAGES = ("torch", "fbgemm-gpu-cpu", "numpy", "zarr", "tensorstore", "lmdb", "safetensors")


def machine() -> str:
    """CPU, cores, kernel, huge pages, memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    parts = [
        f"{_cpu()}, {os.cpu_count()} CPUs, vectors of {_vector_bits()} bits",
        f"{platform.system()} {platform.release()}",
        f"huge pages: {_huge_pages()}, malloc {_malloc()}",
        f"{memory:.1f} GiB of memory",
    ]
    return "; ".join(parts)


def versions() -> str:
    """Ours, the compiler, Python and the peers."""
    told = subprocess.run([compiler(), "--version"], capture_output=True, text=True, check=False)
    first = told.stdout.partition("\n")[0] or "no compiler"
    parts = [f"sharkstore {sharkstore.__version__} ({ours.backend()} kernels)", first]
    parts.append(f"Python {platform.python_version()}")
    for package in PACKAGES:
        try:
            parts.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return "; ".join(parts)


def _cpu() -> str:
    found = re.search(r"model name\s*:\s*(.*)", _read("/proc/cpuinfo"))
    return found[1] if found else platform.processor() or platform.machine()


def _vector_bits() -> int:
    flags = _read("/proc/cpuinfo")
    return 512 if "avx512f" in flags else 256 if "avx2" in flags else 128


def _huge_pages() -> str:
    chosen = re.search(r"\[(\w+)\]", _read("/sys/kernel/mm/transparent_hugepage/enabled"))
    return chosen[1] if chosen else "unknown"


def _malloc() -> str:
    """Whether libraries that allocate their tables get huge pages; `tools/bench` sees to it."""
    asked = "glibc.malloc.hugetlb=1" in os.environ.get("GLIBC_TUNABLES", "")
    return "asks for them" if asked else "does not ask for them: some peers are slower for it"


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
