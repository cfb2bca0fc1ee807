"""How much memory conversions ask for, and what of it is refused."""

import pytest
from fresh_memory import fresh_memory

from sharkstore.encodings import parse_encoding
from sharkstore.errors import ArgumentError
from sharkstore.plan.model import Plan, TablePlan, TierPlan
from sharkstore.write.memory import MIB, Load, check_workers, resident_bytes, threads_within


def load(encoding="int8", dim=64, **changes):
    tiers = (TierPlan(parse_encoding(encoding), 1 << 20),)
    table = TablePlan("emb", 1 << 20, dim, "float32", "store", "id", tiers)
    return Load(Plan((table,)), **changes)


def test_this_process_is_counted_as_it_is():
    before = resident_bytes()
    held = fresh_memory(64 * MIB)
    assert 60 * MIB < resident_bytes() - before < 80 * MIB
    del held


def test_without_a_limit_nothing_is_refused():
    assert threads_within(None, load()) == 2
    check_workers(None, 1000, load())


def test_as_many_threads_as_fit_are_taken():
    least = resident_bytes() + load().task(1)
    assert threads_within(least + 8 * MIB, load()) == 1
    assert threads_within(2 * least, load()) == 2


@pytest.mark.parametrize("limit", [1, 30 * MIB])
def test_too_little_is_refused_and_says_what_is_enough(limit):
    with pytest.raises(ArgumentError, match=r"--max-memory: too little \(got \d+MiB, expected \d+"):
        threads_within(limit, load())


def test_too_many_workers_are_refused_and_it_says_how_many_fit():
    one = load().here() + load().worker()
    check_workers(one + 8 * MIB, 1, load())
    with pytest.raises(ArgumentError, match=r"too little for 9 workers .*; --workers 1 fit"):
        check_workers(one + 8 * MIB, 9, load())
    with pytest.raises(ArgumentError, match=r"or more\)$"):
        check_workers(MIB, 1, load())


@pytest.mark.parametrize(
    "more", [load("pq4"), load("int4"), load("pq4", dim=512), load(decides=True), load(cache=MIB)]
)
def test_codes_budgets_and_caches_ask_for_more(more):
    assert more.here() + more.worker() > load().here() + load().worker()
