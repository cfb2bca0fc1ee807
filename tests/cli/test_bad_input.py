"""Whatever is wrong: one clear message on stderr, exit 1 or 2, and nothing left behind."""

import json
import os
import resource
import shutil

import numpy as np
import pytest
import torch
import zarr
from checkpoints import USER, model, names, save, save_stats
from strategies import edit_document, exact_rows

from sharkstore.format.version import FORMAT

USAGE, FAILED = 2, 1
NAME = "emb.user.weight"
CHUNK = f"tables/{NAME}/0/c/0/0"


def check(done, code, *words):
    """One paragraph on stderr with these words in it, nothing on stdout."""
    assert done.code == code, done.err
    assert done.out == ""
    assert "Traceback" not in done.err
    for word in words:
        assert word in done.message
    start = "Error: " if code == USAGE else "error: "
    assert done.message.startswith(start)
    assert len(done.message) < 1000


@pytest.fixture
def refused(shark, tmp_path):
    """Run a conversion that must fail, and look that nothing was left."""

    def run(code, words, checkpoint, *options, store="model.shark"):
        before = names(tmp_path)
        check(shark("convert", checkpoint, tmp_path / store, *options), code, *words)
        assert names(tmp_path) == before

    return run


# --- the checkpoint --------------------------------------------------------------------------


def test_a_missing_checkpoint(spawn, tmp_path):
    done = spawn("convert", tmp_path / "gone.pt", tmp_path / "m.shark")
    check(done, FAILED, "gone.pt: no such checkpoint")
    assert names(tmp_path) == []


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_truncated_safetensors_file(refused, checkpoint, share):
    raw = checkpoint.read_bytes()
    checkpoint.write_bytes(raw[: int(len(raw) * share)])
    refused(FAILED, ["model.safetensors: not a whole safetensors file"], checkpoint)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_truncated_torch_file(refused, tmp_path, share):
    path = tmp_path / "model.pt"
    torch.save({"emb": torch.ones(1000, 8)}, path)
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * share)])
    refused(FAILED, ["model.pt: not a whole torch file"], path)


def test_a_pickle_that_is_no_weights(refused, tmp_path):
    torch.save(torch.nn.Embedding(5, 3), tmp_path / "model.pt")
    words = ["model.pt: a pickle that is not only weights; it was not run", "state_dict()"]
    refused(FAILED, words, tmp_path / "model.pt")


def test_a_file_of_an_unknown_kind(refused, tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"x")
    refused(FAILED, ["model.onnx", ".safetensors", ".pt"], tmp_path / "model.onnx")


def test_a_folder_without_checkpoints(refused, tmp_path):
    (tmp_path / "empty").mkdir()
    refused(FAILED, ["empty: no safetensors file"], tmp_path / "empty")


def test_no_tables_found(refused, tmp_path):
    source = save(tmp_path / "m.safetensors", {"w": np.ones((3, 3), np.float32)})
    refused(FAILED, ["no embedding tables found", "--tables", "w float32 [3, 3]"], source)


def test_a_glob_that_matches_no_table(refused, checkpoint):
    refused(FAILED, ["--tables 'user*'", USER], checkpoint, "--tables", "user*")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(refused, tmp_path, bad):
    values = exact_rows(100, 4)
    values[[3, 5, 9, 20, 21, 22, 99], 1] = bad
    source = save(tmp_path / "m.safetensors", {"emb.bad": values, "emb.good": exact_rows(9, 2)})
    words = ["table 'emb.bad'", "rows 3, 5, 9, 20, 21 and 2 more", "--nonfinite zero"]
    refused(FAILED, words, source)


def test_a_value_that_an_encoding_cant_hold(refused, tmp_path):
    source = save(tmp_path / "m.safetensors", {"emb": np.full((9, 1), 1e6, np.float32)})
    refused(FAILED, ["table 'emb'", "does not fit f16", "f32 or int8"], source, "--tiers", "f16")


# --- options ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tiers", "words"),
    [
        ("int7", ["unknown encoding 'int7'", "int8.affine"]),
        ("f32=60%,f16=50%,int8", ["shares above 100 %", "110 %"]),
        ("f32=60%,int8=20%", ["short of 100 %", "80 %"]),
        ("f32@1,f16@2,int8", ["thresholds must be finite and fall"]),
        ("", ["can't read"]),
    ],
)
def test_tiers_that_make_no_sense(refused, checkpoint, tiers, words):
    refused(USAGE, ["--tiers", *words], checkpoint, "--tiers", tiers)


def test_thresholds_without_stats(refused, checkpoint):
    refused(FAILED, [USER, "--stats"], checkpoint, "--tiers", "f32@5,int8")


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--keep", "0"], "--keep"),
        (["--keep", "many"], "--keep"),
        (["--default-row", "one"], "--default-row"),
        (["--nonfinite", "skip"], "--nonfinite"),
        (["--format", "xml"], "--format"),
        (["--teirs", "int8"], "--teirs"),
        (["more"], "more"),
        (["--plan", "plan.json", "--tiers", "f32"], "--tiers"),
        (["--plan", "plan.json", "--drop"], "--drop"),
    ],
)
def test_options_that_make_no_sense(refused, checkpoint, options, word):
    refused(USAGE, [word], checkpoint, *options)


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["convert"], ["convert", "m.pt"]])
def test_arguments_that_are_missing(shark, arguments):
    done = shark(*arguments)
    assert done.code == USAGE
    assert done.out == ""
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--keep", 1], ["--keep needs field scores", "--stats"]),
        (["--prune", "nobody"], ["no field 'nobody'", USER]),
        (["--keep", 1, "--prune", USER], ["--keep and --prune don't mix"]),
    ],
)
def test_pruning_that_cant_be_done(refused, checkpoint, options, words):
    refused(FAILED, words, checkpoint, *options)


def test_one_field_of_a_shared_table(refused, checkpoint, stats):
    words = [USER, "field 'friend' shares this table with user", "name them all"]
    refused(FAILED, words, checkpoint, "--stats", stats, "--prune", "friend")


# --- stats and plans -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"tables/other/count": np.ones(5)}, ["no table 'other'", "another model"]),
        ({f"tables/{USER}/count": np.ones(5)}, [f"{USER}/count: wrong length", "5", "1000"]),
        ({f"tables/{USER}/priority": np.full(1000, np.nan)}, ["row 0 is nan", "finite"]),
        ({f"tables/{USER}/mean": np.full(8, np.nan)}, ["mean"]),
        ({"fields/user/score": np.array([np.nan])}, ["score"]),
        ({"mine": np.ones(5)}, ["not a stats file"]),
    ],
    ids=["other-tables", "wrong-length", "nan", "nan-mean", "nan-score", "no-stats"],
)
def test_stats_that_dont_fit(refused, checkpoint, tmp_path, arrays, words):
    path = save_stats(tmp_path / "s.safetensors", arrays, {"user": USER})
    refused(FAILED, ["s.safetensors", *words], checkpoint, "--stats", path, "--prune", "user")


def test_stats_that_are_not_there(refused, checkpoint, tmp_path):
    words = ["gone.safetensors: no such stats file"]
    refused(FAILED, words, checkpoint, "--stats", tmp_path / "gone.safetensors")


def test_stats_cut_short(refused, checkpoint, stats):
    stats.write_bytes(stats.read_bytes()[:-1])
    refused(FAILED, ["not a stats file", "stats.safetensors"], checkpoint, "--stats", stats)


def test_a_plan_that_is_not_there(refused, checkpoint, tmp_path):
    refused(FAILED, ["gone.json"], checkpoint, "--plan", tmp_path / "gone.json")


@pytest.mark.parametrize(
    "raw", [b"", b"{}", b"[]", b"tiers: int8", b"\xff\xfe", b'{"sharkstore_plan": 2}']
)
def test_a_plan_that_is_none(refused, checkpoint, tmp_path, raw):
    (tmp_path / "plan.json").write_bytes(raw)
    refused(FAILED, ["plan.json"], checkpoint, "--plan", tmp_path / "plan.json")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d["tables"][0]["tiers"][0].update(rows=5), [USER, "add up", "5", "1000"]),
        (lambda d: d["tables"][0]["tiers"][0].update(encoding="int7"), ["int7", "int8.affine"]),
        (lambda d: d["tables"][0].update(action="delete"), [USER, "'delete'", "prune"]),
        (lambda d: d["tables"][0].update(dim=9), [USER, "another checkpoint"]),
        (lambda d: d["tables"][0].update(name="other"), ["other", "another checkpoint"]),
        (lambda d: d["dense"].append("other"), ["other"]),
        (lambda d: d["fields"].update(f={"table": "other", "score": None}), ["'f'", "other"]),
    ],
    ids=["sum", "encoding", "action", "dim", "table", "parameter", "field"],
)
def test_a_plan_edited_wrongly(refused, shark, checkpoint, tmp_path, change, words):
    plan = tmp_path / "plan.json"
    shark("convert", checkpoint, tmp_path / "m.shark", "--dry-run", "--plan-out", plan)
    document = json.loads(plan.read_bytes())
    change(document)
    plan.write_text(json.dumps(document))
    refused(FAILED, words, checkpoint, "--plan", plan)


def test_a_plan_that_cant_be_written_leaves_no_store(refused, checkpoint, tmp_path):
    out = tmp_path / "gone" / "plan.json"
    refused(FAILED, ["plan.json"], checkpoint, "--plan-out", out)


# --- the destination -------------------------------------------------------------------------


@pytest.mark.parametrize("dry", [[], ["--overwrite"]])
def test_a_destination_that_is_no_store(shark, checkpoint, tmp_path, dry):
    (tmp_path / "model.shark").mkdir()
    (tmp_path / "model.shark" / "mine.txt").write_text("mine")
    done = shark("convert", checkpoint, tmp_path / "model.shark", *dry)
    check(done, FAILED, "model.shark: ", "not a store" if dry else "exists")
    assert names(tmp_path / "model.shark") == ["mine.txt"]


def test_a_destination_whose_folder_is_missing(refused, checkpoint):
    refused(FAILED, ["gone: no such folder"], checkpoint, store="gone/model.shark")


def test_a_disk_that_is_full(spawn, tmp_path):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    source = save(tmp_path / "m.safetensors", {"emb": np.zeros((100_000, 4), np.float32)})
    done = spawn("convert", source, tmp_path / "m.shark", preexec_fn=limit)
    check(done, FAILED, "tables/emb/0/c/0/0: can't write")
    assert f"goes on from here, or remove {tmp_path}/.m.shark.partial" in done.err
    assert names(tmp_path) == [".m.shark.partial", "m.safetensors"]


# --- stores ----------------------------------------------------------------------------------

COMMANDS = [["inspect"], ["verify"], ["lookup"]]


def on(store, command):
    return [*command, store, NAME, 0] if command == ["lookup"] else [*command, store]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_store_that_is_not_there(shark, tmp_path, command):
    check(shark(*on(tmp_path / "gone", command)), FAILED, "gone: no such store")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_checkpoint_in_place_of_a_store(shark, checkpoint, command):
    check(shark(*on(checkpoint, command)), FAILED, "model.safetensors: not a store")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_foreign_zarr_store(shark, tmp_path, command):
    group = zarr.open_group(tmp_path / "other.zarr", mode="w", zarr_format=3)
    group.create_array("x", shape=(4,), dtype="f4")
    done = shark(*on(tmp_path / "other.zarr", command))
    check(done, FAILED, "other.zarr", "a Zarr group, but no store")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_store_of_a_newer_format(shark, copied, command):
    edit_document(copied, lambda d: d["attributes"]["sharkstore"].update(format="2.0"))
    check(shark(*on(copied, command)), FAILED, "format 2.0", FORMAT, "upgrade sharkstore")


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff\xfe"])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_root_document_that_is_broken(shark, copied, command, raw):
    (copied / "zarr.json").write_bytes(raw)
    check(shark(*on(copied, command)), FAILED, "zarr.json is not JSON")


def test_a_chunk_that_is_missing(shark, copied):
    (copied / CHUNK).unlink()
    check(shark("lookup", copied, NAME, 0), FAILED, CHUNK, "chunk file missing")


@pytest.mark.parametrize("change", [-1, 1, -10_000])
def test_a_chunk_of_wrong_size(shark, copied, change):
    size = (copied / CHUNK).stat().st_size
    os.truncate(copied / CHUNK, max(0, size + change))
    words = [CHUNK, "chunk file of wrong size", f"{max(0, size + change)} bytes", f"{size}"]
    check(shark("lookup", copied, NAME, 0), FAILED, *words)


def test_a_part_of_a_store(shark, copied):
    shutil.rmtree(copied / "tables" / NAME)
    check(shark("lookup", copied, NAME, 0), FAILED, NAME, "chunk file missing")


# --- lookups ---------------------------------------------------------------------------------


@pytest.mark.parametrize("ids", [["-1"], ["200"], ["5", "4000000000"], ["--", "-1"]])
def test_ids_outside_the_table(shark, sample, ids):
    done = shark("lookup", sample, NAME, *ids)
    check(done, FAILED, f"table '{NAME}'", f"id {ids[-1]} ", "0 to 199")


@pytest.mark.parametrize("number", [2**63, 2**64, 10**30, -(10**30)])
def test_ids_beyond_64_bits(shark, sample, number):
    check(shark("lookup", sample, NAME, number), FAILED, str(number))


@pytest.mark.parametrize("ids", [["x"], ["1.5"], ["3", ""]])
def test_ids_that_are_no_integers(shark, sample, ids):
    check(shark("lookup", sample, NAME, *ids), USAGE, "is not a valid integer")


def test_a_lookup_without_ids(shark, sample):
    check(shark("lookup", sample, NAME), USAGE, "Missing argument 'ID...'")


def test_a_table_that_is_not_there(shark, sample):
    done = shark("lookup", sample, "emb.usr.weight", 1)
    check(done, FAILED, "no table 'emb.usr.weight'", f"did you mean {NAME}")


def test_a_table_that_was_dropped(shark, checkpoint, tmp_path):
    shark("convert", checkpoint, tmp_path / "m.shark", "--prune", USER, "--drop")
    done = shark("lookup", tmp_path / "m.shark", USER, 1)
    check(done, FAILED, f"table '{USER}' was dropped at conversion")


def test_the_checkpoint_of_these_tests_is_sound(shark, tmp_path):
    source = save(tmp_path / "m.safetensors", model())
    assert shark("convert", source, tmp_path / "m.shark").code == 0
