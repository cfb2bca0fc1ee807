"""What nobody should pass to modules, and the modes of torch that they are called in."""

import copy
import warnings

import numpy as np
import pytest
import torch
from served_models import same_bits
from strategies import make_store, random_rows
from torch import nn
from torch.func import functional_call, grad, jvp, vmap

import sharkstore
from sharkstore.errors import ArgumentError, DtypeError, IdError
from sharkstore.nn import Embedding, EmbeddingBag, EmbeddingBagCollection, TableFeatures

ROWS, DIM = 50, 4
TABLE = "emb.a.weight"
IDS, OFFSETS = torch.tensor([1, 2, 3, 4]), torch.tensor([0, 2])
NAN = float("nan")


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    tensors = {TABLE: random_rows(ROWS, DIM, seed=1), "emb.b.weight": random_rows(40, 8, seed=2)}
    path = make_store(tmp_path_factory.mktemp("odd"), tensors, tiers="f32=20%,int8=rest")
    with sharkstore.open(path) as store:
        yield store


@pytest.fixture
def rows(opened):
    return Embedding(opened, TABLE)


@pytest.fixture
def bags(opened):
    return EmbeddingBag(opened, TABLE, "sum")


@pytest.fixture
def collection(opened):
    tables = TableFeatures(TABLE, ("x", "y")), TableFeatures("emb.b.weight", ("z",))
    return EmbeddingBagCollection(opened, tables)


# --- refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ids",
    [
        IDS.float(),
        IDS.bfloat16(),
        IDS.bool(),
        IDS.to(torch.uint8),
        IDS.to_sparse(),
        IDS.numpy(),
        [1, 2],
        None,
    ],
    ids=lambda ids: str(getattr(ids, "dtype", ids)),
)
def test_ids_of_other_types_are_refused(ids, rows, bags, collection):
    with pytest.raises(DtypeError, match="ids"):
        rows(ids)
    with pytest.raises(DtypeError, match="ids"):
        bags(ids, OFFSETS)
    if ids is not None:
        with pytest.raises(DtypeError, match=r"ids|values"):
            collection(["x", "y", "z"], ids, torch.tensor([0, 1, 2, 4]))


@pytest.mark.parametrize("bad", [-1, ROWS, 2**40, -(2**63)])
def test_ids_outside_the_table_are_refused(bad, rows, bags, collection):
    ids = torch.tensor([3, bad])
    with pytest.raises(IdError, match=f"id {bad} at position 1"):
        rows(ids)
    with pytest.raises(IdError, match=f"id {bad} at position 1"):
        bags(ids, torch.tensor([0]))
    with pytest.raises(IdError, match=f"id {bad} at position 1"):
        collection(["x", "y", "z"], ids, torch.tensor([0, 1, 2, 2]))


BAGS = {
    "offsets of two dimensions": (IDS, OFFSETS[None]),
    "offsets of none": (IDS, torch.tensor(0)),
    "offsets of floats": (IDS, OFFSETS.float()),
    "offsets that are not numbers": (IDS, torch.tensor([0, NAN])),
    "offsets that fall": (IDS, torch.tensor([0, 3, 1])),
    "offsets from 1": (IDS, torch.tensor([1, 3])),
    "offsets past the end": (IDS, torch.tensor([0, 9])),
    "offsets below 0": (IDS, torch.tensor([0, -1])),
    "offsets as a list": (IDS, [0, 2]),
    "offsets on another device": (IDS, OFFSETS.to("meta")),
    "offsets with two dimensions of ids": (IDS.reshape(2, 2), OFFSETS),
    "no offsets": (IDS, None),
    "an id of no dimension": (IDS[0], OFFSETS),
    "ids of three dimensions": (IDS.reshape(1, 2, 2), None),
}


@pytest.mark.parametrize("given", BAGS.values(), ids=BAGS)
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("weights", ["none", "plain", "learnt"])
def test_bags_that_are_none_are_refused_whatever_the_weights(weights, last, given, opened):
    bags = EmbeddingBag(opened, TABLE, "sum", include_last_offset=last)
    learnt = weights == "learnt"
    weights = None if weights == "none" else torch.ones(given[0].shape, requires_grad=learnt)
    with pytest.raises((ArgumentError, DtypeError), match=r"offset|dimension"):
        bags(*given, weights)


@pytest.mark.parametrize(
    "weights",
    [torch.ones(3), torch.ones(2, 2), torch.ones(4).half(), torch.ones(4).long(), [1.0] * 4],
    ids=str,
)
def test_weights_that_do_not_fit_are_refused(weights, bags):
    with pytest.raises((ArgumentError, DtypeError), match=r"per_sample_weights"):
        bags(IDS, OFFSETS, weights)
    if isinstance(weights, torch.Tensor) and weights.is_floating_point():
        with pytest.raises((ArgumentError, DtypeError), match=r"per_sample_weights"):
            bags(IDS, OFFSETS, weights.requires_grad_())
    with pytest.raises(ArgumentError, match=r"per_sample_weights on another"):
        bags(IDS, OFFSETS, torch.ones(4, device="meta"))


KEYED = {
    "offsets of two dimensions": (torch.arange(6), torch.arange(7)[None]),
    "offsets of none": (torch.arange(6), torch.tensor(0)),
    "offsets of floats": (torch.arange(6), torch.arange(7.0)),
    "no offsets": (torch.arange(6), torch.arange(0)),
    "offsets from 1": (torch.arange(6), torch.tensor([1, 1, 2, 3, 4, 5, 6])),
    "offsets to less than the end": (torch.arange(6), torch.tensor([0, 1, 2, 3, 4, 5, 5])),
    "offsets past the end": (torch.arange(6), torch.tensor([0, 1, 2, 3, 4, 5, 7])),
    "offsets that fall": (torch.arange(6), torch.tensor([0, 1, 2, 1, 4, 5, 6])),
    "offsets on another device": (torch.arange(6), torch.arange(7, device="meta")),
    "offsets as a list": (torch.arange(6), list(range(7))),
    "values of two dimensions": (torch.arange(6)[:, None], torch.arange(7)),
}


@pytest.mark.parametrize("given", KEYED.values(), ids=KEYED)
@pytest.mark.parametrize("keys", ["xyz", "zyx"])
def test_keyed_values_that_do_not_fit_are_refused_in_any_order(keys, given, collection):
    with pytest.raises((ArgumentError, DtypeError), match=r"offset|dimension"):
        collection(list(keys), *given)


def test_what_a_collection_is_made_of_is_told(opened):
    with pytest.raises(ArgumentError, match=r"features must be names \(got 'xy'"):
        EmbeddingBagCollection(opened, [TableFeatures(TABLE, "xy")])
    weighted = EmbeddingBagCollection(opened, [TableFeatures(TABLE, ("x",))], is_weighted=True)
    with pytest.raises(ArgumentError, match="needs per_sample_weights"):
        weighted(["x"], IDS, torch.arange(5))
    for dtype in (torch.int32, "float32"):
        with pytest.raises(DtypeError, match=r"torch\.dtype of floats"):
            Embedding(opened, TABLE, dtype=dtype)


def test_scripting_is_refused_and_told_what_to_do(rows, collection):
    for module in (rows, nn.Sequential(rows), collection):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            with pytest.raises(ArgumentError, match=r"can't be scripted; torch\.compile"):
                torch.jit.script(module)

    def call(values, offsets):
        return collection(["x", "y", "z"], values, offsets)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        with pytest.raises(ArgumentError, match=r"no lists of names; torch\.export"):
            torch.jit.trace(call, (IDS, torch.tensor([0, 1, 2, 4])))


# --- modes of torch --------------------------------------------------------------------------


def test_inference_mode_and_autocast_change_no_bits(rows, bags):
    expected = rows(IDS), bags(IDS, OFFSETS)
    with torch.inference_mode():
        assert same_bits(rows(IDS), expected[0])
        assert same_bits(bags(IDS, OFFSETS), expected[1])
    with torch.autocast("cpu", torch.bfloat16):
        assert same_bits(rows(IDS), expected[0])
        assert same_bits(bags(IDS, OFFSETS), expected[1])
        assert nn.Linear(DIM, 1)(rows(IDS)).dtype == torch.bfloat16


def test_functional_transforms_see_rows_as_constants(rows, bags):
    model = nn.Sequential(rows, nn.Linear(DIM, 1, bias=False))
    found = functional_call(model, {"1.weight": torch.ones(1, DIM)}, (IDS,))
    torch.testing.assert_close(found[:, 0], rows(IDS).sum(-1))
    slopes = grad(lambda by: (rows(IDS) @ by).sum())(torch.ones(DIM))
    torch.testing.assert_close(slopes, rows(IDS).sum(0))
    slopes = grad(lambda by: bags(IDS, OFFSETS, by).sum())(torch.ones(4))
    torch.testing.assert_close(slopes, rows(IDS).sum(-1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, about time
        assert same_bits(vmap(rows)(IDS.reshape(2, 2)), rows(IDS.reshape(2, 2)))
        found = vmap(lambda ids: bags(ids, OFFSETS))(IDS.expand(3, 4))
    assert same_bits(found, bags(IDS, OFFSETS).expand(3, 2, DIM))


def test_forward_mode_is_refused_rather_than_without_slopes(bags):
    weights = torch.ones(4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's own, about itself
        with pytest.raises(RuntimeError, match="forward mode AD"):
            jvp(lambda by: bags(IDS, OFFSETS, by).sum(), (weights,), (weights,))


def test_symbolic_traces_look_rows_up_anew(rows, bags, collection):
    keys, ends = ["x", "y", "z"], torch.tensor([0, 1, 2, 4])

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.rows, self.bags, self.collection = rows, bags, collection

        def forward(self, ids, offsets, ends):
            return self.rows(ids), self.bags(ids, offsets), self.collection(keys, ids, ends)

    traced = torch.fx.symbolic_trace(Model())
    for ids in (IDS, IDS + 5):
        given = ids, OFFSETS, ends
        for found, expected in zip(traced(*given), Model()(*given), strict=True):
            assert same_bits(found, expected)


def test_modules_move_as_their_model_does(rows):
    for move in (
        lambda model: model.to("cpu", torch.float32),
        lambda model: model.to("meta"),
        lambda model: model.to_empty(device="cpu"),
        lambda model: model.share_memory(),
        lambda model: model.requires_grad_(requires_grad=False),
        lambda model: model.eval(),
        lambda model: model.type(torch.float32),
    ):
        moved = move(nn.Sequential(copy.deepcopy(rows)))
        assert same_bits(moved(IDS), rows(IDS))
    assert rows.half()(IDS).dtype == torch.float16
    np.testing.assert_array_equal(rows.float()(IDS).numpy(), rows(IDS).numpy())
