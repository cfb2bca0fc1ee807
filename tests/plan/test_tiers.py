"""The `--tiers` grammar, and how many rows each tier takes."""

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharkstore.encodings import SPELLED, Encoding
from sharkstore.errors import PlanError
from sharkstore.plan.tiers import TierRule, parse_tiers

F32, F16, INT8 = Encoding("f32"), Encoding("f16"), Encoding("int8")
REST = TierRule(INT8)


def percent(encoding, share):
    return TierRule(encoding, Fraction(share) / 100)


def least(encoding, threshold):
    return TierRule(encoding, threshold=threshold)


def shared(text, rows):
    return parse_tiers(text).counts(rows, lambda _: pytest.fail("shares ask for no priorities"))


@pytest.mark.parametrize("encoding", SPELLED, ids=str)
def test_an_encoding_alone_takes_all_rows(encoding):
    assert parse_tiers(str(encoding)).rules == (TierRule(encoding),)


@pytest.mark.parametrize(
    ("text", "rules"),
    [
        ("int8=rest", [REST]),
        ("int8=100%", [percent(INT8, "100")]),
        ("f32=1%,f16=9%,int8=rest", [percent(F32, "1"), percent(F16, "9"), REST]),
        ("f32=1%,f16=9%,int8=90%", [percent(F32, "1"), percent(F16, "9"), percent(INT8, "90")]),
        ("f32=0.5%,int8", [percent(F32, "0.5"), REST]),
        ("f32=.5%,int8", [percent(F32, "0.5"), REST]),
        ("f32=0%,int8", [percent(F32, "0"), REST]),
        ("f32=100%,int8=rest", [percent(F32, "100"), REST]),
        ("  f32=1% ,\tint8=rest ", [percent(F32, "1"), REST]),
        ("f32@1000,f16@50,int8", [least(F32, 1000), least(F16, 50), REST]),
        ("f32@1e3,int8=rest", [least(F32, 1000), REST]),
        ("f32@0.25,f16@-1,int8", [least(F32, 0.25), least(F16, -1), REST]),
    ],
)
def test_every_form_is_read(text, rules):
    assert parse_tiers(text).rules == tuple(rules)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("int7", "unknown encoding 'int7' .known: f32, f16, int8"),
        ("f32=1%,int3=rest", "unknown encoding 'int3'"),
        ("", "can't read ''"),
        ("f32=1%,,int8", "can't read ''"),
        ("f32=1%,int8,", "can't read ''"),
        ("f32 = 1%,int8", "can't read 'f32 = 1%'"),
        ("f32=1,int8", "can't read 'f32=1'"),
        ("f32>1000,int8", "can't read 'f32>1000'"),
        ("F32", "can't read 'F32'"),
        ("f32=-1%,int8", "can't read 'f32=-1%'"),
        ("f32=1.2.3%,int8", r"'1\.2\.3'"),
        ("f32=.%,int8", r"'\.'"),
        ("f32=60%,f16=50%,int8", r"shares above 100 % \(got 110 %\)"),
        ("f32=100.5%", r"shares above 100 % \(got 100.5 %\)"),
        ("f32=1%,int8=90%", r"stop short of 100 % \(got 91 %\); end with 'int8=rest'"),
        ("int8=90%", "stop short of 100 %"),
        ("f32=rest,int8=rest", "only the last tier takes the rest"),
        ("f32,int8", "only the last tier takes the rest"),
        ("f32=1%,f16@5,int8", "don't mix"),
        ("f32@5,f16=1%,int8", "don't mix"),
        ("f32@5,int8@1", "the last tier takes the rest: no threshold"),
        ("f32@5", "the last tier takes the rest: no threshold"),
        ("f32@5,f16@5,int8", "thresholds must be finite and fall"),
        ("f32@5,f16@6,int8", "thresholds must be finite and fall"),
        ("f32@1e999,int8", "thresholds must be finite and fall"),
        ("f32@nan,int8", "can't read 'f32@nan'"),
        ("f32@inf,int8", "can't read 'f32@inf'"),
        ("f32@1e,int8", "'1e'"),
        (",".join(["f32=1%"] * 8 + ["int8"]), r"more than 8 tiers.*got 9"),
    ],
)
def test_what_breaks_the_grammar_is_refused_with_the_text(text, message):
    with pytest.raises(PlanError, match=message) as raised:
        parse_tiers(text)
    assert repr(text) in str(raised.value)


@pytest.mark.parametrize(
    ("text", "rows", "counts"),
    [
        ("int8", 10, (10,)),
        ("f32=1%,f16=9%,int8=rest", 1000, (10, 90, 900)),
        ("f32=1%,f16=9%,int8=90%", 1000, (10, 90, 900)),
        ("f32=50%,int8", 3, (2, 1)),  # 1.5 is rounded up
        ("f32=50%,int8", 1, (1, 0)),
        ("f32=49.9%,int8", 1, (0, 1)),
        ("f32=1%,int8", 49, (0, 49)),
        ("f32=1%,int8", 50, (1, 49)),
        # ends are rounded, not tiers: 2.5 and 5.0 and 7.5 of 10 rows
        ("f32=25%,f16=25%,int8=25%,int8.affine=rest", 10, (3, 2, 3, 2)),
        ("f32=33.3%,f16=33.3%,int8", 1, (0, 1, 0)),
        ("f32=1%,int8", 0, (0, 0)),
        ("f32=0.1%,int8", 3_000_000_500, (3_000_001, 2_997_000_499)),
    ],
)
def test_shares_are_rounded_half_up_at_each_tiers_end(text, rows, counts):
    assert shared(text, rows) == counts


@given(
    parts=st.lists(st.integers(0, 40), min_size=1, max_size=7).filter(lambda p: sum(p) <= 100),
    rows=st.integers(0, 5000),
)
def test_counts_of_shares_add_up_and_stay_within_a_row_of_the_share(parts, rows):
    text = ",".join([f"f16={part}%" for part in parts] + ["int8=rest"])
    counts = shared(text, rows)
    assert sum(counts) == rows
    assert all(abs(n - rows * part / 100) <= 1 for n, part in zip(counts, parts, strict=False))


def test_counts_of_thresholds_are_the_rows_that_reach_them():
    priorities = [7.0, 50.0, 1000.0, 49.9, 2000.0, 0.0]

    def at_least(threshold):
        return sum(one >= threshold for one in priorities)

    assert parse_tiers("f32@1000,f16@50,int8").counts(6, at_least) == (2, 1, 3)


def test_thresholds_that_no_row_reaches_leave_empty_tiers():
    assert parse_tiers("f32@1000,f16@50,int8").counts(6, lambda _: 0) == (0, 0, 6)


@pytest.mark.parametrize(
    ("text", "needed"), [("int8", False), ("f32=1%,int8", False), ("f32@5,int8", True)]
)
def test_only_thresholds_need_priorities(text, *, needed):
    assert parse_tiers(text).needs_priorities is needed


def test_shares_are_exact_fractions():
    thirds = "f32=33.33333333333333333333%,int8"
    rows = 3 * 10**9
    assert shared(thirds, rows)[0] == math.floor(
        rows * Fraction("0.3333333333333333333333") + Fraction(1, 2)
    )
