"""`sharkstore.nn.Embedding` and `EmbeddingBag` against torch's over the same rows."""

import copy
import io
import multiprocessing
import os
import pickle
import shutil
import warnings
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from served_models import answer, converted, same_bits, seeded
from strategies import SAMPLE, SAMPLE_TIERS, exact_rows, make_store, random_rows
from torch import nn

import sharkstore
from sharkstore.errors import (
    ArgumentError,
    ClosedError,
    DtypeError,
    IdError,
    StoreNotFoundError,
    UnknownTableError,
)
from sharkstore.nn import Embedding, EmbeddingBag

ROWS, DIM = 200, 7
TABLE = "emb.user.weight"
INTEGERS = [torch.int32, torch.int64]


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """A store with rows of every kind of tier, its values not exact in most of them."""
    tensors = {TABLE: random_rows(ROWS, DIM, seed=1), "mlp.bias": random_rows(1, 3)[0]}
    path = make_store(tmp_path_factory.mktemp("nn"), tensors, tiers="f32=10%,f16=20%,int8=rest")
    with sharkstore.open(path) as store:
        yield store


@pytest.fixture(scope="module")
def weight(opened):
    """The rows as the store has them, (ROWS, DIM)."""
    return torch.from_numpy(opened[TABLE].lookup(np.arange(ROWS)))


def drawn_ids(data, shape, dtype):
    """Ids, half of them 0; contiguous or not."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    ids = torch.tensor(rng.integers(ROWS, size=shape) * rng.integers(2, size=shape), dtype=dtype)
    layout = data.draw(st.sampled_from(["plain", "strided", "transposed"]))
    if layout == "strided":
        return torch.stack([ids, ids + 10**6], dim=-1)[..., 0]
    if layout == "transposed":
        return ids.transpose(0, -1).contiguous().transpose(0, -1) if ids.dim() else ids
    return ids


PADDINGS = st.sampled_from([None, 0, 3, -1, -ROWS])


# --- parity ----------------------------------------------------------------------------------


@given(data=st.data())
def test_embedding_equals_torch_bit_for_bit(data, opened, weight):
    shape = data.draw(st.lists(st.integers(0, 4), max_size=3).map(tuple))
    ids = drawn_ids(data, shape, data.draw(st.sampled_from(INTEGERS)))
    padding = data.draw(PADDINGS)
    theirs = nn.Embedding.from_pretrained(weight, padding_idx=padding)
    assert same_bits(Embedding(opened, TABLE, padding)(ids), theirs(ids))


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@given(data=st.data())
def test_bags_equal_torch_bit_for_bit(mode, data, opened, weight):
    options = {"mode": mode, "padding_idx": data.draw(PADDINGS)}
    ids, offsets, last = drawn_bags(data)
    options["include_last_offset"] = last
    theirs = nn.EmbeddingBag.from_pretrained(weight, **options)
    ours = EmbeddingBag(opened, TABLE, **options)
    assert same_bits(ours(ids, offsets), theirs(ids, offsets))


def drawn_bags(data):
    """Ids, offsets or None, and whether they have the last."""
    dtype = data.draw(st.sampled_from(INTEGERS))
    if data.draw(st.booleans()):
        shape = (data.draw(st.integers(0, 6)), data.draw(st.integers(1, 5)))
        return drawn_ids(data, shape, dtype), None, data.draw(st.booleans())
    last = data.draw(st.booleans())
    lengths = data.draw(st.lists(st.integers(0, 5), max_size=6 if last else 8))
    ends = torch.tensor([0, *np.cumsum(lengths)], dtype=data.draw(st.sampled_from(INTEGERS)))
    ids = drawn_ids(data, (sum(lengths),), dtype)
    return ids, ends if last else ends[:-1], last


@given(data=st.data())
def test_weighted_bags_and_gradients_of_weights_are_close_to_torch(data, opened, weight):
    options = {"mode": "sum", "padding_idx": data.draw(PADDINGS)}
    ids, offsets, last = drawn_bags(data)
    options["include_last_offset"] = last
    weights = torch.rand(ids.shape, generator=torch.Generator().manual_seed(len(ids)))
    if data.draw(st.booleans()):
        weights = torch.stack([weights, -weights], dim=-1)[..., 0]
    theirs = nn.EmbeddingBag.from_pretrained(weight, **options)
    ours = EmbeddingBag(opened, TABLE, **options)
    plain = ours(ids, offsets, weights)
    torch.testing.assert_close(plain, theirs(ids, offsets, weights))
    learnt = [weights.clone().requires_grad_() for _ in range(2)]
    for module, of in zip((ours, theirs), learnt, strict=True):
        found = module(ids, offsets, of)
        (found**2).sum().backward()
        if module is ours:
            assert same_bits(found.detach(), plain)
    torch.testing.assert_close(learnt[0].grad, learnt[1].grad)


def test_rows_have_no_gradients_and_weights_of_a_wider_model_have_their_dtype(opened):
    ids = torch.tensor([[1, 2], [3, 2]])
    assert not Embedding(opened, TABLE)(ids).requires_grad
    assert not EmbeddingBag(opened, TABLE)(ids).requires_grad
    weights = torch.ones(2, 2, dtype=torch.float64, requires_grad=True)
    EmbeddingBag(opened, TABLE, "sum").double()(ids, None, weights).sum().backward()
    sums = Embedding(opened, TABLE)(ids).sum(-1).double()
    torch.testing.assert_close(weights.grad, sums)
    with torch.no_grad():
        assert not EmbeddingBag(opened, TABLE, "sum").double()(ids, None, weights).requires_grad


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bags_of_nothing_but_padding_and_no_bags_are_as_torch_has_them(mode, opened, weight):
    options = {"mode": mode, "padding_idx": 5, "include_last_offset": True}
    ours = EmbeddingBag(opened, TABLE, **options)
    theirs = nn.EmbeddingBag.from_pretrained(weight, **options)
    for ids, offsets in (
        ([5, 5, 5], [0, 2, 2, 3]),
        ([], [0]),
        ([], [0, 0, 0]),
        ([5, 1], [0, 1, 2]),
    ):
        given = torch.tensor(ids, dtype=torch.int64), torch.tensor(offsets)
        assert same_bits(ours(*given), theirs(*given))


def test_weights_that_are_no_numbers_reach_their_bags_and_no_padding(opened, weight):
    ids, offsets = torch.tensor([1, 2, 3, 4, 6]), torch.tensor([0, 2, 3, 3])
    weights = torch.tensor([float("nan"), 1, float("inf"), 2, 3])
    for padding in (None, 1, 3):
        options = {"mode": "sum", "padding_idx": padding}
        ours = EmbeddingBag(opened, TABLE, **options)(ids, offsets, weights)
        theirs = nn.EmbeddingBag.from_pretrained(weight, **options)(ids, offsets, weights)
        torch.testing.assert_close(ours, theirs, equal_nan=True)


def test_ids_behind_the_last_offset_are_left_out_as_torch_does(opened, weight):
    ids, offsets = torch.tensor([1, 2, 3, 4, 5]), torch.tensor([0, 2, 4])
    options = {"include_last_offset": True, "mode": "sum"}
    theirs = nn.EmbeddingBag.from_pretrained(weight, **options)
    assert same_bits(EmbeddingBag(opened, TABLE, **options)(ids, offsets), theirs(ids, offsets))


def nested(*parts, **options):
    return torch.nested.nested_tensor(list(parts), layout=torch.jagged, **options)


def test_nested_ids_are_bags_and_rows_of_them_are_nested(opened, weight):
    ids = nested(torch.tensor([1, 2]), torch.tensor([], dtype=torch.int64), torch.arange(3, 6))
    theirs = nn.EmbeddingBag.from_pretrained(weight, mode="mean")
    assert same_bits(EmbeddingBag(opened, TABLE)(ids), theirs(ids))
    ours, theirs = Embedding(opened, TABLE)(ids), nn.Embedding.from_pretrained(weight)(ids)
    assert ours.shape == theirs.shape
    assert same_bits(ours.values(), theirs.values())
    assert Embedding(opened, TABLE).half()(ids).dtype == torch.float16


def test_nested_weights_have_the_lengths_of_their_ids(opened, weight):
    ids = nested(torch.tensor([1, 2]), torch.tensor([3]))
    bags = EmbeddingBag(opened, TABLE, "sum")
    values = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    weights = torch.nested.nested_tensor_from_jagged(values, ids.offsets())
    found = bags(ids, None, weights)
    torch.testing.assert_close(found, bags(ids.values(), torch.tensor([0, 2]), values))
    found.sum().backward()
    torch.testing.assert_close(values.grad, weight[[1, 2, 3]].sum(-1))
    for other in (nested(torch.ones(1), torch.ones(2)), torch.ones(3)):
        with pytest.raises(ArgumentError, match="per_sample_weights"):
            bags(ids, None, other)
    with pytest.raises(ArgumentError, match="no offsets then"):
        bags(ids, torch.tensor([0]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, about itself
        strided = torch.nested.nested_tensor([torch.tensor([1])])
    with pytest.raises(DtypeError, match=r"no plain array \(got nested"):
        bags(strided)


def test_rows_come_in_the_dtype_that_the_model_has(opened, weight):
    ids = torch.tensor([[1, 2], [3, 4]])
    model = nn.Sequential(Embedding(opened, TABLE), nn.Linear(DIM, 1))
    for dtype in (torch.float64, torch.bfloat16, torch.float16, torch.float32):
        model.to(dtype)
        assert same_bits(model[0](ids), weight.to(dtype)[ids])
        assert model(ids).dtype == dtype
    bags = EmbeddingBag(opened, TABLE, "sum").double()
    assert bags(ids, None, torch.ones(2, 2, dtype=torch.float64)).dtype == torch.float64
    with pytest.raises(DtypeError, match=r"per_sample_weights .*float32.*float64"):
        bags(ids, None, torch.ones(2, 2))


# --- padding ---------------------------------------------------------------------------------


def test_padding_of_a_pruned_table_gives_zeros_and_is_left_out_of_bags(tmp_path):
    values = random_rows(ROWS, DIM, seed=4)
    path = make_store(tmp_path, {TABLE: values}, prune=["emb.user.weight"])
    with sharkstore.open(path) as store:
        assert store[TABLE].pruned
        mean = torch.from_numpy(store[TABLE].lookup(1))
        ids = torch.tensor([[0, 5, 0], [0, 0, 0], [7, 8, 9]])
        rows = Embedding(store, TABLE, padding_idx=0)(ids)
        assert same_bits(rows, torch.where((ids != 0)[..., None], mean, 0.0))
        bags = EmbeddingBag(store, TABLE, "sum", padding_idx=0)(ids)
        torch.testing.assert_close(bags, mean * torch.tensor([[1.0], [0.0], [3.0]]))
        assert same_bits(Embedding(store, TABLE)(ids[0, 0]), mean)


def test_padding_in_a_tier_of_mean_rows_gives_zeros_the_rest_of_the_tier_its_mean(tmp_path):
    path = make_store(tmp_path, {TABLE: exact_rows(ROWS, DIM)}, tiers="f32=50%,constant=rest")
    with sharkstore.open(path) as store:
        last = ROWS - 1
        ids = torch.tensor([0, last, last - 1])
        given_back = Embedding(store, TABLE, padding_idx=last)(ids)
        stored = torch.from_numpy(store[TABLE].lookup([0, last, last - 1]))
        assert stored[1].any()
        assert same_bits(given_back[[0, 2]], stored[[0, 2]])
        assert not given_back[1].any()
        first = Embedding(store, TABLE, padding_idx=0)(ids)
        assert same_bits(first, stored)  # row 0 has a row of its own
        assert not Embedding(store, TABLE, 0, padding_zeros=True)(ids)[0].any()
        assert Embedding(store, TABLE, last, padding_zeros=False)(ids)[1].any()


# --- state -----------------------------------------------------------------------------------


def test_no_parameters_and_an_empty_state_dict_so_that_the_dense_part_loads_strictly(opened):
    model = nn.Sequential(Embedding(opened, TABLE), nn.Linear(DIM, 1))
    assert [name for name, _ in model.named_parameters()] == ["1.weight", "1.bias"]
    assert set(model.state_dict()) == {"1.weight", "1.bias"}
    assert not list(model.buffers())
    dense = {"1.weight": torch.ones(1, DIM), "1.bias": torch.zeros(1)}
    assert str(model.load_state_dict(dense, strict=True)) == "<All keys matched successfully>"
    with pytest.raises(RuntimeError, match=r'Unexpected key.*"0.weight"'):
        model.load_state_dict({**dense, "0.weight": torch.zeros(ROWS, DIM)})


def test_copies_share_the_store(opened):
    module = Embedding(opened, TABLE, padding_idx=1)
    for copied in (copy.copy(module), copy.deepcopy(module)):
        assert copied.store is opened
        assert same_bits(copied(torch.arange(5)), module(torch.arange(5)))


def test_a_model_travels_to_a_spawned_process_by_path(opened):
    model = nn.Sequential(Embedding(opened, TABLE), nn.Linear(DIM, 2)).eval()
    ids = torch.tensor([3, 4, 5])
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool, torch.no_grad():
        found = pool.submit(answer, model, ids.numpy()).result()
        np.testing.assert_array_equal(found, model(ids).numpy())


def test_a_model_is_saved_as_a_path_and_a_digest(opened):
    model, saved = nn.Sequential(EmbeddingBag(opened, TABLE)), io.BytesIO()
    torch.save(model, saved)
    assert len(saved.getvalue()) < 5000
    saved.seek(0)
    again = torch.load(saved, weights_only=False)
    ids = torch.arange(6).reshape(2, 3)
    assert same_bits(again(ids), model(ids))
    again[0].store.close()


def test_modules_that_were_pickled_together_share_one_store(opened):
    one, other = pickle.loads(pickle.dumps([Embedding(opened, TABLE), EmbeddingBag(opened, TABLE)]))
    assert one.store is other.store
    assert one.store is not opened
    one.store.close()


def test_another_store_at_the_path_is_refused(copied, tmp_path):
    with sharkstore.open(copied) as store:
        pickled = pickle.dumps(Embedding(store, TABLE))
    shutil.rmtree(copied)
    (tmp_path / "new").mkdir()
    other = make_store(tmp_path / "new", {**SAMPLE, TABLE: random_rows(9, 3)}, tiers=SAMPLE_TIERS)
    os.rename(other, copied)
    with pytest.raises(StoreNotFoundError, match=r"another store is at this path.*sha256:"):
        pickle.loads(pickled)
    shutil.rmtree(copied)
    with pytest.raises(StoreNotFoundError, match="no such store"):
        pickle.loads(pickled)


def test_modules_say_what_they_are(opened):
    told = repr(Embedding(opened, TABLE, padding_idx=-1))
    digest = opened.metadata.digest[:15]
    size = f"Embedding({ROWS}, {DIM}, padding_idx={ROWS - 1}, table='{TABLE}'"
    assert told == f"{size}, store='model.shark', digest='{digest}')"
    bags = repr(EmbeddingBag(opened, TABLE, "max", include_last_offset=True))
    assert bags.endswith("mode='max', include_last_offset=True)")
    assert Embedding(opened, TABLE).digest == opened.metadata.digest


def test_a_path_does_for_a_store(sample):
    module = Embedding(sample, TABLE)
    assert module.store.path == str(sample)
    assert module(torch.tensor([0])).shape == (1, DIM)
    module.store.close()


# --- errors ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Embedding, EmbeddingBag])
@pytest.mark.parametrize(
    "option", [{"max_norm": 1.0}, {"sparse": True}, {"scale_grad_by_freq": True}]
)
def test_options_that_can_not_be_had_are_refused_by_name(kind, option, opened):
    with pytest.raises(ArgumentError, match=next(iter(option))):
        kind(opened, TABLE, **option)


def test_other_arguments_are_refused(opened):
    ids = torch.tensor([1, 2])
    with pytest.raises(UnknownTableError, match=r"emb\.usr"):
        Embedding(opened, "emb.usr")
    with pytest.raises(ArgumentError, match="padding_idx"):
        Embedding(opened, TABLE, padding_idx=ROWS)
    with pytest.raises(ArgumentError, match="mode 'median'"):
        EmbeddingBag(opened, TABLE, "median")
    bags = EmbeddingBag(opened, TABLE)
    with pytest.raises(ArgumentError, match="offsets"):
        bags(ids)
    with pytest.raises(ArgumentError, match="mode 'sum' only"):
        bags(ids, torch.tensor([0]), torch.ones(2))
    with pytest.raises(ArgumentError, match="per_sample_weights"):
        EmbeddingBag(opened, TABLE, "sum")(ids, torch.tensor([0]), torch.ones(3))
    weights = torch.ones(3, requires_grad=True)
    with pytest.raises(ArgumentError, match="per_sample_weights"):
        EmbeddingBag(opened, TABLE, "sum")(ids, torch.tensor([0]), weights)
    with pytest.raises(DtypeError, match="int16"):
        Embedding(opened, TABLE)(ids.short())
    with pytest.raises(IdError, match=f"id {ROWS} at position 1"):
        Embedding(opened, TABLE)(torch.tensor([0, ROWS]))
    to_the_end = EmbeddingBag(opened, TABLE, include_last_offset=True)
    with pytest.raises(ArgumentError, match="offset"):
        to_the_end(ids, torch.tensor([0, 3]))


def test_a_closed_store_is_told(sample):
    store = sharkstore.open(sample)
    module = Embedding(store, TABLE)
    store.close()
    with pytest.raises(ClosedError):
        module(torch.tensor([1]))


def test_there_is_no_weight_to_be_had(opened):
    module = Embedding(opened, TABLE)
    assert not hasattr(module, "weight")
    with pytest.raises(AttributeError, match=r"rows of 'emb\.user\.weight' are in the store"):
        _ = module.weight
    with pytest.raises(AttributeError, match="nothing"):
        _ = module.nothing


def test_training_is_told_to_leave_rows_as_they_are(opened):
    model = nn.Sequential(Embedding(opened, TABLE), nn.Linear(DIM, 1))
    model.eval()
    with pytest.warns(UserWarning, match="get no gradients"):
        model.train()
    model(torch.arange(4)).sum().backward()
    assert model[1].weight.grad is not None


def test_ids_on_another_device_are_refused_and_told_where_to_go(opened):
    """As CUDA's would be; meta tensors have no values, so that shapes are all there is to tell."""
    ids = torch.tensor([1, 2], device="meta")
    assert Embedding(opened, TABLE)(ids).device.type == "meta"
    from sharkstore.nn.calls import check_device

    with pytest.raises(ArgumentError, match=r"another device.*module\(ids.cpu\(\)\)"):
        check_device(ids)


def test_a_model_on_the_meta_device_is_served_without_its_tables_in_memory(tmp_path):
    def make():
        return nn.Sequential(nn.EmbeddingBag(60, 4), nn.Linear(4, 1))

    model = seeded(make)
    with converted(model, tmp_path) as store:
        ids = torch.arange(12).reshape(3, 4)
        expected = model[1](EmbeddingBag(store, "0.weight")(ids))
        with torch.device("meta"):
            empty = make().eval()
        sharkstore.nn.replace_embeddings(empty, store)
        dense = {name: torch.tensor(value) for name, value in store.dense.items()}
        empty.load_state_dict(dense, assign=True)
        assert same_bits(empty(ids).detach(), expected.detach())
