"""`tools/bench importance`: what measuring costs an evaluation loop."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from benchmarks import machine, report
from benchmarks.check import WrongAnswerError
from benchmarks.progress import steps
from benchmarks.report import Result
from benchmarks.timing import Claim, Contender, Effort, measure
from sharkstore.importance import Importance

BACKWARD, COUNTING, FORWARD = "forward and backward", "counting", "forward"
Batches = Sequence[tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True)
class Loop:
    """An evaluation loop over a click model.

    Args:
        hidden: widths of the layers behind the tables.
        sparse: gradients of the tables hold the touched rows only.
    """

    hidden: tuple[int, ...]
    sparse: bool
    fields: int = 26
    rows: int = 100_000
    dim: int = 16
    batch: int = 4096
    batches: int = 25

    @property
    def column(self) -> str:
        layers = "-".join(map(str, self.hidden))
        return f"{layers}, {'sparse' if self.sparse else 'dense'} gradients"


LOOPS = tuple(Loop(hidden, sparse) for hidden in ((400, 400), (64, 64)) for sparse in (True, False))


class Clicks(nn.Module):
    """Embedding tables, an FM term and an MLP."""

    def __init__(self, loop: Loop) -> None:
        super().__init__()
        self.tables = nn.ModuleList(
            nn.Embedding(loop.rows, loop.dim, sparse=loop.sparse) for _ in range(loop.fields)
        )
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise([loop.fields * loop.dim, *loop.hidden]):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        self.mlp = nn.Sequential(*layers, nn.Linear(loop.hidden[-1], 1))

    def forward(self, ids: Tensor) -> Tensor:
        """Logits (n,) of ids (n, fields)."""
        columns = zip(self.tables, ids.unbind(1), strict=True)
        vectors = torch.stack([table(column) for table, column in columns], dim=1)
        squares = vectors.square().sum(dim=(1, 2))
        pairs = (vectors.sum(dim=1).square().sum(dim=1) - squares) / 2
        deep: Tensor = self.mlp(vectors.flatten(1))
        return pairs + deep[:, 0]


def run(loops: Sequence[Loop], effort: Effort) -> list[Result]:
    """Time the loops in turns: with Importance, with a backward pass alone, forward alone."""
    return [_one(loop, effort) for loop in steps(loops, "importance")]


def _one(loop: Loop, effort: Effort) -> Result:
    torch.manual_seed(0)
    model = Clicks(loop).eval()
    data = [
        (
            torch.randint(0, loop.rows, (loop.batch, loop.fields)),
            (torch.rand(loop.batch) < 0.3).float(),
        )
        for _ in range(loop.batches)
    ]
    runs = dict(_runs(model, data))
    contenders = [
        Contender(name, (_lane(function),), loop.batches, Claim("bytes"), note)
        for name, (function, note) in runs.items()
    ]
    rounds = measure(contenders, Effort(effort.rounds, effort.seconds, 1))
    title = (
        f"A batch of {loop.batch:,}: {loop.fields} fields of {loop.rows:,} rows × {loop.dim}, "
        f"{torch.get_num_threads()} threads"
    )
    notes = {name: note for name, (_, note) in runs.items()}
    return Result(title, loop.column, "Importance", rounds, notes)


def _runs(model: Clicks, data: Batches) -> Iterator[tuple[str, tuple[Callable[[], None], str]]]:
    importance = Importance(model)
    loss = nn.BCEWithLogitsLoss()

    def count() -> None:
        with importance.counting(), torch.no_grad():
            for ids, _ in data:
                model(ids)

    def ours() -> None:
        with importance:
            for ids, labels in data:
                importance.step(model(ids), labels)

    def backward() -> None:
        for ids, labels in data:
            model.zero_grad()
            loss(model(ids), labels).backward()

    def forward() -> None:
        with torch.no_grad():
            for ids, _ in data:
                model(ids)

    count()
    ours()
    if len(importance.scores()) != len(model.tables):
        raise WrongAnswerError("fields without a score")
    yield "Importance", (ours, "the measured pass, mean rows included")
    yield BACKWARD, (backward, "of the mean loss, gradients of all parameters")
    yield COUNTING, (count, "the counting pass: forward, rows counted")
    yield FORWARD, (forward, "no gradients")


def _lane(function: Callable[[], None]) -> Callable[[int], None]:
    return lambda _index: function()


def text(results: Sequence[Result]) -> str:
    """The report as markdown."""
    method = (
        "Medians of interleaved rounds ± half the distance from the 10th to the 90th percentile. "
        "**Ratios are Importance's time over the other's.**"
    )
    lines = [
        "# Measuring importance",
        f"Machine: {machine.machine()}.",
        f"Versions: {machine.versions()}.",
        method,
        report.markdown(results, (BACKWARD, COUNTING, FORWARD), "ms"),
    ]
    return "\n\n".join(lines)


def as_json(results: Sequence[Result]) -> str:
    """The report as JSON."""
    document = {
        "machine": machine.machine(),
        "versions": machine.versions(),
        "results": report.document(results),
    }
    return json.dumps(document, indent=2)
