"""A click model's embedding tables in mixed precision, from training to serving.

Generates a click log, trains a model on it, converts the model's checkpoint with the
`sharkstore` command line, and serves the test set from the stores.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from ctr import clicklog, train
from ctr.clicklog import Field
from ctr.datasets import TEST, Dataset
from ctr.model import Ctr, table_name

import sharkstore
from sharkstore.metrics import auc

SHARKSTORE = Path(sys.executable).with_name("sharkstore")

SEED = 7
SAMPLES = 500_000
FIELDS = (
    Field("user", 200_000),
    Field("item", 100_000),
    Field("query", 50_000),
    Field("advertiser", 20_000),
    Field("city", 2_000),
    Field("category", 500),
    Field("device", 300),
    Field("hour", 24),
    Field("position", 10),
    Field("session", 50_000, signal=0),
    Field("referrer", 1_000, signal=0),
    Field("weekday", 10, signal=0),
)
USEFUL = sum(field.signal > 0 for field in FIELDS)
TIERS = "f32=1%,f16=9%,int8=rest"
BUDGETS = ("5%", "2%")
LOOKUP_BATCH = 2048
LOOKUP_SECONDS = 1.5


class Steps:
    """Numbered headings with the seconds since the start."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._number = 0

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._start

    def __call__(self, heading: str) -> None:
        """Print the next heading."""
        self._number += 1
        print(f"\n[{self.seconds:5.1f} s] {self._number}. {heading}", flush=True)


def main() -> None:
    """Run the demo."""
    out = _options().out
    out.mkdir(parents=True, exist_ok=True)
    step = Steps()

    step("Generate a click log")
    dataset = clicklog.generate(SEED, SAMPLES, FIELDS)
    _describe(dataset)

    step("Train a click model: an embedding table per field, an FM term and an MLP")
    model = train.train(dataset, SEED, hidden=(64, 64), batch=2048, rate=4e-3, watch=_tell)

    step("Save the checkpoint; count rows on training data, score fields on validation data")
    checkpoint, stats, _ = train.save(model, dataset, out)
    _run(out, ["stats", "show", stats.name])

    step("Convert: the most used 1 % of each table's rows in float32, 9 % in float16, rest int8")
    options = [checkpoint.name, "--stats", stats.name, "--tiers", TIERS]
    _convert(out, "model.shark", options)

    step(f"Convert again, keeping the {USEFUL} best fields: the others become one mean row each")
    _convert(out, "model-pruned.shark", [*options, "--keep", str(USEFUL)])

    for budget in BUDGETS:
        step(f"Convert within a budget of {budget}: every row in the encoding that costs least")
        name = f"model-{budget.rstrip('%')}.shark"
        _convert(out, name, [checkpoint.name, "--stats", stats.name, "--budget", budget])

    step("Inspect the first store")
    _run(out, ["inspect", "model.shark"])

    step("Serve the test set from all stores, and look rows up")
    compare(model, dataset, out)
    name = table_name("user")
    rate = lookups_per_second(out / "model.shark", name, dataset)
    print(f"   {rate:,.0f} lookups/s: {name}, batches of {LOOKUP_BATCH:,} ids, one thread")

    print(f"\n[{step.seconds:5.1f} s] Done. Checkpoint, stats and stores are in {out}")


def compare(model: Ctr, dataset: Dataset, out: Path) -> None:
    """Print bytes and test AUC of the checkpoint and of the stores in a folder."""
    ids, labels = dataset.part(TEST)
    before = auc(labels, train.predict(model, ids))
    source = sum(model.table(field).nbytes for field in model.fields)
    print(f"   {'':<20}{'table bytes':>14}{'ratio':>10}{'test AUC':>12}{'change':>12}")
    print(f"   {'checkpoint':<20}{source:>14,}{100:>8.1f} %{before:>12.6f}")
    budgets = [f"model-{budget.rstrip('%')}.shark" for budget in BUDGETS]
    for name in ("model.shark", "model-pruned.shark", *budgets):
        with sharkstore.open(out / name) as store:
            reached = auc(labels, train.predict_from_store(model, store, ids))
            share = store.nbytes / source * 100
            print(
                f"   {name:<20}{store.nbytes:>14,}{share:>8.1f} %{reached:>12.6f}"
                f"{reached - before:>+12.6f}"
            )
    print(
        "   (the pruned fields say nothing: what the model had fitted to them was noise;\n"
        "   the number in a store's name is its budget: rows, row maps and codebooks)\n"
    )


def lookups_per_second(path: Path, name: str, dataset: Dataset) -> float:
    """Rows looked up in one table, a second, with the ids of the test set in their order."""
    column = dataset.fields.index(name.split(".")[1])
    ids = dataset.part(TEST)[0][:, column].astype(np.int64)
    batches = np.split(ids[: len(ids) // LOOKUP_BATCH * LOOKUP_BATCH], len(ids) // LOOKUP_BATCH)
    with sharkstore.open(path) as store:
        table = store[name]
        out = np.empty((LOOKUP_BATCH, table.dim), np.float32)
        table.lookup(batches[0], out)
        rows, start = 0, time.perf_counter()
        while time.perf_counter() - start < LOOKUP_SECONDS:
            for batch in batches:
                table.lookup(batch, out)
            rows += len(batches) * LOOKUP_BATCH
        return rows / (time.perf_counter() - start)


def _describe(dataset: Dataset) -> None:
    silent = [field.name for field in FIELDS if not field.signal]
    print(
        f"   {len(dataset.labels):,} samples, {dataset.labels.mean() * 100:.1f} % clicked; "
        f"{len(dataset.fields)} fields, {sum(dataset.cardinalities):,} ids\n"
        f"   fields that say nothing of the label, for the scores to find: {', '.join(silent)}"
    )


def _convert(out: Path, store: str, options: list[str]) -> None:
    shutil.rmtree(out / store, ignore_errors=True)
    checkpoint, *rest = options
    _run(out, ["convert", checkpoint, store, *rest])


def _run(folder: Path, arguments: list[str]) -> None:
    """Show a `sharkstore` command, run it in a folder, and show what it prints."""
    print(f"   $ sharkstore {' '.join(arguments)}", flush=True)
    done = subprocess.run(
        [SHARKSTORE, *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    print("".join(f"   {line}\n" for line in done.stdout.splitlines()), end="")
    if done.returncode:
        sys.exit(done.returncode)


def _tell(epoch: int, auc: float) -> None:
    print(f"   epoch {epoch}: validation AUC {auc:.5f}", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("sharkstore-demo"),
        help="folder for checkpoint, stats and stores; files of an earlier run are replaced "
        "(default: %(default)s)",
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
