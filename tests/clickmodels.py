"""Small models with every kind of lookup, and the slow, plain way to score their fields."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

ROWS = 40
DIM = 4
SAMPLES = 24


class Everything(nn.Module):
    """One-hot, sum, mean, max and weighted bags, rows pooled by the model, a shared table."""

    def __init__(self, dtype=torch.float64):
        super().__init__()
        self.user = nn.Embedding(ROWS, DIM)
        self.summed = nn.EmbeddingBag(ROWS, DIM, mode="sum")
        self.meant = nn.EmbeddingBag(ROWS, DIM, mode="mean", padding_idx=0)
        self.weighted = nn.EmbeddingBag(ROWS, DIM, mode="sum", include_last_offset=True)
        self.largest = nn.EmbeddingBag(ROWS, DIM, mode="max")
        self.history = nn.Embedding(ROWS, DIM, padding_idx=0)
        self.norm = nn.BatchNorm1d(8 * DIM)
        self.head = nn.Sequential(nn.Linear(8 * DIM, 16), nn.Tanh(), nn.Linear(16, 1))
        for buffer in self.norm.buffers():
            if buffer.is_floating_point():
                buffer.copy_(torch.rand_like(buffer) + 0.5)
        self.to(dtype).eval()

    def vectors(self, x):
        return {
            "viewer": self.user(x["viewer"]),
            "author": self.user(x["author"]),
            "summed": self.summed(x["summed"], x["summed_offsets"]),
            "meant": self.meant(x["meant"]),
            "weighted": self.weighted(
                x["weighted"], x["weighted_offsets"], per_sample_weights=x["weights"]
            ),
            "largest": self.largest(x["summed"], x["summed_offsets"]),
            "history": self.history(x["history"]),
            "pair": self.user(x["pair"]),
        }

    def logits(self, vectors):
        flat = [v.mean(dim=1) if v.dim() == 3 else v for v in vectors.values()]
        return self.head(self.norm(torch.cat(flat, dim=1)))[:, 0]

    def forward(self, x):
        return self.logits(self.vectors(x))


# calls of `user` in their order; every other module has one field
FIELDS = {
    "viewer": "user",
    "author": "user",
    "pair": "user",
    "summed": "summed",
    "meant": "meant.weight",
    "weighted": "weighted",
    "largest": "largest",
    "history": "history",
}


def bags(rng, samples, least=0):
    """Ids with repeats, and where each sample's bag ends."""
    lengths = rng.integers(least, 5, samples)
    return rng.integers(0, 6, lengths.sum()), np.concatenate([[0], np.cumsum(lengths)])


def batches(seed, count=3, samples=SAMPLES, dtype=torch.float64):
    """Batches of inputs and labels."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        summed, summed_ends = bags(rng, samples)
        weighted, weighted_ends = bags(rng, samples)
        x = {
            "viewer": rng.integers(0, ROWS, samples),
            "author": rng.integers(0, ROWS, samples),
            "summed": summed,
            "summed_offsets": summed_ends[:-1],
            "meant": rng.integers(0, 3, (samples, 2)),  # some bags have nothing but padding
            "weighted": weighted,
            "weighted_offsets": weighted_ends,
            "weights": rng.normal(size=len(weighted)),
            "history": rng.integers(0, 4, (samples, 3)),
            "pair": rng.integers(0, ROWS, (samples, 2)),
        }
        x = {name: torch.from_numpy(values) for name, values in x.items()}
        x["weights"] = x["weights"].to(dtype)
        made.append((x, torch.from_numpy(rng.random(samples) < 0.4).to(dtype)))
    return made


def one_sample(x, n):
    """Sample n of a batch, alone."""
    ends = torch.cat([x["summed_offsets"], torch.tensor([len(x["summed"])])])
    a, b = int(ends[n]), int(ends[n + 1])
    c, d = (int(end) for end in x["weighted_offsets"][n : n + 2])
    return {
        **{name: x[name][n : n + 1] for name in ("viewer", "author", "meant", "history", "pair")},
        "summed": x["summed"][a:b],
        "summed_offsets": torch.tensor([0]),
        "weighted": x["weighted"][c:d],
        "weighted_offsets": torch.tensor([0, d - c]),
        "weights": x["weights"][c:d],
    }


@dataclass
class Plain:
    """What the plain way finds."""

    scores: dict
    counts: dict
    positives: dict
    metrics: dict
    means: dict


def measure_plainly(model, loader):
    """Scores, counts and metrics of `Everything`, a sample and an autograd call at a time."""
    tables = {
        name: module.weight.detach()
        for name, module in model.named_children()
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag))
    }
    counts = {name: np.zeros(ROWS, np.int64) for name in tables}
    positives = {name: np.zeros(ROWS, np.int64) for name in tables}
    samples = [(one_sample(x, n), y[n]) for x, y in loader for n in range(len(y))]
    for x, y in samples:
        for name, used in rows_of(x).items():
            for row in used:
                counts[name][row] += 1
                positives[name][row] += int(y)
    means = {
        name: torch.from_numpy(counts[name] / counts[name].sum()) @ table
        for name, table in tables.items()
    }
    sums = {field: np.zeros(4) for field in FIELDS}
    metrics = {name: torch.zeros(DIM, DIM, dtype=torch.float64) for name in tables}
    for x, y in samples:
        vectors = {k: v.detach().requires_grad_() for k, v in model.vectors(x).items()}
        logit = model.logits(vectors)
        chance = float(torch.sigmoid(logit.detach()))
        loss = nn.functional.binary_cross_entropy_with_logits(logit[0], y)
        slopes = torch.autograd.grad(loss, list(vectors.values()), retain_graph=True)
        pulls = torch.autograd.grad(logit[0], list(vectors.values()))
        for field, slope, pull in zip(vectors, slopes, pulls, strict=True):
            table = FIELDS[field].removesuffix(".weight")
            vector, instead, squares = replaced(field, x, vectors[field].detach(), means[table])
            move = float((slope * (instead - vector)).sum())
            curve = chance * (1 - chance)
            bent = curve / 2 * float((pull * (instead - vector)).sum()) ** 2
            sums[field] += abs(move), move, abs(float((slope * vector).sum())), bent
            for one, square in zip(pull.reshape(-1, DIM), squares, strict=True):
                metrics[table] += curve * square * torch.outer(one, one)
    uses = {name: count.sum() for name, count in counts.items()}
    return Plain(
        {field: found / len(samples) for field, found in sums.items()},
        counts,
        positives,
        {name: (metric / uses[name]).numpy() for name, metric in metrics.items()},
        {name: mean.numpy() for name, mean in means.items()},
    )


def rows_of(x):
    """Rows that one sample uses, by table; padding is none."""
    return {
        "user": [*x["viewer"], *x["author"], *x["pair"][0]],
        "summed": list(x["summed"]),
        "meant": [row for row in x["meant"][0] if row],
        "largest": list(x["summed"]),
        "weighted": list(x["weighted"]),
        "history": [row for row in x["history"][0] if row],
    }


def replaced(field, x, vector, mean):
    """One sample's vector, the same with each row the mean row, squared coefficients."""
    if field in ("viewer", "author"):
        return vector, mean[None], [1.0]
    if field == "pair":
        return vector, mean.expand(1, 2, DIM), [1.0, 1.0]
    if field == "history":  # padding stays what it is, and is not the field's doing
        kept = (x["history"][0] != 0).double()[None, :, None]
        return vector * kept, mean.expand(1, 3, DIM) * kept, kept.flatten().tolist()
    if field == "summed":
        many = len(x["summed"])
        return vector, many * mean[None], [float(many)]
    if field == "weighted":
        return vector, x["weights"].sum() * mean[None], [float(x["weights"].square().sum())]
    if field == "largest":
        many = len(x["summed"])
        return vector, mean[None] * (many > 0), [float(many > 0)]
    many = int((x["meant"] != 0).sum())
    return vector, mean[None] * (many > 0), [(many > 0) / max(many, 1)]
