"""One call of an embedding module: which rows each sample took, and the vectors it gave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sharkstore.errors import StatsError
from sharkstore.importance.find import NAME_THEM, Site


@dataclass(slots=True)
class Lookup:
    """Rows and vectors of one call.

    A vector is a row, or rows pooled in a bag: Σ a · row with coefficients a. What a score
    needs of the coefficients is `times`, their sum; what the curvature of single rows needs is
    `squares`, the sum of their squares. Both are 1 where they are None.

    Args:
        samples: of the batch, as far as the call shows.
        columns: ids a sample, where ids are (samples, columns); else 0.
        ids: int64 (n,): rows used; padding left out.
        owner: int64 (n,): the sample of each id; None: id i is sample i's.
        output: the vectors as the model got them.
        vectors_owner: int64 (m,): the sample of each vector; None: vector i is sample i's.
        times, squares: (m,).
        kept: (m,): 0 for vectors of padding, 1 for others; None: all 1.
        version: of `output`, to see whether the model has written over it.
    """

    site: Site
    samples: int
    columns: int
    ids: Tensor
    owner: Tensor | None
    output: Tensor
    vectors_owner: Tensor | None = None
    times: Tensor | None = None
    squares: Tensor | None = None
    kept: Tensor | None = None
    version: int = 0


def read_call(
    site: Site,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    output: Tensor,
    lengths: Tensor | None,
) -> Lookup:
    """What one call of a site's module looked up.

    Args:
        args, kwargs: of the call.
        output: what the module gave.
        lengths: int (samples,) where the ids are all values of a jagged tensor.

    Raises:
        StatsError: a call that has no samples to tell apart.
    """
    ids = args[0] if args else kwargs["input"]
    if isinstance(site.module, nn.EmbeddingBag):
        offsets = args[1] if len(args) > 1 else kwargs.get("offsets")
        weights = args[2] if len(args) > 2 else kwargs.get("per_sample_weights")
        return _bags(site, ids, offsets, weights, output)
    if lengths is not None:
        return _rows(site, ids, output, len(lengths), _owners(lengths))
    if ids.dim() == 0:
        raise StatsError("looked up one row, of no sample", where=site.path, remedy=NAME_THEM)
    owner = None if ids.dim() == 1 else _owners(_each(ids))
    return _rows(site, ids, output, len(ids), owner)


def _rows(site: Site, ids: Tensor, output: Tensor, samples: int, owner: Tensor | None) -> Lookup:
    """Vectors that are rows."""
    flat = ids.detach().reshape(-1).long()
    found = Lookup(site, samples, ids.shape[1] if ids.dim() == 2 else 0, flat, owner, output)
    found.vectors_owner = owner
    padding = site.module.padding_idx
    if padding is not None:
        keep = flat != padding
        found.kept = found.times = found.squares = keep.to(_wide(output))
        found.ids = flat[keep]
        found.owner = keep.nonzero()[:, 0] if owner is None else owner[keep]
    return found


def _bags(
    site: Site, ids: Tensor, offsets: Tensor | None, weights: Tensor | None, output: Tensor
) -> Lookup:
    """Vectors that are bags of rows, one a sample."""
    bags, mode = site.module, site.module.mode
    samples, flat, wide = len(output), ids.detach().reshape(-1).long(), _wide(output)
    if offsets is None:
        owner = _owners(_each(ids))
    else:
        ends = offsets.detach().long()
        if not bags.include_last_offset:
            ends = torch.cat([ends, ends.new_tensor([len(flat)])])
        owner = _owners(ends.diff())
        flat = flat[int(ends[0]) : int(ends[-1])]
    weight = None if weights is None else weights.detach().reshape(-1)[: len(flat)].to(wide)
    if bags.padding_idx is not None:
        keep = flat != bags.padding_idx
        flat, owner = flat[keep], owner[keep]
        weight = None if weight is None else weight[keep]
    found = Lookup(site, samples, 0, flat, owner, output)
    counts = torch.zeros(samples, dtype=wide, device=flat.device)
    counts.index_add_(0, owner, torch.ones_like(flat, dtype=wide))
    if mode != "sum":  # mean: coefficients 1 / count; max: one row gives each value
        found.times = counts.clamp(max=1)  # 0 for an empty bag: no row, no curvature
        found.squares = found.times / counts.clamp(min=1) if mode == "mean" else found.times
    elif weight is None:
        found.times = found.squares = counts
    else:
        zeros = torch.zeros_like(counts)
        found.times = zeros.index_add(0, owner, weight)
        found.squares = zeros.index_add(0, owner, weight.square())
    return found


def _wide(values: Tensor) -> torch.dtype:
    return torch.promote_types(values.dtype, torch.float32)


def _each(ids: Tensor) -> Tensor:
    """The ids a sample, (samples,), of ids (samples, …)."""
    return torch.full((len(ids),), ids[0].numel() if len(ids) else 0, device=ids.device)


def _owners(lengths: Tensor) -> Tensor:
    """The sample of each id, int64 (n,), of so many ids a sample."""
    lengths = lengths.detach().long()
    return torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths)


def split_fields(site: Site, lookups: list[Lookup]) -> list[tuple[Lookup, tuple[str, ...]]]:
    """Which fields each call of a module since the last step looked up.

    One field: all calls. Several: the calls in their order, or the columns of one call.

    Raises:
        StatsError: neither fits.
    """
    fields = site.fields
    if len(fields) == 1:
        return [(lookup, fields) for lookup in lookups]
    if len(lookups) == len(fields):
        return [(one, (field,)) for one, field in zip(lookups, fields, strict=True)]
    if len(lookups) == 1 and lookups[0].columns == len(fields):
        return [(lookups[0], fields)]
    shape = f" of {lookups[0].columns} columns" if lookups[0].columns else ""
    raise StatsError(
        f"fields {', '.join(fields)} are told apart by the module's calls, or one's columns",
        where=site.path,
        got=f"{len(lookups)} calls{shape}",
        expected=f"{len(fields)} calls or columns",
    )
