"""Decisions over rows at many prices at once."""

import numpy as np
import pytest

from sharkstore.allocate.decide import LEVELS, prices, tally_block, tiers_from
from sharkstore.plan.costs import choose

BYTES = np.array([64.0, 18.0, 10.0, 2.0, 0.0])


def some_losses(rows, encodings, seed=0):
    rng = np.random.default_rng(seed)
    base = np.array([0, 1e-5, 1e-3, 5e-2, 1.0])[-encodings:, None]
    losses = base * rng.zipf(1.5, rows).clip(0, 1000) * rng.lognormal(0, 0.4, (encodings, rows))
    return losses.astype(np.float32)


def at_level(tally, level):
    return (
        tally.rows[: level + 1].sum(0),
        tally.nbytes[: level + 1].sum(),
        tally.loss[: level + 1].sum(),
    )


@pytest.mark.parametrize("octaves", [0.02, 0.5, 8.0])
def test_tallies_of_two_encodings_are_what_rows_choose_at_each_price(octaves):
    losses, nbytes = some_losses(20_000, 2), BYTES[-2:]
    levels = prices(0.02, octaves)
    assert len(levels) == LEVELS
    tally, _ = tally_block(losses, nbytes, levels)
    for level in range(LEVELS):
        taken, _ = choose(losses, nbytes, levels[level])
        rows, used, loss = at_level(tally, level)
        np.testing.assert_array_equal(rows, np.bincount(taken, minlength=2))
        assert used == (nbytes[taken]).sum()
        assert loss == pytest.approx(
            losses[taken, np.arange(len(taken))].sum(dtype=float), rel=1e-6
        )


@pytest.mark.parametrize("octaves", [0.1, 8.0])
def test_tallies_of_many_encodings_are_exact_at_both_ends_and_never_rise(octaves):
    losses = some_losses(20_000, 5, seed=1)
    levels = prices(0.001, octaves)
    tally, _ = tally_block(losses, BYTES, levels)
    for level in (0, LEVELS - 1):
        taken, _ = choose(losses, BYTES, levels[level])
        np.testing.assert_array_equal(at_level(tally, level)[0], np.bincount(taken, minlength=5))
    assert (np.diff(np.cumsum(tally.nbytes)) <= 0).all()
    assert tally.rows.sum() == 20_000


def test_choices_are_read_back_as_of_any_price_and_row_by_row_within_one(tmp_path):
    losses = some_losses(5000, 5, seed=2)
    levels = prices(0.001, 4.0)
    tally, packed = tally_block(losses, BYTES, levels)
    path = tmp_path / "choices"
    path.write_bytes(packed.tobytes())

    def rows(level, changed):
        return np.concatenate(list(tiers_from(str(path), level, changed, 5000)))

    low, _ = choose(losses, BYTES, levels[0])
    high, _ = choose(losses, BYTES, levels[-1])
    np.testing.assert_array_equal(rows(0, 0), low)
    np.testing.assert_array_equal(rows(LEVELS, 0), high)
    for level in (1, 7, LEVELS - 1):
        before, after = rows(level, 0), rows(level, 5000)
        np.testing.assert_array_equal(np.bincount(after, minlength=5), at_level(tally, level)[0])
        moved = np.flatnonzero(before != after)
        part = rows(level, len(moved) // 2)
        np.testing.assert_array_equal(np.flatnonzero(part != before), moved[: len(moved) // 2])


def test_no_rows_are_no_blocks(tmp_path):
    path = tmp_path / "choices"
    path.write_bytes(b"")
    assert list(tiers_from(str(path), 3, 0, 0)) == []
