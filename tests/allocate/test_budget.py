"""A budget from end to end: kept, used up, best, repeatable."""

import json

import numpy as np
import pytest
from checkpoints import read_back, save, save_stats
from safetensors.numpy import load_file
from strategies import random_rows

import sharkstore
from sharkstore.allocate.ruler import Ruler
from sharkstore.convert import convert_checkpoint
from sharkstore.encodings import parse_encoding
from sharkstore.errors import NonFiniteError, PlanError, StatsError
from sharkstore.plan.costs import Costs, choose, once_bytes
from sharkstore.plan.weigh import unseen_weight

USER, ITEM, DAY = "emb.user.weight", "emb.item.weight", "emb.day.weight"
SIZES = {USER: (20_000, 16), ITEM: (3_000, 8), DAY: (7, 5)}
SAMPLES = 50_000


def metric_of(dim, seed):
    """Curvature of a few directions, as networks have it."""
    rng = np.random.default_rng(seed)
    turn = rng.standard_normal((dim, dim))
    return (turn @ np.diag(10.0 ** -np.linspace(0, 2.5, dim)) @ turn.T / dim).astype(np.float32)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    tensors, arrays = {"mlp.weight": random_rows(4, 6)}, {}
    for seed, (name, (rows, dim)) in enumerate(SIZES.items()):
        rng = np.random.default_rng(seed)
        tensors[name] = random_rows(rows, dim, seed=seed)
        arrays[f"tables/{name}/count"] = rng.zipf(1.3, rows).clip(0, 10**5) - 1
        arrays[f"tables/{name}/metric"] = metric_of(dim, seed)
        arrays[f"tables/{name}/sensitivity"] = rng.random(rows).astype(np.float32)
    save(folder / "model.safetensors", tensors)
    save_stats(folder / "stats.safetensors", arrays)
    return folder


def convert(inputs, out, **options):
    options.setdefault("stats", inputs / "stats.safetensors")
    return convert_checkpoint(inputs / "model.safetensors", out, overwrite=True, **options)


def fp32():
    return sum(4 * rows * dim for rows, dim in SIZES.values())


@pytest.mark.parametrize("budget", ["60%", "28%", "10%", "5%", "3%", "1%"])
def test_a_budget_is_never_passed_and_used_up(inputs, tmp_path, budget):
    done = convert(inputs, tmp_path / "s", budget=budget)
    limit = float(budget[:-1]) / 100 * fp32()
    with sharkstore.open(tmp_path / "s") as store:
        assert store.nbytes == done.metadata.nbytes
        assert limit * 0.995 <= store.nbytes <= limit
        assert all(
            np.isfinite(store[name].lookup(np.arange(8 % rows + 1))).all()
            for name, (rows, _) in SIZES.items()
        )


def test_a_budget_may_be_a_size(inputs, tmp_path):
    done = convert(inputs, tmp_path / "s", budget="100KB")
    assert 99_500 <= done.metadata.nbytes <= 100_000


def test_less_room_costs_more(inputs, tmp_path):
    losses = [
        convert(inputs, tmp_path / "s", budget=b).predicted_loss for b in ("30%", "10%", "5%", "2%")
    ]
    assert losses == sorted(losses)
    assert losses[0] < losses[-1] / 1000


def actual_loss(inputs, store, names=tuple(SIZES)):
    """½ Σ count δᵀGδ / samples, over all rows as they are served."""
    tensors, stats = (load_file(inputs / f"{n}.safetensors") for n in ("model", "stats"))
    total = 0.0
    for name in names:
        count = stats[f"tables/{name}/count"]
        count = np.where(count > 0, count, unseen_weight(count))
        off = tensors[name].astype(float) - read_back(store, name)
        metric = stats[f"tables/{name}/metric"].astype(float)
        total += np.einsum("r,rd,de,re->", count, off, metric, off)
    return total / 2


@pytest.mark.parametrize("budget", ["10%", "3%"])
def test_what_was_predicted_is_what_is_served(inputs, tmp_path, budget):
    done = convert(inputs, tmp_path / "s", budget=budget)
    # these stats name no samples: losses are sums over all uses
    assert done.predicted_loss == pytest.approx(actual_loss(inputs, tmp_path / "s"), rel=0.05)


def test_the_metric_costs_less_than_counts_alone_at_equal_bytes(inputs, tmp_path):
    losses = {}
    for weigh in ("metric", "sensitivity", "count", "alike"):
        convert(inputs, tmp_path / "s", budget="6%", weigh=weigh)
        losses[weigh] = actual_loss(inputs, tmp_path / "s")
    assert losses["metric"] < 0.8 * min(losses["count"], losses["sensitivity"], losses["alike"])


def test_thresholds_cost_more_than_the_predicted_loss_at_equal_bytes(inputs, tmp_path):
    ours = convert(inputs, tmp_path / "a", budget="32%")
    shark = convert(inputs, tmp_path / "b", budget="32%", method="shark")
    assert shark.metadata.nbytes <= 0.32 * fp32()
    assert {str(t.encoding) for p in shark.plan.tables for t in p.tiers} <= {"f32", "f16", "int8"}
    assert actual_loss(inputs, tmp_path / "a") < actual_loss(inputs, tmp_path / "b")
    assert ours.metadata.nbytes <= 0.32 * fp32()


def test_every_row_takes_what_the_exact_relaxation_gives_it(inputs, tmp_path):
    """All rows measured, one price, no histogram: within 1 % in predicted loss."""
    kinds = ("int8", "int4", "int2", "constant")
    limit = 0.08 * fp32()
    done = convert(inputs, tmp_path / "s", budget="8%", encodings=kinds)
    tensors, stats = (load_file(inputs / f"{n}.safetensors") for n in ("model", "stats"))
    tables = []
    for planned in done.plan.tables:
        own = tuple(tier.encoding for tier in planned.tiers)
        rows, count = tensors[planned.name], stats[f"tables/{planned.name}/count"].astype(float)
        uses = np.where(count > 0, count, unseen_weight(count))
        mean = read_back(tmp_path / "s", planned.name)
        taken = [str(one) for one in own]
        stand_in = rows.mean(0)
        if "constant" in taken:
            with sharkstore.open(tmp_path / "s") as store:
                data = store[planned.name].arrays[taken.index("constant")]
                stand_in = data.view(np.float32)[0].copy()
        ruler = Ruler(
            own, stats[f"tables/{planned.name}/metric"], {}, stand_in, float(np.abs(rows).max())
        )
        losses = ruler.measure(rows, uses / 2).astype(float)
        tables.append(Costs(own, losses, np.ones(len(rows)), len(rows), rows.shape[1]))
        assert mean.shape == rows.shape
    low, high = 2.0**-60, 2.0**60
    for _ in range(100):
        price = (low * high) ** 0.5
        used = loss = 0.0
        for one in tables:
            taken, _ = choose(one.losses, one.row_bytes, price)
            used += one.row_bytes[taken].sum() + once_bytes(one, range(len(one.encodings)))
            loss += one.losses[taken, np.arange(len(taken))].sum()
        low, high = (low, price) if used <= limit else (price, high)
    assert done.predicted_loss <= loss * 1.01


def test_a_predicted_loss_is_kept_with_few_bytes(inputs, tmp_path):
    at = convert(inputs, tmp_path / "s", budget="5%")
    done = convert(inputs, tmp_path / "s", max_loss=at.predicted_loss)
    assert done.predicted_loss <= at.predicted_loss
    assert done.metadata.nbytes <= at.metadata.nbytes * 1.03


def test_the_same_inputs_give_the_same_bytes_and_so_does_the_plan(inputs, tmp_path):
    first = convert(inputs, tmp_path / "a", budget="4%")
    second = convert(inputs, tmp_path / "b", budget="4%")
    assert first.metadata.digest == second.metadata.digest
    planned = convert(inputs, tmp_path / "none", budget="4%", dry_run=True)
    (tmp_path / "plan.json").write_text(json.dumps(planned.plan.document()))
    third = convert(inputs, tmp_path / "c", plan=tmp_path / "plan.json")
    assert third.metadata.digest == first.metadata.digest
    assert not (tmp_path / "none").exists()


def test_a_dry_run_has_a_curve_and_comes_close(inputs, tmp_path):
    dry = convert(inputs, tmp_path / "s", budget="5%", dry_run=True)
    losses = [point.loss for point in dry.curve]
    assert losses == sorted(losses)
    wet = convert(inputs, tmp_path / "s", budget="5%")
    assert dry.predicted_loss == pytest.approx(wet.predicted_loss, rel=0.02)
    assert wet.curve == ()


def test_floors_hold_for_every_row(inputs, tmp_path):
    done = convert(inputs, tmp_path / "s", budget="20%", floors=["int8:emb.item*", "f32:emb.day*"])
    taken = {t.name: {str(tier.encoding) for tier in t.tiers} for t in done.plan.tables}
    assert taken[ITEM] <= {"f32", "f16", "int8"}
    assert taken[DAY] == {"f32"}
    assert done.metadata.nbytes <= 0.2 * fp32()


def test_only_the_encodings_named_are_used(inputs, tmp_path):
    done = convert(inputs, tmp_path / "s", budget="12%", encodings=["int8", "int2", "constant"])
    used = {str(tier.encoding) for table in done.plan.tables for tier in table.tiers}
    assert used <= {"int8", "int2", "constant"}


def test_an_impossible_budget_says_the_smallest_possible(inputs, tmp_path):
    with pytest.raises(PlanError, match=r"too small.* bytes or more"):
        convert(inputs, tmp_path / "s", budget="100")
    with pytest.raises(PlanError, match=r"bytes or more") as caught:
        convert(inputs, tmp_path / "s", budget="10%", encodings=["int8"])
    least = int(str(caught.value).split("expected ")[1].split(" bytes")[0].replace(",", ""))
    done = convert(inputs, tmp_path / "s", budget=str(least), encodings=["int8"])
    assert done.metadata.nbytes == least
    assert {str(tier.encoding) for t in done.plan.tables for tier in t.tiers} == {"int8"}


def test_pruned_tables_and_default_rows_count(inputs, tmp_path):
    arrays = {
        f"fields/{name}/score": [score]
        for name, score in (("user", 2.0), ("item", 1.0), ("day", 3.0))
    }
    stats = load_file(inputs / "stats.safetensors")
    fields = {"user": USER, "item": ITEM, "day": DAY}
    save_stats(tmp_path / "stats", stats | {k: np.array(v) for k, v in arrays.items()}, fields)
    done = convert(
        inputs, tmp_path / "s", stats=tmp_path / "stats", budget="5%", keep=2, default_row="mean"
    )
    assert [t.action for t in done.plan.tables if t.name == ITEM] == ["prune"]
    assert 0.995 * 0.05 * fp32() <= done.metadata.nbytes <= 0.05 * fp32()


def test_without_stats_all_rows_count_alike(inputs, tmp_path):
    done = convert(inputs, tmp_path / "s", budget="9%", stats=None)
    assert done.plan.budget.weigh == "alike"
    assert 0.995 * 0.09 * fp32() <= done.metadata.nbytes <= 0.09 * fp32()


def test_weights_that_the_stats_lack_are_refused(inputs, tmp_path):
    save_stats(tmp_path / "stats", {f"tables/{USER}/count": np.ones(20_000)})
    with pytest.raises(StatsError, match=r"no metric|no count"):
        convert(inputs, tmp_path / "s", stats=tmp_path / "stats", budget="9%", weigh="metric")


ODD = {
    "zeros": np.zeros((300, 6), np.float32),
    "one row": random_rows(1, 9),
    "equal rows": np.repeat(random_rows(1, 4), 500, axis=0),
    "one value": random_rows(400, 1),
    "tiny": random_rows(300, 8) * np.float32(1e-30),
    "huge": random_rows(300, 8) * np.float32(1e30),
    "one huge": np.where(np.arange(300)[:, None] == 7, np.float32(1e6), random_rows(300, 8)),
    "far from zero": random_rows(300, 8) * np.float32(1e-3) + np.float32(1000),
    "few rows": random_rows(3, 33),
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("budget", ["50%", "10%"])
def test_odd_tables_are_held(tmp_path, name, budget):
    rows = ODD[name]
    save(tmp_path / "m.safetensors", {"emb.t": rows, "emb.other": random_rows(2000, 8)})
    count = np.random.default_rng(0).zipf(1.3, len(rows))
    save_stats(
        tmp_path / "stats", {"tables/emb.t/count": count, "tables/emb.other/count": np.ones(2000)}
    )
    done = convert_checkpoint(
        tmp_path / "m.safetensors", tmp_path / "s", stats=tmp_path / "stats", budget=budget
    )
    assert done.metadata.nbytes <= float(budget[:-1]) / 100 * 4 * (rows.size + 16_000)
    got = read_back(tmp_path / "s", "emb.t")
    assert np.isfinite(got).all()
    if name == "zeros":
        assert not got.any()
    assert not any("too small for their encoding" in note for note in done.notes)


def test_rows_that_few_bits_cannot_hold_beside_others_take_more(tmp_path):
    rows = random_rows(1000, 8)
    rows[::2] *= np.float32(1e-12)
    save(tmp_path / "m.safetensors", {"emb.t": rows})
    # the small ones count most: at scales of 16 bits nothing would be left of them
    count = np.where(np.arange(1000) % 2 == 0, 10.0, 1.0) / np.square(rows).mean(1)
    save_stats(tmp_path / "stats", {"tables/emb.t/count": count.astype(np.float32)})
    convert_checkpoint(
        tmp_path / "m.safetensors", tmp_path / "s", stats=tmp_path / "stats", budget="60%"
    )
    off = np.abs(read_back(tmp_path / "s", "emb.t") - rows).max(1) / np.abs(rows).max(1)
    assert off[::2].max() < 0.1


def test_nan_is_refused_with_its_rows_or_becomes_zero(tmp_path):
    rows = random_rows(500, 4)
    rows[17, 2] = np.nan
    save(tmp_path / "m.safetensors", {"emb.t": rows})
    with pytest.raises(NonFiniteError, match="rows 17"):
        convert_checkpoint(tmp_path / "m.safetensors", tmp_path / "s", budget="40%")
    assert not (tmp_path / "s").exists()
    convert_checkpoint(tmp_path / "m.safetensors", tmp_path / "s", budget="40%", nonfinite="zero")
    assert np.isfinite(read_back(tmp_path / "s", "emb.t")).all()


def test_fields_worth_less_than_their_bytes_fall_to_their_mean_row(tmp_path):
    tables = {f"emb.{i}": random_rows(1000, 8, seed=i) for i in range(3)}
    save(tmp_path / "m.safetensors", tables)
    weights = {"emb.0": 1.0, "emb.1": 1e-6, "emb.2": 1.0}
    stats = {f"tables/{n}/count": np.full(1000, 100) for n in tables}
    stats |= {f"tables/{n}/metric": np.eye(8, dtype=np.float32) * w for n, w in weights.items()}
    save_stats(tmp_path / "stats", stats)
    done = convert_checkpoint(
        tmp_path / "m.safetensors", tmp_path / "s", stats=tmp_path / "stats", budget="8%"
    )
    kinds = {t.name: [str(tier.encoding) for tier in t.tiers] for t in done.plan.tables}
    assert kinds["emb.1"] == ["constant"]
    assert parse_encoding("constant") not in [t.encoding for t in done.plan.tables[0].tiers]


@pytest.mark.parametrize("size", [1e30, 1e-30])
@pytest.mark.parametrize("kind", ["count", "metric", "rows"])
def test_stats_and_rows_of_any_size_use_the_budget_up(tmp_path, kind, size):
    rows, count, metric = random_rows(2000, 8), np.arange(2000.0) + 1, metric_of(8, 0)
    if kind == "rows":
        rows = (rows * size**0.5).astype(np.float32)
    save(tmp_path / "m.safetensors", {"emb.t": rows})
    count = (count * (size if kind == "count" else 1)).astype(np.float32)
    metric = (metric * (size if kind == "metric" else 1)).astype(np.float32)
    stats = {"tables/emb.t/count": count, "tables/emb.t/metric": metric}
    save_stats(tmp_path / "stats", stats)
    done = convert_checkpoint(
        tmp_path / "m.safetensors", tmp_path / "s", stats=tmp_path / "stats", budget="12%"
    )
    assert 0.995 * 0.12 * 64000 <= done.metadata.nbytes <= 0.12 * 64000
    off = rows.astype(np.float64) - read_back(tmp_path / "s", "emb.t")
    served = 0.5 * (count * np.einsum("ni,ij,nj->n", off, metric.astype(np.float64), off)).sum()
    assert done.predicted_loss == pytest.approx(served, rel=0.1)


def test_a_loss_that_cannot_be_kept_tells_what_can(tmp_path):
    save(tmp_path / "m.safetensors", {"emb.t": random_rows(2000, 8) * np.float32(1e-9)})
    paths = tmp_path / "m.safetensors", tmp_path / "s"
    with pytest.raises(PlanError, match="can't be kept") as caught:
        convert_checkpoint(*paths, max_loss=1e-30, encodings=["int8"])
    least = float(str(caught.value).split("expected ")[1].split(" or more")[0])
    done = convert_checkpoint(*paths, max_loss=least * 1.01, encodings=["int8"])
    assert done.predicted_loss == pytest.approx(least, rel=0.01)


@pytest.mark.parametrize("encodings", [(), ("pq4",), ("pq4", "constant")])
def test_tables_without_rows_take_no_part(tmp_path, encodings):
    empty = np.zeros((0, 8), np.float32)
    save(tmp_path / "m.safetensors", {"emb.t": random_rows(2000, 8), "emb.none": empty})
    convert_checkpoint(
        tmp_path / "m.safetensors", tmp_path / "s", budget="20%", encodings=encodings
    )
    with sharkstore.open(tmp_path / "s") as store:
        assert store["emb.none"].rows == 0
        assert store.nbytes <= 0.2 * 64000


def test_one_row_that_only_f32_holds_keeps_f32(tmp_path):
    rows = random_rows(3000, 16)
    rows[5, 3] = 1e30
    save(tmp_path / "m.safetensors", {"emb.t": rows})
    stats = {"tables/emb.t/count": np.arange(3000) + 1, "tables/emb.t/metric": metric_of(16, 0)}
    save_stats(tmp_path / "stats", stats)
    convert_checkpoint(
        tmp_path / "m.safetensors", tmp_path / "s", stats=tmp_path / "stats", budget="10%"
    )
    served = read_back(tmp_path / "s", "emb.t")
    assert np.array_equal(served[5], rows[5])
    assert np.abs(np.delete(served, 5, axis=0)).max() < 10


def unsampled(count):
    """A row of the most frequent weight, that a sample of a large table is unlikely to have."""
    return int(np.flatnonzero(count == 0)[7])


@pytest.mark.parametrize(
    ("value", "encodings"), [(1e30, ("f32", "int4")), (1e-20, ("pq4", "int4"))]
)
def test_a_row_that_no_sample_has_is_held_too(tmp_path, value, encodings):
    rows, count = random_rows(60_000, 4), np.random.default_rng(0).zipf(1.3, 60_000) - 1
    rows[unsampled(count)] = value
    save(tmp_path / "m.safetensors", {"emb.t": rows})
    save_stats(tmp_path / "stats", {"tables/emb.t/count": count})
    done = convert_checkpoint(
        tmp_path / "m.safetensors",
        tmp_path / "s",
        stats=tmp_path / "stats",
        budget="40%",
        encodings=encodings,
    )
    assert np.isfinite(done.predicted_loss)
    off = read_back(tmp_path / "s", "emb.t") - rows
    assert np.square(off).mean() < 0.2
    assert abs(off[unsampled(count)]).max() < 1


def test_a_row_that_no_encoding_of_the_others_holds_is_told(tmp_path):
    rows, count = random_rows(60_000, 4), np.random.default_rng(0).zipf(1.3, 60_000) - 1
    rows[unsampled(count)] = 1e30
    save(tmp_path / "m.safetensors", {"emb.t": rows})
    save_stats(tmp_path / "stats", {"tables/emb.t/count": count})
    with pytest.raises(PlanError, match=r"emb\.t: a row with a value of 1e\+30"):
        convert_checkpoint(
            tmp_path / "m.safetensors",
            tmp_path / "s",
            stats=tmp_path / "stats",
            budget="30%",
            encodings=["int8", "int4", "int2"],
        )
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("samples", ["nan", "inf", "-5", "many"])
def test_samples_that_are_no_number_are_refused(tmp_path, samples):
    save(tmp_path / "m.safetensors", {"emb.t": random_rows(300, 4)})
    save(tmp_path / "stats", {"tables/emb.t/count": np.arange(300)}, {"samples": samples})
    with pytest.raises(StatsError, match="samples"):
        convert_checkpoint(
            tmp_path / "m.safetensors", tmp_path / "s", stats=tmp_path / "stats", budget="20%"
        )


def test_stats_by_which_errors_cost_nothing_are_told(inputs, tmp_path):
    stats = load_file(inputs / "stats.safetensors")
    save_stats(tmp_path / "stats", stats | {f"tables/{ITEM}/metric": np.zeros((8, 8), np.float32)})
    done = convert(inputs, tmp_path / "s", stats=tmp_path / "stats", budget="5%")
    assert [note for note in done.notes if "errors cost nothing" in note and ITEM in note]
    assert not any(
        "errors cost nothing" in note for note in convert(inputs, tmp_path / "s", budget="5%").notes
    )
