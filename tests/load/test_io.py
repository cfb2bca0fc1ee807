"""How tables are held: by default, as asked for, each on its own."""

import numpy as np
import pytest
from strategies import SAMPLE, SAMPLE_TIERS, assert_same_bits, make_store, random_rows

import sharkstore
from sharkstore.errors import ArgumentError
from sharkstore.load import io as choosing

NAMES = [name for name in SAMPLE if name.startswith("emb")]


def held(store):
    return {name: table["io"]["held"] for name, table in store.stats()["tables"].items()}


def all_rows(store):
    return {name: table.lookup(np.arange(table.rows)) for name, table in store.items()}


@pytest.fixture(scope="module")
def sizes(tmp_path_factory):
    """A store of tables of 16 KiB and of 2 MiB."""
    tensors = {"emb.small": random_rows(256, 16), "emb.large": random_rows(32_768, 16)}
    return make_store(tmp_path_factory.mktemp("sizes"), tensors, tiers="f32")


def test_small_tables_are_copied_and_large_ones_mapped(sizes):
    with sharkstore.open(sizes) as store:
        assert held(store) == {"emb.small": "ram", "emb.large": "mmap"}
        told = store.stats()["tables"]
    assert told["emb.small"]["io"]["why"] == "not larger than 1 MiB"
    assert told["emb.large"]["io"]["why"] == "larger than 1 MiB"


def test_small_tables_are_copied_while_there_is_room_the_smallest_first(sample, monkeypatch):
    with sharkstore.open(sample) as store:
        smallest = min(store.values(), key=lambda table: table.nbytes)
        assert set(held(store).values()) == {"ram"}
    monkeypatch.setattr(choosing, "SMALL_TABLES", smallest.nbytes)
    with sharkstore.open(sample) as store:
        assert [name for name, how in held(store).items() if how == "ram"] == [smallest.name]
        for name, rows in all_rows(store).items():
            assert_same_bits(rows, SAMPLE[name])


@pytest.mark.parametrize("io", ["mmap", "ram"])
def test_what_is_asked_for_is_done(sizes, io):
    with sharkstore.open(sizes, io=io) as store:
        assert set(held(store).values()) == {io}
        assert store.stats()["tables"]["emb.large"]["io"]["why"] == "asked for"


@pytest.mark.parametrize(
    ("io", "expected"),
    [
        ({"emb.large": "ram"}, {"emb.small": "ram", "emb.large": "ram"}),
        ({"emb.small": "mmap", "*": "ram"}, {"emb.small": "mmap", "emb.large": "ram"}),
        ({"*": "mmap", "emb.large": "ram"}, {"emb.small": "mmap", "emb.large": "ram"}),
        ({"*.l*": "ram", "emb.*": "mmap"}, {"emb.small": "mmap", "emb.large": "ram"}),
        ({"emb.*": "mmap", "*.l*": "ram"}, {"emb.small": "mmap", "emb.large": "mmap"}),
        ({}, {"emb.small": "ram", "emb.large": "mmap"}),
    ],
)
def test_names_go_before_patterns_and_patterns_in_order(sizes, io, expected):
    with sharkstore.open(sizes, io=io) as store:
        assert held(store) == expected
        assert store.stats()["io"] == io


@pytest.mark.parametrize("io", [{"emb.none": "ram"}, {"none.*": "mmap"}])
def test_a_name_of_no_table_is_refused(sizes, io):
    with pytest.raises(ArgumentError, match="which no table fits"):
        sharkstore.open(sizes, io=io)


def test_an_unknown_io_of_one_table_is_refused(sizes):
    with pytest.raises(ArgumentError, match="expected auto or mmap or ram or pread"):
        sharkstore.open(sizes, io={"emb.small": "disk"})


def test_copies_share_memory_and_hold_every_row(tmp_path):
    tensors = {f"emb.{i}": random_rows(5000 + i, 24, seed=i) for i in range(30)}  # 14 MB
    path = make_store(tmp_path, tensors, tiers="f32")
    with sharkstore.open(path, io="ram") as store:
        for name, rows in all_rows(store).items():
            assert_same_bits(rows, tensors[name])
        starts = sorted(table.stored_rows[0].ctypes.data for table in store.values())
    gaps = np.diff(starts)
    assert (gaps >= 5000 * 24 * 4).all()
    assert np.median(gaps) < 5000 * 24 * 4 + 8192


def test_other_processes_hold_tables_the_same_way(sizes):
    import pickle

    io = {"emb.small": "mmap"}
    with sharkstore.open(sizes, io=io, max_resident=64 << 20) as store:
        again = pickle.loads(pickle.dumps(store))
        assert held(again) == held(store)
        assert again.stats()["resident"]["limit"] == 64 << 20
        again.close()


def test_mixed_tables_are_closed_together(sample):
    store = sharkstore.open(sample, io={NAMES[0]: "mmap"})
    table = store[NAMES[0]]
    store.close()
    assert table.stored_rows == ()
    assert store.stats()["resident"]["ram"] == 0
    assert SAMPLE_TIERS


def test_an_io_of_no_name_is_refused(tmp_path):
    path = make_store(tmp_path, {"emb.a": random_rows(8, 4)}, tiers="f32")
    with pytest.raises(ArgumentError, match="io by table needs names"):
        sharkstore.open(path, io={5: "ram"})
