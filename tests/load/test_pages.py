"""What the system tells of huge pages, read and reported."""

import numpy as np
import pytest
from strategies import make_store

import sharkstore
from sharkstore.load import pages

SMAPS = """\
7f0000000000-7f0000400000 r--s 00000000 08:01 12 /data/model.shark/tables/a/0/c/0/0
Size:               4096 kB
Rss:                3000 kB
AnonHugePages:         0 kB
FilePmdMapped:      2048 kB
VmFlags: rd mr me ms sd hg
7f0000400000-7f0000401000 rw-p 00000000 00:00 0
Rss:                   4 kB
AnonHugePages:         0 kB
"""


def test_regions_are_read_with_their_pages():
    first, second = pages.read_regions(SMAPS.splitlines())
    assert (first.start, first.end) == (0x7F0000000000, 0x7F0000400000)
    assert (first.resident, first.huge) == (3000 << 10, 2048 << 10)
    assert (second.resident, second.huge) == (4 << 10, 0)


@pytest.fixture(scope="module")
def large_store(tmp_path_factory):
    rows = np.random.default_rng(0).normal(size=(40_000, 64)).astype(np.float32)
    folder = tmp_path_factory.mktemp("pages")
    return make_store(folder, {"emb.a": rows}, tiers="f32=50%,int8=rest")


@pytest.mark.parametrize("io", ["mmap", "ram"])
def test_large_arrays_are_told_with_what_is_in_memory(large_store, io):
    with sharkstore.open(large_store, io=io) as store:
        store["emb.a"].lookup(np.arange(40_000))
        told = store.stats()["huge_pages"]
    assert told["eligible"] == 20_000 * 256  # the int8 tier is smaller than a huge page
    assert told["resident"] >= told["eligible"]
    assert 0 <= told["huge"] <= told["resident"]
    assert (told["note"] is None) == (told["huge"] >= pages.MOST * told["resident"])


def test_nothing_read_yet_is_told(large_store):
    with sharkstore.open(large_store, io="mmap") as store:
        told = store.stats()["huge_pages"]
    assert told["resident"] == 0
    assert "nothing was read" in told["note"]


def test_small_tables_have_no_huge_pages(store):
    told = store.stats()["huge_pages"]
    assert (told["eligible"], told["huge"]) == (0, 0)
    assert "no array" in told["note"]


def test_switched_off_is_told(large_store, monkeypatch, tmp_path):
    switch = tmp_path / "enabled"
    switch.write_text("always madvise [never]\n")
    monkeypatch.setattr(pages, "SWITCH", str(switch))
    assert "switched off" in pages._note(4 << 20, 4 << 20, 0)


def test_a_system_that_does_not_tell(large_store, monkeypatch, tmp_path):
    monkeypatch.setattr(pages, "SMAPS", str(tmp_path / "none"))
    with sharkstore.open(large_store) as store:
        told = store.stats()["huge_pages"]
    assert told["resident"] is None
    assert "does not tell" in told["note"]
