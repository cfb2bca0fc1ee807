"""Codebooks and metrics in stores that name their encodings."""

import numpy as np
import pytest
from checkpoints import bfloat16, read_back, save, save_stats
from strategies import assert_same_bits, random_rows

import sharkstore
from sharkstore.convert import convert_checkpoint
from sharkstore.report import verify

TABLE = "emb.t"


@pytest.fixture
def convert(tmp_path):
    def run(rows, stats=None, name="s", **options):
        path = save(tmp_path / "m.safetensors", {TABLE: rows})
        if stats is not None:
            stats = save_stats(
                tmp_path / "stats", {f"tables/{TABLE}/{k}": v for k, v in stats.items()}
            )
            options["stats"] = tmp_path / "stats"
        done = convert_checkpoint(path, tmp_path / name, overwrite=True, **options)
        return tmp_path / name, done

    return run


def codebooks(store):
    with sharkstore.open(store) as opened:
        table = opened[TABLE]
        return {
            index: tier.codebook.shape
            for index, tier in enumerate(table.tiers)
            if tier.codebook is not None
        }


@pytest.mark.parametrize("dim", [1, 3, 4, 7, 16, 65])
@pytest.mark.parametrize("tiers", ["pq2", "pq4", "pq8.f32", "pq4.16"])
def test_a_table_of_codes_is_written_and_verified(convert, tiers, dim):
    rows = random_rows(700, dim)
    store, done = convert(rows, tiers=tiers)
    assert verify(str(store))[1] == []
    off = np.sqrt(np.mean((read_back(store, TABLE) - rows) ** 2))
    assert off < 0.9 * rows.std()
    [tier] = done.metadata.tables[0].tiers
    assert done.metadata.nbytes == 700 * tier.array.row_bytes + tier.encoding.codebook_bytes(dim)


def test_a_codebook_has_no_more_entries_than_its_tier_has_rows(convert):
    store, done = convert(random_rows(5, 8), tiers="pq4")
    assert codebooks(store) == {0: (2, 5, 4)}
    assert str(done.plan.tables[0].tiers[0].encoding) == "pq4.5"
    np.testing.assert_allclose(read_back(store, TABLE), random_rows(5, 8), rtol=1e-3)


def test_few_distinct_rows_come_back_exactly(convert):
    kinds = random_rows(100, 8).astype(np.float16).astype(np.float32)
    rows = kinds[np.random.default_rng(0).integers(0, 100, 5000)]
    store, _ = convert(rows, tiers="pq4")
    assert_same_bits(read_back(store, TABLE), rows)


def test_each_tier_has_a_codebook_of_its_own_rows(convert):
    rows = np.concatenate([random_rows(500, 8), random_rows(500, 8, seed=1) + np.float32(50)])
    store, _ = convert(rows, tiers="pq4.16=50%,pq4.16=rest")
    assert codebooks(store) == {0: (2, 16, 4), 1: (2, 16, 4)}
    assert np.abs(read_back(store, TABLE) - rows).max() < 5


def test_rows_that_are_used_more_are_closer(convert):
    rows = random_rows(3000, 8)
    count = np.where(np.arange(3000) < 300, 1000, 1)
    store, _ = convert(rows, {"count": count}, tiers="pq4.64")
    off = ((read_back(store, TABLE) - rows) ** 2).mean(axis=1)
    assert off[:300].mean() < 0.5 * off[300:].mean()


def metric(dim, seed=0):
    turn = np.random.default_rng(seed).standard_normal((dim, dim))
    return (turn @ np.diag(10.0 ** -np.linspace(0, 2.5, dim)) @ turn.T).astype(np.float32)


@pytest.mark.parametrize("tiers", ["int4", "int2", "int4.affine", "pq2", "pq4", "int8"])
def test_codes_rounded_in_the_metric_cost_less_in_it(convert, tiers):
    rows, known = random_rows(2000, 16), {"metric": metric(16), "count": np.ones(2000)}
    costs = {}
    for rounding in ("nearest", "metric"):
        store, done = convert(rows, known, tiers=tiers, rounding=rounding)
        off = (read_back(store, TABLE) - rows).astype(np.float64)
        costs[rounding] = np.einsum("rd,de,re->", off, known["metric"].astype(float), off)
        assert done.plan.tables[0].rounding == rounding
    assert costs["metric"] < 0.7 * costs["nearest"]


@pytest.mark.parametrize(("tiers", "expected"), [("int8", "nearest"), ("int4", "metric")])
def test_few_bits_are_rounded_in_the_metric_where_the_stats_have_it(convert, tiers, expected):
    known = {"metric": metric(16), "count": np.ones(200)}
    assert convert(random_rows(200, 16), known, tiers=tiers)[1].plan.tables[0].rounding == expected
    assert convert(random_rows(200, 16), tiers=tiers)[1].plan.tables[0].rounding == "nearest"


@pytest.mark.parametrize("tiers", ["int4", "pq4", "f16=20%,int2=rest"])
def test_other_dtypes_are_rounded_as_their_float32_values(convert, tiers):
    rows = bfloat16(random_rows(300, 16))
    wide = (np.frombuffer(rows.data, "<u2").astype(np.uint32) << 16).view(np.float32)
    known = {"metric": metric(16), "count": np.arange(300)}
    a, _ = convert(rows, known, name="a", tiers=tiers)
    b, _ = convert(wide.reshape(300, 16), known, name="b", tiers=tiers)
    assert_same_bits(read_back(a, TABLE), read_back(b, TABLE))


def test_the_same_input_gives_the_same_codebooks(convert):
    known = {"metric": metric(16), "count": np.arange(3000)}
    digests = {
        convert(random_rows(3000, 16), known, name=name, tiers="pq4")[1].metadata.digest
        for name in ("a", "b")
    }
    assert len(digests) == 1
