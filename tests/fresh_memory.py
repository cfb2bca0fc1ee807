"""Memory that no allocator had before."""

import mmap


def fresh_memory(size):
    """Private bytes of this process, all of their pages touched."""
    held = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for at in range(0, size, mmap.PAGESIZE):
        held[at] = 1
    return held
