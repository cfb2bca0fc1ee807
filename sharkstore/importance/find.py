"""Where a model looks rows up: its embedding modules, their tables and fields."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from torch import nn
from torch.jit import ScriptModule

from sharkstore.errors import StatsError

Embedding = nn.Embedding | nn.EmbeddingBag
# TorchRec's collections, known by name: a model that has one has imported torchrec itself.
COLLECTIONS = {
    "EmbeddingBagCollection": ("embedding_bags", "embedding_bag_configs"),
    "EmbeddingCollection": ("embeddings", "embedding_configs"),
}
NAME_THEM = "fields={field: module path} names those to measure, skip=[…] those to leave out"


@dataclass(frozen=True, slots=True)
class Site:
    """An embedding module and the fields it looks up.

    Args:
        path: of the module in the model.
        table: the key of its weight in a checkpoint; of modules that share one, the first's.
        fields: one; or several in the order of the module's calls in a forward pass, or of the
            columns of its ids when it is called once.
        jagged: where a TorchRec collection calls it with all values of a jagged tensor.
    """

    path: str
    module: Embedding
    table: str
    fields: tuple[str, ...]
    jagged: Jagged | None = None


@dataclass(frozen=True, slots=True)
class Jagged:
    """A TorchRec collection, and the features that one of its tables is looked up by."""

    collection: nn.Module
    features: tuple[str, ...]


def find_sites(
    model: nn.Module,
    fields: Mapping[str, str | nn.Module] | None,
    skip: Collection[str],
) -> list[Site]:
    """The embedding modules of a model.

    Args:
        fields: field → path of a module, name of its table (`<path>.weight`), or the module;
            None: each feature of a TorchRec collection is a field, and each other embedding
            module is one of its path's name.
        skip: fields, module paths or tables to leave out.

    Raises:
        StatsError: none, an unknown name, or a model whose modules can't be hooked.
    """
    _refuse_unhookable(model)
    found = {path: m for path, m in model.named_modules() if isinstance(m, Embedding)}
    if not found:
        remedy = "tables behind functional lookups have no module to measure"
        what = "no nn.Embedding, nn.EmbeddingBag or TorchRec collection in the model"
        raise StatsError(what, where=type(model).__name__, remedy=remedy)
    features = _features(model)
    if fields is None:
        wanted = {path: features.get(path, (path,)) for path in found}
    else:
        wanted = _named(fields, found)
    wanted = _without(wanted, skip)
    names = [field for of_module in wanted.values() for field in of_module]
    if not names:
        raise StatsError("no field is left to measure", got=f"skip={sorted(skip)}")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise StatsError(f"two modules look up field {twice[0]!r}", remedy=NAME_THEM)
    for path, of_module in wanted.items():
        _check_plain(path, found[path])
        _check_features(path, of_module, features)
    jagged = dict(_jagged(model))
    tables: dict[int, str] = {}
    for path, module in found.items():
        if "weight" in module._parameters:  # noqa: SLF001 - what is computed has a new id each time
            tables.setdefault(id(module.weight), f"{path}.weight" if path else "weight")
    return [
        Site(path, found[path], tables[id(found[path].weight)], of_module, jagged.get(path))
        for path, of_module in wanted.items()
    ]


def _refuse_unhookable(model: nn.Module) -> None:
    for path, module in model.named_modules():
        where = f"{path or 'the model'} ({type(module).__name__})"
        if hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None):
            remedy = "measure the model as it was before torch.compile, and call that in the loop"
            raise StatsError("compiled modules pass hooks by", where=where, remedy=remedy)
        if isinstance(module, ScriptModule):
            remedy = "measure the model that was scripted"
            raise StatsError("a scripted module runs no hooks", where=where, remedy=remedy)
        if isinstance(module, nn.DataParallel):
            remedy = "use DistributedDataParallel, or its .module on one device"
            raise StatsError("DataParallel runs copies of the model", where=where, remedy=remedy)
        if type(module).__module__.startswith("torchrec.distributed"):
            remedy = "measure the model before it is sharded, from the same checkpoint"
            raise StatsError("sharded lookups can't be hooked", where=where, remedy=remedy)


def _check_plain(path: str, module: Embedding) -> None:
    """Refuse modules whose rows are not those of a table, looked up by the ids they are given."""
    base = nn.Embedding if isinstance(module, nn.Embedding) else nn.EmbeddingBag
    if "weight" not in module._parameters:  # noqa: SLF001 - a parametrization takes it away
        remedy = "remove the parametrization to measure, or skip=[…] the module"
        raise StatsError("the weight is computed, not a parameter", where=path, remedy=remedy)
    if type(module).forward is not base.forward:
        what = f"{type(module).__name__} looks rows up in a way of its own"
        remedy = f"let it call an nn.{base.__name__} and measure that, or skip=[…] the module"
        raise StatsError(what, where=path, remedy=remedy)


def _check_features(
    path: str, fields: tuple[str, ...], features: Mapping[str, tuple[str, ...]]
) -> None:
    """Refuse fewer or more fields than a TorchRec table has features: each is a call."""
    if path in features and len(features[path]) != len(fields):
        expected = f"{len(features[path])}: {', '.join(features[path])}"
        what = f"fields {', '.join(fields)} for another number of features"
        raise StatsError(what, where=path, got=len(fields), expected=expected)


def _features(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Path of each embedding module in a TorchRec collection, and the features it looks up.

    A feature that several tables look up is `feature@table`, as TorchRec has it.
    """
    found = {
        _join(path, modules, table.name): table
        for path, module, (modules, configs) in _collections(model)
        for table in getattr(module, configs)()
    }
    times = Counter(name for table in found.values() for name in table.feature_names)
    return {
        path: tuple(
            f"{name}@{table.name}" if times[name] > 1 else name for name in table.feature_names
        )
        for path, table in found.items()
    }


def _jagged(model: nn.Module) -> Iterator[tuple[str, Jagged]]:
    """Path of each embedding module that is called with all values of a jagged tensor."""
    for path, module, (modules, configs) in _collections(model):
        if modules == "embeddings":
            for table in getattr(module, configs)():
                features = tuple(table.feature_names)
                yield _join(path, modules, table.name), Jagged(module, features)


def _collections(model: nn.Module) -> Iterator[tuple[str, nn.Module, tuple[str, str]]]:
    for path, module in model.named_modules():
        for base in type(module).__mro__:
            if base.__module__.startswith("torchrec.modules") and base.__name__ in COLLECTIONS:
                yield path, module, COLLECTIONS[base.__name__]
                break


def _join(*parts: str) -> str:
    return ".".join(part for part in parts if part)


def _named(
    fields: Mapping[str, str | nn.Module], found: Mapping[str, Embedding]
) -> dict[str, tuple[str, ...]]:
    """Path of each module that a field names, with its fields in the order given."""
    wanted: dict[str, tuple[str, ...]] = {}
    for field, target in fields.items():
        if isinstance(target, nn.Module):
            path = next((path for path, module in found.items() if module is target), None)
        else:
            path = next((p for p in (target, target.removesuffix(".weight")) if p in found), None)
        if path is None:
            name = target if isinstance(target, str) else type(target).__name__
            some = ", ".join(list(found)[:8]) + (", …" if len(found) > 8 else "")
            raise StatsError(f"field {field!r}: no embedding module {name!r}", expected=some)
        wanted[path] = (*wanted.get(path, ()), field)
    return wanted


def _without(
    wanted: Mapping[str, tuple[str, ...]], skip: Collection[str]
) -> dict[str, tuple[str, ...]]:
    if isinstance(skip, str):
        raise StatsError("skip must be a list of names", got=repr(skip))
    known = {name for path, names in wanted.items() for name in (path, f"{path}.weight", *names)}
    unknown = sorted(set(skip) - known)
    if unknown:
        raise StatsError(f"skip: no field or module {unknown[0]!r}")
    left = {}
    for path, names in wanted.items():
        if path in skip or f"{path}.weight" in skip or set(names) <= set(skip):
            continue
        if set(names) & set(skip):
            some = min(set(names) & set(skip))
            remedy = "skip all fields of a module or none: its calls are told apart by their order"
            raise StatsError(f"skip: {some!r} shares module {path!r}", remedy=remedy)
        left[path] = names
    return left
