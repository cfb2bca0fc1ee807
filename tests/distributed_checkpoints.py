"""Checkpoints of torch.distributed.checkpoint, saved by real process groups of this machine.

Run as a program, with a folder, it saves them all; it imports torch once and forks the ranks.
"""

import os
import subprocess
import sys
import traceback
import warnings
import zlib
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp

# rows and columns that ranks can't share evenly
TABLES = {
    "rows.weight": (37, 8, torch.float32),
    "rows.bf16": (103, 5, torch.bfloat16),
    "rows.f16": (9, 3, torch.float16),
    "rows.f64": (11, 4, torch.float64),
    "rows.ids": (50, 2, torch.int64),
    "rows.few": (2, 4, torch.float32),  # fewer than ranks
    "columns.weight": (21, 10, torch.float32),
    "columns.f16": (6, 3, torch.float16),
    "replicated.weight": (13, 7, torch.float32),
    "plain.weight": (5, 6, torch.bfloat16),
}
GRID = {"grid.weight": (17, 9, torch.float32), "grid.bf16": (8, 6, torch.bfloat16)}
SHARDED = {
    "sharded.rows": (23, 4, torch.float32),
    "sharded.columns": (7, 12, torch.float32),
    "sharded.table": (19, 3, torch.float16),
    "sharded.grid": (10, 8, torch.float32),
}
NESTED = {"user.weight": (30, 4, torch.float32), "item.weight": (41, 4, torch.float32)}
TORCHREC = {
    f"ebc.embedding_bags.{table}.weight": (rows, 8, torch.float32)
    for table, rows in (("rows", 50), ("columns", 20), ("whole", 30))
}
DENSE = {"head.weight": (1, 24, torch.float32), "head.bias": (1, 1, torch.float32)}


def whole(name, spec):
    """The tensor of this name: any bits but NaN's, the same in every process."""
    rows, columns, dtype = spec
    seeded = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    if dtype == torch.int64:
        return torch.randint(-(2**60), 2**60, (rows, columns), generator=seeded)
    return torch.randn(rows, columns, generator=seeded, dtype=torch.float64).to(dtype)


def raw(tensor):
    """A tensor as a checkpoint's reader gives it."""
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view("<u2")
    return tensor.numpy()


def tables(specs):
    return {name: raw(whole(name, spec)) for name, spec in specs.items()}


def save_all(folder):
    """Save all checkpoints into a folder, in a process of its own."""
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(
        [sys.executable, __file__, str(folder)], env=settings, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    return Path(folder)


def in_ranks(count, folder, save):
    """Call `save(rank)` in a group of forked processes."""
    children = []
    for rank in range(count):
        child = os.fork()
        if not child:
            status = 1
            try:
                meet = f"file://{folder}/meet-{save.__name__}"
                dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=count)
                save(folder, rank)
                dist.destroy_process_group()
                status = 0
            finally:
                traceback.print_exc()
                os._exit(status)
        children.append(child)
    failed = [child for child in children if os.waitpid(child, 0)[1]]
    if failed:
        sys.exit(f"{len(failed)} ranks of {save.__name__} failed")


def dtensors(folder, rank):
    """Four ranks: rows, columns, copies, and a grid of two by two."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    line = init_device_mesh("cpu", (4,))
    square = init_device_mesh("cpu", (2, 2))
    how = {"rows": [Shard(0)], "columns": [Shard(1)], "replicated": [Replicate()]}
    state = {}
    for name, spec in TABLES.items():
        placed = how.get(name.split(".")[0])
        tensor = whole(name, spec)
        state[name] = distribute_tensor(tensor, line, placed) if placed else tensor
    for name, spec in GRID.items():
        state[name] = distribute_tensor(whole(name, spec), square, [Shard(0), Shard(1)])
    # rows over one axis of the mesh, copies over the other
    name = "rows.weight"
    state["hybrid.weight"] = distribute_tensor(
        whole(name, TABLES[name]), square, [Replicate(), Shard(0)]
    )
    state["scalar"] = torch.tensor(2.5)
    dcp.save(state, checkpoint_id=f"{folder}/dtensors")


def sharded_tensors(folder, rank):
    """Four ranks: ShardedTensor by rows, columns, in a grid, and on one rank alone."""
    from torch.distributed._shard import sharded_tensor
    from torch.distributed._shard.metadata import ShardMetadata

    def local(name, boxes):
        tensor = whole(name, SHARDED[name])
        mine = [
            sharded_tensor.Shard(
                tensor[a : a + rows, b : b + columns].clone(),
                ShardMetadata([a, b], [rows, columns], f"rank:{rank}/cpu"),
            )
            for owner, a, b, rows, columns in boxes
            if owner == rank
        ]
        return sharded_tensor.init_from_local_shards(mine, *tensor.shape)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        boxes = {
            "sharded.rows": [(0, 0, 0, 6, 4), (1, 6, 0, 6, 4), (2, 12, 0, 6, 4), (3, 18, 0, 5, 4)],
            "sharded.columns": [(rank, 0, 3 * rank, 7, 3) for rank in range(4)],
            "sharded.table": [(2, 0, 0, 19, 3)],
            # two shards on rank 1, none on rank 3
            "sharded.grid": [(0, 0, 0, 4, 3), (1, 0, 3, 4, 5), (1, 4, 0, 6, 3), (2, 4, 3, 6, 5)],
        }
        state = {name: local(name, found) for name, found in boxes.items()}
        dcp.save(state, checkpoint_id=f"{folder}/sharded")


def nested(folder, rank):
    """Two ranks: a model, its optimizer and their neighbours, of two files a rank."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    line = init_device_mesh("cpu", (2,))
    model = {
        name: distribute_tensor(whole(name, spec), line, [Shard(0)])
        for name, spec in NESTED.items()
    }
    moments = {name: {"exp_avg": tensor * 0, "step": 7} for name, tensor in model.items()}
    state = {
        "model": {**model, "version": "v2"},
        "optim": {"state": moments, "lr": [0.1, 0.2]},
        "epoch": 3,
        "model_name": "ctr",
    }
    dcp.save(state, storage_writer=dcp.FileSystemWriter(f"{folder}/nested", thread_count=2))


def torchrec(folder, rank):
    """Two ranks: a collection of bags as DistributedModelParallel shards it, and a head."""
    from torchrec import EmbeddingBagCollection, EmbeddingBagConfig
    from torchrec.distributed import DistributedModelParallel
    from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
    from torchrec.distributed.sharding_plan import (
        column_wise,
        construct_module_sharding_plan,
        row_wise,
        table_wise,
    )
    from torchrec.distributed.types import ShardingEnv, ShardingPlan

    how = {"rows": row_wise(), "columns": column_wise(ranks=[0, 1]), "whole": table_wise(rank=1)}
    model = torch.nn.Module()
    model.ebc = EmbeddingBagCollection(
        tables=[
            EmbeddingBagConfig(
                name=name.split(".")[2],
                num_embeddings=rows,
                embedding_dim=columns,
                feature_names=[name.split(".")[2]],
            )
            for name, (rows, columns, _) in TORCHREC.items()
        ]
    )
    model.head = torch.nn.Linear(24, 1)
    sharder = EmbeddingBagCollectionSharder()
    plan = construct_module_sharding_plan(
        model.ebc, how, sharder=sharder, local_size=2, world_size=2, device_type="cpu"
    )
    model = DistributedModelParallel(
        model,
        env=ShardingEnv.from_process_group(dist.group.WORLD),
        device=torch.device("cpu"),
        plan=ShardingPlan({"ebc": plan}),
        sharders=[sharder],
    )
    state = model.state_dict()
    for name, tensor in state.items():
        if name in TORCHREC:
            full = whole(name, TORCHREC[name])
            for shard in tensor.local_shards():
                (a, b), (rows, columns) = shard.metadata.shard_offsets, shard.metadata.shard_sizes
                shard.tensor.copy_(full[a : a + rows, b : b + columns])
        else:
            tensor.copy_(whole(name, DENSE[name]).reshape(tensor.shape))
    dcp.save(state, checkpoint_id=f"{folder}/torchrec")


def alone(folder):
    """One process without a group."""
    state = {name: whole(name, spec) for name, spec in NESTED.items()}
    dcp.save({**state, "epoch": 3}, checkpoint_id=f"{folder}/alone", no_dist=True)


def main(folder):
    torch.set_num_threads(1)
    alone(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        in_ranks(4, folder, dtensors)
        in_ranks(4, folder, sharded_tensors)
        in_ranks(2, folder, nested)
        in_ranks(2, folder, torchrec)


if __name__ == "__main__":
    main(sys.argv[1])
