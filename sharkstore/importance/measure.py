"""Scores of fields and rows, measured in a loop of the user's own."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.nn.parallel import DistributedDataParallel as Parallel

from sharkstore.errors import StatsError
from sharkstore.importance.count import Counting, flags
from sharkstore.importance.earlier import Earlier, weights_of
from sharkstore.importance.find import find_sites
from sharkstore.importance.hooks import Hooks
from sharkstore.importance.losses import Heads, Step, pull_losses, pull_step
from sharkstore.importance.measuring import Measuring
from sharkstore.importance.reduce import Reduction
from sharkstore.importance.save import save_totals
from sharkstore.importance.totals import Totals
from sharkstore.plan.model import FieldPlan
from sharkstore.plan.prune import tables_without_fields
from sharkstore.stats.file import Path
from sharkstore.stats.merge import merge_stats

REDUCTIONS = ("none", "sum", "mean")


class Importance:
    """What each field and each row of a model's embedding tables is worth.

        importance = Importance(model)
        with importance.counting():               # forward only: counts and mean rows
            for x, _ in loader: model(x)
        with importance:                          # one backward pass a batch
            for x, y in loader: importance.step(model(x), y)
        importance.save("stats.safetensors")

    Measure on held-out data: at convergence the gradients of training samples vanish for the
    rows that were fitted to them. Count on the data that the tables will serve.

    With g the gradient of a sample's own loss in a field's vector e, and ē that vector with
    every row replaced by the table's mean row c (k·c for a sum of k rows):

    - score: mean over samples of |<g, ē − e>|; score_signed: of <g, ē − e>
      (SHARK, arXiv 2308.09395, F-Permutation: first order Taylor term of the replacement)
    - score_curved: mean of ½ (ē − e)ᵀ H (ē − e), H being the Gauss–Newton matrix of the
      sample's loss in e: the second-order term (ours); score_signed + score_curved predicts the
      loss without the field
    - sfs: mean of |<g, e>|: the gradient of a mask on the field (single-shot feature
      selection, as in the ERASE benchmark, KDD 2024, but absolute per sample)
    - priority of a row: see `Weights` (SHARK, F-Quantization)
    - metric of a table: mean over uses of a² · E[(∂L/∂e)(∂L/∂e)ᵀ], a being the row's
      coefficient in its bag; for a binary loss p (1 − p) J Jᵀ with J = ∂logit/∂e
      (Gauss–Newton; ours); sensitivity of a row: (count + ½) · trace(metric) / dim

    Samples must not meet before the loss: batch norm runs in eval mode, and in-batch negatives
    have no per-sample gradient.

    Args:
        model: any module, also in DistributedDataParallel; on CPU or CUDA, also under autocast.
        fields: field → module path, table name or module, in place of all that are found.
            Fields that share a module are told apart by the order of its calls in a forward
            pass, or by the columns of the ids of one call.
        skip: fields, module paths or tables to leave out.
        counts: an earlier stats file in place of a counting pass.
        alpha_positive, alpha_negative, beta: see `Weights`; 1 by default, or as in `counts`.

    Raises:
        StatsError: no embedding modules, unknown names, counts of other tables.
    """

    merge = staticmethod(merge_stats)

    def __init__(
        self,
        model: nn.Module,
        fields: Mapping[str, str | nn.Module] | None = None,
        *,
        skip: Collection[str] = (),
        counts: Path | None = None,
        alpha_positive: float | None = None,
        alpha_negative: float | None = None,
        beta: float | None = None,
    ) -> None:
        self._model: nn.Module = model.module if isinstance(model, Parallel) else model
        self._sites = find_sites(self._model, fields, skip)
        given = {
            "alpha_positive": alpha_positive,
            "alpha_negative": alpha_negative,
            "beta": beta,
        }
        earlier = None if counts is None else Earlier(counts)
        weights = earlier.weights(given) if earlier else weights_of(given)
        self._totals = Totals(self._sites, weights)
        self._reduction = Reduction(self._totals, parallel=self._model is not model)
        self._hooks: Hooks | None = None
        self._pass: Counting | Measuring | None = None
        if earlier:
            earlier.fill(self._totals)
            self._reduction.done.add("counted")

    @property
    def fields(self) -> dict[str, str]:
        """Field → table."""
        return dict(self._totals.fields)

    @contextlib.contextmanager
    def counting(self, *, labelled: bool = False) -> Iterator[None]:
        """Count the rows that forward passes look up, within the context.

        Args:
            labelled: `positives(labels)` follows each forward pass; counts of positive uses,
                and priorities, then come from here in place of the measured pass.
        """
        self._refuse_nested()
        self._reduction.refuse_more("counted")
        counting = Counting(self._totals, labelled=labelled)
        handles = (
            self._model.register_forward_pre_hook(counting.begin_forward),
            self._model.register_forward_hook(counting.end_forward),
        )
        self._pass = counting
        try:
            with Hooks(self._sites, counting.add, gradients=False):
                yield
            counting.end()
        finally:
            for handle in handles:
                handle.remove()
            self._pass = None

    def positives(self, labels: Tensor) -> None:
        """Labels, (samples,), of the forward pass just counted; above 0.5 is positive.

        Raises:
            StatsError: outside `counting(labelled=True)`, or of another length.
        """
        if not isinstance(self._pass, Counting):
            raise StatsError("positives belong into `with importance.counting(labelled=True):`")
        self._pass.label(labels)

    def end_period(self) -> None:
        """End a period of the rows' priorities, an hour or a day, in the pass under way.

        Raises:
            StatsError: outside of both passes.
        """
        if self._pass is None:
            raise StatsError("a period ends within a pass")
        counting = isinstance(self._pass, Counting)
        for table in self._totals.tables.values():
            counts = table.counted if counting else table.used
            counts.end_period(self._totals.weights)

    def __enter__(self) -> Self:
        """Hook the model's embedding modules, and compute the mean rows.

        Raises:
            StatsError: rows were not counted, or batch norm has no running statistics.
        """
        self._refuse_nested()
        self._reduction.refuse_unreduced("counted")
        self._reduction.refuse_more("measured")
        measuring = Measuring(self._totals, self._sites, self._model)
        self._hooks = Hooks(self._sites, measuring.add, gradients=True)
        self._hooks.__enter__()
        self._pass = measuring
        return self

    def __exit__(self, *_: object) -> None:
        assert self._hooks is not None
        self._hooks.__exit__()
        self._hooks = self._pass = None

    def step(
        self,
        logits: Heads,
        labels: Heads,
        loss: str | Sequence[str] = "binary",
        *,
        positive: Tensor | None = None,
        retain_graph: bool = False,
    ) -> None:
        """Measure the batch whose forward pass has just run: each pass is followed by one step.

        Args:
            logits: (n,), (n, 1), (n, heads), or for cross-entropy (n, classes); several heads
                may be a sequence of such.
            labels: of the same shape, class numbers (n,) for cross-entropy; of a binary loss
                from 0 to 1.
            loss: `binary` (with logits), `squared` or `cross_entropy`, of all heads or of each.
            positive: bool (n,): which samples count as positive uses of their rows; by default
                those with a label above 0.5 in a binary head, none if there is none.
            retain_graph: keep the graph for a backward pass of your own.

        A batch whose gradients are not finite is kept out, with a warning that has its number.

        Raises:
            StatsError: shapes that don't fit, logits without gradient, no lookup seen.
        """
        measuring = self._measuring()
        found = measuring.take()
        losses = [loss] if isinstance(loss, str) else list(loss)
        made = pull_step(logits, labels, loss, seed=self._totals.batches)
        if positive is not None:
            made = Step(made.samples, made.pulls, flags(positive, made.samples))
        measuring.measure(found, made, losses, empirical=False, retain_graph=retain_graph)

    def backward(
        self,
        losses: Tensor,
        *,
        reduction: Literal["none", "sum", "mean"] = "none",
        positive: Tensor | None = None,
        retain_graph: bool = False,
    ) -> None:
        """Measure the batch whose forward pass has just run, by a loss of any kind.

        Such a loss has no curvature but the squared gradients of the samples; the stats call
        it `empirical`. On training data that is a trap: they vanish for memorised rows.

        Args:
            losses: (n,), the loss of each sample; or a single value with a `reduction`.
            reduction: how `losses` was made of the samples' losses.
            positive: bool (n,): which samples count as positive uses of their rows.
            retain_graph: keep the graph for a backward pass of your own.

        Raises:
            StatsError: as `step`.
        """
        measuring = self._measuring()
        found = measuring.take()
        if not isinstance(losses, Tensor):
            raise StatsError("losses must be a tensor", got=type(losses).__name__)
        if reduction not in REDUCTIONS:
            raise StatsError(f"reduction {reduction!r}", expected=" or ".join(REDUCTIONS))
        if not losses.requires_grad or losses.dim() != (reduction == "none"):
            what = "losses of samples" if losses.requires_grad else "the loss has no gradient"
            got, expected = tuple(losses.shape), "(n,), or () with a reduction"
            remedy = "make it with reduction='none', or say how it was reduced"
            raise StatsError(what, got=got, expected=expected, remedy=remedy)
        samples = losses.numel()
        if reduction != "none" and found:
            samples = next(iter(found.values()))[0].samples
        marks = None if positive is None else flags(positive, samples)
        made = pull_losses(losses, samples, marks, samples if reduction == "mean" else 1)
        measuring.measure(found, made, ["per_sample"], empirical=True, retain_graph=retain_graph)

    def _measuring(self) -> Measuring:
        if not isinstance(self._pass, Measuring):
            raise StatsError("steps belong into `with importance:`")
        return self._pass

    def scores(self) -> dict[str, dict[str, float]]:
        """Each field's score, score_signed, score_curved and sfs; of a binary loss in nats.

        Raises:
            StatsError: nothing was measured, some field was never looked up, or several processes
                have not added up yet.
        """
        self._reduction.refuse_unreduced("measured")
        return self._totals.scores()

    def mean_row(self, table: str) -> NDArray[np.float64]:
        """A table's mean row over its uses, (dim,), of the table as it is now.

        Raises:
            StatsError: no such table, no row was counted, or several processes have not added
                up yet.
        """
        self._reduction.refuse_unreduced("counted")
        if table not in self._totals.tables:
            known = ", ".join(list(self._totals.tables)[:8])
            raise StatsError(f"no table {table!r}", expected=known)
        return self._totals.tables[table].mean_row(self._totals.weights)

    def prune(self, fields: Collection[str]) -> None:
        """Make the tables of these fields their mean row, in the model, and train them no more.

        Every row but that of padding becomes c, so the model runs on; the weight no longer
        requires gradients, so a model in DistributedDataParallel is to be wrapped anew.

        Raises:
            PlanError: an unknown field, or some fields only of a shared table.
            StatsError: no row was counted, several processes have not added up yet, or other
                modules use the weight too.
        """
        self._reduction.refuse_unreduced("counted")
        plans = {name: FieldPlan(table) for name, table in self.fields.items()}
        names = tables_without_fields(plans, list(self._totals.tables), list(fields), explicit=True)
        measured = {site.path for site in self._sites}
        for name in names:
            weight = self._totals.tables[name].weight
            for path, module in self._model.named_modules():
                if path not in measured and any(p is weight for p in module.parameters(False)):
                    what = f"module {path!r} uses this weight too, and is not measured"
                    raise StatsError(what, where=name)
        for name in names:
            self._totals.tables[name].prune(self._totals.weights)

    @property
    def left_out(self) -> list[int]:
        """Batches, from 0, whose gradients were not finite."""
        return list(self._totals.left_out)

    def all_reduce(self, group: ProcessGroup | None = None) -> None:
        """Add up over processes what was counted and measured; every process calls it.

        Call it after the counting pass, whose mean rows the measured pass needs, and after the
        measured pass; then any process may save.

        Raises:
            StatsError: there is no process group.
        """
        self._reduction.run(group)

    def save(self, path: Path) -> None:
        """Write a stats file (formats/sharkstore-1.md); one that is there is replaced.

        After the counting pass alone it has counts and mean rows.

        Raises:
            StatsError: nothing was counted, or some field was never looked up.
            DestinationError: something is there that is no stats file.
            WriteError: the disk is full or refuses.
        """
        self._reduction.refuse_unreduced("counted", "measured")
        save_totals(self._totals, path)

    def state_dict(self) -> dict[str, Any]:
        """All that was added up, to go on with another day: tensors, numbers and texts."""
        return {**self._totals.state(), "complete": sorted(self._reduction.done)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` gave; steps go on from there.

        Raises:
            StatsError: of another model.
        """
        self._totals.restore(state)
        self._reduction.done = set(state["complete"])

    def _refuse_nested(self) -> None:
        if self._pass is not None:
            raise StatsError("one pass at a time: this Importance is in a context already")
