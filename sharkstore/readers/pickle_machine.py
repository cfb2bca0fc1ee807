"""Stack, marks and memo of the pickle machine, and what it checks before it fills or calls."""

from __future__ import annotations

from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable, Mapping
from typing import Any

from sharkstore.errors import CheckpointError
from sharkstore.readers.inert import (
    LONGEST_KEY,
    MOST_PARTS,
    Global,
    NotAdmittedError,
    check_key,
)


class Machine:
    """Stack, marks and memo."""

    def __init__(
        self,
        data: bytes,
        where: str,
        admitted: Mapping[str, Callable[..., Any]],
        persistent: Callable[[Any], Any] | None,
    ) -> None:
        self.data = data
        self.where = where
        self.admitted = admitted
        self.persistent = persistent
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: list[Any] = []
        self.far: dict[int, Any] = {}
        self.hashes: dict[int, tuple[object, dict[int, int]]] = {}

    def remember(self, index: int, value: object) -> None:
        """Put a value into the memo: a list, which takes the least, as long as there is no gap."""
        if index == len(self.memo):
            self.memo.append(value)
        elif index < len(self.memo):
            self.memo[index] = value
        else:
            self.far[index] = value

    def remembered(self, index: int) -> Any:
        return self.memo[index] if index < len(self.memo) else self.far[index]

    def marked(self) -> list[Any]:
        """What was put on the stack since the last mark, taken off it."""
        items, self.stack = self.stack, self.marks.pop()
        return items

    def fill(self, target: Any, keys: list[Any], values: list[Any]) -> None:
        if type(target) is not dict:
            raise TypeError(f"sets items of a {type(target).__name__}")
        for key in keys:
            if type(key) is str and len(key) <= LONGEST_KEY:
                continue
            check_key(key)
            if type(key) is tuple:
                self._count_hash(target, key)
        target.update(zip(keys, values, strict=True))

    def _count_hash(self, target: object, key: tuple[Any, ...]) -> None:
        """Any number of tuples with one hash can be forged; a dict of them takes quadratic time."""
        _, counts = self.hashes.setdefault(id(target), (target, {}))
        hashed = hash(key)
        counts[hashed] = counts.get(hashed, 0) + 1
        if counts[hashed] > MOST_PARTS:
            raise ValueError("keys that all have one hash")

    def name(self, module: str, name: str) -> Global:
        """A name that is admitted; protocol 2 has those of Python 2."""
        module, name = NAME_MAPPING.get((module, name), (module, name))
        full = f"{IMPORT_MAPPING.get(module, module)}.{name}"
        if full not in self.admitted:
            raise NotAdmittedError(full, self.where)
        return Global(full)

    def made(self, kind: Any, args: Any, named: Any) -> Any:
        if type(kind) is not Global or type(args) is not tuple or type(named) is not dict:
            raise TypeError(f"calls a {type(kind).__name__} with a {type(args).__name__}")
        if len(args) + len(named) > MOST_PARTS:
            raise ValueError(f"calls {kind.name} with {len(args) + len(named)} arguments")
        try:
            return self.admitted[kind.name](*args, **named)
        except CheckpointError:
            raise
        except (TypeError, ValueError) as error:
            raise ValueError(f"{kind.name} can't be read: {error}") from error
