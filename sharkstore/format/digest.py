"""The digest that names a store by content. Spec: "Digest"."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from sharkstore.format.metadata import BLANK_DIGEST, DIGEST_PREFIX


def store_digest(document: bytes, trailers: Iterable[bytes], digest: str = BLANK_DIGEST) -> str:
    """sha256 over the root document, its digest blanked, and over all chunk trailers.

    Args:
        document: bytes of the root's `zarr.json`.
        trailers: the 4-byte crc32c of every chunk: arrays by path, chunks in order.
        digest: the digest that the document carries.
    """
    hasher = hashlib.sha256(document.replace(digest.encode(), BLANK_DIGEST.encode(), 1))
    for trailer in trailers:
        hasher.update(trailer)
    return DIGEST_PREFIX + hasher.hexdigest()
