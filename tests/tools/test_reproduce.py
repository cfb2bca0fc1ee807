"""SHARK's measurements on a generated set, and the statistics that they are told by."""

import json
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from ctr import clicklog, datasets
from ctr.clicklog import Field
from reproduce import rows, scorers
from reproduce.__main__ import main
from reproduce.noise import paired, spearman, spread
from reproduce.training import Sizes, fit
from torch import nn

FIELDS = (Field("user", 300), Field("type", 40), Field("hour", 24, 0), Field("item", 100, 0.5))
SMALL = ("--dim", "4", "--hidden", "8", "--batch", "256", "--epochs", "2")
SIZES = Sizes(dim=4, hidden=(8,), batch=256, rate=1e-2, epochs=6)


def write(folder, log, **others):
    arrays = {"X": log.ids, "y": log.labels, "split": log.split, "fields": np.array(log.fields)}
    arrays |= {"card": np.array(log.cardinalities)} | others
    np.savez(folder / "encoded.npz", **{k: v for k, v in arrays.items() if v is not None})
    (folder / "meta.json").write_text(json.dumps({"name": "clicks"}))
    return folder


@pytest.fixture(scope="module")
def log():
    return clicklog.generate(0, 2000, FIELDS)


@pytest.fixture(scope="module")
def folder(log, tmp_path_factory):
    return write(tmp_path_factory.mktemp("clicks"), log)


@pytest.fixture(scope="module")
def model(log):
    return fit(log, 0, SIZES)


def run(*arguments, code=0):
    result = CliRunner().invoke(main, list(map(str, arguments)))
    assert result.exit_code == code, result.output
    return result


def found(*arguments):
    """The figures of the only set; nothing is on stderr, which is no terminal."""
    result = run(*arguments, *SMALL, "--json")
    assert result.stderr == ""
    (document,) = json.loads(result.stdout)
    return document


# --- commands ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def selection(folder):
    return found("fields", folder, "--seeds", 2, "--keep", "50,75", "--shuffles", 2)


def test_fields_are_selected_by_every_method_at_every_share(selection):
    assert selection["kept"] == {"50": 2, "75": 3}
    assert len(selection["aucs"]) == 9
    for by_share in selection["aucs"].values():
        assert [len(values) for values in by_share.values()] == [2, 2]
        assert all(0.3 < value < 1 for values in by_share.values() for value in values)


def test_the_same_fields_are_trained_once_a_seed(selection):
    asked = len(selection["aucs"]) * len(selection["kept"]) * selection["seeds"]
    # two seeds; at most all pairs and triples of four fields, and all four
    assert selection["trainings"] <= min(2 + asked, 2 * (6 + 4 + 1))


def test_equal_selections_have_equal_aucs(selection):
    first = {method: frozenset(ranked[:2]) for method, ranked in selection["ranked"].items()}
    aucs = {method: by_share["50"][0] for method, by_share in selection["aucs"].items()}
    for a, b in product(first, first):
        if first[a] == first[b]:
            assert aucs[a] == aucs[b]


def test_a_selection_is_the_same_again(folder, selection):
    assert found("fields", folder, "--seeds", 2, "--keep", "50,75", "--shuffles", 2) == selection


def test_fields_prints_aucs_differences_and_agreement(folder):
    text = run("fields", folder, "--seeds", 2, "--keep", "50", "--shuffles", 1, *SMALL).stdout
    assert text.startswith("### clicks: 2,000 samples, 4 fields\n")
    heads = [line for line in text.splitlines() if line.startswith(("| k |", "| method |"))]
    assert heads == [
        "| k | 2 (50 %) |",
        "| k | 2 (50 %) |",
        "| method | with permutation | with itself, other seeds |",
    ]


def test_cost_counts_passes_and_seconds(folder):
    document = found("cost", folder, "--rounds", 2)
    assert document["samples"] == 200
    assert document["passes"]["Taylor"] == [2, 1]
    assert document["passes"]["permutation"] == [5, 0]
    assert all(len(one) == 2 and min(one) > 0 for one in document["seconds"].values())
    assert "| permutation | 5 + 0 |" in run("cost", folder, "--rounds", 1, *SMALL).stdout


@pytest.fixture(scope="module")
def kept(folder):
    return found("rows", folder, "--seeds", 2, "--levels", "50,10")


def test_rows_of_every_priority_take_equal_bytes(kept):
    for level, most in (("50", 0.35), ("10", 0.2)):
        ratios = [ratio for one in kept["ratios"].values() for ratio in one[level]]
        # all but the row maps and mean rows of four tables
        assert max(ratios) - min(ratios) < 4 * (16 * 5 + 16) / (464 * 16)
        assert max(ratios) < most


def test_stores_predict_what_their_rows_allow(kept):
    assert np.abs(np.subtract(kept["stored"], kept["whole"])).max() < 0.005
    for by_level in kept["aucs"].values():
        assert by_level["50"] != by_level["10"]


def test_rows_are_told_as_aucs_and_differences_from_count(kept):
    text = rows.text(rows.Kept(**kept))
    assert text.startswith("### clicks: 464 rows × 4\n")
    lines = [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| ")]
    assert lines.count("| count") == 1
    assert lines.count("| random") == lines.count("| sensitivity") == 2


# --- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["fields"],
        ["fields", "nowhere"],
        ["fields", ".", "--keep", "100"],
        ["rows", ".", "--levels", "x"],
    ],
)
def test_bad_usage_exits_2(arguments):
    assert "Error: " in run(*arguments, code=2).stderr


@pytest.mark.parametrize(
    ("others", "said"),
    [
        ({"y": None}, "y is not a file in the archive"),
        ({"card": np.array([300, 40, 24, 99])}, "ids outside the cardinalities"),
        ({"split": np.zeros(2000, np.uint8)}, "no test split"),
        ({"y": np.full(2000, 2)}, "labels other than 0 and 1"),
        ({"X": np.zeros((1999, 4), np.int32)}, "they don't fit"),
    ],
)
def test_a_folder_that_is_no_set_exits_1(log, tmp_path, others, said):
    result = CliRunner().invoke(main, ["fields", str(write(tmp_path, log, **others))])
    assert result.exit_code == 1
    assert said in result.output


def test_a_folder_without_files_exits_1(tmp_path):
    assert run("cost", tmp_path, code=1).output.startswith(f"error: {tmp_path}: ")


# --- scorers -----------------------------------------------------------------------------------


def test_the_best_fields_are_those_of_the_highest_scores():
    scores = np.array([0.2, 0.5, 0.2, 0.1])
    assert scorers.best(scores, ("a", "b", "c", "d"), 2) == {"a", "b"}


def test_fields_with_most_and_with_no_signal_are_told(model, log):
    scores = scorers.score_all(model, log, 0, batch=256, shuffles=3)
    best = {method: model.fields[values.argmax()] for method, values in scores.items()}
    worst = {method: model.fields[values.argmin()] for method, values in scores.items()}
    assert {best[one] for one in ("Taylor", "Taylor, training data", "permutation")} == {"user"}
    # on held-out samples, what was fitted to noise does harm: a sign tells, a magnitude can't
    assert {worst[one] for one in ("Taylor signed", "permutation")} == {"hour"}


def test_sfs_by_batch_is_the_slope_of_the_loss_along_the_fields_scale(model, log):
    ids, labels = log.part(datasets.VALIDATION)
    step = 1e-2

    def loss(scale, place):
        with torch.no_grad():
            vectors = model.embed(ids)
            vectors[:, place] *= scale
            return scorers.log_loss(labels, model.head(vectors).double().numpy())

    slopes = [(loss(1 + step, f) - loss(1 - step, f)) / (2 * step) for f in range(4)]
    got = scorers.sfs_by_batch(model, log, len(ids))
    np.testing.assert_allclose(got, np.abs(slopes), rtol=0.02, atol=2e-5)


def test_the_gauss_newton_score_is_the_expected_rise_of_the_loss(model, log):
    ids, _ = log.part(datasets.VALIDATION)
    importance = scorers.measure(model, log, datasets.VALIDATION, 64)
    means = [importance.mean_row(table) for table in scorers.fields_of(model).values()]
    with torch.no_grad():
        vectors = model.embed(ids)
        before = model.head(vectors).double()
        expected = []
        for place, row in enumerate(means):
            # a small step towards the mean row: the score goes by its square
            moved = vectors.clone()
            moved[:, place] += 1e-2 * (torch.from_numpy(row).float() - moved[:, place])
            after, p = model.head(moved).double(), before.sigmoid()
            rise = nn.functional.softplus(after) - nn.functional.softplus(before)
            expected.append(float((rise - p * (after - before)).mean()) * 1e4)
    got = [importance.scores()[field]["score_curved"] for field in model.fields]
    np.testing.assert_allclose(got, expected, rtol=0.05)


def test_permutation_of_a_field_that_is_one_row_is_zero(model, log):
    rng = np.random.default_rng(0)
    constant = replace(log, ids=log.ids.copy())
    constant.ids[:, 2] = 5
    rises = scorers.permutation(model, constant, rng, 2, 64)
    assert rises.shape == (2, 4)
    assert (rises[:, 2] == 0).all()
    assert (rises[:, 0] > 0).all()


# --- rows --------------------------------------------------------------------------------------


def test_ranks_run_over_all_tables_and_ties_fall_by_chance():
    values = {"a": np.array([5.0, 1.0, 1.0]), "b": np.array([7.0, 1.0, 0.0])}
    ranked = [rows.rank(values, np.random.default_rng(seed)) for seed in range(8)]
    for one in ranked:
        assert sorted([*one["a"], *one["b"]]) == [1, 2, 3, 4, 5, 6]
        assert (one["b"][0], one["a"][0], one["b"][2]) == (6, 5, 1)
    assert len({tuple(one["a"]) for one in ranked}) > 1


@pytest.mark.parametrize(("percent", "kept"), [(50, 3), (10, 1), (99, 6)])
def test_a_threshold_keeps_its_share_of_the_rows(percent, kept):
    ranked = {"a": np.array([1.0, 6.0, 3.0]), "b": np.array([2.0, 5.0, 4.0])}
    least = rows.least_rank(ranked, percent)
    assert sum(int((one >= least).sum()) for one in ranked.values()) == kept


# --- statistics --------------------------------------------------------------------------------


def test_a_spread_is_mean_and_sample_deviation():
    one = spread([1.0, 2.0, 6.0])
    assert one.mean == 3
    assert one.std == pytest.approx(7**0.5)  # (4 + 1 + 9) / 2


def test_differences_are_taken_seed_by_seed():
    one = paired([0.7, 0.8, 0.9], [0.6, 0.7, 0.8])
    assert one.mean == pytest.approx(0.1)
    assert one.std == pytest.approx(0)
    assert one.beyond_noise


def test_noise_is_the_t_interval_of_the_mean():
    # 4.303 / sqrt(3) = 2.484 deviations
    assert spread([1.5, 2.5, 3.5]).beyond_noise
    assert not spread([1.4, 2.4, 3.4]).beyond_noise
    assert spread([-3.5, -2.5, -1.5]).beyond_noise
    assert not spread([0.0, 0.0, 0.0]).beyond_noise


def test_rank_correlation_by_hand():
    a = np.array([1.0, 2.0, 3.0, 4.0])
    assert spearman(a, np.array([10.0, 20.0, 30.0, 99.0])) == pytest.approx(1)
    assert spearman(a, -a) == pytest.approx(-1)
    # ranks 2, 1, 4, 3: 1 - 6 · 4 / (4 · 15)
    assert spearman(a, np.array([5.0, 4.0, 7.0, 6.0])) == pytest.approx(0.6)
    # ranks 1.5, 1.5, 3, 4: covariance 4.5, variances 5 and 4.5
    assert spearman(a, np.array([0.0, 0.0, 1.0, 2.0])) == pytest.approx(4.5 / (5 * 4.5) ** 0.5)
    assert np.isnan(spearman(a, np.ones(4)))
