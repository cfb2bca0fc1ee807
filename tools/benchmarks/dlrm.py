"""A DLRM whose embeddings are torch's, replaced, or one collection: part and whole in turns.

Deep Learning Recommendation Model: Naumov et al., arXiv:1906.00091.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

import sharkstore
from benchmarks.answering import Options, spelled
from benchmarks.bars import Bar
from benchmarks.check import WrongAnswerError
from benchmarks.peers_torch import set_threads
from benchmarks.progress import steps
from benchmarks.report import Result
from benchmarks.timing import Claim, Contender, Effort, figure, measure, ratios
from benchmarks.traffic import Requests, make_present, make_requests
from benchmarks.traffic_torch import (
    COLLECTION,
    FLOATS,
    REPLACED,
    Tables,
    collection,
    float_tables,
    replaced_tables,
)
from sharkstore.nn import EmbeddingBagCollection

BATCHES = (64, 2048)
DENSE, BOTTOM, TOP = 13, (512, 256), (512, 256)
PART, WHOLE = "the embedding part", "the whole model"
WRONG = 0.05  # share of the largest logit: quantised rows against float32

Embed = Callable[[int], Tensor | list[Tensor]]


def _mlp(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class Interaction(nn.Module):
    """All of a DLRM but its embeddings: bottom MLP, dot products of all pairs, top MLP."""

    def __init__(self, tables: int, dim: int) -> None:
        super().__init__()
        vectors = tables + 1
        self.dim = dim
        self.bottom = _mlp(DENSE, *BOTTOM, dim)
        self.top = _mlp(dim + vectors * tables // 2, *TOP, 1)
        self.pairs: Tensor
        self.register_buffer("pairs", torch.tril_indices(vectors, vectors, -1))

    def forward(self, dense: Tensor, found: Tensor | list[Tensor]) -> Tensor:
        """Logits (batch,), given vectors of all tables: a list, or side by side."""
        low = self.bottom(dense)
        if isinstance(found, list):
            vectors = torch.stack([low, *found], dim=1)
        else:
            vectors = torch.cat([low, found], dim=1).view(len(low), -1, self.dim)
        dots = torch.bmm(vectors, vectors.transpose(1, 2))[:, self.pairs[0], self.pairs[1]]
        logits: Tensor = self.top(torch.cat([low, dots], dim=1))
        return logits[:, 0]


def run(options: Options) -> list[Result]:
    """Time both batch sizes on the first number of tables, all on one thread."""
    model = options.model(options.tables[0])
    with sharkstore.open(model.store(options.tiers)) as store, torch.inference_mode():
        make_present(store)
        torch.manual_seed(0)
        rest = Interaction(model.tables, model.dim).eval()
        by_table = {FLOATS: float_tables(model), REPLACED: replaced_tables(model, store)}
        together = collection(model, store)
        batches = [batch for batch in BATCHES if batch <= max(options.batch)] or BATCHES[:1]
        return [
            result
            for batch in steps(batches, "DLRM")
            for result in _batch(
                make_requests(model, "uniform", batch, 1, options.effort.batches),
                rest,
                by_table,
                together,
                options.effort,
            )
        ]


def _batch(
    requests: Requests,
    rest: Interaction,
    by_table: dict[str, Tables],
    together: EmbeddingBagCollection,
    effort: Effort,
) -> Iterator[Result]:
    """The embedding part, then the whole model; both ran in turns."""
    ids = [torch.from_numpy(one) for one in requests.ids]
    split = [requests.split(one) for one in ids]
    offsets, starts = torch.from_numpy(requests.offsets), torch.from_numpy(requests.starts)
    ways: dict[str, Embed] = {
        name: partial(lambda tables, i: tables(split[i], starts), tables)
        for name, tables in by_table.items()
    }
    ways[COLLECTION] = lambda i: together(together.features, ids[i], offsets)
    dense = torch.rand(requests.batch, DENSE)
    _check(ways, rest, dense)
    models = {name: partial(_answer, rest, dense, embed) for name, embed in ways.items()}
    contenders = [
        Contender(f"{name}|{what}", (lane,), 1, Claim("bytes"), "", partial(set_threads, 1))
        for what, lanes in ((PART, ways), (WHOLE, models))
        for name, lane in lanes.items()
    ]
    rounds = measure(contenders, replace(effort, batches=len(ids)))
    for what in (PART, WHOLE):
        own = {name: rounds[f"{name}|{what}"] for name in ways}
        yield Result(what, f"{requests.batch:,}", REPLACED, own, {})


def _answer(rest: Interaction, dense: Tensor, embed: Embed, index: int) -> Tensor:
    logits: Tensor = rest(dense, embed(index))
    return logits


def _check(ways: dict[str, Embed], rest: Interaction, dense: Tensor) -> None:
    """Logits of all ways must agree: within quantisation with torch's, else to the bit."""
    set_threads(1)
    logits = {name: rest(dense, embed(0)) for name, embed in ways.items()}
    if not torch.equal(logits[REPLACED], logits[COLLECTION]):
        raise WrongAnswerError(f"DLRM: {REPLACED} and {COLLECTION} differ")
    off = (logits[REPLACED] - logits[FLOATS]).abs().max().item()
    if not off <= WRONG * logits[FLOATS].abs().max().item():
        raise WrongAnswerError(f"DLRM: logits are {off} off")


def bars(result: Result) -> list[Bar]:
    """Of the embedding part at the large batch."""
    if result.title != PART or result.column != f"{BATCHES[-1]:,}":
        return []
    floats = result.rounds[FLOATS]
    what = f"DLRM, batch {result.column}, {PART}: {FLOATS}"
    return [
        Bar(f"{what} / {name}", figure(ratios(floats, result.rounds[name])).median, 2)
        for name in (REPLACED, COLLECTION)
    ]


def text(results: Sequence[Result]) -> str:
    """The table as markdown."""
    names = (FLOATS, REPLACED, COLLECTION)
    head = ["batch", "", *(f"{name}: a request, requests a second" for name in names)]
    head += [f"{FLOATS} / {name}" for name in names[1:]]
    lines = ["### DLRM: uniform ids, 1 id a bag, one thread", "", f"| {' | '.join(head)} |"]
    lines.append("|" + "---|" * len(head))
    for one in results:
        cells = [one.column, one.title]
        for name in names:
            middle = statistics.median(one.rounds[name])
            cells.append(f"{spelled(middle)}, {1 / middle:,.0f}/s")
        for name in names[1:]:
            found = figure(ratios(one.rounds[FLOATS], one.rounds[name]))
            cells.append(f"{found.median:.3g} ±{found.spread / 2:.0%}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
