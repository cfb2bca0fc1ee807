"""Others read a store: zarr-python, TensorStore, and some lines of json and numpy.memmap."""

import json
from pathlib import Path

import numpy as np
import pytest
import tensorstore
import zarr
from safetensors.numpy import save_file
from zarr.codecs import BytesCodec, Crc32cCodec
from zarr.errors import ZarrUserWarning

import sharkstore
from sharkstore.convert import convert_checkpoint
from sharkstore.format import zarr3
from sharkstore.format.layout import ArraySpec, array_spec
from sharkstore.load.files import open_folder
from sharkstore.load.mapping import map_array
from sharkstore.plan.build import build_plan
from sharkstore.plan.policy import Policy
from sharkstore.plan.stats import Stats
from sharkstore.readers.open import open_checkpoint
from sharkstore.write.store import write_store

TIERS = "f32=25%,f16=10%,int8=20%,int8.f32=10%,int8.affine=10%,int4=15%,int2.affine=rest"
SHAPES = {"a": (5000, 16), "b": (700, 64), "c": (300, 7), "d": (150_000, 16)}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Row bytes of 18, 20, 66 and 68; arrays of one chunk and of many, edge chunks padded."""
    folder = tmp_path_factory.mktemp("others")
    rng = np.random.default_rng(7)
    tensors = {f"emb.{n}": rng.normal(size=s).astype(np.float32) for n, s in SHAPES.items()}
    tensors |= {"step": np.array(12), "mask": np.ones((3, 2), bool), "w": np.zeros((2, 3, 4))}
    save_file(tensors, folder / "model.safetensors")
    source = open_checkpoint(folder / "model.safetensors")
    plan = build_plan(source.tensors, source.left, Stats(), Policy(tiers=TIERS))
    write_store(
        source,
        source.tensors,
        plan,
        Stats(),
        str(folder / "model.shark"),
        provenance={"tool": "test", "source": {"name": "model"}},
        overwrite=False,
        progress=lambda *_: None,
        chunk_target=1 << 14,
    )
    return folder / "model.shark"


def specs_of(store: Path) -> tuple[ArraySpec, ...]:
    with sharkstore.open(store) as opened:
        return opened.metadata.arrays


def arrays_of(store: Path) -> dict[str, np.ndarray]:
    """Every array as our reader has it."""
    with open_folder(str(store)) as folder:
        return {
            spec.path: map_array(folder, spec).reshape(-1).view(spec.dtype).reshape(spec.shape)
            for spec in specs_of(store)
        }


def test_the_store_has_arrays_of_many_chunks_and_padded_ones(store: Path):
    arrays = specs_of(store)
    assert {array.row_bytes for array in arrays} >= {18, 20, 66, 68}
    assert any(array.chunks == 1 for array in arrays)
    assert any(array.chunks >= 3 and array.rows % array.chunk_rows for array in arrays)
    assert any(array.path.endswith("rowmap") and array.chunks >= 1 for array in arrays)


@pytest.mark.filterwarnings("ignore::zarr.errors.ZarrUserWarning")
def test_zarr_python_reads_every_array(store: Path):
    group = zarr.open_group(store, mode="r")
    for path, ours in arrays_of(store).items():
        assert np.array_equal(group[path][...], ours), path
        assert group[path].dtype == ours.dtype


def test_tensorstore_reads_every_array(store: Path):
    for path, ours in arrays_of(store).items():
        location = {"driver": "file", "path": str(store / path) + "/"}
        theirs = tensorstore.open({"driver": "zarr3", "kvstore": location}).result()
        assert np.array_equal(theirs.read().result(), ours), path


@pytest.mark.filterwarnings("ignore::zarr.errors.ZarrUserWarning")
def test_others_verify_the_checksums(store: Path, tmp_path: Path):
    spec = next(a for a in specs_of(store) if a.path.startswith("tables/emb.c/2"))
    chunk = store / spec.chunk_path(0)
    sound = chunk.read_bytes()
    try:
        chunk.write_bytes(bytes([sound[0] ^ 4]) + sound[1:])
        with pytest.raises(ValueError, match=r"(?i)checksum"):
            zarr.open_group(store, mode="r")[spec.path][...]
        location = {"driver": "file", "path": str(store / spec.path) + "/"}
        with pytest.raises(ValueError, match=r"(?i)digest mismatch"):
            tensorstore.open({"driver": "zarr3", "kvstore": location}).result().read().result()
    finally:
        chunk.write_bytes(sound)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((10, 4), "uint8"), ((10, 4), "float32"), ((10,), "float16"), ((), "int64"), ((0, 3), "bool")],
)
def test_documents_are_those_of_zarr_python(tmp_path: Path, shape, dtype):
    spec = array_spec("x", shape, np.dtype(dtype))
    zarr.create_array(
        tmp_path / "x",
        shape=shape,
        chunks=spec.chunk_shape,
        dtype=dtype,
        serializer=BytesCodec(endian="little" if np.dtype(dtype).itemsize > 1 else None),
        compressors=[Crc32cCodec()],
        fill_value=np.zeros((), dtype).item(),
    )
    theirs = json.loads((tmp_path / "x" / "zarr.json").read_bytes())
    assert theirs == zarr3.array_document(spec)


def test_root_documents_are_those_of_zarr_python(store: Path, tmp_path: Path):
    root = json.loads((store / "zarr.json").read_bytes())
    with pytest.warns(ZarrUserWarning):
        group = zarr.consolidate_metadata(store.rename(tmp_path / "copy"))
    theirs = json.loads((tmp_path / "copy" / "zarr.json").read_bytes())
    (tmp_path / "copy").rename(store)
    (store / "zarr.json").write_bytes(zarr3.dump(root))
    for node in theirs["consolidated_metadata"]["metadata"].values():
        node.pop("consolidated_metadata", None)  # groups get an empty one more
    assert theirs == root
    assert group.metadata.attributes["sharkstore"]["format"] == "1.1"


# --- a reader of its own: what another language would have to write -----------------------------


class Reader:
    """Looks rows up with json and numpy.memmap alone, by the words of the specification."""

    def __init__(self, root: Path) -> None:
        self.root = root
        document = json.loads((root / "zarr.json").read_bytes())
        assert document["attributes"]["sharkstore"]["format"].startswith("1.")
        self.nodes = document["consolidated_metadata"]["metadata"]
        self.paths = {
            node["attributes"]["sharkstore"]["name"]: path
            for path, node in self.nodes.items()
            if path.startswith("tables/") and path.count("/") == 1
        }

    def row(self, path: str, index: int) -> bytes:
        node = self.nodes[path]
        size = {"uint8": 1, "float16": 2, "float32": 4}[node["data_type"]] * node["shape"][1]
        rows = node["chunk_grid"]["configuration"]["chunk_shape"][0]
        chunk = np.memmap(self.root / path / f"c/{index // rows}/0", np.uint8, mode="r")
        assert len(chunk) == rows * size + 4
        return chunk[index % rows * size :][:size].tobytes()

    def resolve(self, path: str, tiers: int, row: int) -> tuple[int, int]:
        if tiers == 1:
            return 0, row
        block, i = self.row(f"{path}/rowmap", row >> 6), row & 63
        planes = (tiers - 1).bit_length()
        words = [int.from_bytes(block[8 * k : 8 * k + 8], "little") for k in range(planes)]
        tier = sum((word >> i & 1) << k for k, word in enumerate(words))
        same = (1 << i) - 1
        for k, word in enumerate(words):
            same &= word if tier >> k & 1 else ~word
        start = 8 * planes + 4 * tier
        return tier, int.from_bytes(block[start : start + 4], "little") + same.bit_count()

    def lookup(self, name: str, row: int) -> np.ndarray:
        path = self.paths[name]
        tiers = self.nodes[path]["attributes"]["sharkstore"]["tiers"]
        self.dim = self.nodes[path]["attributes"]["sharkstore"]["dim"]
        index, slot = self.resolve(path, len(tiers), row)
        tier = tiers[index]
        assert slot < tier["rows"]
        raw = self.row(f"{path}/{index}", 0 if tier["encoding"] == "constant" else slot)
        if tier["encoding"] in ("f32", "constant"):
            return np.frombuffer(raw, "<f4")
        if tier["encoding"] == "f16":
            return np.frombuffer(raw, "<f2").astype(np.float32)
        if tier["encoding"] == "pq":
            return self.entries(f"{path}/{index}.codebook", raw)
        kind, width = {"float16": ("<f2", 2), "float32": ("<f4", 4)}[tier["scale_dtype"]]
        scale = np.frombuffer(raw[:width], kind).astype(np.float32)
        bits = int(tier["encoding"].removeprefix("int"))
        if tier["mode"] == "symmetric":
            step = scale * np.float32(2.0 ** -tier["scale_exponent"])
            offset = 0 if bits == 8 else 1 << (bits - 1)
            return self.codes(raw[width:], bits, np.int8, offset) * step
        bias = np.frombuffer(raw[width : 2 * width], kind).astype(np.float32)
        return self.codes(raw[2 * width :], bits, np.uint8, 0) * scale + bias

    def entries(self, path: str, codes: bytes) -> np.ndarray:
        node = self.nodes[path]
        kind = {"float16": "<f2", "float32": "<f4"}[node["data_type"]]
        chunk = np.memmap(self.root / path / "c/0/0/0", np.uint8, mode="r")[:-4]
        book = chunk.view(kind).reshape(node["shape"])
        return book[np.arange(len(codes)), list(codes)].astype(np.float32).reshape(-1)[: self.dim]

    def codes(self, raw: bytes, bits: int, kind: type, offset: int) -> np.ndarray:
        if bits == 8:
            return np.frombuffer(raw, kind).astype(np.float32)
        number = int.from_bytes(raw, "little")
        codes = [(number >> bits * j & ((1 << bits) - 1)) - offset for j in range(self.dim)]
        return np.array(codes, np.float32)


def test_few_lines_of_numpy_read_a_store(store: Path):
    reader = Reader(store)
    with sharkstore.open(store) as opened:
        for name, table in opened.items():
            ids = np.unique(np.linspace(0, table.rows - 1, 150).astype(int))
            ours = table.lookup(ids)
            theirs = np.stack([reader.lookup(name, int(row)) for row in ids])
            assert np.array_equal(ours, theirs)


def test_few_lines_of_numpy_read_the_golden_stores():
    from corpus import cases

    for path in cases("stores"):
        reader = Reader(path.parent / path.stem)
        for name, one in json.loads(path.read_text())["tables"].items():
            rows = [reader.lookup(name, row) for row in one["ids"]]
            assert b"".join(row.tobytes() for row in rows).hex() == one["rows"]


def test_convert_is_what_these_tests_read(tmp_path: Path):
    """The writer above is the one behind `convert_checkpoint`."""
    save_file({"emb": np.eye(4, dtype=np.float32)}, tmp_path / "m.safetensors")
    convert_checkpoint(tmp_path / "m.safetensors", tmp_path / "m.shark", tiers="f32")
    reader = Reader(tmp_path / "m.shark")
    assert np.array_equal([reader.lookup("emb", i) for i in range(4)], np.eye(4))
