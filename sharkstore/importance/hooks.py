"""Hooks on embedding modules, and the lookups they saw."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sharkstore.errors import StatsError
from sharkstore.importance.find import Jagged, Site
from sharkstore.importance.lookups import Lookup, read_call


class Hooks:
    """Hooks on the modules of some sites, from `__enter__` to `__exit__`.

    Args:
        found: called with each lookup.
        gradients: give the model vectors that carry gradients, and leave out lookups that
            happen while gradients are off.
    """

    def __init__(
        self, sites: Iterable[Site], found: Callable[[Lookup], None], *, gradients: bool
    ) -> None:
        self._sites = tuple(sites)
        self._found = found
        self._gradients = gradients
        self._handles: list[RemovableHandle] = []
        # lengths of the jagged tensors that a collection is about to look up, by site
        self._lengths: dict[str, list[Tensor]] = {}

    def __enter__(self) -> None:
        for site in self._sites:
            hook = partial(self._looked_up, site)
            self._handles.append(site.module.register_forward_hook(hook, with_kwargs=True))
            if site.jagged:
                before = partial(self._about_to, site.path, site.jagged)
                handle = site.jagged.collection.register_forward_pre_hook(before, with_kwargs=True)
                self._handles.append(handle)

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._lengths.clear()

    def _about_to(
        self,
        path: str,
        jagged: Jagged,
        _module: nn.Module,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> None:
        features = (args[0] if args else kwargs["features"]).to_dict()
        self._lengths[path] = [features[name].lengths() for name in reversed(jagged.features)]

    def _looked_up(
        self,
        site: Site,
        _module: nn.Module,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        output: Tensor,
    ) -> Tensor | None:
        if self._gradients:
            # off, or a checkpoint that looks rows up again while it goes backward
            if not torch.is_grad_enabled() or torch._C._current_graph_task_id() != -1:  # noqa: SLF001
                return None
            if not output.requires_grad:  # a frozen table
                output = output.detach().requires_grad_()
        lengths = self._lengths[site.path].pop() if self._lengths.get(site.path) else None
        if site.jagged and lengths is None:
            raise StatsError("called outside its collection", where=site.path)
        lookup = read_call(site, args, kwargs, output, lengths)
        if self._gradients:
            lookup.version = output._version  # noqa: SLF001 - torch has no other name for it
        self._found(lookup)
        return output
