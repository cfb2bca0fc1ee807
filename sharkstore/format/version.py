"""Version of the format. Spec: "Versions"."""

from __future__ import annotations

import re

# what this reader knows, the newest last
FORMATS = ("1.0", "1.1", "1.2")
FORMAT = FORMATS[-1]
MAJOR = 1


def major_of(text: str) -> int | None:
    """Major number of a `MAJOR.MINOR` text, or None if it isn't one."""
    match = re.fullmatch(r"(0|[1-9][0-9]{0,5})\.(0|[1-9][0-9]{0,5})", text)
    return int(match[1]) if match else None
