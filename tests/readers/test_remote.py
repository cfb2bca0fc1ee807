"""Checkpoints behind URLs: a real S3 server on loopback, and fsspec's other file systems."""

import json
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import fsspec
import numpy as np
import pytest
import s3fs
import torch
from checkpoints import model, save, with_header
from s3server import KEY, SECRET, Relay, S3Server
from strategies import random_rows

import sharkstore.readers.remote as remote_module
from sharkstore.errors import CheckpointError, CheckpointNotFoundError
from sharkstore.readers.files import open_files
from sharkstore.readers.open import Opening, open_checkpoint


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("s3")
    (folder / "buckets").mkdir()
    server = S3Server(folder / "buckets", folder / "log")
    server.folder = folder / "buckets"
    s3fs.S3FileSystem.clear_instance_cache()
    yield server
    s3fs.S3FileSystem.clear_instance_cache()
    server.close()


@pytest.fixture
def s3(server, monkeypatch):
    """The server is where AWS is said to be."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    return server


@pytest.fixture
def relay(s3, monkeypatch):
    """Between the server and this test."""
    s3fs.S3FileSystem.clear_instance_cache()
    relay = Relay(s3.port)
    monkeypatch.setenv("AWS_ENDPOINT_URL", relay.url)
    yield relay
    relay.close()
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def bucket(s3):
    """A new bucket: the folder that the server makes it of."""
    folder = s3.folder / f"bucket-{len(os.listdir(s3.folder))}"
    folder.mkdir()
    return folder


@pytest.fixture
def memory():
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


def url(path):
    """Of a file or folder in a bucket."""
    return f"s3://{path.parent.name}/{path.name}"


def assert_holds(checkpoint, tensors):
    assert sorted(checkpoint.tensors) == sorted(tensors)
    for name, values in tensors.items():
        rows = checkpoint.tensors[name].rows
        np.testing.assert_array_equal(checkpoint.read(name, 0, rows), values)
        for start, stop in ((rows // 3, rows // 2), (rows, rows)) if values.shape else ():
            np.testing.assert_array_equal(checkpoint.read(name, start, stop), values[start:stop])


def save_sharded(folder, tensors):
    index = {name: f"{place}.safetensors" for place, name in enumerate(tensors)}
    for name, file in index.items():
        save(folder / file, {name: tensors[name]})
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": index}))
    return path


def test_a_safetensors_file_is_read_from_s3(bucket):
    path = save(bucket / "model.safetensors", model(), {"format": "pt"})
    found = open_checkpoint(url(path))
    assert (found.name, found.metadata) == ("model.safetensors", {"format": "pt"})
    assert_holds(found, model())


def test_a_sharded_checkpoint_is_read_from_s3(bucket):
    path = save_sharded(bucket, model())
    found = open_checkpoint(url(path))
    assert found.name == "model.safetensors.index.json"
    assert_holds(found, model())


@pytest.mark.parametrize("ending", ["", "/"])
def test_a_folder_in_s3_is_opened_by_what_is_in_it(bucket, ending):
    folder = bucket / "step-100"
    (folder / "optimizer").mkdir(parents=True)
    save(folder / "optimizer" / "state.safetensors", {"m": random_rows(1, 1)})
    save_sharded(folder, model())
    assert_holds(open_checkpoint(url(folder) + ending), model())


def test_numpy_archives_are_read_from_s3(bucket):
    np.savez(bucket / "model.npz", **model())
    assert_holds(open_checkpoint(url(bucket / "model.npz")), model())


@pytest.mark.parametrize("order", ["C", "F"])
def test_numpy_files_are_read_from_s3(bucket, order):
    values = np.asarray(random_rows(900, 7), order=order)
    np.save(bucket / "emb.npy", values)
    assert_holds(open_checkpoint(url(bucket / "emb.npy")), {"emb": values})


def test_torch_files_are_read_from_s3(bucket):
    torch.save({name: torch.from_numpy(one) for name, one in model().items()}, bucket / "model.pt")
    found = open_checkpoint(url(bucket / "model.pt"))
    assert found.name == "model.pt"
    assert_holds(found, model())


def test_files_of_ranks_are_read_from_s3(bucket):
    whole = random_rows(10, 4)
    for rank in range(2):
        state = {"w": torch.from_numpy(whole[5 * rank : 5 * rank + 5]), "step": torch.tensor(3)}
        torch.save(state, bucket / f"m_rank_{rank}.pt")
    opening = Opening(f"s3://{bucket.name}", "*_rank_{rank}.pt", ("w",))
    found = pickle.loads(pickle.dumps(opening)).open()
    assert_holds(found, {"w": whole, "step": np.asarray(3)})
    assert found.name == bucket.name


@pytest.mark.parametrize("ending", ["", "/"])
def test_a_distributed_checkpoint_is_read_from_s3(distributed, bucket, ending):
    here = distributed / "dtensors"
    shutil.copytree(here, bucket / "step-100")
    found, local = open_checkpoint(url(bucket / "step-100") + ending), open_checkpoint(here)
    assert found.name == "step-100"
    assert found.tensors == local.tensors
    for name, tensor in local.tensors.items():
        for start, stop in ((0, tensor.rows), (tensor.rows // 3, tensor.rows // 2)):
            rows = found.read(name, start, stop)
            np.testing.assert_array_equal(rows, local.read(name, start, stop))


def test_ten_rows_of_a_large_file_move_little(bucket, relay):
    path = bucket / "emb.npy"
    values = np.lib.format.open_memmap(path, "w+", np.float32, (200_000, 64))
    values[-10:] = random_rows(10, 64)
    values.flush()
    rows = open_checkpoint(url(path)).read("emb", 199_990, 200_000)
    np.testing.assert_array_equal(rows, values[-10:])
    assert path.stat().st_size > 50_000_000
    assert 10 * 64 * 4 < relay.received < 2_000_000


def test_bytes_that_were_read_are_not_asked_for_again(bucket, relay):
    raw = os.urandom(3 << 20)
    (bucket / "a").write_bytes(raw)
    file = open_files(f"s3://{bucket.name}").open("a")
    for start in range(0, 1 << 20, 4096):
        assert file.read(start, start + 4096).tobytes() == raw[start : start + 4096]
    assert 1 << 20 < relay.received < (1 << 20) + 20_000


def test_large_and_odd_ranges_are_those_of_the_file(bucket):
    raw = os.urandom(3 << 20)
    (bucket / "a").write_bytes(raw)
    file = open_files(f"s3://{bucket.name}").open("a")
    block = remote_module.BLOCK_BYTES
    size = len(raw)
    for start, stop in (
        *((0, 0), (0, 1), (5, block), (block - 1, block + 1), (block, 2 * block)),
        *((1, size), (size - 1, size), (size, size), (3, 3 + 2 * block)),
    ):
        assert file.read(start, stop).tobytes() == raw[start:stop]
    assert file.size == size


def test_threads_read_the_files_of_a_folder_together(bucket, monkeypatch):
    monkeypatch.setattr(remote_module, "MOST_BLOCKS", 3)
    monkeypatch.setattr(remote_module, "BLOCK_BYTES", 1000)
    monkeypatch.setattr(remote_module, "MOST_OPEN", 2)
    raw = {name: os.urandom(5000) for name in "abcdef"}
    for name, values in raw.items():
        (bucket / name).write_bytes(values)
    files = open_files(f"s3://{bucket.name}")

    def read(seed):
        rng = np.random.default_rng(seed)
        name = "abcdef"[rng.integers(6)]
        start, stop = sorted(int(one) for one in rng.integers(0, 5001, 2))
        return files.open(name).read(start, stop).tobytes() == raw[name][start:stop]

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(read, range(60)))
    assert files.block.cache_info().currsize <= 3
    assert len(files._open) <= 2


def test_threads_that_read_one_file_do_not_disturb_each_other(bucket, monkeypatch):
    monkeypatch.setattr(remote_module, "BLOCK_BYTES", 8)
    raw = np.arange(4000, dtype=np.uint32)
    (bucket / "a").write_bytes(raw.tobytes())
    file = open_files(f"s3://{bucket.name}").open("a")
    assert file.read(0, 8).size == 8
    seek = file._handle.seek

    def seek_slowly(start):
        seek(start)
        time.sleep(0.002)

    monkeypatch.setattr(file._handle, "seek", seek_slowly)

    def read(start):
        return file.read(4 * start, 4 * start + 40).view(np.uint32)[0] == start

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(read, range(0, 3900, 100)))


def test_many_files_are_looked_up_by_one_listing(bucket, relay):
    for place in range(100):
        (bucket / f"{place:03}").write_text("1")
    files = open_files(f"s3://{bucket.name}")
    assert {files.open(f"{place:03}").size for place in range(100)} == {1}
    stamps = [files.stamp(f"{place:03}") for place in range(100)]
    alone = open_files(f"s3://{bucket.name}").stamp("050")
    assert stamps == [alone] * 100
    assert relay.requests < 20
    with pytest.raises(CheckpointNotFoundError):
        files.open("gone")


def test_names_are_those_of_files_in_order(bucket):
    for name in ("b", "a", ".metadata"):
        (bucket / name).write_text("1")
    (bucket / "folder").mkdir()
    (bucket / "folder" / "c").write_text("1")
    files = open_files(f"s3://{bucket.name}")
    assert files.names() == [".metadata", "a", "b"]
    assert open_files(f"s3://{bucket.name}/gone").names() == []
    assert open_files(f"s3://{bucket.name}/a").names() == []


@pytest.mark.parametrize("listed", [False, True], ids=["asked", "listed"])
def test_a_changed_file_has_another_stamp(bucket, listed):
    def stamp():
        files = open_files(f"s3://{bucket.name}")
        assert not listed or files.names() == ["a"]
        return files.stamp("a")

    (bucket / "a").write_text("1")
    before = stamp()
    assert stamp() == before
    (bucket / "a").write_text("2")
    assert stamp() != before


def test_a_stamp_is_the_same_whether_listed_asked_for_or_opened(bucket):
    (bucket / "a").write_text("1")
    asked, listed, opened = (open_files(f"s3://{bucket.name}") for _ in range(3))
    listed.names()
    opened.open("a")
    assert asked.stamp("a") == listed.stamp("a") == opened.stamp("a")


def test_a_file_that_changes_while_it_is_read_is_an_error(bucket):
    path = bucket / "emb.npy"
    np.save(path, random_rows(100_000, 8, seed=1))
    found = open_checkpoint(url(path))
    found.read("emb", 0, 10)
    np.save(path, random_rows(100_000, 8, seed=2))
    with pytest.raises(CheckpointError, match=rf"{url(path)}: was changed while it was read"):
        found.read("emb", 99_000, 100_000)


def test_a_file_that_changed_since_it_was_listed_is_not_opened(bucket):
    (bucket / "a").write_text("1")
    files = open_files(f"s3://{bucket.name}")
    files.names()
    (bucket / "a").write_text("2")
    with pytest.raises(CheckpointError, match="was changed while it was read"):
        files.open("a").read(0, 1)


@pytest.mark.parametrize("name", ["gone.safetensors", "gone.npz", "gone.safetensors.index.json"])
def test_a_missing_key_is_not_found(bucket, name):
    with pytest.raises(CheckpointNotFoundError, match=f"{url(bucket / name)}: no such file"):
        open_checkpoint(url(bucket / name))


def test_a_folder_is_no_file(bucket):
    (bucket / "model.npz").mkdir()
    (bucket / "model.npz" / "a").write_text("1")
    with pytest.raises(CheckpointNotFoundError, match="no such file"):
        open_checkpoint(url(bucket / "model.npz"))


@pytest.mark.parametrize("place", ["s3://no-such-bucket/m.npz", "s3://no-such-bucket/folder"])
def test_a_wrong_bucket_is_not_found(s3, place):
    with pytest.raises(CheckpointNotFoundError, match=place):
        open_checkpoint(place)


@pytest.mark.parametrize(
    ("place", "expected"), [("folder", "a folder"), ("model.h5", r"\.safetensors.*\.npz")]
)
def test_what_is_neither_a_folder_nor_of_a_known_kind_says_so(bucket, place, expected):
    (bucket / "model.ckpt").write_text("1")
    with pytest.raises(CheckpointNotFoundError, match=f"no such checkpoint.*{expected}"):
        open_checkpoint(url(bucket / place))


@pytest.mark.parametrize("name", ["model.npz", "folder"])
def test_refused_access_names_the_url_and_not_the_credentials(bucket, monkeypatch, name):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(CheckpointError, match=r"access refused.*are the credentials") as caught:
        open_checkpoint(url(bucket / name))
    s3fs.S3FileSystem.clear_instance_cache()
    assert url(bucket / name) in str(caught.value)
    assert "wrong" not in str(caught.value)


def test_a_server_that_goes_away_is_an_error_that_names_the_url(bucket, relay, monkeypatch):
    np.save(bucket / "emb.npy", random_rows(100_000, 8))
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    found = open_checkpoint(url(bucket / "emb.npy"))
    relay.close()
    with pytest.raises(CheckpointError, match=rf"{url(bucket / 'emb.npy')}: can't be read"):
        found.read("emb", 99_000, 100_000)


def test_another_process_finds_server_and_keys_by_fsspecs_settings(s3, bucket, monkeypatch):
    path = save(bucket / "model.safetensors", model())
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("FSSPEC_S3_ENDPOINT_URL", s3.url)
    monkeypatch.setenv("FSSPEC_S3_KEY", KEY)
    monkeypatch.setenv("FSSPEC_S3_SECRET", SECRET)
    code = (
        "import pickle, sys; found = pickle.load(sys.stdin.buffer).open();"
        "print(found.stamp, found.read('mlp.bias', 0, 8).tobytes().hex())"
    )
    opening = pickle.dumps(Opening(url(path)))
    done = subprocess.run(
        [sys.executable, "-c", code], input=opening, stdout=subprocess.PIPE, check=True
    )
    assert done.stdout.decode().split()[-1] == model()["mlp.bias"].tobytes().hex()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_opens_it_anew(bucket):
    opening = Opening(url(save(bucket / "model.safetensors", model())))
    opening.open().read("mlp.bias", 0, 1)
    ours, theirs = multiprocessing.Pipe()

    def work():
        theirs.send(opening.open().read("mlp.bias", 0, 8))

    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    assert ours.poll(20)
    np.testing.assert_array_equal(ours.recv(), model()["mlp.bias"])
    child.join()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_that_uses_its_parents_files_is_told(bucket):
    found = open_checkpoint(url(save(bucket / "model.safetensors", {"w": random_rows(300_000, 1)})))
    ours, theirs = multiprocessing.Pipe()

    def work():
        try:
            found.read("w", 299_000, 300_000)
        except CheckpointError as error:
            theirs.send(str(error))

    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    assert ours.poll(20)
    assert "can't be read: This class is not fork-safe" in ours.recv()
    child.join()


@pytest.mark.parametrize("left", [0, 5, 8, 40, -1])
def test_a_safetensors_file_cut_short_is_refused(memory, tmp_path, left):
    path = save(tmp_path / "m.safetensors", {"w": random_rows(50, 4)})
    memory.pipe_file("/ckpt/m.safetensors", path.read_bytes()[:left])
    with pytest.raises(CheckpointError, match=r"memory://ckpt/m.safetensors: not a whole"):
        open_checkpoint("memory://ckpt/m.safetensors")


def test_a_header_that_claims_more_than_the_file_has_is_refused_by_safetensors(memory):
    header = {"w": {"dtype": "F32", "shape": [2**20, 64], "data_offsets": [0, 2**28]}}
    memory.pipe_file("/ckpt/m.safetensors", with_header(header, bytes(40)))
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        open_checkpoint("memory://ckpt/m.safetensors")


@pytest.mark.parametrize("folder", ["memory://ckpt", "memory://", "simplecache::memory://ckpt"])
def test_other_file_systems_and_chains_are_read(memory, tmp_path, folder):
    path = save(tmp_path / "m.safetensors", model())
    memory.pipe_file(f"{folder.rpartition('::')[2]}/m.safetensors", path.read_bytes())
    found = open_checkpoint(f"{folder}{'' if folder.endswith('/') else '/'}m.safetensors")
    assert found.name == "m.safetensors"
    assert_holds(found, model())


def test_a_library_that_is_missing_is_named_with_the_remedy():
    with pytest.raises(CheckpointError, match=r"gcsfs.*pip install 'sharkstore\[remote\]'"):
        open_checkpoint("gcs://bucket/m.npz")


def test_without_fsspec_the_remedy_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(CheckpointError, match=r"pip install 'sharkstore\[remote\]'"):
        open_checkpoint("s3://bucket/m.npz")


def test_an_unknown_protocol_is_refused():
    with pytest.raises(CheckpointError, match="Protocol not known: nonsense"):
        open_checkpoint("nonsense://bucket/m.npz")


def test_user_and_password_are_not_told():
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint("nonsense://user:secret@host/m.npz")
    assert "nonsense://host" in str(caught.value)
    assert "secret" not in str(caught.value)
