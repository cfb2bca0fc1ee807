"""Parts of distributed tensors out of inert states: all torch's ways to tell where they are."""

import pytest
import torch
from torch.distributed.tensor import Shard
from torch.distributed.tensor._utils import _compute_local_shape_and_global_offset

from sharkstore.readers.inert import Global, Record
from sharkstore.readers.torch_shards import DTENSORS, SHARDED, Distributed, distributed
from sharkstore.readers.torch_values import Storage, Stored, Unstorable


def stored(*shape, dtype="float32"):
    strides = torch.empty(shape, device="meta").stride()
    return Stored(Storage(dtype, 0, 10**6, 10**6), dtype, 0, shape, strides)


def record(name, **fields):
    return Record(name, (), fields)


def args(shape, dtype="float32"):
    return (Global("a.B"), Global(f"torch.{dtype}"), shape)


def layout(*shape):
    return record("_MeshLayout", axes=tuple(record("_FlatLayout", shape=(n,)) for n in shape))


def place(name, **fields):
    return record(f"torch.distributed.tensor.placement_types.{name}", **fields)


def dtensor(whole, local, mesh, placements, name=DTENSORS[0], **spec):
    spec = record("DTensorSpec", mesh=record("DeviceMesh", **mesh), placements=placements, **spec)
    return distributed(name, args(whole), (None, {"_local_tensor": local, "_spec": spec}))


def pieces(found):
    return [(one.offsets, one.stored.shape) for one in found.pieces]


@pytest.mark.parametrize("rank", range(6))
@pytest.mark.parametrize("dims", [(0, 0), (0, 1), (1, 0), (1, 1)])
@pytest.mark.parametrize("whole", [(11, 7), (2, 3), (12, 6)])
def test_a_part_is_where_torch_puts_it(rank, dims, whole):
    at = divmod(rank, 3)
    shards = [Shard(dim) for dim in dims]
    shape, offsets = _compute_local_shape_and_global_offset(whole, (2, 3), list(at), shards)
    mesh = {"_coordinate_on_dim": at, "_layout": layout(2, 3)}
    found = dtensor(whole, stored(*shape), mesh, tuple(place("Shard", dim=dim) for dim in dims))
    assert [one.stored.shape for one in found.pieces] == [shape]
    if 0 not in shape:
        assert [one.offsets for one in found.pieces] == [offsets]


@pytest.mark.parametrize(
    "mesh",
    [
        pytest.param({"_layout": layout(2, 2)}, id="2.13"),
        pytest.param({"_layout": record("_MeshLayout", shape=(2, 2))}, id="2.9"),
        pytest.param({"mesh": stored(2, 2)}, id="2.5"),
    ],
)
@pytest.mark.parametrize("name", DTENSORS)
def test_meshes_of_all_versions_of_torch_are_read(mesh, name):
    at = {"_coordinate_on_dim": [1, 0]}
    placements = place("Shard", dim=0), place("Replicate")
    found = dtensor((5, 4), stored(2, 4), at | mesh, placements, name)
    assert isinstance(found, Distributed)
    assert (found.kind, pieces(found)) == ("DTensor", [((3, 0), (2, 4))])


def test_a_rank_outside_of_the_mesh_has_no_part():
    mesh = {"_coordinate_on_dim": None, "_layout": layout(2)}
    found = dtensor((4,), stored(0), mesh, (place("Shard", dim=0),))
    assert found.pieces == ()
    assert found.told() == "no rows of a DTensor of shape (4,)"


ROW = {"_coordinate_on_dim": (1,), "_layout": layout(2)}
SQUARE = {"_coordinate_on_dim": (1, 1), "_layout": layout(2, 2)}
TWICE = (place("Shard", dim=0), place("Shard", dim=0))


@pytest.mark.parametrize(
    ("mesh", "placements", "spec", "why"),
    [
        pytest.param(ROW, (place("Partial"),), {}, "placed as Partial", id="sums"),
        pytest.param(ROW, (place("_StridedShard", dim=0),), {}, "_StridedShard", id="strided"),
        pytest.param(ROW, (place("Shard", dim=-1),), {}, "placed as Shard", id="negative-axis"),
        pytest.param(ROW, (place("Shard", dim=2),), {}, "placed as Shard", id="axis-outside"),
        pytest.param(ROW, (7,), {}, "nothing known", id="no-placement"),
        pytest.param(ROW, TWICE, {}, "not understood", id="more-placements"),
        pytest.param({"_coordinate_on_dim": (1,)}, TWICE[:1], {}, "not understood", id="no-mesh"),
        pytest.param(ROW | {"_coordinate_on_dim": (2,)}, TWICE[:1], {}, "placed", id="outside"),
        pytest.param(
            SQUARE, TWICE, {"use_strided_shard_as_shard_order": True}, "not under", id="strides"
        ),
        pytest.param(
            SQUARE,
            TWICE,
            {"shard_order": (Record("ShardOrderEntry", (0, (1, 0))),)},
            "another order",
            id="order",
        ),
    ],
)
def test_a_layout_that_can_not_be_joined_says_why(mesh, placements, spec, why):
    found = dtensor((4, 4), stored(1, 4), mesh, placements, **spec)
    assert isinstance(found, Unstorable)
    assert why in found.why


def shard(offsets, shape, told=None):
    metadata = record("ShardMetadata", shard_offsets=offsets, shard_sizes=told or list(shape))
    return Record("Shard", (), (None, {"tensor": stored(*shape), "metadata": metadata}))


def test_shards_that_can_not_be_stored_say_why():
    one = shard([0, 0], (2, 4))
    one.fields["tensor"] = Unstorable("quantised")
    assert distributed(SHARDED, args((4, 4)), ([one],)) == Unstorable("quantised")


@pytest.mark.parametrize(
    "make",
    [
        lambda: dtensor((4, 4), stored(3, 4), ROW, TWICE[:1]),
        lambda: dtensor((4, 4), None, ROW, TWICE[:1]),
        lambda: dtensor((4, 4), stored(2, 4, dtype="int8"), ROW, TWICE[:1]),
        lambda: dtensor((4, 4), stored(2, 4), ROW, None),
        lambda: dtensor((4, 4), stored(2, 4), ROW, TWICE[:1], shard_order=5),
        lambda: distributed(SHARDED, args((4, 4)), None),
        lambda: distributed(SHARDED, args((4, 4)), ([5],)),
        lambda: distributed(SHARDED, args((4, 4)), ([shard([3, 0], (2, 4))],)),
        lambda: distributed(SHARDED, args((4, 4)), ([shard([-1, 0], (2, 4))],)),
        lambda: distributed(SHARDED, args((4, 4)), ([shard([0], (2, 4))],)),
        lambda: distributed(SHARDED, args((4, 4)), ([shard([0, 0], (2, 4), [2, 3])],)),
        lambda: distributed(SHARDED, args((4, 4)), ([shard([0, 0], (2, 4))] * 300,)),
        lambda: distributed("torch.Tensor", args((4, 4)), ()),
    ],
)
def test_parts_that_contradict_the_whole_are_refused(make):
    with pytest.raises((TypeError, ValueError)):
        make()
