"""Sparse counts of uses: as a dense loop has them, whatever the folds, periods and processes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharkstore.errors import StatsError
from sharkstore.stats import rows as module
from sharkstore.stats.rows import RowCounts, Weights

ROWS = 40
WEIGHTS = Weights(2.0, 0.5, 0.25)

uses = st.lists(st.tuples(st.integers(0, ROWS - 1), st.booleans()), max_size=30)
# periods of batches
logs = st.lists(st.lists(uses, max_size=4), min_size=1, max_size=4)


def dense(periods, weights=WEIGHTS):
    """Count, positive and priority by the formula, one use at a time."""
    count, positive, priority = np.zeros(ROWS), np.zeros(ROWS), np.zeros(ROWS)
    for number, batches in enumerate(periods):
        worth = np.zeros(ROWS)
        for row, is_positive in (use for batch in batches for use in batch):
            count[row] += 1
            positive[row] += is_positive
            worth[row] += weights.alpha_positive if is_positive else weights.alpha_negative
        beta = weights.beta if number else 1.0
        priority = (1 - beta) * priority + beta * worth
    return count, positive, priority


def add(counts, batch):
    ids, positive = zip(*batch, strict=True) if batch else ((), ())
    counts.add(np.array(ids, np.int64), np.array(positive, np.bool_))


def counted(periods, weights=WEIGHTS):
    counts = RowCounts()
    for batches in periods:
        for batch in batches:
            add(counts, batch)
        counts.end_period(weights)
    return counts


def same(counts, expected):
    for got, wanted in zip(counts.block(0, ROWS), expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=0)


@pytest.fixture(params=[1, 7, 1 << 20])
def fold(request, monkeypatch):
    monkeypatch.setattr(module, "FOLD", request.param)


@given(logs)
@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_counts_are_those_of_a_dense_loop(size, periods):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "FOLD", size)
        counts = counted(periods)
    same(counts, dense(periods))
    assert counts.uses() == sum(len(batch) for batches in periods for batch in batches)
    assert counts.periods == len(periods)


@given(logs, st.data())
def test_two_that_join_are_one_that_saw_both(periods, data):
    mine = [[data.draw(st.booleans()) for _ in batches] for batches in periods]
    parts = []
    for side in (True, False):
        split = [
            [batch for batch, ours in zip(batches, which, strict=True) if ours is side]
            for batches, which in zip(periods, mine, strict=True)
        ]
        parts.append(counted(split))
    parts[0].join(parts[1])
    same(parts[0], dense(periods))


@given(uses, uses)
def test_two_join_in_the_middle_of_a_period(one, other):
    left, right = RowCounts(), RowCounts()
    add(left, one)
    add(right, other)
    left.join(right)
    assert left.uses() == len(one) + len(other)
    left.end_period(WEIGHTS)
    same(left, dense([[one, other]]))


def test_two_that_ended_other_numbers_of_periods_dont_join():
    with pytest.raises(StatsError, match=r"periods differ \(got 1, expected 0\)"):
        RowCounts().join(counted([[]]))


@given(logs, uses, uses)
def test_a_state_goes_on_where_it_was_saved(periods, before, after):
    counts = counted(periods)
    add(counts, before)
    again = RowCounts.of({key: value.copy() for key, value in counts.state().items()})
    for one in (counts, again):
        add(one, after)
        one.end_period(WEIGHTS)
        same(one, dense([*periods, [before, after]]))


@given(logs, uses)
def test_an_ended_copy_leaves_the_original_in_its_period(periods, more):
    counts = counted(periods[:-1])
    for batch in periods[-1]:
        add(counts, batch)
    for _ in range(2):
        ended = counts.ended(WEIGHTS)
        same(ended, dense(periods) if any(periods[-1]) else dense(periods[:-1] or [[]]))
    add(counts, more)
    counts.end_period(WEIGHTS)
    same(counts, dense([*periods[:-1], [*periods[-1], more]]))


def test_the_first_period_counts_whole_and_the_next_by_beta():
    counts = counted([[[(3, True), (3, False)]], [[(3, True)]]])
    assert counts.block(3, 4)[2] == 0.75 * (2.0 + 0.5) + 0.25 * 2.0


def test_blocks_are_cut_out_of_the_table():
    counts = counted([[[(2, True), (2, False), (9, False)]]])
    assert [part.tolist() for part in counts.block(2, 5)] == [[2, 0, 0], [1, 0, 0], [2.5, 0, 0]]
    assert [part.tolist() for part in counts.block(3, 9)] == [[0] * 6] * 3
    assert counts.block(9, 10)[0].tolist() == [1]


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint32, np.int64, np.uint64])
def test_ids_come_in_every_width(fold, dtype):
    counts = RowCounts()
    counts.add(np.array([5, 100, 5], dtype))
    counts.end_period(Weights())
    assert (counts.ids.tolist(), counts.count.tolist()) == ([5, 100], [2, 1])


def test_ids_far_apart_cost_no_table(fold):
    counts = RowCounts()
    counts.add(np.array([0, 2**32 - 2, 2**32 - 2]), np.array([True, True, False]))
    counts.end_period(Weights(3.0, 1.0))
    assert counts.ids.tolist() == [0, 2**32 - 2]
    assert counts.priority.tolist() == [3.0, 4.0]


def test_nothing_counted_is_nothing():
    counts = counted([[]])
    assert counts.uses() == 0
    same(counts, dense([[]]))


@pytest.mark.parametrize("name", ["alpha_positive", "alpha_negative"])
@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf])
def test_a_weight_is_finite_and_not_negative(name, value):
    with pytest.raises(StatsError, match=f"{name} is a weight"):
        Weights(**{name: value})


@pytest.mark.parametrize("beta", [0.0, -0.1, 1.1, np.nan])
def test_beta_is_a_share(beta):
    with pytest.raises(StatsError, match="beta is a share"):
        Weights(beta=beta)
