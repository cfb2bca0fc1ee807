"""What the user asks of a plan, refused where it makes no sense."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sharkstore.errors import PlanError
from sharkstore.plan.amounts import parse_amount, parse_share
from sharkstore.plan.model import Default, NonFinite, Weigh
from sharkstore.plan.prune import check_least
from sharkstore.plan.weigh import WEIGHS

Rank = Literal["score", "score_curved"]
RANKS = ("score", "score_curved")
Method = Literal["loss", "shark"]
METHODS = ("loss", "shark")
RoundingChoice = Literal["auto", "nearest", "metric"]
ROUNDINGS = ("auto", "nearest", "metric")
# options that say what goes; only one of them can
PRUNING = ("keep", "keep_share", "prune_below", "prune_bytes", "prune")


@dataclass(frozen=True, slots=True)
class Policy:
    """What the user asked for.

    Args:
        tiers: the `--tiers` text; None stands for `int8`, or for what a budget leads to.
        tables: globs that replace the rule which tensors are tables.
        keep: number of fields to keep, the best by score; None keeps all.
        keep_share: share of the fields to keep, likewise: `60%`.
        prune_below: prune the fields that score less.
        prune_bytes: prune the tables of least score per byte until this much is saved of their
            float32 bytes: `30%` of all tables', or `8GiB`.
        prune: fields to prune.
        rank_by: the scores that tell weak fields, `score` or `score_curved`; None: the latter
            where all fields have it.
        drop: leave pruned tables out instead of storing their mean row.
        default: the row for ids out of bounds.
        nonfinite: `error`, or `zero` for NaN and infinities in tables.
        budget: bytes of the store, as a share of the tables' float32 bytes or a size; None: none.
        max_loss: predicted increase of the loss; a budget likewise.
        encodings: that a budget may use; empty: all that the method knows.
        floors: least precise encodings for some tables: `int8:GLOB`.
        method: `loss` (least predicted loss) or `shark` (thresholds on priorities).
        weigh: what an error in a row costs; None: the best that the stats have.
        rounding: `nearest`, in the tables' `metric`, or `auto`: the latter for codes of few bits
            where the stats have it.
    """

    tiers: str | None = None
    tables: Sequence[str] = ()
    keep: int | None = None
    keep_share: str | None = None
    prune_below: float | None = None
    prune_bytes: str | None = None
    prune: Sequence[str] = ()
    rank_by: Rank | None = None
    drop: bool = False
    default: Default = "zero"
    nonfinite: NonFinite = "error"
    budget: str | None = None
    max_loss: float | None = None
    encodings: Sequence[str] = ()
    floors: Sequence[str] = ()
    method: Method = "loss"
    weigh: Weigh | None = None
    rounding: RoundingChoice = "auto"

    def __post_init__(self) -> None:
        """Refuse what a command line can't pass, but a caller can."""
        self._check_budget()
        _check_choice("default_row", self.default, ("zero", "mean"))
        _check_choice("nonfinite", self.nonfinite, ("error", "zero"))
        if self.rank_by is not None:
            _check_choice("rank_by", self.rank_by, RANKS)
        for name in ("tables", "prune", "encodings", "floors"):
            if isinstance(getattr(self, name), str):
                raise PlanError(f"{name} must be a list of texts, got one text")
        if self.keep is not None and type(self.keep) is not int:
            raise PlanError("keep must be an integer", got=repr(self.keep))
        if self.keep_share is not None:
            parse_share(self.keep_share, "keep_share")
        if self.prune_below is not None:
            check_least(self.prune_below, "prune_below")
        if self.prune_bytes is not None:
            parse_amount(self.prune_bytes, "prune_bytes")
        if len(self.pruning) > 1:
            raise PlanError(f"{' and '.join(self.pruning)} don't mix: one option says what goes")
        if self.drop and not self.pruning:
            remedy = "say which by --keep or --prune, or an option like them"
            raise PlanError("--drop leaves pruned tables out", remedy=remedy)

    def _check_budget(self) -> None:
        _check_choice("method", self.method, METHODS)
        _check_choice("rounding", self.rounding, ROUNDINGS)
        if self.weigh is not None:
            _check_choice("weigh", self.weigh, WEIGHS)
        if self.budget is not None:
            parse_amount(self.budget, "budget")
        if self.max_loss is not None:
            check_above_zero("max_loss", self.max_loss)
        if self.budget is not None and self.max_loss is not None:
            raise PlanError("--budget and --max-loss don't mix: one of them says when to stop")
        if self.limited and self.tiers is not None:
            raise PlanError("--tiers and --budget or --max-loss don't mix: one of them decides")
        if self.limited and self.method == "loss" and self.rounding != "auto":
            remedy = "--weigh names another kind"
            what = "--rounding goes with --tiers: a budget rounds codes in what it weighs them by"
            raise PlanError(what, remedy=remedy)
        given = [
            name
            for name, value in (
                ("--encodings", len(self.encodings)),
                ("--floor", len(self.floors)),
                ("--method", self.method != "loss"),
                ("--weigh", self.weigh),
            )
            if value
        ]
        if given and not self.limited:
            raise PlanError(f"{given[0]} goes with --budget or --max-loss")
        if self.method == "shark" and (self.max_loss is not None or self.weigh or self.floors):
            raise PlanError("--method shark goes by priorities within a --budget alone")

    @property
    def limited(self) -> bool:
        """Whether a budget decides over tiers."""
        return self.budget is not None or self.max_loss is not None

    @property
    def pruning(self) -> tuple[str, ...]:
        """The options given that say what goes, as the command line spells them."""
        given = [name for name in PRUNING if name != "prune" and getattr(self, name) is not None]
        given += ["prune"] if len(self.prune) else []
        return tuple("--" + name.replace("_", "-") for name in given)


def _check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise PlanError(f"{name} {value!r} is not known", expected=" or ".join(known))


def check_above_zero(name: str, value: float) -> None:
    """Refuse what is no finite number above 0.

    Raises:
        PlanError: with the name.
    """
    if type(value) not in (int, float) or not 0 < value < float("inf"):
        raise PlanError(f"{name} must be a number above 0", got=repr(value))
