"""Models over a store, compiled, exported, and run where the store lies elsewhere."""

import os
import subprocess
import sys
import warnings

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
    TableFeatures,
    bind,
    ops,
    replace_embeddings,
)

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
    learnt = weights.clone().requires_grad_()
    compiled(ids, offsets, learnt).sum().backward()
    assert learnt.grad[1] == 0
    assert learnt.grad[0] != 0


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
exported = torch.export.load(f"{folder}/exported.pt2").module()
packaged = torch._inductor.aoti_load_package(f"{folder}/packaged.pt2")
for program in (exported, packaged):
    try:
        program(*given)
    except Exception as error:
        print("sharkstore.nn.bind(path) opens a store" in str(error), type(error).__name__)
sharkstore.nn.bind(f"{folder}/moved.shark")
torch.save([exported(*given), packaged(*given)], f"{folder}/found.pt")
"""


def test_a_program_is_exported_and_packaged_then_loaded_and_bound_elsewhere(tmp_path):
    model = seeded(Small)
    with converted(model, tmp_path) as store:
        expected = Vectors(with_rows_of(model, store))
        replace_embeddings(model, store)
        program = torch.export.export(Vectors(model), inputs(4), dynamic_shapes=({0: BATCH},) * 3)
        assert str(tmp_path) not in str(program)
        torch.export.save(program, tmp_path / "exported.pt2")
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own, about itself
            torch._inductor.aoti_compile_and_package(
                program, package_path=str(tmp_path / "packaged.pt2")
            )
    torch.save(inputs(7), tmp_path / "inputs.pt")
    os.rename(tmp_path / "model.shark", tmp_path / "moved.shark")
    command = [sys.executable, "-c", LOAD, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["True StoreNotFoundError", "True RuntimeError"]
    exported, packaged = torch.load(tmp_path / "found.pt")
    check(exported, expected(*inputs(7)))
    check(packaged, expected(*inputs(7)))


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


def test_a_path_is_opened_and_bound(sample):
    binding = bind(sample)
    arguments = (torch.tensor([1, 2]), binding.digest, "emb.user.weight", 7, -1)
    assert ops.embedding(*arguments).shape == (2, 7)
    with pytest.raises(ArgumentError, match="another dim"):
        ops.embedding(*arguments[:3], 8, -1)
    binding.unbind()
    binding.store.close()
