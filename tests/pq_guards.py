"""Encoding by codebooks, and distortions, of arrays between pages that may not be touched.

Run as a program, so that a crash is a failed test: `python pq_guards.py BACKEND`.
"""

import sys
from dataclasses import replace

import numpy as np
from guards import guarded
from strategies import random_rows

from sharkstore import kernels
from sharkstore.encodings import SPELLED
from sharkstore.kernels import Codebook, Factor, distortion, pq

DIMS = [1, 3, 7, 8, 9, 16, 17, 33, 64]
PARTS = ["values", "center", "terms", "order"]


def in_guards(one, parts, *, at_front):
    return replace(one, **{part: guarded(getattr(one, part), at_front=at_front) for part in parts})


def guarded_book(encoding, dim, rng, factor, *, at_front):
    entries = rng.normal(size=encoding.codebook_shape(dim)).astype(encoding.book_dtype)
    book = Codebook.of(entries, dim, factor)
    return in_guards(book, PARTS if factor is None else [*PARTS, "root"], at_front=at_front)


def check(encoding, dim, count, rng, *, at_front):
    def held(array):
        return guarded(array, at_front=at_front)

    rows, stand_in = held(random_rows(count, dim, seed=count)), held(random_rows(1, dim)[0])
    served = stand_in if encoding.name == "constant" else None
    order, root = np.arange(dim), np.triu(random_rows(dim, dim))
    whole = in_guards(
        Factor.of(order, root, encoding.sub or 1), ["order", "feed", "diagonal"], at_front=at_front
    )
    diagonal = Factor.of(order, root[0], encoding.sub or 1)
    for factor in (None, whole, in_guards(diagonal, ["order", "diagonal"], at_front=at_front)):
        book = None
        if encoding.name == "pq":
            book = guarded_book(encoding, dim, rng, factor, at_front=at_front)
        out = held(np.zeros((count, encoding.row_bytes(dim)), np.uint8))
        kernels.encode_rows(encoding, rows, out, book, factor)
        far = held(np.zeros(count, np.float32))
        kernels.distortions(encoding, rows, factor, book, served, far)
        expected = distortion.distortions(encoding, rows, factor, book, served)
        np.testing.assert_array_equal(far, expected)
        if book:
            np.testing.assert_array_equal(out, pq.encode(book, rows))


if __name__ == "__main__":
    kernels.use_backend(sys.argv[1])
    generator = np.random.default_rng(0)
    for spelled in SPELLED:
        few = replace(spelled, entries=9) if spelled.name == "pq" else spelled
        for length in DIMS:
            for front in (False, True):
                check(few, length, 17, generator, at_front=front)
    print("done")
