"""Counting logs: every kind of column, nulls, bounds, periods; and logs that are none."""

import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from checkpoints import ITEM, USER, model, names, save
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from sharkstore.errors import CheckpointNotFoundError, StatsError
from sharkstore.stats import logs as logs_module
from sharkstore.stats.count import count_logs
from sharkstore.stats.file import open_stats
from sharkstore.stats.rows import Weights

FIELDS = {"user": "u"}


def log(path, **columns):
    parquet.write_table(pa.table(columns), path, row_group_size=3)
    return path


def counted(tmp_path, columns, fields=FIELDS, **options):
    path = log(tmp_path / "log.parquet", **columns)
    done = count_logs([path], fields, tmp_path / "out", **options)
    return done, {key: a.tolist() for key, a in open_stats(tmp_path / "out").arrays.items()}


def refused(tmp_path, words, columns, fields=FIELDS, **options):
    path = log(tmp_path / "log.parquet", **columns)
    with pytest.raises(StatsError, match=words) as caught:
        count_logs([path], fields, tmp_path / "out", **options)
    assert names(tmp_path) == ["log.parquet"]
    return str(caught.value)


def test_uses_positives_and_priorities_are_counted(tmp_path):
    columns = {"user": [2, 0, 2, 2], "click": [True, False, False, True]}
    weights = Weights(2.0, 0.5)
    done, arrays = counted(tmp_path, columns, label="click", rows={"u": 5}, weights=weights)
    assert arrays == {
        "tables/u/count": [1, 0, 3, 0, 0],
        "tables/u/positive": [0, 0, 2, 0, 0],
        "tables/u/priority": [0.5, 0, 4.5, 0, 0],
    }
    assert (done.samples, done.fields["user"].uses, done.tables["u"].used) == (4, 4, 2)
    assert done.notes == ()


def test_the_metadata_says_how_it_was_counted(tmp_path):
    counted(tmp_path, {"user": [0], "click": [1]}, label="click", weights=Weights(2, 1, 1))
    metadata = open_stats(tmp_path / "out").metadata
    assert json.loads(metadata["fields"]) == FIELDS
    assert {name: text for name, text in metadata.items() if name != "fields"} == {
        "version": "1",
        "samples": "1",
        "labelled": "1",
        "alpha_positive": "2.0",
        "alpha_negative": "1.0",
        "beta": "1.0",
    }


def test_without_labels_there_are_counts_alone(tmp_path):
    _, arrays = counted(tmp_path, {"user": [1, 1]})
    assert arrays == {"tables/u/count": [0, 2]}
    assert set(open_stats(tmp_path / "out").metadata) == {"version", "fields", "samples"}


@pytest.mark.parametrize(
    "kind",
    [
        pa.int8(),
        pa.uint8(),
        pa.int16(),
        pa.uint16(),
        pa.int32(),
        pa.uint32(),
        pa.int64(),
        pa.uint64(),
    ],
    ids=str,
)
def test_ids_of_every_width(tmp_path, kind):
    ids = pa.array([3, None, 100], kind)
    done, arrays = counted(tmp_path, {"user": ids}, rows={"u": 101})
    assert np.flatnonzero(arrays["tables/u/count"]).tolist() == [3, 100]
    assert done.fields["user"].nulls == 1


BAGS = [[1, 2, 1], None, [], [3, None], [1], [0, 0]]


@pytest.mark.parametrize("kind", [pa.list_(pa.int32()), pa.large_list(pa.int64())], ids=str)
def test_every_id_of_a_bag_is_a_use_with_the_label_of_its_sample(tmp_path, kind):
    columns = {"user": pa.array(BAGS, kind), "y": [1, 1, 1, 0, 1, 0]}
    done, arrays = counted(tmp_path, columns, label="y")
    assert arrays["tables/u/count"] == [2, 3, 1, 1]
    assert arrays["tables/u/positive"] == [0, 3, 1, 0]
    assert (done.samples, done.fields["user"].uses, done.fields["user"].nulls) == (6, 7, 1)


def test_bags_of_fixed_size(tmp_path):
    bags = pa.array([[1, 2], None, [2, None], [0, 0]], pa.list_(pa.int16(), 2))
    done, arrays = counted(tmp_path, {"user": bags, "y": [1, 0, 1, 0]}, label="y")
    assert arrays["tables/u/count"] == [2, 1, 2]
    assert arrays["tables/u/positive"] == [0, 1, 2]
    assert done.fields["user"].nulls == 1


def test_keys_of_a_dictionary_stand_for_its_values(tmp_path):
    ids = pa.array([7, 5, None, 7]).dictionary_encode()
    _, arrays = counted(tmp_path, {"user": ids}, rows={"u": 8})
    assert arrays["tables/u/count"] == [0, 0, 0, 0, 0, 1, 0, 2]


@pytest.mark.parametrize(
    "labels",
    [
        pa.array([True, False, None]),
        pa.array([1, 0, None], pa.int8()),
        pa.array([0.51, 0.5, None]),
        pa.array([3.0, np.nan, -1.0], pa.float32()),
        pa.array(np.array([1, 0.5, np.nan], np.float16)),
        pa.array([2**64 - 1, 0, None], pa.uint64()).dictionary_encode(),
    ],
    ids=["bool", "int8", "double", "nan", "half", "dictionary"],
)
def test_a_label_is_positive_above_a_half_and_not_if_it_is_null(tmp_path, labels):
    done, arrays = counted(tmp_path, {"user": [0, 1, 2], "y": labels}, label="y")
    assert arrays["tables/u/positive"] == [1, 0, 0]
    assert done.notes[0] == "column y: 1 nulls taken as not positive"


@given(
    st.lists(
        st.tuples(st.none() | st.lists(st.none() | st.integers(0, 9), max_size=4), st.booleans()),
        max_size=12,
    ),
    st.integers(1, 5),
)
def test_batches_make_no_difference(tmp_path_factory, rows, size):
    folder = tmp_path_factory.mktemp("c")
    bags, labels = [bag for bag, _ in rows], [label for _, label in rows]
    columns = {"user": pa.array(bags, pa.list_(pa.int64())), "y": pa.array(labels, pa.bool_())}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logs_module, "ROWS", size)
        _, arrays = counted(folder, columns, label="y", rows={"u": 10})
    count, positive = [0] * 10, [0] * 10
    for bag, label in rows:
        for row in bag or ():
            if row is not None:
                count[row] += 1
                positive[row] += label
    assert (arrays["tables/u/count"], arrays["tables/u/positive"]) == (count, positive)


def test_fields_may_share_a_table(tmp_path):
    columns = {"user": [0, 1], "friends": pa.array([[1, 1], [0]]), "item": [2, 2]}
    fields = {"user": "u", "friends": "u", "item": "i"}
    done, arrays = counted(tmp_path, columns, fields)
    assert arrays == {"tables/u/count": [2, 3], "tables/i/count": [0, 0, 2]}
    assert {name: one.uses for name, one in done.fields.items()} == {
        "user": 2,
        "friends": 3,
        "item": 2,
    }


def test_several_logs_are_one_period_unless_told(tmp_path):
    days = [
        log(tmp_path / name, user=ids, y=[1] * len(ids))
        for name, ids in (("a", [0, 0]), ("b", [1]))
    ]
    for periods, expected in ((False, [2.0, 1.0]), (True, [1.5, 0.25])):
        weights = Weights(beta=0.25)
        count_logs(days, FIELDS, tmp_path / "out", "y", weights=weights, periods=periods)
        arrays = open_stats(tmp_path / "out").arrays
        assert arrays["tables/u/priority"].tolist() == expected
        assert arrays["tables/u/count"].tolist() == [2, 1]


def test_periods_without_labels_have_priorities(tmp_path):
    days = [log(tmp_path / name, user=ids) for name, ids in (("a", [0, 0]), ("b", [1]))]
    count_logs(days, FIELDS, tmp_path / "out", weights=Weights(beta=0.5), periods=True)
    arrays = open_stats(tmp_path / "out").arrays
    assert arrays["tables/u/priority"].tolist() == [1.0, 0.5]
    assert "tables/u/positive" not in arrays


def test_a_log_without_rows_is_no_harm(tmp_path):
    _, arrays = counted(tmp_path, {"user": pa.array([], pa.int64())}, rows={"u": 2})
    assert arrays == {"tables/u/count": [0, 0]}


def test_columns_with_dots_in_their_names(tmp_path):
    _, arrays = counted(tmp_path, {"ctx.user": [1], "ctx": [5]}, {"ctx.user": "u"})
    assert arrays["tables/u/count"] == [0, 1]


def test_progress_is_told_in_rows_then_bytes(tmp_path):
    told = []
    days = [log(tmp_path / name, user=[1] * 5) for name in "ab"]
    count_logs(days, FIELDS, tmp_path / "out", progress=lambda *one: told.append(one))
    assert sum(done for stage, done, total in told if stage == "count" and total == 10) == 10
    assert told[-1] == ("write", 16, 16)


# --- lengths and bounds ----------------------------------------------------------------------


def test_lengths_come_from_the_checkpoint(tmp_path):
    source = save(tmp_path / "m.safetensors", model())
    done, arrays = counted(tmp_path, {"user": [3]}, {"user": USER}, checkpoint=source)
    assert len(arrays[f"tables/{USER}/count"]) == 1000
    assert done.notes == ()


def test_without_lengths_the_largest_id_is_the_last_row_and_told(tmp_path):
    done, arrays = counted(tmp_path, {"user": [3, 1]})
    assert arrays["tables/u/count"] == [0, 1, 0, 1]
    assert done.notes[-1].startswith("u: as long as their largest ids say")


def test_lengths_that_contradict(tmp_path):
    source = save(tmp_path / "m.safetensors", model())
    path = log(tmp_path / "log.parquet", user=[1])
    with pytest.raises(StatsError, match=r"rows of table .*got 5, expected 1000"):
        count_logs([path], {"user": USER}, tmp_path / "out", rows={USER: 5}, checkpoint=source)


def test_a_table_that_the_checkpoint_lacks(tmp_path):
    source = save(tmp_path / "m.safetensors", model())
    path = log(tmp_path / "log.parquet", user=[1])
    for table, near in (("emb.usr.weight", USER), ("mlp.bias", ITEM)):
        with pytest.raises(StatsError, match=f"no table '{table}' in it; tables are .*{near}"):
            count_logs([path], {"user": table}, tmp_path / "out", checkpoint=source)


def test_a_checkpoint_that_is_not_there(tmp_path):
    path = log(tmp_path / "log.parquet", user=[1])
    with pytest.raises(CheckpointNotFoundError):
        count_logs([path], FIELDS, tmp_path / "out", checkpoint=tmp_path / "gone.safetensors")


@pytest.mark.parametrize(
    ("ids", "row", "bad"),
    [
        ([0, 4, 5], 2, 5),
        ([0, 0, 0, 0, -1], 4, -1),
        (pa.array([2**64 - 1], pa.uint64()), 0, 2**64 - 1),
    ],
)
def test_ids_outside_the_table_name_file_column_and_row(tmp_path, ids, row, bad):
    words = rf"log.parquet: column 'user', row {row}: an id .*'u' \(got {bad}, expected 0 to 4\)"
    assert "--bounds skip" in refused(tmp_path, words, {"user": ids}, rows={"u": 5})


def test_rows_are_numbered_across_batches_and_bags(tmp_path, monkeypatch):
    monkeypatch.setattr(logs_module, "ROWS", 2)
    bags = pa.array([[1], [], [], [2, 2], [0, 9]])
    refused(tmp_path, r"row 4: an id outside table 'u' \(got 9", {"user": bags}, rows={"u": 5})


def test_negative_ids_are_no_ids_whatever_the_length(tmp_path):
    refused(tmp_path, r"got -1, expected 0 to 4294967294", {"user": pa.array([-1], pa.int8())})


def test_hashes_are_no_row_ids(tmp_path):
    refused(tmp_path, "an id outside table 'u'", {"user": [2**40]})


def test_ids_outside_may_be_left_out_and_are_counted(tmp_path):
    columns = {"user": pa.array([[0, 7], [-1], [4]]), "y": [1, 1, 0]}
    done, arrays = counted(tmp_path, columns, label="y", rows={"u": 5}, bounds="skip")
    assert arrays["tables/u/count"] == [1, 0, 0, 0, 1]
    assert arrays["tables/u/positive"] == [1, 0, 0, 0, 0]
    assert done.fields["user"].outside == 2
    assert done.notes == ("column user: 2 ids outside u left out",)


def test_a_table_of_which_nothing_is_known(tmp_path):
    words = "no id of table 'u' in the logs; --rows or --checkpoint says how long it is"
    refused(tmp_path, words, {"user": pa.array([None], pa.int64())})


@pytest.mark.parametrize("rows", [{"u": 0}, {"u": -5}, {"u": 2**32}, {"other": 5}])
def test_lengths_that_make_no_sense(tmp_path, rows):
    refused(tmp_path, "rows of table", {"user": [0]}, rows=rows)


# --- logs that are none ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "ids",
    [
        pa.array([1.0]),
        pa.array(["1"]),
        pa.array([True]),
        pa.array([None]),
        pa.array([{"x": 1}]),
        pa.array([[1.5]]),
        pa.array([[[1]]]),
        pa.array(["1"]).dictionary_encode(),
    ],
    ids=lambda ids: str(ids.type).split("\n")[0],
)
def test_columns_that_have_no_ids(tmp_path, ids):
    words = "log.parquet: column 'user': no ids .*expected integers, or lists of them"
    refused(tmp_path, words, {"user": ids})


@pytest.mark.parametrize("labels", [pa.array(["1"]), pa.array([[1]]), pa.array([None])], ids=str)
def test_columns_that_have_no_labels(tmp_path, labels):
    refused(tmp_path, "column 'y': no labels", {"user": [1], "y": labels}, label="y")


def test_a_label_that_is_never_positive_is_told(tmp_path):
    done, _ = counted(tmp_path, {"user": [0], "y": [0.4]}, label="y", rows={"u": 1})
    assert done.notes == ("column y: nothing is positive, no label is above 0.5",)


def test_a_column_that_is_missing_says_what_is_near(tmp_path):
    refused(tmp_path, "no column 'user'; columns are users", {"users": [1], "z": [1]})
    refused(tmp_path, "no column 'click'", {"user": [1]}, label="click")


def test_a_column_that_is_there_twice(tmp_path):
    table = pa.table([[1], [2]], names=["user", "user"])
    parquet.write_table(table, tmp_path / "log.parquet")
    with pytest.raises(StatsError, match="2 columns are named 'user'"):
        count_logs([tmp_path / "log.parquet"], FIELDS, tmp_path / "out")


def test_all_logs_are_looked_at_before_the_first_is_counted(tmp_path):
    first = log(tmp_path / "a", user=[0])
    other = log(tmp_path / "b", item=[0])
    told = []
    with pytest.raises(StatsError, match="b: no column 'user'"):
        count_logs([first, other], FIELDS, tmp_path / "out", progress=lambda *one: told.append(one))
    assert told == []


def test_places_without_logs(tmp_path):
    (tmp_path / "text").write_text("user\n1\n")
    for place, words in (("gone", "no such log"), ("text", "not a Parquet file"), ("", "a folder")):
        with pytest.raises(StatsError, match=words):
            count_logs([tmp_path / place], FIELDS, tmp_path / "out")


def test_no_fields(tmp_path):
    refused(tmp_path, "no fields", {"user": [0]}, {})


def test_a_log_given_twice(tmp_path):
    path = log(tmp_path / "a", user=[0])
    with pytest.raises(StatsError, match="given twice"):
        count_logs([path, path], FIELDS, tmp_path / "out")


def test_bytes_that_are_damaged_are_a_clear_error_or_other_counts(tmp_path):
    bags = pa.array([[1, 2], None, [3]] * 15)
    path = log(tmp_path / "log.parquet", user=bags, y=[1, 0, None] * 15)
    sound, rng = path.read_bytes(), np.random.default_rng(0)
    errors = 0
    for _ in range(400):
        damaged = bytearray(sound)
        damaged[rng.integers(len(sound))] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            count_logs([path], FIELDS, tmp_path / "out", "y", {"u": 50}, bounds="skip")
        except StatsError:
            errors += 1
    assert 0 < errors < 400
    assert names(tmp_path) in (["log.parquet"], ["log.parquet", "out"])


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_log_cut_short(tmp_path, share):
    path = log(tmp_path / "log.parquet", user=list(range(50)))
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * share)])
    with pytest.raises(StatsError, match=r"log\.parquet: not a Parquet file"):
        count_logs([path], FIELDS, tmp_path / "out")


def test_without_pyarrow_the_remedy_is_told(tmp_path):
    path = log(tmp_path / "log.parquet", user=[0])
    code = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "from sharkstore.stats.count import count_logs\n"
        f"try:\n count_logs([{str(path)!r}], {{'user': 'u'}}, 'out')\n"
        "except ValueError as error:\n print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert "pyarrow is needed to read logs; pip install 'sharkstore[parquet]'" in done.stdout


def test_neither_pyarrow_nor_torch_is_imported_before_it_is_needed(tmp_path):
    code = (
        "import sys, pkgutil, importlib, sharkstore.cli.main, sharkstore.stats\n"
        "for one in pkgutil.iter_modules(sharkstore.stats.__path__, 'sharkstore.stats.'):\n"
        " importlib.import_module(one.name)\n"
        "print([name for name in ('torch', 'pyarrow', 'pandas') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout.strip() == "[]"
