"""A checkpoint to a store, end to end: what is stored, what is told, what is left behind."""

import contextlib
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from checkpoints import (
    ITEM,
    USER,
    as_stored,
    bfloat16,
    contents,
    model,
    names,
    priorities,
    read_back,
    save,
    save_stats,
)
from strategies import ROW_BY_ROW, assert_same_bits, exact_rows, random_rows

import sharkstore
from sharkstore.convert import convert_checkpoint
from sharkstore.errors import (
    CheckpointError,
    CheckpointNotFoundError,
    DestinationError,
    NonFiniteError,
    PlanError,
    StatsError,
    WriteError,
)
from sharkstore.plan.build import build_plan
from sharkstore.plan.policy import Policy
from sharkstore.plan.pruned import Pruned, PrunedTable
from sharkstore.plan.stats import Stats
from sharkstore.readers.open import open_checkpoint
from sharkstore.report import verify
from sharkstore.write.store import write_store

MIXED = "f32=1%,f16=9%,int8=rest"
USER_TIERS = [("f32", 10), ("f16", 90), ("int8", 900)]
FIELDS = {"user": USER, "friend": USER, "item": ITEM}
PRIORITY = np.random.default_rng(5).integers(0, 40, 1000)
RANKED = priorities(USER, PRIORITY)
LIMITED = """
import resource, sys
from sharkstore.convert import convert_checkpoint
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    convert_checkpoint(sys.argv[1], sys.argv[2], tiers=sys.argv[3])
except BaseException as error:
    print(type(error).__name__, error)
"""


@pytest.fixture
def checkpoint(tmp_path):
    return save(tmp_path / "model.safetensors", model())


@pytest.fixture
def convert(tmp_path, checkpoint):
    """Convert the checkpoint, or other tensors; the store's path and what was done."""

    def run(tensors=None, stats=None, fields=None, store="model.shark", **options):
        source = checkpoint if tensors is None else save(tmp_path / "own.safetensors", tensors)
        if stats is not None:
            options["stats"] = save_stats(tmp_path / "stats.safetensors", stats, fields)
        done = convert_checkpoint(source, tmp_path / store, **options)
        return tmp_path / store, done

    return run


def tensor_of(store, table):
    with sharkstore.open(store) as opened:
        return opened[table].metadata


def mean_row(values, counts):
    weights = np.asarray(counts, np.float64)[:, None]
    return ((values * weights).sum(axis=0) / weights.sum()).astype(np.float32)


def tiered(values, tiers, priority=None):
    """Rows as they come back: `tiers` are pairs of encoding and count, from the top priority."""
    order = np.arange(len(values))
    if priority is not None:
        order = np.argsort(-np.asarray(priority), kind="stable")
    rows, start = np.empty_like(values), 0
    for encoding, count in tiers:
        chosen = order[start : start + count]
        rows[chosen] = as_stored(values[chosen], encoding)
        start += count
    assert start == len(values)
    return rows


# --- what is stored --------------------------------------------------------------------------


def test_by_default_every_table_is_int8(convert):
    store, done = convert()
    assert done.written
    for name in (USER, ITEM):
        assert_same_bits(read_back(store, name), as_stored(model()[name], "int8"))
        assert [str(tier.encoding) for tier in tensor_of(store, name).tiers] == ["int8"]


@pytest.mark.parametrize("encoding", [str(one) for one in ROW_BY_ROW if one.name != "constant"])
def test_rows_come_back_as_their_encoding_holds_them(convert, encoding):
    store, _ = convert(tiers=encoding)
    assert_same_bits(read_back(store, USER), as_stored(model()[USER], encoding))


def test_a_sound_store_comes_out(convert):
    store, _ = convert(tiers=MIXED, default_row="mean", prune=[ITEM])
    assert verify(str(store))[1] == []


def test_tiers_without_priorities_go_by_id(convert):
    store, done = convert(tiers=MIXED)
    assert_same_bits(read_back(store, USER), tiered(model()[USER], USER_TIERS))
    (note,) = done.notes
    assert note == "all tables: no priorities, so all rows are equal and tiers go by row id"


def test_priorities_decide_the_tiers(convert):
    store, done = convert(stats=RANKED, tiers=MIXED)
    assert_same_bits(read_back(store, USER), tiered(model()[USER], USER_TIERS, PRIORITY))
    (note,) = done.notes
    assert note == f"{ITEM}: no priorities, so all rows are equal and tiers go by row id"


def test_thresholds_decide_the_tiers(convert):
    counts = np.random.default_rng(5).integers(0, 40, 1000)
    stats = {f"tables/{USER}/count": counts, f"tables/{ITEM}/count": np.zeros(500, np.int64)}
    store, _ = convert(stats=stats, tiers="f32@39,f16@20,int8")
    values, rows = model()[USER], read_back(store, USER)
    assert_same_bits(rows[counts >= 39], values[counts >= 39])
    low = counts < 20
    assert_same_bits(rows[low], as_stored(values[low], "int8"))
    assert [tier.rows for tier in tensor_of(store, ITEM).tiers] == [500]


def test_eight_tiers_are_stored(convert):
    order = ["f32", "f16", "int8", "int8.affine", "int8.f32", "int8.affine.f32", "f16"]
    store, _ = convert(stats=RANKED, tiers=",".join(f"{one}=10%" for one in order) + ",int8=rest")
    tiers = [*((one, 100) for one in order), ("int8", 300)]
    assert_same_bits(read_back(store, USER), tiered(model()[USER], tiers, PRIORITY))


def test_a_constant_tier_is_the_mean_of_its_rows(convert):
    counts = np.arange(1000)
    stats = {f"tables/{USER}/count": counts}
    store, _ = convert(stats=stats, tiers="f32=10%,constant=rest")
    values, rows = model()[USER], read_back(store, USER)
    assert_same_bits(rows[900:], values[900:])
    assert_same_bits(rows[:900], np.tile(mean_row(values[:900], counts[:900]), (900, 1)))


def test_a_table_of_many_chunks_serves_the_same_rows(tmp_path):
    values = random_rows(100_000, 6)
    source = open_checkpoint(save(tmp_path / "m.safetensors", {"emb": values}))
    priority = np.random.default_rng(1).random(100_000).astype(np.float32)
    stats = Stats({"tables/emb/priority": priority})
    plan = build_plan(source.tensors, {}, stats, Policy("f32=30%,int8=rest"))
    written = write_store(
        source,
        source.tensors,
        plan,
        stats,
        str(tmp_path / "m.shark"),
        provenance={"source": {"name": "m"}},
        overwrite=False,
        progress=lambda *_: None,
        chunk_target=64 << 10,
    )
    assert [array.chunks > 1 for array in written.metadata.arrays] == [True, True, False]
    expected = tiered(values, [("f32", 30_000), ("int8", 70_000)], priority)
    assert_same_bits(read_back(tmp_path / "m.shark", "emb"), expected)
    assert verify(str(tmp_path / "m.shark"))[1] == []


@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (1, 5), (100, 1), (64, 3), (65, 3), (3, 4096)])
@pytest.mark.parametrize("tiers", ["int8", "f32=40%,f16=30%,int8.affine=rest"])
def test_tables_of_every_shape_are_stored(convert, shape, tiers):
    values = exact_rows(*shape) if shape[0] else np.empty(shape, np.float32)
    store, _ = convert({"emb": values}, tiers=tiers)
    rows = read_back(store, "emb")
    assert rows.shape == shape
    np.testing.assert_allclose(rows, values, atol=1)
    assert verify(str(store))[1] == []


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_other_float_dtypes_are_stored_by_their_values(convert, dtype):
    values = random_rows(100, 4)
    tensor = bfloat16(values) if dtype == "bfloat16" else values.astype(dtype)
    expected = {
        "float64": values,
        "float16": values.astype(np.float16).astype(np.float32),
        "bfloat16": (values.view(np.uint32) & 0xFFFF0000).view(np.float32),
    }[dtype]
    store, _ = convert({"emb": tensor}, tiers="f32")
    assert_same_bits(read_back(store, "emb"), expected)
    assert tensor_of(store, "emb").source_dtype == dtype


NAMES = [
    "a/b",
    "..",
    ".",
    "ünï",
    "A",
    "a",
    "x" * 300,
    "x" * 299 + "y",
    "ü" * 100,
    "__x",
    "c",
    "0",
    "rowmap",
    "a b\n\0%~",
    "CON",
    "tables",
]


NAMED = {"table": exact_rows(64, 2), "parameter": np.ones(3, np.float32)}


def test_names_that_zarr_or_a_file_system_chokes_on_are_stored(convert):
    tensors = {name: exact_rows(64, 2, seed=i) for i, name in enumerate(NAMES)}
    store, _ = convert(tensors, tiers="f32=50%,f16=rest", tables=["*"])
    for name, values in tensors.items():
        assert_same_bits(read_back(store, name), values)
    assert verify(str(store))[1] == []


def test_parameters_of_such_names_are_stored_too(convert):
    tensors = {name: exact_rows(1, 2, seed=i)[0] for i, name in enumerate(NAMES)}
    store, _ = convert({**tensors, "emb": exact_rows(4, 2)})
    with sharkstore.open(store) as opened:
        assert opened.dense.keys() == tensors.keys()
        for name, values in tensors.items():
            assert_same_bits(np.array(opened.dense[name]), values)


@pytest.mark.parametrize("kind", ["table", "parameter"])
def test_a_name_like_that_of_the_documents_is_stored(convert, kind):
    tensors = {"emb": exact_rows(4, 2), "zarr.json": NAMED[kind]}
    store, _ = convert(tensors)
    assert verify(str(store))[1] == []
    with sharkstore.open(store) as opened:
        assert "zarr.json" in (opened if kind == "table" else opened.dense)


@pytest.mark.parametrize("kind", ["table", "parameter"])
def test_an_empty_name_is_stored_or_refused_as_what_it_is(convert, tmp_path, kind):
    try:
        store, _ = convert({"emb": exact_rows(4, 2), "": NAMED[kind]})
    except (CheckpointError, PlanError):
        assert names(tmp_path) == ["model.safetensors", "own.safetensors"]
    else:
        assert verify(str(store))[1] == []


@pytest.mark.parametrize(
    "value",
    [
        *[
            np.arange(6).reshape(2, 3).astype(dtype)
            for dtype in ("float64", "float32", "float16", "int64", "int32", "int16", "int8")
        ],
        *[np.arange(6).astype(dtype) for dtype in ("uint64", "uint32", "uint16", "uint8", "bool")],
        np.float32(2.5),
        np.int64(7),
        np.bool_(True),
        np.empty(0, np.float32),
        np.empty((0, 4), np.float64),
        np.empty((4, 0), np.int32),
        np.ones((2, 3, 4, 5), np.float32),
        np.array([np.nan, np.inf, -0.0], np.float32),
    ],
    ids=lambda value: f"{value.dtype}-{value.shape}",
)
def test_a_parameter_is_stored_as_it_is(convert, value):
    store, _ = convert({"emb": exact_rows(4, 2), "w": value})
    with sharkstore.open(store) as opened:
        stored = opened.dense["w"]
        assert stored.dtype == value.dtype
        assert stored.shape == value.shape
        assert stored.tobytes() == value.tobytes()
    assert verify(str(store))[1] == []


def test_a_bfloat16_parameter_is_stored_as_float32(convert):
    values = random_rows(2, 3)
    store, _ = convert({"emb": exact_rows(4, 2), "w": bfloat16(values)})
    with sharkstore.open(store) as opened:
        expected = (values.view(np.uint32) & 0xFFFF0000).view(np.float32)
        assert_same_bits(np.array(opened.dense["w"]), expected)


def test_entries_that_cant_be_stored_are_told(tmp_path):
    torch.save({"emb": torch.ones(9, 1), "epoch": 3}, tmp_path / "m.pt")
    done = convert_checkpoint(tmp_path / "m.pt", tmp_path / "m.shark")
    assert done.plan.left == {"epoch": "a int, no tensor"}


# --- pruned, dropped, default rows -----------------------------------------------------------


def test_every_id_of_a_pruned_table_gives_the_mean_row_by_use(convert):
    counts = np.random.default_rng(3).integers(0, 50, 1000)
    store, done = convert(stats={f"tables/{USER}/count": counts}, prune=[USER])
    expected = mean_row(model()[USER], counts)
    assert_same_bits(read_back(store, USER), np.tile(expected, (1000, 1)))
    assert tensor_of(store, USER).pruned
    assert done.notes == ()


def test_a_mean_out_of_the_stats_stands_in_for_counts(convert):
    measured = np.arange(8, dtype=np.float32)
    store, done = convert(stats={f"tables/{USER}/mean": measured}, prune=[USER], default_row="mean")
    assert_same_bits(read_back(store, USER), np.tile(measured, (1000, 1)))
    assert done.notes == (f"no counts, so a plain mean row: {ITEM}",)


def test_without_counts_a_pruned_table_is_its_plain_mean(convert):
    store, done = convert(prune=[USER])
    expected = mean_row(model()[USER], np.ones(1000))
    assert_same_bits(read_back(store, USER), np.tile(expected, (1000, 1)))
    assert done.notes == (f"no counts, so a plain mean row: {USER}",)


def test_a_pruned_table_costs_one_row(convert):
    _, done = convert(prune=[USER, ITEM])
    assert done.metadata.nbytes == (8 + 4) * 4


def test_a_dropped_table_is_gone_but_known(convert):
    store, done = convert(prune=[USER], drop=True)
    with sharkstore.open(store) as opened:
        assert list(opened) == [ITEM]
        with pytest.raises(sharkstore.UnknownTableError, match="was dropped at conversion"):
            opened[USER]
    assert done.metadata.source_nbytes == (1000 * 8 + 500 * 4) * 4


def test_a_store_may_have_dropped_every_table(convert):
    store, _ = convert(prune=[USER, ITEM], drop=True)
    with sharkstore.open(store) as opened:
        assert list(opened) == []


def test_the_best_fields_are_kept(convert):
    scores = {"user": 0.1, "friend": 0.3, "item": 0.2}
    stats = {f"fields/{name}/score": np.array([score]) for name, score in scores.items()}
    store, _ = convert(stats=stats, fields=FIELDS, keep=1)
    assert not tensor_of(store, USER).pruned
    assert tensor_of(store, ITEM).pruned


def test_weak_fields_that_share_a_kept_table_are_told(convert):
    scores = {"user": 0.1, "friend": 0.3, "item": 0.2}
    stats = {f"fields/{name}/score": np.array([score]) for name, score in scores.items()}
    _, done = convert(stats=stats, fields=FIELDS, keep=1)
    assert "weak fields that share a table with one that is kept stay: user" in done.notes


SCORES = {
    **{f"fields/{n}/score": np.array([s]) for n, s in zip(FIELDS, (0.25, 0.5, 1.0), strict=True)},
    **{f"fields/{name}/score_signed": np.array([-0.125]) for name in FIELDS},
}


@pytest.mark.parametrize(
    ("options", "gone"),
    [
        ({"keep": 2}, []),
        ({"keep": 1}, [USER]),
        ({"keep_share": "50%"}, []),
        ({"keep_share": "40%"}, [USER]),
        ({"prune_below": 0.75}, [USER]),
        # user saves 32 000 bytes for 0.75, item 8 000 for 1
        ({"prune_bytes": "30%"}, [USER]),
        ({"prune_bytes": "8KB"}, [USER]),
        ({"prune": ["item"]}, [ITEM]),
        ({}, []),
    ],
)
@pytest.mark.parametrize("dry_run", [False, True])
def test_each_way_of_pruning_tells_what_goes(convert, options, gone, dry_run):
    _, done = convert(stats=SCORES, fields=FIELDS, dry_run=dry_run, **options)
    assert [t.name for t in done.plan.tables if t.action == "prune"] == gone
    assert [table.table for table in done.pruned.tables] == gone
    stay = f"nothing is pruned: --{next(iter(options), '').replace('_', '-')} leaves all tables"
    assert (stay in done.notes) == (bool(options) and not gone)


def test_what_goes_is_told_with_its_cost_and_what_it_saves(convert):
    _, done = convert(stats=SCORES, fields=FIELDS, keep=1)
    assert done.pruned == Pruned(
        (PrunedTable(USER, ("user", "friend"), 0.75, -0.25, 1000 * 8 * 4 - 8 * 4),), "nats"
    )


def test_a_default_row_is_not_saved_and_a_dropped_table_is_saved_whole(convert):
    _, mean = convert(stats=SCORES, fields=FIELDS, keep=1, default_row="mean", store="a.shark")
    assert mean.pruned.saved_nbytes == 1000 * 8 * 4 - 2 * 8 * 4
    _, dropped = convert(stats=SCORES, fields=FIELDS, keep=1, drop=True, store="b.shark")
    assert dropped.pruned.saved_nbytes == 1000 * 8 * 4
    assert dropped.metadata.nbytes + dropped.pruned.saved_nbytes < dropped.metadata.source_nbytes


def test_pruning_by_name_without_stats_has_no_scores_to_tell(convert):
    _, done = convert(prune=[ITEM])
    assert done.pruned == Pruned((PrunedTable(ITEM, (ITEM,), None, None, 500 * 4 * 4 - 4 * 4),))


@pytest.mark.parametrize(
    ("loss", "unit"),
    [
        ("binary", "nats"),
        ("binary+cross_entropy", "nats"),
        ("binary cross-entropy", "nats"),
        ("squared", ""),
        ("binary+squared", ""),
        ("per_sample", ""),
    ],
)
def test_scores_are_nats_only_of_a_log_loss(tmp_path, checkpoint, loss, unit):
    stats = tmp_path / "stats.safetensors"
    save(stats, SCORES, {"fields": json.dumps(FIELDS), "loss": loss})
    done = convert_checkpoint(checkpoint, tmp_path / "m.shark", stats=stats, keep=1)
    assert done.pruned.unit == unit


def test_a_replayed_plan_tells_what_its_scores_say(convert, tmp_path):
    _, done = convert(stats=SCORES, fields=FIELDS, keep=1, dry_run=True)
    _, replayed = convert(plan=save_plan(tmp_path, done.plan))
    assert replayed.pruned.tables == done.pruned.tables
    assert replayed.pruned.unit == ""


def test_fields_and_scores_are_kept_in_the_store(convert):
    store, _ = convert(stats={"fields/user/score": np.array([0.25])}, fields=FIELDS)
    with sharkstore.open(store) as opened:
        fields = opened.metadata.fields
    assert {name: one.table for name, one in fields.items()} == FIELDS
    assert fields["user"].score == 0.25
    assert fields["item"].score is None


@pytest.mark.parametrize("default", ["zero", "mean"])
def test_ids_out_of_bounds_get_the_default_row(convert, default):
    counts = np.arange(1000)
    store, _ = convert(stats={f"tables/{USER}/count": counts}, default_row=default, tiers=MIXED)
    expected = np.zeros(8, np.float32) if default == "zero" else mean_row(model()[USER], counts)
    with sharkstore.open(store, bounds="default") as opened:
        assert_same_bits(opened[USER].lookup([-1, 1000]), np.tile(expected, (2, 1)))


def test_values_that_are_not_finite_are_stored_as_zero_when_asked(convert):
    values = exact_rows(100, 4)
    values[7, 1], values[9] = np.nan, np.inf
    store, done = convert({"emb": values}, nonfinite="zero", tiers="f32")
    assert_same_bits(read_back(store, "emb"), np.where(np.isfinite(values), values, 0))
    assert "emb: 5 NaN or infinite values became 0" in done.notes


def test_rows_too_small_for_their_encoding_are_told(convert):
    values = np.full((10, 2), 1e-9, np.float32)
    _, done = convert({"emb": values}, tiers="f16")
    assert done.notes == (
        "emb: 10 rows, at least, are too small for their encoding and lose precision",
    )


# --- the same bytes --------------------------------------------------------------------------


def test_two_conversions_give_the_same_bytes(convert):
    options = {"stats": RANKED, "fields": FIELDS, "tiers": MIXED, "default_row": "mean"}
    first, _ = convert(store="first.shark", **options)
    second, _ = convert(store="second.shark", **options)
    assert contents(first) == contents(second)


def test_a_torch_file_gives_the_same_rows_and_source_digest(tmp_path, checkpoint):
    state = {name: torch.from_numpy(values) for name, values in model().items()}
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "model.pt")
    stores = [tmp_path / "one.shark", tmp_path / "two.shark"]
    digests = [
        convert_checkpoint(source, store, tiers=MIXED).metadata.provenance["source"]["digest"]
        for source, store in zip((checkpoint, tmp_path / "model.pt"), stores, strict=True)
    ]
    assert digests[0] == digests[1]
    one, two = (contents(store) for store in stores)
    assert {k: v for k, v in one.items() if k != "zarr.json"} == {
        k: v for k, v in two.items() if k != "zarr.json"
    }


def test_a_sharded_checkpoint_gives_the_same_rows_and_source_digest(tmp_path, checkpoint):
    shards = {name: f"{index % 2}.safetensors" for index, name in enumerate(model())}
    for shard in set(shards.values()):
        save(tmp_path / shard, {n: v for n, v in model().items() if shards[n] == shard})
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": shards}))
    whole = convert_checkpoint(checkpoint, tmp_path / "whole.shark").metadata
    sharded = convert_checkpoint(index, tmp_path / "sharded.shark").metadata
    assert sharded.provenance["source"]["digest"] == whole.provenance["source"]["digest"]
    assert_same_bits(
        read_back(tmp_path / "sharded.shark", USER), read_back(tmp_path / "whole.shark", USER)
    )


def test_the_store_names_no_place_on_this_machine(convert, tmp_path):
    store, _ = convert(stats=RANKED)
    assert str(tmp_path).encode() not in (store / "zarr.json").read_bytes()


def test_provenance_has_source_plan_and_tool(convert):
    _, done = convert()
    provenance = done.metadata.provenance
    assert provenance["tool"] == f"sharkstore {sharkstore.__version__}"
    assert provenance["source"]["name"] == "model.safetensors"
    assert provenance["plan"] == done.plan.document()


# --- plans -----------------------------------------------------------------------------------


def save_plan(folder, plan, change=None):
    document = plan.document()
    if change is not None:
        change(document)
    (folder / "plan.json").write_text(json.dumps(document))
    return folder / "plan.json"


@pytest.mark.parametrize(
    "options",
    [
        {"tiers": MIXED},
        {"tiers": MIXED, "default_row": "mean", "prune": [ITEM]},
        {"tiers": "int8.affine", "prune": [ITEM], "drop": True},
        {"tables": ["mlp.weight", "emb.*"], "nonfinite": "zero"},
    ],
)
def test_a_dry_run_tells_the_sizes_and_writes_nothing(convert, tmp_path, options):
    before = contents(tmp_path)
    _, dry = convert(dry_run=True, **options)
    assert contents(tmp_path) == before
    assert not dry.written
    store, done = convert(**options)
    assert (dry.metadata.nbytes, dry.data_bytes) == (done.metadata.nbytes, done.data_bytes)
    chunks = [raw for name, raw in contents(store).items() if not name.endswith("zarr.json")]
    assert dry.data_bytes == sum(map(len, chunks))
    assert dry.plan == done.plan


@pytest.mark.parametrize(
    "options",
    [
        {"tiers": MIXED},
        {"tiers": MIXED, "default_row": "mean", "prune": ["item"], "drop": True},
        {"tiers": "int8.affine=50%,constant=rest", "nonfinite": "zero"},
    ],
)
def test_a_replayed_plan_gives_the_same_bytes(convert, tmp_path, options):
    direct, done = convert(store="direct.shark", stats=RANKED, fields=FIELDS, **options)
    plan = save_plan(tmp_path, done.plan)
    replayed, _ = convert(store="replayed.shark", stats=RANKED, fields=FIELDS, plan=plan)
    assert contents(direct) == contents(replayed)


def test_an_edited_plan_is_carried_out(convert, tmp_path):
    def edit(document):
        user, item = document["tables"]
        user["tiers"] = [{"encoding": "f16", "rows": 3}, {"encoding": "f32", "rows": "rest"}]
        item["action"] = "prune"
        document["dense"].remove("mlp.bias")

    plan = save_plan(tmp_path, convert(dry_run=True)[1].plan, edit)
    store, _ = convert(plan=plan)
    values, rows = model()[USER], read_back(store, USER)
    assert_same_bits(rows[:3], as_stored(values[:3], "f16"))
    assert_same_bits(rows[3:], values[3:])
    with sharkstore.open(store) as opened:
        assert opened[ITEM].pruned
        assert list(opened.dense) == ["mlp.weight"]


def test_a_plan_of_another_checkpoint_is_refused(convert, tmp_path):
    plan = save_plan(tmp_path, convert(dry_run=True)[1].plan)
    with pytest.raises(PlanError, match=f"{USER}: the plan is for another checkpoint"):
        convert({USER: exact_rows(9, 2)}, plan=plan)


def test_a_plan_that_needs_priorities_asks_for_the_stats(convert, tmp_path):
    done = convert(stats=RANKED, tiers=MIXED, dry_run=True)[1]
    with pytest.raises(PlanError, match=f"{USER}: the plan orders rows by priority: pass its"):
        convert(plan=save_plan(tmp_path, done.plan))


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff\xfe\x00", b"\x80"])
def test_a_plan_file_that_is_no_json_is_refused(convert, tmp_path, raw):
    (tmp_path / "plan.json").write_bytes(raw)
    with pytest.raises(PlanError, match=r"plan\.json"):
        convert(plan=tmp_path / "plan.json")


# --- progress --------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["rank", "read", "write"])
def test_progress_tells_every_byte_of_a_stage(convert, stage):
    told = []
    convert(stats=RANKED, tiers=MIXED, progress=lambda *event: told.append(event))
    counts = [count for name, count, _ in told if name == stage]
    totals = {total for name, _, total in told if name == stage}
    assert totals == {sum(counts)}


def test_progress_goes_through_the_stages_in_order(convert):
    told = []
    convert(stats=RANKED, tiers=MIXED, progress=lambda stage, *_: told.append(stage))
    assert list(dict.fromkeys(told)) == ["rank", "read", "write"]
    assert told == sorted(told, key=["rank", "read", "write"].index)


def test_every_byte_of_the_checkpoint_is_read_once(convert):
    told = []
    convert(tiers=MIXED, progress=lambda *event: told.append(event))
    read = sum(count for stage, count, _ in told if stage == "read")
    assert read == sum(values.nbytes for values in model().values())


# --- nothing is left behind ------------------------------------------------------------------


@contextlib.contextmanager
def refused(folder, kind, match=None):
    """Expect an error, and nothing beside the inputs in the folder after it."""
    with pytest.raises(kind, match=match):
        yield
    assert [name for name in names(folder) if not name.endswith(".safetensors")] == []


@pytest.mark.parametrize("stage", ["rank", "read", "write"])
def test_a_conversion_that_fails_leaves_nothing(convert, tmp_path, stage):
    def stop(at, *_):
        if at == stage:
            raise RuntimeError

    with refused(tmp_path, RuntimeError):
        convert(stats=RANKED, tiers=MIXED, progress=stop)


def test_a_table_with_nan_leaves_nothing(convert, tmp_path):
    values = exact_rows(100, 4)
    values[7] = np.nan
    with refused(tmp_path, NonFiniteError, "table 'emb': NaN or infinity in rows 7;"):
        convert({"emb": values})


@pytest.mark.parametrize("encoding", ["f16", "int8.affine", "int4.affine", "int2.affine"])
def test_a_value_that_doesnt_fit_leaves_nothing(convert, tmp_path, encoding):
    with refused(tmp_path, NonFiniteError, "does not fit"):
        convert({"emb": np.full((9, 1), 1e6, np.float32)}, tiers=encoding)


@pytest.mark.parametrize("tiers", ["f32", "f32=1%,f16=rest"], ids=["chunk", "row-map"])
def test_a_full_disk_is_told_and_the_work_goes_on_when_there_is_room(tmp_path, tiers):
    source = save(tmp_path / "big.safetensors", {"emb": np.zeros((800_000, 1), np.float32)})
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, source, tmp_path / "m.shark", tiers],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("WriteError ")
    assert "can't write: File too large" in done.stdout
    assert names(tmp_path) == [".m.shark.partial", "big.safetensors"]
    said = []
    convert_checkpoint(source, tmp_path / "m.shark", tiers=tiers, tell=said.append)
    assert len(said) == (tiers == "f32")  # ranks come first: nothing was read yet
    assert names(tmp_path) == ["big.safetensors", "m.shark"]


@pytest.mark.parametrize(
    ("stats", "message"),
    [
        ({"tables/other/count": np.ones(5)}, "no table 'other'"),
        ({f"tables/{USER}/count": np.ones(999)}, "wrong length"),
        ({f"tables/{USER}/count": np.full(1000, -1)}, "row 0 is -1"),
        ({f"tables/{USER}/mean": np.full(8, np.nan)}, "mean"),
        ({f"tables/{USER}/count": bfloat16(np.ones(1000, np.float32))}, "count"),
        ({"fields/user/score": np.array([np.nan])}, "score"),
        ({"fields/user/score": np.array([])}, "score"),
        ({"mine": np.ones(5)}, "not a stats file"),
    ],
    ids=[
        *("other-table", "length", "negative", "nan-mean", "bfloat16"),
        *("nan-score", "no-score", "no-stats"),
    ],
)
def test_stats_that_dont_fit_leave_nothing(convert, tmp_path, stats, message):
    with refused(tmp_path, StatsError, message):
        convert(stats=stats, fields=FIELDS, prune=["user", "friend"])


def test_counts_in_float16_are_summed_or_refused(convert):
    counts = np.full(1000, 60_000, np.float16)
    try:
        store, _ = convert(stats={f"tables/{USER}/count": counts}, prune=[USER])
    except StatsError:
        return
    expected = mean_row(model()[USER], np.ones(1000))
    assert_same_bits(read_back(store, USER), np.tile(expected, (1000, 1)))


def test_a_stats_file_cut_short_leaves_nothing(checkpoint, tmp_path):
    cut = tmp_path / "stats.safetensors"
    cut.write_bytes(checkpoint.read_bytes()[:-1])
    with refused(tmp_path, StatsError, r"stats\.safetensors: not a whole"):
        convert_checkpoint(checkpoint, tmp_path / "m.shark", stats=cut)


def test_a_missing_stats_file_is_called_one(checkpoint, tmp_path):
    gone = tmp_path / "gone.safetensors"
    with refused(tmp_path, StatsError, r"gone\.safetensors: no such stats file"):
        convert_checkpoint(checkpoint, tmp_path / "m.shark", stats=gone)


@pytest.mark.parametrize("change", ["saved over", "gone"])
def test_a_checkpoint_that_changes_meanwhile_leaves_nothing(convert, tmp_path, change):
    def meddle(stage, *_):
        path = tmp_path / "own.safetensors"
        if stage == "write" and path.exists() and path.stat().st_size > 1000:
            path.unlink()
            if change == "saved over":
                save(path, {"emb": np.ones((9, 4), np.float32)})

    with refused(tmp_path, CheckpointError, "was changed while it was read"):
        convert({"emb": np.zeros((80, 4), np.float32)}, progress=meddle)


def test_a_missing_checkpoint_leaves_nothing(tmp_path):
    with refused(tmp_path, CheckpointNotFoundError, r"gone\.pt: no such checkpoint"):
        convert_checkpoint(tmp_path / "gone.pt", tmp_path / "m.shark")


def test_a_missing_folder_around_the_store_is_told(convert, tmp_path):
    with refused(tmp_path, WriteError, "gone: no such folder"):
        convert(store="gone/m.shark")


def test_an_existing_store_stays_when_its_replacement_fails(convert):
    store, _ = convert()
    before = contents(store)
    values = np.full((9, 1), np.nan, np.float32)
    with pytest.raises(NonFiniteError):
        convert({"emb": values}, overwrite=True)
    assert contents(store) == before


def test_an_existing_store_is_refused(convert):
    store, _ = convert()
    before = contents(store)
    with pytest.raises(DestinationError, match="exists"):
        convert(tiers="f32")
    assert contents(store) == before


def test_an_existing_store_is_replaced_when_asked(convert, tmp_path):
    convert()
    store, _ = convert(tiers="f32", overwrite=True)
    assert_same_bits(read_back(store, USER), model()[USER])
    assert names(tmp_path) == ["model.safetensors", "model.shark"]


@pytest.mark.parametrize(
    ("encoding", "error"), [("int8", 1e-3), ("int8.f32", 1e-3), ("int4", 0.1), ("int2.f32", 0.4)]
)
def test_the_largest_floats_stay_finite(convert, encoding, error):
    largest = np.float32(0.999 * 2.0**127)
    values = np.linspace(0.9 * largest, largest, 200, dtype=np.float32)[:, None]
    store, _ = convert({"emb": values}, tiers=encoding)
    rows = read_back(store, "emb")
    assert np.isfinite(rows).all()
    np.testing.assert_allclose(rows, values, rtol=error)
