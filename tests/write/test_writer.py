"""Chunk files: their bytes, in whatever parts they come, and what becomes of errors."""

import os
import threading

import google_crc32c
import numpy as np
import pytest

from sharkstore.errors import WriteError
from sharkstore.write import writer as module
from sharkstore.write.writer import ChunkWriter


def noise(length):
    return np.random.default_rng(length).bytes(length)


def blocks(raw, *cuts):
    """Bytes as uint8 blocks, cut at these places."""
    return np.split(np.frombuffer(raw, np.uint8), cuts)


def write(path, parts, chunk_bytes):
    """One chunk of these parts; its crc32c."""
    with ChunkWriter(chunk_bytes) as writer:
        chunk = writer.chunk(str(path), chunk_bytes)
        for part in parts:
            chunk.put(part)
        return chunk.close()


def no_threads():
    return [one for one in threading.enumerate() if one.name == "chunks"] == []


@pytest.mark.parametrize("part", [1, 9, 1 << 20])
@pytest.mark.parametrize("buffer", [1, 7, 64, 100, 1 << 20])
@pytest.mark.parametrize("cuts", [(), (1,), (10, 11, 64), (100,), (0, 50, 50)])
def test_a_chunk_is_its_blocks_and_their_crc32c(tmp_path, monkeypatch, buffer, part, cuts):
    monkeypatch.setattr(module, "WRITE_BYTES", buffer)
    monkeypatch.setattr(module, "PART_BYTES", part)
    raw = noise(100)
    crc = write(tmp_path / "chunk", blocks(raw, *cuts), 100)
    assert crc == google_crc32c.value(raw)
    assert (tmp_path / "chunk").read_bytes() == raw + crc.to_bytes(4, "little")


@pytest.mark.parametrize("buffer", [1, 7, 64, 128, 1 << 20])
@pytest.mark.parametrize("length", [0, 1, 64, 99, 100])
def test_a_chunk_is_padded_with_zeros_that_its_crc32c_covers(tmp_path, monkeypatch, buffer, length):
    monkeypatch.setattr(module, "WRITE_BYTES", buffer)
    raw = noise(length)
    crc = write(tmp_path / "chunk", blocks(raw), 128)
    padded = raw.ljust(128, b"\0")
    assert crc == google_crc32c.value(padded)
    assert (tmp_path / "chunk").read_bytes() == padded + crc.to_bytes(4, "little")


@pytest.mark.parametrize("buffer", [12, 14, 36, 1 << 20])
@pytest.mark.parametrize("part", [1, 12, 30])
def test_rows_are_filled_in_place_and_never_cut(tmp_path, monkeypatch, buffer, part):
    monkeypatch.setattr(module, "WRITE_BYTES", buffer)
    monkeypatch.setattr(module, "PART_BYTES", part)
    raw, filled = noise(120), 0
    with ChunkWriter(150) as writer:
        chunk = writer.chunk(str(tmp_path / "chunk"), 150, lambda _: None)
        while filled < len(raw):
            room = chunk.room(12)[: (len(raw) - filled) // 12]
            assert 1 <= len(room) <= max(1, part // 12)
            room[:] = np.frombuffer(raw[filled : filled + room.size], np.uint8).reshape(room.shape)
            chunk.done(room.size)
            filled += room.size
        crc = chunk.close()
    padded = raw.ljust(150, b"\0")
    assert (tmp_path / "chunk").read_bytes() == padded + crc.to_bytes(4, "little")
    assert crc == google_crc32c.value(padded)


def test_a_chunk_of_whole_huge_pages_is_written(tmp_path):
    raw = noise(module.HUGE_PAGE)
    write(tmp_path / "chunk", blocks(raw, 5000), len(raw))
    assert (tmp_path / "chunk").read_bytes()[:-4] == raw


def test_chunks_of_any_size_are_written_one_after_the_other(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "WRITE_BYTES", 50)
    sizes = [1, 50, 51, 300, 2, 100]
    with ChunkWriter(max(sizes)) as writer:
        for index, size in enumerate(sizes):
            chunk = writer.chunk(str(tmp_path / str(index)), size, lambda _: None)
            chunk.put(np.frombuffer(noise(size), np.uint8))
            chunk.close()
    for index, size in enumerate(sizes):
        assert (tmp_path / str(index)).read_bytes()[:-4] == noise(size)


def test_a_chunk_that_grows_too_long_is_an_error(tmp_path):
    with pytest.raises(WriteError, match="too long"):
        write(tmp_path / "chunk", blocks(b"xyz"), 2)
    assert no_threads()


def test_a_refused_write_is_told_with_the_path(tmp_path):
    (tmp_path / "a").write_text("a file where a folder must be")
    with pytest.raises(WriteError, match="a/0: can't write: "):
        write(tmp_path / "a" / "0", blocks(b"x"), 1)
    assert no_threads()


def test_what_the_disk_refuses_ends_a_long_conversion(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "WRITE_BYTES", 10)
    (tmp_path / "full").symlink_to("/dev/full")
    with pytest.raises(WriteError, match=r"full: can't write: No space left.*free some room"):
        write(tmp_path / "full", blocks(noise(1000)), 1000)
    assert no_threads()


def test_errors_of_the_last_step_are_told_too(tmp_path, monkeypatch):
    def refuse(_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(WriteError, match="chunk: can't write: Input/output error"):
        write(tmp_path / "chunk", blocks(b"x"), 1)


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_an_exception_while_filling_ends_the_thread_and_goes_on(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(module, "WRITE_BYTES", 10)

    def parts():
        yield np.zeros(95, np.uint8)
        raise kind

    with pytest.raises(kind):
        write(tmp_path / "chunk", parts(), 100)
    assert no_threads()
