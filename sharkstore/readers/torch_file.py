"""`.pt` and `.pth` files: state dicts, read by byte range; torch is not needed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from sharkstore.errors import CheckpointError, CheckpointNotFoundError
from sharkstore.readers.files import File, Files, open_files, split_place
from sharkstore.readers.inert import NotAdmittedError
from sharkstore.readers.torch_archive import TorchArchive
from sharkstore.readers.torch_names import kind_of
from sharkstore.readers.torch_shards import Distributed
from sharkstore.readers.torch_values import Stored, Unstorable
from sharkstore.tensors import Tensor

NESTED = ("state_dict", "model", "model_state_dict")
ALONE = "save the state dict of the model alone"


class TorchFile:
    """A state dict in a torch file: at its top, or under one of `NESTED`, there or in a dict there.

    Args:
        path: of the file, or its URL.
        files: of its folder; opened here when left out.

    Attributes:
        keys: of the state dict, in its order.
        parts: tensors of which this file has a part only: what one of several ranks saved.
    """

    def __init__(self, path: str, files: Files | None = None) -> None:
        folder, self.name = split_place(path)
        self._files = files or open_files(folder)
        self.tensors: dict[str, Tensor] = {}
        self.left: dict[str, str] = {}
        self.keys: list[str] = []
        self.parts: dict[str, Distributed] = {}
        self._stored: dict[str, Stored] = {}
        file = _opened(self._files, self.name, path)
        self._take(_state_dict(_value(file), file.place, self.left), file.place)
        self.stamp = f"{self.name} {self._files.stamp(self.name)}"

    def read(self, name: str, start: int, stop: int) -> NDArray[Any]:
        """Rows of a tensor: a view of the mapped file where its layout allows."""
        return self.read_stored(self._stored[name], start, stop)

    def read_stored(self, stored: Stored, start: int, stop: int) -> NDArray[Any]:
        """Rows of any tensor in the file, such as a piece of one of `parts`."""
        return stored.read(self._files.open(self.name), start, stop)

    def _take(self, state: Mapping[Any, Any], place: str) -> None:
        for key, value in state.items():
            name = _text(key)
            if name in self.tensors or name in self.left:
                raise CheckpointError(f"two entries are named {name!r:.80}", where=place)
            self.keys.append(name)
            stored = _whole(value) if isinstance(value, Distributed) else value
            if isinstance(stored, Stored):
                self._stored[name] = stored
                self.tensors[name] = Tensor(name, stored.shape, stored.dtype)
                continue
            self.left[name] = _why_left(value)
            if isinstance(value, Distributed):
                self.parts[name] = value


def _opened(files: Files, name: str, path: str) -> File:
    try:
        return files.open(name)
    except CheckpointNotFoundError as error:
        raise CheckpointNotFoundError("no such checkpoint", where=path) from error


def _value(file: File) -> Any:
    try:
        return TorchArchive(file).value
    except NotAdmittedError as error:
        raise CheckpointError(
            "a pickle that is not only weights; it was not run",
            where=file.place,
            got=f"{error.name!r:.200}",
            remedy="save `model.state_dict()`, or better a .safetensors file",
        ) from error


def _state_dict(loaded: Any, place: str, left: dict[str, str]) -> Mapping[Any, Any]:
    """The mapping that holds tensors: the file itself, or what is under a known key."""
    outer: set[int] = set()  # a pickle may hold itself
    while isinstance(loaded, dict) and id(loaded) not in outer:
        outer.add(id(loaded))
        key = _holder(loaded)
        if key is None:
            return _with_tensors(loaded, place)
        why = f"beside {key!r:.80}"
        left.update({_text(one): why for one in loaded if one != key})
        loaded = loaded[key]
    got = "itself" if outer else kind_of(loaded)
    raise CheckpointError("no state dict in it", where=place, got=got, expected="a mapping")


def _holder(state: dict[Any, Any]) -> str | None:
    """The key that the model is under: one of `NESTED`, or the one dict that has one of them.

    A dict beside tensors, other than scalars, is no such: modules may have extra state.
    """
    for key in NESTED:
        if isinstance(state.get(key), dict):
            return key
    if any(isinstance(one, Distributed) or getattr(one, "shape", ()) for one in state.values()):
        return None
    dicts = [(key, one) for key, one in state.items() if type(key) is str and isinstance(one, dict)]
    outer = [key for key, one in dicts if any(isinstance(one.get(k), dict) for k in NESTED)]
    return outer[0] if len(outer) == 1 else None


def _with_tensors(state: dict[Any, Any], place: str) -> dict[Any, Any]:
    if any(isinstance(value, Stored | Unstorable | Distributed) for value in state.values()):
        return state
    keys = ", ".join(_text(key) for key in list(state)[:8]) or "none"
    expected = f"tensors, or one of {', '.join(NESTED)}"
    raise CheckpointError(
        "no state dict in it", where=place, got=f"keys {keys}", expected=expected, remedy=ALONE
    )


def _text(key: object) -> str:
    """A key as text; others than plain ones may be endless to write out."""
    return str(key) if isinstance(key, str | int | float | None) else f"a {kind_of(key)} as a key"


def _whole(value: Distributed) -> Stored | None:
    """The one piece of a tensor that is all of it."""
    whole = [one.stored for one in value.pieces if one.stored.shape == value.shape]
    return whole[0] if whole else None


def _why_left(value: Any) -> str:
    if isinstance(value, Unstorable):
        return value.why
    if isinstance(value, Distributed):
        return f"only {value.told()}; convert the folder with the files of all ranks"
    return f"a {kind_of(value)}, no tensor"
