"""Checkpoint to store to rows: each row is what its tier makes of it, and nothing else."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file
from strategies import (
    CONSTANT,
    F16,
    F32,
    INT8,
    PACKED,
    ROW_BY_ROW,
    assert_same_bits,
    decode_slowly,
    make_store,
    random_rows,
)

import sharkstore
from sharkstore.kernels import encode_rows
from sharkstore.plan.model import Plan, TablePlan, TierPlan
from sharkstore.plan.stats import Stats
from sharkstore.quant.encode import fitted
from sharkstore.readers.safetensors import SafetensorsFile
from sharkstore.write.store import write_store

SMALLEST_TARGET = 4096  # bytes: arrays above 64 KiB are split


def write(folder, values, tiers, priority=None, dtype="float32", chunk_target=SMALLEST_TARGET):
    """Write a store of the table `emb`; its path.

    Args:
        tiers: (encoding, rows), from the highest priority.
    """
    save_file({"emb": values}, folder / "model.safetensors")
    source = SafetensorsFile(str(folder / "model.safetensors"))
    table = TablePlan(
        name="emb",
        rows=len(values),
        dim=values.shape[1],
        dtype=dtype,
        action="store",
        order="id" if priority is None else "priority",
        tiers=tuple(TierPlan(encoding, rows) for encoding, rows in tiers),
    )
    write_store(
        source,
        source.tensors,
        Plan((table,)),
        Stats({} if priority is None else {"tables/emb/priority": priority}),
        str(folder / "model.shark"),
        provenance={"source": {"name": "model.safetensors"}},
        overwrite=False,
        progress=lambda *_: None,
        chunk_target=chunk_target,
    )
    return folder / "model.shark"


def expected_rows(values, tiers, priority=None):
    """Each row by its tier, one row at a time, decoded in plain Python."""
    keys = np.zeros(len(values)) if priority is None else priority.astype(np.float64)
    order = sorted(range(len(values)), key=lambda row: (-keys[row], row))
    expected = np.empty_like(values)
    for encoding, count in tiers:
        chosen, order = order[:count], order[count:]
        rows = values[chosen]
        if encoding.name == "constant":
            expected[chosen] = rows.sum(axis=0, dtype=np.float64) / max(count, 1)
            continue
        exact = fitted(encoding, float(np.abs(rows).max(initial=0)))
        for row in chosen:
            stored = encode_rows(exact, values[[row]]).tobytes()
            expected[row] = decode_slowly(exact, stored, values.shape[1])
    return expected


@st.composite
def tables(draw):
    """Values, tiers with their row counts, and priorities with many ties or none at all."""
    rows, dim = draw(st.integers(1, 400)), draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    encodings = draw(st.lists(st.sampled_from(ROW_BY_ROW), min_size=1, max_size=min(8, rows)))
    ends = np.sort(rng.choice(np.arange(1, rows), len(encodings) - 1, replace=False))
    counts = np.diff([0, *ends, rows]).tolist()
    values = rng.normal(size=(rows, dim)) * 10.0 ** rng.integers(-6, 3, (rows, 1))
    values[rng.random(rows) < 0.1] = 0
    kind = draw(st.sampled_from(["none", "small integers", "floats", "equal"]))
    priority = {
        "none": None,
        "small integers": rng.integers(5, size=rows),
        "floats": rng.random(rows).astype(np.float32),
        "equal": np.ones(rows, np.float32),
    }[kind]
    return values.astype(np.float32), list(zip(encodings, counts, strict=True)), priority


@given(tables())
def test_every_row_is_what_its_tier_makes_of_it(drawn):
    values, tiers, priority = drawn
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), values, tiers, priority)
        with sharkstore.open(path) as store:
            got = store["emb"].lookup(np.arange(len(values)))
            assert [tier.rows for tier in store["emb"].tiers] == [count for _, count in tiers]
    assert_same_bits(got, expected_rows(values, tiers, priority))


def chunk_counts(table):
    return [tier.array.chunks for tier in table.tiers]


@pytest.mark.parametrize("io", ["mmap", "ram"])
@pytest.mark.parametrize("encoding", [F32, F16, *PACKED], ids=str)
def test_rows_in_many_chunks_come_back(tmp_path, encoding, io):
    values_a_byte = 8 // encoding.bits if encoding.packed else 1
    rows, dim = 9000, (32 - encoding.header_bytes) * values_a_byte  # rows of 2^n bytes fill 64 KiB
    values = random_rows(rows, dim)
    path = write(tmp_path, values, [(encoding, rows)])
    exact = fitted(encoding, float(np.abs(values).max()))
    with sharkstore.open(path, io=io) as store:
        assert chunk_counts(store["emb"])[0] > 2
        got = store["emb"].lookup(np.arange(rows))
    picked = np.arange(0, rows, 97)
    slow = [
        decode_slowly(exact, encode_rows(exact, values[[row]]).tobytes(), dim) for row in picked
    ]
    assert_same_bits(got[picked], np.array(slow, np.float32))
    assert np.sqrt(((got - values) ** 2).mean()) < (0.5 if values_a_byte > 1 else 0.05)


def test_tiers_and_row_map_in_many_chunks_come_back(tmp_path):
    rows, rng = 600_000, np.random.default_rng(0)
    priority = rng.integers(50, size=rows)
    values = random_rows(rows, 2)
    tiers = [(F32, 100_000), (F16, 200_000), (INT8, 250_000), (CONSTANT, 50_000)]
    path = write(tmp_path, values, tiers, priority)
    order = np.lexsort((np.arange(rows), -priority))
    with sharkstore.open(path) as store:
        table = store["emb"]
        assert min(chunk_counts(table)[:3]) > 2
        assert table.metadata.rowmap.chunks > 2
        got = table.lookup(order)
    assert_same_bits(got[:100_000], values[order[:100_000]])
    halves = values[order[100_000:300_000]].astype(np.float16).astype(np.float32)
    assert_same_bits(got[100_000:300_000], halves)
    assert (np.abs(got[300_000:550_000] - values[order[300_000:550_000]]) < 0.05).all()
    assert (got[550_000:] == got[-1]).all()


def test_chunk_sizes_change_no_row(tmp_path):
    values = random_rows(9000, 30)
    tiers = [(F32, 3000), (INT8, 6000)]
    got = []
    for target in (SMALLEST_TARGET, 1 << 25):
        folder = tmp_path / str(target)
        folder.mkdir()
        with sharkstore.open(write(folder, values, tiers, chunk_target=target)) as store:
            got.append(store["emb"].lookup(np.arange(9000)))
    assert_same_bits(*got)


def files_of(path):
    return {
        str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()
    }


def test_the_same_input_gives_the_same_bytes(tmp_path):
    tensors = {"emb.a": random_rows(300, 5), "emb.b": random_rows(70, 3), "bias": np.arange(3)}
    stats = {"tables/emb.a/count": np.arange(300) % 7, "tables/emb.b/count": np.ones(70)}
    written = []
    for run in ("one", "two"):
        (tmp_path / run).mkdir()
        path = make_store(tmp_path / run, tensors, stats, tiers="f32=1%,f16=9%,int8=rest")
        written.append(files_of(path))
    assert written[0] == written[1]


@pytest.mark.parametrize("shares", ["f32=10%,f16=20%,int8=rest", "f32=50%,constant=rest"])
def test_priorities_of_a_stats_file_decide_the_tiers(tmp_path, shares):
    values = random_rows(100, 4)
    count = np.random.default_rng(0).permutation(100)
    path = make_store(tmp_path, {"emb": values}, {"tables/emb/count": count}, tiers=shares)
    with sharkstore.open(path) as store:
        first = store["emb"].tiers[0].rows
        hot = np.argsort(-count)[:first]
        assert_same_bits(store["emb"].lookup(hot), values[hot])


def test_a_constant_tier_is_the_mean_of_its_rows_by_use(tmp_path):
    values = random_rows(100, 4)
    count = np.random.default_rng(1).permutation(100)
    path = make_store(
        tmp_path, {"emb": values}, {"tables/emb/count": count}, tiers="f32=50%,constant=rest"
    )
    cold = np.argsort(-count)[50:]
    mean = np.average(values[cold].astype(np.float64), axis=0, weights=count[cold])
    with sharkstore.open(path) as store:
        got = store["emb"].lookup(cold)
    assert (got == got[0]).all()
    np.testing.assert_allclose(got[0], mean, rtol=1e-6)
