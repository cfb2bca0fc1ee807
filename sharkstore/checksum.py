"""crc32c of arrays, as chunk files end with. Spec: "Arrays and chunk files"."""

from __future__ import annotations

from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray


def crc32c(block: NDArray[Any], crc: int = 0) -> int:
    """crc32c of a contiguous array's bytes, going on from `crc`."""
    view = block.reshape(-1).view(np.uint8)
    view.flags.writeable = False  # what the library takes without a copy
    extended: int = google_crc32c.extend(crc, view)
    return extended
