"""Shares and sizes as people write them: `60%`, `8GiB`, `500MB`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from sharkstore.errors import PlanError

UNITS = {
    "": 1,
    "B": 1,
    **{f"{prefix}B": 1000**power for power, prefix in enumerate("KMGT", 1)},
    **{f"{prefix}IB": 1024**power for power, prefix in enumerate("KMGT", 1)},
}
# digits are few enough to be computed with and told in a message
NUMBER = r"([0-9]{1,18}(?:\.[0-9]{1,18})?)"
SHARE = re.compile(NUMBER + " ?%")
SIZE = re.compile(NUMBER + " ?([A-Za-z]*)")
SHARES = "a share such as '12.5%'"
SIZES = "a size such as '8GiB', '500MB' or '1000' (bytes)"


@dataclass(frozen=True, slots=True)
class Amount:
    """So many bytes, or a share of a total that is known later; one of the two is None."""

    nbytes: int | None = None
    share: Fraction | None = None

    def of(self, total: int) -> Fraction:
        """Bytes, exactly: whoever needs whole ones knows which way to round."""
        if self.share is not None:
            return self.share * total
        assert self.nbytes is not None
        return Fraction(self.nbytes)


def parse_share(text: str, where: str = "") -> Fraction:
    """A share, above 0 % and at most 100 %.

    Args:
        where: the option it stands in, for messages.

    Raises:
        PlanError: no share, or out of range.
    """
    match = _match(SHARE, text, where, SHARES)
    share = Fraction(match[1]) / 100
    if not 0 < share <= 1:
        expected = "above 0% and at most 100%"
        raise PlanError("share out of range", where=where, got=text, expected=expected)
    return share


def parse_size(text: str, where: str = "", expected: str = SIZES) -> int:
    """Bytes, at least 1; KB to TB are powers of 1000, KiB to TiB of 1024, in either case.

    Raises:
        PlanError: no size, or less than a byte.
    """
    match = _match(SIZE, text, where, expected)
    unit = UNITS.get(match[2].upper())
    if unit is None:
        raise PlanError(f"unknown unit {match[2]!r:.40}", where=where, expected=expected)
    nbytes = int(Fraction(match[1]) * unit)
    if nbytes < 1:
        raise PlanError("size out of range", where=where, got=text, expected="a byte or more")
    return nbytes


def parse_amount(text: str, where: str = "") -> Amount:
    """Bytes, as a size or as a share of a total.

    Raises:
        PlanError: neither, or out of range.
    """
    if isinstance(text, str) and "%" in text:
        return Amount(share=parse_share(text, where))
    return Amount(nbytes=parse_size(text, where, f"{SIZES}, or {SHARES}"))


def _match(pattern: re.Pattern[str], text: str, where: str, expected: str) -> re.Match[str]:
    # a command line can't pass a number, a caller can
    match = pattern.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None:
        raise PlanError(f"can't read {text!r:.40}", where=where, expected=expected)
    return match
