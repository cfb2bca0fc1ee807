"""A seeded click log: Zipf-like ids, labels from latent factors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctr.datasets import TEST, TRAIN, VALIDATION, Dataset, Ids

F32 = NDArray[np.float32]

FACTORS = 4


@dataclass(frozen=True, slots=True)
class Field:
    """A field to generate.

    Args:
        name: of the field.
        rows: ids run from 0 to `rows - 1`.
        signal: standard deviation of the field's latent values; 0: the label ignores it.
    """

    name: str
    rows: int
    signal: float = 1.0


def generate(seed: int, samples: int, fields: Sequence[Field], **rest: Any) -> Dataset:
    """The log of `generate_known` alone."""
    return generate_known(seed, samples, fields, **rest)[0]


def generate_known(
    seed: int,
    samples: int,
    fields: Sequence[Field],
    *,
    exponent: float = 1.05,
    spread: float = 1.6,
    center: float = -1.2,
    name: str = "click log",
) -> tuple[Dataset, F32]:
    """Generate a click log; the same arguments give the same log.

    Each id of a field has a latent bias b and a latent vector v of 4 values, all normal. A
    sample's raw value is the sum of its biases and of the products <v_f, v_g> over all pairs
    of fields; brought to mean `center` and standard deviation `spread`, it is the logit that
    its label is drawn from. Ids are drawn by Zipf's law: the k-th most popular has weight
    k ** -exponent, and a permutation decides which id that is.

    One field is worked on at a time: beside the log, about 40 bytes a row of the largest table
    and 40 bytes a sample are held.

    Returns:
        The log: the first 80 % of the samples to train, 10 % to validate, 10 % to test. And the
        logits that the labels were drawn from, float32 (samples,): no model ranks better.
    """
    *streams, last = np.random.default_rng(seed).spawn(len(fields) + 1)
    ids = np.empty((samples, len(fields)), np.int32)
    value = np.zeros(samples, np.float32)
    total = np.zeros((samples, FACTORS), np.float32)
    for index, (field, rng) in enumerate(zip(fields, streams, strict=True)):
        ids[:, index] = _zipf(rng, field.rows, samples, exponent)
        if field.signal:
            _add_field(rng, field, ids[:, index], value, total)
    value += np.square(total).sum(axis=1) / 2  # sum over pairs = (|sum|² - sum of |v|²) / 2
    logits = center + spread * (value - value.mean()) / max(float(value.std()), 1e-9)
    clicked = last.random(samples) < 1 / (1 + np.exp(-logits))
    split = np.full(samples, TRAIN, np.uint8)
    split[samples * 8 // 10 :] = VALIDATION
    split[samples * 9 // 10 :] = TEST
    names, rows = tuple(field.name for field in fields), tuple(field.rows for field in fields)
    return Dataset(name, names, rows, ids, clicked.astype(np.uint8), split), logits


def _zipf(rng: np.random.Generator, rows: int, samples: int, exponent: float) -> Ids:
    """Ids, int32 (samples,): ranks by Zipf's law, scattered over the table."""
    reached = np.cumsum(np.arange(1, rows + 1, dtype=np.float64) ** -exponent)
    ranks = np.searchsorted(reached, rng.random(samples) * reached[-1], side="right")
    ids: Ids = rng.permutation(np.arange(rows, dtype=np.int32))[np.minimum(ranks, rows - 1)]
    return ids


def _add_field(rng: np.random.Generator, field: Field, ids: Ids, value: F32, total: F32) -> None:
    """Add a field's biases and its share of the pairwise products, in place.

    Args:
        ids: int32 (samples,).
        value: float32 (samples,): gains b - |v|² / 2.
        total: float32 (samples, 4): gains v.
    """
    bias = rng.standard_normal(field.rows, np.float32) * np.float32(field.signal)
    factors = rng.standard_normal((field.rows, FACTORS), np.float32)
    factors *= np.float32(field.signal / FACTORS**0.5)
    value += (bias - np.square(factors).sum(axis=1) / 2)[ids]
    total += factors[ids]
