"""TorchRec's collections over a store, and the plain way without jagged tensors."""

import copy
import pickle
import warnings

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from served_models import converted, same_bits, seeded, with_rows_of
from torch import nn

from sharkstore.errors import ArgumentError, UnknownTableError
from sharkstore.nn import (
    EmbeddingBagCollection,
    EmbeddingCollection,
    TableFeatures,
    replace_embeddings,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its own, on import
    import torchrec
    from torchrec import EmbeddingBagConfig, EmbeddingConfig, KeyedJaggedTensor
    from torchrec.modules.embedding_configs import PoolingType

ROWS, DIM, SAMPLES = 60, 4, 9
KEYS = ["query", "seen", "clicked", "bought"]


class Collections(nn.Module):
    """Bags of a shared table and one of another dim; rows of a third."""

    def __init__(self, *, weighted=False):
        super().__init__()
        pooling = PoolingType.SUM if weighted else PoolingType.MEAN
        shared = EmbeddingBagConfig(
            name="shared",
            num_embeddings=ROWS,
            embedding_dim=DIM,
            feature_names=["seen", "bought"],
            pooling=pooling,
        )
        words = EmbeddingBagConfig(
            name="words", num_embeddings=ROWS, embedding_dim=2 * DIM, feature_names=["query"]
        )
        late = EmbeddingConfig(
            name="late",
            num_embeddings=ROWS,
            embedding_dim=DIM,
            feature_names=["clicked", "query"],
        )
        self.bags = torchrec.EmbeddingBagCollection([shared, words], is_weighted=weighted)
        self.rows = torchrec.EmbeddingCollection([late], need_indices=True)


def features(seed=0, keys=KEYS, samples=SAMPLES, dtype=torch.int64, *, weighted=False):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 4, len(keys) * samples)
    values = torch.from_numpy(rng.integers(0, ROWS, lengths.sum())).to(dtype)
    weights = torch.from_numpy(rng.random(lengths.sum(), np.float32)) if weighted else None
    lengths = torch.from_numpy(lengths.astype(np.int32))
    return KeyedJaggedTensor(list(keys), values, weights, lengths)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A model over a store, one with the same rows in its own tables, the store."""
    model = seeded(Collections)
    store = converted(model, tmp_path_factory.mktemp("collections"))
    expected = with_rows_of(model, store)
    replace_embeddings(model, store)
    with store:
        yield model, expected, store


@pytest.mark.parametrize("samples", [1, SAMPLES])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("keys", [KEYS, ["seen", "bought", "query"], KEYS[::-1]])
def test_pooled_values_are_those_of_torchrec(keys, dtype, samples, served):
    model, expected, _ = served
    given = features(samples, keys, samples, dtype)
    ours, theirs = model.bags(given), expected.bags(given)
    assert ours.keys() == theirs.keys() == ["seen", "bought", "query"]
    assert ours.length_per_key() == theirs.length_per_key() == [DIM, DIM, 2 * DIM]
    assert same_bits(ours.values(), theirs.values().detach())
    assert same_bits(ours["bought"].contiguous(), theirs["bought"].detach().contiguous())


@pytest.mark.parametrize("samples", [0, 1, SAMPLES])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("keys", [["clicked", "query"], KEYS, KEYS[::-1]])
def test_rows_of_keys_in_any_order_are_those_of_torchrec(keys, dtype, samples, served):
    model, expected, _ = served
    given = features(samples, keys, samples, dtype)
    ours = model.rows(given)
    assert list(ours) == ["clicked", "query"]
    if not samples:  # TorchRec fails
        assert ours["query"].values().shape == (0, DIM)
        return
    for name, theirs in expected.rows(given).items():
        assert same_bits(ours[name].values(), theirs.values().detach())
        assert torch.equal(ours[name].lengths(), theirs.lengths())
        assert torch.equal(ours[name].weights(), theirs.weights())
        assert ours[name].weights().dtype == dtype


def test_rows_of_a_batch_size_for_each_key_are_those_of_torchrec(served):
    model, expected, _ = served
    given = KeyedJaggedTensor(
        ["clicked", "query"],
        torch.tensor([1, 2, 3, 4, 5]),
        lengths=torch.tensor([2, 1, 1, 1]),
        stride_per_key_per_rank=[[1], [3]],
    )
    ours, theirs = model.rows(given), expected.rows(given)
    for name, one in ours.items():
        assert same_bits(one.values(), theirs[name].values().detach())
        assert torch.equal(one.lengths(), theirs[name].lengths())


def test_rows_of_all_features_come_in_one_buffer(served):
    found = served[0].rows(features(8)).values()
    assert len({one.values().untyped_storage().data_ptr() for one in found}) == 1


def test_no_samples_give_no_rows_where_torchrec_fails(served):
    assert served[0].bags(features(0, samples=0)).values().shape == (0, 4 * DIM)


@pytest.mark.parametrize("part", ["bags", "rows"])
def test_jagged_tensors_are_compiled_as_one_graph(part, served):
    def values(given):
        found = getattr(served[0], part)(given)
        return found.values() if part == "bags" else [one.values() for one in found.values()]

    torch.compiler.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchRec's own
        compiled = torch.compile(values, fullgraph=True, backend="aot_eager")
        for samples in (SAMPLES, 4):
            given = features(1, samples=samples)
            torch.testing.assert_close(compiled(given), values(given), rtol=0, atol=0)


@pytest.fixture(scope="module")
def weighted(tmp_path_factory):
    """As `served`, its bags weighted."""
    model = seeded(lambda: Collections(weighted=True))
    store = converted(model, tmp_path_factory.mktemp("weighted"))
    expected = with_rows_of(model, store)
    replace_embeddings(model, store)
    with store:
        yield model, expected, store


@hypothesis.given(data=st.data())
def test_any_jagged_tensor_gives_what_torchrec_gives(data, served, weighted):
    keys = data.draw(st.permutations(data.draw(st.sampled_from([KEYS, [*KEYS, "more"]]))))
    count = len(keys) * data.draw(st.integers(1, 4))
    lengths = data.draw(st.lists(st.integers(0, 3), min_size=count, max_size=count))
    lengths = torch.tensor(lengths, dtype=torch.int32)
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    dtype = data.draw(st.sampled_from([torch.int32, torch.int64]))
    values = torch.from_numpy(rng.integers(0, ROWS, int(lengths.sum()))).to(dtype)
    if data.draw(st.booleans()):
        values = torch.stack([values, -values], dim=-1)[..., 0]
    weights = torch.from_numpy(rng.random(len(values), np.float32))
    jagged = KeyedJaggedTensor(keys, values, weights, lengths)
    ours, theirs = (model.bags(jagged) for model in served[:2])
    assert same_bits(ours.values(), theirs.values().detach())
    ours, theirs = (model.bags(jagged) for model in weighted[:2])
    torch.testing.assert_close(ours.values(), theirs.values().detach())
    ours, theirs = (model.rows(jagged) for model in served[:2])
    for name, one in ours.items():
        assert same_bits(one.values(), theirs[name].values().detach())
        assert torch.equal(one.lengths(), theirs[name].lengths())


@pytest.mark.parametrize("keys", [KEYS, ["seen", "bought", "query"]])
def test_weights_that_are_learnt_get_gradients_as_of_torchrec(keys, weighted):
    model, expected, _ = weighted
    found = []
    for collection in (model.bags, expected.bags):
        jagged = features(keys=keys, weighted=True)
        jagged._weights = jagged.weights().requires_grad_()
        values = collection(jagged).values()
        (values**2).sum().backward()
        found.append((values.detach(), jagged.weights().grad))
    torch.testing.assert_close(*found)
    assert found[0][1].any()
    jagged = features(keys=keys, weighted=True)
    assert same_bits(model.bags(jagged).values(), found[0][0])


def test_collections_stay_in_float32_as_those_of_torchrec_do(served):
    given, wanted = features(9), served[1].bags(features(9)).values().detach()
    for model in (copy.deepcopy(served[0]), copy.deepcopy(served[1])):
        found = model.half().bags(given).values()
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.detach(), wanted, rtol=1e-2, atol=1e-2)


def test_a_jagged_tensor_without_weights_is_refused_where_they_count(weighted):
    with pytest.raises(AssertionError, match="doesn't have weights"):  # TorchRec's
        weighted[0].bags(features())


@pytest.mark.parametrize("samples", [1, SAMPLES])
def test_rows_are_those_of_torchrec(samples, served):
    model, expected, _ = served
    given = features(2, samples=samples)
    ours, theirs = model.rows(given), expected.rows(given)
    assert list(ours) == list(theirs) == ["clicked", "query"]
    for name, one in ours.items():
        assert same_bits(one.values(), theirs[name].values().detach())
        assert torch.equal(one.lengths(), theirs[name].lengths())
        assert torch.equal(one.weights(), theirs[name].weights())


def test_a_collection_is_one_replacement_of_several_tables_and_comes_back(tmp_path):
    model = seeded(Collections)
    bags, rows = model.bags, model.rows
    with converted(model, tmp_path) as store:
        replaced = replace_embeddings(model, store)
        assert [(one.path, one.tables) for one in replaced] == [
            ("bags", ("bags.embedding_bags.shared.weight", "bags.embedding_bags.words.weight")),
            ("rows", ("rows.embeddings.late.weight",)),
        ]
        assert not list(model.parameters())
        assert model.bags.embedding_bag_configs() == bags.embedding_bag_configs()
        assert model.rows.embedding_configs() == rows.embedding_configs()
        assert (model.rows.need_indices(), model.rows.embedding_dim()) == (True, DIM)
        assert "2 tables, 3 features" in repr(model)
        assert model.bags.device.type == "cpu"
        replaced.restore()
        assert (model.bags, model.rows) == (bags, rows)


def test_part_of_a_collection_stays_only_with_the_whole(tmp_path):
    model = seeded(Collections)
    with converted(model, tmp_path) as store:
        with pytest.raises(ArgumentError, match=r"part of a collection.*'bags': None"):
            replace_embeddings(model, store, {"bags.embedding_bags.words": None})
        assert replace_embeddings(model, store, {"bags": None}).kept == ("bags",)


# --- without jagged tensors ------------------------------------------------------------------

TABLES = [
    TableFeatures("bags.embedding_bags.shared.weight", ("seen", "bought"), "mean"),
    TableFeatures("bags.embedding_bags.words.weight", ("query",)),
]


def test_names_values_and_offsets_do_without_torchrec(served):
    model, _, store = served
    given = features(3)
    collection = EmbeddingBagCollection(store, TABLES)
    found = collection(KEYS, given.values(), given.offsets())
    assert same_bits(found, model.bags(given).values())
    ordered = features(3, collection.features)
    found = collection(collection.features, ordered.values(), ordered.offsets())
    assert same_bits(found, model.bags(ordered).values())
    assert collection.embedding_bag_configs() == TABLES


def test_a_collection_travels_by_path(served):
    _, _, store = served
    given = features(4)
    collection = EmbeddingBagCollection(store, TABLES)
    again = pickle.loads(pickle.dumps(collection))
    assert again.store is not store
    arguments = (KEYS, given.values(), given.offsets())
    assert same_bits(again(*arguments), collection(*arguments))
    again.store.close()


def test_a_feature_of_two_tables_is_told_apart_by_their_names(served):
    _, _, store = served
    tables = [
        TableFeatures("bags.embedding_bags.words.weight", ("query",), name="words"),
        TableFeatures("bags.embedding_bags.shared.weight", ("query", "seen")),
    ]
    collection = EmbeddingBagCollection(store, tables)
    names = ["query@words", "query@bags.embedding_bags.shared.weight", "seen"]
    assert collection.names == names
    assert collection(features(5)).keys() == names


def test_weights_of_a_feature_of_two_tables_get_gradients_of_both(served):
    _, _, store = served
    names = [f"bags.embedding_bags.{name}.weight" for name in ("words", "shared")]
    tables = [TableFeatures(name, ("query",)) for name in names]
    ids, weights = torch.tensor([3, 4, 3]), torch.ones(3, requires_grad=True)
    offsets = torch.tensor([0, 2, 3])
    EmbeddingBagCollection(store, tables)(["query"], ids, offsets, weights).sum().backward()
    rows = [torch.from_numpy(store[name].lookup(ids.numpy())) for name in names]
    torch.testing.assert_close(weights.grad, torch.cat(rows, dim=1).sum(dim=1))


def test_other_arguments_are_refused(served):
    _, _, store = served
    given = features(6)
    collection = EmbeddingBagCollection(store, TABLES)
    with pytest.raises(ArgumentError, match=r"no feature 'bought'.*got query, seen"):
        collection(features(6, KEYS[:2]))
    with pytest.raises(ArgumentError, match="names of features go with values and offsets"):
        collection(KEYS)
    with pytest.raises(ArgumentError, match="a KeyedJaggedTensor, or a list of names"):
        collection(given.values())
    with pytest.raises(ArgumentError, match="4 keys"):
        collection(KEYS, given.values(), given.offsets()[:-1])
    falling = given.offsets().flip(0)
    with pytest.raises(ArgumentError, match="first offset must be 0"):
        collection(KEYS, given.values(), falling)
    varying = KeyedJaggedTensor(
        ["seen", "bought", "query"],
        torch.tensor([1, 2, 3, 4]),
        lengths=torch.tensor([1, 1, 1, 1]),
        stride_per_key_per_rank=[[1], [2], [1]],
    )
    with pytest.raises(ArgumentError, match="one batch size"):
        collection(varying)
    with pytest.raises(UnknownTableError):
        EmbeddingBagCollection(store, [TableFeatures("words", ("query",))])
    two = [TableFeatures(table.table, table.features) for table in TABLES]
    with pytest.raises(ArgumentError, match=r"tables of several dims \(got \[4, 8\]\)"):
        EmbeddingCollection(store, two)
    with pytest.raises(ArgumentError, match="needs tables"):
        EmbeddingBagCollection(store, [])
    with pytest.raises(ArgumentError, match="mode 'first'"):
        EmbeddingBagCollection(store, [TableFeatures(TABLES[0].table, ("seen",), "first")])
