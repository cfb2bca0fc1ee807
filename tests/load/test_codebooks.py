"""Tiers with a codebook: mapped, copied, damaged and forged; what is told of them."""

import numpy as np
import pytest
import tensorstore
import zarr
from checkpoints import flip_bit, reseal
from handmade import write_view
from hypothesis import given
from hypothesis import strategies as st
from strategies import BOOKED, F32, INT8, assert_same_values, edit_document
from views import make_view, using

import sharkstore
from sharkstore import kernels
from sharkstore.encodings import parse_encoding
from sharkstore.errors import CorruptStoreError, FormatError
from sharkstore.kernels import reference
from sharkstore.kernels.codebooks import full_codebook
from sharkstore.report import describe, verify

PQ4, FEW = parse_encoding("pq4"), parse_encoding("pq8.5.f32")
ROWS, DIM = 300, 21
BOOK = "tables/emb/1.codebook"


@pytest.fixture
def view():
    return make_view([INT8, PQ4, F32, FEW], ROWS, DIM)


@pytest.fixture
def path(tmp_path, view):
    return write_view(tmp_path / "model.shark", view)


def by_reference(view):
    out = np.empty((view.rows, view.dim), np.float32)
    reference.lookup(view, np.arange(view.rows), out)
    return out


@pytest.mark.parametrize("io", ["mmap", "ram"])
def test_rows_and_bags_come_back(path, view, io):
    expected, offsets = by_reference(view), np.arange(0, ROWS, 3)
    with sharkstore.open(path, io=io) as store:
        assert_same_values(store["emb"].lookup(np.arange(ROWS)), expected)
        bags = store["emb"].embedding_bag(np.arange(ROWS), offsets, mode="max")
    assert_same_values(bags, expected.reshape(-1, 3, DIM).max(axis=1))


@given(st.sampled_from(BOOKED), st.integers(1, 1024), st.integers(1, 70), st.data())
def test_rows_of_every_dim_come_back(tmp_path_factory, encoding, dim, rows, data):
    view = make_view([encoding], rows, dim, data.draw(st.integers(0, 99)), wild=True)
    path = write_view(tmp_path_factory.mktemp("any") / "model.shark", view)
    for backend in kernels.backends():
        with using(backend), sharkstore.open(path) as store:
            assert_same_values(store["emb"].lookup(np.arange(rows)), by_reference(view))


def test_a_whole_codebook_is_read_where_it_is_mapped(path):
    """So that processes share it; one of fewer entries is filled up in memory."""
    with sharkstore.open(path) as store:
        whole, few = (tier for tier in store["emb"]._view.tiers if tier.codebook is not None)
        assert np.shares_memory(full_codebook(whole.codebook), whole.codebook)
        assert not np.shares_memory(full_codebook(few.codebook), few.codebook)
        assert not whole.codebook.flags.writeable


def test_codebooks_count(path, view):
    with sharkstore.open(path) as store:
        books = [tier.codebook.nbytes for tier in view.tiers if tier.codebook is not None]
        assert books == [6 * 256 * 4 * 2, 3 * 5 * 8 * 4]
        rest = sum(tier.data.nbytes for tier in view.tiers) + view.rowmap.nbytes
        assert store.nbytes == store["emb"].nbytes == rest + sum(books)
        assert sum(array.nbytes for array in store["emb"].arrays) == store.nbytes
    (table,) = describe(str(path))["tables"]
    assert [tier["codebook_nbytes"] for tier in table["tiers"]] == [0, books[0], 0, books[1]]
    parts = [tier["nbytes"] + tier["codebook_nbytes"] for tier in table["tiers"]]
    assert sum(parts) + table["rowmap_nbytes"] == table["nbytes"]


def test_a_sound_store_of_codebooks_verifies(path):
    assert verify(str(path))[1] == []


def test_others_read_codebooks(path, view):
    for index in (1, 3):
        expected = view.tiers[index].codebook
        where = path / f"tables/emb/{index}.codebook"
        np.testing.assert_array_equal(zarr.open_array(where, mode="r")[...], expected)
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(where)}}
        np.testing.assert_array_equal(tensorstore.open(spec).result().read().result(), expected)


# --- damaged and forged ----------------------------------------------------------------------


def test_codes_past_the_entries_are_zeros(tmp_path):
    view = make_view([FEW], 40, DIM, wild=True)
    codes = view.tiers[0].data
    codes[:, 0] = np.arange(40) % 2 * 250  # every other row starts with a code that there is not
    path = write_view(tmp_path / "model.shark", view)
    for backend in kernels.backends():
        with using(backend), sharkstore.open(path) as store:
            got = store["emb"].lookup(np.arange(40))
        assert (got[1::2, :8] == 0).all()
        assert_same_values(got, by_reference(view))


@pytest.mark.parametrize("damage", [lambda raw: raw[:-1], lambda raw: raw + b"\0", lambda _: b""])
def test_a_codebook_of_another_size_is_refused(path, damage):
    chunk = path / BOOK / "c/0/0/0"
    chunk.write_bytes(damage(chunk.read_bytes()))
    with pytest.raises(CorruptStoreError, match=r"1\.codebook.*wrong size"):
        sharkstore.open(path)
    assert [one.where for one in verify(str(path))[1]] == [f"{BOOK}/c/0/0/0"]


def test_a_missing_codebook_is_refused(path):
    (path / BOOK / "c/0/0/0").unlink()
    with pytest.raises(CorruptStoreError, match=r"missing"):
        sharkstore.open(path)


def test_verify_finds_a_flipped_bit_and_a_codebook_of_another_store(path, tmp_path):
    other = write_view(tmp_path / "other.shark", make_view([INT8, PQ4, F32, FEW], ROWS, DIM, 1))
    chunk = path / BOOK / "c/0/0/0"
    sound = chunk.read_bytes()
    flip_bit(chunk, 100)
    assert [one.where for one in verify(str(path))[1]] == [f"{BOOK}/c/0/0/0"]
    assert verify(str(path), quick=True)[1] == []
    chunk.write_bytes((other / BOOK / "c/0/0/0").read_bytes())
    assert [one.where for one in verify(str(path), quick=True)[1]] == ["digest"]
    chunk.write_bytes(sound)
    assert verify(str(path))[1] == []


@pytest.mark.parametrize(
    ("key", "value", "code"),
    [
        ("entries", 255, "array-shape"),
        ("sub", 8, "array-shape"),
        ("codebook_dtype", "float32", "array-dtype"),
        ("entries", 257, "entries-range"),
        ("sub", 16, "sub"),
    ],
)
def test_a_codebook_that_is_not_as_its_tier_says_is_refused(path, key, value, code):
    def change(document):
        nodes = document["consolidated_metadata"]["metadata"]
        nodes["tables/emb"]["attributes"]["sharkstore"]["tiers"][1][key] = value

    edit_document(path, change)
    with pytest.raises(FormatError, match=code):
        sharkstore.open(path)


def test_a_codebook_beside_a_tier_without_one_is_no_concern(tmp_path):
    """A reader ignores arrays that it does not know."""
    view = make_view([INT8], 10, 4)
    path = write_view(tmp_path / "model.shark", view, "1.0")

    def change(document):
        nodes = document["consolidated_metadata"]["metadata"]
        nodes["tables/emb/0.codebook"] = nodes["tables/emb/0"]

    edit_document(path, change)
    reseal(path)
    with sharkstore.open(path) as store:
        assert_same_values(store["emb"].lookup(np.arange(10)), by_reference(view))


@pytest.mark.parametrize("encoding", [PQ4, FEW], ids=str)
def test_kernels_refuse_a_codebook_of_another_shape(encoding):
    view = make_view([encoding], 10, DIM)
    tier = view.tiers[0]
    for book in (None, tier.codebook[:-1], tier.codebook[..., :-1], tier.codebook[None]):
        forged = kernels.Tier(encoding, 10, tier.data, book)
        broken = kernels.TableView(10, DIM, [forged], None, view.default)
        with pytest.raises((TypeError, ValueError)):
            kernels.bind(broken)
