"""Which fields go, and which tables with them."""

import itertools
import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharkstore.errors import PlanError
from sharkstore.plan.amounts import Amount
from sharkstore.plan.model import FieldPlan
from sharkstore.plan.prune import (
    cheapest_tables,
    check_least,
    fields_below,
    table_scores,
    tables_without_fields,
    weakest_fields,
    weakest_share,
)


def scored(**scores):
    return {name: FieldPlan(f"table of {name}", score) for name, score in scores.items()}


def own(**scores):
    """Fields that have a table each, of their own name."""
    return {name: FieldPlan(name, score) for name, score in scores.items()}


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


# --- shares and least scores -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("percent", "weak"),
    [
        (100, []),
        (88, []),
        (Fraction(175, 2), []),
        (87, ["d"]),
        (50, ["b", "d"]),
        (38, ["b", "d"]),
        (37, ["c", "b", "d"]),
        (1, ["c", "b", "d"]),
    ],
)
def test_a_share_is_rounded_to_the_nearest_number_and_keeps_at_least_one(percent, weak):
    fields = scored(a=9.0, b=0.5, c=3.0, d=0.0)
    assert weakest_share(fields, Fraction(percent) / 100) == weak


@pytest.mark.parametrize(
    ("least", "weak"),
    [(0, []), (0.1, ["d"]), (0.5, ["d"]), (0.6, ["b", "d"]), (9, ["c", "b", "d"])],
)
def test_fields_that_score_less_go(least, weak):
    assert fields_below(scored(a=9.0, b=0.5, c=3.0, d=0.0), least) == weak


def test_a_least_score_that_leaves_no_field_is_refused_with_the_best():
    with pytest.raises(PlanError, match=r"--prune-below 9.5 leaves no field .expected at most 9.0"):
        fields_below(scored(a=9.0, b=0.5), 9.5)


@pytest.mark.parametrize("least", [math.nan, math.inf, -math.inf, -0.1, "0.1", True, None])
def test_what_no_score_can_be_compared_with_is_refused(least):
    with pytest.raises(PlanError, match=r"prune_below: not a score .*expected a finite number"):
        check_least(least, "prune_below")


@pytest.mark.parametrize("fields", [{}, scored(a=1.0, b=None)])
@pytest.mark.parametrize(
    ("option", "choose"),
    [
        ("--keep-share", lambda fields: weakest_share(fields, Fraction(1, 2))),
        ("--prune-below", lambda fields: fields_below(fields, 0.5)),
    ],
)
def test_each_option_names_itself_where_scores_lack(option, choose, fields):
    with pytest.raises(PlanError, match=f"^{option} needs field scores.*pass --stats"):
        choose(fields)


# --- tables by score per byte ----------------------------------------------------------------

SIZES = {"big": 1000, "mid": 400, "small": 100}


def cheapest(fields, nbytes, sizes=SIZES):
    return cheapest_tables(fields, sizes, Amount(nbytes=nbytes))


@pytest.mark.parametrize(
    ("nbytes", "gone"),
    [
        (1, ["mid"]),
        (400, ["mid"]),
        (401, ["big"]),
        (1000, ["big"]),
        (1001, ["big", "mid"]),
        (1400, ["big", "mid"]),
    ],
)
def test_tables_of_least_score_per_byte_go_and_none_for_nothing(nbytes, gone):
    # a byte of mid is worth 1/400, of big 5/1000, of small 9/100
    assert cheapest(own(big=5.0, mid=1.0, small=9.0), nbytes) == gone


def test_the_score_counts_by_the_byte():
    # 3/1000 is less than 1/100
    assert cheapest(own(big=3.0, mid=9.0, small=1.0), 100) == ["big"]


def test_of_equal_tables_the_largest_goes_first():
    assert cheapest(own(big=0.0, mid=0.0, small=0.0), 50) == ["big"]


def test_the_table_of_the_highest_score_is_given_back_first():
    sizes = {"a": 100, "b": 100, "c": 1000}
    # a and b go before c, which alone is enough
    assert cheapest(own(a=0.1, b=0.2, c=3.0), 1000, {**sizes, "d": 9}) == ["c"]
    # c alone isn't: b, worth more than a, comes back
    assert cheapest(own(a=0.1, b=0.2, c=3.0), 1050, {**sizes, "d": 9, "e": 9}) == ["a", "c"]


def test_a_share_is_of_all_tables_scored_or_not():
    gone = cheapest_tables(own(mid=1.0, small=1.0), SIZES, Amount(share=Fraction(400, 1500)))
    assert gone == ["mid"]


def test_a_table_scores_what_its_fields_score_together():
    fields = {"x": FieldPlan("big", 2.0), "y": FieldPlan("big", 2.0), **own(mid=1.5, small=9.0)}
    assert table_scores(fields) == {"big": 4.0, "mid": 1.5, "small": 9.0}
    assert cheapest(fields, 400) == ["mid"]


def test_tables_without_a_score_are_never_taken():
    fields = {"x": FieldPlan("big", 0.0), "y": FieldPlan("big"), **own(mid=1.0)}
    assert cheapest(fields, 400) == ["mid"]
    with pytest.raises(PlanError, match=r"got 401 of 1,500 bytes, expected at most 400: all tab"):
        cheapest(fields, 401)


def test_one_field_stays():
    with pytest.raises(PlanError, match=r"got 1,401 of 1,500 bytes, expected at most 1,400: all"):
        cheapest(own(big=1.0, mid=1.0, small=1.0), 1401)


def test_the_only_field_is_never_taken():
    with pytest.raises(PlanError, match="expected at most 0: all tables of fields but the smalles"):
        cheapest(own(big=1.0), 1)


@pytest.mark.parametrize("score", [0.0, None])
def test_an_empty_table_is_no_field_to_stay_and_not_taken(score):
    sizes = {**SIZES, "empty": 0}
    fields = own(big=1.0, mid=1.0, small=1.0, empty=score)
    assert cheapest(fields, 1400, sizes) == ["big", "mid"]
    with pytest.raises(PlanError, match="expected at most 1,400"):
        cheapest(fields, 1401, sizes)


@pytest.mark.parametrize(
    "fields", [{}, own(big=None), {"x": FieldPlan("big", 1.0), **own(big=None)}]
)
def test_saving_by_scores_needs_scores(fields):
    with pytest.raises(PlanError, match="--prune-bytes needs field scores; pass --stats"):
        cheapest(fields, 1)


@st.composite
def checkpoints(draw):
    """Sizes of up to 7 tables, and fields on some of them, of which some have scores."""
    sizes = draw(st.lists(st.integers(0, 40), min_size=1, max_size=7))
    tables = {f"t{index}": size for index, size in enumerate(sizes)}
    # few distinct values, so that there are ties
    scores = st.none() | st.sampled_from([0.0, 0.1, 0.2, 0.3, 1.0, 5.0])
    fields = st.builds(FieldPlan, st.sampled_from(list(tables)), scores)
    named = draw(st.lists(fields, max_size=10))
    return {f"f{index}": one for index, one in enumerate(named)}, tables


def savings(fields, sizes):
    """What each set of scored tables saves, if it leaves a table that a field names."""
    scored = [t for t, score in table_scores(fields).items() if score is not None]
    named = {one.table for one in fields.values() if sizes[one.table]}
    for count in range(len(scored) + 1):
        for chosen in itertools.combinations(scored, count):
            if not named <= set(chosen):
                yield sum(sizes[table] for table in chosen)


@given(checkpoints(), st.integers(1, 200))
def test_the_amount_is_saved_by_tables_that_are_all_needed_or_no_tables_save_it(both, nbytes):
    fields, sizes = both
    scores = table_scores(fields)
    try:
        gone = cheapest(fields, nbytes, sizes)
    except PlanError:
        assert max(savings(fields, sizes), default=0) < nbytes
        return
    saved = sum(sizes[table] for table in gone)
    assert saved >= nbytes
    assert all(saved - sizes[table] < nbytes for table in gone)
    assert all(scores.get(table) is not None for table in gone)
    assert {one.table for one in fields.values()} - set(gone)


@given(checkpoints(), st.integers(1, 200))
def test_no_table_stays_that_scores_less_and_saves_more_than_one_that_goes(both, nbytes):
    fields, sizes = both
    scores = {t: s for t, s in table_scores(fields).items() if s is not None}
    try:
        gone = cheapest(fields, nbytes, sizes)
    except PlanError:
        return
    stays = [t for t in scores if t not in gone and sizes[t]]
    for one, other in itertools.product(stays, gone):
        assert not (scores[one] < scores[other] and sizes[one] >= sizes[other])


# --- tables ----------------------------------------------------------------------------------


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
