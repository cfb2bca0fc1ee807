"""What is pulled back through the network, and how it makes slopes and curvatures of a loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sharkstore.errors import StatsError

SHAPING = ("View", "UnsafeView", "Squeeze", "Unsqueeze", "Select", "Slice", "Alias", "ToCopy")
LOSSES = ("binary", "squared", "cross_entropy")
Heads = Tensor | Sequence[Tensor]


@dataclass(frozen=True, slots=True)
class Pull:
    """One backward pass: v = the gradient of <output, cotangent>, summed over samples.

    Summed over the pulls of a step, the gradient of a sample's own loss is `slope · v`, and
    the expectation of its Gauss–Newton matrix is `curvature · v vᵀ`.

    Args:
        cotangent: of the output's shape.
        slope, curvature: (samples,); None: the pull has no part in it.
    """

    output: Tensor
    cotangent: Tensor
    slope: Tensor | None
    curvature: Tensor | None


@dataclass(frozen=True, slots=True)
class Step:
    """The pulls of a batch.

    Args:
        positive: bool (samples,): whose label is positive; None when the loss doesn't tell.
    """

    samples: int
    pulls: Sequence[Pull]
    positive: Tensor | None


def pull_step(logits: Heads, labels: Heads, loss: str | Sequence[str], seed: int) -> Step:
    """The pulls of a batch of logits and labels, for one head or several.

    Args:
        logits: (n,), (n, 1), (n, heads) or, for cross-entropy, (n, classes); several heads may
            be a sequence of such.
        labels: as many, of the same shape; class numbers (n,) for cross-entropy.
        loss: of each head, or of all.
        seed: of the draws that cross-entropy takes.

    Raises:
        StatsError: shapes, labels or losses that don't fit.
    """
    if isinstance(logits, Tensor):
        logits, labels = [logits], [labels]  # type: ignore[list-item]
    heads, targets = list(logits), list(labels)
    losses = [loss] * len(heads) if isinstance(loss, str) else list(loss)
    if not heads or not len(heads) == len(targets) == len(losses):
        got = f"{len(heads)} logits, {len(targets)} labels, {len(losses)} losses"
        raise StatsError("each head takes logits, labels and a loss", got=got)
    pulls: list[Pull] = []
    positive: Tensor | None = None
    for head, target, name in zip(heads, targets, losses, strict=True):
        _check(head, target, name)
        made, is_positive = MAKERS[name](head, target.detach().to(head.device), seed)
        pulls += made
        if is_positive is not None:
            positive = is_positive if positive is None else positive | is_positive
    lengths = {len(head) for head in heads}
    if len(lengths) > 1:
        raise StatsError("heads of different batches", got=sorted(lengths))
    return Step(len(heads[0]), pulls, positive)


def pull_losses(losses: Tensor, samples: int, positive: Tensor | None, scale: float) -> Step:
    """The pull of losses of any kind: their curvature is the squared gradient.

    Args:
        losses: (samples,), or a single sum of them.
        scale: what the gradients are multiplied by.
    """
    ones = torch.ones(samples, device=losses.device)
    pull = Pull(losses, torch.full_like(losses, scale), ones, ones)
    return Step(samples, [pull], positive)


def _check(head: Tensor, target: Tensor, loss: str) -> None:
    if loss not in LOSSES:
        remedy = "for another loss: importance.backward(loss of each sample)"
        raise StatsError(f"loss {loss!r:.40}", expected=" or ".join(LOSSES), remedy=remedy)
    for what, values in (("logits", head), ("labels", target)):
        if not isinstance(values, Tensor):
            raise StatsError(f"{what} must be a tensor", got=type(values).__name__)
    if not head.requires_grad:
        remedy = "run the model in the loop, without torch.no_grad() or inference_mode()"
        raise StatsError("logits carry no gradient", remedy=remedy)
    if loss != "squared" and _is_chance(head):
        remedy = "pass them as they are before it"
        raise StatsError("not logits: they come out of a sigmoid or softmax", remedy=remedy)
    classes = loss == "cross_entropy"
    expected = head.shape[:1] if classes else head.shape
    same = target.shape == expected or (not classes and _flat(target) == _flat(head))
    if head.dim() not in ((2,) if classes else (1, 2)) or not same:
        got = f"logits {tuple(head.shape)}, labels {tuple(target.shape)}"
        shapes = "(n, classes) and (n,)" if classes else "(n,) and (n,), or (n, heads) twice"
        raise StatsError(f"logits and labels don't fit loss {loss!r}", got=got, expected=shapes)


def _is_chance(values: Tensor) -> bool:
    """Whether values are what a sigmoid or softmax gave, whatever shape they got since."""
    node: Any = values.grad_fn
    while node is not None and node.name().startswith(SHAPING):
        node = node.next_functions[0][0]
    return node is not None and node.name().startswith(("Sigmoid", "Softmax"))


def _flat(values: Tensor) -> tuple[int, ...]:
    """The shape, where (n, 1) is (n,)."""
    shape = tuple(values.shape)
    return shape[:1] if shape[1:] == (1,) else shape


def _binary(logits: Tensor, labels: Tensor, _seed: int) -> tuple[list[Pull], Tensor]:
    """Slope p − y, curvature p (1 − p) of each head's logit."""
    wide, truth = _columns(logits, labels)
    if not bool(((truth >= 0) & (truth <= 1)).all()):
        bad = truth[~((truth >= 0) & (truth <= 1))][0].item()
        raise StatsError("labels of a binary loss", got=bad, expected="0 to 1")
    chance = wide.sigmoid()
    curvature = chance * (1 - chance)
    return _each_head(logits, chance - truth, curvature), (truth > 0.5).any(dim=1)


def _squared(logits: Tensor, labels: Tensor, _seed: int) -> tuple[list[Pull], None]:
    """Of (z − y)²: slope 2 (z − y), curvature 2."""
    wide, truth = _columns(logits, labels)
    return _each_head(logits, 2 * (wide - truth), torch.full_like(wide, 2)), None


def _cross_entropy(logits: Tensor, labels: Tensor, seed: int) -> tuple[list[Pull], None]:
    """One pull for the slope, one for the curvature.

    The Gauss–Newton matrix in logits, diag(p) − p pᵀ, is the expectation of (e_k − p)(e_k − p)ᵀ
    over a class k drawn from p: one draw a sample.
    """
    wide = logits.detach().to(_wide(logits))
    if not bool(((labels >= 0) & (labels < wide.shape[1])).all()):
        raise StatsError("labels are class numbers", expected=f"0 to {wide.shape[1] - 1}")
    chances = wide.softmax(dim=1)
    ones = torch.ones(len(wide), device=wide.device, dtype=wide.dtype)
    slopes = chances.clone()
    slopes[torch.arange(len(wide), device=wide.device), labels.long()] -= 1
    drawn = _draw(chances, seed)
    curves = -chances
    curves[torch.arange(len(wide), device=wide.device), drawn] += 1
    return [
        Pull(logits, slopes.to(logits.dtype), ones, None),
        Pull(logits, curves.to(logits.dtype), None, ones),
    ], None


def _draw(chances: Tensor, seed: int) -> Tensor:
    """A class for each sample, by its chances."""
    generator = torch.Generator().manual_seed(seed)
    marks = torch.rand((len(chances), 1), generator=generator).to(chances.device, chances.dtype)
    return (chances.cumsum(dim=1) < marks).sum(dim=1).clamp(max=chances.shape[1] - 1)


def _each_head(logits: Tensor, slope: Tensor, curvature: Tensor) -> list[Pull]:
    """A pull for each column; one of all ones when there is one column."""
    if slope.shape[1] == 1:
        return [Pull(logits, torch.ones_like(logits), slope[:, 0], curvature[:, 0])]
    pulls = []
    for head in range(slope.shape[1]):
        cotangent = torch.zeros_like(logits)
        cotangent[:, head] = 1
        pulls.append(Pull(logits, cotangent, slope[:, head], curvature[:, head]))
    return pulls


def _columns(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and labels, (n, heads) and at least float32."""
    wide = logits.detach().to(_wide(logits))
    wide = wide if wide.dim() == 2 else wide[:, None]
    return wide, labels.to(wide.dtype).reshape(wide.shape)


def _wide(values: Tensor) -> torch.dtype:
    return torch.promote_types(values.dtype, torch.float32)


MAKERS: dict[str, Callable[[Tensor, Tensor, int], tuple[list[Pull], Tensor | None]]] = {
    "binary": _binary,
    "squared": _squared,
    "cross_entropy": _cross_entropy,
}
