"""What an error in a row costs, by what the stats have."""

import json

import numpy as np
import pytest

from sharkstore.encodings import Encoding
from sharkstore.errors import StatsError
from sharkstore.plan.model import TablePlan, TierPlan
from sharkstore.plan.stats import parse_stats
from sharkstore.plan.weigh import best_weigh, unseen_weight, weights_of

COUNT = np.array([0, 0, 0, 0, 1, 1, 5, 100], np.int64)


def plan(name="t"):
    return TablePlan(name, 8, 2, "float32", "store", "id", (TierPlan(Encoding("int8"), 8),))


def stats(**kinds):
    arrays = {f"tables/t/{kind}": np.asarray(values) for kind, values in kinds.items()}
    return parse_stats(arrays, {"fields": json.dumps({}), "samples": "50"})


METRIC = np.eye(2, dtype=np.float32)
FULL = stats(count=COUNT, metric=METRIC, sensitivity=COUNT + 0.5)


def test_the_best_that_the_stats_have_of_all_tables():
    assert best_weigh(FULL, [plan()]) == "metric"
    assert best_weigh(FULL, [plan(), plan("other")]) == "alike"
    assert best_weigh(stats(sensitivity=COUNT, count=COUNT), [plan()]) == "sensitivity"
    assert best_weigh(stats(count=COUNT), [plan()]) == "count"
    assert best_weigh(stats(mean=np.zeros(2)), [plan()]) == "alike"
    assert best_weigh(stats(metric=METRIC), [plan()]) == "alike"


def test_by_metric_uses_count_and_half_the_mean_over_samples_is_taken():
    weights = weights_of(FULL, [plan()], "metric")["t"]
    np.testing.assert_array_equal(weights.metric, METRIC)
    np.testing.assert_allclose(weights.block(4, 8), np.array([1, 1, 5, 100]) / 100)
    np.testing.assert_allclose(weights.block(0, 4), 0.5 / 100)


def test_by_sensitivity_and_count_squares_are_plain():
    for weigh, values in (("sensitivity", COUNT + 0.5), ("count", np.maximum(COUNT, 0.5))):
        weights = weights_of(FULL, [plan()], weigh)["t"]
        assert weights.metric is None
        np.testing.assert_allclose(weights.block(0, 8), values / 100)


def test_without_stats_all_rows_count_alike():
    weights = weights_of(stats(mean=np.zeros(2)), [plan()], "alike")["t"]
    np.testing.assert_array_equal(weights.block(2, 5), 1)


@pytest.mark.parametrize("weigh", ["metric", "sensitivity", "count"])
def test_what_is_missing_is_told(weigh):
    with pytest.raises(StatsError, match="of table 't'"):
        weights_of(stats(mean=np.zeros(2)), [plan()], weigh)


def test_rows_never_used_are_used_as_often_as_there_are_rows_used_once():
    assert unseen_weight(np.array([0] * 8 + [1, 1, 7])) == 0.25
    assert unseen_weight(np.array([0, 1, 1, 1])) == 0.5  # at most
    assert unseen_weight(np.array([3, 4])) == 0.5
    assert unseen_weight(np.zeros(5)) == 0


def test_samples_that_are_no_number_are_refused():
    broken = parse_stats({"tables/t/count": COUNT}, {"samples": "many"})
    with pytest.raises(StatsError, match="samples"):
        weights_of(broken, [plan()], "count")
