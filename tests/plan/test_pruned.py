"""What the tables that go cost and save."""

import pytest

from sharkstore.encodings import Encoding
from sharkstore.plan.model import FieldPlan, Plan, TablePlan, TierPlan
from sharkstore.plan.pruned import Pruned, PrunedTable, pruned_tables


def table(name, action, rows=100):
    tiers = (TierPlan(Encoding("int8"), rows),)
    return TablePlan(name, rows, 4, "float32", action, "id", tiers)


TABLES = (table("kept", "store"), table("mean", "prune"), table("gone", "drop", 10))
FIELDS = {
    "a": FieldPlan("mean", 0.5, -0.25),
    "b": FieldPlan("kept", 9.0, 9.0),
    "c": FieldPlan("mean", 0.25, 0.125),
    "d": FieldPlan("gone", 2.0, 1.0),
}


def found(fields):
    return pruned_tables(Plan(TABLES, fields=fields), {"kept": 800, "mean": 16})


def test_scores_of_a_table_are_the_sums_over_its_fields():
    assert found(FIELDS) == (
        PrunedTable("mean", ("a", "c"), 0.75, -0.125, 1600 - 16),
        PrunedTable("gone", ("d",), 2.0, 1.0, 160),
    )


def test_a_table_that_no_field_names_is_its_own_field_without_scores():
    assert found({})[1] == PrunedTable("gone", ("gone",), None, None, 160)


def test_one_field_without_a_signed_score_leaves_the_bound_only():
    mean = found({**FIELDS, "c": FieldPlan("mean", 0.25)})[0]
    assert (mean.score, mean.score_signed) == (0.75, None)


def test_totals_are_sums_over_the_tables():
    total = Pruned(found(FIELDS))
    assert total.fields == ("a", "c", "d")
    assert (total.score, total.score_signed) == (2.75, 0.875)
    assert total.saved_nbytes == 1584 + 160


@pytest.mark.parametrize("lacks", ["a", "d"])
def test_a_field_without_scores_leaves_the_totals_unknown(lacks):
    total = Pruned(found({**FIELDS, lacks: FieldPlan(FIELDS[lacks].table)}))
    assert (total.score, total.score_signed) == (None, None)
    assert total.saved_nbytes == 1744


def test_many_small_scores_add_up_exactly():
    fields = {f"f{index}": FieldPlan("mean", 0.1) for index in range(10)}
    assert found(fields)[0].score == 1.0


def test_nothing_pruned_costs_and_saves_nothing():
    total = Pruned(pruned_tables(Plan(TABLES[:1], fields=FIELDS), {"kept": 800}))
    assert (total.tables, total.score, total.saved_nbytes) == ((), 0, 0)
