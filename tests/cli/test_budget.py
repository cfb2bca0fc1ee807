"""`sharkstore convert --budget`: what it prints, draws, writes and refuses."""

import json
import subprocess
import sys

import numpy as np
import pytest
from checkpoints import ITEM, USER, save_stats

import sharkstore

FP32 = 4 * (1000 * 8 + 500 * 4)


@pytest.fixture
def uses(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {}
    for name, rows, dim in ((USER, 1000, 8), (ITEM, 500, 4)):
        arrays[f"tables/{name}/count"] = rng.zipf(1.4, rows)
        turn = rng.standard_normal((dim, dim))
        arrays[f"tables/{name}/metric"] = (turn @ turn.T).astype(np.float32)
    path = tmp_path / "uses.safetensors"
    save_stats(path, arrays)
    return path


def test_tables_tell_their_mix_and_predicted_loss(shark, checkpoint, tmp_path, uses):
    done = shark("convert", checkpoint, tmp_path / "s", "--stats", uses, "--budget", "10%")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].split()[-2:] == ["predicted", "loss"]
    assert len(lines) == 3
    assert "predicted increase of the loss by encodings:" in done.err
    with sharkstore.open(tmp_path / "s") as store:
        assert 0.99 * 0.1 * FP32 < store.nbytes <= 0.1 * FP32


def test_a_dry_run_prints_the_curve_and_writes_a_plan_that_gives_the_same(
    shark, checkpoint, tmp_path, uses
):
    options = ("--stats", uses, "--budget", "10%")
    dry = shark("convert", checkpoint, tmp_path / "s", *options, "--dry-run")
    assert dry.code == 0, dry.err
    table, curve = dry.out.split("\n\n")
    assert table.startswith("table")
    assert curve.split("\n")[0].split() == ["budget", "bytes", "predicted", "loss"]
    assert "30 %" in curve
    assert not (tmp_path / "s").exists()
    plan = json.loads((tmp_path / "s.plan.json").read_text())
    assert plan["budget"]["nbytes"] == FP32 // 10
    assert plan["budget"]["weigh"] == "metric"
    wet = shark("convert", checkpoint, tmp_path / "s", *options, "--json")
    options = ("--stats", uses, "--plan", tmp_path / "s.plan.json", "--json")
    again = shark("convert", checkpoint, tmp_path / "t", *options)
    assert again.code == 0, again.err
    assert json.loads(again.out)["digest"] == json.loads(wet.out)["digest"]


def test_json_has_tiers_losses_and_curve(shark, checkpoint, tmp_path, uses):
    options = ("--stats", uses, "--budget", "10%", "--dry-run", "--json")
    done = shark("convert", checkpoint, tmp_path / "s", *options)
    document = json.loads(done.out)
    assert [point["share"] for point in document["curve"]][:2] == [0.3, 0.2]
    losses = [table["predicted_loss"] for table in document["tables"]]
    assert sum(losses) == pytest.approx(document["predicted_loss"])
    for table in document["tables"]:
        assert sum(tier["rows"] for tier in table["tiers"]) == table["rows"]
    assert document["nbytes"] == sum(table["nbytes"] for table in document["tables"])


def test_a_conversion_without_budget_predicts_nothing(shark, checkpoint, tmp_path):
    done = shark("convert", checkpoint, tmp_path / "s", "--json")
    document = json.loads(done.out)
    assert document["predicted_loss"] is None
    assert "curve" not in document


@pytest.mark.parametrize("name", ["curve.svg", "curve.png"])
def test_the_curve_is_drawn(shark, checkpoint, tmp_path, uses, name):
    picture = tmp_path / name
    options = ("--stats", uses, "--budget", "10%", "--plot", picture, "-q")
    done = shark("convert", checkpoint, tmp_path / "s", *options)
    assert done.code == 0, done.err
    start = picture.read_bytes()[:200]
    assert b"<?xml" in start or start.startswith(b"\x89PNG")
    assert (tmp_path / "s").is_dir()


def test_without_matplotlib_nothing_is_begun(checkpoint, tmp_path, uses):
    code = f"""
import sys
sys.modules["matplotlib"] = None
sys.argv = ["sharkstore", "convert", {str(checkpoint)!r}, {str(tmp_path / "s")!r}, "--stats",
            {str(uses)!r}, "--budget", "10%", "--plot", {str(tmp_path / "c.svg")!r}]
from sharkstore.cli.main import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "sharkstore[plot]" in done.stderr
    assert not (tmp_path / "s").exists()


def test_shark_divides_by_priorities(shark, checkpoint, tmp_path, uses):
    options = ("--stats", uses, "--budget", "40%", "--method", "shark", "--json")
    document = json.loads(shark("convert", checkpoint, tmp_path / "s", *options).out)
    used = {tier["encoding"] for table in document["tables"] for tier in table["tiers"]}
    assert used == {"f32", "f16", "int8"}
    assert 0.99 * 0.4 * FP32 < document["nbytes"] <= 0.4 * FP32


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--budget", "8q"], "unknown unit"),
        (["--budget", "0%"], "out of range"),
        (["--max-loss", "0"], "above 0"),
        (["--max-loss", "nan"], "above 0"),
        (["--budget", "10%", "--max-loss", "1"], "don't mix"),
        (["--budget", "10%", "--tiers", "int8"], "don't mix"),
        (["--floor", f"int8:{USER}"], "goes with --budget"),
        (["--encodings", "int8"], "goes with --budget"),
        (["--weigh", "count"], "goes with --budget"),
        (["--budget", "10%", "--encodings", "int8,int7"], "int7"),
        (["--budget", "10%", "--encodings", ""], "encodings"),
        (["--budget", "10%", "--floor", "int8"], "floor"),
        (["--budget", "10%", "--method", "shark", "--weigh", "count"], "priorities"),
        (["--max-loss", "1", "--method", "shark"], "priorities"),
        (["--budget", "10%", "--rounding", "nearest"], "--rounding"),
        (["--plot", "c.svg"], "--plot"),
        (["--budget", "10%", "--plot", "c.gif"], "c.gif"),
    ],
)
def test_bad_usage_exits_2_and_leaves_nothing(shark, checkpoint, tmp_path, options, words):
    done = shark("convert", checkpoint, tmp_path / "s", *options)
    assert done.code == 2
    assert words in done.message
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--budget", "20"], "bytes or more"),
        (["--budget", "10%", "--encodings", "int8"], "bytes or more"),
        (["--budget", "10%", "--floor", "int8:nothing*"], "matches no table"),
        (["--budget", "10%", "--weigh", "metric"], "no metric"),
        (["--budget", "50%", "--method", "shark"], "priorities"),
        (["--rounding", "metric"], "metric"),
    ],
)
def test_what_can_not_be_done_exits_1_and_leaves_nothing(
    shark, checkpoint, tmp_path, options, words
):
    done = shark("convert", checkpoint, tmp_path / "s", *options)
    assert done.code == 1
    assert words in done.message
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("option", ["--budget=10%", "--floor=int8:*", "--weigh=count"])
def test_a_plan_has_decided(shark, checkpoint, tmp_path, uses, option):
    shark("convert", checkpoint, tmp_path / "s", "--stats", uses, "--budget", "10%", "--dry-run")
    plan = tmp_path / "s.plan.json"
    done = shark("convert", checkpoint, tmp_path / "s", "--stats", uses, "--plan", plan, option)
    assert done.code == 2


def edited(path, change):
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    return path


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda plan: plan.pop("budget"), "need a 'budget'"),
        (lambda plan: plan["budget"].update(loss=0.1), "one of 'nbytes' and 'loss'"),
        (lambda plan: plan["budget"].update(nbytes=None), "one of 'nbytes' and 'loss'"),
        (lambda plan: plan["budget"].update(nbytes=-3), "number of bytes"),
        (lambda plan: plan["budget"].update(nbytes=30), "bytes or more"),
        (lambda plan: plan["budget"].update(price="high"), "price"),
        (lambda plan: plan["budget"].update(weigh="taste"), "weigh"),
        (lambda plan: plan["tables"][0].update(rounding="up"), "rounding"),
        (lambda plan: plan["tables"][0].update(predicted_loss="none"), "predicted_loss"),
    ],
)
def test_a_plan_that_was_edited_badly_is_refused(shark, checkpoint, tmp_path, uses, change, words):
    shark("convert", checkpoint, tmp_path / "s", "--stats", uses, "--budget", "10%", "--dry-run")
    plan = edited(tmp_path / "s.plan.json", change)
    done = shark("convert", checkpoint, tmp_path / "s", "--stats", uses, "--plan", plan)
    assert done.code == 1
    assert words in done.message
    assert not (tmp_path / "s").exists()


def test_a_plan_may_be_edited_to_another_budget_and_fewer_encodings(
    shark, checkpoint, tmp_path, uses
):
    shark("convert", checkpoint, tmp_path / "s", "--stats", uses, "--budget", "10%", "--dry-run")

    def change(plan):
        plan["budget"]["nbytes"] = FP32 // 5
        for table in plan["tables"]:
            rows = table["rows"]
            kinds = ("int8", "int4", "constant")
            table["tiers"] = [{"encoding": kind, "rows": 0} for kind in kinds]
            table["tiers"][0]["rows"] = rows

    plan = edited(tmp_path / "s.plan.json", change)
    options = ("--stats", uses, "--plan", plan, "--json")
    document = json.loads(shark("convert", checkpoint, tmp_path / "s", *options).out)
    assert 0.98 * FP32 / 5 < document["nbytes"] <= FP32 / 5
    used = {tier["encoding"] for table in document["tables"] for tier in table["tiers"]}
    assert used <= {"int8", "int4", "constant"}


def test_a_table_taken_out_of_the_budget_by_hand_counts_all_the_same(
    shark, checkpoint, tmp_path, uses
):
    shark("convert", checkpoint, tmp_path / "s", "--stats", uses, "--budget", "40%", "--dry-run")

    def change(plan):
        table = next(one for one in plan["tables"] if one["name"] == ITEM)
        table.update(order="id", tiers=[{"encoding": "f16", "rows": table["rows"]}])

    plan = edited(tmp_path / "s.plan.json", change)
    options = ("--stats", uses, "--plan", plan, "--json")
    done = shark("convert", checkpoint, tmp_path / "s", *options)
    assert done.code == 0, done.err
    document = json.loads(done.out)
    assert 0.99 * 0.4 * FP32 < document["nbytes"] <= 0.4 * FP32
