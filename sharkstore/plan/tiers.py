"""The `--tiers` policy: which share of a table's rows, or which priorities, take which encoding."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from sharkstore.encodings import Encoding, parse_encoding
from sharkstore.errors import PlanError

GRAMMAR = "'int8', 'f32=1%,f16=9%,int8=rest' or 'f32@1000,f16@50,int8'"


@dataclass(frozen=True, slots=True)
class TierRule:
    """One tier of a policy: a share of the rows, a least priority, or (neither) the rest."""

    encoding: Encoding
    share: Fraction | None = None
    threshold: float | None = None


@dataclass(frozen=True, slots=True)
class TierPolicy:
    """Tiers from the highest priority to the lowest."""

    rules: tuple[TierRule, ...]

    @property
    def needs_priorities(self) -> bool:
        """Whether rows go by thresholds, which only priorities can meet."""
        return any(rule.threshold is not None for rule in self.rules)

    def counts(self, rows: int, at_least: Callable[[float], int]) -> tuple[int, ...]:
        """Rows of each tier.

        Args:
            rows: of the table.
            at_least: how many rows have this priority or more.
        """
        ends, share = [], Fraction(0)
        for rule in self.rules:
            if rule.share is not None:
                share += rule.share
                ends.append(math.floor(rows * share + Fraction(1, 2)))
            elif rule.threshold is not None:
                ends.append(at_least(rule.threshold))
            else:
                ends.append(rows)
        return tuple(end - start for start, end in zip([0, *ends], ends, strict=False))


def parse_tiers(text: str) -> TierPolicy:
    """Read a `--tiers` text.

    Raises:
        PlanError: the text breaks the grammar, shares pass 100 % or stop short of it,
            thresholds don't fall.
    """
    parts = [part.strip() for part in text.split(",")]
    policy = TierPolicy(tuple(_rule(part, text) for part in parts))
    _check(policy, text)
    return policy


def _rule(part: str, text: str) -> TierRule:
    match = re.fullmatch(r"([a-z0-9.]+)(?:=(rest|[0-9.]+%)|@([0-9.eE+-]+))?", part)
    if match is None:
        raise PlanError(f"can't read {part!r} in tiers {text!r}", expected=GRAMMAR)
    try:
        encoding = parse_encoding(match[1])
        share = match[2] if match[2] != "rest" else None
        return TierRule(
            encoding,
            None if share is None else Fraction(share[:-1]) / 100,
            None if match[3] is None else float(match[3]),
        )
    except ValueError as error:
        raise PlanError(f"tiers {text!r}: {error}", expected=GRAMMAR) from error


def _check(policy: TierPolicy, text: str) -> None:
    *upper, last = policy.rules
    where = f"tiers {text!r}"
    shares = [rule.share for rule in policy.rules if rule.share is not None]
    thresholds = [rule.threshold for rule in upper if rule.threshold is not None]
    if len(policy.rules) > 8:
        raise PlanError("more than 8 tiers", where=where, got=len(policy.rules))
    if shares and thresholds:
        raise PlanError("shares and thresholds don't mix", where=where)
    if any(rule.share is None and rule.threshold is None for rule in upper):
        raise PlanError("only the last tier takes the rest", where=where, expected=GRAMMAR)
    if last.threshold is not None:
        raise PlanError("the last tier takes the rest: no threshold", where=where)
    if sum(shares) > 1:
        total = float(sum(shares) * 100)
        raise PlanError("shares above 100 %", where=where, got=f"{total:g} %")
    if last.share is not None and sum(shares) < 1:
        remedy = f"end with '{last.encoding}=rest'"
        got = f"{float(sum(shares) * 100):g} %"
        raise PlanError("shares stop short of 100 %", where=where, got=got, remedy=remedy)
    if any(not math.isfinite(one) for one in thresholds) or thresholds != sorted(
        set(thresholds), reverse=True
    ):
        raise PlanError("thresholds must be finite and fall", where=where)
