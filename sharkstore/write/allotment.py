"""Tables whose rows were given their encodings one by one, as the writer takes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sharkstore.plan.model import Plan
from sharkstore.write.site import Site


class Allotment(Protocol):
    """What decides over rows, and the codebooks that it decided by.

    Attributes:
        codebooks: stored codebooks of the pq tiers, by table and index of the tier; known once
            rows are decided over.
    """

    codebooks: Mapping[str, Mapping[int, NDArray[Any]]]

    def decide(self, site: Site) -> Plan:
        """Decide over all rows.

        Returns:
            The plan with the tiers and rows that came out.
        """

    def tiers(self, table: str) -> Iterator[NDArray[np.uint8]]:
        """Tiers of consecutive rows, in blocks of a multiple of 64 rows: uint8 (n,)."""
