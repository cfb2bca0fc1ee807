"""Stats files: what they say, and whether they belong to a checkpoint."""

import numpy as np
import pytest

from sharkstore.errors import StatsError
from sharkstore.plan import stats as module
from sharkstore.plan.stats import check_stats, parse_stats, rows_at_least
from sharkstore.tensors import Tensor

TENSORS = {"emb": Tensor("emb", (5, 2), "float32"), "a/b": Tensor("a/b", (3, 2), "float32")}


def parsed(arrays, fields=None):
    values = {key: np.asarray(value) for key, value in arrays.items()}
    return parse_stats(values, {} if fields is None else {"fields": fields})


def checked(key, value):
    check_stats(parsed({key: value}), TENSORS)


def test_tables_are_those_measured_and_those_that_fields_name():
    stats = parsed({"tables/emb/count": [1] * 5, "tables/a/b/priority": [1.0] * 3}, '{"f": "x"}')
    assert stats.tables == {"emb", "a/b", "x"}


def test_priority_is_taken_before_count():
    stats = parsed({"tables/emb/priority": [2.0] * 5, "tables/emb/count": [1] * 5})
    np.testing.assert_array_equal(stats.priority("emb"), [2.0] * 5)


def test_count_stands_in_for_a_missing_priority():
    np.testing.assert_array_equal(parsed({"tables/emb/count": [1] * 5}).priority("emb"), [1] * 5)


def test_what_was_not_measured_is_none():
    stats = parsed({"fields/f/score": [1.0]})
    assert stats.priority("emb") is None
    assert stats.count("emb") is None
    assert stats.mean("emb") is None
    assert stats.score("other") is None


def test_a_score_is_a_number():
    assert parsed({"fields/f/score": np.array([0.25])}).score("f") == 0.25


def test_a_signed_score_is_a_number_of_its_own():
    stats = parsed({"fields/f/score": [0.25], "fields/f/score_signed": [-0.125]})
    assert stats.score_signed("f") == -0.125
    assert stats.score("f") == 0.25
    assert parsed({"fields/f/score": [0.25]}).score_signed("f") is None


def test_keys_that_are_not_ours_are_left_out():
    assert set(parsed({"tables/emb/count": [1] * 5, "mine": [1]}).arrays) == {"tables/emb/count"}


@pytest.mark.parametrize("keys", [[], ["emb.weight"], ["tables/emb"], ["table/emb/count"]])
def test_a_file_without_our_keys_is_no_stats_file(keys):
    with pytest.raises(StatsError, match="not a stats file"):
        parsed({key: [1] for key in keys})


@pytest.mark.parametrize("fields", ["", "{", "[]", "5", "null", '{"f": 5}', '{"f": ["emb"]}'])
def test_fields_that_are_no_json_of_field_to_table_are_refused(fields):
    with pytest.raises(StatsError, match="'fields' of the metadata is not JSON of field -> table"):
        parsed({"fields/f/score": [1.0]}, fields)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tables/emb/count", [0, 1, 2, 3, 4]),
        ("tables/emb/count", [0.0, 1.0, 2.5, 3.0, 4.0]),
        ("tables/emb/priority", [0.0] * 5),
        ("tables/emb/mean", [-1.0, 2.0]),
        ("tables/a/b/sensitivity", [1.0, 2.0, 3.0]),
    ],
)
def test_stats_that_fit_are_taken(key, value):
    checked(key, value)


def test_stats_of_another_model_name_its_tables():
    with pytest.raises(StatsError, match="no table 'other'; are the stats of another model"):
        checked("tables/other/count", [1])


def test_fields_of_another_models_tables_are_refused():
    with pytest.raises(StatsError, match="no table 'other'"):
        check_stats(parsed({"fields/f/score": [1.0]}, '{"f": "other"}'), TENSORS)


@pytest.mark.parametrize("kind", ["count", "positive", "priority", "sensitivity"])
@pytest.mark.parametrize("shape", [(4,), (6,), (5, 1), (0,), ()])
def test_stats_of_another_length_are_refused(kind, shape):
    with pytest.raises(StatsError, match=rf"tables/emb/{kind}: wrong length .*expected \(5,\)"):
        checked(f"tables/emb/{kind}", np.zeros(shape))


@pytest.mark.parametrize("shape", [(5,), (1,), (1, 2), ()])
def test_a_mean_of_another_length_is_refused(shape):
    with pytest.raises(StatsError, match=r"tables/emb/mean: wrong length .*expected \(2,\)"):
        checked("tables/emb/mean", np.zeros(shape))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, -1.0])
@pytest.mark.parametrize("kind", ["count", "priority"])
def test_priorities_that_cant_be_ranked_name_the_first_row(kind, bad):
    values = np.array([1.0, 0.0, bad, 2.0, bad])
    with pytest.raises(StatsError, match=rf"tables/emb/{kind}: row 2 is {bad}"):
        checked(f"tables/emb/{kind}", values)


def test_a_bad_priority_is_found_in_any_block(monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 2)
    with pytest.raises(StatsError, match="row 4 is -1"):
        checked("tables/emb/count", [0, 1, 2, 3, -1])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_mean_that_is_not_finite_is_refused(bad):
    with pytest.raises(StatsError, match="tables/emb/mean"):
        checked("tables/emb/mean", np.array([1.0, bad], np.float32))


@pytest.mark.parametrize("score", [[np.nan], [np.inf], []])
def test_a_score_that_is_no_number_is_refused(score):
    stats = parsed({"fields/f/score": np.array(score)}, '{"f": "emb"}')
    with pytest.raises(StatsError, match="fields/f/score"):
        check_stats(stats, TENSORS)


@pytest.mark.parametrize("block", [1, 3, 100])
def test_rows_that_reach_a_threshold_are_counted_over_blocks(monkeypatch, block):
    monkeypatch.setattr(module, "BLOCK", block)
    values = np.array([5, 1, 7, 5, 0, 9], np.int64)
    assert rows_at_least(values, 5.0) == 4
    assert rows_at_least(values, 5.5) == 2
    assert rows_at_least(values, -1.0) == 6


def test_thresholds_are_not_rounded_to_the_dtype_of_the_priorities():
    values = np.full(300, 16777216, np.float32)
    assert rows_at_least(values, 16777217) == 0
    assert rows_at_least(values, 1e39) == 0
