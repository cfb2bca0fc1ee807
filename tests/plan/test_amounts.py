"""Shares and sizes as people write them."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharkstore.errors import PlanError
from sharkstore.plan.amounts import Amount, parse_amount, parse_share, parse_size


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("60%", Fraction(3, 5)),
        ("100%", Fraction(1)),
        ("12.5%", Fraction(1, 8)),
        ("0.1%", Fraction(1, 1000)),
        ("27.4 %", Fraction(137, 500)),
        (" 5% ", Fraction(1, 20)),
    ],
)
def test_a_share_is_exact(text, share):
    assert parse_share(text) == share


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        ("1", 1),
        ("4096", 4096),
        ("4096B", 4096),
        ("1KB", 1000),
        ("1KiB", 1024),
        ("500MB", 500_000_000),
        ("500MiB", 500 << 20),
        ("8GB", 8_000_000_000),
        ("8GiB", 8 << 30),
        ("2TB", 2 * 10**12),
        ("2TiB", 2 << 40),
        ("1.5GB", 1_500_000_000),
        ("0.5KiB", 512),
        ("0.0015KB", 1),
        ("8 GiB", 8 << 30),
        ("8gib", 8 << 30),
        ("3kB", 3000),
        (" 3MB ", 3_000_000),
    ],
)
def test_a_size_is_bytes(text, nbytes):
    assert parse_size(text) == nbytes


@pytest.mark.parametrize("text", ["0%", "0.0%", "100.1%", "250%"])
def test_a_share_out_of_range_is_refused(text):
    with pytest.raises(PlanError, match=rf"got {text}, expected above 0% and at most 100%"):
        parse_share(text)


@pytest.mark.parametrize(
    "text", ["60", "0.6", "%", "-5%", "+5%", "1e1%", "5%%", "nan%", "1/2%", ".%", "٣%", "x", ""]
)
def test_what_is_no_share_is_refused(text):
    with pytest.raises(PlanError, match=r"can't read .* \(expected a share such as '12.5%'\)"):
        parse_share(text)


@pytest.mark.parametrize(
    "text", ["", "GB", "-1GB", "1e9", "1,000", "1_000", "8GiB2", "1.GB", ".5GB", "8  GB", "nan"]
)
def test_what_is_no_size_is_refused(text):
    with pytest.raises(PlanError, match=r"can't read .* \(expected a size such as '8GiB'"):
        parse_size(text)


@pytest.mark.parametrize("unit", ["G", "K", "Gi", "PB", "Gbit", "bytes"])
def test_an_unknown_unit_is_refused_by_name(unit):
    with pytest.raises(PlanError, match=f"unknown unit '{unit}' .expected a size such as '8GiB'"):
        parse_size(f"8{unit}")


def test_the_kelvin_sign_is_no_k():
    with pytest.raises(PlanError, match="can't read"):
        parse_size("8\N{KELVIN SIGN}B")


@pytest.mark.parametrize("text", ["0", "0GB", "0.9", "0.0001KB"])
def test_less_than_a_byte_is_refused(text):
    with pytest.raises(PlanError, match=rf"got {text}, expected a byte or more"):
        parse_size(text)


def test_an_amount_is_a_share_of_a_total_or_a_size():
    assert parse_amount("30%") == Amount(share=Fraction(3, 10))
    assert parse_amount("30%").of(45) == Fraction(27, 2)
    assert parse_amount("8KiB") == Amount(nbytes=8192)
    assert parse_amount("8KiB").of(45) == 8192


@pytest.mark.parametrize("value", [0.3, 30, None, b"30%", ["30%"]])
@pytest.mark.parametrize("parse", [parse_share, parse_size, parse_amount])
def test_what_is_no_text_is_refused(parse, value):
    with pytest.raises(PlanError, match="can't read"):
        parse(value)


def test_an_unreadable_amount_tells_both_ways_to_write_it():
    with pytest.raises(PlanError, match=r"--prune-bytes: can't read 'much'.*'8GiB'.*'12.5%'"):
        parse_amount("much", "--prune-bytes")


@given(st.text() | st.from_regex(r"[0-9.]{1,6} ?[KMGTi]{0,2}[Bb%]{0,2}", fullmatch=True))
def test_any_text_is_an_amount_or_refused_in_a_line(text):
    try:
        assert parse_amount(text).of(1000) > 0
    except PlanError as refusal:
        told = str(refusal)
        assert len(told) < 300


@given(st.integers(1, 10**18 - 1), st.sampled_from(["KB", "MB", "GB", "TB", "KiB", "GiB", "TiB"]))
def test_whole_units_are_exact(number, unit):
    base = 1024 if "i" in unit else 1000
    power = "KMGT".index(unit[0]) + 1
    assert parse_size(f"{number}{unit}") == number * base**power
