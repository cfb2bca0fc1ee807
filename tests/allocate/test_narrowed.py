"""Encodings that are left out of the measuring: rows lose next to nothing by it."""

import numpy as np
import pytest

from sharkstore.allocate import table as module
from sharkstore.allocate.decide import prices
from sharkstore.allocate.measure import losses_near
from sharkstore.allocate.table import TableChoice
from sharkstore.encodings import parse_encoding
from sharkstore.plan.costs import choose
from sharkstore.plan.model import TablePlan
from sharkstore.plan.weigh import Weights
from sharkstore.tensors import Tensor
from sharkstore.write.sample import draw_two

ROWS, DIM = 60_000, 8


class Rows:
    """Rows of very different sizes."""

    def __init__(self):
        rng = np.random.default_rng(3)
        self.values = rng.standard_normal((ROWS, DIM), np.float32)
        self.values *= rng.lognormal(0, 1, (ROWS, 1)).astype(np.float32)

    def read(self, name, start, stop):
        return self.values[start:stop]


@pytest.fixture(autouse=True)
def _any_gain_is_worth_it(monkeypatch):
    monkeypatch.setattr(module, "WORTH", 1.0)


@pytest.fixture(scope="module")
def table():
    source, count = Rows(), np.random.default_rng(4).zipf(1.5, ROWS).clip(0, 10_000)
    weights = Weights(values=count)
    encodings = [parse_encoding(one) for one in ("int8", "int4", "int2", "constant")]
    samples = draw_two(source, Tensor("t", (ROWS, DIM), "float32"), weights, 20_000)
    plan = TablePlan("t", ROWS, DIM, "float32", "store", "loss", ())
    return source.values, TableChoice.of(plan, weights, *samples, encodings).settled(range(4), 0.1)


@pytest.mark.parametrize("price", [1e-3, 0.1, 3.0])
def test_rows_choose_as_if_all_encodings_were_measured(table, price):
    values, choice = table
    levels = prices(price, 0.15)
    weights = choice.weights.block(0, ROWS)
    narrowed = choice.narrowed((levels[0], levels[-1]))
    whole = choice.ruler.measure(values, weights)
    some = losses_near(narrowed, values, weights, levels[0])
    measured = np.isfinite(some)
    np.testing.assert_array_equal(some[measured], whole[measured])
    assert not measured.all()
    costs = [choose(one, choice.row_bytes, price)[1].sum(dtype=float) for one in (whole, some)]
    assert costs[0] <= costs[1] <= 1.001 * costs[0]


def test_one_encoding_is_measured_first_where_its_loss_tells_of_the_others(table):
    values, choice = table
    narrowed = choice.narrowed((0.099, 0.101))
    assert narrowed.probe is not None
    assert (narrowed.by_loss > 0).any()
    weights = choice.weights.block(0, ROWS)
    by_weight = np.bitwise_count(narrowed.wanted(weights)).sum()
    assert np.isfinite(losses_near(narrowed, values, weights, 0.099)).sum() < by_weight
