"""The frontier as Markdown tables."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator

from reproduce.difficulty import Difficulty
from reproduce.frontier import OURS, SHARK, SWEPT, UNIFORM, Change, Frontier, Point
from reproduce.markdown import difference, level, table
from reproduce.noise import spread

# the field calls less a loss
LOSS = -0.0005

Points = dict[tuple[str, str], Point]


def text(found: Frontier) -> str:
    """The tables of one set."""
    points = {(one.method, one.size): one for one in found.points}
    return "\n\n".join([_head(found), *_budgets(points), *_uniform(points), _verdict(points)])


def _head(found: Frontier) -> str:
    auc = level(spread([one.auc for one in found.difficulty]))
    loss = level(spread(found.losses))
    return "\n\n".join(
        [
            f"### {found.name}: {found.rows:,} rows × {found.dim}",
            _difficulty(found.difficulty),
            (
                "Change of quality from float32 to the store, by bytes of the tables (row maps "
                "and codebooks included) over float32; mean ± standard deviation of "
                f"{found.seeds} seeds, bold where 0 is outside the 95 % t-interval of the mean. "
                f"float32: test AUC {auc}, log loss {loss}. "
                "Brackets: 95 % of a paired bootstrap over the test samples "
                f"({found.resamples} resamples), ends averaged over the seeds: not narrower "
                "than the interval of the mean. Where all int8 is too large, SHARK's thresholds "
                "have `constant` below them: rows fall to the mean row. –: the method can't be "
                "so small."
            ),
        ]
    )


def _difficulty(all_: list[Difficulty]) -> str:
    one = all_[0]
    bound = "" if one.bound is None else f" The logits behind the labels have {one.bound:.4f}."
    large = ", ".join(one.large) or "none"
    return (
        f"Difficulty: {one.samples:,} samples, {one.positives:.1%} positive, "
        f"{one.test_samples:,} of them for the test. Seed 0 has AUC {one.auc:.4f}.{bound} "
        f"With the large tables ({large}) at their mean rows {one.without_large:.4f}, with the "
        f"rows seen at most 5 times there {one.rare_at_mean:.4f}. Never seen in training: "
        f"{one.unseen_rows:.1%} of the rows, {one.unseen_lookups:.1%} of the test's lookups; at "
        f"most 5 times: {one.rare_lookups:.1%} of them."
    )


def _budgets(points: Points) -> Iterator[str]:
    shares = list(dict.fromkeys(size for method, size in points if method in SWEPT and "%" in size))
    heads = ["size", *(share.replace("%", " %") for share in shares)]

    def rows(methods: list[str], cell: Callable[[Point], str]) -> list[list[str]]:
        return [
            [method, *(_cell(points.get((method, share)), cell) for share in shares)]
            for method in methods
        ]

    swept = list(SWEPT)
    aucs = rows(swept, lambda one: difference(spread(one.change.auc)))
    aucs += [[f"{OURS}: bootstrap", *r[1:]] for r in rows([OURS], lambda p: _interval(p.change))]
    aucs += [[f"{OURS}: bytes", *r[1:]] for r in rows([OURS], _bytes)]
    aucs += [[f"{SHARK}: bytes", *r[1:]] for r in rows([SHARK], _bytes)]
    yield "Test AUC:"
    yield table(heads, aucs)
    yield "Log loss, nats a sample (higher is worse):"
    yield table(heads, rows(swept, lambda one: difference(spread(one.change.loss))))
    yield f"Test AUC of the {OURS}, minus that of the others at the same budget:"
    yield table(heads, rows([one for one in swept if one != OURS], _over))


def _uniform(points: Points) -> Iterator[str]:
    yield "One encoding for all rows, and the allocator (by metric) at no more than its bytes:"
    heads = ["", "size", "test AUC", "log loss", "allocator: AUC", "log loss", "AUC, difference"]
    rows = []
    for name in UNIFORM:
        if (name, name) in points:
            one, ours = points[name, name], points.get((OURS, name))
            cells = [name, _bytes(one)]
            cells += [difference(spread(values)) for values in (one.change.auc, one.change.loss)]
            cells += [
                _cell(ours, lambda p: difference(spread(p.change.auc))),
                _cell(ours, lambda p: difference(spread(p.change.loss))),
                _over(one),
            ]
            rows.append(cells)
    yield table(heads, rows)


def _verdict(points: Points) -> str:
    """Where the allocator is worse than another, and how small it keeps the quality."""
    worse = [
        f"{one.method} at {one.size}"
        for one in points.values()
        if one.over and spread(one.over.auc).beyond_noise and max(_ends(one.over)) < 0
    ]
    kept = [
        statistics.fmean(one.ratios)
        for one in points.values()
        if one.method == OURS and _ends(one.change)[0] > LOSS
    ]
    least = f"{min(kept):.2%} of float32" if kept else "none"
    return (
        f"The {OURS}, is worse beyond noise (of seeds and of samples) than: "
        f"{', '.join(worse) or 'none'}. "
        f"The least size that surely costs less than {-LOSS} AUC: {least}."
    )


def _cell(point: Point | None, text: Callable[[Point], str]) -> str:
    return text(point) if point else "–"


def _over(point: Point) -> str:
    if point.over is None:
        return "–"
    return f"{difference(spread(point.over.auc))} {_interval(point.over)}"


def _interval(change: Change) -> str:
    low, high = _ends(change)
    return f"[{low:+.5f}, {high:+.5f}]"


def _ends(change: Change) -> tuple[float, float]:
    return statistics.fmean(change.low), statistics.fmean(change.high)


def _bytes(point: Point) -> str:
    return f"{statistics.fmean(point.ratios):.2%}"
