"""What a store is said to be, and what verify finds in a damaged one."""

import json
import shutil

import numpy as np
import pytest
from checkpoints import ITEM, USER, contents, flip_bit, model, reseal, save, save_stats
from strategies import SAMPLE, edit_document, exact_rows

from sharkstore.convert import convert_checkpoint
from sharkstore.errors import FormatError, StoreNotFoundError, VersionError
from sharkstore.report import describe, ratio, verify

TIERS = "f32=1%,f16=9%,constant=10%,int8=rest"
BYTES = {USER: 10 * 32 + 90 * 16 + 32 + 800 * 10, ITEM: 5 * 16 + 45 * 8 + 16 + 400 * 6}
MAPS = {USER: 16 * 32, ITEM: 8 * 32}
CHUNKS = [
    *(f"tables/{USER}/{part}/c/0/0" for part in ("0", "1", "2", "3", "rowmap", "default")),
    "dense/mlp.weight/c/0/0",
    "dense/mlp.bias/c/0",
]


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A store with every kind of array; nobody writes to it."""
    folder = tmp_path_factory.mktemp("report")
    stats = {"fields/user/score": np.array([0.25]), "fields/friend/score": np.array([0.5])}
    convert_checkpoint(
        save(folder / "model.safetensors", model()),
        folder / "model.shark",
        stats=save_stats(folder / "stats.safetensors", stats, {"user": USER, "friend": USER}),
        tiers=TIERS,
        default_row="mean",
    )
    return folder / "model.shark"


@pytest.fixture
def damaged(sound, tmp_path):
    """A copy of it, to be damaged."""
    return shutil.copytree(sound, tmp_path / "model.shark")


def findings(store, *, quick=False):
    return [(one.where, one.message) for one in verify(str(store), quick=quick)[1]]


def places(store, *, quick=False):
    return [where for where, _ in findings(store, quick=quick)]


# --- what a store is -------------------------------------------------------------------------


def test_bytes_of_a_table_are_its_rows_and_its_row_map(sound):
    for table in describe(str(sound))["tables"]:
        name = table["name"]
        default = table["dim"] * 4
        assert table["rowmap_nbytes"] == MAPS[name]
        assert table["nbytes"] == BYTES[name] + MAPS[name] + default
        assert sum(tier["nbytes"] for tier in table["tiers"]) == BYTES[name]


def test_totals_are_the_sums_of_the_tables(sound):
    found = describe(str(sound))
    assert found["nbytes"] == sum(table["nbytes"] for table in found["tables"])
    assert found["source_nbytes"] == (1000 * 8 + 500 * 4) * 4
    assert found["ratio"] == found["nbytes"] / found["source_nbytes"]
    assert found["dense_nbytes"] == (8 * 12 + 8) * 4


def test_disk_bytes_are_all_files(sound):
    assert describe(str(sound))["disk_bytes"] == sum(map(len, contents(sound).values()))


def test_tiers_are_told_in_order(sound):
    (table,) = (one for one in describe(str(sound))["tables"] if one["name"] == USER)
    assert [(tier["encoding"], tier["rows"]) for tier in table["tiers"]] == [
        ("f32", 10),
        ("f16", 90),
        ("constant", 100),
        ("int8", 800),
    ]


def test_a_table_has_the_score_of_its_best_field(sound):
    tables = {table["name"]: table for table in describe(str(sound))["tables"]}
    assert tables[USER]["fields"] == ["user", "friend"]
    assert tables[USER]["score"] == 0.5
    assert tables[ITEM]["score"] is None


def test_parameters_beside_the_tables_are_told(sound):
    assert sorted(describe(str(sound))["dense"], key=lambda entry: entry["name"]) == [
        {"name": "mlp.bias", "shape": [8], "dtype": "float32"},
        {"name": "mlp.weight", "shape": [8, 12], "dtype": "float32"},
    ]


def test_provenance_and_digest_are_told(sound):
    found = describe(str(sound))
    assert found["format"] == "1.0"
    assert found["provenance"]["source"]["name"] == "model.safetensors"
    assert found["digest"].encode() in (sound / "zarr.json").read_bytes()


def test_pruned_and_dropped_tables_count_in_the_ratio(tmp_path):
    source = save(tmp_path / "m.safetensors", model())
    options = [{"prune": [USER]}, {"prune": [USER], "drop": True}]
    for index, option in enumerate(options):
        store = tmp_path / f"{index}.shark"
        convert_checkpoint(source, store, **option)
        found = describe(str(store))
        assert found["source_nbytes"] == (1000 * 8 + 500 * 4) * 4
        assert found["ratio"] < 0.1
    assert found["dropped"] == {USER: {"rows": 1000, "dim": 8}}


def test_a_store_without_rows_has_ratio_one():
    assert ratio(0, 0) == 1.0


def test_a_description_is_json(sound):
    assert json.loads(json.dumps(describe(str(sound)))) == describe(str(sound))


def test_a_missing_store_is_not_found(tmp_path):
    with pytest.raises(StoreNotFoundError):
        describe(str(tmp_path / "gone"))


# --- sound stores ----------------------------------------------------------------------------


@pytest.mark.parametrize("quick", [True, False])
def test_a_sound_store_has_no_findings(sound, quick):
    assert findings(sound, quick=quick) == []


def test_a_store_of_several_read_blocks_is_sound(tmp_path, monkeypatch):
    monkeypatch.setattr("sharkstore.report.BLOCKS", 2)
    monkeypatch.setattr("sharkstore.report.READ_BYTES", 100)
    source = save(tmp_path / "m.safetensors", {"emb": exact_rows(1000, 3)})
    stats = save_stats(
        tmp_path / "s.safetensors",
        {"tables/emb/count": np.random.default_rng(1).integers(0, 9, 1000)},
    )
    convert_checkpoint(source, tmp_path / "m.shark", stats=stats, tiers="f32=30%,int8=rest")
    assert findings(tmp_path / "m.shark") == []


def test_a_store_made_sound_by_hand_is_sound(damaged):
    reseal(damaged)
    assert findings(damaged) == []


# --- damage ----------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("byte", [0, -5], ids=["first", "last"])
def test_a_flipped_bit_is_found(damaged, chunk, byte):
    flip_bit(damaged / chunk, byte)
    assert (chunk, "bytes don't match their crc32c") in findings(damaged)


@pytest.mark.parametrize("quick", [True, False])
def test_a_flipped_bit_of_a_trailer_is_found(damaged, quick):
    flip_bit(damaged / CHUNKS[0], -1)
    assert places(damaged, quick=quick) == ["digest" if quick else CHUNKS[0]]


def test_quick_reads_no_rows(damaged):
    flip_bit(damaged / CHUNKS[0])
    assert findings(damaged, quick=True) == []


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("chunk", CHUNKS)
def test_a_missing_chunk_is_found(damaged, chunk, quick):
    (damaged / chunk).unlink()
    assert findings(damaged, quick=quick) == [(chunk, "can't be read: No such file or directory")]


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("change", [-1, -4, 1, 4096])
def test_a_chunk_of_wrong_size_is_found(damaged, change, quick):
    path = damaged / CHUNKS[0]
    raw = path.read_bytes()
    path.write_bytes(raw[:change] if change < 0 else raw.ljust(len(raw) + change, b"\0"))
    assert findings(damaged, quick=quick) == [
        (CHUNKS[0], f"{len(raw) + change:,} bytes, expected {len(raw):,}")
    ]


@pytest.mark.parametrize("quick", [True, False])
def test_an_empty_chunk_is_found(damaged, quick):
    (damaged / CHUNKS[0]).write_bytes(b"")
    assert places(damaged, quick=quick) == [CHUNKS[0]]


@pytest.mark.parametrize("quick", [True, False])
def test_a_folder_in_place_of_a_chunk_is_found(damaged, quick):
    (damaged / CHUNKS[0]).unlink()
    (damaged / CHUNKS[0]).mkdir()
    assert places(damaged, quick=quick) == [CHUNKS[0]]


def test_every_damaged_chunk_is_named(damaged):
    for chunk in CHUNKS:
        flip_bit(damaged / chunk)
    assert sorted(places(damaged)) == sorted(CHUNKS)


@pytest.mark.parametrize("quick", [True, False])
def test_two_chunks_that_changed_places_are_found(tmp_path, quick):
    tensors = {"emb.a": exact_rows(9, 4, seed=1), "emb.b": exact_rows(9, 4, seed=2)}
    store = tmp_path / "m.shark"
    convert_checkpoint(save(tmp_path / "m.safetensors", tensors), store)
    one, two = (store / f"tables/emb.{name}/0/c/0/0" for name in "ab")
    one.rename(tmp_path / "aside")
    two.rename(one)
    (tmp_path / "aside").rename(two)
    assert places(store, quick=quick) == ["digest"]


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"model.safetensors"', b'"other.safetensors"'),
        (b'"score": 0.25', b'"score": 0.35'),
        (b'"digest": "sha256:', b'"digest":  "sha256:'),
    ],
    ids=["source", "score", "space"],
)
def test_an_edited_root_document_is_found(damaged, old, new, quick):
    root = damaged / "zarr.json"
    raw = root.read_bytes()
    assert old in raw
    root.write_bytes(raw.replace(old, new, 1))
    assert places(damaged, quick=quick) == ["digest"]


@pytest.mark.parametrize("quick", [True, False])
def test_another_digest_is_found(damaged, quick):
    def change(document):
        ours = document["attributes"]["sharkstore"]
        ours["digest"] = "sha256:" + ours["digest"][:6:-1]

    edit_document(damaged, change)
    assert places(damaged, quick=quick) == ["digest"]


NODES = ["tables", f"tables/{USER}", f"tables/{USER}/0", "dense", "dense/mlp.bias"]


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("node", NODES)
def test_an_edited_document_is_found(damaged, node, quick):
    edit_document(damaged / node, lambda document: document["attributes"].update(mine=1))
    assert findings(damaged, quick=quick) == [
        (f"{node}/zarr.json", "differs from the root's consolidated metadata")
    ]


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("raw", [None, b"", b"{", b"\xff", b"[" * 100_000])
def test_a_document_that_cant_be_read_is_found(damaged, raw, quick):
    path = damaged / f"tables/{USER}/zarr.json"
    path.unlink() if raw is None else path.write_bytes(raw)
    ((where, message),) = findings(damaged, quick=quick)
    assert where == f"tables/{USER}/zarr.json"
    assert message.startswith("can't be read")


# --- a row map that is wrong under a sound checksum ------------------------------------------

ROWMAP = f"tables/{USER}/rowmap/c/0/0"


def forge(store, block, byte, value):
    """Set a byte of a row-map block, and make checksums and digest fit."""
    path = store / ROWMAP
    raw = bytearray(path.read_bytes())
    raw[32 * block + byte] = value
    path.write_bytes(raw)
    reseal(store)


@pytest.mark.parametrize("block", [0, 7, 15])
def test_a_wrong_counter_is_found_and_its_block_named(damaged, block):
    forge(damaged, block, 16, 200)
    message = f"block {block} (rows from {64 * block:,}) is wrong"
    assert findings(damaged) == [(f"tables/{USER}/rowmap", message)]


def test_a_row_in_another_tier_is_found(damaged):
    forge(damaged, 15, 0, 254)
    assert places(damaged) == [f"tables/{USER}/rowmap"]


def test_bits_behind_the_last_row_are_found(damaged):
    forge(damaged, 15, 7, 128)
    assert places(damaged) == [f"tables/{USER}/rowmap"]


def test_a_row_map_that_fits_other_tiers_is_found(damaged):
    """Rows of two tiers changed places: planes and counters agree, lengths don't."""

    def swap(document):
        ours = document["consolidated_metadata"]["metadata"][f"tables/{USER}"]["attributes"]
        tiers = ours["sharkstore"]["tiers"]
        constant, int8 = tiers[2], tiers[3]
        constant["rows"], int8["rows"] = constant["rows"] + 1, int8["rows"] - 1
        nodes = document["consolidated_metadata"]["metadata"]
        array = nodes[f"tables/{USER}/3"]
        array["shape"][0] = array["chunk_grid"]["configuration"]["chunk_shape"][0] = 799

    edit_document(damaged, swap)
    chunk = damaged / f"tables/{USER}/3/c/0/0"
    chunk.write_bytes(chunk.read_bytes()[10:])
    reseal(damaged)
    message = "maps [10, 90, 100, 800] rows to the tiers, which have [10, 90, 101, 799]"
    assert (f"tables/{USER}/rowmap", message) in findings(damaged)


# --- no store at all -------------------------------------------------------------------------


def test_a_folder_that_is_no_store_is_refused(tmp_path):
    with pytest.raises(FormatError, match=r"not a store: no zarr\.json in it"):
        verify(str(tmp_path))


def test_a_store_of_a_newer_format_is_refused(copied):
    edit_document(copied, lambda d: d["attributes"]["sharkstore"].update(format="2.0"))
    with pytest.raises(VersionError, match="upgrade sharkstore"):
        verify(str(copied))


def test_the_sample_is_sound(sample):
    metadata, found = verify(str(sample))
    assert found == []
    assert {table.name for table in metadata.tables} | {e.name for e in metadata.dense} == set(
        SAMPLE
    )
