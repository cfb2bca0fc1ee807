"""Merging stats: halves make the whole, days decay, and what doesn't fit is refused by name."""

import json

import numpy as np
import pytest
from checkpoints import names, save
from hypothesis import given
from hypothesis import strategies as st

from sharkstore.errors import StatsError
from sharkstore.stats import file as file_module
from sharkstore.stats.file import open_stats
from sharkstore.stats.merge import merge_stats

ROWS, DIM = 6, 3
SAID = {"version": "1", "loss": "binary", "curvature": "gauss-newton", "beta": "1.0"}


def measured(log):
    """A stats file's arrays and metadata, by the formulas, out of (row, positive, J, c) samples."""
    rows = np.array([row for row, _, _, _ in log], np.int64)
    positive = np.array([label for _, label, _, _ in log], np.bool_)
    jacobians = np.array([j for _, _, j, _ in log], np.float64).reshape(-1, DIM)
    curves = np.array([c for _, _, _, c in log], np.float64)
    count, n = np.bincount(rows, minlength=ROWS), len(log)
    metric = np.einsum("n,nd,ne->de", curves, jacobians, jacobians) / max(n, 1)
    arrays = {
        "tables/t/count": count,
        "tables/t/positive": np.bincount(rows[positive], minlength=ROWS),
        "tables/t/priority": np.bincount(rows, 1.0 + positive, ROWS).astype(np.float32),
        "tables/t/mean": (jacobians.sum(0) / max(n, 1)).astype(np.float32),
        "tables/t/metric": metric.astype(np.float32),
        "tables/t/sensitivity": ((count + 0.5) * np.trace(metric) / DIM).astype(np.float32),
        "fields/f/score": np.array([np.abs(jacobians[:, 0]).sum() / max(n, 1)]),
        "fields/f/score_signed": np.array([jacobians[:, 0].sum() / max(n, 1)]),
        "fields/f/sfs": np.array([curves.sum() / max(n, 1)]),
    }
    totals = dict.fromkeys(["samples", "labelled", "measured"], str(n))
    return arrays, {**SAID, **totals, "fields": '{"f": "t"}', "uses": json.dumps({"t": n})}


def put(path, arrays, metadata=None):
    return save(path, arrays, metadata)


def whole(path):
    stats = open_stats(path)
    return {key: np.array(array) for key, array in stats.arrays.items()}, dict(stats.metadata)


def assert_alike(one, other, rtol=1e-5):
    assert set(one[0]) == set(other[0])
    for key, array in one[0].items():
        assert array.dtype == other[0][key].dtype, key
        np.testing.assert_allclose(array, other[0][key], rtol, 1e-6, err_msg=key)
    assert one[1] == other[1]


samples = st.tuples(
    st.integers(0, ROWS - 1),
    st.booleans(),
    st.tuples(*[st.integers(-8, 8)] * DIM),
    st.sampled_from([0.25, 0.5, 1.0]),
)


@given(st.lists(samples, min_size=1, max_size=20), st.data(), st.sampled_from([2, 1 << 20]))
def test_parts_merged_are_the_whole(tmp_path_factory, log, data, block):
    folder = tmp_path_factory.mktemp("m")
    parts = data.draw(st.lists(st.integers(0, len(log)), max_size=2).map(sorted))
    cuts = zip([0, *parts], [*parts, len(log)], strict=True)
    paths = [
        put(folder / str(k), *measured(log[start:stop])) for k, (start, stop) in enumerate(cuts)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file_module, "BLOCK", block)
        merged = merge_stats(paths, folder / "out")
    put(folder / "whole", *measured(log))
    got, expected = whole(folder / "out"), whole(folder / "whole")
    for found in (got, expected):
        found[1].update({name: json.loads(found[1][name]) for name in ("fields", "uses")})
    assert_alike(got, expected)
    assert merged.notes == ()


@pytest.fixture
def three(tmp_path):
    """Three files of random logs."""
    rng = np.random.default_rng(5)

    def log(n):
        return [
            (int(rng.integers(ROWS)), bool(rng.random() < 0.3), rng.normal(size=DIM), 0.2)
            for _ in range(n)
        ]

    return [
        put(tmp_path / name, *measured(log(n))) for name, n in zip("abc", (5, 50, 20), strict=True)
    ]


def test_merging_is_associative_without_decay(three, tmp_path):
    a, b, c = three
    merge_stats([a, b], tmp_path / "ab")
    merge_stats([tmp_path / "ab", c], tmp_path / "left")
    merge_stats([b, c], tmp_path / "bc")
    merge_stats([a, tmp_path / "bc"], tmp_path / "right")
    merge_stats(three, tmp_path / "all")
    assert_alike(whole(tmp_path / "left"), whole(tmp_path / "right"))
    assert_alike(whole(tmp_path / "left"), whole(tmp_path / "all"))


def test_equal_inputs_give_equal_bytes(three, tmp_path):
    for name in ("one", "two"):
        merge_stats(three, tmp_path / name, 0.3)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_decay_in_one_step_is_decay_day_by_day(three, tmp_path):
    a, b, c = three
    merge_stats([a, b], tmp_path / "ab", 0.3)
    merge_stats([tmp_path / "ab", c], tmp_path / "steps", 0.3)
    merge_stats(three, tmp_path / "all", 0.3)
    steps, at_once = whole(tmp_path / "steps"), whole(tmp_path / "all")
    for found in (steps, at_once):
        found[1].update(samples=round(float(found[1]["samples"]), 9))
        found[1].update(dict.fromkeys(["labelled", "measured", "uses"]))
    assert_alike(steps, at_once)


def test_decay_is_the_formula(three, tmp_path):
    done = merge_stats(three, tmp_path / "out", 0.25)
    arrays, metadata = whole(tmp_path / "out")
    parts = [whole(path) for path in three]
    shares = [0.75**2, 0.75 * 0.25, 0.25]
    assert [one.share for one in done.files] == shares
    for kind in ("count", "positive", "priority"):
        key = f"tables/t/{kind}"
        expected = (
            0.75 * (0.75 * parts[0][0][key] + 0.25 * parts[1][0][key]) + 0.25 * parts[2][0][key]
        )
        assert arrays[key].dtype == np.float32
        np.testing.assert_allclose(arrays[key], expected, 1e-6)
    assert float(metadata["samples"]) == 5 * shares[0] + 50 * shares[1] + 20 * shares[2]
    assert metadata["decay"] == "0.25"
    over = np.array([5, 50, 20]) * shares
    scores = [part[0]["fields/f/score"][0] for part in parts]
    assert arrays["fields/f/score"][0] == pytest.approx(over @ scores / over.sum(), rel=1e-12)
    metric = sum(w * part[0]["tables/t/metric"] for w, part in zip(over, parts, strict=True))
    np.testing.assert_allclose(arrays["tables/t/metric"], metric / over.sum(), 1e-6)
    expected = (arrays["tables/t/count"] + 0.5) * np.trace(arrays["tables/t/metric"]) / DIM
    np.testing.assert_allclose(arrays["tables/t/sensitivity"], expected, 1e-6)


def test_a_decay_of_one_keeps_the_last_period(three, tmp_path):
    merge_stats(three, tmp_path / "out", 1.0)
    got, last = whole(tmp_path / "out")[0], whole(three[-1])[0]
    for key, array in got.items():
        np.testing.assert_allclose(array, last[key], 1e-6)


def test_the_output_may_be_an_input(three, tmp_path):
    merge_stats(three, tmp_path / "out")
    merge_stats(three, three[1])
    assert three[1].read_bytes() == (tmp_path / "out").read_bytes()


def test_one_file_stays_as_it_is(three, tmp_path):
    merge_stats(three[:1], tmp_path / "out")
    assert_alike(whole(tmp_path / "out"), whole(three[0]))


# --- what only some files have ---------------------------------------------------------------


def merged(tmp_path, *files, decay=None):
    paths = [put(tmp_path / name, *file) for name, file in zip("abcd", files, strict=False)]
    notes = merge_stats(paths, tmp_path / "out", decay).notes
    return *whole(tmp_path / "out"), notes


def test_tables_and_fields_of_some_files_are_kept(tmp_path):
    left = (
        {"tables/t/count": np.arange(3), "fields/f/score": np.array([2.0])},
        {"fields": '{"f": "t"}'},
    )
    right = (
        {"tables/u/count": np.arange(4), "fields/g/score": np.array([3.0])},
        {"fields": '{"g": "u"}'},
    )
    arrays, metadata, _ = merged(tmp_path, left, right)
    assert {key: array.tolist() for key, array in arrays.items()} == {
        "tables/t/count": [0, 1, 2],
        "tables/u/count": [0, 1, 2, 3],
        "fields/f/score": [2.0],
        "fields/g/score": [3.0],
    }
    assert json.loads(metadata["fields"]) == {"f": "t", "g": "u"}


def test_a_table_that_is_missing_on_a_day_has_no_uses_then(tmp_path):
    first, second = {"tables/t/count": np.array([4, 8])}, {"tables/u/count": np.array([4])}
    arrays, _, _ = merged(tmp_path, (first, {}), (second, {}), decay=0.25)
    assert arrays["tables/t/count"].tolist() == [3.0, 6.0]
    assert arrays["tables/u/count"].tolist() == [1.0]


def test_counts_stand_in_for_priorities_that_a_file_lacks(tmp_path):
    first = {"tables/t/count": np.array([1, 2]), "tables/t/priority": np.array([5, 6], np.float32)}
    arrays, _, notes = merged(tmp_path, (first, {}), ({"tables/t/count": np.array([3, 0])}, {}))
    assert arrays["tables/t/priority"].tolist() == [8.0, 6.0]
    assert any("counts stand in for tables/t/priority" in note for note in notes)


def test_counts_of_a_log_sharpen_the_sensitivity_of_a_measured_table(tmp_path):
    file = measured([(1, True, (1, 2, 3), 0.5), (2, False, (0, 1, 0), 0.5)])
    arrays, _, _ = merged(tmp_path, file, ({"tables/t/count": np.full(ROWS, 9)}, {}))
    trace = np.trace(file[0]["tables/t/metric"])
    expected = (file[0]["tables/t/count"] + 9.5) * trace / DIM
    np.testing.assert_allclose(arrays["tables/t/sensitivity"], expected, 1e-6)


def test_sensitivities_without_metrics_are_added(tmp_path):
    one = {"tables/t/sensitivity": np.array([1.0, 2.0]), "tables/t/count": np.array([1, 1])}
    arrays, _, _ = merged(tmp_path, (one, {}), (one, {}))
    assert arrays["tables/t/sensitivity"].tolist() == [2.0, 4.0]


@pytest.mark.parametrize("key", ["fields/f/score", "tables/t/metric", "tables/t/mean"])
def test_files_that_dont_say_what_a_mean_is_over_weigh_alike(tmp_path, key):
    shape = {"score": (1,), "metric": (2, 2), "mean": (2,)}[key.rpartition("/")[2]]
    one, other = np.full(shape, 1.0), np.full(shape, 4.0)
    arrays, _, notes = merged(tmp_path, ({key: one}, {"measured": "5"}), ({key: other}, {}))
    np.testing.assert_allclose(arrays[key], np.full(shape, 2.5))
    assert any(f"files weigh alike in {key}" in note for note in notes)


def test_samples_stand_in_for_measured_samples(tmp_path):
    files = [
        ({"fields/f/score": np.array([s])}, {"samples": n}) for s, n in ((1.0, "1"), (4.0, "2"))
    ]
    arrays, metadata, _ = merged(tmp_path, *files)
    assert arrays["fields/f/score"].tolist() == [3.0]
    assert "measured" not in metadata


def test_totals_that_a_file_doesnt_say_are_left_out(tmp_path):
    count = {"tables/t/count": np.arange(2)}
    _, metadata, notes = merged(tmp_path, (count, {"samples": "5"}), (count, {}))
    assert "samples" not in metadata
    assert any(note.startswith("'samples' is left out") for note in notes)


def test_other_texts_stay_where_all_agree(tmp_path):
    count = {"tables/t/count": np.arange(2)}
    texts = {"model": "ranker", "day": "1"}, {"model": "ranker", "day": "2"}
    _, metadata, _ = merged(tmp_path, *[(count, text) for text in texts])
    assert metadata["model"] == "ranker"
    assert "day" not in metadata


def test_kinds_that_are_not_known_are_left_out_and_told(tmp_path):
    arrays, _, notes = merged(
        tmp_path, ({"tables/t/count": np.ones(2), "tables/t/color": np.ones(2)}, {})
    )
    assert set(arrays) == {"tables/t/count"}
    assert notes == ("of kinds that are not known, left out: tables/t/color",)


def test_counts_beyond_float64_are_added_exactly(tmp_path):
    count = {"tables/t/count": np.array([2**53 + 1])}
    arrays, _, _ = merged(tmp_path, (count, {}), ({"tables/t/count": np.array([1])}, {}))
    assert arrays["tables/t/count"].tolist() == [2**53 + 2]


def test_a_mean_over_nothing_counts_nothing(tmp_path):
    one = {"tables/t/count": np.zeros(2, np.int64), "tables/t/mean": np.array([np.nan])}
    other = {"tables/t/count": np.ones(2, np.int64), "tables/t/mean": np.array([3.0])}
    arrays, _, _ = merged(tmp_path, (one, {}), (other, {}))
    assert arrays["tables/t/mean"].tolist() == [3.0]


# --- what doesn't fit ------------------------------------------------------------------------

COUNT = {"tables/t/count": np.arange(3)}


@pytest.mark.parametrize(
    ("one", "other", "words"),
    [
        (
            (COUNT, {}),
            ({"tables/t/count": np.arange(4)}, {}),
            r"rows of table 't' differs .*got 4, .*3",
        ),
        (
            ({"tables/t/mean": np.ones(3)}, {}),
            ({"tables/t/metric": np.ones((2, 2))}, {}),
            "dim of table 't' differs",
        ),
        (
            (COUNT, {"fields": '{"f": "t"}'}),
            (COUNT, {"fields": '{"f": "u"}'}),
            "the table of field 'f' differs .*got u, expected t",
        ),
        ((COUNT, {"loss": "binary"}), (COUNT, {"loss": "squared"}), "the loss differs"),
        (
            (COUNT, {"curvature": "gauss-newton"}),
            (COUNT, {"curvature": "empirical"}),
            "the curvature differs",
        ),
        (
            (COUNT, {"alpha_positive": "2"}),
            (COUNT, {"alpha_positive": "3.0"}),
            "alpha_positive differs",
        ),
    ],
    ids=["rows", "dim", "field", "loss", "curvature", "alpha"],
)
def test_files_that_dont_fit_are_refused_by_name(tmp_path, one, other, words):
    paths = [put(tmp_path / "one", *one), put(tmp_path / "other", *other)]
    with pytest.raises(StatsError, match=words) as caught:
        merge_stats(paths, tmp_path / "out")
    assert str(tmp_path / "one") in str(caught.value)
    assert str(tmp_path / "other") in str(caught.value)
    assert names(tmp_path) == ["one", "other"]


def test_numbers_that_are_written_otherwise_are_the_same(tmp_path):
    one, other = (COUNT, {"alpha_positive": "1"}), (COUNT, {"alpha_positive": "1.0"})
    assert float(merged(tmp_path, one, other)[1]["alpha_positive"]) == 1.0


def test_betas_may_differ_as_they_do_nothing_within_a_period(tmp_path):
    _, metadata, _ = merged(tmp_path, (COUNT, {"beta": "1.0"}), (COUNT, {"beta": "0.3"}))
    assert "beta" not in metadata


def test_a_curvature_that_a_file_doesnt_say_is_told(tmp_path):
    metric = {"tables/t/metric": np.ones((2, 2))}
    notes = merged(tmp_path, (metric, {"curvature": "gauss-newton"}), (metric, {}))[2]
    assert any("without its curvature, taken for gauss-newton" in note for note in notes)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"tables/t/count": np.array([0, -1])}, "tables/t/count: row 1 is -1"),
        ({"tables/t/count": np.array([0.0, np.nan])}, "row 1 is nan"),
        ({"tables/t/priority": np.array([np.inf], np.float32)}, "row 0 is inf"),
        ({"tables/t/count": np.array([2**64 - 1], np.uint64)}, "row 0 is"),
        ({"tables/t/count": np.ones((2, 2))}, "tables/t/count: wrong shape"),
        ({"tables/t/count": np.array(1.0)}, "tables/t/count: wrong shape"),
        ({"tables/t/count": np.array([True])}, "dtype bool"),
        ({"tables/t/metric": np.ones((2, 3))}, "wrong shape"),
        ({"tables/t/metric": np.full((2, 2), np.nan)}, "is nan"),
        ({"fields/f/score": np.ones(2)}, "fields/f/score: wrong shape"),
        ({"fields/f/score": np.array([np.nan])}, "fields/f/score: row 0 is nan"),
    ],
)
def test_values_that_stats_dont_have_leave_no_file(tmp_path, arrays, words):
    path = put(tmp_path / "one", arrays, {})
    with pytest.raises(StatsError, match=words):
        merge_stats([path], tmp_path / "out")
    assert names(tmp_path) == ["one"]


@pytest.mark.parametrize("text", ["many", "-5", "nan", "inf", "1e999", ""])
def test_totals_that_are_no_numbers_are_not_believed(tmp_path, text):
    _, metadata, _ = merged(tmp_path, (COUNT, {"samples": text, "uses": f'{{"t": "{text}"}}'}))
    assert "samples" not in metadata
    assert "uses" not in metadata


@pytest.mark.parametrize("uses", ["", "5", "[1]", '{"t": null}', '{"t": [1]}', "[" * 10_000, "{"])
def test_uses_that_are_no_numbers_are_not_believed(tmp_path, uses):
    assert "uses" not in merged(tmp_path, (COUNT, {"uses": uses}))[1]


def test_stats_of_another_version(tmp_path):
    with pytest.raises(StatsError, match=r"another version \(got 2, expected 1\)"):
        merged(tmp_path, (COUNT, {"version": "2"}))


def test_a_file_given_twice(tmp_path, three):
    (tmp_path / "link").symlink_to(three[0])
    with pytest.raises(StatsError, match="link: given twice"):
        merge_stats([three[0], tmp_path / "link"], tmp_path / "out")


def test_no_files(tmp_path):
    with pytest.raises(StatsError, match="no files"):
        merge_stats([], tmp_path / "out")


@pytest.mark.parametrize("decay", [0.0, -0.5, 1.5, np.nan])
def test_a_decay_is_a_share(tmp_path, three, decay):
    with pytest.raises(StatsError, match="decay is a share"):
        merge_stats(three, tmp_path / "out", decay)
