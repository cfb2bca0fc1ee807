"""Documents, and the step that makes a store appear."""

import json
import os
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest
from checkpoints import contents, names
from strategies import SAMPLE

import sharkstore
from sharkstore.errors import DestinationError, WorkerError, WriteError
from sharkstore.format import zarr3
from sharkstore.format.metadata import BLANK_DIGEST
from sharkstore.write import files
from sharkstore.write.files import Destination, write_document

# fails, and is killed when it removes the n-th file of what it did
FAILING = """
import os, sys
from sharkstore.write.files import Destination
left = int(sys.argv[2])
def count(event, _):
    global left
    left -= event == "os.remove"
    if left == 0:
        os._exit(9)
with Destination(sys.argv[1], overwrite=False) as place:
    for name in ["identity.json", *map(str, range(6))]:
        open(os.path.join(place.work, name), "w").close()
    sys.addaudithook(count)
    raise ValueError
"""
HOLDER = """
import os, sys
from sharkstore.write.files import Destination
with Destination(sys.argv[1], overwrite=False) as place:
    open(os.path.join(place.store, "chunk"), "w").close()
    print("held", flush=True)
    sys.stdin.read()
"""


def commit(path, text, *, overwrite=False):
    """Make a folder with one file appear at `path`."""
    with Destination(str(path), overwrite=overwrite) as place:
        write_document(os.path.join(place.store, "text"), text)
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
        write_document(os.path.join(place.store, "text"), b"new")
        assert not (tmp_path / "m.shark").exists()


def fail(path, kind):
    with Destination(str(path), overwrite=False) as place:
        write_document(os.path.join(place.store, "deep", "text"), b"new")
        write_document(os.path.join(place.work, "journal"), b"done")
        raise kind


def test_an_exception_leaves_nothing_behind(tmp_path):
    with pytest.raises(ValueError):  # noqa: PT011
        fail(tmp_path / "m.shark", ValueError)
    assert names(tmp_path) == []


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, WorkerError("lost")])
def test_what_a_stopped_run_did_is_kept(tmp_path, kind):
    with pytest.raises(kind if isinstance(kind, type) else type(kind)):
        fail(tmp_path / "m.shark", kind)
    partial = ".m.shark.partial"
    kept = {f"{partial}/store/deep/text": b"new", f"{partial}/work/journal": b"done"}
    assert contents(tmp_path) == kept
    with Destination(str(tmp_path / "m.shark"), overwrite=False) as place:
        place.clear()
        place.commit()
    assert contents(tmp_path) == {}
    assert names(tmp_path) == ["m.shark"]


def test_what_a_failed_run_did_is_not_taken_up_when_only_some_of_it_was_removed(tmp_path):
    work = tmp_path / ".m.shark.partial" / "work"
    for count in (1, 2, 4, 7):
        command = [sys.executable, "-c", FAILING, str(tmp_path / "m.shark"), str(count)]
        assert subprocess.run(command, check=False).returncode == 9
        assert len(names(work)) == 8 - count
        assert ("identity.json" in names(work)) == (count == 1)


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
        write_document(os.path.join(place.store, "zarr.json"), document)
        place.commit()


def test_a_destination_that_another_process_writes_is_refused(tmp_path, holder):
    with pytest.raises(DestinationError, match=r"m\.shark: another conversion is writing"):
        commit(tmp_path / "m.shark", b"new")
    assert (tmp_path / ".m.shark.partial" / "store" / "chunk").exists()


def test_the_lock_goes_with_its_holder(tmp_path, holder):
    holder.communicate()  # the end of its input lets it leave
    assert names(tmp_path) == []
    commit(tmp_path / "m.shark", b"new")
    assert names(tmp_path) == ["m.shark"]


def test_what_a_killed_run_left_is_there_until_it_is_cleared(tmp_path, holder):
    holder.kill()
    holder.wait()
    assert names(tmp_path) == [".m.shark.lock", ".m.shark.partial"]
    with Destination(str(tmp_path / "m.shark"), overwrite=False) as place:
        assert os.listdir(place.store) == ["chunk"]
        place.clear()
        assert os.listdir(place.store) == []
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
