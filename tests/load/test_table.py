"""Lookups and bags of one table."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    F32,
    SAMPLE,
    assert_same_bits,
    exact_rows,
    make_store,
    memory_table,
    tiered_tables,
)

import sharkstore
from sharkstore.convert import convert_checkpoint
from sharkstore.errors import ArgumentError, DtypeError, IdError

NAME = "emb.user.weight"
ROWS = SAMPLE[NAME]
DIM = ROWS.shape[1]
OUTSIDE = [-1, 200, 2**31, 2**40, 2**63 - 1, -(2**63)]


@pytest.fixture
def table(store):
    return store[NAME]


# --- lookup ----------------------------------------------------------------------------------

IDS = {
    "list": [3, 0, 199, 3],
    "one number": 5,
    "numpy number": np.int64(5),
    "int64": np.arange(200),
    "int32": np.arange(200, dtype=np.int32)[::-1].copy(),
    "two dimensions": np.arange(60).reshape(6, 10),
    "three dimensions": np.arange(24).reshape(2, 3, 4),
    "empty list": [],
    "no rows": np.empty((0, 3), np.int64),
    "no columns": np.empty((3, 0), np.int64),
    "every third, backwards": np.arange(200)[::-3],
    "a column": np.arange(60).reshape(6, 10)[:, 3],
    "transposed": np.arange(60, dtype=np.int32).reshape(6, 10).T,
    "torch": torch.tensor([[7, 1], [199, 0]]),
    "torch int32": torch.tensor([7, 1], dtype=torch.int32),
    "unaligned": np.frombuffer(b"\0" + np.arange(9).tobytes(), np.uint8)[1:].view(np.int64),
}
every_kind_of_ids = pytest.mark.parametrize("ids", IDS.values(), ids=IDS.keys())


@every_kind_of_ids
def test_lookup_gives_a_row_for_each_id(table, ids):
    assert_same_bits(table.lookup(ids), ROWS[np.asarray(ids, np.int64)])


@every_kind_of_ids
def test_indexing_is_lookup(table, ids):
    assert_same_bits(table[ids], table.lookup(ids))


@every_kind_of_ids
def test_lookup_writes_into_out_and_returns_it(table, ids):
    out = np.full((*np.shape(ids), DIM), np.nan, np.float32)
    assert table.lookup(ids, out=out) is out
    assert_same_bits(out, table.lookup(ids))


def test_lookup_results_are_the_callers_own(table):
    table.lookup([0])[:] = 9
    assert_same_bits(table.lookup([0]), ROWS[:1])


def test_part_of_a_larger_array_may_be_out(table):
    whole = np.zeros((4, DIM), np.float32)
    table.lookup([1, 2], out=whole[1:3])
    assert_same_bits(whole[1:3], ROWS[1:3])
    assert not whole[[0, 3]].any()


@pytest.mark.parametrize(
    ("out", "error"),
    [
        (np.zeros((2, DIM + 1), np.float32), ArgumentError),
        (np.zeros((2, DIM)), DtypeError),
        (np.zeros((DIM, 2), np.float32).T, ArgumentError),
    ],
)
def test_out_that_does_not_fit_is_refused_and_stays(table, out, error):
    with pytest.raises(error):
        table.lookup([0, 1], out=out)
    assert not out.any()


def test_a_table_tells_its_size(table):
    assert (table.name, table.rows, table.dim, len(table)) == (NAME, 200, DIM, 200)
    assert [(tier.encoding.name, tier.rows) for tier in table.tiers] == [
        *(("f32", 20), ("f16", 40), ("int8", 140))
    ]
    # rows, then 32 bytes of row map for each 64 rows
    assert table.nbytes == 20 * DIM * 4 + 40 * DIM * 2 + 140 * (DIM + 2) + 4 * 32


def test_repr_tells_name_size_and_tiers(table):
    assert repr(table) == f"<sharkstore.Table {NAME!r}: 200 × 7, f32 20, f16 40, int8 140>"


# --- ids outside -----------------------------------------------------------------------------


@pytest.mark.parametrize("bad", OUTSIDE)
def test_id_outside_names_table_and_position(table, bad):
    with pytest.raises(IdError, match=rf"'{NAME}': id {bad} at position 2 is outside"):
        table.lookup([0, 1, bad])


@pytest.mark.parametrize("ids", [2**63, [2**63], [0, 2**63], [2**64 - 1]], ids=repr)
def test_an_id_beyond_int64_is_refused_and_not_taken_for_another(table, ids):
    with pytest.raises((IdError, DtypeError)) as caught:
        table.lookup(ids)
    assert "id -" not in str(caught.value)


@pytest.mark.parametrize("ids", [None, "1", [0.5], np.array([1.0]), object()], ids=repr)
def test_ids_that_are_no_integers_are_refused_by_lookups_and_bags(table, ids):
    with pytest.raises(DtypeError, match="expected int64 or int32"):
        table.lookup(ids)
    with pytest.raises(DtypeError, match="expected int64 or int32"):
        table.embedding_bag(ids, [0])


def test_position_counts_through_all_dimensions(table):
    with pytest.raises(IdError, match="position 3"):
        table.lookup([[0, 1], [2, -1]])


@pytest.mark.parametrize("ids", [[-1], np.array([-1], np.int32)], ids=repr)
def test_a_negative_id_is_never_counted_from_the_end(table, ids):
    assert not table.lookup(ids, bounds="default").any()


@pytest.mark.parametrize("bad", OUTSIDE)
def test_id_outside_gives_zeros_when_asked_for(table, bad):
    got = table.lookup([0, bad, 199], bounds="default")
    assert_same_bits(got, np.stack([ROWS[0], np.zeros(DIM, np.float32), ROWS[199]]))


def test_bounds_of_the_store_hold_for_lookups_and_bags(sample):
    with sharkstore.open(sample, bounds="default") as store:
        assert not store[NAME].lookup([-1]).any()
        assert not store[NAME].embedding_bag([-1], [0]).any()


def test_bounds_of_a_call_go_before_those_of_the_store(sample):
    with sharkstore.open(sample, bounds="default") as store, pytest.raises(IdError):
        store[NAME].lookup([-1], bounds="raise")


def test_ids_outside_are_counted_by_table(store):
    store[NAME].lookup([-1, 0, 200], bounds="default")
    store[NAME].embedding_bag([[0, 201]], bounds="default")
    assert store[NAME].ids_out_of_bounds == 3
    counted = {name: one["ids_out_of_bounds"] for name, one in store.stats()["tables"].items()}
    assert counted == {NAME: 3, "emb.item.weight": 0, "emb.tiny.weight": 0}


def test_refused_ids_are_not_counted(table):
    with pytest.raises(IdError):
        table.lookup([-1])
    assert table.ids_out_of_bounds == 0


@pytest.mark.parametrize("bounds", ["clip", "", 1], ids=repr)
def test_unknown_bounds_are_refused(table, bounds):
    with pytest.raises(ArgumentError, match="bounds"):
        table.lookup([0], bounds=bounds)


@pytest.fixture(scope="module")
def mean_store(tmp_path_factory):
    """A store whose tables answer ids outside with their mean row."""
    path = make_store(tmp_path_factory.mktemp("mean"), {NAME: ROWS}, default_row="mean")
    with sharkstore.open(path, bounds="default") as store:
        yield store


def test_id_outside_gives_the_mean_row_of_a_store_that_has_one(mean_store):
    mean = ROWS.mean(axis=0, dtype=np.float64).astype(np.float32)
    assert_same_bits(mean_store[NAME].lookup([-1, 0, 200]), np.stack([mean, ROWS[0], mean]))


def test_default_rows_count_in_a_mean(mean_store):
    table = mean_store[NAME]
    expected = (ROWS[3] + table.lookup([-1])[0]) / np.float32(2)
    assert_same_bits(table.embedding_bag([[3, -1]], mode="mean"), expected[None])


# --- tables of special kinds -----------------------------------------------------------------


def test_a_table_without_rows_opens_and_has_none(tmp_path):
    path = make_store(tmp_path, {"emb": np.empty((0, 4), np.float32)}, tiers="f32=50%,int8=rest")
    with sharkstore.open(path) as store:
        assert store["emb"].lookup([]).shape == (0, 4)
        assert_same_bits(store["emb"].embedding_bag([], [0, 0]), np.zeros((2, 4), np.float32))
        with pytest.raises(IdError, match="the table has no rows"):
            store["emb"].lookup([0])


def test_a_pruned_table_answers_with_its_mean_row(tmp_path):
    path = make_store(tmp_path, {"emb": ROWS, "emb2": ROWS}, prune=["emb"])
    with sharkstore.open(path) as store:
        mean = ROWS.mean(axis=0, dtype=np.float64).astype(np.float32)
        assert store["emb"].pruned
        assert not store["emb2"].pruned
        assert_same_bits(store["emb"].lookup([0, 199]), np.stack([mean, mean]))
        with pytest.raises(IdError):
            store["emb"].lookup([200])


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_tables_of_other_float_dtypes_give_float32(tmp_path, dtype):
    path = make_store(tmp_path, {"emb": ROWS.astype(dtype)}, tiers="f32=50%,int8=rest")
    with sharkstore.open(path) as store:
        assert_same_bits(store["emb"].lookup(np.arange(200)), ROWS)


def test_a_bfloat16_table_gives_float32(tmp_path):
    torch.save({"emb": torch.from_numpy(ROWS).bfloat16()}, tmp_path / "model.pt")
    convert_checkpoint(tmp_path / "model.pt", tmp_path / "model.shark")
    with sharkstore.open(tmp_path / "model.shark") as store:
        assert_same_bits(store["emb"].lookup(np.arange(200)), ROWS)


# --- bags ------------------------------------------------------------------------------------


def pool_naively(rows, mode, weights=None):
    """One bag in float32, row after row."""
    total = np.zeros(rows.shape[1], np.float32)
    for position, row in enumerate(rows):
        if mode != "max":
            total = total + (row if weights is None else weights[position] * row)
        else:
            total = row if position == 0 else np.maximum(total, row)
    return total / np.float32(len(rows)) if mode == "mean" and len(rows) else total


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@given(tiered_tables(max_rows=20, max_dim=5), st.lists(st.integers(0, 9), max_size=9), st.data())
def test_bags_equal_plain_loops_over_rows_in_order(mode, table_and_rows, lengths, data):
    table, rows = table_and_rows
    offsets = np.cumsum([0, *lengths])
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    ids = rng.integers(table.rows, size=offsets[-1])
    weighted = mode == "sum" and data.draw(st.booleans())
    weights = rng.normal(size=len(ids)).astype(np.float32) if weighted else None
    got = table.embedding_bag(ids, offsets, weights, mode, include_last_offset=True)
    for bag, (start, stop) in enumerate(pairwise(offsets)):
        chosen = None if weights is None else weights[start:stop]
        assert_same_bits(got[bag], pool_naively(rows[ids[start:stop]], mode, chosen))


def test_rows_are_added_in_the_order_of_their_ids():
    table, _ = memory_table(np.array([[1e8], [-1e8], [1]], np.float32))
    bags = [[0, 1, 2], [0, 2, 1], [2, 0, 1]]
    assert table.embedding_bag(bags).ravel().tolist() == [1, 0, 0]


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_empty_bags_are_zero(table, mode):
    got = table.embedding_bag([5], [0, 0, 1, 1], mode=mode)
    assert_same_bits(got[[0, 2, 3]], np.zeros((3, DIM), np.float32))
    assert_same_bits(got[1], ROWS[5])


@pytest.mark.parametrize("shape", [(3, 0), (0, 3), (0, 0)])
def test_two_dimensional_ids_may_be_empty(table, shape):
    got = table.embedding_bag(np.empty(shape, np.int64), mode="mean")
    assert_same_bits(got, np.zeros((shape[0], DIM), np.float32))


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bags_of_padding_only_are_zero(table, mode):
    got = table.embedding_bag([[5, 5], [5, 6]], mode=mode, padding_idx=5)
    assert_same_bits(got, np.stack([np.zeros(DIM, np.float32), ROWS[6]]))


def test_a_sum_of_minus_zeros_is_plus_zero():
    table, _ = memory_table(np.array([[-0.0]], np.float32))
    assert_same_bits(table.embedding_bag([[0, 0]]), np.zeros((1, 1), np.float32))


def test_sums_beyond_float32_are_infinite_without_a_warning():
    table, _ = memory_table(np.array([[3e38], [-3e38]], np.float32))
    assert table.embedding_bag([[0, 0], [1, 1]]).ravel().tolist() == [np.inf, -np.inf]


@pytest.mark.parametrize("ids", [[0, 1, 2], [1, 0, 2], [2, 0, 1]])
def test_max_hands_nan_on_wherever_it_stands(ids):
    table, _ = memory_table(np.array([[1, 5], [np.nan, 2], [3, 1]], np.float32))
    np.testing.assert_array_equal(table.embedding_bag([ids], mode="max"), [[np.nan, 5]])


def test_bags_of_int32_torch_tensors(table):
    ids = torch.tensor([3, 4, 5], dtype=torch.int32)
    offsets = torch.tensor([0, 1], dtype=torch.int32)
    got = table.embedding_bag(ids, offsets, torch.tensor([1.0, 2.0, 1.0]))
    assert_same_bits(got, np.stack([ROWS[3], 2 * ROWS[4] + ROWS[5]]))


def test_bags_write_into_out_and_return_it(table):
    out = np.full((2, DIM), np.nan, np.float32)
    assert table.embedding_bag([[0, 1], [2, 3]], out=out) is out
    assert_same_bits(out, np.stack([ROWS[0] + ROWS[1], ROWS[2] + ROWS[3]]))


def test_out_must_be_an_array_even_if_its_memory_would_do(table):
    view = memoryview(np.empty((1, table.dim), np.float32))
    with pytest.raises(DtypeError):
        table.lookup(np.array([0]), view)
    with pytest.raises(DtypeError):
        table.embedding_bag(np.array([0]), np.array([0]), out=view)


def test_out_of_another_number_of_bags_is_refused(table):
    with pytest.raises(ArgumentError, match=r"got \(3, 7\), expected \(2, 7\)"):
        table.embedding_bag([[0], [1]], out=np.empty((3, DIM), np.float32))


@pytest.mark.parametrize("mode", ["mean", "max"])
def test_weights_go_with_sums_only(table, mode):
    with pytest.raises(ArgumentError, match="per_sample_weights go with mode 'sum' only"):
        table.embedding_bag([[0]], per_sample_weights=[[1.0]], mode=mode)


@pytest.mark.parametrize("mode", ["median", "", None, ["sum"], 0], ids=repr)
def test_unknown_mode_is_refused(table, mode):
    with pytest.raises(ArgumentError, match=r"mode .* is not known"):
        table.embedding_bag([[0]], mode=mode)


@pytest.mark.parametrize("last", [1, np.True_, "yes"], ids=repr)
def test_anything_true_includes_the_last_offset(table, last):
    got = table.embedding_bag(np.arange(3), np.array([0, 3]), include_last_offset=last)
    assert_same_bits(got, ROWS[:3].sum(axis=0, keepdims=True))


@pytest.mark.parametrize("weights", [np.ones((3, 1), np.float32), np.ones((1, 3), np.float32)])
def test_weights_of_another_shape_are_refused_however_many(table, weights):
    with pytest.raises(ArgumentError, match="must have the shape of ids"):
        table.embedding_bag(np.arange(3), np.array([0]), weights)


def test_an_empty_out_within_the_memory_of_offsets_is_taken(table):
    memory = np.zeros(4, np.int64)
    out = memory.view(np.float32)[1:1].reshape(0, DIM)
    got = table.embedding_bag(np.arange(0), memory[:1], include_last_offset=True, out=out)
    assert got is out


@pytest.mark.parametrize("bad", OUTSIDE)
def test_id_outside_in_a_bag_names_table_and_position(table, bad):
    with pytest.raises(IdError, match=f"{NAME}.*id {bad} at position 1"):
        table.embedding_bag([0, bad], [0])


def test_offsets_that_make_no_bags_are_refused(table):
    with pytest.raises(ArgumentError, match="offset"):
        table.embedding_bag(np.arange(5), [0, 2**63 - 1, -2])


def test_a_large_bag_of_a_wide_table():
    rows = exact_rows(50, 130)
    table, _ = memory_table(rows, [F32])
    ids = np.arange(3000) % 50
    assert_same_bits(table.embedding_bag(ids, [0])[0], rows.sum(axis=0) * np.float32(60))
