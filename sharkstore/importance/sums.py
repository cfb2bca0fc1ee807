"""One batch's share of every quantity, from lookups and the gradients pulled back to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sharkstore.errors import StatsError
from sharkstore.importance.find import NAME_THEM
from sharkstore.importance.lookups import Lookup
from sharkstore.importance.losses import Pull, Step

# bytes of vectors that are summed together, and so copied
TOGETHER = 1 << 25


@dataclass(frozen=True, slots=True)
class BatchSums:
    """Sums over the samples of one batch.

    Args:
        fields: in the order of the rows of `scores`.
        scores: float64 (fields, 4): of |<g, ē − e>|, <g, ē − e>, |<g, e>| and
            ½ (ē − e)ᵀ H (ē − e), where g is the gradient of a sample's own loss in its vector
            e, H its Gauss–Newton matrix there, and ē is what the vector would be were all rows
            of the table its mean row.
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
        StatsError: the outputs don't depend on any lookup.
    """
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


def drop_strays(
    lookups: Sequence[tuple[Lookup, tuple[str, ...]]],
    pulled: Sequence[tuple[Pull, list[Tensor | None]]],
) -> tuple[list[tuple[Lookup, tuple[str, ...]]], list[tuple[Pull, list[Tensor | None]]]]:
    """Leave out lookups of forward passes that came to no step: failed ones, for one.

    The loss has no part in them, but in others of their module. A module that it has no part
    in at all stays: its fields are worth nothing.
    """
    alive = [any(grads[i] is not None for _, grads in pulled) for i in range(len(lookups))]
    paths = {one.site.path for (one, _), lives in zip(lookups, alive, strict=True) if lives}
    kept = [i for i, (one, _) in enumerate(lookups) if alive[i] or one.site.path not in paths]
    return [lookups[i] for i in kept], [(pull, [grads[i] for i in kept]) for pull, grads in pulled]


def check_lookup(one: Lookup, samples: int) -> None:
    """Refuse a lookup of another batch, or whose vectors the model has written over.

    Raises:
        StatsError: naming the module.
    """
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
    sums: dict[str, Tensor] = {}
    metrics: dict[str, Tensor] = {}
    home = pulled[0][0].output.device
    for group in _groups([lookup for lookup, _ in lookups]):
        members = [lookups[index][0] for index in group]
        grads = [(pull, [grads[index] for index in group]) for pull, grads in pulled]
        parts, curves = _sum_group(members, grads, [means[one.site.table] for one in members])
        for index, part, metric in zip(group, parts, curves, strict=True):
            lookup, fields = lookups[index]
            table = lookup.site.table
            metrics[table] = metric if table not in metrics else metrics[table] + metric
            by_sample = _by_sample(lookup, len(fields), part).to(home)
            for column, field in enumerate(fields):
                one = by_sample[..., column]
                sums[field] = sums[field] + one if field in sums else one
    scores = _scores([pull for pull, _ in pulled], torch.stack(list(sums.values())))
    return BatchSums(tuple(sums), scores, metrics)


def _scores(pulls: Sequence[Pull], moved: Tensor) -> Tensor:
    """Sums over samples of each field's scores.

    Args:
        moved: (fields, pulls, 2, samples): <v, ē − e> and <v, e>, with v a pull's gradient.

    Returns:
        float64 (fields, 4): see `BatchSums`.
    """
    slope = torch.zeros_like(moved[:, 0])
    curved = torch.zeros_like(moved[:, 0, 0])
    for index, pull in enumerate(pulls):
        if pull.slope is not None:
            slope += moved[:, index] * pull.slope.to(moved)
        if pull.curvature is not None:
            curved += moved[:, index, 0].square() * (pull.curvature.to(moved) / 2)
    move, mask = slope.unbind(dim=1)
    columns = [move.abs(), move, mask.abs(), curved]
    return torch.stack([one.sum(dim=1, dtype=torch.float64) for one in columns], dim=1)


def _groups(lookups: Sequence[Lookup]) -> list[list[int]]:
    """Lookups that are summed together, in few operations: those of vectors of one shape."""
    found: dict[Any, list[list[int]]] = {}
    for index, one in enumerate(lookups):
        parts = (one.times, one.squares, one.kept)
        alike = (one.output.shape, one.output.dtype, one.output.device, *(p is None for p in parts))
        key = alike if one.vectors_owner is None else index
        most = max(1, TOGETHER // max(one.output.nbytes, 1))
        groups = found.setdefault(key, [[]])
        if len(groups[-1]) == most:
            groups.append([])
        groups[-1].append(index)
    return [group for groups in found.values() for group in groups]


def _sum_group(
    lookups: Sequence[Lookup],
    pulled: Sequence[tuple[Pull, list[Tensor | None]]],
    means: Sequence[Tensor],
) -> tuple[Tensor, Tensor]:
    """Sums of n lookups of m vectors each.

    Returns:
        <v, ē − e> and <v, e> of each vector and pull, (n, pulls, 2, m), with v the pull's
        gradient; and metrics, float64 (n, dim, dim).
    """
    wide = torch.promote_types(lookups[0].output.dtype, torch.float32)
    dim = lookups[0].output.shape[-1]
    vectors = _stacked([one.output.detach().to(wide).reshape(-1, dim) for one in lookups])
    mean = _stacked([row.to(vectors) for row in means])
    times, squares, kept = (
        None if parts[0] is None else _stacked([part for part in parts if part is not None])
        for parts in zip(*((one.times, one.squares, one.kept) for one in lookups), strict=True)
    )
    parts = vectors.new_zeros((len(lookups), len(pulled), 2, vectors.shape[1]))
    metrics = vectors.new_zeros((len(lookups), dim, dim))
    for index, (pull, grads) in enumerate(pulled):
        if all(grad is None for grad in grads):
            continue
        blank = torch.zeros_like(vectors[0])
        flat = _stacked([blank if g is None else g.to(wide).reshape(-1, dim) for g in grads])
        own = _scaled((flat * vectors).sum(dim=2), kept)
        parts[:, index, 0] = _scaled(torch.bmm(flat, mean[:, :, None])[:, :, 0], times) - own
        parts[:, index, 1] = own
        if pull.curvature is not None:
            weight = _scaled(_spread(pull.curvature, lookups[0], wide), squares)
            metrics += torch.bmm((flat * weight[..., None]).transpose(1, 2), flat)
    return parts, metrics.double()


def _stacked(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors of one shape in one; a view if it is one."""
    return tensors[0][None] if len(tensors) == 1 else torch.stack(list(tensors))


def _scaled(values: Tensor, factors: Tensor | None) -> Tensor:
    return values if factors is None else values * factors


def _spread(values: Tensor, lookup: Lookup, dtype: torch.dtype) -> Tensor:
    """Values of samples, (samples,), as values of vectors, (m,)."""
    owner = lookup.vectors_owner
    values = values.to(lookup.output.device, dtype)  # tables need not be where the head is
    return values if owner is None else values[owner]


def _by_sample(lookup: Lookup, columns: int, values: Tensor) -> Tensor:
    """Values of vectors, (…, m), summed by sample and field: (…, samples, columns)."""
    if columns > 1:
        return values.reshape(*values.shape[:-1], lookup.samples, columns)
    if lookup.vectors_owner is None:
        return values[..., None]
    summed = values.new_zeros((*values.shape[:-1], lookup.samples))
    return summed.index_add_(-1, lookup.vectors_owner, values)[..., None]
