from typing import Any

import numpy as np
from numpy.typing import NDArray

def map_chunks(
    folder: int, paths: list[bytes], chunk_bytes: int, file_bytes: int
) -> NDArray[np.uint8]: ...
def huge_array(size: int) -> NDArray[np.uint8]: ...
def backends() -> list[str]: ...
def backend() -> str: ...
def use_backend(name: str) -> None: ...
def encode(kind: int, exponent: int, codebook: Any, factor: Any, rows: Any, out: Any) -> None: ...
def encode_tier(
    kind: int,
    exponent: int,
    codebook: Any,
    factor: Any,
    rows: Any,
    rowmap: Any,
    tier: int,
    skip: int,
    out: Any,
) -> int: ...
def distort(
    kind: int, exponent: int, codebook: Any, factor: Any, rows: Any, stand_in: Any, out: Any
) -> None: ...
def measure(rows: Any, rowmap: Any, ranged: int, largest: Any, magnitudes: Any) -> bool: ...
def build_rowmap(tiers: Any, planes: int, before: Any, out: Any) -> None: ...

class Table:
    def __init__(
        self,
        rows: int,
        dim: int,
        tiers: list[tuple[int, int, float, NDArray[np.uint8], NDArray[np.uint8] | None]],
        rowmap: NDArray[np.uint8] | None,
        default: NDArray[np.float32],
    ) -> None: ...
    def lookup(self, ids: Any, out: Any) -> Any: ...
    def embedding_bag(
        self,
        ids: Any,
        offsets: Any,
        weights: Any,
        last: bool,
        pool: int,
        padding: int,
        out: Any,
    ) -> Any: ...

class Request:
    def __init__(self, features: list[tuple[Table, int, int]]) -> None: ...
    def embedding_bags(
        self, values: Any, offsets: Any, weights: Any, out: Any, threads: int
    ) -> Any: ...
    def lookups(self, values: Any, offsets: Any, out: Any, threads: int) -> Any: ...
