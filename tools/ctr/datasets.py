"""Click logs as arrays, and sets on disk as `encoded.npz` with `meta.json`."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int32]
Labels = NDArray[np.uint8]

TRAIN, VALIDATION, TEST = 0, 1, 2
VALIDATION_SHARE = 0.1

# Fields that training can't use: no date of the test split occurs in the training split.
UNUSABLE = {"kuairand_sub": ("date",)}


@dataclass(frozen=True, slots=True)
class Dataset:
    """Samples of categorical fields with a binary label.

    Args:
        name: of the set.
        fields: names of the fields.
        cardinalities: rows of each field's embedding table: its largest id + 1.
        ids: int32 (samples, fields).
        labels: uint8 (samples,), 0 or 1.
        split: uint8 (samples,): 0 training, 1 validation, 2 test.
    """

    name: str
    fields: tuple[str, ...]
    cardinalities: tuple[int, ...]
    ids: Ids
    labels: Labels
    split: NDArray[np.uint8]

    def part(self, split: int) -> tuple[Ids, Labels]:
        """The ids, int32 (n, fields), and labels, uint8 (n,), of one split."""
        chosen = self.split == split
        return self.ids[chosen], self.labels[chosen]

    def only(self, fields: Collection[str]) -> Dataset:
        """The set with some of its fields, in the order that they have here."""
        kept = [place for place, field in enumerate(self.fields) if field in fields]
        return replace(
            self,
            fields=tuple(self.fields[place] for place in kept),
            cardinalities=tuple(self.cardinalities[place] for place in kept),
            ids=np.ascontiguousarray(self.ids[:, kept]),
        )


def load(folder: Path, leave_out: Collection[str] | None = None, *, seed: int = 0) -> Dataset:
    """Read a set from a folder.

    Args:
        folder: holds `encoded.npz` (X, y, fields, card, split) and `meta.json` (name).
        leave_out: fields to leave out; when not given, those known to be unusable.
        seed: of the validation split, drawn from the training split where a set has none.

    Raises:
        ValueError: a field to leave out that isn't there, a set without a test split, or arrays
            that are missing or don't fit each other.
    """
    try:
        name = str(json.loads((folder / "meta.json").read_text())["name"])
        with np.load(folder / "encoded.npz") as arrays:
            fields = [str(field) for field in arrays["fields"]]
            cardinalities = arrays["card"].tolist()
            ids, labels, split = arrays["X"], arrays["y"], arrays["split"]
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a set of click data: {error}") from error
    _check(ids, labels, split, cardinalities)
    out = UNUSABLE.get(name, ()) if leave_out is None else leave_out
    unknown = sorted(set(out) - set(fields))
    if unknown:
        raise ValueError(f"{name} has no field {', '.join(unknown)}")
    if TEST not in split:
        raise ValueError(f"{name} has no test split (2)")
    kept = [i for i, field in enumerate(fields) if field not in out]
    return Dataset(
        name,
        tuple(fields[i] for i in kept),
        tuple(cardinalities[i] for i in kept),
        np.ascontiguousarray(ids[:, kept], np.int32),
        labels.astype(np.uint8),
        _with_validation(split.astype(np.uint8), seed),
    )


def _check(
    ids: NDArray[Any], labels: NDArray[Any], split: NDArray[Any], cardinalities: Sequence[int]
) -> None:
    length = (len(ids),)
    if ids.shape != (*length, len(cardinalities)) or not labels.shape == split.shape == length:
        raise ValueError(f"X {ids.shape}, y {labels.shape}, split {split.shape}: they don't fit")
    if len(ids) and ((ids < 0).any() or (ids.max(axis=0) >= cardinalities).any()):
        raise ValueError("ids outside the cardinalities")
    if not np.isin(labels, (0, 1)).all():
        raise ValueError("labels other than 0 and 1")


def _with_validation(split: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
    """The split, with a tenth of the training samples for validation if it has none."""
    if VALIDATION in split:
        return split
    training = np.flatnonzero(split == TRAIN)
    count = int(len(training) * VALIDATION_SHARE)
    split[np.random.default_rng(seed).choice(training, count, replace=False)] = VALIDATION
    return split
