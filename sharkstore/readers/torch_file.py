"""`.pt` and `.pth` files: state dicts, loaded with `weights_only=True` and mapped."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sharkstore.errors import CheckpointError, CheckpointNotFoundError
from sharkstore.readers.files import open_files
from sharkstore.tensors import FLOATS, INTEGERS, Tensor

if TYPE_CHECKING:
    import torch

NESTED = ("state_dict", "model", "model_state_dict")


class TorchFile:
    """A state dict in a torch file, found at its top or under one of `NESTED`."""

    def __init__(self, path: str) -> None:
        self.name = os.path.basename(path)
        self.tensors: dict[str, Tensor] = {}
        self.left: dict[str, str] = {}
        self._values: dict[str, torch.Tensor] = {}
        self._take(_state_dict(_load(path), path, self.left))
        self.stamp = f"{self.name} {open_files(os.path.dirname(path)).stamp(self.name)}"

    def _take(self, state: Mapping[str, Any]) -> None:
        for key, value in state.items():
            name = str(key)
            if name in self.tensors or name in self.left:
                raise CheckpointError(f"two entries are named {name!r}", where=self.name)
            why = _why_left(value)
            if why:
                self.left[name] = why
                continue
            self._values[name] = value.detach()
            self.tensors[name] = Tensor(name, tuple(value.shape), _dtype(value))

    def read(self, name: str, start: int, stop: int) -> NDArray[Any]:
        """Rows of a tensor: a view of the mapped file where its layout allows."""
        import torch

        value = self._values[name]
        block = (value[start:stop] if value.ndim else value).contiguous()
        if block.dtype == torch.bfloat16:
            return block.view(torch.int16).numpy().view(np.uint16)
        array: NDArray[Any] = block.numpy()
        return array


def _load(path: str) -> Any:
    try:
        import torch
    except ImportError as error:
        remedy = "pip install 'sharkstore[torch]', or save the model as .safetensors"
        raise CheckpointError("torch is needed to read this", where=path, remedy=remedy) from error
    _refuse_compressed(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError as error:
        raise CheckpointNotFoundError("no such checkpoint", where=path) from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            "a pickle that is not only weights; it was not run",
            where=path,
            remedy="save `model.state_dict()`, or better a .safetensors file",
        ) from error
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"not a whole torch file: {reason}",
            where=path,
            remedy="was it copied to the end? A file of torch before 1.6 must be saved again by a "
            "newer torch",
        ) from error


def _refuse_compressed(path: str) -> None:
    """Mapped, a compressed entry would be read as if it were plain."""
    import zipfile

    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (OSError, zipfile.BadZipFile):
        return  # torch says what is wrong
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise CheckpointError(
            "its tensors are compressed",
            where=path,
            remedy="torch writes them plain: save it again by torch.save",
        )


def _state_dict(loaded: Any, path: str, left: dict[str, str]) -> Mapping[str, Any]:
    """The mapping that holds tensors: the file itself, or what is under a known key."""
    if not isinstance(loaded, Mapping):
        kind = type(loaded).__name__
        raise CheckpointError("no state dict in it", where=path, got=kind, expected="a mapping")
    for key in NESTED:
        inner = loaded.get(key)
        if isinstance(inner, Mapping):
            left.update({str(k): f"beside {key!r}" for k in loaded if k != key})
            return _state_dict(inner, path, left)
    if any(_is_tensor(value) for value in loaded.values()):
        return loaded
    keys = ", ".join(str(key) for key in list(loaded)[:8]) or "none"
    expected = f"tensors, or one of {', '.join(NESTED)}"
    raise CheckpointError("no state dict in it", where=path, got=f"keys {keys}", expected=expected)


def _is_tensor(value: object) -> bool:
    import torch

    return isinstance(value, torch.Tensor)


def _dtype(value: torch.Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def _why_left(value: Any) -> str:
    """Why an entry can't be stored; empty if it can."""
    import torch

    if not isinstance(value, torch.Tensor):
        return f"a {type(value).__name__}, no tensor"
    if value.layout != torch.strided or value.is_quantized:
        return "sparse or quantised"
    if value.is_meta:
        return "without data"
    if _dtype(value) not in (*FLOATS, *INTEGERS):
        return f"dtype {_dtype(value)} has no place in a store"
    return ""
