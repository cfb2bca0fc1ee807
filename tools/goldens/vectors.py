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
from sharkstore.quant.metric import factor

F32 = NDArray[np.float32]
ENCODINGS = ("f32", "f16", *(str(one) for one in SPELLED if one.packed))


def make(top: Path) -> None:
    """Make all vectors."""
    for name in ENCODINGS:
        encoding = parse_encoding(name)
        cases = [_encoded(what, encoding, rows) for what, rows in _inputs().items()]
        (top / f"{name}.json").write_text(json.dumps(cases, indent=1) + "\n")
    (top / "pq.json").write_text(
        json.dumps([_with_codebook(*one) for one in BOOKS], indent=1) + "\n"
    )
    (top / "metric.json").write_text(
        json.dumps([_in_metric(*one) for one in METRICS], indent=1) + "\n"
    )
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


# what a case tells, its encoding, dim, and size and middle of its codebook's values
BOOKS = (
    ("ordinary", "pq4.16", 16, 1.0, 0.0),
    ("256 entries", "pq4", 4, 1.0, 0.0),
    ("two values a code", "pq2.9", 8, 1.0, 0.0),
    ("eight values a code", "pq8.5", 16, 1.0, 0.0),
    ("odd dim", "pq4.7", 7, 1.0, 0.0),
    ("one value", "pq2.3", 1, 1.0, 0.0),
    ("fewer values than a code has", "pq8.6.f32", 5, 1.0, 0.0),
    ("a last block of one value", "pq8.4.f32", 17, 1.0, 0.0),
    ("one entry", "pq4.1", 6, 1.0, 0.0),
    ("float32 entries", "pq2.12.f32", 4, 1.0, 0.0),
    ("far from zero", "pq4.12", 8, 1.0, 500.0),
    ("tiny entries", "pq4.8", 8, 1.0e-7, 0.0),
)
PAST = 5  # rows of codes that need not have come from an encoder


def _with_codebook(what: str, name: str, dim: int, size: float, middle: float) -> dict[str, Any]:
    """Rows near entries, their codes; then rows of any codes."""
    encoding = parse_encoding(name)
    seed = 80 + 10 * dim + encoding.sub
    blocks, entries, sub = shape = encoding.codebook_shape(dim)
    book = (values(seed, *shape) * np.float32(size) + np.float32(middle)).astype(
        encoding.book_dtype
    )
    book[:, -1] = book[:, 0]  # of equal ones the first is taken
    book.reshape(blocks, -1)[-1].reshape(entries, sub)[:, dim - (blocks - 1) * sub :] = 0
    rows = (values(seed + 1, 6, dim) * np.float32(size) + np.float32(middle)).astype(np.float32)
    rows[0] = book[:, 0].reshape(-1)[:dim]
    any_codes = np.random.Generator(np.random.PCG64(seed)).integers(0, 256, (PAST, blocks))
    stored = np.concatenate([_nearest(book, rows), any_codes.astype(np.uint8)])
    return {
        "what": what,
        "encoding": name,
        "dim": dim,
        "codebook": [block.tobytes().hex() for block in book],
        "rows": _hex(rows),
        "stored": [row.tobytes().hex() for row in stored],
        "decoded": _hex(kernels.decode_rows(encoding, stored, dim, book)),
    }


def _nearest(book: NDArray[Any], rows: F32) -> NDArray[np.uint8]:
    """Codes of rows, uint8 (n, blocks), as the specification says, without a metric."""
    blocks, entries, sub = book.shape
    centred = book.astype(np.float32)
    center = np.zeros((blocks, sub), np.float32)
    for k in range(entries):
        center += centred[:, k]
    center /= np.float32(entries)
    centred -= center[:, None]
    away = np.zeros((len(rows), blocks * sub), np.float32)
    away[:, : rows.shape[1]] = rows - center.reshape(-1)[: rows.shape[1]]
    score = np.zeros((blocks, entries), np.float32)
    for d in range(sub):
        score += centred[:, :, d] * centred[:, :, d]
    score = np.float32(0.5) * score + np.zeros((len(rows), 1, 1), np.float32)
    for d in range(sub):
        score -= away.reshape(-1, blocks, sub)[:, :, d, None] * centred[:, :, d]
    codes: NDArray[np.uint8] = score.argmin(axis=2).astype(np.uint8)
    return codes


# what a case tells, its encoding, dim, and how many directions its metric has
METRICS = (
    ("ordinary", "int8", 8, 8),
    ("four bits", "int4", 8, 8),
    ("two bits", "int2", 16, 16),
    ("with a bias", "int4.affine", 7, 7),
    ("float32 scale", "int2.f32", 5, 5),
    ("fewer directions than dims", "int4", 12, 3),
    ("nothing", "int4", 4, 0),
    ("one value", "int8.affine", 1, 1),
    ("four values a code", "pq4.16", 16, 16),
    ("two values a code", "pq2.9", 8, 8),
    ("a last block that is short", "pq4.7", 7, 7),
    ("a short block before others", "pq8.6.f32", 19, 19),
    ("fewer directions, with a codebook", "pq8.5", 16, 2),
)


def _in_metric(what: str, name: str, dim: int, directions: int) -> dict[str, Any]:
    """Rows rounded in a metric, its factor, and their squared errors in it."""
    encoding = parse_encoding(name)
    seed = 900 + 40 * dim + directions
    metric = np.zeros((dim, dim), np.float32)
    for place, one in enumerate(values(seed, max(directions, 1), dim)[:directions]):
        metric += one[:, None] * one * np.float32(2.0**-place)
    rows = values(seed + 1, 6, dim)
    found = factor(metric, encoding.sub or 1)
    book, entries = None, None
    if encoding.name == "pq":
        entries = values(seed + 2, *encoding.codebook_shape(dim)).astype(encoding.book_dtype)
        entries[-1, :, dim - (len(entries) - 1) * encoding.sub :] = 0
        book = kernels.Codebook.of(entries, dim, found)
    else:
        encoding = fitted(encoding, float(np.abs(rows).max()))
    stored = kernels.encode_rows(encoding, rows, codebook=book, factor=found)
    errors = kernels.distortions(encoding, rows, factor=found, codebook=book)
    return {
        "what": what,
        "encoding": name,
        "scale_exponent": encoding.scale_exponent,
        "dim": dim,
        "metric": _hex(metric),
        "order": found.order.tolist(),
        "root": _hex(found.root.reshape(-1, dim)),
        **({} if entries is None else {"codebook": [block.tobytes().hex() for block in entries]}),
        "rows": _hex(rows),
        "stored": [row.tobytes().hex() for row in stored],
        "squared_errors": errors.astype("<f4").tobytes().hex(),
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
