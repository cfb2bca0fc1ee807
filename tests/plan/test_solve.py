"""The allocator's optimum: against every possible assignment, and against the exact Lagrangian."""

import itertools

import numpy as np
import pytest

from sharkstore.encodings import parse_encoding
from sharkstore.errors import PlanError
from sharkstore.plan.costs import THIN, Costs, choose, mixture, table_bytes
from sharkstore.plan.solve import Solver, best_mixture

FEW = tuple(parse_encoding(text) for text in ("f32", "int4", "pq4.2", "constant"))
ALL = tuple(
    parse_encoding(text)
    for text in ("f32", "f16", "int8", "int4", "pq2", "int2", "pq4", "pq8", "pq8.64", "constant")
)
BASE = {
    "f32": 0,
    "f16": 1e-8,
    "int8": 1e-5,
    "int4": 2e-3,
    "pq2": 1e-3,
    "int2": 3e-2,
    "pq4": 2e-2,
    "pq4.2": 0.2,
    "pq8": 8e-2,
    "pq8.64": 0.1,
    "constant": 1.0,
}


def table(rng, rows, encodings=FEW, dim=8, points=None):
    """Rows of long-tailed use; losses scatter from row to row."""
    count = points or rows
    uses = rng.zipf(1.4, count).clip(0, 1000)
    base = np.array([BASE[str(one)] for one in encodings])
    losses = base[:, None] * uses * rng.lognormal(0, 0.5, (len(encodings), count)) * 1e-6
    return Costs(encodings, losses, np.full(count, rows / count), rows, dim)


def every_assignment(costs):
    """Bytes and loss of all of them, float64 (n,) each."""
    nbytes, losses = [], []
    for taken in itertools.product(range(len(costs.encodings)), repeat=costs.rows):
        counts = np.bincount(taken, minlength=len(costs.encodings))
        nbytes.append(table_bytes(costs.rows, costs.dim, costs.encodings, counts))
        losses.append(costs.losses[list(taken), np.arange(costs.rows)].sum())
    return np.array(nbytes), np.array(losses)


def all_pairs(tables):
    """Bytes and loss of every assignment of two tables."""
    (a, b), (c, d) = (every_assignment(one) for one in tables)
    return np.add.outer(a, c).ravel(), np.add.outer(b, d).ravel()


@pytest.mark.parametrize("seed", range(8))
def test_at_every_price_no_assignment_is_better(seed):
    rng = np.random.default_rng(seed)
    tables = [table(rng, 4), table(rng, 4)]
    nbytes, losses = all_pairs(tables)
    solver = Solver(tables)
    for price in 2.0 ** np.arange(-34, -10):
        found = solver.at_price(price)
        assert found.loss + price * found.nbytes <= (losses + price * nbytes).min() * (1 + 1e-9)


@pytest.mark.parametrize("seed", range(8))
def test_within_a_budget_hardly_any_assignment_is_better(seed):
    rng = np.random.default_rng(seed)
    tables = [table(rng, 4), table(rng, 4)]
    nbytes, losses = all_pairs(tables)
    solver = Solver(tables)
    missed = []
    for limit in (200, 150, 100, 80, 70):
        if nbytes.min() > limit:
            with pytest.raises(PlanError, match="budget is too small"):
                solver.within_bytes(limit)
            continue
        found = solver.within_bytes(limit)
        assert found.nbytes <= limit
        missed.append((found.loss - losses[nbytes <= limit].min()) / losses.max())
    # what lies between two neighbouring prices can't be told by prices
    assert np.median(missed) < 1e-9
    assert max(missed) < 0.02


def test_a_predicted_loss_is_kept_with_few_bytes():
    rng = np.random.default_rng(1)
    tables = [table(rng, 4), table(rng, 4)]
    nbytes, losses = all_pairs(tables)
    for limit in np.quantile(losses, (0.01, 0.1, 0.5)):
        found = Solver(tables).within_loss(limit)
        assert found.loss <= limit
        assert found.nbytes <= nbytes[losses <= limit].min() * 1.1


def test_no_loss_at_all_is_reached_by_exact_encodings_alone():
    rng = np.random.default_rng(1)
    exact = Solver([table(rng, 50)]).within_loss(1e-30)
    assert exact.loss == 0
    coarse = tuple(one for one in FEW if str(one) != "f32")
    with pytest.raises(PlanError, match="can't be kept so low"):
        Solver([table(rng, 50, coarse)]).within_loss(1e-30)


def lagrangian(tables, kept, limit):
    """Loss of the exact relaxation with these encodings: every breakpoint of every row, sorted."""

    def at(price):
        found = [mixture(one, own, price) for one, own in zip(tables, kept, strict=True)]
        return sum(one.nbytes for one in found), sum(one.loss for one in found)

    low, high = 2.0**-48, 2.0**-8
    for _ in range(40):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if at(middle)[0] <= limit else (middle, high)
    return at(high)[1]


@pytest.mark.parametrize("share", [0.08, 0.03])
def test_few_points_choose_as_all_rows_do(share):
    rng = np.random.default_rng(0)
    tables = [table(rng, 60_000, ALL, 16), table(rng, 40_000, ALL, 16)]
    assert all(len(one.stands) > THIN for one in tables)
    limit = share * 100_000 * 64
    found = Solver(tables).within_bytes(limit)
    assert limit * 0.999 < found.nbytes <= limit
    # the best of all sets of encodings that the search at full length comes to, at many prices
    exact = []
    for price in found.price * 2.0 ** np.linspace(-0.5, 0.5, 3):
        kept = [best_mixture(one, price).kept for one in tables]
        exact.append(lagrangian(tables, kept, limit))
    assert found.loss <= min(exact) * 1.01


def test_rows_never_take_what_cannot_hold_them():
    losses = np.array([[0.0, 0.0], [1e-9, np.inf], [1.0, 1.0]])
    encodings = tuple(parse_encoding(text) for text in ("f32", "int8", "constant"))
    costs = Costs(encodings, losses, np.ones(2), 2, 4)
    for price in 2.0 ** np.arange(-40, 40):
        taken, _ = choose(losses, costs.row_bytes, price)
        assert taken[1] != 1
        assert np.isfinite(best_mixture(costs, price).loss)


def test_ties_go_to_the_more_precise():
    taken, _ = choose(np.zeros((3, 5)), np.array([4.0, 4.0, 4.0]), 1.0)
    assert (taken == 0).all()


def test_at_most_eight_encodings_are_kept():
    rng = np.random.default_rng(2)
    costs = table(rng, 3000, ALL, 16)
    for price in 2.0 ** np.arange(-50, -10, 4):
        assert 1 <= len(best_mixture(costs, price).kept) <= 8


def test_thinning_keeps_the_sum_of_rows_and_nearly_the_losses():
    costs = table(np.random.default_rng(3), 50_000, ALL, 16)
    thin = costs.thinned()
    assert len(thin.stands) <= THIN
    assert thin.stands.sum() == pytest.approx(50_000)
    for price in 2.0 ** np.arange(-40, -16, 4):
        whole, few = (mixture(one, (2, 3, 6, 9), price) for one in (costs, thin))
        assert few.nbytes == pytest.approx(whole.nbytes, rel=0.1)
        assert few.loss == pytest.approx(whole.loss, rel=0.1)


def test_an_empty_table_and_one_row_have_a_solution():
    none = Costs(FEW, np.zeros((4, 0)), np.zeros(0), 0, 8)
    one = Costs(FEW, np.array([[0.0], [0.1], [0.2], [1.0]]), np.ones(1), 1, 8)
    found = Solver([none, one]).within_bytes(1000)
    assert found.loss == 0
