"""Vectors in hex: rows to their encodings and back, row maps, bags."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import sharkstore.kernels as kernels
from goldens.stores import values
from sharkstore.encodings import SPELLED, Encoding, parse_encoding
from sharkstore.kernels import reference
from sharkstore.quant.encode import fitted

F32 = NDArray[np.float32]
ENCODINGS = ("f32", "f16", *(str(one) for one in SPELLED if one.packed))


def make(top: Path) -> None:
    """Make all vectors."""
    for name in ENCODINGS:
        encoding = parse_encoding(name)
        cases = [_encoded(what, encoding, rows) for what, rows in _inputs().items()]
        (top / f"{name}.json").write_text(json.dumps(cases, indent=1) + "\n")
    (top / "rowmap.json").write_text(json.dumps(_rowmaps(), indent=1) + "\n")
    (top / "bags.json").write_text(json.dumps(_bags(), indent=1) + "\n")


def _inputs() -> dict[str, F32]:
    """Blocks of rows that tell encoders apart; all fit every encoding."""
    tiny = np.float32(1.0e-5)
    ties = np.arange(-8, 8, dtype=np.float32) + np.float32(0.5)
    return {
        "ordinary": values(60, 6, 16),
        "odd dim": values(61, 4, 7),
        "one value": values(62, 5, 1),
        "dim 64": values(63, 2, 64),
        "zeros, and minus zero": np.array([[0.0, 0.0], [-0.0, 0.0], [-0.0, -0.0]], np.float32),
        "all alike": np.full((1, 5), 0.1, np.float32),
        "tiny rows": values(64, 3, 8) * tiny,
        "one large value": np.array([[1e-3, -2e-3, 500.0, 1e-3]], np.float32),
        "halves": np.concatenate([ties, [np.float32(127)]])[None, :],
        "rows of very different size": values(65, 4, 4)
        * np.array([[1e-6], [1e-3], [1.0], [1e3]], np.float32),
        "subnormals": np.array([[1e-40, -3e-41, 0.0]], np.float32),
    }


def _encoded(what: str, encoding: Encoding, rows: F32) -> dict[str, Any]:
    chosen = fitted(encoding, float(np.abs(rows).max()))
    stored = kernels.encode_rows(chosen, rows)
    decoded = kernels.decode_rows(chosen, stored, rows.shape[1])
    return {
        "what": what,
        "encoding": str(encoding),
        "scale_exponent": chosen.scale_exponent,
        "dim": rows.shape[1],
        "rows": _hex(rows),
        "stored": [row.tobytes().hex() for row in stored],
        "decoded": _hex(decoded),
    }


def _rowmaps() -> list[dict[str, Any]]:
    cases = []
    for tiers, rows in ((2, 1), (2, 64), (2, 130), (3, 100), (4, 64), (5, 70), (8, 200)):
        drawn = np.random.Generator(np.random.PCG64(tiers * 1000 + rows)).integers(0, tiers, rows)
        blocks = kernels.build_rowmap(drawn.astype(np.uint8), (tiers - 1).bit_length())
        cases.append(
            {
                "tiers": tiers,
                "tier_of_row": "".join(map(str, drawn)),
                "blocks": [block.tobytes().hex() for block in blocks],
            }
        )
    return cases


def _bags() -> list[dict[str, Any]]:
    rows = values(70, 12, 3) * np.float32(1.1)
    offsets = np.array([0, 3, 3, 4, 12])
    weights = values(71, 12)
    cases = []
    for mode, weighted in (("sum", False), ("sum", True), ("mean", False), ("max", False)):
        out = np.empty((len(offsets) - 1, 3), np.float32)
        reference.pool(rows, offsets, weights if weighted else None, mode, out)  # type: ignore[arg-type]
        cases.append(
            {
                "mode": mode,
                "rows": _hex(rows),
                "offsets": offsets.tolist(),
                "weights": _hex(weights[:, None]) if weighted else None,
                "bags": _hex(out),
            }
        )
    return cases


def _hex(rows: F32) -> list[str]:
    return [replaced.tobytes().hex() for replaced in np.ascontiguousarray(rows, "<f4")]
