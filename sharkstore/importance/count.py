"""The counting pass."""

from __future__ import annotations

from torch import Tensor

from sharkstore.errors import StatsError
from sharkstore.importance.find import NAME_THEM
from sharkstore.importance.lookups import Lookup
from sharkstore.importance.table import use_rows
from sharkstore.importance.totals import Totals


class Counting:
    """Counts of rows and samples, while forward passes run.

    Lookups of a forward pass of the whole model are counted when it ends, so that one that
    fails leaves nothing.

    Args:
        labelled: lookups wait for their labels besides.
    """

    def __init__(self, totals: Totals, *, labelled: bool) -> None:
        self._totals = totals
        self._labelled = labelled
        self._inside = False
        self._waiting: list[Lookup] = []
        # samples by module, where parts of the model are called and never the whole
        self._samples: dict[str, int] = {}

    def begin_forward(self, *_: object) -> None:
        """The model's forward pre-hook.

        Raises:
            StatsError: lookups wait for labels.
        """
        if not self._inside:
            self._refuse_waiting()
        self._waiting.clear()  # of a forward pass that failed
        self._inside = True

    def add(self, lookup: Lookup) -> None:
        """Count a lookup's rows, or keep it until its forward pass ends or its labels come."""
        if self._labelled or self._inside:
            self._waiting.append(lookup)
            return
        self._use(lookup, None)
        path = lookup.site.path
        self._samples[path] = self._samples.get(path, 0) + lookup.samples

    def end_forward(self, *_: object) -> None:
        """The model's forward hook: a batch is complete.

        Raises:
            StatsError: its lookups were of different numbers of samples.
        """
        self._inside = False
        if self._waiting and not self._labelled:
            self._count(self._waiting[0].samples, None)

    def end(self) -> None:
        """The pass is over.

        Raises:
            StatsError: lookups wait for labels.
        """
        self._refuse_waiting()
        if self._samples:
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
        self._count(len(positive), positive)

    def _count(self, samples: int, positive: Tensor | None) -> None:
        waiting, self._waiting = self._waiting, []
        for lookup in waiting:
            if lookup.samples != samples:
                what = f"looked up for {lookup.samples} samples in a batch of {samples}"
                raise StatsError(what, where=lookup.site.path, remedy=NAME_THEM)
        for lookup in waiting:
            self._use(lookup, positive)
        self._count_samples(samples)

    def _use(self, lookup: Lookup, positive: Tensor | None) -> None:
        use_rows(self._totals.tables[lookup.site.table].counted, lookup, positive)

    def _refuse_waiting(self) -> None:
        if self._waiting and self._labelled:
            what = "a forward pass was not followed by importance.positives(labels)"
            raise StatsError(what, where="counting(labelled=True)")

    def _count_samples(self, samples: int) -> None:
        self._totals.counted += samples
        self._totals.counted_labelled += samples * self._labelled
        self._samples.clear()


def flags(labels: Tensor, samples: int) -> Tensor:
    """Which samples are positive, bool (samples,): labels that are true, or above 0.5.

    Raises:
        StatsError: not one label a sample.
    """
    if not isinstance(labels, Tensor):
        raise StatsError("labels must be a tensor", got=type(labels).__name__)
    if labels.numel() != samples:
        expected = f"({samples},)"
        raise StatsError("one label a sample", got=tuple(labels.shape), expected=expected)
    return labels.detach().reshape(-1) > 0.5
