"""Requests on arrays with forbidden pages around them: `python request_guards.py CASES BACKEND`."""

import sys
import threading
import time

import numpy as np
from guards import INT64, forgeries, guarded, guarded_view, offsets_of_any_kind
from views import TIERS, make_view, some_ids

from sharkstore import kernels
from sharkstore.kernels import Feature, request

NAMES = ["int8", "3 tiers", "f32", "8 tiers", "2 codebooks", "2 tiers"]
DIMS = [16, 1, 5, 64, 33, 100]


def guarded_features(*, at_front=False, count=6):
    views = [
        guarded_view(make_view(TIERS[name], 90, dim, dim), at_front=at_front)
        for name, dim in zip(NAMES, DIMS, strict=True)
    ]
    return [Feature(views[i % 6]) for i in range(count)]


def bind(features):
    return kernels.bind_request([(kernels.bind(f.table), f.mode, f.padding) for f in features])


def width_of(features):
    return sum(one.table.dim for one in features)


def sound():
    """Any few ids of many tables, right before a forbidden page: equal to the reference."""
    rng = np.random.default_rng(0)
    for at_front in (False, True):
        features = guarded_features(at_front=at_front, count=40)
        bound, width = bind(features), width_of(features)
        for lengths in ([0, 1], [1], [0, 0, 0, 0, 7], [33]):
            for dtype in (np.int64, np.int32):
                sizes = rng.choice(lengths, 80)
                offsets = np.concatenate([[0], np.cumsum(sizes)])
                ids = guarded(some_ids(90, offsets[-1], rng, dtype), at_front=at_front)
                weights = guarded(np.ones(len(ids), np.float32), at_front=at_front)
                given = guarded(offsets.astype(dtype), at_front=at_front)
                out = guarded(np.zeros((2, width), np.float32), at_front=at_front)
                bound.embedding_bags(ids, given, weights, out, 1)
                expected = np.empty_like(out)
                wide = ids.astype(np.int64)
                request.embedding_bags(features, wide, offsets, weights, expected)
                np.testing.assert_array_equal(out, expected)
                starts = guarded(offsets[::2], at_front=at_front)
                dims = [one.table.dim for one in features]
                rows = guarded(np.zeros(np.diff(starts) @ dims, np.float32), at_front=at_front)
                bound.lookups(ids, starts, rows, 1)
                expected = np.empty_like(rows)
                request.lookups(features, wide, starts, expected)
                np.testing.assert_array_equal(rows, expected)


def forged():
    """Row maps and ids that lead anywhere: told, or answered by some row of the table."""
    rng = np.random.default_rng(1)
    met = 0
    features = guarded_features(count=12)
    bound, width = bind(features), width_of(features)
    damaged = [one.table for one in features if one.table.rowmap is not None]
    for view in damaged[:3]:
        for rowmap in list(forgeries(view, rng)):
            view.rowmap[:] = rowmap
            ids = rng.integers(INT64.min, INT64.max, 240, endpoint=True)
            ids[rng.random(240) < 0.8] %= 90
            out = guarded(np.zeros((4, width), np.float32))
            offsets = guarded(np.arange(49) * 5)
            found = bound.embedding_bags(guarded(ids), offsets, None, out, 1)
            met += found[3] >= 0
    assert met > 20, met


def forged_offsets():
    """Offsets that make no bags: told so, whatever they are."""
    rng = np.random.default_rng(2)
    features = guarded_features(count=5)
    bound, width = bind(features), width_of(features)
    told = 0
    for count in (0, 1, 100):
        ids = guarded(rng.integers(90, size=count))
        for offsets in offsets_of_any_kind(count, rng):
            out = guarded(np.zeros((1, width), np.float32))
            found = bound.embedding_bags(ids, guarded(offsets), None, out, 1)
            sound = offsets[0] == 0 and offsets[-1] == count
            sound = sound and not (offsets[1:] < offsets[:-1]).any()
            assert (found is None) == sound, (offsets, count, found)
            assert sound or found[5] is True
            told += not sound
    assert told > 100, told


def changing():
    """Ids and offsets that another thread changes all the while."""
    rng = np.random.default_rng(3)
    features = guarded_features(count=12)
    bound, width = bind(features), width_of(features)
    batch = 700
    starts = np.arange(12 * batch + 1) * 3
    good = rng.integers(90, size=starts[-1])
    bad = rng.integers(INT64.min, INT64.max, len(good), endpoint=True)
    wild = rng.integers(INT64.min, INT64.max, len(starts), endpoint=True)
    falling = starts[::-1]
    moved = np.sort(rng.integers(0, len(good), len(starts)))
    ids, offsets = guarded(good), guarded(starts)
    stop = threading.Event()

    def change():
        while not stop.is_set():
            for i, o in ((bad, wild), (good, starts), (bad, moved), (good, falling)):
                ids[:] = i
                offsets[:] = o

    other = threading.Thread(target=change)
    other.start()
    out = guarded(np.zeros((batch, width), np.float32))
    begin = time.monotonic()
    seen = set()
    while (taken := time.monotonic() - begin) < 1.5 or (len(seen) < 2 and taken < 60):
        for threads in (1, 3):
            found = bound.embedding_bags(ids, offsets, None, out, threads)
            seen.add(found is not None and found[5])
    stop.set()
    other.join()
    assert seen == {True, False}, "the offsets never changed"


CASES = [sound, forged, forged_offsets, changing]

if __name__ == "__main__":
    name, chosen = sys.argv[1:]
    kernels.use_backend(chosen)
    {case.__name__: case for case in CASES}[name]()
    print("done")
