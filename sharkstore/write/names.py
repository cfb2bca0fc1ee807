"""Node names for tables and parameters: what every file system takes. Spec: "Names"."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import quote

from sharkstore.format.layout import ROOT_DOCUMENT


def node_name(name: str) -> str:
    """A Zarr node name that every file system takes; at most 200 bytes, see `unique_nodes`."""
    encoded = quote(name, safe="").replace("~", "%7E")
    reserved = not encoded.strip(".") or encoded.casefold() == ROOT_DOCUMENT
    if not name:
        return "~"
    if encoded.startswith("__") or reserved:
        encoded = "".join(f"%{byte:02X}" for byte in name.encode())
    return encoded[:200]


def unique_nodes(names: Iterable[str]) -> dict[str, str]:
    """Name → node name, unique also where a file system ignores case.

    A name that would collide gets `~1`, `~2`, … behind it, in the order given.
    """
    nodes: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        node, count = node_name(name), 0
        while node.casefold() in taken:
            count += 1
            node = f"{node_name(name)}~{count}"
        taken.add(node.casefold())
        nodes[name] = node
    return nodes
