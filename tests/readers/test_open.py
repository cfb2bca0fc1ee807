"""What a path is taken for."""

import json
import os
import pickle
import shutil

import numpy as np
import pytest
import torch
from checkpoints import save
from strategies import random_rows

from sharkstore.errors import CheckpointError, CheckpointNotFoundError
from sharkstore.readers.open import Opening, open_checkpoint


def save_index(folder, *shards):
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": {f"w{i}": s for i, s in enumerate(shards)}}))
    return path


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt"])
def test_torch_files_are_known_by_their_ending(tmp_path, suffix):
    path = tmp_path / f"model{suffix}"
    torch.save({"w": torch.zeros(2, 2)}, path)
    assert list(open_checkpoint(path).tensors) == ["w"]


def test_a_safetensors_file_is_known_by_its_ending(tmp_path):
    path = save(tmp_path / "model.safetensors", {"w": random_rows(2, 2)})
    assert open_checkpoint(str(path)).name == "model.safetensors"


def test_numpy_files_and_archives_are_known_by_their_ending(tmp_path):
    np.save(tmp_path / "emb.npy", random_rows(2, 2))
    np.savez(tmp_path / "model.npz", w=random_rows(2, 2))
    assert list(open_checkpoint(tmp_path / "emb.npy").tensors) == ["emb"]
    assert list(open_checkpoint(tmp_path / "model.npz").tensors) == ["w"]


@pytest.mark.parametrize("scheme", ["file://", "local://"])
def test_a_url_of_a_local_file_is_its_path(tmp_path, scheme):
    path = save(tmp_path / "model.safetensors", {"w": random_rows(2, 2)})
    for place in (path, tmp_path):
        assert open_checkpoint(f"{scheme}{place}").stamp == open_checkpoint(path).stamp


def test_an_address_with_a_query_is_refused_without_telling_it():
    with pytest.raises(CheckpointError, match="download it first") as caught:
        open_checkpoint("https://host/model.safetensors?signature=secret")
    assert "secret" not in str(caught.value)


def test_an_opening_opens_the_same_checkpoint_in_another_process(tmp_path):
    path = save(tmp_path / "model.safetensors", {"w": random_rows(2, 2)})
    opening = pickle.loads(pickle.dumps(Opening(str(path))))
    assert opening == Opening(str(path))
    assert opening.open().stamp == open_checkpoint(path).stamp


def test_a_folder_with_metadata_is_a_distributed_checkpoint(tmp_path, distributed):
    folder = shutil.copytree(distributed / "dtensors", tmp_path / "step-100")
    assert "rows.weight" in open_checkpoint(folder).tensors
    save(folder / "model.safetensors", {"w": random_rows(2, 2)})
    assert open_checkpoint(f"{folder}/").name == "step-100"


def test_files_of_ranks_are_joined_by_their_naming(tmp_path):
    for rank in range(2):
        torch.save({"w": torch.full((2, 3), float(rank))}, tmp_path / f"model_rank_{rank}.pt")
    opening = Opening(str(tmp_path), "*_rank_{rank}.pt", ("w",))
    read = pickle.loads(pickle.dumps(opening)).open().read("w", 1, 3)
    np.testing.assert_array_equal(read, [[0] * 3, [1] * 3])


def test_files_of_ranks_ask_for_their_naming(tmp_path):
    for rank in range(2):
        torch.save({"w": torch.zeros(2, 2)}, tmp_path / f"model_rank_{rank}.pt")
    with pytest.raises(
        CheckpointError, match=r"several ranks.*--rank-files '\*_rank_\{rank\}\.pt'"
    ):
        open_checkpoint(tmp_path)


def test_a_naming_of_ranks_is_for_folders(tmp_path):
    path = save(tmp_path / "model.safetensors", {"w": random_rows(2, 2)})
    with pytest.raises(CheckpointError, match="looked for in a folder"):
        open_checkpoint(path, rank_files="*_rank_{rank}.pt")


def test_hidden_files_are_not_taken_for_checkpoints(tmp_path):
    save(tmp_path / "model.safetensors", {"w": random_rows(2, 2)})
    (tmp_path / "._model.safetensors").write_bytes(b"left there by another system")
    assert open_checkpoint(tmp_path).name == "model.safetensors"


def test_an_index_is_known_by_its_ending(tmp_path):
    save(tmp_path / "a.safetensors", {"w0": random_rows(2, 2)})
    found = open_checkpoint(save_index(tmp_path, "a.safetensors"))
    assert found.name == "model.safetensors.index.json"


def test_a_folder_with_one_safetensors_file_is_that_file(tmp_path):
    save(tmp_path / "model.safetensors", {"w": random_rows(2, 2)})
    (tmp_path / "config.json").write_text("{}")
    assert open_checkpoint(tmp_path).name == "model.safetensors"


def test_a_folder_with_an_index_is_the_sharded_checkpoint(tmp_path):
    save(tmp_path / "a.safetensors", {"w0": random_rows(2, 2)})
    save(tmp_path / "b.safetensors", {"w1": random_rows(2, 2)})
    save_index(tmp_path, "a.safetensors", "b.safetensors")
    assert list(open_checkpoint(tmp_path).tensors) == ["w0", "w1"]


def test_a_folder_whose_name_looks_like_a_pattern_is_opened(tmp_path):
    folder = tmp_path / "run[1]*"
    folder.mkdir()
    save(folder / "model.safetensors", {"w": random_rows(2, 2)})
    assert open_checkpoint(folder).name == "model.safetensors"


def test_a_folder_with_several_safetensors_files_asks_for_one(tmp_path):
    save(tmp_path / "a.safetensors", {"w": random_rows(2, 2)})
    save(tmp_path / "b.safetensors", {"w": random_rows(2, 2)})
    with pytest.raises(CheckpointError, match=r"a\.safetensors, b\.safetensors\): name one"):
        open_checkpoint(tmp_path)


def test_a_folder_without_safetensors_files_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="no safetensors file in this folder"):
        open_checkpoint(tmp_path)


def test_a_missing_path_is_not_found(tmp_path):
    with pytest.raises(CheckpointNotFoundError, match="gone: no such checkpoint"):
        open_checkpoint(tmp_path / "gone")


def test_an_unknown_ending_names_the_known_ones(tmp_path):
    path = tmp_path / "model.h5"
    path.write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"expected \.safetensors.*\.pt"):
        open_checkpoint(path)


def test_a_name_that_is_no_unicode_text_is_refused(tmp_path):
    save(tmp_path / "m.safetensors", {"w": random_rows(2, 2)})
    os.rename(tmp_path / "m.safetensors", os.fsencode(tmp_path) + b"/\xff.safetensors")
    with pytest.raises(CheckpointError, match="not Unicode text: rename it"):
        open_checkpoint(tmp_path)
