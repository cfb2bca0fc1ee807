"""What pickles are read as: plain values, names and records, none of which can do anything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sharkstore.errors import CheckpointError

# parts of a key that has tuples in it; keys of a dict that share a hash; arguments of a call
MOST_PARTS = 64
LONGEST_KEY = 1 << 16


class NotAdmittedError(CheckpointError):
    """A pickle names a class or function that it may not.

    Attributes:
        name: the module and the name in it.
    """

    def __init__(self, name: str, where: str) -> None:
        super().__init__(f"{name!r:.200} is not admitted; nothing of it was run", where=where)
        self.name = name


@dataclass(frozen=True, slots=True)
class Global:
    """The name of a class, function or constant, which was not imported."""

    name: str


@dataclass(eq=False, slots=True)
class Record:
    """An instance of a class, as data; equal only to itself, so that it may be a key.

    Args:
        name: of the class, or of the function that would have made the instance.
        args: what it would have been called with.
        state: what its attributes would have been set from.
    """

    name: str
    args: tuple[Any, ...] = ()
    state: Any = None

    @property
    def fields(self) -> dict[Any, Any]:
        """Attributes out of a state that is a dict, or a dict and one of slots.

        Raises:
            ValueError: both are there, and large.
        """
        parts = self.state if isinstance(self.state, tuple) else (self.state,)
        dicts = [part for part in parts[:2] if isinstance(part, dict) and part]
        if len(dicts) < 2:  # not copied: many records may share one dict
            return dicts[0] if dicts else {}
        if len(dicts[0]) + len(dicts[1]) > MOST_PARTS:
            raise ValueError(f"{len(dicts[0])} attributes beside {len(dicts[1])} slots")
        return {**dicts[0], **dicts[1]}


def records(*names: str) -> dict[str, Callable[..., Any]]:
    """Admits names: each call of one makes a record of it."""
    return {name: _recorder(name) for name in names}


def constants(*names: str) -> dict[str, Callable[..., Any]]:
    """Admits names that may be named, and not called."""
    return dict.fromkeys(names, _constant)


def check_key(key: object) -> None:
    """Refuse keys that would be slow to hash or compare, or overflow the stack.

    Raises:
        TypeError: of a kind that is no key.
        ValueError: too large.
    """
    waiting, parts = [key], 0
    while waiting:
        part = waiting.pop()
        parts += 1 + (len(part) if type(part) is tuple else 0)
        if parts > 2 * MOST_PARTS:
            raise ValueError("a key of too many parts")
        if type(part) is tuple:
            waiting.extend(part)
        elif type(part) is int:
            if not -(2**63) <= part < 2**64:
                raise ValueError("an integer of more than 64 bits for a key")
        elif type(part) is str or type(part) is bytes:
            if len(part) > LONGEST_KEY:
                raise ValueError("a key that is too long")
        elif type(part) not in (bool, float, type(None), Global, Record):
            raise TypeError(f"a {type(part).__name__} for a key")


def _recorder(name: str) -> Callable[..., Record]:
    return lambda *args: Record(name, args)


def _constant(*_: object) -> Any:
    raise TypeError("calls what is only a name")
