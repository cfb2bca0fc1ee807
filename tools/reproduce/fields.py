"""Field selection: the test AUC of models retrained on the k best fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from benchmarks.progress import steps
from ctr.datasets import Dataset

from reproduce.markdown import difference, level, table
from reproduce.noise import Spread, paired, spearman, spread
from reproduce.scorers import F64, PERMUTATION, TAYLOR, best, permutation, score_all
from reproduce.training import Retrained, Sizes, fit

KEEP = (50, 60, 70, 80, 90)
Scores = Mapping[str, F64]


@dataclass(frozen=True, slots=True)
class Agreement:
    """Spearman correlation of a method's scores.

    Args:
        permutation: with permutation on the same models; of permutation, with itself by other
            shuffles.
        itself: between models of different seeds.
    """

    permutation: Spread
    itself: Spread


@dataclass(frozen=True, slots=True)
class Selection:
    """Field selection on one set.

    Args:
        kept: share in percent -> number of fields.
        whole: test AUC with all fields, by seed.
        aucs: test AUC by method and share, by seed.
        trainings: of models on some of the fields, without repetition.
        ranked: fields by method for the first seed, best first.
    """

    name: str
    samples: int
    fields: int
    seeds: int
    shuffles: int
    trainings: int
    kept: dict[int, int]
    whole: list[float]
    aucs: dict[str, dict[int, list[float]]]
    agreement: dict[str, Agreement]
    ranked: dict[str, list[str]]


def run(
    dataset: Dataset, seeds: int, sizes: Sizes, shares: Sequence[int] = KEEP, shuffles: int = 5
) -> Selection:
    """Train, score, select, retrain.

    Args:
        dataset: with all fields.
        seeds: models of each kind, seeds 0, 1, …; at least 2.
        sizes: of the models.
        shares: of the fields to keep, in percent.
        shuffles: of each field, for permutation.
    """
    kept = {share: max(1, (len(dataset.fields) * share + 50) // 100) for share in shares}
    scores, again = _score(dataset, seeds, sizes, shuffles)
    chosen = {
        (method, share, seed): best(one[method], dataset.fields, keep)
        for seed, one in enumerate(scores)
        for method in one
        for share, keep in kept.items()
    }
    everything = frozenset(dataset.fields)
    retrained = Retrained(dataset, sizes)
    retrained.train((everything, seed) for seed in range(seeds))
    retrained.train((fields, seed) for (_, _, seed), fields in chosen.items())
    aucs = {
        method: {
            share: [retrained.found[chosen[method, share, s], s] for s in range(seeds)]
            for share in kept
        }
        for method in scores[0]
    }
    return Selection(
        name=dataset.name,
        samples=len(dataset.labels),
        fields=len(dataset.fields),
        seeds=seeds,
        shuffles=shuffles,
        trainings=len(retrained.found),
        kept=kept,
        whole=[retrained.found[everything, seed] for seed in range(seeds)],
        aucs=aucs,
        agreement=_agreements(scores, again),
        ranked={name: _ranked(one, dataset.fields) for name, one in scores[0].items()},
    )


def _score(
    dataset: Dataset, seeds: int, sizes: Sizes, shuffles: int
) -> tuple[list[dict[str, F64]], list[F64]]:
    """Scores by seed, and those of permutation by other shuffles."""
    scores, again = [], []
    for seed in steps(range(seeds), f"{dataset.name}: scoring"):
        model = fit(dataset, seed, sizes)
        scores.append(score_all(model, dataset, seed, batch=sizes.batch, shuffles=shuffles))
        rng = np.random.default_rng([seed, 1])
        again.append(permutation(model, dataset, rng, shuffles, sizes.batch).mean(axis=0))
    return scores, again


def _agreements(scores: Sequence[Scores], again: Sequence[F64]) -> dict[str, Agreement]:
    found = {}
    for method in scores[0]:
        peers = again if method == PERMUTATION else [one[PERMUTATION] for one in scores]
        same = [spearman(one[method], peer) for one, peer in zip(scores, peers, strict=True)]
        pairs = [spearman(a[method], b[method]) for a, b in combinations(scores, 2)]
        # two seeds are one pair, which has no spread
        across = spread(pairs) if len(pairs) > 1 else Spread(pairs[0], 0.0, 1)
        found[method] = Agreement(spread(same), across)
    return found


def _ranked(scores: F64, fields: Sequence[str]) -> list[str]:
    return [fields[place] for place in np.argsort(-scores, kind="stable")]


def text(found: Selection) -> str:
    """The tables of one set."""
    heads = [f"{keep} ({share} %)" for share, keep in found.kept.items()]
    title = f"### {found.name}: {found.samples:,} samples, {found.fields} fields"
    whole = level(spread(found.whole))
    levels = [
        [method, *(level(spread(values)) for values in by_share.values())]
        for method, by_share in found.aucs.items()
    ]
    ours = found.aucs[TAYLOR]
    differences = [
        [method, *(difference(paired(ours[share], by_share[share])) for share in found.kept)]
        for method, by_share in found.aucs.items()
        if method != TAYLOR
    ]
    all_fields = [difference(paired(ours[share], found.whole)) for share in found.kept]
    agreements = [
        [method, level(one.permutation, 3), level(one.itself, 3)]
        for method, one in found.agreement.items()
    ]
    return "\n\n".join(
        [
            title,
            (
                "Test AUC when the k best fields are kept and the model is retrained; mean ± "
                f"standard deviation of {found.seeds} seeds. All fields: {whole}."
            ),
            table(["k", *heads], levels),
            (
                "Taylor minus the other method, seed by seed; bold where 0 is outside the 95 % "
                "t-interval of the mean (1 in 20 is by chance), “same” where both keep the same "
                "fields."
            ),
            table(["k", *heads], [*differences, ["all fields", *all_fields]]),
            (
                "Spearman correlation of the scores of all fields; permutation by "
                f"{found.shuffles} shuffles a field, and with itself by other shuffles."
            ),
            table(["method", "with permutation", "with itself, other seeds"], agreements),
        ]
    )
