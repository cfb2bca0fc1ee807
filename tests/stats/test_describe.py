"""A description of stats: JSON values, equal to a plain computation, whatever tool wrote them."""

import json

import numpy as np
import pytest
from checkpoints import save, save_stats
from hypothesis import given
from hypothesis import strategies as st

from sharkstore.errors import StatsError
from sharkstore.stats import file as file_module
from sharkstore.stats.describe import describe
from sharkstore.stats.file import open_stats


def described(folder, arrays, fields=None, **texts):
    metadata = texts if fields is None else {"fields": json.dumps(fields), **texts}
    found = describe(open_stats(save(folder / "s", arrays, metadata)))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    return found


def table(folder, arrays, **texts):
    (one,) = described(folder, {f"tables/t/{k}": v for k, v in arrays.items()}, **texts)["tables"]
    return one


def test_fields_are_ranked_by_score_those_without_last(tmp_path):
    scores = {"low": 1.0, "high": 3.0, "zero": 0.0}
    arrays = {f"fields/{name}/score": np.array([score]) for name, score in scores.items()}
    arrays["fields/low/sfs"] = np.array([9.0])
    arrays["fields/low/score_signed"] = np.array([-0.5])
    fields = dict.fromkeys([*scores, "unscored"], "t")
    found = described(tmp_path, arrays, fields)["fields"]
    assert [one["name"] for one in found] == ["high", "low", "zero", "unscored"]
    assert [one["share"] for one in found] == [0.75, 0.25, 0.0, None]
    low = {
        "name": "low",
        "table": "t",
        "score": 1.0,
        "score_signed": -0.5,
        "score_curved": None,
        "sfs": 9.0,
        "share": 0.25,
    }
    assert found[1] == low


def test_fields_are_ranked_by_the_second_order_where_all_have_it(tmp_path):
    kinds = {"score": {"a": 1.0, "b": 2.0}, "score_curved": {"a": 3.0, "b": 1.0}}
    arrays = {
        f"fields/{name}/{kind}": np.array([value])
        for kind, values in kinds.items()
        for name, value in values.items()
    }
    found = described(tmp_path, arrays, dict.fromkeys("ab", "t"))["fields"]
    assert [(one["name"], one["share"]) for one in found] == [("a", 0.75), ("b", 0.25)]
    del arrays["fields/b/score_curved"]
    found = described(tmp_path, arrays, dict.fromkeys("ab", "t"))["fields"]
    assert [one["name"] for one in found] == ["b", "a"]


def test_scores_of_zero_have_no_shares(tmp_path):
    (one,) = described(tmp_path, {"fields/f/score": np.array([0.0])})["fields"]
    assert (one["table"], one["share"]) == (None, None)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=400), st.sampled_from([3, 1 << 20]))
def test_quantiles_and_top_shares_are_those_of_the_sorted_table(tmp_path_factory, values, block):
    count = np.array(values, np.int64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file_module, "BLOCK", block)
        one = table(tmp_path_factory.mktemp("d"), {"count": count})
    ascending, rows = np.sort(count), len(count)
    assert (one["rows"], one["used"], one["uses"]) == (rows, np.count_nonzero(count), count.sum())
    assert one["used_share"] == one["used"] / rows
    places = {
        "50": rows // 2,
        "90": rows * 9 // 10,
        "99": rows * 99 // 100,
        "99.9": rows * 999 // 1000,
    }
    expected = {name: float(ascending[at]) for name, at in places.items()}
    assert one["priority"] == {**expected, "max": float(ascending[-1])}
    for name, most in (("1", -(-rows // 100)), ("10", -(-rows // 10))):
        share = ascending[rows - most :].sum() / count.sum() if count.any() else None
        assert one["top_uses"][name] == share


def test_the_quantile_of_99_percent_is_the_least_priority_of_the_top_1_percent(tmp_path):
    priority = np.random.default_rng(0).permutation(1000).astype(np.float32)
    one = table(tmp_path, {"priority": priority})
    assert np.count_nonzero(priority >= one["priority"]["99"]) == 10
    assert one["ranked_by"] == "priority"


def test_counts_are_ranked_where_there_are_no_priorities(tmp_path):
    assert table(tmp_path, {"count": np.arange(4)})["ranked_by"] == "count"


def test_positive_rate_is_positives_over_uses(tmp_path):
    arrays = {"count": np.array([6, 4]), "positive": np.array([1, 1])}
    assert table(tmp_path, arrays)["positive_rate"] == 0.2
    assert table(tmp_path, arrays, samples="10", labelled="5")["positive_rate"] == 0.4
    assert table(tmp_path, {"count": np.zeros(2), "positive": np.zeros(2)})["positive_rate"] is None


def test_trace_and_spread_are_the_metrics(tmp_path):
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    metric = (turn * [8.0, 2.0, 0.5]) @ turn.T
    one = table(tmp_path, {"metric": metric.astype(np.float32)}, uses='{"t": 12}')
    assert one["trace"] == pytest.approx(10.5, rel=1e-6)
    assert one["spread"] == pytest.approx(16, rel=1e-5)
    assert (one["dim"], one["measured_uses"], one["rows"], one["priority"]) == (3, 12, None, None)


def test_a_metric_that_is_flat_somewhere_has_no_spread(tmp_path):
    direction = np.array([0.3, 0.7, 0.1], np.float32)
    assert table(tmp_path, {"metric": np.outer(direction, direction)})["spread"] is None
    assert table(tmp_path, {"metric": np.zeros((2, 2), np.float32)})["spread"] is None


@pytest.mark.parametrize("dtype", ["uint8", "int32", "float16", "float32", "float64", "uint64"])
def test_other_tools_may_write_counts_alone_in_any_dtype(tmp_path, dtype):
    found = described(tmp_path, {"tables/t/count": np.array([0, 200, 100], dtype)})
    (one,) = found["tables"]
    assert (one["uses"], one["used"], one["priority"]["max"]) == (300, 2, 200.0)
    assert (found["samples"], found["fields"], found["metadata"]) == (None, [], {})


def test_what_the_file_says_is_told(tmp_path):
    found = described(
        tmp_path,
        {"tables/t/count": np.arange(2), "tables/t/color": np.arange(2)},
        {"f": "t"},
        samples="7.5",
        loss="binary",
        uses="{}",
    )
    assert found["samples"] == 7.5
    assert found["metadata"] == {"loss": "binary", "samples": "7.5"}
    assert found["unknown"] == ["tables/t/color"]
    assert found["tables"][0]["fields"] == ["f"]


@pytest.mark.parametrize("rows", [0, 1])
def test_the_smallest_tables(tmp_path, rows):
    one = table(tmp_path, {"count": np.ones(rows, np.int64)})
    assert one["rows"] == rows
    assert one["priority"] == (
        dict.fromkeys(["50", "90", "99", "99.9", "max"], 1.0) if rows else None
    )


def test_a_table_that_only_a_field_names_is_there(tmp_path):
    arrays = {"fields/f/score": np.array([1.0])}
    path = save_stats(tmp_path / "s", arrays, {"f": "t"})
    (one,) = describe(open_stats(path))["tables"]
    assert (one["name"], one["rows"], one["uses"], one["priority"]) == ("t", None, None, None)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"count": np.array([1, -1])}, "tables/t/count: row 1 is -1"),
        ({"priority": np.array([np.nan])}, "tables/t/priority: row 0 is nan"),
        ({"count": np.ones((2, 2))}, "wrong shape"),
        ({"count": np.ones(2), "positive": np.ones(3)}, "rows of table 't' differs"),
        ({"metric": np.full((2, 2), np.inf)}, "tables/t/metric: row 0 is inf"),
    ],
)
def test_values_that_stats_dont_have(tmp_path, arrays, words):
    with pytest.raises(StatsError, match=words):
        table(tmp_path, arrays)
