"""ShardedTensor and DTensor of torch.distributed, as the parts that one rank saved of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from sharkstore.readers.inert import Record
from sharkstore.readers.torch_values import MOST_AXES, Shape, Stored, Unstorable, dtype_name, sizes

# shards of a tensor that one rank has
MOST_PIECES = 256
SHARDED = "torch.distributed._shard.sharded_tensor.api.ShardedTensor"
DTENSORS = (
    "torch.distributed.tensor.DTensor",
    "torch.distributed.tensor._api.DTensor",
    "torch.distributed._tensor.api.DTensor",
    "torch.distributed._tensor.DTensor",
)
WRAPPER = "torch.distributed.tensor._shards_wrapper.LocalShardsWrapper"
PLACEMENTS = (
    "torch.distributed.tensor.placement_types",
    "torch.distributed._tensor.placement_types",
)
SPECS = ("torch.distributed.tensor._dtensor_spec", "torch.distributed._tensor.placement_types")
# what their states are made of
NAMED = (
    f"{SHARDED}.ProcessGroupState",
    "torch.distributed._shard.sharded_tensor.shard.Shard",
    "torch.distributed._shard.sharded_tensor.metadata.ShardedTensorMetadata",
    "torch.distributed._shard.sharded_tensor.metadata.TensorProperties",
    "torch.distributed._shard.sharded_tensor.metadata.MEM_FORMAT_ENCODING",
    "torch.distributed._shard.metadata.ShardMetadata",
    "torch.distributed._shard.sharding_spec.api.EnumerableShardingSpec",
    "torch.distributed._shard.sharding_spec.chunk_sharding_spec.ChunkShardingSpec",
    "torch.distributed.remote_device._remote_device",
    "torch.distributed.device_mesh.DeviceMesh",
    "torch.distributed._mesh_layout._MeshLayout",
    "torch.distributed._mesh_layout._FlatLayout",
    *(f"{module}.{name}" for module in SPECS for name in ("DTensorSpec", "TensorMeta")),
    "torch.distributed.tensor._dtensor_spec.ShardOrderEntry",
    *(
        f"{module}.{name}"
        for module in PLACEMENTS
        for name in ("Shard", "Replicate", "Partial", "_Partial", "_StridedShard")
    ),
    *(
        f"torch.distributed.checkpoint.metadata.{name}"
        for name in (
            "TensorStorageMetadata",
            "ChunkStorageMetadata",
            "TensorProperties",
            "_MEM_FORMAT_ENCODING",
        )
    ),
)


@dataclass(frozen=True, slots=True)
class Piece:
    """A box of a tensor, as one rank saved it; `offsets` say where in the tensor it starts."""

    offsets: Shape
    stored: Stored


@dataclass(frozen=True, slots=True)
class Distributed:
    """What one rank has of a tensor that lies on many.

    Args:
        kind: its class.
        shape: of the whole tensor.
        dtype: torch's name without `torch.`.
        pieces: that this rank has; none where others have them all.
    """

    kind: str
    shape: Shape
    dtype: str
    pieces: tuple[Piece, ...]

    def told(self) -> str:
        """What of the tensor is there, in words."""
        spans = [
            f"{one.offsets[0]} to {one.offsets[0] + one.stored.shape[0] - 1}"
            for one in self.pieces
            if one.offsets and 0 not in one.stored.shape
        ]
        rows = f"rows {', '.join(spans[:4])}" if spans else "no rows"
        return f"{rows} of a {self.kind} of shape {self.shape}"


def distributed(name: str, args: tuple[Any, ...], state: Any) -> Distributed | Unstorable | Record:
    """A tensor of a class of torch.distributed, out of what its pickle has.

    Args:
        name: of the class.
        args: of `_rebuild_wrapper_subclass`: class, dtype, shape, …
        state: what its attributes are set from.

    Raises:
        TypeError: it has no such parts.
        ValueError: they contradict each other.
    """
    if name == WRAPPER:
        return Record(WRAPPER, (), state)
    kind, whole, dtype = name.rpartition(".")[2], sizes(args[2]), dtype_name(args[1])
    if name == SHARDED:
        pieces = _sharded_pieces(state)
    elif name in DTENSORS:
        found = _dtensor_pieces(Record(name, (), state).fields, whole)
        if isinstance(found, str):
            return Unstorable(found)
        pieces = found
    else:
        raise TypeError(f"a tensor of class {name}")
    made = []
    for offsets, local in pieces:
        if isinstance(local, Unstorable):
            return local
        _check(offsets, local, whole, dtype)
        made.append(Piece(offsets, local))
    return Distributed(kind, whole, dtype, tuple(made))


def _check(offsets: Shape, local: object, whole: Shape, dtype: str) -> None:
    if not isinstance(local, Stored):
        raise TypeError("a part that is no tensor")
    if not len(offsets) == len(local.shape) == len(whole) or local.dtype != dtype:
        raise ValueError(f"a part of shape {local.shape} and {local.dtype} in one of {dtype}")
    ends = [first + size for first, size in zip(offsets, local.shape, strict=True)]
    if any(end > size for end, size in zip(ends, whole, strict=True)):
        raise ValueError(f"a part at {offsets} of shape {local.shape} in one of shape {whole}")


def _sharded_pieces(state: Any) -> list[tuple[Shape, Any]]:
    """Shards say themselves where they are."""
    if not isinstance(state, tuple) or not state or not isinstance(state[0], list):
        raise TypeError("a ShardedTensor without shards")
    if len(state[0]) > MOST_PIECES:
        raise ValueError(f"{len(state[0])} shards of one rank")
    pieces = []
    for shard in state[0]:
        fields = _fields(shard)
        metadata = _fields(fields.get("metadata"))
        tensor = fields.get("tensor")
        if isinstance(tensor, Stored) and tensor.shape != sizes(metadata.get("shard_sizes")):
            raise ValueError(f"a shard of shape {tensor.shape} where others are told")
        pieces.append((sizes(metadata.get("shard_offsets")), tensor))
    return pieces


def _dtensor_pieces(fields: dict[Any, Any], whole: Shape) -> list[tuple[Shape, Any]] | str:
    """Where a DTensor's local part is follows from its mesh and placements; else why it can't."""
    local, spec = fields.get("_local_tensor"), _fields(fields.get("_spec"))
    if isinstance(local, Record) and local.name == WRAPPER:
        return _wrapped_pieces(local)
    mesh, placements = _fields(spec.get("mesh")), spec.get("placements")
    coordinates = mesh.get("_coordinate_on_dim")
    if coordinates is None:
        return []  # this rank is not in the mesh
    if not isinstance(placements, tuple):
        raise TypeError("a DTensor without placements")
    at, lengths = sizes(coordinates), _mesh_shape(mesh)
    if lengths is None or not len(at) == len(lengths) == len(placements):
        return "a DTensor of a mesh that is not understood"
    if spec.get("use_strided_shard_as_shard_order"):
        return "a DTensor of a mesh that is not understood"
    offsets, shape = [0] * len(whole), list(whole)
    for placement, index, count in zip(placements, at, lengths, strict=True):
        name = placement.name.rpartition(".")[2] if isinstance(placement, Record) else ""
        if name == "Replicate":
            continue
        axis = _fields(placement).get("dim") if name == "Shard" else None
        if type(axis) is not int or not 0 <= axis < len(whole) or not 0 <= index < count:
            return f"a DTensor placed as {name or 'nothing known'}"
        low, shape[axis] = _chunk(shape[axis], index, count)
        offsets[axis] += low
    if not _in_order(spec.get("shard_order")):
        return "a DTensor sharded in another order than its mesh's"
    if isinstance(local, Stored) and local.shape != tuple(shape):
        raise ValueError(f"a part of shape {local.shape} where {tuple(shape)} is told")
    return [(tuple(offsets), local)]


def _chunk(size: int, index: int, count: int) -> tuple[int, int]:
    """First index and length of a part, as `torch.chunk` cuts: all of one length but the last."""
    length = -(-size // count)
    low = min(size, length * index)
    return low, min(length, size - low)


def _in_order(order: Any) -> bool:
    """Whether axes that are cut several times are cut in the order of the mesh's axes."""
    if order is None:
        return True
    if not isinstance(order, tuple) or len(order) > MOST_AXES:
        raise TypeError("an order of shards that is no tuple")
    cuts = [sizes(one.args[1]) for one in order if isinstance(one, Record) and len(one.args) == 2]
    return all(list(cut) == sorted(cut) for cut in cuts)


def _mesh_shape(mesh: dict[Any, Any]) -> Shape | None:
    """Torch 2.13 has it in a layout of axes, since 2.9 in one layout, before a tensor of ranks."""
    ranks, layout = mesh.get("mesh"), mesh.get("_layout")
    if isinstance(ranks, Stored):
        return ranks.shape
    if not isinstance(layout, Record):
        return None
    axes, shape = layout.fields.get("axes"), layout.fields.get("shape")
    if isinstance(axes, tuple) and len(axes) <= MOST_AXES:
        lengths = [sizes(_fields(axis).get("shape")) for axis in axes]
        return tuple(math.prod(length) for length in lengths)
    return sizes(shape if isinstance(shape, tuple) else (shape,))


def _wrapped_pieces(local: Record) -> list[tuple[Shape, Any]]:
    """TorchRec puts several shards of a rank into one local tensor."""
    fields = local.fields
    chunks = _fields(fields.get("_storage_meta")).get("chunks")
    tensors = fields.get("_local_shards")
    if not isinstance(chunks, list) or not isinstance(tensors, list):
        raise TypeError("local shards without their places")
    if not len(tensors) == len(chunks) <= MOST_PIECES:
        raise ValueError(f"{len(tensors)} local shards in {len(chunks)} places")
    places = [sizes(_fields(chunk).get("offsets")) for chunk in chunks]
    return list(zip(places, tensors, strict=True))


def _fields(value: Any) -> dict[Any, Any]:
    if not isinstance(value, Record):
        raise TypeError(f"a {type(value).__name__} where an instance is expected")
    return value.fields
