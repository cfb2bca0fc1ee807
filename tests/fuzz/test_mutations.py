"""Stores with altered bytes: they open and answer, or fail with an error of ours. Nothing else.

Every mutation is drawn from a seed, and named by it when a test fails.
"""

import contextlib
import json
import os
import random
import shutil

import numpy as np
import pytest
from strategies import SAMPLE, make_store

import sharkstore
from sharkstore.errors import CorruptStoreError, SharkstoreError

NAME = "emb.user.weight"
BYTE_MUTATIONS = 300
CHUNK_MUTATIONS = 40  # of each array

VALUES = {
    "null": None,
    "true": True,
    "minus one": -1,
    "zero": 0,
    "one": 1,
    "two": 2,
    "half": 0.5,
    "as a float": 7.0,
    "2 ** 32": 2**32,
    "2 ** 63": 2**63,
    "10 ** 30": 10**30,
    "long number": 10**4000,
    "infinity": float("1e999"),
    "empty text": "",
    "text": "emb.user.weight",
    "path": "../../x",
    "zero byte": "\0",
    "lone surrogate": "\ud800",
    "long text": "x" * 10_000,
    "empty list": [],
    "list of numbers": [0, 1, 2**40],
    "list of null": [None],
    "many dimensions": [1] * 100,
    "empty object": {},
    "object": {"name": "bytes", "configuration": {"endian": "big"}},
    "nested": [[[[[[[[]]]]]]]],
}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Path of a store of one table with all kinds of arrays; tests restore what they alter."""
    folder = tmp_path_factory.mktemp("fuzz")
    count = np.arange(200)
    return make_store(
        folder,
        {NAME: SAMPLE[NAME], "mlp.bias": SAMPLE["mlp.bias"]},
        {f"tables/{NAME}/count": count},
        tiers="f32=10%,f16=20%,int8=20%,int8.affine=10%,int4=10%,int2.affine=10%,constant=rest",
        default_row="mean",
    )


@pytest.fixture(scope="module")
def document(path):
    """The root document, as bytes."""
    return (path / "zarr.json").read_bytes()


@pytest.fixture(autouse=True)
def _restored(path, document):
    yield
    (path / "zarr.json").write_bytes(document)


def use(path):
    """Open a store and look up everything in it; errors of ours are fine."""
    with contextlib.suppress(SharkstoreError), sharkstore.open(path, bounds="default") as store:
        repr(store)
        store.stats()
        for values in store.dense.values():
            values.sum()
        for name, table in store.items():
            repr(table)
            assert table.name == name
            use_table(table)


def use_table(table):
    """Look up every row, and some that are outside."""
    ids = np.arange(-2, min(table.rows, 300) + 2)
    with contextlib.suppress(SharkstoreError):
        assert table.lookup(ids).shape == (len(ids), table.dim)
    with contextlib.suppress(SharkstoreError):
        assert table.embedding_bag(ids[None], mode="mean").shape == (1, table.dim)


def mutate_bytes(raw, rng):
    """Some bytes flipped, removed, inserted, doubled, moved, or the end cut off."""
    mutated = bytearray(raw)
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        at, length = rng.randrange(len(mutated)), rng.choice([1, 1, 2, 8, 64])
        piece = mutated[at : at + length]
        match rng.randrange(6):
            case 0:
                mutated[at] ^= 1 << rng.randrange(8)
            case 1:
                del mutated[at : at + length]
            case 2:
                mutated[at:at] = rng.randbytes(length)
            case 3:
                mutated[at:at] = piece
            case 4:
                del mutated[at : at + length]
                target = rng.randrange(len(mutated))
                mutated[target:target] = piece
            case 5:
                digits = [i for i, byte in enumerate(mutated) if chr(byte).isdigit()]
                mutated[rng.choice(digits)] = ord(rng.choice("0123456789-.eE"))
    return bytes(mutated)


@pytest.mark.parametrize("part", range(4))
def test_mutated_bytes_of_the_root_document(path, document, part):
    for seed in range(part, BYTE_MUTATIONS, 4):
        (path / "zarr.json").write_bytes(mutate_bytes(document, random.Random(seed)))
        with named(f"seed {seed}"):
            use(path)


def test_every_truncation_of_the_root_document(path, document):
    for length in range(0, len(document), len(document) // 200):
        (path / "zarr.json").write_bytes(document[:length])
        with named(f"{length} bytes"), pytest.raises(sharkstore.FormatError):
            sharkstore.open(path)


def places(value, prefix=()):
    """Keys that lead to every value of a JSON document, from the outside in; not provenance."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        if key != "provenance":
            yield (*prefix, key)
            if isinstance(inner, dict | list):
                yield from places(inner, (*prefix, key))


def at(document, place):
    """What holds the value at a place, and the last key to it."""
    owner = document
    for key in place[:-1]:
        owner = owner[key]
    return owner, place[-1]


def each_place_altered(path, document, alter, of=object):
    """Use the store once for each value of a type in its root document, altered there."""
    for place in list(places(json.loads(document))):
        altered = json.loads(document)
        owner, key = at(altered, place)
        if not isinstance(owner[key], of):
            continue
        alter(owner, key)
        (path / "zarr.json").write_text(json.dumps(altered))
        with named(" / ".join(map(str, place))):
            use(path)


@contextlib.contextmanager
def named(mutation):
    """Say which mutation it was that an error got through."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"mutation: {mutation}")
        raise


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES.keys())
def test_every_value_of_the_root_document_replaced(path, document, value):
    def replace(owner, key):
        owner[key] = value

    each_place_altered(path, document, replace)


def test_every_value_of_the_root_document_removed(path, document):
    each_place_altered(path, document, lambda owner, key: owner.pop(key))


def test_every_value_of_the_root_document_wrapped_in_a_list(path, document):
    def wrap(owner, key):
        owner[key] = [owner[key]]

    each_place_altered(path, document, wrap)


@pytest.mark.parametrize("change", [1, -1, 64])
def test_every_number_of_the_root_document_off_by_some(path, document, change):
    def add(owner, key):
        owner[key] += change

    each_place_altered(path, document, add, of=int)


def test_every_key_of_the_root_document_renamed(path, document):
    def rename(owner, key):
        if isinstance(owner, dict):
            owner[f"{key}x"] = owner.pop(key)

    each_place_altered(path, document, rename)


def test_values_of_the_root_document_swapped(path, document):
    every = list(places(json.loads(document)))
    for seed in range(200):
        altered = json.loads(document)
        with contextlib.suppress(LookupError, TypeError):  # one place may lie in the other
            one, other = (at(altered, place) for place in random.Random(seed).sample(every, 2))
            one[0][one[1]], other[0][other[1]] = other[0][other[1]], one[0][one[1]]
            text = json.dumps(altered)
        (path / "zarr.json").write_text(text)
        with named(f"seed {seed}"):
            use(path)


# --- chunk files -----------------------------------------------------------------------------

ARRAYS = ["rowmap", "0", "1", "2", "3", "4", "default"]


@contextlib.contextmanager
def altered_file(file, raw):
    """A file with other bytes, and its own again at the end."""
    before = file.read_bytes()
    file.write_bytes(raw)
    try:
        yield
    finally:
        file.write_bytes(before)


@pytest.mark.parametrize("array", ARRAYS)
def test_mutated_chunk_bytes_give_values_or_a_corrupt_store(path, array):
    chunk = path / f"tables/{NAME}" / array / "c/0/0"
    before = chunk.read_bytes()
    for seed in range(CHUNK_MUTATIONS):
        rng = random.Random(seed)
        raw = bytearray(before)
        for _ in range(rng.choice([1, 4, 100])):
            raw[rng.randrange(len(raw))] = rng.choice([0, 0x7C, 0x7F, 0xFF, rng.randrange(256)])
        with named(f"seed {seed}"), altered_file(chunk, raw), sharkstore.open(path) as store:
            answered_or_corrupt(store[NAME])


def answered_or_corrupt(table):
    """Each row by itself, and all at once."""
    broken = []
    for row in range(table.rows):
        try:
            assert table.lookup([row]).shape == (1, table.dim)
        except CorruptStoreError:
            broken.append(row)
    everything = np.arange(table.rows)
    if broken:
        with pytest.raises(CorruptStoreError, match=rf"for row {broken[0]};"):
            table.lookup(everything)
    else:
        assert table.lookup(everything).shape == (table.rows, table.dim)
    sound = np.setdiff1d(everything, broken)
    assert table.embedding_bag(sound, [0], mode="sum").shape == (1, table.dim)


@pytest.mark.parametrize("fill", [0x00, 0x7C, 0xFF])
@pytest.mark.parametrize("array", ARRAYS)
def test_chunks_of_one_byte_give_values_or_a_corrupt_store(path, array, fill):
    chunk = path / f"tables/{NAME}" / array / "c/0/0"
    with altered_file(chunk, bytes([fill]) * chunk.stat().st_size), sharkstore.open(path) as store:
        answered_or_corrupt(store[NAME])


def test_every_file_missing_truncated_or_longer_is_found(path, tmp_path):
    broken = shutil.copytree(path, tmp_path / "broken.shark")
    for chunk in [file for file in broken.rglob("*") if "c" in file.parts and file.is_file()]:
        raw = chunk.read_bytes()
        for size in (0, 1, len(raw) - 4, len(raw) - 1, len(raw) + 1, len(raw) + 4096):
            with named(f"{chunk} of {size} bytes"), altered_file(chunk, raw):
                os.truncate(chunk, size)
                with pytest.raises(CorruptStoreError, match="wrong size"):
                    sharkstore.open(broken)
        chunk.unlink()
        with named(f"no {chunk}"), pytest.raises(CorruptStoreError, match="missing"):
            sharkstore.open(broken)
        chunk.write_bytes(raw)
