"""Models over a store, compiled, exported, and run where the store lies elsewhere."""

import gc
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from served_models import Small, converted, inputs, same_bits, seeded, with_rows_of
from torch import nn
from torch.export import Dim

import sharkstore
from sharkstore.errors import ArgumentError, SharkstoreError, StoreNotFoundError
from sharkstore.nn import (
    Embedding,
    EmbeddingBag,
    EmbeddingBagCollection,
    EmbeddingCollection,
    TableFeatures,
    bind,
    gradients,
    ops,
    replace_embeddings,
)
from sharkstore.nn.bound import find

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its own, on import
    from torchrec import KeyedJaggedTensor

BATCH = Dim("batch")
TABLES = [
    TableFeatures("user.weight", ("viewer", "author")),
    TableFeatures("bags.weight", ("tag",), "mean"),
]


class Vectors(nn.Module):
    """What `Small` looks up, side by side, and its logits."""

    def __init__(self, of):
        super().__init__()
        self.of = of

    def forward(self, user, seen, tags):
        seen = self.of.seen(seen).flatten(1)
        vectors = torch.cat([self.of.user(user), seen, self.of.bags(tags)], dim=1)
        return vectors, self.of.head(vectors[:, :24])[:, 0]


class Whole(nn.Module):
    """Vectors and logits of `Small`; bags of a collection, rows of another, of jagged tensors."""

    def __init__(self, vectors, store):
        super().__init__()
        self.vectors, self.bags = vectors, EmbeddingBagCollection(store, TABLES)
        rows = [TableFeatures("user.weight", ("viewer",)), TableFeatures("bags.weight", ("tag",))]
        self.rows = EmbeddingCollection(store, rows)

    def forward(self, inputs, dense, values, offsets, lengths):
        keys = ["tag", "author", "viewer"]
        pooled = dense + self.bags(keys, values, offsets, batch=dense.shape[0])
        rows = self.rows(KeyedJaggedTensor(keys, values, lengths=lengths))
        return *self.vectors(*inputs), pooled, rows["viewer"].values(), rows["tag"].values()


def whole_inputs(batch, seed=0):
    lengths = np.random.default_rng(seed).integers(0, 4, 3 * batch)
    offsets = torch.from_numpy(np.append(0, np.cumsum(lengths)))
    values, lengths = torch.arange(int(offsets[-1])) % 30, torch.from_numpy(lengths)
    return inputs(batch), torch.rand(batch, 1), values, offsets, lengths


class Features(nn.Module):
    """A collection whose input comes in another order."""

    def __init__(self, store):
        super().__init__()
        self.bags = EmbeddingBagCollection(store, TABLES)

    def forward(self, dense, values, offsets):
        keys = ["tag", "author", "viewer"]
        return dense + self.bags(keys, values, offsets, batch=dense.shape[0])


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A model over a store, one with the same rows in its own tables, the store."""
    model = seeded(Small)
    with converted(model, tmp_path_factory.mktemp("programs")) as store:
        expected = with_rows_of(model, store)
        replace_embeddings(model, store)
        yield Vectors(model).requires_grad_(requires_grad=False), Vectors(expected), store


def check(found, expected):
    assert same_bits(found[0], expected[0].detach())
    torch.testing.assert_close(found[1], expected[1].detach())


def test_a_model_compiles_as_one_graph_for_any_batch(served):
    model, expected, _ = served
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    for batch in (5, 1, 9):
        check(compiled(*inputs(batch)), expected(*inputs(batch)))


def test_inductor_calls_lookups_for_any_batch(served):
    _, expected, store = served
    torch.compiler.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, about itself
        module = Embedding(store, "user.weight")  # alone: nothing has to be compiled in C++
        compiled = torch.compile(module, fullgraph=True, dynamic=True)
        for batch in (5, 1, 0):
            user = inputs(batch)[0]
            assert same_bits(compiled(user), expected.of.user(user).detach())


def test_a_collection_compiles_as_one_graph(served):
    torch.compiler.reset()
    model = Features(served[2])
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    given = torch.rand(2, 1), torch.arange(12), torch.arange(0, 13, 2)
    assert same_bits(compiled(*given), model(*given))
    shapes = ({0: Dim("samples")}, {0: Dim("n")}, {0: Dim("bags")})
    exported = torch.export.export(model, given, dynamic_shapes=shapes).module()
    for samples in (1, 3, 0):
        offsets = torch.arange(0, 6 * samples + 1, 2)
        given = torch.rand(samples, 1), torch.arange(6 * samples) % 9, offsets
        assert same_bits(exported(*given), model(*given))
    with pytest.raises(ArgumentError, match=r"another batch size \(got 2, expected 1\)"):
        exported(torch.rand(1, 1), torch.arange(12), torch.arange(0, 13, 2))


def test_every_kind_of_bag_compiles(served):
    torch.compiler.reset()
    store = served[2]
    bags = EmbeddingBag(store, "bags.weight", "sum", include_last_offset=True, padding_idx=1)
    compiled = torch.compile(bags, fullgraph=True, backend="aot_eager")
    ids, offsets = torch.tensor([0, 1, 2, 3]), torch.tensor([0, 3, 3, 4])
    weights = torch.tensor([0.5, 1.0, 2.0, 3.0])
    assert same_bits(compiled(ids, offsets, weights), bags(ids, offsets, weights))
    assert same_bits(compiled(ids, offsets), bags(ids, offsets))
    learnt = [weights.clone().requires_grad_() for _ in range(2)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's own, about itself
        (compiled(ids, offsets, learnt[0]) ** 2).sum().backward()
    (bags(ids, offsets, learnt[1]) ** 2).sum().backward()
    assert learnt[0].grad[1] == 0
    assert same_bits(learnt[0].grad, learnt[1].grad)


def test_operators_keep_the_rules_of_torch(served):
    store = served[2]
    digest = store.metadata.digest
    ids, offsets = torch.tensor([3, 1, 2]), torch.tensor([0, 1, 3])
    for op, arguments in (
        (ops.embedding, (ids, digest, "user.weight", 8, 3)),
        (
            ops.embedding_bag,
            (ids, offsets, None, digest, "user.weight", 8, "mean", False, -1),
        ),
        (
            gradients.weight_gradients,
            (torch.rand(2, 8), ids, offsets, digest, ["user.weight"], [], 1, False, 2),
        ),
        (ops.embeddings, (ids, [2, 1], digest, ["user.weight", "seen.weight"], 8)),
        (
            ops.embedding_bags,
            (ids, offsets, None, digest, ["user.weight"] * 2, [8, 8], ["sum"] * 2, [1, 0], 2, 1),
        ),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own, about itself
            checked = torch.library.opcheck(op, arguments)
        assert set(checked.values()) == {"SUCCESS"}


def test_traced_models_look_rows_up_anew(served):
    module = Embedding(served[2], "user.weight")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        traced = torch.jit.trace(module, (torch.tensor([1, 2]),))
    for found in (traced, torch.fx.symbolic_trace(nn.Sequential(module))):
        assert same_bits(found(torch.tensor([3, 4])), module(torch.tensor([3, 4])))


# --- another process, another path -----------------------------------------------------------

LOAD = """
import sys, torch
import sharkstore.nn
folder = sys.argv[1]
given = torch.load(f"{folder}/inputs.pt")
sharkstore.nn.bind(f"{folder}/other.shark")
exported = torch.export.load(f"{folder}/exported.pt2").module()
packaged = torch._inductor.aoti_load_package(f"{folder}/packaged.pt2")
for program in (exported, packaged):
    try:
        program(*given)
    except Exception as error:
        said = str(error)
        print("bound: " + sys.argv[2] in said and "bind(path) opens" in said, type(error).__name__)
sharkstore.nn.bind(f"{folder}/moved.shark", threads=2)
torch.save([exported(*given), packaged(*given)], f"{folder}/found.pt")
"""


def test_a_program_is_exported_and_packaged_then_loaded_and_bound_elsewhere(tmp_path, sample):
    model = seeded(Small)
    with converted(model, tmp_path) as store:
        replace_embeddings(model, store)
        whole = Whole(Vectors(model), store).requires_grad_(requires_grad=False)
        shapes = (({0: BATCH},) * 3, {0: BATCH}, {0: Dim("n")}, *[{0: Dim.DYNAMIC}] * 2)
        program = torch.export.export(whole, whole_inputs(4), dynamic_shapes=shapes)
        assert str(tmp_path) not in str(program)
        torch.export.save(program, tmp_path / "exported.pt2")
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own, about itself
            torch._inductor.aoti_compile_and_package(
                program, package_path=str(tmp_path / "packaged.pt2")
            )
        given = whole_inputs(7)
        expected = whole(*given)
    torch.save(given, tmp_path / "inputs.pt")
    os.rename(tmp_path / "model.shark", tmp_path / "moved.shark")
    os.symlink(sample, tmp_path / "other.shark")
    with sharkstore.open(sample) as other:
        command = [sys.executable, "-c", LOAD, str(tmp_path), other.metadata.digest]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["True StoreNotFoundError", "True RuntimeError"]
    for found in torch.load(tmp_path / "found.pt"):
        for at, (one, other) in enumerate(zip(found, expected, strict=True)):
            if at == 1:  # logits: a product of torch's own
                torch.testing.assert_close(one, other)
            else:
                assert same_bits(one, other), at


# --- binding ---------------------------------------------------------------------------------


def test_a_binding_ends_and_the_one_before_counts_again(sample):
    ids = torch.tensor([1, 2])
    with sharkstore.open(sample) as one, sharkstore.open(sample, io="ram") as other:
        digest = one.metadata.digest
        arguments = (ids, digest, "emb.user.weight", 7, -1)
        first = bind(one)
        with bind(other) as second:
            assert second.store is other
            assert digest in repr(second)
            one.close()
            assert ops.embedding(*arguments).shape == (2, 7)
        with pytest.raises(SharkstoreError, match="closed"):
            ops.embedding(*arguments)
        first.unbind()
        first.unbind()
    del first, second
    with pytest.raises(StoreNotFoundError, match=r"sha256:.*sharkstore\.nn\.bind\(path\)"):
        ops.embedding(*arguments)


def test_modules_are_found_as_long_as_one_is_alive_whose_store_is_open(sample):
    ids = torch.tensor([1, 2])
    with sharkstore.open(sample) as one, sharkstore.open(sample) as other:
        first, second = Embedding(one, "emb.user.weight"), Embedding(other, "emb.user.weight")
        arguments = ids, first.digest, "emb.user.weight", 7, -1
        assert find(first.digest).store is other
        again = EmbeddingBag(one, "emb.user.weight")
        assert find(first.digest).store is one
        del again, second
        gc.collect()
        assert same_bits(ops.embedding(*arguments), first(ids))
        third = Embedding(other, "emb.user.weight")
        other.close()
        assert same_bits(ops.embedding(*arguments), first(ids))
        one.close()
        with pytest.raises(SharkstoreError, match="closed"):
            ops.embedding(*arguments)
        del first, third


def test_weights_get_their_gradients_though_the_module_is_gone(sample):
    ids, weights = torch.tensor([[1, 2], [3, 4]]), torch.ones(2, 2, requires_grad=True)
    with sharkstore.open(sample) as store:
        found = EmbeddingBag(store, "emb.user.weight", "sum")(ids, None, weights)
        gc.collect()
        found.sum().backward()
        expected = torch.from_numpy(store["emb.user.weight"].lookup(ids.numpy()).sum(-1))
    torch.testing.assert_close(weights.grad, expected)


def test_a_path_is_opened_and_bound(sample):
    binding = bind(sample)
    arguments = (torch.tensor([1, 2]), binding.digest, "emb.user.weight", 7, -1)
    assert ops.embedding(*arguments).shape == (2, 7)
    with pytest.raises(ArgumentError, match="another dim"):
        ops.embedding(*arguments[:3], 8, -1)
    binding.unbind()
    binding.store.close()
