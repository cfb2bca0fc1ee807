"""Rows that stand for a table."""

import os

import numpy as np
import pytest

from sharkstore.plan.weigh import Weights
from sharkstore.tensors import Tensor
from sharkstore.write.sample import Room, draw, draw_two


class Rows:
    """Rows whose every value is their id."""

    def read(self, name, start, stop):
        return np.repeat(np.arange(start, stop, dtype=np.float32)[:, None], 3, axis=1)


def tensor(rows):
    return Tensor("t", (rows, 3), "float32")


def zipf(rows, seed=0):
    return np.random.default_rng(seed).zipf(1.6, rows) - 1


def test_all_rows_of_a_small_table_stand_for_themselves():
    sample = draw(Rows(), tensor(100), Weights(values=np.arange(100)))
    np.testing.assert_array_equal(sample.ids, np.arange(100))
    np.testing.assert_array_equal(sample.rows[:, 0], sample.ids)
    np.testing.assert_array_equal(sample.stands, 1)
    np.testing.assert_array_equal(sample.weights[1:], np.arange(1, 100))


def test_of_a_large_table_few_rows_stand_for_all_and_those_used_most_are_taken():
    count = zipf(200_000)
    sample = draw(Rows(), tensor(len(count)), Weights(values=count, scale=0.25), most=5000)
    assert len(sample.ids) <= 5000
    assert (np.diff(sample.ids) > 0).all()
    np.testing.assert_array_equal(sample.rows[:, 0], sample.ids)
    assert sample.stands.sum() == pytest.approx(len(count), rel=1e-9)
    assert (sample.weights * sample.stands).sum() == pytest.approx(
        Weights(values=count, scale=0.25).block(0, len(count)).sum(), rel=0.02
    )
    assert set(np.argsort(-count, kind="stable")[:100]) <= set(sample.ids.tolist())


def test_the_same_rows_come_every_time():
    count = zipf(100_000)
    a, b = (draw(Rows(), tensor(len(count)), Weights(values=count), most=1000) for _ in range(2))
    np.testing.assert_array_equal(a.ids, b.ids)


def test_only_some_rows_may_count():
    def even(start, stop):
        return np.arange(start, stop) % 2 == 0

    for rows, most in ((100, 1000), (50_000, 1000)):
        sample = draw(Rows(), tensor(rows), Weights(values=zipf(rows)), most=most, own=even)
        assert (sample.ids % 2 == 0).all()
        assert sample.stands.sum() == pytest.approx(rows / 2)


def test_what_is_not_finite_is_zero():
    class Holes(Rows):
        def read(self, name, start, stop):
            rows = super().read(name, start, stop)
            rows[::2, 1] = np.nan
            return rows

    assert np.isfinite(draw(Holes(), tensor(10), Weights()).rows).all()


def test_an_empty_table_has_no_rows():
    assert len(draw(Rows(), tensor(0), Weights()).ids) == 0


def test_of_two_samples_rows_of_common_weights_are_in_one_alone():
    count = zipf(200_000)
    first, second = draw_two(Rows(), tensor(len(count)), Weights(values=count), most=5000)
    alone = draw(Rows(), tensor(len(count)), Weights(values=count), most=5000)
    np.testing.assert_array_equal(first.ids, alone.ids)
    assert len(second.ids) == len(first.ids)
    assert second.stands.sum() == pytest.approx(len(count), rel=1e-9)
    both = np.intersect1d(first.ids, second.ids)
    assert not np.isin(count[both], (0, 1)).any()
    assert set(np.argsort(-count, kind="stable")[:100]) <= set(both.tolist())


def test_all_rows_of_a_small_table_are_both_samples():
    first, second = draw_two(Rows(), tensor(100), Weights(values=np.arange(100)))
    assert first is second


def test_samples_of_many_tables_lie_in_one_file(tmp_path):
    tables = [tensor(100 + n) for n in range(20)]
    before = len(os.listdir("/dev/fd"))
    room = Room(sum(2 * 4 * 60 * table.shape[1] for table in tables), str(tmp_path))
    pairs = [draw_two(Rows(), table, Weights(), 60, room) for table in tables]
    assert len(os.listdir("/dev/fd")) <= before + 1
    assert not os.listdir(tmp_path)
    for table, (first, second) in zip(tables, pairs, strict=True):
        for found, expected in zip(
            (first, second), draw_two(Rows(), table, Weights(), 60), strict=True
        ):
            np.testing.assert_array_equal(found.rows, expected.rows)
