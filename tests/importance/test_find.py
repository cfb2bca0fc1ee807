"""Which modules are measured, and what their fields and tables are called."""

import pytest
import torch
from clickmodels import FIELDS, Everything
from torch import nn

from sharkstore.errors import StatsError
from sharkstore.importance import Importance
from sharkstore.importance.find import find_sites


def tables(count=2):
    model = nn.Module()
    model.emb = nn.ModuleDict({f"f{i}": nn.Embedding(10, 4) for i in range(count)})
    return model


def fields(model, named=None, skip=()):
    return {field: site.table for site in find_sites(model, named, skip) for field in site.fields}


def test_each_embedding_module_is_a_field_of_its_path():
    assert fields(tables()) == {"emb.f0": "emb.f0.weight", "emb.f1": "emb.f1.weight"}


def test_a_bare_module_is_its_own_model():
    assert fields(nn.EmbeddingBag(5, 2)) == {"": "weight"}


@pytest.mark.parametrize("target", ["emb.f1", "emb.f1.weight", "module"])
def test_a_mapping_names_module_table_or_module_itself(target):
    model = tables()
    target = model.emb["f1"] if target == "module" else target
    assert fields(model, {"user": target}) == {"user": "emb.f1.weight"}


def test_modules_with_one_weight_are_one_table():
    model = tables()
    model.emb["f1"].weight = model.emb["f0"].weight
    assert set(fields(model).values()) == {"emb.f0.weight"}
    importance = Importance(model)
    with importance.counting():
        model.emb["f0"](torch.tensor([1, 2]))
        model.emb["f1"](torch.tensor([2, 2]))
    expected = (model.emb["f0"].weight[1] + 3 * model.emb["f0"].weight[2]) / 4
    mean = torch.from_numpy(importance.mean_row("emb.f0.weight")).float()
    torch.testing.assert_close(mean, expected.detach())


@pytest.mark.parametrize("skip", [["emb.f0"], ["emb.f0.weight"]])
def test_what_is_skipped_is_left_out(skip):
    assert set(fields(tables(), skip=skip)) == {"emb.f1"}


@pytest.mark.parametrize(
    ("model", "named", "skip", "message"),
    [
        (nn.Linear(2, 2), None, (), "no nn.Embedding"),
        (tables(), {"user": "emb.f7"}, (), "field 'user': no embedding module 'emb.f7'.*emb.f0"),
        (tables(), {"user": nn.Embedding(2, 2)}, (), "no embedding module 'Embedding'"),
        (tables(), None, ["f0"], "skip: no field or module 'f0'"),
        (tables(), None, "emb.f0", "skip must be a list"),
        (tables(1), None, ["emb.f0"], "no field is left"),
        (Everything(), FIELDS, ["viewer"], "'viewer' shares module 'user'"),
        (nn.DataParallel(tables()), None, (), "DataParallel runs copies"),
    ],
)
def test_what_cannot_be_measured_is_told(model, named, skip, message):
    with pytest.raises(StatsError, match=message):
        find_sites(model, named, skip)


class Scaled(nn.Embedding):
    def forward(self, ids):
        return super().forward(ids) * 2


def test_rows_that_are_not_a_tables_are_refused():
    model = tables()
    model.emb["f1"] = Scaled(10, 4)
    with pytest.raises(StatsError, match=r"emb.f1: Scaled looks rows up in a way of its own"):
        Importance(model)
    assert Importance(model, skip=["emb.f1"]).fields == {"emb.f0": "emb.f0.weight"}
    nn.utils.parametrizations.weight_norm(model.emb["f0"])
    with pytest.raises(StatsError, match=r"emb.f0: the weight is computed"):
        Importance(model, skip=["emb.f1"])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, on first compiling
def test_compiled_and_scripted_modules_are_refused():
    model = tables()
    with pytest.raises(StatsError, match=r"the model .OptimizedModule.*pass hooks by.*before"):
        Importance(torch.compile(model))
    inner = tables()
    inner.emb["f1"] = torch.compile(inner.emb["f1"])
    with pytest.raises(StatsError, match=r"emb.f1 .OptimizedModule"):
        Importance(inner)
    inplace = tables()
    inplace.emb["f0"].compile()
    with pytest.raises(StatsError, match=r"emb.f0 .Embedding.*pass hooks by"):
        Importance(inplace)
