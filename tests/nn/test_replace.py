"""`replace_embeddings`: which modules become which tables, what is said of it, and the way back."""

import copy
import gc
import weakref

import pytest
import torch
from clickmodels import Everything, batches
from served_models import Small, converted, inputs, same_bits, seeded, with_rows_of
from torch import nn
from torch.nn.utils import parametrizations

import sharkstore
from sharkstore.errors import ArgumentError, UnknownTableError
from sharkstore.nn import Embedding, EmbeddingBag, replace_embeddings


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A model and its store."""
    model = seeded(Small)
    with converted(model, tmp_path_factory.mktemp("small")) as store:
        yield model, store


@pytest.fixture
def model(small):
    return copy.deepcopy(small[0])


@pytest.fixture
def store(small):
    return small[1]


# --- there and back --------------------------------------------------------------------------


def test_a_model_serves_as_with_the_rows_in_its_own_tables(model, store):
    expected = with_rows_of(model, store)
    replaced = replace_embeddings(model, store)
    for batch in (0, 1, 7):
        assert same_bits(model(*inputs(batch)).detach(), expected(*inputs(batch)).detach())
    assert [name for name, _ in model.named_parameters()] == ["head.weight", "head.bias"]
    assert [(one.path, one.tables) for one in replaced] == [
        ("user", ("user.weight",)),
        ("seen", ("seen.weight",)),
        ("bags", ("bags.weight",)),
    ]
    assert not model.user.training


def test_it_says_what_it_replaced(model, store):
    replaced = replace_embeddings(model, store, {"bags": None})
    assert str(replaced).splitlines() == [
        f"2 modules look rows up in {store.path}",
        "  user (Embedding) <- user.weight",
        "  seen (Embedding) <- seen.weight",
        "as they were: bags",
        "tables that no module uses: bags.weight",
    ]
    assert len(replaced) == 2
    assert "2 modules" in repr(replaced)
    assert type(model.bags) is nn.EmbeddingBag


def test_restore_puts_the_very_same_modules_back(model, store):
    own = dict(model.named_modules())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    order = list(before)
    replaced = replace_embeddings(model, store)
    assert type(model.user) is Embedding
    assert type(model.bags) is EmbeddingBag
    replaced.restore()
    assert all(one is own[path] for path, one in model.named_modules())
    assert list(model.state_dict()) == order
    assert all(same_bits(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(ArgumentError, match="own modules already"):
        replaced.restore()


def test_tables_are_gone_from_memory_with_what_could_restore_them(model, store):
    tables = [weakref.ref(one.weight) for one in (model.user, model.seen, model.bags)]
    replaced = replace_embeddings(model, store)
    gc.collect()
    assert all(table() is not None for table in tables)
    del replaced
    gc.collect()
    assert not any(table() is not None for table in tables)


def test_a_with_block_restores_and_so_does_a_copy_of_the_model(model, store):
    user = model.user
    with replace_embeddings(model, store) as replaced:
        copied = copy.deepcopy(model)
        replaced.restore(copied)
        assert copied.user is user
        assert type(model.user) is Embedding
    assert model.user is user
    with pytest.raises(ArgumentError, match=r"module 'user'.*got NoneType, expected Embedding"):
        replaced.restore(nn.Sequential())


def test_every_kind_of_lookup_of_a_click_model_comes_out_the_same(tmp_path):
    model = seeded(lambda: Everything(torch.float32))
    with converted(model, tmp_path, tiers="f32=30%,int8=rest") as store:
        expected = with_rows_of(model, store)
        replace_embeddings(model, store)
        for x, _ in batches(3, dtype=torch.float32):
            given = model.vectors(x)
            for name, vectors in expected.vectors(x).items():
                if name == "weighted":
                    torch.testing.assert_close(given[name], vectors)
                else:
                    assert same_bits(given[name].detach(), vectors.detach()), name


def test_a_model_in_another_precision_keeps_it(tmp_path):
    model = seeded(Small).double()
    with converted(model, tmp_path) as store:
        expected = with_rows_of(model, store)
        replace_embeddings(model, store)
        torch.testing.assert_close(model(*inputs(5)), expected(*inputs(5)))
        assert model(*inputs(5)).dtype == torch.float64


@pytest.mark.parametrize("tiers", ["pq4.16", "int8"])
def test_padding_that_was_zeros_stays_zeros_whatever_the_encoding(tiers, tmp_path):
    model = seeded(Small)
    with converted(model, tmp_path, tiers=tiers) as store:
        replace_embeddings(model, store)
        assert not model.seen(torch.zeros(2, 3, dtype=torch.int64)).any()


def test_a_pruned_field_serves_its_mean_row_and_padding_as_before(tmp_path):
    model = seeded(Small)
    with converted(model, tmp_path, prune=["seen.weight", "bags.weight"]) as store:
        replace_embeddings(model, store)
        rows = model.seen(torch.tensor([[0, 1, 2]]))[0]
        assert not rows[0].any()
        assert same_bits(rows[1], rows[2])
        assert rows[1].any()
        tags = torch.tensor([[1], [29]])
        assert same_bits(*model.bags(tags))


# --- names -----------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["module.", "model.", "model.module.", "_orig_mod."])
def test_prefixes_of_wrappers_are_seen_through(prefix, model, tmp_path):
    with converted(model, tmp_path, prefix=prefix) as store:
        replaced = replace_embeddings(model, store)
        assert next(iter(replaced)).tables == (f"{prefix}user.weight",)


def test_a_wrapped_model_finds_the_tables_of_the_bare_one(model, store):
    wrapped = nn.ModuleDict({"module": model})
    assert next(iter(replace_embeddings(wrapped, store))).path == "module.user"
    assert type(model.user) is Embedding


def test_a_mapping_names_tables_that_are_called_otherwise(model, store):
    model.someone = model.user
    del model.user
    with pytest.raises(UnknownTableError, match=r"module 'someone'.*no table 'someone.weight'"):
        replace_embeddings(model, store)
    replaced = replace_embeddings(model, store, {"someone.weight": "user.weight"})
    assert {one.path: one.tables for one in replaced}["someone"] == ("user.weight",)


def test_two_tables_that_may_both_be_meant_are_refused(tmp_path):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = nn.ModuleDict({"a": nn.Embedding(40, 4)})
            self.module = nn.ModuleDict({"a": nn.Embedding(40, 4)})

    with converted(seeded(Two), tmp_path, tiers="int8") as store:
        bare = nn.ModuleDict({"a": nn.Embedding(40, 4)})
        what = r"'model\.a\.weight' and 'module\.a\.weight' may both be 'a\.weight'"
        with pytest.raises(ArgumentError, match=what):
            replace_embeddings(bare, store)
        replace_embeddings(bare, store, {"a": "model.a.weight"})


def test_a_module_whose_weight_is_kept_as_it_was_stays(tmp_path):
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.user_emb = nn.Embedding(100, 4)
            self.weekday = nn.Embedding(7, 4)

    model = seeded(Mixed)
    with converted(model, tmp_path, tiers="int8", tables=["user_emb.weight"]) as store:
        replaced = replace_embeddings(model, store)
        assert replaced.kept == ("weekday",)
        assert type(model.weekday) is nn.Embedding


# --- tied ------------------------------------------------------------------------------------


def test_one_module_in_two_places_stays_one(model, store):
    model.again = nn.ModuleDict({"there": model.user})
    own = model.user
    replaced = replace_embeddings(model, store)
    assert model.again["there"] is model.user
    assert [one.path for one in replaced if one.before is own] == ["user", "again.there"]
    replaced.restore()
    assert model.again["there"] is model.user is own


def test_modules_that_share_a_weight_look_up_one_table(model, store):
    model.other = nn.EmbeddingBag(50, 8, mode="max")
    model.other.weight = model.user.weight
    replaced = replace_embeddings(model, store)
    assert {one.path: one.tables for one in replaced}["other"] == ("user.weight",)
    assert model.other.mode == "max"


# --- refused, before anything is replaced ----------------------------------------------------


def check_untouched(model, store, error, match, mapping=None):
    before = dict(model.named_modules())
    with pytest.raises(error, match=match):
        replace_embeddings(model, store, mapping)
    assert dict(model.named_modules()) == before


def test_another_shape_is_refused_naming_both(model, store):
    model.bags = nn.EmbeddingBag(31, 8)
    what = r"module 'bags': table 'bags.weight' of .*got \(30, 8\), expected \(31, 8\)"
    check_untouched(model, store, ArgumentError, what)


def test_a_table_that_was_dropped_is_told(model, tmp_path):
    with converted(model, tmp_path, prune=["bags.weight"], drop=True) as store:
        check_untouched(model, store, UnknownTableError, "'bags.weight' was dropped")


def test_mappings_of_what_is_not_there_are_refused(model, store):
    check_untouched(model, store, ArgumentError, "no module 'usr'", {"usr": "user.weight"})
    check_untouched(model, store, UnknownTableError, "usr.weight", {"user": "usr.weight"})


class Own(nn.Embedding):
    def forward(self, ids):
        return super().forward(ids) * 2


def test_modules_that_do_more_than_look_up_are_refused(model, store):
    model.bags = nn.EmbeddingBag(30, 8, max_norm=1.0)
    check_untouched(model, store, ArgumentError, r"module 'bags': max_norm.*'bags': None")
    model.bags = Own(30, 8)
    check_untouched(model, store, ArgumentError, "Own looks rows up in a way of its own")
    model.bags = parametrizations.weight_norm(nn.EmbeddingBag(30, 8))
    check_untouched(model, store, ArgumentError, "module 'bags': its weight is computed")
    assert replace_embeddings(model, store, {"bags": None}).kept == ("bags",)


def test_hooks_and_forwards_of_an_instance_are_not_lost_in_silence(model, store):
    def doubled(module, given, rows):
        return 2 * rows

    hook = model.user.register_forward_hook(doubled)
    what = r"module 'user': forward hooks \(got .*doubled\); remove them, or .*'user': None"
    check_untouched(model, store, ArgumentError, what)
    hook.remove()
    hook = model.bags.register_forward_pre_hook(print)
    check_untouched(model, store, ArgumentError, "module 'bags': forward hooks")
    assert replace_embeddings(model, store, {"bags": None}).kept == ("bags",)
    hook.remove()
    model.bags.forward = lambda ids: torch.zeros(len(ids), 8)
    with pytest.raises(ArgumentError, match="looks rows up in a way of its own"):
        replace_embeddings(nn.ModuleDict({"bags": model.bags}), store)


def test_models_without_modules_to_replace_are_refused(model, store):
    check_untouched(nn.Linear(3, 3), store, ArgumentError, "no nn.Embedding, nn.EmbeddingBag")
    check_untouched(nn.Embedding(50, 8), store, ArgumentError, "an embedding itself")


def test_a_path_does_for_a_store(model, store):
    expected = with_rows_of(model, store)(*inputs(4))
    with replace_embeddings(model, store.path) as replaced:
        assert same_bits(model(*inputs(4)).detach(), expected.detach())
        assert isinstance(replaced.store, sharkstore.Store)
        replaced.store.close()
