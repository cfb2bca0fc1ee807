"""Golden and malformed stores, and vectors: what is read is what they say."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from corpus import CORPUS, cases
from strategies import decode_slowly, encode_slowly, padded
from views import using

import sharkstore
import sharkstore.kernels as kernels
from sharkstore.encodings import Encoding, parse_encoding
from sharkstore.errors import CorruptStoreError, SharkstoreError
from sharkstore.kernels import pq, reference, rounding
from sharkstore.quant.encode import fitted
from sharkstore.quant.metric import factor
from sharkstore.report import verify

STORES = cases("stores")
MALFORMED = cases("malformed")
OTHERS = ("pq", "metric", "rowmap", "bags")
VECTORS = [path for path in cases("vectors") if path.stem not in OTHERS]
IN_METRIC = json.loads((CORPUS / "vectors" / "metric.json").read_text())
WITH_CODEBOOK = json.loads((CORPUS / "vectors" / "pq.json").read_text())


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
        for name, one in expected.get("bags", {}).items():
            for mode in kernels.POOLS:
                bags = store[name].embedding_bag(one["ids"], one["offsets"], mode=mode)
                assert [bag.tobytes().hex() for bag in bags] == one[mode]
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


def codebook_of(case: dict) -> np.ndarray:
    encoding = parse_encoding(case["encoding"])
    raw = bytes.fromhex("".join(case["codebook"]))
    return np.frombuffer(raw, encoding.book_dtype).reshape(encoding.codebook_shape(case["dim"]))


@pytest.mark.parametrize("case", WITH_CODEBOOK, ids=lambda case: case["what"])
def test_vectors_with_a_codebook_decode_bit_for_bit(case: dict):
    encoding, book = parse_encoding(case["encoding"]), codebook_of(case)
    stored = np.array([list(bytes.fromhex(row)) for row in case["stored"]], np.uint8)
    decoded = kernels.decode_rows(encoding, stored, case["dim"], book)
    assert [row.tobytes().hex() for row in decoded] == case["decoded"]
    for codes, row in zip(stored, decoded, strict=True):
        assert row.tolist() == decode_slowly(encoding, codes, case["dim"], book)
    tier = kernels.Tier(encoding, len(stored), padded(stored), book)
    default = np.zeros(case["dim"], np.float32)
    view = kernels.TableView(len(stored), case["dim"], [tier], None, default)
    for backend in kernels.backends():
        with using(backend):
            out = np.empty_like(decoded)
            kernels.bind(view).lookup(np.arange(len(stored)), out)
        assert [row.tobytes().hex() for row in out] == case["decoded"]


@pytest.mark.parametrize("case", WITH_CODEBOOK, ids=lambda case: case["what"])
def test_codes_of_the_vectors_are_what_the_specification_says(case: dict):
    book = codebook_of(case)
    rows = rows_of(case["rows"], case["dim"])
    codes = [encode_slowly(book, row) for row in rows.tolist()]
    assert [bytes(row).hex() for row in codes] == case["stored"][: len(rows)]


@pytest.mark.parametrize("case", WITH_CODEBOOK, ids=lambda case: case["what"])
def test_no_entry_is_nearer_than_that_of_the_code(case: dict):
    """The bound `nearest-entry`, in float64."""
    book, dim = codebook_of(case).astype(np.float64), case["dim"]
    blocks, _, sub = book.shape
    rows = rows_of(case["rows"], dim).astype(np.float64)
    rows = np.pad(rows, ((0, 0), (0, blocks * sub - dim))).reshape(-1, blocks, 1, sub)
    codes = np.array([list(bytes.fromhex(row)) for row in case["stored"][: len(rows)]])
    distance = ((rows - book) ** 2).sum(axis=3)
    chosen = np.take_along_axis(distance, codes[..., None], axis=2)[..., 0]
    center = book.mean(axis=1)
    size = np.linalg.norm(rows[:, :, 0] - center, axis=2)
    size += np.linalg.norm(book - center[:, None], axis=2).max(axis=1)
    assert (chosen - distance.min(axis=2) <= 2.0**-18 * size**2).all()
    rounded = codes[0] == 0  # the first row is made of the first entries
    assert rounded.all()


@pytest.mark.parametrize("case", IN_METRIC, ids=lambda case: case["what"])
def test_vectors_in_a_metric_have_its_factor(case: dict):
    metric, dim = rows_of(case["metric"], case["dim"]), case["dim"]
    found = factor(metric, parse_encoding(case["encoding"]).sub or 1)
    assert found.order.tolist() == case["order"]
    assert [row.tobytes().hex() for row in found.root.reshape(-1, dim)] == case["root"]
    if metric.any():
        placed = found.root.astype(np.float64)
        whole = np.empty((dim, dim))
        whole[np.ix_(found.order, found.order)] = placed @ placed.T
        ridge = 1e-3 * metric.diagonal().mean() * np.eye(dim)
        np.testing.assert_allclose(whole, metric + ridge, atol=1e-5)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("case", IN_METRIC, ids=lambda case: case["what"])
def test_vectors_round_in_a_metric_bit_for_bit(case: dict, encoder: str):
    metric, rows = rows_of(case["metric"], case["dim"]), rows_of(case["rows"], case["dim"])
    encoding = parse_encoding(case["encoding"])
    one = factor(metric, encoding.sub or 1)
    if encoding.name == "pq":
        book = kernels.Codebook.of(codebook_of(case), case["dim"], one)
        got = pq.encode_measured(book, rows)
    else:
        book = None
        encoding = replace(encoding, scale_exponent=case["scale_exponent"])
        got = rounding.encode(encoding, rows, one)
    if encoder != "reference":
        with using(encoder):
            stored = kernels.encode_rows(encoding, rows, codebook=book, factor=one)
            got = stored, kernels.distortions(encoding, rows, factor=one, codebook=book)
    assert [row.tobytes().hex() for row in got[0]] == case["stored"]
    assert got[1].tobytes().hex() == case["squared_errors"]


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


def test_the_example_of_pq_in_the_specification():
    spec = (CORPUS.parent / "sharkstore-1.md").read_text()
    encoding = Encoding("pq", sub=4, entries=3)
    book = np.zeros(encoding.codebook_shape(5), np.float16)
    book[0, 1:] = [[1, 1, 1, 1], [2, 0, 0, 2]]
    book[1, 1:, 0] = [0.5, -0.5]
    codes = encode_slowly(book, [1.75, 0.25, 0.0, 2.0, -0.75])
    assert f"is `{bytes(codes).hex(' ')}` and decodes to (2, 0, 0, 2, −0.5)" in spec
    assert "the bytes `01 07` decode to (1, 1, 1, 1, 0)" in spec
    stored = np.array([codes, [1, 7]], np.uint8)
    decoded = kernels.decode_rows(encoding, stored, 5, book)
    assert decoded.tolist() == [[2, 0, 0, 2, -0.5], [1, 1, 1, 1, 0]]
    sizes = 1000 * encoding.row_bytes(5), encoding.codebook_bytes(5)
    assert "2 000 + {1} bytes".format(*sizes) in spec
    assert sizes[0] == 2000


def test_the_corpus_is_what_its_maker_makes():
    maker = CORPUS.parent.parent / "tools" / "make_goldens.py"
    done = subprocess.run(
        [sys.executable, maker, "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
