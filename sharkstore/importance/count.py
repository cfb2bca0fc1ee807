"""The counting pass."""

from __future__ import annotations

from torch import Tensor

from sharkstore.errors import StatsError
from sharkstore.importance.lookups import Lookup
from sharkstore.importance.table import use_rows
from sharkstore.importance.totals import Totals


class Counting:
    """Counts of rows and samples, while forward passes run.

    Args:
        labelled: lookups wait for their labels.
    """

    def __init__(self, totals: Totals, *, labelled: bool) -> None:
        self._totals = totals
        self._labelled = labelled
        self._waiting: list[Lookup] = []
        # samples by module since the model's last whole forward pass
        self._samples: dict[str, int] = {}
        self._last = 0

    def add(self, lookup: Lookup) -> None:
        """Count a lookup's rows."""
        if self._labelled:
            self._waiting.append(lookup)
            return
        use_rows(self._totals.tables[lookup.site.table].counted, lookup, None)
        path = lookup.site.path
        self._samples[path] = self._samples.get(path, 0) + lookup.samples
        self._last = lookup.samples

    def end_forward(self, *_: object) -> None:
        """The model's forward hook: a batch is complete."""
        if self._samples:
            self._count_samples(self._last)

    def end(self) -> None:
        """The pass is over.

        Raises:
            StatsError: lookups wait for labels.
        """
        if self._waiting:
            what = "a forward pass was not followed by importance.positives(labels)"
            raise StatsError(what, where="counting(labelled=True)")
        if self._samples:  # parts of the model were called, never the whole
            self._count_samples(max(self._samples.values()))

    def label(self, labels: Tensor) -> None:
        """Labels of the lookups that wait, (samples,).

        Raises:
            StatsError: none wait, or of another number of samples.
        """
        if not self._labelled:
            raise StatsError("labels need `importance.counting(labelled=True)`")
        if not self._waiting:
            raise StatsError("no lookup was seen since the last labels")
        positive = flags(labels, self._waiting[0].samples)
        for lookup in self._waiting:
            if lookup.samples != len(positive):
                got = f"{lookup.samples} samples, {len(positive)} labels"
                raise StatsError("labels of another batch", where=lookup.site.path, got=got)
            use_rows(self._totals.tables[lookup.site.table].counted, lookup, positive)
        self._waiting.clear()
        self._count_samples(len(positive))

    def _count_samples(self, samples: int) -> None:
        self._totals.counted += samples
        self._totals.counted_labelled += samples * self._labelled
        self._samples.clear()


def flags(labels: Tensor, samples: int) -> Tensor:
    """Which samples are positive, bool (samples,): labels that are true, or above 0.5.

    Raises:
        StatsError: not one label a sample.
    """
    if labels.numel() != samples:
        expected = f"({samples},)"
        raise StatsError("one label a sample", got=tuple(labels.shape), expected=expected)
    flat = labels.detach().reshape(-1)
    return flat > 0.5
