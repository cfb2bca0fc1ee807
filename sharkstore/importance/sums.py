"""One batch's share of every quantity, from lookups and the gradients pulled back to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sharkstore.errors import StatsError
from sharkstore.importance.find import NAME_THEM
from sharkstore.importance.lookups import Lookup
from sharkstore.importance.losses import Pull, Step


@dataclass(frozen=True, slots=True)
class BatchSums:
    """Sums over the samples of one batch.

    Args:
        fields: in the order of the rows of `scores`.
        scores: float64 (fields, 3): of |<g, ē − e>|, <g, ē − e> and |<g, e>|, where g is the
            gradient of a sample's own loss in its vector e, and ē is what the vector would be
            were all rows of the table its mean row.
        metrics: by table, float64 (dim, dim): of a² · curvature over all uses of rows, a being
            the row's coefficient in its bag.
    """

    fields: Sequence[str]
    scores: Tensor
    metrics: Mapping[str, Tensor]

    def broken(self) -> list[str]:
        """Fields and tables with sums that are not finite."""
        finite = self.scores.isfinite().all(dim=1).tolist()
        fields = [field for field, sound in zip(self.fields, finite, strict=True) if not sound]
        home = self.scores.device
        traces = torch.stack([metric.trace().to(home) for metric in self.metrics.values()])
        tables = zip(self.metrics, traces.isfinite().tolist(), strict=True)
        return fields or [table for table, sound in tables if not sound]


def pull_back(
    step: Step, lookups: Sequence[Lookup], *, retain_graph: bool
) -> list[tuple[Pull, list[Tensor | None]]]:
    """The gradient of each pull in the vectors of each lookup; None where it has no part.

    Raises:
        StatsError: lookups of another batch, vectors that the model has written over, or
            outputs that don't depend on any lookup.
    """
    for one in lookups:
        _check_lookup(one, step.samples)
    outputs = [one.output for one in lookups]
    found: list[tuple[Pull, list[Tensor | None]]] = []
    for place, pull in enumerate(step.pulls):
        grads = torch.autograd.grad(
            pull.output,
            outputs,
            pull.cotangent,
            retain_graph=retain_graph or place + 1 < len(step.pulls),
            allow_unused=True,
        )
        found.append((pull, list(grads)))
    if all(grad is None for _, grads in found for grad in grads):
        remedy = "pass what the model gave, not a detached copy"
        raise StatsError("logits or losses do not come from the rows looked up", remedy=remedy)
    return found


def _check_lookup(one: Lookup, samples: int) -> None:
    if one.samples != samples:
        raise StatsError(
            f"looked up for {one.samples} samples in a batch of {samples}",
            where=one.site.path,
            remedy=NAME_THEM,
        )
    if one.output._version != one.version:  # noqa: SLF001 - torch has no other name for it
        remedy = "let the model write to a copy: x = x + y in place of x += y"
        raise StatsError("the vectors were changed in place", where=one.site.path, remedy=remedy)


def sum_batch(
    lookups: Sequence[tuple[Lookup, tuple[str, ...]]],
    pulled: Sequence[tuple[Pull, list[Tensor | None]]],
    means: Mapping[str, Tensor],
) -> BatchSums:
    """Add up a batch.

    Args:
        lookups: with the fields of each.
        pulled: as `pull_back` gave it for these lookups.
        means: mean row of each table, (dim,).
    """
    moves: dict[str, Tensor] = {}
    masks: dict[str, Tensor] = {}
    metrics: dict[str, Tensor] = {}
    home = pulled[0][0].output.device
    for index, (lookup, fields) in enumerate(lookups):
        grads = [(pull, grads[index]) for pull, grads in pulled]
        move, mask, metric = _sum_lookup(lookup, grads, means[lookup.site.table])
        table = lookup.site.table
        metrics[table] = metric if table not in metrics else metrics[table] + metric
        by_sample = _by_sample(lookup, len(fields), torch.stack([move, mask])).to(home)
        for column, field in enumerate(fields):
            a, b = by_sample[0, :, column], by_sample[1, :, column]
            moves[field] = moves[field] + a if field in moves else a
            masks[field] = masks[field] + b if field in masks else b
    move, mask = torch.stack(list(moves.values())), torch.stack(list(masks.values()))
    sums = [move.abs(), move, mask.abs()]
    scores = torch.stack([one.sum(dim=1, dtype=torch.float64) for one in sums], dim=1)
    return BatchSums(tuple(moves), scores, metrics)


def _sum_lookup(
    lookup: Lookup, grads: Sequence[tuple[Pull, Tensor | None]], mean: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """<g, ē − e> and <g, e> of each vector, (m,), and the sum of the metric, (dim, dim)."""
    wide = torch.promote_types(lookup.output.dtype, torch.float32)
    vectors = lookup.output.detach().to(wide).reshape(-1, lookup.output.shape[-1])
    move = vectors.new_zeros(len(vectors))
    mask = vectors.new_zeros(len(vectors))
    metric = torch.zeros(vectors.shape[1:] * 2, dtype=torch.float64, device=vectors.device)
    mean = mean.to(vectors)
    for pull, grad in grads:
        if grad is None:
            continue
        flat = grad.to(wide).reshape(vectors.shape)
        if pull.slope is not None:
            slope = _spread(pull.slope, lookup, wide)
            own = (flat * vectors).sum(dim=1) * slope
            own = own if lookup.kept is None else own * lookup.kept
            other = (flat @ mean) * slope
            move += (other if lookup.times is None else other * lookup.times) - own
            mask += own
        if pull.curvature is not None:
            weight = _spread(pull.curvature, lookup, wide)
            weight = weight if lookup.squares is None else weight * lookup.squares
            metric += (flat * weight[:, None]).T @ flat
    return move, mask, metric


def _spread(values: Tensor, lookup: Lookup, dtype: torch.dtype) -> Tensor:
    """Values of samples, (samples,), as values of vectors, (m,)."""
    owner = lookup.vectors_owner
    values = values.to(lookup.output.device, dtype)  # tables need not be where the head is
    return values if owner is None else values[owner]


def _by_sample(lookup: Lookup, columns: int, values: Tensor) -> Tensor:
    """Values of vectors, (2, m), summed by sample and field: (2, samples, columns)."""
    if columns > 1:
        return values.reshape(2, lookup.samples, columns)
    if lookup.vectors_owner is None:
        return values[:, :, None]
    summed = values.new_zeros((2, lookup.samples))
    return summed.index_add_(1, lookup.vectors_owner, values)[:, :, None]
