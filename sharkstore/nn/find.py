"""Which modules of a model look rows up, and which of a store's tables are theirs."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from torch import nn
from torch.jit import ScriptModule

from sharkstore.errors import ArgumentError, UnknownTableError
from sharkstore.load.store import Store

# TorchRec's collections, known by name: a model that has one has imported torchrec itself
COLLECTIONS = {
    "EmbeddingBagCollection": "embedding_bags",
    "EmbeddingCollection": "embeddings",
}
# what wrappers, and those who save their state, put before a model's own keys
WRAPPERS = ("module.", "model.", "state_dict.", "model_state_dict.")
COMPILED = "_orig_mod."


@dataclass(frozen=True, slots=True)
class Found:
    """A module to be replaced, at one path or several.

    Args:
        paths: where it is in the model.
        module: torch's, or TorchRec's.
        weights: its embedding modules, by their path below the module: itself, by ``""``, or
            those of a collection.
    """

    paths: tuple[str, ...]
    module: nn.Module
    weights: Mapping[str, nn.Embedding | nn.EmbeddingBag]

    def keys(self, inner: str) -> list[str]:
        """Keys of one of its weights in the model's state dict."""
        return [_join(path, inner, "weight") for path in self.paths]

    def refuse_hooks(self) -> None:
        """Refuse a module with hooks, which the one in its stead would not call.

        Raises:
            ArgumentError: naming the first.
        """
        path = self.paths[0]
        for module in (self.module, *self.weights.values()):
            hooks = {**module._forward_pre_hooks, **module._forward_hooks}  # noqa: SLF001
            if hooks:
                first = next(iter(hooks.values()))
                got = getattr(first, "__qualname__", repr(first))
                remedy = f"remove them, or mapping={{{path!r}: None}} leaves the module as it is"
                raise ArgumentError(
                    "forward hooks", where=f"module {path!r}", got=got, remedy=remedy
                )


def find_modules(model: nn.Module) -> list[Found]:
    """Embedding modules and TorchRec's collections, each once.

    Raises:
        ArgumentError: none, a model that is one itself, scripted or sharded modules.
    """
    paths: dict[nn.Module, list[str]] = {}
    inside: list[str] = []
    for path, module in model.named_modules(remove_duplicate=False):
        if any(path.startswith(f"{outer}.") for outer in inside):
            continue
        _refuse_strange(path, module)
        if collection(module):
            inside.append(path)
        if collection(module) or isinstance(module, nn.Embedding | nn.EmbeddingBag):
            paths.setdefault(module, []).append(path)
    if not paths:
        what = "no nn.Embedding, nn.EmbeddingBag or TorchRec collection in the model"
        raise ArgumentError(what, where=type(model).__name__)
    if model in paths:
        remedy = "make a module of sharkstore.nn in its stead"
        raise ArgumentError("the model is an embedding itself", got=_kind(model), remedy=remedy)
    return [Found(tuple(at), module, dict(_weights(module))) for module, at in paths.items()]


def collection(module: nn.Module) -> str | None:
    """The name of the TorchRec collection that a module is."""
    for base in type(module).__mro__:
        if base.__module__.startswith("torchrec.modules") and base.__name__ in COLLECTIONS:
            return base.__name__
    return None


def _weights(module: nn.Module) -> Iterator[tuple[str, Any]]:
    name = collection(module)
    if name is None:
        yield "", module
        return
    for table, inner in getattr(module, COLLECTIONS[name]).items():
        yield f"{COLLECTIONS[name]}.{table}", inner


def _refuse_strange(path: str, module: nn.Module) -> None:
    where = f"{path or 'the model'} ({type(module).__name__})"
    if isinstance(module, ScriptModule):
        raise ArgumentError("a scripted module", where=where, remedy="replace, then script")
    if type(module).__module__.startswith("torchrec.distributed"):
        remedy = "replace in the model before it is sharded"
        raise ArgumentError("a sharded module", where=where, remedy=remedy)


def check_plain(path: str, module: nn.Embedding | nn.EmbeddingBag) -> None:
    """Refuse modules that give something else than rows of their weight.

    Raises:
        ArgumentError: a forward of its own, a computed weight, or max_norm.
    """
    base = nn.Embedding if isinstance(module, nn.Embedding) else nn.EmbeddingBag
    remedy = f"mapping={{{path!r}: None}} leaves the module as it is"
    if type(module).forward is not base.forward or "forward" in vars(module):
        what = f"{type(module).__name__} looks rows up in a way of its own"
        raise ArgumentError(what, where=f"module {path!r}", remedy=remedy)
    if "weight" not in module._parameters:  # noqa: SLF001 - a parametrization takes it away
        raise ArgumentError("its weight is computed", where=f"module {path!r}", remedy=remedy)
    if module.max_norm is not None:
        what = "max_norm renormalises rows, and a store's are read-only"
        raise ArgumentError(what, where=f"module {path!r}", got=module.max_norm, remedy=remedy)


class Names:
    """A store's names, found by a model's keys: as they are, else without wrappers' prefixes."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._bare: dict[str, list[str]] = {}
        for name in [*store, *store.metadata.dropped]:
            self._bare.setdefault(_bare(name), []).append(name)
        self._dense = {_bare(name) for name in store.dense}

    def dense(self, keys: Sequence[str]) -> bool:
        """Whether a weight is kept in the store as it was, as no table."""
        return any(key in self._store.dense or _bare(key) in self._dense for key in keys)

    def table(self, keys: Sequence[str]) -> str | None:
        """The table that one of the keys names; None: no such.

        Raises:
            ArgumentError: several tables, but for prefixes.
            UnknownTableError: it was dropped.
        """
        names = [key for key in keys if key in self._store]
        if not names:
            names = sorted({name for key in keys for name in self._bare.get(_bare(key), [])})
            if len(names) > 1:
                remedy = f"mapping={{{keys[0].removesuffix('.weight')!r}: …}} says which"
                what = f"{' and '.join(map(repr, names))} may both be {keys[0]!r}"
                raise ArgumentError(what, where=self._store.path, remedy=remedy)
        if names:
            self._store[names[0]]  # says so where it was dropped
        return names[0] if names else None

    def refuse(self, path: str, key: str) -> NoReturn:
        """Say that a module's table is not in the store.

        Raises:
            UnknownTableError: always.
        """
        near = difflib.get_close_matches(key, self._store, n=1)
        name = near[0] if near else "its table"
        raise UnknownTableError(
            f"module {path!r} looks rows up, and the store has no table {key!r}",
            where=self._store.path,
            remedy=f"mapping={{{path!r}: {name!r}}} names it; None there leaves the module",
        )


def _bare(key: str) -> str:
    key = key.replace(COMPILED, "")
    while key.startswith(WRAPPERS):
        key = key.split(".", 1)[1]
    return key


def _join(*parts: str) -> str:
    return ".".join(part for part in parts if part)


def _kind(module: nn.Module) -> str:
    return type(module).__name__
