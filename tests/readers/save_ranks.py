"""Run as a program: four gloo processes save what they have of tensors, a file each."""

import os
import sys
import warnings

import torch
import torch.distributed as dist
import torch.multiprocessing as processes
from torch.distributed._shard import sharded_tensor
from torch.distributed._shard.sharding_spec import ChunkShardingSpec
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, init_device_mesh
from torch.distributed.tensor import distribute_tensor as placed
from torch.distributed.tensor._shards_wrapper import LocalShardsWrapper

RANKS = 4
WHOLE = torch.arange(88.0).reshape(11, 8)


def sharded(boxes):
    """A ShardedTensor of WHOLE whose boxes belong to ranks: (rank, rows, columns)."""
    shards = [
        sharded_tensor.Shard.from_tensor_and_offsets(
            WHOLE[rows, columns].clone(), [rows.start, columns.start], dist.get_rank()
        )
        for rank, rows, columns in boxes
        if rank == dist.get_rank()
    ]
    return sharded_tensor.init_from_local_shards(shards, *WHOLE.shape)


def sharded_tensors():
    rows, columns = slice(0, 11), slice(0, 8)
    ends = [0, 2, 5, 6, 11]
    chunked = sharded_tensor.zeros(
        ChunkShardingSpec(dim=0, placements=[f"rank:{rank}/cpu" for rank in range(RANKS)]), 11, 8
    )
    for shard in chunked.local_shards():
        low = shard.metadata.shard_offsets[0]
        shard.tensor.copy_(WHOLE[low : low + shard.tensor.shape[0]])
    return {
        "sharded.rows": sharded([(r, slice(ends[r], ends[r + 1]), columns) for r in range(RANKS)]),
        "sharded.columns": sharded([(r, rows, slice(2 * r, 2 * r + 2)) for r in range(RANKS)]),
        "sharded.grid": sharded(
            [
                (2 * r + c, slice(6 * r, 6 + 5 * r), slice(4 * c, 4 + 4 * c))
                for r in (0, 1)
                for c in (0, 1)
            ]
        ),
        "sharded.table": sharded([(2, rows, columns)]),
        "sharded.several": sharded([(r % RANKS, slice(r, r + 1), columns) for r in range(11)]),
        "sharded.chunks": chunked,
    }


def dtensors(rank):
    line = init_device_mesh("cpu", (RANKS,))
    square = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replica", "shard"))
    low = min(3 * rank, 11)
    halves = [WHOLE[low : low + 3, :4].clone(), WHOLE[low : low + 3, 4:].clone()]
    wrapper = LocalShardsWrapper(halves, [(low, 0), (low, 4)])
    across = placed(WHOLE, square, [Shard(0), Replicate()])
    along = placed(WHOLE, line, [Shard(0)])
    return {
        "d.rows": placed(WHOLE, line, [Shard(0)]),
        "d.columns": placed(WHOLE, line, [Shard(1)]),
        "d.grid": placed(WHOLE, square, [Shard(0), Shard(1)]),
        "d.nested": placed(WHOLE, square, [Shard(0), Shard(0)]),
        "d.replicated_shards": placed(WHOLE, square, [Replicate(), Shard(0)]),
        "d.replicated": placed(WHOLE, line, [Replicate()]),
        "d.parameter": torch.nn.Parameter(placed(WHOLE, line, [Shard(0)])),
        "d.wrapped": DTensor.from_local(
            wrapper, line, [Shard(0)], run_check=False, shape=WHOLE.shape, stride=WHOLE.stride()
        ),
        "few": placed(WHOLE[:5].clone(), line, [Shard(0)]),
        "half": placed(WHOLE.to(torch.bfloat16), line, [Shard(0)]),
        "sums": DTensor.from_local(WHOLE.clone(), line, [Partial()], run_check=False),
    }, {"mixed": across if rank == 0 else along}


def save(rank, folder):
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=RANKS)
    tensors, mixed = dtensors(rank)
    plain = {"dense": WHOLE.clone(), f"table.{rank}": WHOLE + rank, "step": 7}
    torch.save(sharded_tensors() | tensors | plain, f"{folder}/model_rank_{rank}.pt")
    torch.save(mixed, f"{folder}/mixed_rank_{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    # forked, so that torch is imported once
    processes.start_processes(save, (sys.argv[1],), RANKS, start_method="fork")
