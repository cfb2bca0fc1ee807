"""Models over stores, and the same with the store's rows in torch's own tables."""

import copy

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

import sharkstore
from sharkstore.convert import convert_checkpoint

TIERS = "f32=20%,f16=30%,int8=rest"


class Small(nn.Module):
    """A one-hot field, a history that is padded, bags; what recommenders are made of."""

    def __init__(self):
        super().__init__()
        self.user = nn.Embedding(50, 8)
        self.seen = nn.Embedding(40, 8, padding_idx=0)
        self.bags = nn.EmbeddingBag(30, 8, mode="sum", sparse=True)
        self.head = nn.Linear(24, 1)

    def forward(self, user, seen, tags):
        vectors = [self.user(user), self.seen(seen).sum(dim=1), self.bags(tags)]
        return self.head(torch.cat(vectors, dim=1))[:, 0]


def inputs(batch, seed=0):
    """User (batch,), seen (batch, 4) and tags (batch, 3) of `Small`."""
    rng = np.random.default_rng(seed)
    shapes = ((50, (batch,)), (40, (batch, 4)), (30, (batch, 3)))
    return tuple(torch.from_numpy(rng.integers(rows, size=shape)) for rows, shape in shapes)


def seeded(make):
    torch.manual_seed(0)
    return make().eval()


def converted(model, folder, *, prefix="", tables=None, tiers=TIERS, **options):
    """Convert a model's state dict; the store, open.

    Args:
        tables: keys; those of its embedding modules when left out.
    """
    if tables is None:
        looked_up = nn.Embedding | nn.EmbeddingBag
        modules = [path for path, one in model.named_modules() if isinstance(one, looked_up)]
        tables = [f"{prefix}{path}.weight" for path in modules]
    tensors = {prefix + key: value.contiguous() for key, value in model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors")
    path = folder / "model.shark"
    convert_checkpoint(folder / "model.safetensors", path, tables=tables, tiers=tiers, **options)
    return sharkstore.open(path)


def with_rows_of(model, store):
    """A copy of a model, the store's rows in its own tables."""
    copied = copy.deepcopy(model)
    state = copied.state_dict()
    for name, table in store.items():
        state[name].copy_(torch.from_numpy(table.lookup(np.arange(table.rows))))
    return copied


def same_bits(got, expected):
    """Equal shape, dtype and bits."""
    same = got.dtype == expected.dtype and got.shape == expected.shape
    bits = torch.int32 if got.dtype == torch.float32 else got.dtype
    return same and torch.equal(got.contiguous().view(bits), expected.contiguous().view(bits))


def answer(model, *arrays):
    """What a model gives for arrays, as an array: to be called in another process."""
    with torch.no_grad():
        return model(*map(torch.from_numpy, arrays)).numpy()
