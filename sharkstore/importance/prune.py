"""Pruning in rounds: score, prune the weakest, fine-tune, score again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sharkstore.errors import StatsError
from sharkstore.importance.measure import Importance
from sharkstore.plan.policy import RANKS, Rank


@dataclass(frozen=True, slots=True)
class Round:
    """One round of pruning.

    Args:
        scores: of the fields that were still there, weakest first.
        pruned: those that went.
    """

    scores: Mapping[str, float]
    pruned: tuple[str, ...]


def prune_gradually(
    measure: Callable[[], Importance],
    fine_tune: Callable[[], object],
    *,
    keep: int,
    per_round: int = 1,
    rank_by: Rank = "score_curved",
    after: Callable[[Round], object] | None = None,
) -> tuple[Round, ...]:
    """Prune the weakest fields in rounds until `keep` are left.

    The iterative recipe of SHARK (arXiv 2308.09395, F-Permutation): scores taken once are those
    of the full model; a field whose twin has gone is worth more than it was. Pruned tables
    become their mean row, in the model itself, so it runs on unchanged. Fields that share a
    table go together, by the sum of their scores.

    Args:
        measure: makes an `Importance` of the model as it is, and runs both of its passes.
        fine_tune: trains the model a little, after each round.
        keep: fields to be left; more if the next table has more fields than may go.
        per_round: fields to prune before scoring anew.
        rank_by: `score_curved`, the second-order term, or `score`, the paper's first-order one.
        after: called with each round, once the model is fine-tuned.

    Returns:
        The rounds: `sharkstore convert --prune` takes their fields.

    Raises:
        StatsError: `keep` or `per_round` is out of range, `rank_by` is unknown, or a measurement
            lacks a pass or, with several processes, its sum over them.
    """
    if per_round < 1:
        raise StatsError("per_round is a number of fields", got=per_round, expected="1 or more")
    if rank_by not in RANKS:
        raise StatsError(f"rank_by {rank_by!r}", expected=" or ".join(RANKS))
    rounds: list[Round] = []
    gone: set[str] = set()
    left = keep + 1
    while left > keep:
        importance = measure()
        fields = {name: table for name, table in importance.fields.items() if name not in gone}
        if not 0 < keep <= len(fields):
            raise StatsError("keep is a number of fields", got=keep, expected=f"1 to {len(fields)}")
        most = len(fields) - keep
        found = importance.scores()
        scores = {name: found[name][rank_by] for name in fields}
        weakest = _weakest(fields, scores, min(per_round, most), most)
        if not weakest:
            break
        importance.prune(weakest)
        gone |= set(weakest)
        left = len(fields) - len(weakest)
        fine_tune()
        ranked = dict(sorted(scores.items(), key=lambda item: item[1]))
        rounds.append(Round(ranked, tuple(weakest)))
        if after:
            after(rounds[-1])
    return tuple(rounds)


def _weakest(
    fields: Mapping[str, str], scores: Mapping[str, float], wanted: int, most: int
) -> list[str]:
    """Fields of the weakest tables, in their order: as many as wanted, and at most so many."""
    users: dict[str, list[str]] = {}
    for field, table in fields.items():
        users.setdefault(table, []).append(field)
    ranked = sorted(users.values(), key=lambda names: sum(scores[name] for name in names))
    taken: list[str] = []
    for names in ranked:
        if len(taken) >= wanted or len(taken) + len(names) > most:
            break
        taken += names
    return taken
