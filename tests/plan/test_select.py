"""Which tensors are taken as tables."""

from collections.abc import Mapping

import pytest

from sharkstore.errors import PlanError
from sharkstore.plan.select import choose_tables, optimizer_state
from sharkstore.tensors import Tensor

Shapes = Mapping[str, tuple[int, ...]]


def chosen(
    shapes,
    patterns=(),
    in_stats=(),
    dtype="float32",
):
    tensors = {name: Tensor(name, shape, dtype) for name, shape in shapes.items()}
    return choose_tables(tensors, patterns, set(in_stats))


@pytest.mark.parametrize(
    ("name", "shape", "why"),
    [
        ("user_emb.weight", (4, 4), "'emb' in its key"),
        ("Embedding.3", (4, 4), "'emb' in its key"),
        ("lookup_table", (4, 4), "'table' in its key"),
        ("TABLES.0", (4, 4), "'table' in its key"),
        ("w", (32, 4), "32 rows of 4"),
        ("w", (80_000, 10), "80,000 rows of 10"),
        ("w", (8, 1), "8 rows of 1"),
        ("emb", (0, 4), "'emb' in its key"),
    ],
)
def test_a_table_is_taken_by_its_key_or_its_shape(name, shape, why):
    assert chosen({name: shape}) == {name: why}


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        pytest.param("w", (31, 4), id="too-few-rows"),
        pytest.param("emb", (100,), id="one-dimension"),
        pytest.param("emb", (), id="scalar"),
        pytest.param("emb", (100, 2, 2), id="three-dimensions"),
        pytest.param("emb", (100, 0), id="no-values-a-row"),
        pytest.param("emb", (100_000, 4097), id="too-wide"),
    ],
)
def test_other_tensors_are_no_tables(name, shape):
    assert list(chosen({name: shape, "table": (4, 4)})) == ["table"]


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_every_float_dtype_is_taken(dtype):
    assert list(chosen({"emb": (4, 4)}, dtype=dtype)) == ["emb"]


@pytest.mark.parametrize("dtype", ["int64", "int8", "bool"])
def test_integers_are_no_tables(dtype):
    with pytest.raises(PlanError, match="no embedding tables found"):
        chosen({"emb": (100, 4)}, dtype=dtype)


def test_a_weight_with_a_bias_beside_it_is_a_layer():
    shapes = {
        "embed_proj.weight": (64, 4),
        "embed_proj.bias": (64,),
        "embed.weight": (64, 4),
        "emb": (4, 4),
    }
    assert list(chosen(shapes)) == ["embed.weight", "emb"]


def test_a_bias_elsewhere_is_no_sibling():
    assert list(chosen({"a.emb.weight": (4, 4), "a.bias": (4,), "bias": (4,)})) == ["a.emb.weight"]


def test_tables_keep_the_order_of_the_checkpoint():
    assert list(chosen({"b.emb": (4, 4), "w": (64, 2), "a.emb": (4, 4)})) == ["b.emb", "w", "a.emb"]


def test_globs_replace_the_rule():
    shapes = {"emb.a": (4, 4), "emb.b": (4, 4), "w.weight": (4, 4), "w.bias": (4,)}
    assert chosen(shapes, ["w.*", "*.b"]) == {
        "emb.b": "matches '*.b'",
        "w.weight": "matches 'w.*'",
    }


def test_globs_match_upper_and_lower_case_apart():
    assert list(chosen({"Emb": (4, 4), "emb": (4, 4)}, ["e*"])) == ["emb"]


def test_a_glob_that_matches_nothing_says_what_there_is():
    with pytest.raises(PlanError, match=r"'user\*' matches no floating.*emb float32 \[4, 4\]"):
        chosen({"emb": (4, 4)}, ["emb", "user*"])


def test_a_glob_that_names_a_table_too_wide_says_how_wide_one_may_be():
    with pytest.raises(PlanError, match=r"4096|4,096"):
        chosen({"emb": (4, 5000)}, ["emb"])


def test_tables_in_the_stats_are_always_taken():
    shapes = {"w.weight": (4, 4), "w.bias": (4,), "emb": (4, 4), "x": (4, 4)}
    assert chosen(shapes, in_stats=["w.weight"]) == {
        "w.weight": "named in the stats",
        "emb": "'emb' in its key",
    }
    assert list(chosen(shapes, ["x"], ["w.weight"])) == ["w.weight", "x"]


def test_stats_that_name_what_cant_be_a_table_are_refused():
    with pytest.raises(PlanError, match=r"bias: the stats name a table that can't be one"):
        chosen({"emb": (4, 4), "bias": (4,)}, in_stats=["bias"])


def test_none_found_says_what_there_is_and_what_to_do():
    shapes = {f"w{index}": (4, 4) for index in range(9)}
    with pytest.raises(PlanError, match=r"--tables 'GLOB'; the checkpoint has w0 .*w5 .*, …"):
        chosen(shapes)


def test_a_checkpoint_without_tensors_is_refused():
    with pytest.raises(PlanError, match=r"no embedding tables found.*has no tensors"):
        chosen({})


def test_more_rows_than_a_row_map_can_count_are_refused():
    with pytest.raises(PlanError, match=r"emb: too many rows.*4294967296.*4294967295"):
        chosen({"emb": (2**32, 4)})


def test_as_many_rows_as_a_row_map_can_count_are_taken():
    assert list(chosen({"emb": (2**32 - 1, 4)})) == ["emb"]


def test_a_layer_at_the_top_of_the_checkpoint_is_no_table():
    shapes = {"weight": (800, 10), "bias": (800,), "emb": (4, 4)}
    assert list(chosen(shapes)) == ["emb"]


def test_where_no_table_is_found_what_was_left_is_told():
    left = {"emb.weight": "only rows 0 to 4 of a DTensor", **dict.fromkeys("abcd", "a int")}
    with pytest.raises(PlanError, match=r"left out are emb\.weight: only rows 0 to 4.*, …"):
        choose_tables({}, (), set(), left)


def test_what_lies_beside_a_parameter_under_its_key_is_an_optimizers():
    shapes = {
        "emb.weight": (9, 4),
        "emb.bias": (9,),
        "state.emb.weight.exp_avg": (9, 4),
        "state.emb.weight.step": (),
        "emb.weight.momentum1": (9,),
        "optim.emb.weight.state.sum": (9, 1),
    }
    tensors = {name: Tensor(name, shape, "float32") for name, shape in shapes.items()}
    assert list(optimizer_state(tensors)) == list(shapes)[2:]


def test_what_is_no_optimizers_is_none():
    shapes = {"a.weight": (9, 4), "a.b.weight": (9, 4), "a.weight.g": (4, 9), "s": (), "s.t": ()}
    tensors = {name: Tensor(name, shape, "float32") for name, shape in shapes.items()}
    assert optimizer_state(tensors) == {}
