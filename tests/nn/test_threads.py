"""Several threads of the host work on a lookup: the same bits, whatever their number."""

import multiprocessing
import os
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from served_models import Small, converted, same_bits, seeded
from strategies import make_store, random_rows

import sharkstore
from sharkstore.errors import ArgumentError, IdError
from sharkstore.load.request import Request
from sharkstore.nn import (
    Embedding,
    EmbeddingBag,
    EmbeddingBagCollection,
    EmbeddingCollection,
    TableFeatures,
    bind,
    ops,
    replace_embeddings,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its own, on import
    from torchrec import KeyedJaggedTensor

ROWS, DIM = 300, 64
NAMES = [f"emb.{name}.weight" for name in "abc"]
# enough to be shared out: `sharkstore.nn.calls.SHARED` values
IDS = 9000


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    tensors = {name: random_rows(ROWS, DIM, seed=at) for at, name in enumerate(NAMES)}
    path = make_store(tmp_path_factory.mktemp("threads"), tensors, tiers="f32=10%,int8=rest")
    with sharkstore.open(path) as store:
        yield store


@pytest.fixture
def asked(monkeypatch):
    """The number of threads of each request that is made."""
    numbers = []

    def recording(inside):
        def call(*given, **how):
            numbers.append(how["threads"])
            return inside(*given, **how)

        return call

    for name in ("__call__", "lookups"):
        monkeypatch.setattr(Request, name, recording(getattr(Request, name)))
    return numbers


def random_ids(count, seed=0, dtype=torch.int64):
    return torch.from_numpy(np.random.default_rng(seed).integers(ROWS, size=count)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("shape", [(IDS,), (IDS // 4, 4), (2, 3, IDS // 6)])
def test_rows_are_the_same(shape, dtype, opened, asked):
    ids = random_ids(IDS, dtype=dtype).reshape(shape)
    expected = Embedding(opened, NAMES[0])(ids)
    assert not asked
    for threads in (2, 3):
        assert same_bits(Embedding(opened, NAMES[0], threads=threads)(ids), expected)
    assert asked == [2, 3]
    strided = ids.transpose(0, -1)
    found = Embedding(opened, NAMES[0], threads=2)(strided)
    assert same_bits(found, Embedding(opened, NAMES[0])(strided))


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("padding", [None, 7])
def test_bags_are_the_same(padding, mode, opened, asked):
    ids, lengths = random_ids(IDS), np.random.default_rng(1).multinomial(IDS, [1 / 500] * 500)
    ends = torch.from_numpy(np.append(0, np.cumsum(lengths)))
    weights = torch.rand(IDS, generator=torch.Generator().manual_seed(0))
    calls = [(True, (ids, ends)), (True, (ids, ends.int())), (False, (ids.int(), ends[:-1]))]
    calls += [(True, (ids, ends[:-20])), (False, (ids.reshape(-1, 5),))]
    if mode == "sum":
        calls += [(False, (ids.reshape(-1, 5), None, weights.reshape(-1, 5)))]
        calls += [(True, (ids, ends, weights))]
    for last, given in calls:
        made = (opened, NAMES[0], mode, last, padding)
        found = EmbeddingBag(*made, threads=2)(*given)
        assert same_bits(found, EmbeddingBag(*made)(*given))
    assert asked == [2] * len(calls)


def test_small_lookups_are_left_to_one(opened, asked):
    Embedding(opened, NAMES[0], threads=2)(random_ids(100))
    EmbeddingBag(opened, NAMES[0], threads=2)(random_ids(100).reshape(10, 10))
    assert not asked


def test_what_is_wrong_is_told_as_by_one(opened):
    ids = random_ids(IDS)
    ids[5000] = ROWS
    with pytest.raises(IdError, match=f"id {ROWS} at position 5000"):
        Embedding(opened, NAMES[0], threads=2)(ids.reshape(-1, 2))
    bags = EmbeddingBag(opened, NAMES[0], "sum", threads=2)
    with pytest.raises(ArgumentError, match="shape of ids"):
        bags(random_ids(IDS).reshape(-1, 5), None, torch.ones(5, IDS // 5))
    with pytest.raises(ArgumentError, match="offset 1 falls"):
        bags(random_ids(IDS), torch.tensor([0, -1]))
    with pytest.raises(ArgumentError, match="no offsets then"):
        bags(random_ids(IDS).reshape(-1, 5), torch.tensor([0]))
    for threads in (0, -1, 1.0, True, None):
        with pytest.raises(ArgumentError, match="threads must be"):
            Embedding(opened, NAMES[0], threads=threads)


def jagged(keys, each):
    lengths = torch.full((len(keys) * each,), 2)
    return KeyedJaggedTensor(keys, random_ids(2 * len(keys) * each), lengths=lengths)


@pytest.mark.parametrize("keys", [list("abc"), list("cba")])
def test_collections_are_the_same(keys, opened, asked):
    tables = [TableFeatures(name, (name[4],)) for name in NAMES]
    given = jagged(keys, IDS)
    found = [EmbeddingBagCollection(opened, tables, threads=one)(given) for one in (1, 2)]
    assert same_bits(found[0].values(), found[1].values())
    found = [EmbeddingCollection(opened, tables, threads=one)(given) for one in (1, 2)]
    for key in keys:
        assert same_bits(found[0][key].values(), found[1][key].values())
    assert asked == [1, 2, 1, 2]


def test_a_replaced_model_has_them_and_so_do_its_copies(tmp_path):
    model = seeded(Small)
    with converted(model, tmp_path) as store:
        replace_embeddings(model, store, threads=3)
        again = pickle.loads(pickle.dumps(model))
        assert [again.user.threads, again.seen.threads, again.bags.threads] == [3, 3, 3]
        again.user.store.close()


def test_a_program_has_those_that_its_store_is_bound_with(opened, asked):
    module = Embedding(opened, NAMES[0], threads=2)
    ids = random_ids(IDS)
    arguments = ids, module.digest, NAMES[0], DIM, -1
    expected = module(ids)
    with bind(opened, threads=4):
        assert same_bits(ops.embedding(*arguments), expected)
        given = ids, torch.arange(0, IDS + 1, 10), None, module.digest, NAMES[:1], [DIM], ["sum"]
        ops.embedding_bags(*given, [], 1, IDS // 10)
        ops.embeddings(ids, [IDS], module.digest, NAMES[:1], DIM)
    ops.embedding(*arguments)
    assert asked == [2, 4, 4, 4, 2]
    torch.compiler.reset()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    assert same_bits(compiled(ids), expected)
    assert asked[-1] == 2


def test_eight_threads_of_the_caller_share_modules_and_operators(opened):
    tables = [TableFeatures(name, (name[4],)) for name in NAMES]
    modules = [
        Embedding(opened, NAMES[0]),
        EmbeddingBag(opened, NAMES[1], threads=2),
        EmbeddingBagCollection(opened, tables, threads=2),
    ]
    digest, ends = opened.metadata.digest, torch.arange(0, 3 * IDS + 1, 3)

    def answers(seed):
        ids = random_ids(3 * IDS, seed)
        named = digest, NAMES, [DIM] * 3, ["sum"] * 3, [2, 1, 0], 3, IDS // 3
        return (
            modules[0](ids),
            modules[1](ids, ends[:-1]),
            modules[2](list("abc"), ids, ends),
            ops.embedding_bags(ids, ends, None, *named),
        )

    expected = [answers(seed) for seed in range(8)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(answers, [seed % 8 for seed in range(32)]))
    for at, one in enumerate(found):
        assert all(map(same_bits, one, expected[at % 8]))


def test_four_forked_workers_with_threads_of_their_own_give_what_one_does(opened):
    """The warning is Python's: this process has threads of torch already."""
    ids = random_ids(IDS)
    modules = Embedding(opened, NAMES[0], threads=2), EmbeddingBag(opened, NAMES[1], threads=2)
    bags = ids.reshape(-1, 10)
    expected = [module(given).numpy() for module, given in zip(modules, (ids, bags), strict=True)]

    def work():
        rows, pooled = modules[0](ids).numpy(), modules[1](bags).numpy()
        good = np.array_equal(rows, expected[0]) and np.array_equal(pooled, expected[1])
        os._exit(0 if good else 1)

    context = multiprocessing.get_context("fork")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        workers = [context.Process(target=work) for _ in range(4)]
        for worker in workers:
            worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0, 0]
