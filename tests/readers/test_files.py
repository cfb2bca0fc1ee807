"""Files by byte range: what is mapped, for how long, and what a change looks like."""

import os
from pathlib import Path

import numpy as np
import pytest

import sharkstore.readers.files as files_module
from sharkstore.errors import CheckpointError, CheckpointNotFoundError
from sharkstore.readers.files import open_files, split_place
from sharkstore.readers.open import open_checkpoint


def mapped_kib(path):
    """Resident pages of a mapped file, in KiB."""
    lines = Path("/proc/self/smaps").read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.endswith(str(path)))
    return int(next(line for line in lines[start:] if line.startswith("Rss:")).split()[1])


def test_bytes_are_those_of_the_file(tmp_path):
    (tmp_path / "a").write_bytes(bytes(range(100)))
    file = open_files(str(tmp_path)).open("a")
    assert file.size == 100
    assert file.read(10, 13).tolist() == [10, 11, 12]
    assert not file.read(0, 1).flags.writeable


def test_an_empty_file_has_no_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"")
    assert open_files(str(tmp_path)).open("a").read(0, 0).size == 0


def test_pages_that_were_read_are_given_back(tmp_path, monkeypatch):
    monkeypatch.setattr(files_module, "WINDOW_BYTES", 1 << 20)
    path = tmp_path / "a"
    path.write_bytes(os.urandom(16 << 20))
    files = open_files(str(tmp_path))
    first = files.open("a").read(0, 1 << 20)
    kept = first.copy()
    for start in range(1, 16):
        assert files.open("a").read(start << 20, (start + 1) << 20).sum()
    assert mapped_kib(path) <= 2 << 10
    np.testing.assert_array_equal(first, kept)


def test_more_files_than_may_be_mapped_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(files_module, "MOST_MAPPED", 2)
    for name in "abc":
        (tmp_path / name).write_text(name * 3)
    files = open_files(str(tmp_path))
    kept = {name: files.open(name).read(0, 3) for name in "abc"}
    assert {name: values.tobytes() for name, values in kept.items()} == {
        name: 3 * name.encode() for name in "abc"
    }
    assert str(tmp_path / "c") in Path("/proc/self/maps").read_text()
    assert files.open("a").read(1, 2).tobytes() == b"a"


def test_names_are_those_of_files_in_order(tmp_path):
    for name in ("b", "a"):
        (tmp_path / name).write_text("")
    (tmp_path / "folder").mkdir()
    assert open_files(str(tmp_path)).names() == ["a", "b"]
    assert open_files(str(tmp_path / "gone")).names() == []


def test_a_changed_file_has_another_stamp(tmp_path):
    (tmp_path / "a").write_text("1")
    files = open_files(str(tmp_path))
    before = files.stamp("a")
    assert before == files.stamp("a")
    os.utime(tmp_path / "a", ns=(1, 1))
    assert files.stamp("a") != before


def test_a_missing_file_is_named(tmp_path):
    files = open_files(str(tmp_path))
    for call in (files.open, files.stamp):
        with pytest.raises(CheckpointNotFoundError, match="gone: no such file"):
            call("gone")


@pytest.mark.parametrize(
    ("place", "parts"),
    [
        ("/data/m.npz", ("/data", "m.npz")),
        ("m.npz", ("", "m.npz")),
        ("s3://bucket/folder/m.npz", ("s3://bucket/folder", "m.npz")),
        ("s3://bucket/m.npz", ("s3://bucket", "m.npz")),
        ("memory://m.npz", ("memory://", "m.npz")),
        ("simplecache::s3://bucket/m.npz", ("simplecache::s3://bucket", "m.npz")),
    ],
)
def test_paths_and_urls_are_split_into_folder_and_name(place, parts):
    assert split_place(place) == parts


@pytest.mark.parametrize("name", ["m.pt", "m.safetensors", "m.npz", "m.npy", ".metadata"])
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_pipe_or_device_is_refused_at_once(tmp_path, name, kind):
    path = tmp_path / name
    os.mkfifo(path) if kind == "pipe" else path.symlink_to("/dev/zero")
    place = tmp_path if name == ".metadata" else path
    with pytest.raises(CheckpointError, match=r"a pipe or device|no safetensors file"):
        open_checkpoint(place)
