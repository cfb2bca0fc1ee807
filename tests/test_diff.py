"""Figures of `diff` against a plain computation, and what it says of the two sides."""

import math
import tempfile
from pathlib import Path

import numpy as np
import pytest
from checkpoints import ITEM, USER, Raw, bfloat16, model, read_back, save, save_stats
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import ROW_BY_ROW, make_store, random_rows

from sharkstore.convert import convert_checkpoint
from sharkstore.diff import compare, diff, rows
from sharkstore.errors import (
    ArgumentError,
    CheckpointError,
    CheckpointNotFoundError,
    PlanError,
    StatsError,
)

TIERS = "f32=10%,f16=20%,int8=rest"
SPECIAL = np.array([0, -0.0, 1e-45, 3e38, -3e38, np.inf, -np.inf, np.nan, 1, 0.1], np.float32)


def slowly(a, b, chosen, uses=None):
    """The figures of some rows, value by value in Python's own floats."""
    square = count = cosines = directed = changed = weight = 0.0
    worst = (0.0, None, None)
    bad = [0, 0, 0]
    for row in chosen:
        use = 1.0 if uses is None else float(uses[row])
        pairs = [(float(x), float(y)) for x, y in zip(a[row], b[row], strict=True)]
        finite = [(x, y) for x, y in pairs if math.isfinite(x) and math.isfinite(y)]
        own = math.fsum((y - x) ** 2 for x, y in finite)
        square += use * own
        count += use * len(finite)
        weight += use
        changed += use * (a[row].tobytes() != b[row].tobytes())
        bad[0] += sum(not math.isfinite(x) for x, _ in pairs)
        bad[1] += sum(not math.isfinite(y) for _, y in pairs)
        bad[2] += sum(math.isfinite(x) and not math.isfinite(y) for x, y in pairs)
        mean = own / max(len(finite), 1)
        if mean > worst[0]:
            worst = (mean, row, max(abs(y - x) for x, y in finite))
        if len(finite) == len(pairs):
            directed += use
            cosines += use * cosine(pairs)
    return {
        "rmse": math.sqrt(square / count) if count else None,
        "cosine": cosines / directed if directed else None,
        "changed": changed / weight if weight else None,
        "worst": (worst[1], worst[1] if worst[1] is None else math.sqrt(worst[0]), worst[2]),
        "bad": tuple(bad),
        "uses": weight,
    }


def cosine(pairs):
    norm_a = math.sqrt(math.fsum(x * x for x, _ in pairs))
    norm_b = math.sqrt(math.fsum(y * y for _, y in pairs))
    if not norm_a or not norm_b:
        return float(norm_a == norm_b)
    return math.fsum(x / norm_a * (y / norm_b) for x, y in pairs)


def assert_part(part, a, b, chosen, uses=None):
    expected = slowly(a, b, chosen)
    assert part.rows == len(chosen)
    assert_figures(part.plain, expected)
    row, rms, largest = expected["worst"]
    assert part.worst_row == row
    assert part.worst_rms == pytest.approx(rms)
    assert part.worst_abs == pytest.approx(largest)
    assert (part.nonfinite_a, part.nonfinite_b, part.nonfinite_new) == expected["bad"]
    if uses is None:
        assert part.uses is part.seen is None
    else:
        seen = slowly(a, b, chosen, uses)
        assert part.uses == pytest.approx(seen["uses"])
        assert_figures(part.seen, seen)


def assert_figures(figures, expected):
    for name in ("rmse", "cosine", "changed"):
        assert getattr(figures, name) == near(expected[name]), name


def near(value):
    return None if value is None else pytest.approx(value, rel=1e-12, abs=1e-12)


def only(found, name=USER):
    (table,) = (one for one in found.tables if one.name == name)
    return table


def statuses(found):
    return {one.name: one.status for one in found.tables}


@pytest.fixture
def pair(tmp_path):
    """A checkpoint and a store of it in three tiers."""
    return tmp_path / "model.safetensors", make_store(tmp_path, model(), tiers=TIERS)


def one_table(path, values, name=USER):
    return save(path, {name: values})


# --- figures ---------------------------------------------------------------------------------


@st.composite
def two_tables(draw):
    """Rows, and rows near them: some equal, some zero, some with values that are not finite."""
    n, dim = draw(st.integers(1, 200)), draw(st.integers(1, 9))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    a = rng.normal(size=(n, dim)).astype(np.float32)
    b = a + np.float32(draw(st.sampled_from([0.0, 1e-7, 0.1, 1e30]))) * a[::-1]
    for one in (a, b):
        hit = rng.random(one.shape) < draw(st.sampled_from([0.0, 0.05, 0.5]))
        one[hit] = rng.choice(SPECIAL[: draw(st.sampled_from([1, 2, 5, 10]))], hit.sum())
        one[rng.random(n) < 0.1] = 0
    return a, b


@settings(max_examples=40)
@given(two_tables(), st.booleans())
def test_figures_of_two_checkpoints_are_those_of_a_plain_computation(tables, weighted):
    a, b = tables
    uses = np.random.default_rng(0).integers(0, 5, len(a))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sides = one_table(folder / "a.safetensors", a), one_table(folder / "b.safetensors", b)
        stats = save_stats(folder / "s.safetensors", {f"tables/{USER}/count": uses})
        found = diff(*sides, stats=stats if weighted else None)
    table = only(found)
    every = range(len(a))
    assert_part(table.whole, a, b, every, uses if weighted else None)
    assert [(label, part) for label, part in table.tiers] == [("float32", table.whole)]
    assert found.total.plain == table.whole.plain
    assert found.total.seen == table.whole.seen


@settings(max_examples=25)
@given(
    st.integers(1, 300),
    st.integers(1, 12),
    st.lists(st.sampled_from(ROW_BY_ROW), min_size=1, max_size=4, unique=True),
    st.integers(0, 2**32 - 1),
)
def test_figures_of_each_tier_are_those_of_its_rows(count, dim, encodings, seed):
    rng = np.random.default_rng(seed)
    values = random_rows(count, dim, seed)
    values[rng.random(count) < 0.1] = 0
    uses = rng.integers(0, 1000, count)
    shares = [f"{one}=20%" for one in encodings[:-1]] + [f"{encodings[-1]}=rest"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = one_table(folder / "model.safetensors", values)
        stats = save_stats(folder / "stats.safetensors", {f"tables/{USER}/count": uses})
        options = {"tiers": ",".join(shares), "stats": stats}
        convert_checkpoint(checkpoint, folder / "m.shark", **options)
        found = diff(checkpoint, folder / "m.shark", stats=stats)
        stored = read_back(folder / "m.shark", USER)
    table = only(found)
    ranked = np.argsort(-uses, kind="stable")
    start = 0
    for _, part in table.tiers:
        chosen = sorted(ranked[start : start + part.rows].tolist())
        assert_part(part, values, stored, chosen, uses)
        start += part.rows
    assert start == count
    assert_part(table.whole, values, stored, range(count), uses)


def test_tiers_are_named_in_the_stores_order(pair):
    assert [label for label, _ in only(diff(*pair)).tiers] == ["f32", "f16", "int8"]
    assert [label for label, _ in only(diff(*reversed(pair))).tiers] == ["f32", "f16", "int8"]


def test_many_pieces_and_blocks_add_up(tmp_path, monkeypatch):
    monkeypatch.setattr(compare, "PIECE_VALUES", 2048)
    monkeypatch.setattr(compare, "BLOCK_VALUES", 512)
    store = make_store(tmp_path, model(), tiers=TIERS)
    table = only(diff(tmp_path / "model.safetensors", store))
    assert_part(table.whole, model()[USER], read_back(store, USER), range(1000))
    limits = [0, 100, 300, 1000]  # without stats, tiers go by row id
    for (_, part), low, high in zip(table.tiers, limits, limits[1:], strict=False):
        assert_part(part, model()[USER], read_back(store, USER), range(low, high))


def test_the_same_figures_come_out_every_time(pair, monkeypatch):
    monkeypatch.setattr(compare, "PIECE_VALUES", 512)
    first = diff(*pair)
    monkeypatch.setattr(compare, "MOST_WORKERS", 1)
    assert diff(*pair) == first


def test_of_equal_errors_the_first_row_is_the_worst(tmp_path, monkeypatch):
    monkeypatch.setattr(compare, "BLOCK_VALUES", 64)
    a = np.zeros((640, 1), np.float32)
    b = a.copy()
    b[[70, 5, 639]] = 1
    sides = one_table(tmp_path / "a.safetensors", a), one_table(tmp_path / "b.safetensors", b)
    assert only(diff(*sides)).whole.worst_row == 5


def test_the_total_is_over_all_values_of_all_tables(pair):
    found = diff(*pair)
    squares = [t.whole.plain.rmse**2 * math.prod(t.shapes[0]) for t in found.tables]
    values = [math.prod(t.shapes[0]) for t in found.tables]
    assert found.total.plain.rmse == pytest.approx(math.sqrt(sum(squares) / sum(values)))
    assert found.total.rows == 1500
    assert found.total.worst_row is None


def test_a_value_in_a_used_row_weighs_more_and_in_an_unused_nothing(tmp_path):
    a = np.ones((3, 2), np.float32)
    b = a.copy()
    b[0] += 3
    b[1] += 1
    sides = one_table(tmp_path / "a.safetensors", a), one_table(tmp_path / "b.safetensors", b)
    stats = {f"tables/{USER}/count": np.array([0, 3, 1])}
    whole = only(diff(*sides, stats=save_stats(tmp_path / "s.safetensors", stats))).whole
    assert whole.plain.rmse == pytest.approx(math.sqrt(10 / 3))
    assert whole.seen.rmse == pytest.approx(math.sqrt(3 / 4))
    assert (whole.uses, whole.seen.changed) == (4.0, 0.75)


def test_a_table_that_is_never_used_has_no_seen_figures(tmp_path, pair):
    stats = save_stats(tmp_path / "s.safetensors", {f"tables/{USER}/count": np.zeros(1000)})
    found = diff(*pair, stats=stats)
    seen = only(found).whole.seen
    assert (seen.rmse, seen.cosine, seen.changed) == (None, None, None)
    assert only(found, ITEM).whole.seen is None
    assert found.uncounted == (ITEM,)


def test_the_total_seen_is_of_the_tables_that_have_counts(tmp_path, pair):
    stats = save_stats(tmp_path / "s.safetensors", {f"tables/{USER}/count": np.arange(1000)})
    found = diff(*pair, stats=stats)
    assert found.total.seen == only(found).whole.seen


@pytest.mark.parametrize("shape", [(0, 4), (1, 1), (1, 4), (64, 1), (65, 3)])
def test_tables_of_few_rows(tmp_path, shape):
    a = random_rows(*shape)
    b = a * 2
    sides = one_table(tmp_path / "a.safetensors", a), one_table(tmp_path / "b.safetensors", b)
    assert_part(only(diff(*sides)).whole, a, b, range(shape[0]))


def test_float32_stores_differ_in_nothing(tmp_path):
    store = make_store(tmp_path, model(), tiers="f32")
    found = diff(tmp_path / "model.safetensors", store)
    assert (found.total.plain.rmse, found.total.plain.cosine, found.total.plain.changed) == (
        0,
        1,
        0,
    )
    assert only(found).whole.worst_row is None
    assert set(found.parameters.equal) == {"mlp.weight", "mlp.bias"}


def test_a_changed_sign_of_zero_is_a_change_and_no_error(tmp_path):
    a = np.zeros((2, 3), np.float32)
    b = a.copy()
    b[1, 2] = -0.0
    sides = one_table(tmp_path / "a.safetensors", a), one_table(tmp_path / "b.safetensors", b)
    plain = only(diff(*sides)).whole.plain
    assert (plain.rmse, plain.cosine, plain.changed) == (0, 1, 0.5)


# --- the two sides ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_checkpoints_are_compared_as_conversion_reads_them(tmp_path, dtype):
    values = random_rows(100, 4)
    held = bfloat16(values) if dtype == "bfloat16" else values.astype(dtype)
    path = one_table(tmp_path / "model.safetensors", held)
    convert_checkpoint(path, tmp_path / "m.shark", tiers="f32")
    assert diff(path, tmp_path / "m.shark").total.plain.changed == 0


def test_float64_beyond_float32_is_infinite(tmp_path):
    a = one_table(tmp_path / "a.safetensors", np.array([[1e300, 1.0]] * 20))
    b = one_table(tmp_path / "b.safetensors", np.ones((20, 2), np.float32))
    whole = only(diff(a, b)).whole
    assert (whole.nonfinite_a, whole.nonfinite_b, whole.plain.rmse) == (20, 0, 0)


def test_torch_files_are_read(tmp_path):
    import torch

    torch.save({k: torch.from_numpy(v) for k, v in model().items()}, tmp_path / "m.pt")
    store = make_store(tmp_path, model(), tiers=TIERS)
    found = diff(tmp_path / "m.pt", store)
    assert set(found.tables) == set(diff(tmp_path / "model.safetensors", store).tables)
    assert set(found.parameters.equal) == {"mlp.weight", "mlp.bias"}


def test_store_against_store_is_by_the_tiers_of_the_second(tmp_path, pair):
    other = tmp_path / "other.shark"
    convert_checkpoint(pair[0], other, tiers="f16=30%,int8=rest")
    table = only(diff(pair[1], other))
    assert [label for label, _ in table.tiers] == ["f16", "int8"]
    assert_part(table.whole, read_back(pair[1], USER), read_back(other, USER), range(1000))


def test_a_store_against_itself_is_the_same(pair):
    found = diff(pair[1], pair[1])
    assert found.same_structure
    assert found.total.plain.changed == 0


def test_pruned_tables_are_compared_with_their_mean_row(tmp_path, pair):
    store = tmp_path / "pruned.shark"
    convert_checkpoint(pair[0], store, prune=[ITEM])
    found = diff(pair[0], store)
    assert only(found, ITEM).pruned == (False, True)
    assert_part(only(found, ITEM).whole, model()[ITEM], read_back(store, ITEM), range(500))
    assert [one.name for one in found.above(0.01)] == []
    assert found.same_structure


def test_dropped_tables_are_told_and_no_difference_of_structure(tmp_path, pair):
    store = tmp_path / "dropped.shark"
    convert_checkpoint(pair[0], store, prune=[ITEM], drop=True)
    for sides, status in (
        ((pair[0], store), "dropped_b"),
        ((store, pair[0]), "dropped_a"),
        ((store, store), "dropped"),
    ):
        found = diff(*sides)
        assert statuses(found) == {USER: "compared", ITEM: status}
        assert found.same_structure
        assert found.total.rows == 1000


def test_a_table_dropped_in_another_shape_is_a_difference(tmp_path, pair):
    store = tmp_path / "dropped.shark"
    convert_checkpoint(pair[0], store, prune=[ITEM], drop=True)
    other = save(tmp_path / "other.safetensors", model() | {ITEM: random_rows(501, 4)})
    found = diff(other, store)
    assert statuses(found)[ITEM] == "shape"
    assert not found.same_structure


def test_missing_tables_and_other_shapes_are_differences(tmp_path, pair):
    tensors = model()
    tensors["emb.new.weight"] = tensors.pop(USER)
    tensors[ITEM] = random_rows(500, 3)
    other = tmp_path / "other"
    other.mkdir()
    found = diff(pair[0], make_store(other, tensors))
    assert statuses(found) == {ITEM: "shape", "emb.new.weight": "only_b"}
    assert found.parameters.only_a == (USER,)  # nobody says that it is a table
    assert only(found, ITEM).shapes == ((500, 4), (500, 3))
    assert not found.same_structure
    assert found.total.rows == 0
    assert found.total.plain.rmse is None
    found = diff(pair[1], make_store_of(tmp_path / "two", tensors))
    assert statuses(found) == {USER: "only_a", ITEM: "shape", "emb.new.weight": "only_b"}


def make_store_of(folder, tensors):
    folder.mkdir()
    return make_store(folder, tensors)


def test_parameters_are_equal_or_differ_or_are_missing(tmp_path, pair):
    tensors = model()
    tensors["mlp.weight"][1, 2] += 1
    tensors["mlp.bias"] = tensors["mlp.bias"][:5]
    tensors["step"] = np.array(3)
    found = diff(pair[0], save(tmp_path / "b.safetensors", tensors))
    assert found.parameters.differ == ("mlp.weight",)
    assert found.parameters.shape == ("mlp.bias",)
    assert found.parameters.only_b == ("step",)
    assert not found.same_structure


def test_parameters_of_another_value_are_no_difference_of_structure(tmp_path, pair):
    tensors = model()
    tensors["mlp.bias"] = tensors["mlp.bias"].astype(np.float64) + 1
    found = diff(save(tmp_path / "a.safetensors", tensors), pair[1])
    assert found.parameters.differ == ("mlp.bias",)
    assert found.same_structure


def test_parameters_in_other_floating_dtypes_are_compared_in_float32(tmp_path):
    tensors = model() | {"half": bfloat16(random_rows(2, 3)), "step": np.array(7)}
    path = save(tmp_path / "a.safetensors", tensors)
    convert_checkpoint(path, tmp_path / "m.shark")
    found = diff(path, tmp_path / "m.shark").parameters
    assert set(found.equal) == {"mlp.weight", "mlp.bias", "half", "step"}


def test_entries_that_no_store_holds_are_named(tmp_path, pair):
    strange = Raw("F8_E4M3", (2,), b"\0\0")
    path = save(tmp_path / "a.safetensors", model() | {"fp8": strange})
    assert list(diff(path, pair[1]).left) == ["fp8"]


def test_globs_choose_tables_and_leave_parameters_out(pair):
    found = diff(*pair, tables=["*item*"])
    assert list(statuses(found)) == [ITEM]
    assert found.parameters is None
    assert found.total.rows == 500


def test_globs_say_which_tensors_of_two_checkpoints_are_tables(pair):
    assert list(statuses(diff(pair[0], pair[0], tables=["mlp.w*"]))) == ["mlp.weight"]


@pytest.mark.parametrize("second", [0, 1])
def test_a_glob_that_matches_nothing_is_refused(pair, second):
    with pytest.raises((ArgumentError, PlanError), match="matches no"):
        diff(pair[0], pair[second], tables=["*user*", "nothing*"])


def test_stats_of_another_model_are_refused(tmp_path, pair):
    for key, match in ((USER, "wrong length"), ("other", "no table")):
        stats = save_stats(tmp_path / "s.safetensors", {f"tables/{key}/count": np.ones(3)})
        with pytest.raises(StatsError, match=match):
            diff(*pair, stats=stats)


def test_what_is_neither_checkpoint_nor_store_is_refused(tmp_path, pair):
    with pytest.raises(CheckpointNotFoundError, match="no such checkpoint or store"):
        diff(pair[0], tmp_path / "missing")
    (tmp_path / "folder").mkdir()
    with pytest.raises(CheckpointError, match=r"no zarr\.json of a store"):
        diff(tmp_path / "folder", pair[1])


def test_progress_tells_every_byte_once(pair, monkeypatch):
    monkeypatch.setattr(compare, "PIECE_VALUES", 512)
    told = []
    diff(*pair, progress=lambda *step: told.append(step))
    total = (1000 * 8 + 500 * 4) * 4
    assert sum(done for _, done, _ in told) == total
    assert {(stage, whole) for stage, _, whole in told} == {("diff", total)}


# --- a bound ---------------------------------------------------------------------------------


def test_tables_above_a_bound_are_named(pair):
    found = diff(*pair)
    reached = {one.name: one.whole.plain.rmse for one in found.tables}
    limit = min(reached.values())
    assert [one.name for one in found.above(limit)] == [max(reached, key=reached.get)]
    assert found.above(1.0) == ()


def test_values_that_are_finite_in_a_alone_are_above_every_bound(tmp_path):
    a = np.ones((20, 2), np.float32)
    b = a.copy()
    b[3, 1] = np.nan
    sides = one_table(tmp_path / "a.safetensors", a), one_table(tmp_path / "b.safetensors", b)
    assert [one.name for one in diff(*sides).above(1e9)] == [USER]
    assert diff(*reversed(sides)).above(0.0) == ()
    assert diff(sides[1], sides[1]).above(0.0) == ()


def test_columns_are_all_there():
    assert len(rows.compare_rows(*[np.ones((2, 3), np.float32)] * 2)) == rows.COLUMNS


def test_memory_does_not_grow_with_the_table(tmp_path):
    import tracemalloc

    values = {USER: random_rows(500_000, 16)}
    store = make_store(tmp_path, values, tiers="f32=10%,int8=rest")
    tracemalloc.start()
    try:
        diff(tmp_path / "model.safetensors", store)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < values[USER].nbytes / 2
