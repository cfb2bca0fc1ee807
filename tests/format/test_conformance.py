"""Golden and malformed stores, and vectors: what is read is what they say."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from corpus import CORPUS, cases
from views import using

import sharkstore
import sharkstore.kernels as kernels
from sharkstore.encodings import parse_encoding
from sharkstore.errors import CorruptStoreError, SharkstoreError
from sharkstore.kernels import reference
from sharkstore.quant.encode import fitted
from sharkstore.report import verify

STORES = cases("stores")
MALFORMED = cases("malformed")
VECTORS = [path for path in cases("vectors") if path.stem not in ("rowmap", "bags")]


def rows_of(lines: list[str], dim: int) -> np.ndarray:
    raw = bytes.fromhex("".join(lines))
    return np.frombuffer(raw, "<f4").reshape(-1, dim)


@pytest.mark.parametrize("path", STORES, ids=lambda path: path.stem)
def test_golden_store_reads_as_it_says(path: Path):
    expected = json.loads(path.read_text())
    with sharkstore.open(path.parent / path.stem) as store:
        assert store.metadata.digest == expected["digest"]
        assert set(store) == set(expected["tables"])
        for name, one in expected["tables"].items():
            assert store[name].lookup(one["ids"]).tobytes().hex() == one["rows"]
        got = {name: array.tobytes().hex() for name, array in store.dense.items()}
        assert got == expected["dense"]


@pytest.mark.parametrize("path", STORES, ids=lambda path: path.stem)
def test_golden_store_is_sound(path: Path):
    _, found = verify(str(path.parent / path.stem))
    assert found == []


@pytest.mark.parametrize("path", MALFORMED, ids=lambda path: path.stem)
def test_malformed_store_is_noticed_where_it_says(path: Path):
    told = json.loads(path.read_text())
    store = path.parent / path.stem
    if not told["opens"]:
        with pytest.raises(SharkstoreError):
            sharkstore.open(store)
        return
    with sharkstore.open(store) as opened:
        table = opened["t"]
        if told["looks_up"]:
            assert table.lookup(np.arange(table.rows)).shape == (table.rows, table.dim)
        else:
            with pytest.raises(CorruptStoreError, match="row map"):
                table.lookup(np.arange(table.rows))


@pytest.mark.parametrize("path", MALFORMED, ids=lambda path: path.stem)
def test_verify_finds_each_defect(path: Path):
    told = json.loads(path.read_text())
    store = str(path.parent / path.stem)
    if told["where"] == "zarr.json":
        with pytest.raises(sharkstore.FormatError):
            verify(store)
        return
    _, found = verify(store)
    assert [one.where for one in found] == [told["where"]]
    _, quickly = verify(store, quick=True)
    assert bool(quickly) == told["quick_finds"]


ENCODERS = ["reference", *kernels.backends()]


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
def test_vectors_encode_and_decode_bit_for_bit(path: Path, encoder: str):
    for case in json.loads(path.read_text()):
        rows = rows_of(case["rows"], case["dim"])
        encoding = fitted(parse_encoding(case["encoding"]), float(np.abs(rows).max()))
        assert encoding.scale_exponent == case["scale_exponent"], case["what"]
        if encoder == "reference":
            stored = reference.encode_rows(encoding, rows)
        else:
            with using(encoder):
                stored = kernels.encode_rows(encoding, rows)
        assert [row.tobytes().hex() for row in stored] == case["stored"], case["what"]
        decoded = kernels.decode_rows(encoding, stored, case["dim"])
        assert [row.tobytes().hex() for row in decoded] == case["decoded"], case["what"]


def test_row_map_vectors():
    for case in json.loads((CORPUS / "vectors" / "rowmap.json").read_text()):
        tiers = np.array(list(map(int, case["tier_of_row"])), np.uint8)
        blocks = kernels.build_rowmap(tiers, (case["tiers"] - 1).bit_length())
        assert [block.tobytes().hex() for block in blocks] == case["blocks"]
        assert kernels.rowmap_tiers(blocks)[: len(tiers)].tolist() == tiers.tolist()


def test_bag_vectors():
    for case in json.loads((CORPUS / "vectors" / "bags.json").read_text()):
        rows = rows_of(case["rows"], 3)
        weights = None if case["weights"] is None else rows_of(case["weights"], 1)[:, 0]
        out = np.empty((len(case["offsets"]) - 1, 3), np.float32)
        reference.pool(rows, np.array(case["offsets"]), weights, case["mode"], out)
        assert [bag.tobytes().hex() for bag in out] == case["bags"]


def test_the_worked_example_of_the_specification():
    spec = (CORPUS.parent / "sharkstore-1.md").read_text()
    rows = np.array([[0.5, -1.0, 0.25, 0.0]], np.float32)
    encoding = fitted(parse_encoding("int8"), 1.0)
    stored = kernels.encode_rows(encoding, rows)
    assert encoding.scale_exponent == 21
    assert f"| **row** | `{stored.tobytes().hex(' ')}` (6 bytes) |" in spec
    shown = [0.50390625, -0.99993896, 0.25195312, 0.0]
    assert np.array_equal(kernels.decode_rows(encoding, stored, 4)[0], np.float32(shown))


def test_the_corpus_is_what_its_maker_makes():
    maker = CORPUS.parent.parent / "tools" / "make_goldens.py"
    done = subprocess.run(
        [sys.executable, maker, "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
