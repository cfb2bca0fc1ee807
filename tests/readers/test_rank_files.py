"""Folders of per-rank files: every layout joined, and what does not fit told by file and rows."""

import contextlib
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import random_rows

from sharkstore.errors import CheckpointError, CheckpointNotFoundError
from sharkstore.readers.rank_files import RankFiles
from sharkstore.readers.torch_file import TorchFile
from sharkstore.tensors import Tensor, as_float32

WHOLE = np.arange(88, dtype=np.float32).reshape(11, 8)
W = torch.from_numpy(random_rows(10, 4))
MODEL = "model_rank_{rank}.pt"
LAYOUTS = [
    *(f"sharded.{how}" for how in ("rows", "columns", "grid", "table", "several", "chunks")),
    *(f"d.{how}" for how in ("rows", "columns", "grid", "nested", "replicated_shards")),
    *(f"d.{how}" for how in ("replicated", "parameter", "wrapped")),
    "dense",
]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Files of four gloo processes."""
    folder = tmp_path_factory.mktemp("ranks")
    program = Path(__file__).with_name("save_ranks.py")
    subprocess.run([sys.executable, program, folder], check=True, timeout=120)
    (folder / "store").unlink()
    return folder


@pytest.fixture(scope="module")
def joined(saved):
    return RankFiles(str(saved), MODEL)


def save(folder, *states, name="m_rank_{}.pt"):
    for rank, state in enumerate(states):
        torch.save(state, folder / name.format(rank))
    return str(folder)


def whole(files, name):
    return files.read(name, 0, files.tensors[name].rows)


def copied(saved, folder):
    for path in saved.glob("model_rank_*.pt"):
        shutil.copy(path, folder)
    return folder


def refused(folder, match, *args, **options):
    with pytest.raises(CheckpointError, match=match) as caught:
        RankFiles(str(folder), *args, **options)
    assert str(folder) in str(caught.value)


# --- what ranks saved --------------------------------------------------------------------------


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_tensor_of_any_layout_is_whole(joined, name):
    assert joined.tensors[name] == Tensor(name, (11, 8), "float32")
    np.testing.assert_array_equal(whole(joined, name), WHOLE, strict=True)


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize(("start", "stop"), [(0, 1), (2, 7), (5, 6), (10, 11), (4, 4)])
def test_rows_of_any_layout_are_those_of_the_whole(joined, name, start, stop):
    np.testing.assert_array_equal(joined.read(name, start, stop), WHOLE[start:stop])


def test_a_table_that_one_rank_has_is_read_from_it(joined):
    for rank in range(4):
        np.testing.assert_array_equal(whole(joined, f"table.{rank}"), WHOLE + rank)


def test_ranks_without_rows_are_no_gap(joined):
    np.testing.assert_array_equal(whole(joined, "few"), WHOLE[:5])


def test_parts_in_bfloat16_are_read_as_their_bits(joined):
    np.testing.assert_array_equal(as_float32(joined.read("half", 3, 8), "bfloat16"), WHOLE[3:8])


def test_what_can_not_be_joined_is_left(joined):
    assert joined.left == {"sums": "a DTensor placed as Partial", "step": "a int, no tensor"}


def test_keys_come_in_the_order_of_the_state_dicts(joined):
    assert list(joined.tensors)[:3] == ["sharded.rows", "sharded.columns", "sharded.grid"]
    assert list(joined.tensors)[-2:] == ["table.2", "table.3"]


def test_one_rank_alone_says_which_rows_it_has(saved):
    file = TorchFile(str(saved / "model_rank_1.pt"))
    assert file.left["sharded.rows"].startswith("only rows 2 to 4 of a ShardedTensor of shape")
    assert file.left["d.rows"].startswith("only rows 3 to 5 of a DTensor of shape (11, 8); ")
    assert file.left["sharded.table"].startswith("only no rows of a ShardedTensor")
    assert "folder with the files of all ranks" in file.left["d.columns"]
    assert file.tensors["d.replicated"] == Tensor("d.replicated", (11, 8), "float32")


def test_no_torch_is_needed(saved):
    code = (
        "import sys; from sharkstore.readers.rank_files import RankFiles\n"
        f"assert RankFiles({str(saved)!r}, {MODEL!r}).read('d.grid', 1, 2)[0, 0] == 8\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_missing_rank_is_named(saved, tmp_path):
    (copied(saved, tmp_path) / "model_rank_2.pt").unlink()
    refused(tmp_path, r"file of rank 2 is missing .got 3 files, ranks 0 to 3, .*model_rank_2\.pt")


def test_the_rows_of_a_missing_last_rank_are_told(saved, tmp_path):
    (copied(saved, tmp_path) / "model_rank_3.pt").unlink()
    refused(tmp_path, "tensor 'sharded.rows': rows 6 to 10 are in no file")


def test_a_truncated_file_is_named_with_the_rows_lost(saved, tmp_path):
    path = copied(saved, tmp_path) / "model_rank_1.pt"
    path.write_bytes(path.read_bytes()[:5000])
    refused(
        tmp_path,
        r"model_rank_1\.pt: not a whole torch file: .*; without it "
        r"tensor 'sharded\.rows': rows 2 to 4 are in no file",
    )


def test_a_file_under_the_name_of_another_rank_leaves_a_gap(saved, tmp_path):
    folder = copied(saved, tmp_path)
    shutil.copy(folder / "model_rank_0.pt", folder / "model_rank_1.pt")
    refused(tmp_path, "tensor 'sharded.rows': rows 2 to 4 are in no file")


def test_parts_that_overlap_are_named_with_their_rows(saved):
    refused(
        saved, r"rows 3 to 5 are both in .*_rank_0\.pt and .*_rank_1\.pt", "mixed_rank_{rank}.pt"
    )


def test_a_hostile_file_is_refused_and_not_run(saved, tmp_path):
    marker = tmp_path / "pwned"

    class Runs:
        def __reduce__(self):
            return eval, (f"open({str(marker)!r}, 'w')",)

    torch.save({"w": W, "evil": Runs()}, copied(saved, tmp_path) / "model_rank_2.pt")
    refused(tmp_path, r"model_rank_2\.pt: a pickle that is not only weights; it was not run")
    assert not marker.exists()


@given(st.data())
def test_states_with_bytes_changed_fail_by_the_one_error(saved, data):
    raw = bytearray((saved / "model_rank_1.pt").read_bytes())
    first, last = raw.index(b"\x80\x02}"), raw.index(b".format_version")
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(first, last))] = data.draw(st.integers(0, 255))
    path = saved / "changed.pt"
    path.write_bytes(raw)
    with contextlib.suppress(CheckpointError):
        file = TorchFile(str(path))
        for name, tensor in file.tensors.items():
            file.read(name, 0, min(tensor.rows, 100))


# --- plain tensors -----------------------------------------------------------------------------


def test_rows_named_as_sharded_are_joined_in_order_of_rank(tmp_path):
    states = [{"emb.w": W[a:b].clone(), "b": W} for a, b in ((0, 3), (3, 3), (3, 10))]
    files = RankFiles(save(tmp_path, *states), sharded=["emb.*"])
    assert files.tensors["emb.w"].shape == (10, 4)
    np.testing.assert_array_equal(whole(files, "emb.w"), W.numpy())
    np.testing.assert_array_equal(files.read("emb.w", 2, 5), W[2:5].numpy())


def test_ten_ranks_are_in_the_order_of_their_numbers(tmp_path):
    states = [{"w": torch.full((1, 2), float(rank))} for rank in range(12)]
    files = RankFiles(save(tmp_path, *states), sharded=["w"])
    assert whole(files, "w")[:, 0].tolist() == list(range(12))


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("ckpt-{:05}.bin", "ckpt-{rank}.bin"),
        ("a_rank_{}_b.pt", "a_rank_{rank}_*"),
        ("12{}.pt", "12{rank}.pt"),
        ("model+[x]{}.pt", "model+[x]{rank}.pt"),
        ("m_rank_{}.pt", "*_rank_{rank}.pt"),
    ],
)
def test_files_are_found_by_the_pattern(tmp_path, name, pattern):
    states = [{f"w{rank}": W + rank} for rank in range(3)]
    (tmp_path / "other.txt").write_text("")
    files = RankFiles(save(tmp_path, *states, name=name), pattern)
    assert list(files.tensors) == ["w0", "w1", "w2"]
    np.testing.assert_array_equal(whole(files, "w2"), W.numpy() + 2)


def test_a_missing_file_is_named_as_its_neighbours_are(tmp_path):
    save(tmp_path, {"a": W}, {"a": W}, name="m_rank_{:03}.pt")
    (tmp_path / "m_rank_000.pt").unlink()
    refused(tmp_path, r"rank 0 is missing .got 1 files, ranks 1 to 1, expected m_rank_000\.pt")


@pytest.mark.parametrize("pattern", ["model.pt", "{rank}_{rank}.pt", "a/{rank}.pt"])
def test_a_pattern_without_one_rank_is_refused(tmp_path, pattern):
    refused(save(tmp_path, {"w": W}), "not a pattern of file names", pattern)


def test_a_pattern_that_fits_no_file_is_refused(tmp_path):
    refused(save(tmp_path, {"w": W}), r"no file here is named so .expected x_\{rank\}", "x_{rank}")


def test_a_folder_that_is_not_there_is_not_found(tmp_path):
    with pytest.raises(CheckpointNotFoundError, match="gone"):
        RankFiles(str(tmp_path / "gone"))


def test_two_files_of_one_rank_are_refused(tmp_path):
    save(tmp_path, {"w": W})
    save(tmp_path, {"w": W}, name="n_rank_{}.pt")
    refused(tmp_path, r"m_rank_0\.pt and n_rank_0\.pt are both of rank 0; give a closer pattern")


@pytest.mark.parametrize("row", [0, 7, 299_999])
def test_tensors_that_should_be_the_same_are_compared_to_the_last_row(tmp_path, row):
    value, other = torch.zeros(300_000, 2), torch.zeros(300_000, 2)
    other[row, 1] = 1
    folder = save(tmp_path, {"b": value}, {"b": value}, {"b": other})
    refused(
        folder, rf"'b' differs in m_rank_0\.pt and m_rank_2\.pt, first in row {row}; .*--sharded"
    )


def test_tensors_that_are_the_same_are_one_whatever_their_layout(tmp_path):
    odd = torch.full((3, 2), float("nan"))
    scalar, empty = torch.tensor(1.5), torch.zeros(0, 3)
    state = {"n": odd, "t": W.t(), "s": scalar, "e": empty}
    files = RankFiles(save(tmp_path, state, {**state, "t": W.t().contiguous()}))
    assert list(files.tensors) == ["n", "t", "s", "e"]
    assert whole(files, "s") == 1.5
    np.testing.assert_array_equal(whole(files, "t"), W.t().numpy())


@pytest.mark.parametrize("other", [W[:5].clone(), W.double()], ids=["shape", "dtype"])
def test_tensors_of_other_shape_or_dtype_are_told(tmp_path, other):
    told = f"{str(other.dtype)[6:]} of shape \\({len(other)}, 4\\) in m_rank_1"
    folder = save(tmp_path, {"w": W}, {"w": other})
    refused(folder, rf"'w' is float32 of shape \(10, 4\) in m_rank_0\.pt and {told}.*--sharded")


@pytest.mark.parametrize(
    "other", [W[:, :2].clone(), W.double(), torch.tensor(1.0)], ids=["columns", "dtype", "scalar"]
)
def test_rows_that_can_not_be_joined_are_told(tmp_path, other):
    folder = save(tmp_path, {"w": W}, {"w": other})
    refused(folder, r"'w' is .* in m_rank_0\.pt and .* in m_rank_1\.pt; .*joined", sharded=["w"])


def test_a_glob_that_names_no_tensor_is_refused(tmp_path):
    folder = save(tmp_path, {"w": W, "n": 1})
    refused(folder, r"no tensor is named like 'emb\*'", sharded=["w", "emb*"])


def test_what_is_a_tensor_in_some_files_only_is_left(tmp_path):
    files = RankFiles(save(tmp_path, {"w": W, "x": W}, {"w": W, "x": None}))
    assert files.left == {"x": "a tensor in other files, and in m_rank_1.pt a NoneType, no tensor"}


def test_a_change_of_a_file_or_of_what_is_sharded_changes_the_stamp(tmp_path):
    folder = save(tmp_path, {"w": W}, {"v": W})
    before = RankFiles(folder).stamp
    assert before == RankFiles(folder).stamp
    assert before != RankFiles(folder, sharded=["w"]).stamp
    torch.save({"v": W, "more": W}, tmp_path / "m_rank_1.pt")
    assert before != RankFiles(folder).stamp
    assert RankFiles(folder).name == tmp_path.name
