"""SHARK's thresholds within a budget."""

import numpy as np
import pytest

from sharkstore.encodings import Encoding, parse_encoding
from sharkstore.errors import PlanError
from sharkstore.plan.costs import table_bytes
from sharkstore.plan.model import Plan, TablePlan, TierPlan
from sharkstore.plan.stats import parse_stats
from sharkstore.plan.thresholds import by_thresholds

PAPER = tuple(parse_encoding(text) for text in ("f32", "f16", "int8"))
DIM = 16


def setting(*priorities):
    tables = tuple(
        TablePlan(
            f"t{i}",
            len(p),
            DIM,
            "float32",
            "store",
            "priority",
            (TierPlan(Encoding("int8"), len(p)),),
        )
        for i, p in enumerate(priorities)
    )
    stats = parse_stats(
        {f"tables/t{i}/priority": np.asarray(p) for i, p in enumerate(priorities)}, {}
    )
    return Plan(tables), stats


def nbytes(plan):
    return sum(
        table_bytes(
            t.rows, t.dim, [x.encoding for x in t.tiers], np.array([x.rows for x in t.tiers])
        )
        for t in plan.tables
    )


def zipf(seed, rows):
    return np.random.default_rng(seed).zipf(1.2, rows).clip(0, 10**6).astype(np.float32)


@pytest.mark.parametrize("share", [0.29, 0.3, 0.4, 0.6, 0.9])
def test_the_budget_is_met_and_used_up(share):
    plan, stats = setting(zipf(0, 5000), zipf(1, 3000))
    limit = share * 8000 * 4 * DIM
    found = by_thresholds(plan, stats, PAPER, limit)
    assert limit * 0.995 < nbytes(found) <= limit


def test_each_threshold_is_an_eighth_of_the_one_before_and_all_tables_share_them():
    a, b = zipf(0, 5000), zipf(1, 3000)
    plan, stats = setting(a, b)
    found = by_thresholds(plan, stats, PAPER, 0.5 * 8000 * 4 * DIM)
    ends = [np.cumsum([tier.rows for tier in table.tiers]) for table in found.tables]
    # rows of the first table may be one step of the search richer
    least = np.sort(b)[::-1][ends[1][0] - 1]
    assert (b >= least / 8).sum() == pytest.approx(ends[1][1], rel=0.1)
    assert (a >= least).sum() == pytest.approx(ends[0][0], rel=0.1)


def test_equal_priorities_are_parted_by_row_id():
    plan, stats = setting(np.ones(1000))
    found = by_thresholds(plan, stats, PAPER, 0.5 * 1000 * 4 * DIM)
    assert 0.495 * 64_000 < nbytes(found) <= 32_000


def test_too_small_a_budget_says_the_smallest():
    plan, stats = setting(zipf(0, 1000))
    with pytest.raises(PlanError, match=r"18,000 bytes or more") as caught:
        by_thresholds(plan, stats, PAPER, 0.2 * 1000 * 4 * DIM)
    assert "constant" in str(caught.value)
    more = (*PAPER, Encoding("constant"))
    assert nbytes(by_thresholds(plan, stats, more, 0.2 * 1000 * 4 * DIM)) <= 12_800


def test_without_priorities_there_are_no_thresholds():
    plan, _ = setting(zipf(0, 10))
    stats = parse_stats({"tables/t0/mean": np.zeros(DIM)}, {})
    with pytest.raises(PlanError, match="priorities"):
        by_thresholds(plan, stats, PAPER, 10**6)
