"""Arrays with forbidden pages right before and behind them, and lookups on them.

Run as a program, so that a crash is a failed test: `python guards.py CASES BACKEND`.
"""

import ctypes
import mmap
import sys
import threading
import time

import numpy as np
from strategies import INT8, READ_PAST_END, ROW_BY_ROW
from views import TIERS, check_bags, check_lookup, make_view, some_ids, what_is_outside

from sharkstore import kernels
from sharkstore.kernels import Tier, reference
from sharkstore.kernels.rowmap import build_rowmap

PAGE = mmap.PAGESIZE
NOTHING_ALLOWED = 0
C = ctypes.CDLL(None, use_errno=True)
C.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
DIMS = [1, 2, 3, 4, 7, 8, 15, 16, 17, 24, 31, 33, 48, 64, 65, 96, 100, 128, 130, 256, 300]
INT64 = np.iinfo(np.int64)


def guarded(array, room=0, *, at_front=False):
    """A copy that ends `room` bytes before a forbidden page, or begins right behind one."""
    array = np.ascontiguousarray(array)
    inner = -(-(array.nbytes + room) // PAGE) * PAGE
    memory = mmap.mmap(-1, inner + 2 * PAGE)
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    start = PAGE if at_front else PAGE + inner - room - array.nbytes
    whole = np.frombuffer(memory, np.uint8)
    copy = whole[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    for page in (base, base + PAGE + inner):
        if C.mprotect(page, PAGE, NOTHING_ALLOWED) != 0:
            raise OSError(ctypes.get_errno(), "mprotect")
    return copy


def guarded_view(view, *, room=READ_PAST_END, at_front=False):
    """The table; its stored rows and its row map guarded, and its codebooks, without room."""
    tiers = []
    for tier in view.tiers:
        book = tier.codebook
        book = None if book is None else guarded(book, at_front=at_front)
        data = guarded(tier.data, room, at_front=at_front)
        tiers.append(Tier(tier.encoding, tier.rows, data, book))
    rowmap = view.rowmap
    if rowmap is not None:
        rowmap = guarded(rowmap, room, at_front=at_front)
    return kernels.TableView(view.rows, view.dim, tiers, rowmap, view.default)


def guarded_views(names, dims, rows, *, at_front):
    for name in names:
        for dim in dims:
            view = make_view(TIERS[name], rows, dim, seed=dim)
            yield name, guarded_view(view, at_front=at_front)


def last_rows_first(rows, rng):
    """Ids of the last rows of every tier most likely, of any rows, and of none."""
    return np.concatenate(
        [np.arange(rows)[::-1][:20], some_ids(rows, 60, rng), np.arange(rows)[-3:]]
    )


# --- cases -----------------------------------------------------------------------------------


def sound():
    """Lookups and bags of sound tables: equal to the reference, and nothing beside is touched."""
    rng = np.random.default_rng(0)
    for at_front in (False, True):
        for name, view in guarded_views(TIERS, DIMS, 90, at_front=at_front):
            table = kernels.bind(view)
            for dtype in (np.int64, np.int32):
                ids = guarded(last_rows_first(90, rng).astype(dtype), at_front=at_front)
                check_lookup(view, table, ids, name)
                out = guarded(np.zeros((len(ids), view.dim), np.float32), at_front=at_front)
                assert table.lookup(ids, out) == what_is_outside(ids, 90)
                offsets = guarded(np.array([0, 0, 1, 21, len(ids)]), at_front=at_front)
                check_bags(view, table, ids, offsets, "mean", what=name)
                weights = guarded(np.ones(len(ids), np.float32), at_front=at_front)
                bags = guarded(np.zeros((4, view.dim), np.float32), at_front=at_front)
                table.embedding_bag(ids, offsets, weights, True, 0, 3, bags)


def few_ids():
    """Every small number of ids, right before a forbidden page."""
    rng = np.random.default_rng(1)
    for name, view in guarded_views(TIERS, [5, 16], 70, at_front=False):
        table = kernels.bind(view)
        for count in [*range(70), 127, 128, 129, 160, 161, 191, 193, 257]:
            for dtype in (np.int64, np.int32):
                ids = guarded(some_ids(70, count, rng, dtype))
                check_lookup(view, table, ids, name)


def forgeries(view, rng):
    """Row maps that lead anywhere."""
    shape = view.rowmap.shape
    planes = {16: 1, 32: 2, 64: 3}[shape[1]]
    lengths = np.zeros(2**planes, "<u4")
    lengths[: len(view.tiers)] = [tier.rows for tier in view.tiers]
    ends = 8 * planes + 4 * 2**planes
    yield rng.integers(0, 256, shape, np.uint8)
    yield np.full(shape, 255, np.uint8)
    for planes_are in (0, 255, 0x55):
        for counter in (lengths, lengths - 1, lengths + 1, np.full_like(lengths, 2**32 - 1)):
            forged = np.full(shape, planes_are, np.uint8)
            forged[:, 8 * planes : ends] = counter.view(np.uint8)
            yield forged
    forged = view.rowmap.copy()
    forged[:, 8 * planes : ends] = rng.integers(0, 256, (shape[0], ends - 8 * planes), np.uint8)
    yield forged
    forged = view.rowmap.copy()
    forged[:, : 8 * planes] |= 255  # codes of tiers that the table may lack
    yield forged


def forged():
    """Row maps and ids that lead anywhere: refused, or answered by some row of the table."""
    rng = np.random.default_rng(2)
    names = [name for name in TIERS if "tiers" in name]
    met = 0
    for at_front in (False, True):
        for _, view in guarded_views(names, [1, 7, 16, 64, 100, 300], 130, at_front=at_front):
            table = kernels.bind(view)
            for rowmap in list(forgeries(view, rng)):
                view.rowmap[:] = rowmap
                wide = rng.integers(INT64.min, INT64.max, 200, endpoint=True)
                wide[rng.random(200) < 0.5] %= 140
                for ids in (guarded(wide), guarded(wide.astype(np.int32))):
                    out = guarded(np.zeros((200, view.dim), np.float32))
                    found = table.lookup(ids, out)
                    offsets = guarded(np.array([0, 7, 100, 200]))
                    bags = guarded(np.zeros((3, view.dim), np.float32))
                    again = table.embedding_bag(ids, offsets, None, True, 0, -1, bags)
                    assert found == again
                    met += found is not None and found[2] >= 0
    assert met > 100, met


def offsets_of_any_kind(count, rng):
    """Offsets (6,) that make no bags of `count` ids, and a few that do."""
    last = count + 1
    for bad in (-1, INT64.min, INT64.max, last, 2**40, 2**61, 2**62, 2**32, -(2**32)):
        for position in range(6):
            offsets = np.array([0, 3, 3, 50, 90, count])
            offsets[position] = bad
            yield offsets
    yield np.array([count, 90, 50, 3, 3, 0])
    for _ in range(50):
        yield rng.integers(INT64.min, INT64.max, 6, endpoint=True)
        yield rng.integers(-2, count + 3, 6)
        yield np.sort(rng.integers(-1, count + 2, 6))
        yield np.array([0, *np.sort(rng.integers(0, last, 4)), count])


def forged_offsets():
    """Offsets that make no bags: told so, whatever they are."""
    rng = np.random.default_rng(3)
    told = 0
    names = ["f32", "int8", "3 tiers", "8 tiers"]
    for _, view in guarded_views(names, [5, 16], 90, at_front=False):
        table = kernels.bind(view)
        for count in (0, 1, 100):
            ids = guarded(rng.integers(90, size=count))
            for offsets in offsets_of_any_kind(count, rng):
                for last in (True, False):
                    out = guarded(np.zeros((6 - last, view.dim), np.float32))
                    for pool in range(3):
                        given = guarded(offsets)
                        found = table.embedding_bag(ids, given, None, last, pool, -1, out)
                        whole = offsets if last else np.append(offsets, count)
                        sound = whole[0] == 0 and whole[-1] == count
                        sound = sound and not (whole[1:] < whole[:-1]).any()
                        assert (found is None) == sound, (offsets, count, last, found)
                        assert sound or found[-1] is True
                        told += not sound
    assert told > 100, told


def changing():
    """Ids, offsets and weights that another thread changes all the while."""
    rng = np.random.default_rng(4)
    count, dim, rows = 3000, 16, 130
    view = guarded_view(make_view(TIERS["4 tiers"], rows, dim))
    table = kernels.bind(view)
    good = rng.integers(rows, size=count)
    bad = rng.integers(INT64.min, INT64.max, count, endpoint=True)
    starts = np.arange(0, count, 3)
    wild = rng.integers(INT64.min, INT64.max, len(starts), endpoint=True)
    ids, offsets = guarded(good), guarded(starts)
    stop = threading.Event()

    def change():
        while not stop.is_set():
            for i, o in ((bad, wild), (good, starts), (bad, starts), (good, wild)):
                ids[:] = i
                offsets[:] = o

    other = threading.Thread(target=change)
    other.start()
    out = guarded(np.zeros((count, dim), np.float32))
    bags = guarded(np.zeros((len(starts), dim), np.float32))
    begin = time.monotonic()
    seen = set()
    while (taken := time.monotonic() - begin) < 1.5 or (len(seen) < 2 and taken < 60):
        found = table.lookup(ids, out)
        seen.add(found is None)
        table.embedding_bag(ids, offsets, None, False, 0, 5, bags)
        table.embedding_bag(ids, offsets, None, False, 2, 5, bags)
    stop.set()
    other.join()
    assert seen == {True, False}, "the ids never changed"


def encoding():
    """Rows to encode and to measure, and what is written: nothing beside them is touched."""
    rng = np.random.default_rng(5)
    for dim in DIMS:
        for count in (1, 2, 7, 15, 16, 17, 64, 70):
            rows = guarded(rng.normal(size=(count, dim)).astype(np.float32))
            tiers = rng.integers(3, size=count).astype(np.uint8)
            rowmap = guarded(build_rowmap(tiers, 2))
            for one in ROW_BY_ROW:
                out = guarded(np.zeros((count, one.row_bytes(dim)), np.uint8))
                expected = reference.encode_rows(one, rows)
                np.testing.assert_array_equal(kernels.encode_rows(one, rows, out), expected)
                for tier in range(4):
                    wanted = int((tiers == tier).sum())
                    out = guarded(np.zeros((wanted, one.row_bytes(dim)), np.uint8))
                    assert kernels.encode_tier(one, rows, rowmap, tier, 0, out) == wanted
                    np.testing.assert_array_equal(out, expected[tiers == tier])
            for ranged in (0, 5):
                largest, sizes = np.zeros(3, np.float32), np.zeros((3, 278), np.int64)
                kernels.measure_rows(rows, rowmap, ranged, guarded(largest), guarded(sizes))
            rowmap[:] = rng.integers(0, 256, rowmap.shape, np.uint8)
            out = guarded(np.zeros((count, 2 + dim), np.uint8))
            for tier in range(4):
                assert kernels.encode_tier(INT8, rows, rowmap, tier, 0, out) <= count


def no_room():
    """What must crash: rows of one value with a forbidden page right behind them."""
    for room in (READ_PAST_END, 0):
        view = guarded_view(make_view(TIERS["f32"], 10, 1), room=room)
        print("room", room, flush=True)
        kernels.bind(view).lookup(np.array([9]), np.zeros((1, 1), np.float32))


CASES = [sound, few_ids, forged, forged_offsets, changing, encoding, no_room]

if __name__ == "__main__":
    name, chosen = sys.argv[1:]
    kernels.use_backend(chosen)
    {case.__name__: case for case in CASES}[name]()
    print("done")
