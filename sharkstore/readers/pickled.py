"""Pickles of checkpoints, read as inert data.

A pickle is a program: it names functions of any module and calls them. This machine imports
nothing, sets no attribute and calls only what its caller admits by name, so a hostile pickle can
make it fail, with a `CheckpointError`, and nothing else. It makes plain values, `Global` where a
class or function is named, and `Record` for instances. Time and memory are linear in the pickle's
bytes: nothing is copied, and what is hashed is small.

Opcodes are those that pickle's protocols 2 to 5 write.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable, Mapping
from typing import Any

from sharkstore.errors import CheckpointError
from sharkstore.readers.inert import Global, NotAdmittedError, Record, constants, records
from sharkstore.readers.pickle_machine import Machine
from sharkstore.readers.pickle_steps import STEPS

__all__ = ["Global", "NotAdmittedError", "Record", "constants", "records", "unpickle"]

STOP = pickle.STOP[0]


def unpickle(
    data: bytes,
    where: str,
    admitted: Mapping[str, Callable[..., Any]],
    persistent: Callable[[Any], Any] | None = None,
) -> Any:
    """The value that a pickle describes.

    Args:
        data: the pickle.
        where: place of the pickle, for messages.
        admitted: `module.name` → function that makes an inert value out of a call's arguments.
            It may raise TypeError and ValueError, and mustn't copy or hash arguments of any size.
        persistent: gives the value for a persistent id; left out, the pickle may have none.

    Raises:
        NotAdmittedError: the pickle names anything else.
        CheckpointError: it is cut off, damaged, or of opcodes that no checkpoint has.
    """
    machine, at = Machine(data, where, admitted, persistent), 0
    try:
        while (opcode := data[at]) != STOP:
            at = STEPS[opcode](machine, at + 1)
        if len(machine.stack) != 1 or machine.marks:
            raise ValueError(f"it ends with {len(machine.stack)} values")
    except CheckpointError:
        raise
    except (LookupError, struct.error) as error:
        raise _damaged("cut off, or takes what is not there", at, where) from error
    except (TypeError, ValueError, ArithmeticError, AttributeError, RecursionError) as error:
        raise _damaged(str(error), at, where) from error
    return machine.stack[0]


def _damaged(why: str, at: int, where: str) -> CheckpointError:
    return CheckpointError(f"not a whole pickle: {why:.200}, at byte {at}", where=where)
