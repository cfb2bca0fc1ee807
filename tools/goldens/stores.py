"""Golden stores: small, of every encoding, row-map width and chunk layout."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import sharkstore
from sharkstore.encodings import parse_encoding
from sharkstore.kernels.reference import Pool
from sharkstore.load.table import Table
from sharkstore.plan.model import FieldPlan, Plan, TablePlan, TierPlan
from sharkstore.plan.stats import Stats
from sharkstore.tensors import Tensor
from sharkstore.write.store import write_store

Array = NDArray[Any]
MODES: tuple[Pool, ...] = ("sum", "mean", "max")
PROVENANCE = {"tool": "golden", "source": {"name": "golden"}}


class Arrays:
    """Arrays in memory as a source of tensors."""

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        self.arrays = arrays
        self.tensors = {
            name: Tensor(name, array.shape, array.dtype.name) for name, array in arrays.items()
        }

    def read(self, name: str, start: int, stop: int) -> Array:
        """Rows of an array."""
        array = self.arrays[name]
        return array[start:stop] if array.ndim else array


def values(seed: int, *shape: int) -> NDArray[np.float32]:
    """Numbers in (−1, 1) with few digits, so that documents and diffs stay readable."""
    draws = np.random.Generator(np.random.PCG64(seed)).integers(-999, 1000, shape)
    return (draws / np.float64(1000)).astype(np.float32)


def table(array: Array, name: str, tiers: str, **changes: Any) -> TablePlan:
    """A table plan; tiers as `f32 3, int8 rest`."""
    parts = [part.split() for part in tiers.split(", ")]
    given = sum(int(count) for _, count in parts if count != "rest")
    planned = tuple(
        TierPlan(parse_encoding(encoding), len(array) - given if count == "rest" else int(count))
        for encoding, count in parts
    )
    options = {"action": "store", "order": "priority"} | changes
    return TablePlan(
        name=name, rows=len(array), dim=array.shape[1], dtype=array.dtype.name, tiers=planned,
        **options,
    )  # fmt: skip


def write(folder: Path, arrays: Mapping[str, Array], plan: Plan, **options: Any) -> None:
    """Write a store with priorities that scatter the tiers over the rows."""
    source = Arrays(arrays)
    priorities = {
        f"tables/{one.name}/priority": ((np.arange(one.rows) * 37) % 101).astype(np.float32)
        for one in plan.tables
    }
    write_store(
        source,
        source.tensors,
        plan,
        Stats(priorities),
        str(folder),
        provenance=PROVENANCE,
        overwrite=False,
        progress=lambda *_: None,
        **options,
    )


def expected(folder: Path, *, bags: bool = False) -> None:
    """Beside a store, what a reader must give: digest, rows, bags and parameters in hex."""
    with sharkstore.open(folder) as store:
        tables = {}
        for name, one in store.items():
            ids = np.unique(np.linspace(0, one.rows - 1, min(one.rows, 40)).astype(np.int64))
            tables[name] = {
                "ids": ids.tolist(),
                "rows": one.lookup(ids).astype("<f4").tobytes().hex(),
            }
            if one.rows == 0:
                tables[name] = {"ids": [], "rows": ""}
        document = {
            "digest": store.metadata.digest,
            "tables": tables,
            "dense": {name: array.tobytes().hex() for name, array in store.dense.items()},
        }
        if bags:
            document["bags"] = {name: _bags(one) for name, one in store.items()}
    (folder.parent / f"{folder.name}.json").write_text(json.dumps(document, indent=1) + "\n")


def _bags(one: Table) -> dict[str, Any]:
    """Bags of a table by mode: empty ones, one of one id, short ones, a long one."""
    ids = (np.arange(90) * 7919) % one.rows
    offsets = np.array([0, 0, 1, 4, 9, 9, 29])
    pooled: dict[str, Any] = {
        mode: [bag.tobytes().hex() for bag in one.embedding_bag(ids, offsets, mode=mode)]
        for mode in MODES
    }
    return {"ids": ids.tolist(), "offsets": offsets.tolist(), **pooled}


def make(top: Path) -> None:
    """Make all golden stores."""
    for name, maker in (
        ("1.0-tiers", tiers),
        ("1.0-pruned", pruned),
        ("1.0-many-chunks", many_chunks),
        ("1.0-names-and-dense", names_and_dense),
        ("1.1-few-bits", few_bits),
    ):
        maker(top / name)
        expected(top / name)
    codebooks(top / "1.2-pq")
    expected(top / "1.2-pq", bags=True)


def tiers(folder: Path) -> None:
    """Tables of 1, 2, 3 and 6 tiers; row bytes of 18, 20, 66 and 68; an odd dim."""
    arrays = {
        "one": values(1, 70, 16),
        "two": values(2, 130, 5),
        "three": values(3, 200, 64),
        "six": values(4, 300, 16),
        "wide-scales": values(5, 3, 64),
    }
    plan = Plan(
        (
            table(arrays["one"], "one", "int8 rest"),
            table(arrays["two"], "two", "f32 30, int8.affine rest"),
            table(arrays["three"], "three", "f32 2, f16 18, int8 rest"),
            table(
                arrays["six"],
                "six",
                "f32 10, f16 20, int8 100, int8.f32 50, int8.affine.f32 50, constant rest",
            ),
            table(arrays["wide-scales"], "wide-scales", "int8.f32 rest"),
        )
    )
    write(folder, arrays, plan)


def pruned(folder: Path) -> None:
    """A pruned table, a dropped one, a default row, fields with scores; tables without rows."""
    arrays = {
        "kept": values(6, 65, 8),
        "pruned": values(7, 40, 8),
        "dropped": values(8, 10, 8),
        "empty": values(9, 0, 4),
    }
    fields = {
        "user": FieldPlan("kept", 0.25),
        "day": FieldPlan("pruned", 0.0001),
        "hour": FieldPlan("dropped"),
    }
    plan = Plan(
        (
            table(arrays["kept"], "kept", "f16 1, int8 rest", default="mean"),
            table(arrays["pruned"], "pruned", "int8 rest", action="prune"),
            table(arrays["dropped"], "dropped", "int8 rest", action="drop"),
            table(arrays["empty"], "empty", "int8 rest"),
        ),
        fields=fields,
    )
    write(folder, arrays, plan)


def many_chunks(folder: Path) -> None:
    """An array of three chunks, the last one padded, beside arrays of one."""
    rows = 2500
    arrays = {"long": np.repeat(values(10, rows, 1), 16, axis=1)}
    plan = Plan((table(arrays["long"], "long", "f32 2304, int8 rest"),))
    write(folder, arrays, plan, chunk_target=1 << 15)


def names_and_dense(folder: Path) -> None:
    """Names that file systems dislike; parameters of every dtype, and a scalar."""
    arrays: dict[str, Array] = {
        name: values(20 + index, 2, 3)
        for index, name in enumerate(("a/b", "..", "__x", "Case", "case", "ünï"))
    }
    plan = Plan(
        tuple(table(array, name, "f32 rest") for name, array in arrays.items()),
        dense=("mlp.0.weight", "step", "mask", "half", "double", "bytes"),
    )
    arrays |= {
        "mlp.0.weight": values(30, 3, 4),
        "step": np.array(1234567890123),
        "mask": np.array([True, False, True]),
        "half": values(31, 2, 2).astype(np.float16),
        "double": values(32, 3).astype(np.float64),
        "bytes": np.arange(5, dtype=np.uint8),
    }
    write(folder, arrays, plan)


def few_bits(folder: Path) -> None:
    """Codes of 4 and 2 bits beside other tiers; dims that fill no byte, and one value a row."""
    arrays = {
        "four": values(40, 90, 16),
        "two": values(41, 90, 7),
        "wide": values(42, 20, 64),
        "single": values(43, 5, 1),
        "eight": values(44, 200, 13),
    }
    eight = (
        "int4 30, int2 30, int4.affine 20, int2.affine 20, int4.f32 20, int2.f32 20, "
        "int4.affine.f32 20, int2.affine.f32 rest"
    )
    plan = Plan(
        (
            table(arrays["four"], "four", "int4 rest"),
            table(arrays["two"], "two", "f16 10, int8 20, int2 rest"),
            table(arrays["wide"], "wide", "int4.affine rest"),
            table(arrays["single"], "single", "int4 3, int2.affine rest"),
            table(arrays["eight"], "eight", eight),
        )
    )
    write(folder, arrays, plan)


def codebooks(folder: Path) -> None:
    """Codes of codebooks alone and beside other tiers: few entries and all, odd dims, float32."""
    arrays = {
        "four": values(100, 400, 16),
        "whole": values(101, 700, 4),
        "odd": values(102, 200, 7),
        "wide": values(103, 150, 17),
        "single": values(104, 60, 1),
        "three": values(105, 70, 3),
        "eight": values(106, 400, 5),
    }
    eight = "f32 10, f16 20, int8 40, int4 40, pq4.8 60, pq2.8.f32 60, pq8.4 60, constant rest"
    plan = Plan(
        (
            table(arrays["four"], "four", "pq4.16 rest"),
            table(arrays["whole"], "whole", "pq4 rest"),
            table(arrays["odd"], "odd", "int8 20, pq2.9 rest"),
            table(arrays["wide"], "wide", "pq8.16.f32 rest"),
            table(arrays["single"], "single", "pq2.3 30, constant rest"),
            table(arrays["three"], "three", "f32 3, pq4.1 rest"),
            table(arrays["eight"], "eight", eight),
        )
    )
    write(folder, arrays, plan)
