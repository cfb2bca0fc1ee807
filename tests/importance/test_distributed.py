"""Processes that each see a share of the data, under DistributedDataParallel."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from clickmodels import FIELDS, Everything, batches
from torch.nn.parallel import DistributedDataParallel

from sharkstore.errors import StatsError
from sharkstore.importance import Importance
from sharkstore.stats.file import open_stats

PROCESSES = 2


def model():
    torch.manual_seed(0)
    return Everything()


def share(rank, folder):
    """One process: every second batch, both passes, sums over processes after each."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=PROCESSES
    )
    net = DistributedDataParallel(model()).eval()
    mine = batches(0, count=4)[rank::PROCESSES]
    importance = Importance(net, FIELDS)
    with importance.counting():
        for x, _ in mine:
            net(x)
    for use in (importance.__enter__, lambda: importance.save(folder / "no")):
        with pytest.raises(StatsError, match=r"counted samples are those of this process.*all_red"):
            use()
    for use in (lambda: importance.prune(["viewer"]), lambda: importance.mean_row("user.weight")):
        with pytest.raises(StatsError, match="counted samples are those of this process"):
            use()
    importance.all_reduce()
    with pytest.raises(StatsError, match="counted samples are complete"), importance.counting():
        pass
    with importance:
        for x, y in mine:
            importance.step(net(x), y)
    with pytest.raises(StatsError, match="measured samples are those of this process only"):
        importance.save(folder / "no")
    with pytest.raises(StatsError, match="measured samples are those of this process only"):
        importance.scores()
    importance.all_reduce()
    importance.all_reduce()  # nothing is left to add
    importance.save(folder / f"stats{rank}")
    dist.destroy_process_group()


def test_processes_add_up_to_one(tmp_path):
    mp.spawn(share, (tmp_path,), nprocs=PROCESSES)
    net = model()
    whole = Importance(net, FIELDS)
    with whole.counting():
        for x, _ in batches(0, count=4):
            net(x)
    with whole:
        for x, y in batches(0, count=4):
            whole.step(net(x), y)
    whole.save(tmp_path / "whole")
    expected = open_stats(tmp_path / "whole")
    assert (tmp_path / "stats0").read_bytes() == (tmp_path / "stats1").read_bytes()
    found = open_stats(tmp_path / "stats0")
    assert found.metadata == expected.metadata
    assert found.arrays.keys() == expected.arrays.keys()
    for key, values in expected.arrays.items():
        torch.testing.assert_close(
            torch.from_numpy(found.arrays[key].copy()), torch.from_numpy(values.copy()), msg=key
        )


def test_reducing_needs_a_process_group():
    with pytest.raises(StatsError, match=r"no process group.*init_process_group"):
        Importance(model(), FIELDS).all_reduce()
