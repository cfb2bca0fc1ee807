"""`tools/bench open`: opening stores of many tables."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

import sharkstore
from benchmarks import machine, peers, report
from benchmarks.check import WrongAnswerError
from benchmarks.progress import steps
from benchmarks.report import Result
from benchmarks.timing import Claim, Contender, Effort, measure
from sharkstore.convert import convert_checkpoint

TIERS = "f32=10%,f16=20%,int8=rest"
ROWS, DIM = 1000, 16

Open = Callable[[], object]


def run(counts: Sequence[int], effort: Effort, folder: Path) -> list[Result]:
    """Open what is in the page cache, again and again."""
    return [_one(count, effort, folder) for count in steps(counts, "open")]


def _one(count: int, effort: Effort, folder: Path) -> Result:
    rng = np.random.default_rng(count)
    tensors = {f"emb.{i}": rng.normal(size=(ROWS, DIM)).astype(np.float32) for i in range(count)}
    contenders = []
    for name, function, note in _openers(tensors, folder / str(count)):
        found = function()
        if found != count:
            raise WrongAnswerError(f"{name}: {found} tables, not {count}")
        contenders.append(Contender(name, (_lane(function),), 1, Claim("bytes"), note))
    rounds = measure(contenders, Effort(effort.rounds, effort.seconds, 1))
    notes = {one.name: one.note for one in contenders}
    title = f"Open tables of {ROWS:,} × {DIM}, three tiers each, warm"
    return Result(title, f"{count:,}", "sharkstore", rounds, notes)


def _lane(function: Open) -> Callable[[int], object]:
    return lambda _index: function()


def _openers(
    tensors: dict[str, NDArray[np.float32]], folder: Path
) -> Iterator[tuple[str, Open, str]]:
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint, store = folder / "model.safetensors", folder / "model.shark"
    save_file(tensors, checkpoint)
    if not store.exists():
        convert_checkpoint(checkpoint, store, tiers=TIERS)
    yield "sharkstore", lambda: _ours(store), "and close"
    if find_spec("zarr"):
        yield "zarr-python", lambda: _zarr(store), "the same store, consolidated: every array"
    yield "safetensors safe_open", lambda: _safetensors(checkpoint), "float32: every tensor's slice"
    if find_spec("torch"):
        yield "torch.load(mmap=True)", _torch(tensors, folder / "model.pt"), "float32"


def _ours(path: Path) -> int:
    with sharkstore.open(path) as store:
        return len(store)


def _zarr(path: Path) -> int:
    import zarr

    root: Any = zarr.open_group(str(path), mode="r", use_consolidated=True)
    tables = root["tables"]
    return sum(1 for _, group in tables.groups() if dict(group.arrays()))


def _safetensors(path: Path) -> int:
    from safetensors import safe_open

    with safe_open(path, "numpy") as file:
        return len([file.get_slice(name) for name in file.keys()])  # noqa: SIM118


def _torch(tensors: dict[str, NDArray[np.float32]], path: Path) -> Open:
    import torch

    torch.save({name: torch.from_numpy(values) for name, values in tensors.items()}, path)
    return lambda: len(torch.load(path, mmap=True, weights_only=True))


def text(results: Sequence[Result]) -> str:
    """The report as markdown."""
    method = (
        "Medians of interleaved rounds ± half the distance from the 10th to the 90th percentile. "
        "**Above 1, ours is faster.**"
    )
    lines = [
        "# Opening",
        f"Machine: {machine.machine()}.",
        f"Versions: {machine.versions()}.",
        method,
        report.markdown(results, (), "ms"),
    ]
    absent = [peer for peer in peers.missing() if peer in {"torch", "zarr"}]
    if absent:
        lines.append(f"Not installed, so left out: {', '.join(absent)}.")
    return "\n\n".join(lines)


def as_json(results: Sequence[Result]) -> str:
    """The report as JSON."""
    return json.dumps(
        {
            "machine": machine.machine(),
            "versions": machine.versions(),
            "results": report.document(results),
        },
        indent=2,
    )
