"""Which fields go, and which tables with them."""

import pytest

from sharkstore.errors import PlanError
from sharkstore.plan.model import FieldPlan
from sharkstore.plan.prune import tables_without_fields, weakest_fields


def scored(**scores):
    return {name: FieldPlan(f"table of {name}", score) for name, score in scores.items()}


SHARED = {"user": FieldPlan("U"), "friend": FieldPlan("U"), "item": FieldPlan("I")}


def gone(*pruned, explicit=True):
    return tables_without_fields(SHARED, ["U", "I", "free"], pruned, explicit=explicit)


@pytest.mark.parametrize(
    ("keep", "weak"), [(1, ["c", "b", "d"]), (2, ["b", "d"]), (3, ["d"]), (4, [])]
)
def test_the_best_fields_are_kept(keep, weak):
    fields = scored(a=9.0, b=0.5, c=3.0, d=0.0)
    assert weakest_fields(fields, keep) == weak


def test_of_equal_fields_the_first_are_kept():
    assert weakest_fields(scored(a=1.0, b=2.0, c=1.0, d=1.0), 2) == ["c", "d"]


@pytest.mark.parametrize("keep", [0, -1, 3])
def test_keeping_more_or_fewer_fields_than_there_are_is_refused(keep):
    with pytest.raises(PlanError, match=f"--keep {keep} .expected 1 to 2"):
        weakest_fields(scored(a=1.0, b=2.0), keep)


def test_keeping_by_scores_needs_a_score_of_every_field():
    with pytest.raises(PlanError, match="needs field scores: b have none"):
        weakest_fields(scored(a=1.0, b=None), 1)


def test_keeping_needs_fields():
    with pytest.raises(PlanError, match=r"needs field scores.*pass --stats"):
        weakest_fields({}, 1)


def test_a_table_goes_with_its_only_field():
    assert gone("item") == ["I"]


def test_a_shared_table_goes_with_all_its_fields():
    assert gone("friend", "user") == ["U"]


def test_one_field_of_a_shared_table_is_refused_by_name():
    with pytest.raises(PlanError, match=r"U: field 'user' shares this table with friend.*name"):
        gone("user")


def test_a_shared_table_stays_when_only_some_of_its_fields_are_weak():
    assert gone("user", "item", explicit=False) == ["I"]


def test_a_table_without_fields_is_a_field_of_its_own_name():
    assert gone("free") == ["free"]


def test_an_unknown_field_is_refused_with_the_known_ones():
    with pytest.raises(PlanError, match=r"no field 'U' .expected free, friend, item, user"):
        gone("U")


def test_nothing_goes_when_nothing_is_named():
    assert gone() == []
