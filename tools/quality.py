"""What a conversion costs on real data: train on a set, convert, compare logits and AUC.

    python tools/quality.py data/adult --tiers f32=1%,f16=9%,int8=rest

Exit 1 if the store misses a requirement.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from ctr import datasets, train

import sharkstore
from sharkstore.convert import convert_checkpoint
from sharkstore.metrics import auc
from sharkstore.plan.tiers import parse_tiers

SHARKSTORE = Path(sys.executable).with_name("sharkstore")

LARGEST_OF_RANGE = 0.01
RMS_OF_STD = 0.01
AUC_CHANGE = 0.001


def measure(folder: Path, tiers: str, seed: int, out: Path) -> dict[str, Any]:
    """Train, convert and compare.

    Args:
        folder: of the set.
        tiers: as for `sharkstore convert --tiers`.
        seed: of training.
        out: a folder for checkpoint, stats and store.

    Returns:
        The figures. Differences are those of the test split's logits, as shares of the range
        (largest - smallest) or the standard deviation of the checkpoint's; bytes are bytes.
    """
    dataset = datasets.load(folder)
    model = train.train(dataset, seed, watch=_tell)
    checkpoint, stats, _ = train.save(model, dataset, out)
    path = out / "model.shark"
    convert_checkpoint(checkpoint, path, tiers=tiers, stats=stats, overwrite=True)
    ids, labels = dataset.part(datasets.TEST)
    before = train.predict(model, ids)
    with sharkstore.open(path) as store:
        after = train.predict_from_store(model, store, ids)
        sizes = {"nbytes": store.nbytes, "source_nbytes": store.metadata.source_nbytes}
    difference = np.abs(after - before)
    aucs = auc(labels, before), auc(labels, after)
    return {
        "set": dataset.name,
        "samples": len(dataset.labels),
        "fields": len(dataset.fields),
        "rows": sum(dataset.cardinalities),
        "tiers": tiers,
        "seed": seed,
        "largest_of_range": float(difference.max() / np.ptp(before)),
        "largest_of_std": float(difference.max() / before.std()),
        "rms_of_std": float(np.sqrt(np.square(difference).mean()) / before.std()),
        "auc_before": aucs[0],
        "auc_after": aucs[1],
        "auc_change": aucs[1] - aucs[0],
        **sizes,
        "ratio": sizes["nbytes"] / sizes["source_nbytes"],
        "inspect_disk_bytes": _inspect(path)["disk_bytes"],
        "file_bytes": sum(one.stat().st_size for one in path.rglob("*") if one.is_file()),
    }


def verdicts(found: dict[str, Any]) -> dict[str, tuple[str, bool]]:
    """The requirement on a figure, and whether it is met, by the figure's key."""
    return {
        "largest_of_range": (
            f"at most {LARGEST_OF_RANGE}",
            found["largest_of_range"] <= LARGEST_OF_RANGE,
        ),
        "rms_of_std": (f"at most {RMS_OF_STD}", found["rms_of_std"] <= RMS_OF_STD),
        "auc_change": (f"within {AUC_CHANGE}", abs(found["auc_change"]) <= AUC_CHANGE),
        "inspect_disk_bytes": (
            "the files' sum",
            found["inspect_disk_bytes"] == found["file_bytes"],
        ),
    }


def table(found: dict[str, Any]) -> str:
    """The figures for people, with requirements."""
    lines = [
        ("logits, largest difference / range", "largest_of_range", ".6f"),
        ("logits, largest difference / std", "largest_of_std", ".6f"),
        ("logits, RMS difference / std", "rms_of_std", ".6f"),
        ("test AUC, checkpoint", "auc_before", ".6f"),
        ("test AUC, store", "auc_after", ".6f"),
        ("test AUC, change", "auc_change", "+.6f"),
        ("table bytes, float32", "source_nbytes", ","),
        ("table bytes, store", "nbytes", ","),
        ("table bytes, store / float32", "ratio", ".4f"),
        ("store on disk by inspect, bytes", "inspect_disk_bytes", ","),
        ("store on disk, sum of its files, bytes", "file_bytes", ","),
    ]
    required = verdicts(found)
    counts = f"{found['samples']:,} samples, {found['fields']} fields, {found['rows']:,} rows"
    texts = [f"{found['set']}: {counts}; tiers {found['tiers']}; seed {found['seed']}"]
    for label, key, style in lines:
        text = f"  {label:<40}{format(found[key], style):>14}"
        if key in required:
            rule, met = required[key]
            text += f"   {rule:<15} {'met' if met else 'MISSED'}"
        texts.append(text)
    return "\n".join(texts)


def _tell(epoch: int, auc: float) -> None:
    print(f"epoch {epoch}: validation AUC {auc:.5f}", file=sys.stderr)


def _inspect(path: Path) -> dict[str, Any]:
    done = subprocess.run(
        [SHARKSTORE, "inspect", path, "--json"], stdout=subprocess.PIPE, check=True
    )
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="a set: encoded.npz and meta.json")
    parser.add_argument("--tiers", default="f32=1%,f16=9%,int8=rest", help="as for convert")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="keep checkpoint, stats and store here")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    return parser.parse_args()


def main() -> int:
    """Run the check; 0 if every requirement is met."""
    options = _options()
    parse_tiers(options.tiers)  # a mistyped policy shows before training
    with tempfile.TemporaryDirectory() as temporary:
        out = options.out or Path(temporary)
        out.mkdir(parents=True, exist_ok=True)
        found = measure(options.folder, options.tiers, options.seed, out)
    met = {key: met for key, (_, met) in verdicts(found).items()}
    print(json.dumps({**found, "met": met}, indent=2) if options.json else table(found))
    return 0 if all(met.values()) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (sharkstore.SharkstoreError, FileNotFoundError, subprocess.CalledProcessError) as error:
        sys.exit(f"error: {error}")
