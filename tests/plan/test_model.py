"""The plan as a document: there and back, edited, and refused where it doesn't add up."""

import contextlib
import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharkstore.encodings import SPELLED, Encoding
from sharkstore.errors import PlanError
from sharkstore.plan.build import check_plan
from sharkstore.plan.model import FieldPlan, Plan, TablePlan, TierPlan, parse_plan
from sharkstore.plan.stats import MOST, Stats
from sharkstore.tensors import Tensor

TABLE = TablePlan(
    name="emb",
    rows=100,
    dim=4,
    dtype="float32",
    action="store",
    order="id",
    tiers=(TierPlan(Encoding("f32"), 10), TierPlan(Encoding("int8"), 90)),
    why="'emb' in its key",
)
PLAN = Plan((TABLE,), ("mlp",), {"epoch": "a int, no tensor"}, {"f": FieldPlan("emb", 0.5)})
DOCUMENT = PLAN.document()
ENTRY = DOCUMENT["tables"][0]
TENSORS = {"emb": Tensor("emb", (100, 4), "float32"), "mlp": Tensor("mlp", (3,), "float32")}
texts = st.text(max_size=8)


def parsed(document):
    return parse_plan(json.dumps(document), "plan.json")


def with_table(**changes):
    """The document, its table's members changed."""
    return {**copy.deepcopy(DOCUMENT), "tables": [{**copy.deepcopy(ENTRY), **changes}]}


def tiers(*pairs):
    return [{"encoding": encoding, "rows": rows} for encoding, rows in pairs]


@st.composite
def tables(draw):
    counts = draw(st.lists(st.integers(1, 10**9), min_size=1, max_size=8))
    return TablePlan(
        name=draw(texts),
        rows=sum(counts),
        dim=draw(st.integers(1, 4096)),
        dtype=draw(st.sampled_from(["float32", "float16", "bfloat16", "float64"])),
        action=draw(st.sampled_from(["store", "prune", "drop"])),
        order=draw(st.sampled_from(["priority", "id"])),
        tiers=tuple(TierPlan(draw(st.sampled_from(SPELLED)), n) for n in counts),
        default=draw(st.sampled_from(["zero", "mean"])),
        why=draw(texts),
    )


scores = st.none() | st.floats(-MOST, MOST)
plans = st.builds(
    Plan,
    tables=st.lists(tables(), max_size=3).map(tuple),
    dense=st.lists(texts, max_size=3).map(tuple),
    left=st.dictionaries(texts, texts, max_size=2),
    fields=st.dictionaries(
        texts,
        st.builds(FieldPlan, texts, scores, scores),
        max_size=2,
    ),
    nonfinite=st.sampled_from(["error", "zero"]),
)


@given(plans)
def test_a_plan_survives_json(plan):
    assert parsed(plan.document()) == plan


def test_an_empty_table_has_one_empty_tier():
    document = with_table(rows=0, tiers=tiers(("int8", 0)))
    assert parsed(document).tables[0].tiers == (TierPlan(Encoding("int8"), 0),)


def test_edited_counts_are_taken():
    document = with_table(tiers=tiers(("f32", 25), ("int8.affine", 75)))
    assert parsed(document).tables[0].tiers == (
        TierPlan(Encoding("f32"), 25),
        TierPlan(Encoding("int8", "affine"), 75),
    )


@pytest.mark.parametrize(
    ("given_tiers", "counts"),
    [
        (tiers(("f32", 25), ("int8", "rest")), [25, 75]),
        (tiers(("f32", "rest"), ("int8", 25)), [75, 25]),
        (tiers(("int8", "rest")), [100]),
        (tiers(("f32", 100), ("int8", "rest")), [100]),
        (tiers(("f32", 0), ("int8", 100)), [100]),
    ],
)
def test_rest_is_what_the_other_tiers_leave(given_tiers, counts):
    found = parsed(with_table(tiers=given_tiers)).tables[0].tiers
    assert [tier.rows for tier in found] == counts


@pytest.mark.parametrize("action", ["prune", "drop"])
def test_an_edited_action_is_taken(action):
    assert parsed(with_table(action=action)).tables[0].action == action


def test_a_pruned_table_stores_one_constant_row():
    table = parsed(with_table(action="prune")).tables[0]
    assert table.stored_tiers == (TierPlan(Encoding("constant"), 100),)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tiers": tiers(("f32", 10), ("int8", 80))}, r"must add up .*got 90, expected 100"),
        ({"tiers": tiers(("f32", 10), ("int8", 91))}, r"must add up .*got 101, expected 100"),
        ({"tiers": tiers(("f32", "rest"), ("int8", "rest"))}, "only one tier takes the rest"),
        ({"tiers": tiers(("f32", 200), ("int8", "rest"))}, r"count or 'rest'.*got -100"),
        ({"tiers": tiers(("f32", -1), ("int8", 101))}, r"count or 'rest'.*got -1"),
        ({"tiers": tiers(("f32", 10.0), ("int8", 90))}, r"count or 'rest'.*got 10.0"),
        ({"tiers": tiers(("f32", True), ("int8", 99))}, r"count or 'rest'.*got True"),
        ({"tiers": []}, r"takes 1 to 8 tiers \(got 0\)"),
        ({"tiers": tiers(*[("f32", 1)] * 8, ("int8", 92))}, r"takes 1 to 8 tiers \(got 9\)"),
        ({"action": "delete"}, "'delete' is not one of store, prune, drop"),
        ({"order": "size"}, "'size' is not one of priority, id"),
        ({"default": "one"}, "'one' is not one of zero, mean"),
        ({"rows": 101}, "must add up"),
    ],
)
def test_a_table_that_doesnt_add_up_is_refused_by_name(changes, message):
    with pytest.raises(PlanError, match=rf"plan\.json: table 'emb': .*{message}"):
        parsed(with_table(**changes))


def test_an_unknown_encoding_is_refused_with_the_known_ones():
    with pytest.raises(PlanError, match=r"plan\.json.*unknown encoding 'int7' .known: f32"):
        parsed(with_table(tiers=tiers(("int7", 100))))


def test_a_count_that_is_a_text_is_refused():
    with pytest.raises(PlanError, match=r"plan\.json"):
        parsed(with_table(tiers=tiers(("f32", "ten"), ("int8", 90))))


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_a_plan_of_another_version_is_refused(version):
    with pytest.raises(PlanError, match=r"plan\.json: plan of another version .*expected 1"):
        parsed({**DOCUMENT, "sharkstore_plan": version})


@pytest.mark.parametrize("text", ["", "{", "[]", "5", "null", '"plan"', "{}", "tiers: int8"])
def test_what_is_no_plan_is_refused_with_the_remedy(text):
    with pytest.raises(PlanError, match=r"plan\.json: not a plan.*--dry-run writes one"):
        parse_plan(text, "plan.json")


def test_a_plan_nested_too_deep_is_refused():
    with pytest.raises(PlanError, match="not a plan"):
        parse_plan("[" * 100_000, "plan.json")


@pytest.mark.parametrize("key", sorted(DOCUMENT))
def test_a_plan_without_a_member_is_refused(key):
    with pytest.raises(PlanError, match=key):
        parsed({name: value for name, value in DOCUMENT.items() if name != key})


@pytest.mark.parametrize("key", sorted(ENTRY))
def test_a_table_without_a_member_is_refused(key):
    entry = {name: value for name, value in ENTRY.items() if name != key}
    with pytest.raises(PlanError, match=key):
        parsed({**DOCUMENT, "tables": [entry]})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tables", "abc"),
        ("tables", [5]),
        ("tables", {"emb": ENTRY}),
        ("tables", None),
        ("dense", 5),
        ("dense", [["mlp"]]),
        ("left", [1]),
        ("fields", {"f": "emb"}),
        ("fields", {"f": {"table": "emb", "score": "high"}}),
        ("nonfinite", "ignore"),
        ("nonfinite", ["error"]),
    ],
)
def test_a_member_of_another_type_is_refused(key, value):
    with pytest.raises(PlanError, match=r"plan\.json"):
        parsed({**DOCUMENT, key: value})


def test_a_plan_without_signed_scores_is_read():
    document = copy.deepcopy(DOCUMENT)
    del document["fields"]["f"]["score_signed"]
    assert parsed(document).fields == {"f": FieldPlan("emb", 0.5, None)}


@pytest.mark.parametrize("kind", ["score", "score_signed"])
@pytest.mark.parametrize("score", ["1e999", "NaN", "1e39", "-1e39", "1" + "0" * 400, "true", '"x"'])
def test_a_score_that_cant_be_added_up_is_refused(kind, score):
    document = {**DOCUMENT, "fields": {"f": {"table": "emb", kind: "HERE"}}}
    text = json.dumps(document).replace('"HERE"', score)
    with pytest.raises(
        PlanError, match=rf"plan\.json: field 'f': its {kind} must be a finite"
    ) as at:
        parse_plan(text, "plan.json")
    assert len(str(at.value)) < 200


@pytest.mark.parametrize("number", ["1e999", "-1e999", "NaN"])
@pytest.mark.parametrize("key", ["rows", "dim"])
def test_a_size_that_is_no_number_is_refused(key, number):
    text = json.dumps(with_table(**{key: "HERE"})).replace('"HERE"', number)
    with pytest.raises(PlanError, match=r"plan\.json"):
        parse_plan(text, "plan.json")


@pytest.mark.parametrize("key", sorted({*DOCUMENT, *ENTRY}))
@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | texts,
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
        max_leaves=4,
    ),
)
def test_any_json_in_any_member_is_a_plan_or_a_plan_error(key, value):
    document = {**DOCUMENT, key: value} if key in DOCUMENT else with_table(**{key: value})
    with contextlib.suppress(PlanError):
        check_plan(parsed(document), TENSORS, Stats())
