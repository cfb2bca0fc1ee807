"""Stores of a trained model, and what the model predicts out of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ctr import train
from ctr.datasets import TEST, VALIDATION, Dataset
from ctr.model import Ctr
from numpy.typing import NDArray
from safetensors.torch import save_file

import sharkstore
from reproduce.scorers import measure
from sharkstore.convert import convert_checkpoint


@dataclass(frozen=True, slots=True)
class Stored:
    """What came of a conversion.

    Args:
        nbytes: of the tables: rows, row maps, codebooks.
        ratio: `nbytes` over those of float32.
        logits: of the test split, float64 (n,).
    """

    nbytes: int
    ratio: float
    logits: NDArray[np.float64]


class Trial:
    """A trained model on disk, what was measured of it, and stores made of it.

    Args:
        folder: for checkpoint, stats and stores.
        batch: samples a step of measuring.
    """

    def __init__(self, model: Ctr, dataset: Dataset, folder: Path, batch: int) -> None:
        self._model, self._store = model, folder / "model.shark"
        self._ids, _ = dataset.part(TEST)
        self._checkpoint, self.stats = folder / "model.safetensors", folder / "stats.safetensors"
        state = {name: value.contiguous() for name, value in model.state_dict().items()}
        save_file(state, self._checkpoint)
        measure(model, dataset, VALIDATION, batch).save(self.stats)

    def convert(self, stats: Path | None = None, **options: Any) -> Stored:
        """Make a store and predict from it.

        Args:
            stats: others than those measured.
            options: of `convert_checkpoint`.
        """
        stats = stats or self.stats
        convert_checkpoint(self._checkpoint, self._store, stats=stats, overwrite=True, **options)
        with sharkstore.open(self._store) as store:
            logits = train.predict_from_store(self._model, store, self._ids)
            return Stored(store.nbytes, store.nbytes / store.metadata.source_nbytes, logits)
