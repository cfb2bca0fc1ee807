"""Training of codebooks: errors, odd rows, and the same codebook always."""

import hashlib

import numpy as np
import pytest
from strategies import random_rows
from views import using

from sharkstore import kernels
from sharkstore.encodings import Encoding
from sharkstore.kernels import Codebook, pq
from sharkstore.quant.codebook import train_codebook
from sharkstore.quant.encode import faint, fitted, overflow
from sharkstore.quant.metric import factor

F = np.float32
SUBS = [2, 4, 8]
every_sub = pytest.mark.parametrize("sub", SUBS)
every_dtype = pytest.mark.parametrize("dtype", ["float16", "float32"])


def pq_of(sub=4, entries=256, dtype="float32"):
    return Encoding("pq", sub=sub, entries=entries, codebook_dtype=dtype)


def trained(rows, encoding=None, weights=None, metric=None, seed=0):
    encoding = encoding or pq_of()
    weights = np.ones(len(rows)) if weights is None else np.asarray(weights, float)
    entries = train_codebook(encoding, rows, weights, metric, seed)
    assert entries.shape == encoding.codebook_shape(rows.shape[1])
    assert entries.dtype == encoding.book_dtype
    assert np.isfinite(entries).all()
    inner = None if metric is None else factor(np.asarray(metric), encoding.sub)
    return Codebook.of(entries, rows.shape[1], inner)


def served(rows, book):
    return pq.decode(book, pq.encode(book, rows), rows.shape[1])


def mean_square(rows, book, weights=None, metric=None):
    off = rows.astype(float) - served(rows, book)
    inner = np.eye(rows.shape[1]) if metric is None else metric
    return np.average(((off @ inner) * off).sum(axis=1), weights=weights)


def clustered(rows, dim, sub, clusters, seed=0):
    """Rows each block of which lies near one of some points, and the mean square off them."""
    rng = np.random.default_rng(seed)
    blocks = dim // sub
    points = rng.normal(size=(blocks, clusters, sub)) * 5
    off = rng.normal(size=(rows, blocks, sub)) * 0.05
    chosen = points[np.arange(blocks), rng.integers(0, clusters, (rows, blocks))]
    return (chosen + off).reshape(rows, dim).astype(F), (off**2).sum() / rows


# --- errors ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sub", "entries", "best"),
    # what scikit-learn's k-means finds, the best of five runs to their ends
    [(2, 4, 0.3635), (2, 16, 0.1071), (4, 16, 0.3406)],
)
def test_errors_of_normal_rows_are_near_those_of_long_runs(sub, entries, best):
    rows = random_rows(20000, 8)
    found = mean_square(rows, trained(rows, pq_of(sub, entries))) / 8
    assert found <= 1.03 * best


@every_sub
@pytest.mark.parametrize("metric", [False, True])
def test_every_one_of_many_clusters_is_found(metric, sub):
    rows, least = clustered(8000, 16, sub, 100)
    inner = np.diag(np.geomspace(0.1, 10, 16)) if metric else None
    book = trained(rows, pq_of(sub, 100), metric=inner)
    assert mean_square(rows, book) <= 1.2 * least


def test_rows_of_weight_are_held_best():
    rows = random_rows(6000, 8)
    weights = np.where(np.arange(6000) < 200, 100.0, 1.0)
    far, near = trained(rows, pq_of(8, 64)), trained(rows, pq_of(8, 64), weights)
    assert mean_square(rows[:200], near) < 0.6 * mean_square(rows[:200], far)
    assert mean_square(rows, near, weights) < 0.8 * mean_square(rows, far, weights)


def skewed(dim, condition=100):
    turn, _ = np.linalg.qr(random_rows(dim, dim).astype(float))
    return (turn * np.geomspace(1 / condition, 1, dim)) @ turn.T


@every_sub
def test_errors_are_least_in_the_metric(sub):
    rows, metric = random_rows(6000, 16), skewed(16)
    inside, outside = trained(rows, pq_of(sub), metric=metric), trained(rows, pq_of(sub))
    assert mean_square(rows, inside, metric=metric) < 0.7 * mean_square(
        rows, outside, metric=metric
    )
    assert mean_square(rows, inside) > mean_square(rows, outside)


@every_sub
def test_entries_fitted_together_beat_those_of_each_block_for_itself(sub):
    rows, metric = random_rows(6000, 16), skewed(16)
    together = trained(rows, pq_of(sub), metric=metric)
    block = np.arange(16) // sub
    apart = train_codebook(
        pq_of(sub), rows, np.ones(6000), np.where(block[:, None] == block, metric, 0)
    )
    same_codes = Codebook.of(apart, 16, factor(metric, sub))
    least = mean_square(rows, same_codes, metric=metric)
    assert mean_square(rows, together, metric=metric) < 0.93 * least


@every_dtype
def test_rows_of_weight_zero_do_not_count(dtype):
    rows = random_rows(3000, 4)
    weights = (np.arange(3000) < 20).astype(float)
    book = trained(rows, pq_of(4, 32, dtype), weights)
    assert np.abs(served(rows[:20], book) - rows[:20]).max() < 2e-3


# --- odd rows --------------------------------------------------------------------------------


@every_sub
@pytest.mark.parametrize("count", [1, 2, 255, 256])
@pytest.mark.parametrize("dim", [1, 3, 8, 17])
def test_rows_no_more_than_entries_are_held_exactly(dim, count, sub):
    rows = random_rows(count, dim)
    book = trained(rows, pq_of(sub))
    for b, start in enumerate(range(0, dim, sub)):
        part = np.unique(rows[:, start : start + sub], axis=0)
        kept = book.entries[b, :, : part.shape[1]]
        np.testing.assert_array_equal(np.unique(kept, axis=0), part)
    # of entries less than 0.001 apart, the scores may not tell the nearer one
    assert np.abs(served(rows, book) - rows).max() < 2e-3
    whole = np.round(rows * 64)
    np.testing.assert_array_equal(served(whole, trained(whole, pq_of(sub))), whole)


def test_many_rows_of_few_values_are_held_exactly():
    rng = np.random.default_rng(0)
    rows = np.round(random_rows(40, 12) * 64)[rng.integers(0, 40, 9000)] / 64
    rows[:, 8:] = random_rows(9000, 4, seed=1)  # the last block alone has more than can be held
    book = trained(rows, pq_of(4, 40))
    np.testing.assert_array_equal(served(rows, book)[:, :8], rows[:, :8])
    assert mean_square(rows, book) < 1.5


@every_dtype
@pytest.mark.parametrize("value", [0.0, -0.0, 1.0, -3.5])
def test_equal_rows_are_held_exactly(value, dtype):
    rows = np.full((1000, 6), value, F)
    np.testing.assert_array_equal(served(rows, trained(rows, pq_of(dtype=dtype))), rows)


@every_sub
@pytest.mark.parametrize("entries", [1, 2, 3, 255])
def test_any_number_of_entries_is_trained(entries, sub):
    rows = random_rows(500, 10)
    book = trained(rows, pq_of(sub, entries))
    if entries == 1:
        np.testing.assert_allclose(served(rows, book)[0], rows.mean(axis=0), atol=1e-5)
    assert mean_square(rows, book) <= 10.5


@pytest.mark.parametrize("dim", [1, 2, 5, 100, 1024])
def test_rows_of_any_length_are_trained(dim):
    rows = random_rows(300, dim)
    assert mean_square(rows, trained(rows, pq_of(4, 64))) < 0.6 * dim


@pytest.mark.parametrize("weights", ["zero", "one row", "tiny", "huge"])
def test_odd_weights_are_taken(weights):
    rows = random_rows(6000, 8)
    drawn = {
        "zero": np.zeros(6000),
        "one row": (np.arange(6000) == 17).astype(float),
        "tiny": np.full(6000, 1e-300),
        "huge": np.full(6000, 1e300),
    }[weights]
    book = trained(rows, pq_of(), drawn)
    if weights == "one row":
        np.testing.assert_allclose(served(rows[17:18], book), rows[17:18], atol=1e-6)
    else:
        np.testing.assert_array_equal(book.entries, trained(rows, pq_of()).entries)


@every_dtype
@pytest.mark.parametrize("size", [1e-44, 1e-30, 1e-8, 1e4, 1e15, 1e37])
def test_rows_of_any_size_give_finite_entries(size, dtype):
    rows = random_rows(2000, 6) * F(size)
    book = trained(rows, pq_of(dtype=dtype))
    if faint(pq_of(dtype=dtype)) < size < overflow(pq_of(dtype=dtype)) / 8:
        assert mean_square(rows / F(size), trained(rows / F(size), pq_of(dtype=dtype))) < 0.6
        assert np.sqrt(mean_square(rows, book)) < 0.8 * size


def test_one_huge_value_does_not_spoil_the_rest():
    rows = random_rows(3000, 8)
    rows[5, 2] = 60000
    off = np.delete(served(rows, trained(rows)) - rows, 5, axis=0)
    assert np.sqrt((off**2).mean()) < 0.5


@pytest.mark.parametrize(
    "metric",
    [
        np.zeros((8, 8)),
        np.diag([1.0, 1, 1, 1, 0, 0, 0, 0]),
        np.ones((8, 8)) - np.eye(8),
        -np.eye(8),
    ],
    ids=["zero", "of some values", "indefinite", "negative"],
)
def test_odd_metrics_are_taken(metric):
    rows = random_rows(3000, 8)
    book = trained(rows, pq_of(), metric=metric)
    assert ((served(rows, book) - rows)[:, :4] ** 2).sum(axis=1).mean() < 0.6


def test_a_metric_that_is_not_finite_is_refused():
    for odd in (np.nan, np.inf):
        with pytest.raises(ValueError, match="finite"):
            trained(random_rows(300, 8), pq_of(), metric=np.full((8, 8), odd))


def test_rows_are_left_alone():
    rows, weights = random_rows(2000, 8), np.ones(2000)
    held, metric = rows.copy(), np.eye(8, dtype=F)
    train_codebook(pq_of(), rows, weights, metric)
    np.testing.assert_array_equal(rows, held)
    np.testing.assert_array_equal(weights, 1)
    np.testing.assert_array_equal(metric, np.eye(8))


# --- the same always -------------------------------------------------------------------------


def plain_rows(count, dim):
    """Rows that every machine makes alike: no logarithms."""
    drawn = np.random.default_rng(3).random((4, count, dim))
    return (drawn[0] + drawn[1] + drawn[2] + drawn[3] - 2).astype(F)


@pytest.mark.parametrize("backend", kernels.backends())
@pytest.mark.parametrize(
    ("sub", "metric", "digest"),
    [(2, False, "321020159fd13512"), (4, True, "929d6de8931d8aa2"), (8, True, "12b276f88987159b")],
)
def test_codebooks_are_the_same_on_every_machine(sub, metric, digest, backend):
    rows = plain_rows(5000, 12)
    weights = 1 / (1 + np.arange(5000.0))
    inner = None if not metric else np.diag(1 / (1 + np.arange(12.0))) + 1 / 64
    with using(backend):
        entries = train_codebook(pq_of(sub, 50, "float16"), rows, weights, inner)
    assert hashlib.sha256(entries.tobytes()).hexdigest()[:16] == digest


def test_another_seed_gives_another_codebook():
    rows = random_rows(3000, 4)
    first, again, other = (trained(rows, seed=seed).entries for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


# --- what pq can hold ------------------------------------------------------------------------


@every_dtype
def test_scores_of_rows_within_the_limits_tell_entries_apart(dtype):
    encoding = pq_of(2, 256, dtype)
    assert fitted(encoding, 1.0) == encoding
    for limit in (overflow(encoding) / 5, 2 * faint(encoding)):
        rows = np.clip(random_rows(4000, 16), -5, 5) * F(limit)
        book = trained(rows, encoding)
        off = (served(rows, book) - rows).astype(float)
        assert np.sqrt((off**2).mean()) < 0.15 * limit
