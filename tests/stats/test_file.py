"""Stats files: written block by block as safetensors reads them, whole or not at all."""

import json

import numpy as np
import pytest
from checkpoints import Raw, names, save
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from sharkstore.errors import DestinationError, StatsError, WriteError
from sharkstore.stats import file as module
from sharkstore.stats.file import Column, check_destination, open_stats, spans, write_stats

DTYPES = ["int64", "float64", "float32", "int32", "uint8"]
values = arrays.arrays(
    st.sampled_from(DTYPES),
    arrays.array_shapes(min_dims=1, max_dims=2, min_side=0, max_side=9),
    elements={"allow_nan": False},
)


def pieces(array, step):
    """A column of blocks of so many rows."""
    blocks = [array[at : at + step] for at in range(0, len(array), step)]
    return Column(array.dtype.name, array.shape, blocks)


@given(st.dictionaries(st.text(max_size=8), values, min_size=1), st.integers(1, 4))
def test_what_is_written_in_blocks_is_what_safetensors_reads(tmp_path_factory, found, step):
    path = tmp_path_factory.mktemp("w") / "s.safetensors"
    found = {f"tables/{name}/count": array for name, array in found.items()}
    write_stats(path, {key: pieces(a, step) for key, a in found.items()}, {"samples": "5"})
    read = load_file(path)
    assert set(read) == set(found)
    for key, array in found.items():
        assert read[key].dtype == array.dtype
        np.testing.assert_array_equal(read[key], array)
        np.testing.assert_array_equal(open_stats(path).arrays[key], array)
    with safe_open(path, "numpy") as file:
        assert file.metadata() == {"samples": "5"}


def test_equal_stats_are_equal_bytes_whatever_the_order_and_the_blocks(tmp_path):
    found = {
        f"tables/{n}/count": np.arange(9, dtype=d) for n, d in zip("abc", DTYPES, strict=False)
    }
    write_stats(tmp_path / "a", {k: pieces(v, 2) for k, v in found.items()}, {"a": "1", "b": "2"})
    back = dict(reversed(found.items()))
    write_stats(tmp_path / "b", {k: pieces(v, 9) for k, v in back.items()}, {"b": "2", "a": "1"})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_every_array_starts_aligned(tmp_path):
    found = {f"tables/{d}/count": np.ones(3, d) for d in DTYPES}
    write_stats(tmp_path / "s", {k: pieces(v, 9) for k, v in found.items()}, {"odd": "x" * 5})
    assert all(array.flags.aligned for array in open_stats(tmp_path / "s").arrays.values())


def test_blocks_are_cast_to_the_dtype(tmp_path):
    column = Column("float32", (3,), [np.array([1.5, 2]), np.array([3])])
    write_stats(tmp_path / "s", {"tables/t/count": column}, {})
    assert load_file(tmp_path / "s")["tables/t/count"].tolist() == [1.5, 2.0, 3.0]


@pytest.mark.parametrize("blocks", [[], [np.ones(2)], [np.ones(2), np.ones(2)]])
def test_blocks_that_dont_add_up_leave_no_file(tmp_path, blocks):
    column = Column("float32", (3,), blocks)
    with pytest.raises(StatsError, match="tables/t/count: blocks don't add up"):
        write_stats(tmp_path / "s", {"tables/t/count": column}, {})
    assert names(tmp_path) == []


def test_an_error_in_the_middle_leaves_the_old_file(tmp_path):
    def broken():
        yield np.ones(2)
        raise ZeroDivisionError

    (tmp_path / "s").write_bytes(b"old")
    with pytest.raises(ZeroDivisionError):
        write_stats(tmp_path / "s", {"tables/t/count": Column("float32", (4,), broken())}, {})
    assert names(tmp_path) == ["s"]
    assert (tmp_path / "s").read_bytes() == b"old"


def test_an_open_file_may_be_replaced(tmp_path):
    write_stats(tmp_path / "s", {"tables/t/count": pieces(np.arange(5), 9)}, {})
    old = open_stats(tmp_path / "s").arrays["tables/t/count"]
    write_stats(tmp_path / "s", {"tables/t/count": pieces(old[::-1].copy(), 9)}, {})
    assert old.tolist() == [0, 1, 2, 3, 4]
    assert open_stats(tmp_path / "s").arrays["tables/t/count"].tolist() == [4, 3, 2, 1, 0]


@pytest.mark.parametrize("metadata", [{"fields": '{"\udcff": "t"}'}, {"\udcff": "1"}])
def test_texts_that_are_no_unicode_are_refused(tmp_path, metadata):
    with pytest.raises(StatsError, match="is not Unicode text"):
        write_stats(tmp_path / "s", {}, metadata)
    with pytest.raises(StatsError, match="is not Unicode text"):
        write_stats(tmp_path / "s", {"tables/\udcff/count": pieces(np.ones(1), 1)}, {})
    assert names(tmp_path) == []


@pytest.mark.parametrize("place", ["gone/s", "x" * 300, "."])
def test_a_place_that_cant_be_written(tmp_path, place):
    with pytest.raises(WriteError, match="can't write"):
        write_stats(tmp_path / place, {}, {})
    assert names(tmp_path) == []


def test_progress_is_told_in_bytes(tmp_path):
    told = []
    column = pieces(np.arange(5), 2)
    write_stats(tmp_path / "s", {"tables/t/count": column}, {}, lambda *one: told.append(one))
    assert told == [("write", 16, 40), ("write", 16, 40), ("write", 8, 40)]


def test_spans_cover_all_rows(monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 4)
    assert spans(9) == [(0, 4), (4, 8), (8, 9)]
    assert spans(0) == []


# --- reading ---------------------------------------------------------------------------------


def test_fields_and_texts_are_read(tmp_path):
    save_file(
        {"tables/t/count": np.arange(3)},
        tmp_path / "s",
        {"fields": json.dumps({"f": "t"}), "samples": "7"},
    )
    stats = open_stats(tmp_path / "s")
    assert (stats.fields, stats.metadata["samples"]) == ({"f": "t"}, "7")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(StatsError, match="gone: no such stats file"):
        open_stats(tmp_path / "gone")


@pytest.mark.parametrize("raw", [b"", b"x" * 100, b"\xff" * 8, b"\2\0\0\0\0\0\0\0{}"])
def test_a_file_that_is_none(tmp_path, raw):
    (tmp_path / "s").write_bytes(raw)
    with pytest.raises(StatsError, match="not a stats file"):
        open_stats(tmp_path / "s")


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(StatsError, match="not a stats file"):
        open_stats(tmp_path)


@pytest.mark.parametrize("code", ["BF16", "F8_E4M3"])
def test_a_dtype_that_numpy_lacks(tmp_path, code):
    raw = Raw(code, (2,), b"\0" * (4 if code == "BF16" else 2))
    save(tmp_path / "s", {"tables/t/count": raw})
    with pytest.raises(StatsError, match="tables/t/count: a dtype that numpy lacks"):
        open_stats(tmp_path / "s")


# --- destinations ----------------------------------------------------------------------------


def test_a_new_place_is_taken(tmp_path):
    check_destination(tmp_path / "s", overwrite=False)


def test_a_stats_file_is_replaced_only_when_told(tmp_path):
    save_file({"tables/t/count": np.arange(3)}, tmp_path / "s")
    with pytest.raises(DestinationError, match="exists; --overwrite replaces a stats file"):
        check_destination(tmp_path / "s", overwrite=False)
    check_destination(tmp_path / "s", overwrite=True)


@pytest.mark.parametrize("raw", [b"", b"mine"])
def test_another_file_is_never_replaced(tmp_path, raw):
    (tmp_path / "s").write_bytes(raw)
    with pytest.raises(DestinationError, match="exists, and is not a stats file"):
        check_destination(tmp_path / "s", overwrite=True)


def test_a_checkpoint_is_never_replaced(tmp_path):
    save_file({"emb.weight": np.ones((3, 2))}, tmp_path / "s")
    with pytest.raises(DestinationError, match="not a stats file"):
        check_destination(tmp_path / "s", overwrite=True)


def test_a_folder_is_never_replaced(tmp_path):
    with pytest.raises(DestinationError, match="not a stats file"):
        check_destination(tmp_path, overwrite=True)


def test_a_folder_that_is_missing(tmp_path):
    with pytest.raises(WriteError, match="gone: no such folder"):
        check_destination(tmp_path / "gone" / "s", overwrite=False)
