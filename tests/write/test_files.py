"""Chunk files, and the step that makes a store appear."""

import json
import os
import shutil
import subprocess
import sys
import threading

import google_crc32c
import numpy as np
import pytest
from checkpoints import contents, names
from strategies import SAMPLE

import sharkstore
from sharkstore.errors import DestinationError, WriteError
from sharkstore.format import zarr3
from sharkstore.format.metadata import BLANK_DIGEST
from sharkstore.write import files
from sharkstore.write.files import Destination, write_chunk, write_document

HOLDER = """
import os, sys
from sharkstore.write.files import Destination
with Destination(sys.argv[1], overwrite=False) as place:
    open(os.path.join(place.partial, "chunk"), "w").close()
    print("held", flush=True)
    sys.stdin.read()
"""


def blocks(raw, *cuts):
    """Bytes as uint8 blocks, cut at these places."""
    return np.split(np.frombuffer(raw, np.uint8), cuts)


def write(path, parts, chunk_bytes):
    done = []
    crc = write_chunk(str(path), parts, chunk_bytes, done.append)
    return crc, done


def noise(length):
    return np.random.default_rng(length).bytes(length)


def commit(path, text, *, overwrite=False):
    """Make a folder with one file appear at `path`."""
    with Destination(str(path), overwrite=overwrite) as place:
        write_document(os.path.join(place.partial, "text"), text)
        place.commit()


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of `tmp_path / "m.shark"`."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "m.shark")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


# --- chunks ----------------------------------------------------------------------------------


@pytest.mark.parametrize("buffer", [1, 7, 64, 100, 1 << 20])
@pytest.mark.parametrize("cuts", [(), (1,), (10, 11, 64), (100,), (0, 50, 50)])
def test_a_chunk_is_its_blocks_and_their_crc32c(tmp_path, monkeypatch, buffer, cuts):
    monkeypatch.setattr(files, "WRITE_BYTES", buffer)
    raw = noise(100)
    crc, _ = write(tmp_path / "chunk", blocks(raw, *cuts), 100)
    assert crc == google_crc32c.value(raw)
    assert (tmp_path / "chunk").read_bytes() == raw + crc.to_bytes(4, "little")


@pytest.mark.parametrize("buffer", [1, 7, 64, 128, 1 << 20])
@pytest.mark.parametrize("length", [0, 1, 64, 99, 100])
def test_a_chunk_is_padded_with_zeros_that_its_crc32c_covers(tmp_path, monkeypatch, buffer, length):
    monkeypatch.setattr(files, "WRITE_BYTES", buffer)
    raw = noise(length)
    crc, _ = write(tmp_path / "chunk", blocks(raw), 128)
    padded = raw.ljust(128, b"\0")
    assert crc == google_crc32c.value(padded)
    assert (tmp_path / "chunk").read_bytes() == padded + crc.to_bytes(4, "little")


def test_blocks_of_rows_are_written_row_by_row(tmp_path):
    rows = np.arange(12, dtype=np.uint8).reshape(4, 3)
    write(tmp_path / "chunk", [rows[:1], rows[1:]], 12)
    assert (tmp_path / "chunk").read_bytes()[:12] == bytes(range(12))


def test_a_chunk_of_whole_huge_pages_is_written(tmp_path):
    raw = noise(files.HUGE_PAGE)
    write(tmp_path / "chunk", blocks(raw, 5000), len(raw))
    assert (tmp_path / "chunk").read_bytes()[:-4] == raw


def test_progress_is_told_of_every_byte(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "WRITE_BYTES", 48)
    _, done = write(tmp_path / "chunk", blocks(noise(100)), 128)
    assert done == [48, 48, 32, 4]


def test_folders_of_a_chunk_are_made(tmp_path):
    write(tmp_path / "a" / "c" / "0", blocks(b"x"), 1)
    assert (tmp_path / "a" / "c" / "0").exists()


def test_a_refused_write_is_told_with_the_path(tmp_path):
    (tmp_path / "a").write_text("a file where a folder must be")
    with pytest.raises(WriteError, match="a/0: can't write: "):
        write(tmp_path / "a" / "0", blocks(b"x"), 1)


def test_a_full_disk_is_told_with_the_remedy():
    with pytest.raises(WriteError, match=r"/dev/full: can't write: No space left.*free some room"):
        write_document("/dev/full", b"x")


# --- the destination -------------------------------------------------------------------------


def test_a_committed_store_appears_and_nothing_else_stays(tmp_path):
    commit(tmp_path / "m.shark", b"new")
    assert names(tmp_path) == ["m.shark"]
    assert contents(tmp_path / "m.shark") == {"text": b"new"}


def test_nothing_is_at_the_destination_before_the_commit(tmp_path):
    with Destination(str(tmp_path / "m.shark"), overwrite=False) as place:
        write_document(os.path.join(place.partial, "text"), b"new")
        assert not (tmp_path / "m.shark").exists()


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_leaves_nothing_behind(tmp_path, kind):
    def fail():
        with Destination(str(tmp_path / "m.shark"), overwrite=False) as place:
            write_document(os.path.join(place.partial, "deep", "text"), b"new")
            raise kind

    with pytest.raises(kind):
        fail()
    assert names(tmp_path) == []


@pytest.mark.parametrize("kind", ["file", "folder", "store", "link", "dangling-link"])
def test_an_existing_destination_is_refused(tmp_path, sample, kind):
    path = occupied(tmp_path, sample, kind)
    with pytest.raises(DestinationError, match=r"m\.shark: exists; --overwrite replaces a store"):
        commit(path, b"new")
    assert os.path.lexists(path)
    assert [name for name in names(tmp_path) if name.startswith(".")] == []


@pytest.mark.parametrize("kind", ["file", "folder", "foreign", "link", "dangling-link"])
def test_only_stores_and_empty_folders_are_ever_replaced(tmp_path, sample, kind):
    path = occupied(tmp_path, sample, kind)
    before = contents(tmp_path)
    with pytest.raises(DestinationError, match=r"m\.shark: not a store; only a store or an empty"):
        commit(path, b"new", overwrite=True)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("kind", ["store", "empty"])
def test_a_store_or_an_empty_folder_is_replaced_whole(tmp_path, sample, kind):
    path = occupied(tmp_path, sample, kind)
    commit(path, b"new", overwrite=True)
    assert contents(tmp_path) == {"m.shark/text": b"new"}


def occupied(folder, sample, kind):
    """`m.shark` in a folder, with something of this kind at it."""
    path = folder / "m.shark"
    if kind == "file":
        path.write_text("mine")
    elif kind == "store":
        shutil.copytree(sample, path)
    elif kind == "link":
        shutil.copytree(sample, folder / "real.shark")
        path.symlink_to(folder / "real.shark")
    elif kind == "dangling-link":
        path.symlink_to(folder / "gone")
    else:
        path.mkdir()
    if kind == "folder":
        (path / "notes.txt").write_text("mine")
    if kind == "foreign":
        (path / "zarr.json").write_text('{"zarr_format": 3, "attributes": {}}')
    return path


def test_without_the_swap_of_the_system_a_store_is_replaced_too(tmp_path, sample, monkeypatch):
    monkeypatch.setattr(files, "RENAME_EXCHANGE", 1 << 30)  # flags that no kernel knows
    path = occupied(tmp_path, sample, "store")
    commit(path, b"new", overwrite=True)
    assert contents(tmp_path) == {"m.shark/text": b"new"}


def test_an_open_store_serves_its_old_rows_after_it_was_replaced(tmp_path, sample):
    path = occupied(tmp_path, sample, "store")
    with sharkstore.open(path) as opened:
        commit(path, b"new", overwrite=True)
        for name, table in opened.items():
            np.testing.assert_array_equal(table.lookup(np.arange(table.rows)), SAMPLE[name])


def test_a_store_is_there_at_every_moment_of_being_replaced(tmp_path):
    path = tmp_path / "m.shark"
    done, present = threading.Event(), []

    def watch():
        while not done.is_set():
            present.append(path.is_dir())

    replace(path, version=0)
    watcher = threading.Thread(target=watch)
    watcher.start()
    for version in range(1, 30):
        replace(path, version)
    done.set()
    watcher.join()
    assert all(present)
    ours = json.loads((path / "zarr.json").read_bytes())["attributes"]["sharkstore"]
    assert ours["provenance"] == {"version": 29}


def replace(path, version):
    """Make a store without tables, of nothing but a version, appear."""
    ours = {"format": "1.0", "digest": BLANK_DIGEST, "provenance": {"version": version}}
    with Destination(str(path), overwrite=True) as place:
        document = zarr3.dump(zarr3.root_document({"sharkstore": ours}, {}))
        write_document(os.path.join(place.partial, "zarr.json"), document)
        place.commit()


def test_a_destination_that_another_process_writes_is_refused(tmp_path, holder):
    with pytest.raises(DestinationError, match=r"m\.shark: another conversion is writing"):
        commit(tmp_path / "m.shark", b"new")
    assert (tmp_path / ".m.shark.partial" / "chunk").exists()


def test_the_lock_goes_with_its_holder(tmp_path, holder):
    holder.communicate()  # the end of its input lets it leave
    assert names(tmp_path) == []
    commit(tmp_path / "m.shark", b"new")
    assert names(tmp_path) == ["m.shark"]


def test_what_a_killed_run_left_is_cleared(tmp_path, holder):
    holder.kill()
    holder.wait()
    assert names(tmp_path) == [".m.shark.lock", ".m.shark.partial"]
    with Destination(str(tmp_path / "m.shark"), overwrite=False) as place:
        assert os.listdir(place.partial) == []
        place.commit()
    assert names(tmp_path) == ["m.shark"]


def test_a_missing_folder_around_the_destination_is_told(tmp_path):
    with pytest.raises(WriteError, match="gone: no such folder"):
        commit(tmp_path / "gone" / "m.shark", b"new")
    assert names(tmp_path) == []


def test_a_file_where_the_partial_store_must_be_leaves_no_lock(tmp_path):
    (tmp_path / ".m.shark.partial").write_text("mine")
    with pytest.raises(WriteError, match=r"m\.shark: can't write"):
        commit(tmp_path / "m.shark", b"new")
    assert names(tmp_path) == [".m.shark.partial"]


def test_a_destination_that_appears_meanwhile_is_not_replaced(tmp_path):
    path = tmp_path / "m.shark"
    with Destination(str(path), overwrite=False) as place:
        path.write_text("mine")
        with pytest.raises(DestinationError, match="exists"):
            place.commit()
    assert contents(tmp_path) == {"m.shark": b"mine"}


def test_a_trailing_slash_changes_nothing(tmp_path):
    commit(f"{tmp_path / 'm.shark'}/", b"new")
    assert names(tmp_path) == ["m.shark"]


def test_a_store_set_aside_by_a_killed_run_is_put_back(tmp_path):
    commit(tmp_path / "m.shark", b"old")
    (tmp_path / "m.shark").rename(tmp_path / ".m.shark.partial.old")
    with pytest.raises(DestinationError, match="exists"):
        commit(tmp_path / "m.shark", b"new")
    assert names(tmp_path) == ["m.shark"]
