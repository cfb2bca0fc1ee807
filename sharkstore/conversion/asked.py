"""What a conversion was asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sharkstore import __version__
from sharkstore.allocate.budget import Budgeted, again, within_budget
from sharkstore.plan.model import Plan
from sharkstore.plan.policy import Policy
from sharkstore.plan.stats import Stats
from sharkstore.readers.model import Checkpoint
from sharkstore.write.site import Progress


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked for: a plan, and what is still to be decided of it.

    Args:
        policy: None where a plan was given.
    """

    source: Checkpoint
    plan: Plan
    stats: Stats
    policy: Policy | None
    notes: tuple[str, ...]
    progress: Progress
    curve: bool

    def budgeted(self, folder: str | None = None) -> Budgeted:
        """The plan with what decides over rows, where a budget does; with room in a folder."""
        source, policy, plan = self.source, self.policy, self.plan
        most = source, source.tensors, plan, self.stats
        if policy is not None and policy.limited:
            curve = self.curve
            return within_budget(*most, policy, self.progress, curve=curve, folder=folder)
        if policy is None and plan.budget is not None:
            return again(*most, self.progress, folder)
        return Budgeted(plan, None)

    def provenance(self, plan: Plan) -> dict[str, Any]:
        """What a store says of where it comes from."""
        return {
            "tool": f"sharkstore {__version__}",
            "source": {"name": self.source.name},
            "plan": plan.document(),
        }
