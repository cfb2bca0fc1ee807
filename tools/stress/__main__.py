"""Serve random requests from many threads, and say whether every answer was right.

python -m stress --threads 8 --requests 1000000   under ThreadSanitizer: tools/check --threads
python -m stress --seconds 180                    with memory watched: tools/check --soak
python -m stress --processes 4                    forked workers, which must agree
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from stress.forked import run_processes
from stress.served import Model, make_model
from stress.soak import Memory
from stress.workers import Plan, run_threads


def main() -> int:
    options = argparse.ArgumentParser(prog="stress", description=__doc__.split("\n", 1)[0])
    options.add_argument("--threads", type=int, default=4)
    options.add_argument("--requests", type=int, default=10_000, help="of each thread")
    options.add_argument("--seconds", type=float, help="instead of a number of requests")
    options.add_argument("--processes", type=int, default=0, help="forked, beside one another")
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = make_model(Path(folder))
        if given.processes:
            return run_processes(model, given.processes, given.requests, given.seed)
        return serve(model, given)


def serve(model: Model, given: argparse.Namespace) -> int:
    """Exit status: 0 if every answer was right, and memory stayed as it was."""
    plan = Plan(given.threads, given.requests, given.seconds, given.seed)
    memory = Memory()
    done = run_threads(model, plan, memory.sample)
    print(f"{plan.threads} threads, {done.requests:,} requests, {done.seconds:.0f} s: ", end="")
    print(f"{done.checked:,} answers compared, {len(done.wrong)} wrong")
    for one in done.wrong[:5]:
        print(f"  {one}", file=sys.stderr)
    print(memory.told())
    return 1 if done.wrong or (given.seconds and memory.grew) else 0


if __name__ == "__main__":
    sys.exit(main())
