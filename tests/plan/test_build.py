"""Options and stats to a plan, and whether a plan fits a checkpoint."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest

from sharkstore.encodings import Encoding
from sharkstore.errors import PlanError, StatsError
from sharkstore.plan.build import build_plan, check_plan
from sharkstore.plan.model import FieldPlan
from sharkstore.plan.policy import Policy
from sharkstore.plan.stats import Stats, parse_stats
from sharkstore.tensors import Tensor

USER, ITEM = "emb.user", "emb.item"
TENSORS = {
    USER: Tensor(USER, (10, 2), "float32"),
    ITEM: Tensor(ITEM, (4, 2), "bfloat16"),
    "mlp": Tensor("mlp", (3, 3), "float32"),
    "step": Tensor("step", (), "int64"),
}
FIELDS = {"user": USER, "friend": USER, "item": ITEM}


def measured(arrays, fields=FIELDS):
    values = {key: np.asarray(value) for key, value in arrays.items()}
    return parse_stats(values, {"fields": json.dumps(dict(fields))})


SCORES = measured({f"fields/{name}/score": [s] for s, name in enumerate(FIELDS)})
PRIORITY = measured({f"tables/{USER}/priority": np.arange(10.0)}, {})


def plan(stats=None, **options):
    return build_plan(TENSORS, {"epoch": "no tensor"}, stats or Stats(), Policy(**options))


def actions(found):
    return {table.name: table.action for table in found.tables}


def test_by_default_all_tables_are_int8_and_the_rest_is_dense():
    found = plan()
    assert [(t.name, t.rows, t.dim, t.dtype, t.action) for t in found.tables] == [
        (USER, 10, 2, "float32", "store"),
        (ITEM, 4, 2, "bfloat16", "store"),
    ]
    assert all([str(tier.encoding) for tier in t.tiers] == ["int8"] for t in found.tables)
    assert found.dense == ("mlp", "step")
    assert found.left == {"epoch": "no tensor"}


def test_tiers_without_rows_are_left_out():
    found = plan(tiers="f32=0%,f16=10%,int8=rest")
    assert [[(str(t.encoding), t.rows) for t in one.tiers] for one in found.tables] == [
        [("f16", 1), ("int8", 9)],
        [("int8", 4)],
    ]


def test_a_table_without_rows_keeps_the_last_tier():
    tensors = {"emb": Tensor("emb", (0, 2), "float32")}
    found = build_plan(tensors, {}, Stats(), Policy(tiers="f32=1%,int8=rest"))
    assert [(t.encoding, t.rows) for t in found.tables[0].tiers] == [(Encoding("int8"), 0)]


def test_rows_go_by_priority_where_there_are_priorities():
    assert [table.order for table in plan(PRIORITY).tables] == ["priority", "id"]


def test_thresholds_count_the_rows_that_reach_them():
    both = measured(
        {f"tables/{USER}/priority": np.arange(10.0), f"tables/{ITEM}/count": [9, 0, 5, 5]}, {}
    )
    found = plan(both, tiers="f32@8,f16@5,int8")
    assert [[tier.rows for tier in table.tiers] for table in found.tables] == [[2, 3, 5], [1, 2, 1]]


def test_thresholds_without_priorities_are_refused_by_table():
    with pytest.raises(PlanError, match=f"{ITEM}: tiers by threshold need row priorities"):
        plan(PRIORITY, tiers="f32@8,int8")


def test_scores_reach_the_plan():
    assert plan(SCORES).fields == {
        "user": FieldPlan(USER, 0.0),
        "friend": FieldPlan(USER, 1.0),
        "item": FieldPlan(ITEM, 2.0),
    }


def test_the_fields_that_are_not_kept_prune_their_tables():
    assert actions(plan(SCORES, keep=1)) == {USER: "prune", ITEM: "store"}


def test_a_shared_table_is_kept_with_its_best_field():
    assert actions(plan(SCORES, keep=2)) == {USER: "store", ITEM: "store"}


def test_all_fields_of_a_shared_table_prune_it():
    assert actions(plan(SCORES, prune=["user", "friend"])) == {USER: "prune", ITEM: "store"}


def test_one_field_of_a_shared_table_is_refused():
    with pytest.raises(PlanError, match="'friend' shares this table with user"):
        plan(SCORES, prune=["friend"])


def test_dropped_tables_are_left_out():
    assert actions(plan(SCORES, prune=["item"], drop=True)) == {USER: "store", ITEM: "drop"}


def test_without_stats_a_table_is_pruned_by_its_own_name():
    assert actions(plan(prune=[USER])) == {USER: "prune", ITEM: "store"}


def test_an_unknown_field_is_refused():
    with pytest.raises(PlanError, match="no field 'nobody'"):
        plan(prune=["nobody"])


def test_keep_without_scores_is_refused():
    with pytest.raises(PlanError, match="--keep needs field scores"):
        plan(keep=1)


def test_keep_and_prune_dont_mix():
    with pytest.raises(PlanError, match="--keep and --prune don't mix"):
        plan(SCORES, keep=1, prune=["item"])


@pytest.mark.parametrize("drop", [False, True])
@pytest.mark.parametrize(
    ("options", "gone"),
    [
        ({"keep_share": "34%"}, [USER]),
        ({"keep_share": "100%"}, []),
        ({"prune_below": 1.5}, [USER]),
        ({"prune_below": 1}, []),
        ({"prune_below": 0}, []),
        ({"prune_bytes": "1"}, [USER]),
        ({"prune_bytes": "80B"}, [USER]),
        ({"prune_bytes": "71%"}, [USER]),
        ({"prune_bytes": "25%"}, [USER]),
    ],
)
def test_what_is_too_weak_goes_and_a_shared_table_with_all_its_fields(options, gone, drop):
    action = "drop" if drop else "prune"
    assert actions(plan(SCORES, drop=drop, **options)) == {
        name: action if name in gone else "store" for name in (USER, ITEM)
    }


def test_bytes_are_those_in_float32():
    # 80 of user, 32 of item, which is bfloat16
    with pytest.raises(PlanError, match=r"got 81 of 112 bytes, expected at most 80"):
        plan(SCORES, prune_bytes="81")


def test_signed_scores_reach_the_plan():
    signed = measured({"fields/user/score": [0.5], "fields/user/score_signed": [-0.25]})
    assert plan(signed).fields["user"] == FieldPlan(USER, 0.5, -0.25)


CURVED = {
    **{f"fields/{name}/score": [value] for name, value in {"user": 0.1, "item": 0.9}.items()},
    **{
        f"fields/{name}/score_curved": [value] for name, value in {"user": 0.9, "item": 0.1}.items()
    },
}


@pytest.mark.parametrize(
    ("rank_by", "gone"), [(None, ITEM), ("score_curved", ITEM), ("score", USER)]
)
@pytest.mark.parametrize(
    "option", [{"keep": 1}, {"keep_share": "50%"}, {"prune_below": 0.5}, {"prune_bytes": "1%"}]
)
def test_fields_are_ranked_by_the_second_order_unless_told_otherwise(rank_by, gone, option):
    made = plan(measured(CURVED, {"user": USER, "item": ITEM}), rank_by=rank_by, **option)
    assert [name for name, action in actions(made).items() if action == "prune"] == [gone]


def test_a_field_without_its_second_order_leaves_the_first():
    arrays = {key: value for key, value in CURVED.items() if key != "fields/item/score_curved"}
    made = plan(measured(arrays, {"user": USER, "item": ITEM}), keep=1)
    assert [name for name, action in actions(made).items() if action == "prune"] == [USER]
    with pytest.raises(PlanError, match="--keep needs field scores: item have none"):
        plan(measured(arrays, {"user": USER, "item": ITEM}), keep=1, rank_by="score_curved")
    with pytest.raises(PlanError, match="rank_by 'sfs' is not known"):
        plan(measured(arrays, {"user": USER, "item": ITEM}), keep=1, rank_by="sfs")


PRUNING = {
    "--keep": 1,
    "--keep-share": "50%",
    "--prune-below": 0.0,
    "--prune-bytes": "10%",
    "--prune": ["item"],
}


@pytest.mark.parametrize("option", [one for one in PRUNING if one != "--prune"])
def test_pruning_by_scores_needs_scores(option):
    with pytest.raises(PlanError, match=f"{option} needs field scores"):
        plan(**{option[2:].replace("-", "_"): PRUNING[option]})


@pytest.mark.parametrize("pair", list(itertools.combinations(PRUNING, 2)), ids=" ".join)
def test_options_that_say_what_goes_dont_mix(pair):
    options = {option[2:].replace("-", "_"): PRUNING[option] for option in pair}
    with pytest.raises(PlanError, match=f"{pair[0]} and {pair[1]} don't mix"):
        plan(SCORES, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep_share": 0.6}, "keep_share: can't read 0.6 .*'12.5%'"),
        ({"keep_share": "0%"}, "keep_share: share out of range"),
        ({"prune_below": float("nan")}, "prune_below: not a score .got nan"),
        ({"prune_below": -1}, "prune_below: not a score .got -1"),
        ({"prune_bytes": 1000}, "prune_bytes: can't read 1000 .*'8GiB'.*'12.5%'"),
        ({"prune_bytes": "101%"}, "prune_bytes: share out of range"),
    ],
)
def test_an_amount_that_a_caller_gets_wrong_is_refused_by_name(options, message):
    with pytest.raises(PlanError, match=message):
        Policy(**options)


def test_drop_alone_is_refused():
    with pytest.raises(PlanError, match=r"--drop leaves pruned tables out; say which by --keep or"):
        Policy(drop=True)


def test_keeping_more_fields_than_there_are_is_refused():
    with pytest.raises(PlanError, match=r"--keep 4 .expected 1 to 3"):
        plan(SCORES, keep=4)


def test_stats_of_another_model_are_refused():
    with pytest.raises(StatsError, match="no table 'other'"):
        plan(measured({"tables/other/count": [1]}, {}))


def test_default_row_and_nonfinite_reach_the_plan():
    found = plan(default="mean", nonfinite="zero")
    assert {table.default for table in found.tables} == {"mean"}
    assert found.nonfinite == "zero"


def test_a_plan_fits_the_checkpoint_it_was_made_for():
    check_plan(plan(SCORES, keep=1), TENSORS, Stats())


@pytest.mark.parametrize(
    "tensor",
    [
        pytest.param(None, id="gone"),
        pytest.param(Tensor(USER, (11, 2), "float32"), id="other-rows"),
        pytest.param(Tensor(USER, (10, 3), "float32"), id="other-dim"),
        pytest.param(Tensor(USER, (10, 2), "float16"), id="other-dtype"),
        pytest.param(Tensor(USER, (20,), "float32"), id="other-shape"),
    ],
)
def test_a_plan_of_another_checkpoint_is_refused_by_table(tensor):
    others = {name: one for name, one in TENSORS.items() if name != USER}
    with pytest.raises(PlanError, match=f"{USER}: the plan is for another checkpoint"):
        check_plan(plan(), others if tensor is None else {**others, USER: tensor}, Stats())


def test_a_plan_with_a_parameter_that_the_checkpoint_lacks_is_refused():
    with pytest.raises(PlanError, match=r"don't fit the checkpoint.*'other'"):
        check_plan(replace(plan(), dense=("mlp", "other")), TENSORS, Stats())


def test_a_plan_that_names_a_tensor_twice_is_refused_by_name():
    with pytest.raises(PlanError, match=USER):
        check_plan(replace(plan(), dense=("mlp", USER)), TENSORS, Stats())


def test_a_plan_without_tables_is_refused():
    with pytest.raises(PlanError):
        check_plan(replace(plan(), tables=()), TENSORS, Stats())


@pytest.mark.parametrize("table", ["nowhere", "mlp"])
def test_a_plan_whose_field_has_no_table_is_refused(table):
    with pytest.raises(PlanError, match=table):
        check_plan(replace(plan(), fields={"f": FieldPlan(table)}), TENSORS, Stats())


def test_a_plan_that_orders_by_priority_needs_the_stats():
    ordered = plan(PRIORITY, tiers="f32=10%,int8=rest")
    check_plan(ordered, TENSORS, PRIORITY)
    with pytest.raises(PlanError, match=f"{USER}: the plan orders rows by priority: pass its"):
        check_plan(ordered, TENSORS, Stats())


def test_a_plan_of_one_tier_needs_no_stats():
    check_plan(plan(PRIORITY), TENSORS, Stats())


def test_a_replay_refuses_stats_of_another_model():
    with pytest.raises(StatsError, match="no table 'other'"):
        check_plan(plan(), TENSORS, measured({"tables/other/count": [1]}, {}))
