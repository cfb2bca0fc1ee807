"""The frontier of a generated set, and how it is told and drawn."""

import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from ctr import clicklog, longtail
from ctr.clicklog import Field
from reproduce import frontier_plot, frontier_text
from reproduce.__main__ import load_known, main
from reproduce.difficulty import Difficulty
from reproduce.frontier import OURS, SHARK, SWEPT, UNIFORM, Change, Frontier, Point

FIELDS = (Field("user", 1500), Field("item", 300), Field("hour", 24, 0))
QUICK = ("--quick", "--dim", "8", "--hidden", "8", "--batch", "128", "--rate", "0.01")


def run(*arguments, code=0):
    result = CliRunner().invoke(main, list(map(str, arguments)))
    assert result.exit_code == code, result.output
    return result


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return tmp_path_factory.mktemp("frontier") / "curve.svg"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    log, path = clicklog.generate(0, 6000, FIELDS), tmp_path_factory.mktemp("clicks")
    arrays = {"X": log.ids, "y": log.labels, "split": log.split, "fields": np.array(log.fields)}
    np.savez(path / "encoded.npz", card=np.array(log.cardinalities), **arrays)
    (path / "meta.json").write_text(json.dumps({"name": "clicks"}))
    return path


@pytest.fixture(scope="module")
def document(folder, drawn):
    options = ("--seeds", 2, "--sizes", "20,0.01", "--resamples", 3, "--json", "--plot", drawn)
    (found,) = json.loads(run("frontier", folder, *QUICK, *options).stdout)
    return found


@pytest.fixture(scope="module")
def points(document):
    return {(one["method"], one["size"]): one for one in document["points"]}


def test_every_method_is_measured_at_every_size_that_it_can_reach(points):
    expected = {(name, name) for name in UNIFORM} | {(OURS, name) for name in UNIFORM}
    expected |= {(method, "20%") for method in SWEPT}
    assert points.keys() == expected


def test_budgets_are_kept(points):
    for (method, size), one in points.items():
        most = [float(size[:-1]) / 100] * 2 if "%" in size else points[size, size]["ratios"]
        for ratio, limit in zip(one["ratios"], most, strict=True):
            assert 0 < ratio <= limit, (method, size)


def test_the_allocator_is_compared_with_every_other_method(points):
    for (method, size), one in points.items():
        assert (one["over"] is None) == (method == OURS), (method, size)


def test_the_difference_of_two_methods_is_that_of_their_changes(points):
    for (_, size), one in points.items():
        if one["over"]:
            ours = points[OURS, size]["change"]
            for kind in ("auc", "loss"):
                differences = np.subtract(ours[kind], one["change"][kind])
                np.testing.assert_allclose(one["over"][kind], differences, atol=1e-12)


def test_all_int8_changes_next_to_nothing_and_all_int2_much_more(points):
    int8, int2 = (np.abs(points[name, name]["change"]["loss"]) for name in ("int8", "int2"))
    assert int8.max() < 1e-4
    assert int2.min() > 10 * int8.max()


def test_the_allocator_and_what_it_is_compared_with_have_intervals(points):
    for (method, _), one in points.items():
        change = one["change"] if method == OURS else one["over"]
        assert len(change["low"]) == len(change["high"]) == 2
        assert (np.array(change["low"]) <= change["high"]).all()


def test_the_frontier_is_drawn(document, drawn):
    assert "clicks, dim 8, 2 seeds" in drawn.read_text()
    assert document["resamples"] == 3


def test_longtail_is_a_name_and_everything_else_a_folder(folder):
    generated, known = load_known(longtail.NAME, quick=True)
    assert (generated.name, len(generated.labels), len(known)) == ("longtail", 10_000, 10_000)
    loaded, unknown = load_known(folder, quick=True)
    assert (loaded.name, unknown) == ("clicks", None)


# --- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ("frontier",),
        ("frontier", "nowhere"),
        ("frontier", "longtail", "--sizes", "0"),
        ("frontier", "longtail", "--sizes", "101"),
        ("frontier", "longtail", "--sizes", "nan"),
        ("frontier", "longtail", "--sizes", "10%"),
        ("frontier", "longtail", "--plot", "curve.pdf"),
        ("frontier", "longtail", "--plot", "nowhere/curve.svg"),
        ("fields", "longtail"),
    ],
)
def test_bad_usage_exits_2(arguments):
    assert "Error: " in run(*arguments, code=2).stderr


# --- how it is told ----------------------------------------------------------------------------

HARD = Difficulty(
    samples=1000,
    test_samples=100,
    positives=0.3,
    auc=0.75,
    bound=0.8,
    large=("user",),
    without_large=0.7,
    rare_at_mean=0.74,
    unseen_rows=0.4,
    unseen_lookups=0.01,
    rare_lookups=0.05,
)


def change(*auc, noise=1e-5):
    values = list(auc)
    low, high = [one - noise for one in values], [one + noise for one in values]
    return Change(values, [-one for one in values], low, high)


WORSE = change(-0.0002, -0.0003)


@pytest.fixture
def frontier():
    points = [
        Point("int8", "int8", [0.28, 0.28], change(0, 0), change(1e-5, -1e-5)),
        Point(OURS, "int8", [0.279, 0.279], change(1e-5, -1e-5), None),
        Point(SHARK, "10%", [0.09, 0.1], change(-0.02, -0.02001), change(0.0199, 0.01991)),
        Point("allocator, count", "10%", [0.1, 0.1], change(0.0001, 0.0002), WORSE),
        Point(OURS, "10%", [0.1, 0.1], change(-0.0001, -0.0001), None),
        Point(OURS, "2.5%", [0.025, 0.025], change(-0.00049, -0.0005), None),
    ]
    return Frontier("clicks", 100, 16, 2, 7, [HARD, HARD], [0.5, 0.6], points)


def line(text, start):
    return next(one for one in text.splitlines() if one.startswith(f"| {start} |"))


def test_sizes_are_columns_and_what_cannot_be_reached_is_a_dash(frontier):
    text = frontier_text.text(frontier)
    assert line(text, "size") == "| size | 10 % | 2.5 % |"
    assert line(text, SHARK) == f"| {SHARK} | **-0.02001 ± 0.00001** | – |"
    assert line(text, f"{OURS}: bytes") == f"| {OURS}: bytes | 10.00% | 2.50% |"
    bootstrap = f"| {OURS}: bootstrap | [-0.00011, -0.00009] | [-0.00050, -0.00048] |"
    assert line(text, f"{OURS}: bootstrap").startswith(bootstrap[:60])


def test_uniform_encodings_stand_beside_the_allocator_at_their_bytes(frontier):
    cells = line(frontier_text.text(frontier), "int8").split(" | ")
    assert cells[1] == "28.00%"
    assert cells[2] == "same"
    assert cells[-1] == "+0.00000 ± 0.00001 [-0.00001, +0.00001] |"


def test_the_verdict_names_whom_the_allocator_falls_behind(frontier):
    text = frontier_text.text(frontier)
    # differences -0.0002 and -0.0003: two seeds' t-interval holds 0
    assert "than: none." in text
    over = change(-0.00025, -0.00026)
    points = [
        replace(p, over=over) if p.method == "allocator, count" else p for p in frontier.points
    ]
    text = frontier_text.text(replace(frontier, points=points))
    assert "than: allocator, count at 10%." in text
    unsure = replace(over, high=[0.1, 0.1])
    points = [replace(p, over=unsure) if p.over is over else p for p in points]
    assert "than: none." in frontier_text.text(replace(frontier, points=points))


def test_the_least_size_is_sure_of_its_loss(frontier):
    # at 2.5 % the bootstrap reaches below -0.0005
    assert "0.0005 AUC: 10.00% of float32." in frontier_text.text(frontier)
    points = [replace(p, change=change(-0.01, -0.01)) for p in frontier.points]
    assert "0.0005 AUC: none." in frontier_text.text(replace(frontier, points=points))


def test_difficulty_is_told_with_and_without_a_bound(frontier):
    assert "AUC 0.7500. The logits behind the labels have 0.8000. With" in frontier_text.text(
        frontier
    )
    hard = replace(HARD, bound=None, large=())
    text = frontier_text.text(replace(frontier, difficulty=[hard, hard]))
    assert "AUC 0.7500. With the large tables (none)" in text


# --- how it is drawn ---------------------------------------------------------------------------


@pytest.mark.parametrize(("suffix", "starts"), [(".svg", b"<?xml"), (".png", b"\x89PNG")])
def test_the_same_figures_make_the_same_picture(frontier, tmp_path, suffix, starts):
    first, second = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    for path in (first, second):
        frontier_plot.plot([frontier, frontier], path)
    assert first.read_bytes() == second.read_bytes()
    assert first.read_bytes().startswith(starts)


def test_the_picture_has_every_method_in_its_legend(frontier, tmp_path):
    frontier_plot.plot([frontier], tmp_path / "a.svg")
    drawn = (tmp_path / "a.svg").read_text()
    for name in (SHARK, OURS, "allocator, count", "int8"):
        assert f">{name}<" in drawn
    assert "sensitivity" not in drawn
