"""What was asked of an allocation: how little, in what encodings, with what floors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from sharkstore.encodings import MOST_ENTRIES, Encoding, parse_encoding
from sharkstore.errors import PlanError

DEFAULT = ("f32", "f16", "int8", "int4", "pq2", "int2", "pq4", "pq8", "constant")
# the most precise first; encodings of one name are of one rank
PRECISION = ("f32", "f16", "int8", "int4", "pq2", "int2", "pq4", "pq8", "constant")
# tables of at most so many rows are also offered codebooks of fewer entries
FEWER_ENTRIES = {64: 1 << 15, 16: 1 << 12}
FOUR_BITS = Encoding("int4")
# outside of these, values in codebooks of float16 would lose precision
LEAST_HALF, MOST_HALF = 2.0**-9, 32768.0


def rank(encoding: Encoding) -> int:
    """Place in the order of precision."""
    name = f"pq{encoding.sub}" if encoding.name == "pq" else encoding.name
    return PRECISION.index(name)


def parse_encodings(texts: Sequence[str]) -> tuple[Encoding, ...]:
    """Encodings allowed, the most precise first.

    Raises:
        PlanError: unknown, twice, or none.
    """
    try:
        found = [parse_encoding(text) for text in texts]
    except ValueError as error:
        raise PlanError(f"encodings: {error}") from error
    if not found or len(set(found)) < len(found):
        raise PlanError("encodings: each once, and at least one", got=", ".join(texts) or "none")
    return tuple(sorted(found, key=rank))


@dataclass(frozen=True, slots=True)
class Floor:
    """The least precise encoding for the rows of some tables."""

    encoding: Encoding
    pattern: str


def parse_floor(text: str) -> Floor:
    """Read `int8:GLOB`, as in `int8:emb.user_id*`.

    Raises:
        PlanError: anything else.
    """
    name, colon, pattern = text.partition(":") if isinstance(text, str) else ("", "", "")
    if not colon or not pattern:
        expected = "'ENCODING:GLOB' such as 'int8:emb.user_id*'"
        raise PlanError(f"can't read floor {text!r:.60}", expected=expected)
    try:
        return Floor(parse_encoding(name), pattern)
    except ValueError as error:
        raise PlanError(f"floor {text!r}: {error}") from error


def check_floors(floors: Sequence[Floor], tables: Sequence[str]) -> None:
    """Refuse a floor for no table.

    Raises:
        PlanError: a pattern matches nothing.
    """
    for floor in floors:
        if not any(fnmatchcase(name, floor.pattern) for name in tables):
            known = ", ".join(tables[:6]) + (", …" if len(tables) > 6 else "")
            raise PlanError(f"floor {floor.pattern!r} matches no table", expected=known)


def offered(
    encodings: Sequence[Encoding],
    floors: Sequence[Floor],
    name: str,
    rows: int,
    dim: int,
    largest: float,
) -> tuple[Encoding, ...]:
    """The encodings that a table's rows may take, the most precise first.

    Args:
        largest: largest absolute value known of the table.

    Raises:
        PlanError: a floor leaves none.
    """
    least = min((rank(f.encoding) for f in floors if fnmatchcase(name, f.pattern)), default=99)
    found = [one for one in encodings if rank(one) <= least]
    if not found:
        allowed = ", ".join(map(str, encodings))
        raise PlanError("no encoding is left above its floor", where=name, got=allowed)
    sized = [one for each in found for one in _sized(each, rows, largest)]
    useful = [one for one in sized if one.name != "pq" or _pays(one, rows, dim)]
    return tuple(dict.fromkeys(useful or sized))


def _pays(encoding: Encoding, rows: int, dim: int) -> bool:
    """Whether codebook and codes are smaller than codes of 4 bits, which are more precise."""
    other = rows * FOUR_BITS.row_bytes(dim)
    return encoding.codebook_bytes(dim) + rows * encoding.row_bytes(dim) < other


def _sized(encoding: Encoding, rows: int, largest: float) -> list[Encoding]:
    """The encoding with the codebooks that suit a table."""
    if encoding.name != "pq":
        return [encoding]
    if not LEAST_HALF <= largest < MOST_HALF:
        encoding = replace(encoding, codebook_dtype="float32")
    found = [replace(encoding, entries=min(encoding.entries, max(rows, 1)))]
    if encoding.entries == MOST_ENTRIES:
        found += [
            replace(encoding, entries=entries)
            for entries, most in FEWER_ENTRIES.items()
            if entries < rows <= most
        ]
    return found
