"""Encodings, floors, and what a table is offered."""

import pytest

from sharkstore.allocate.request import (
    DEFAULT,
    Floor,
    check_floors,
    offered,
    parse_encodings,
    parse_floor,
)
from sharkstore.encodings import Encoding, parse_encoding
from sharkstore.errors import PlanError

ALL = parse_encodings(DEFAULT)


def names(encodings):
    return [str(one) for one in encodings]


def test_encodings_come_in_order_of_precision():
    assert names(parse_encodings(("constant", "int4", "pq8", "f16"))) == [
        "f16",
        "int4",
        "pq8",
        "constant",
    ]


@pytest.mark.parametrize("texts", [(), ("int8", "int8"), ("int9",), ("pq3",), ("",)])
def test_others_are_refused(texts):
    with pytest.raises(PlanError, match="encodings"):
        parse_encodings(texts)


def test_a_floor_names_an_encoding_and_tables():
    assert parse_floor("int8:emb.user*") == Floor(Encoding("int8"), "emb.user*")
    for text in ("int8", "int8:", ":emb", "int9:emb", "", 3):
        with pytest.raises(PlanError, match="floor"):
            parse_floor(text)
    with pytest.raises(PlanError, match="no table"):
        check_floors([parse_floor("int8:x*")], ["emb"])
    check_floors([parse_floor("int8:e*")], ["emb"])


def test_a_large_table_is_offered_all_with_full_codebooks():
    assert names(offered(ALL, (), "t", 10**7, 16, 1.0)) == list(DEFAULT)


def test_a_floor_leaves_what_is_as_precise():
    floors = [parse_floor("int8:t*"), parse_floor("f16:other")]
    assert names(offered(ALL, floors, "t", 10**7, 16, 1.0)) == ["f32", "f16", "int8"]
    assert names(offered(ALL, floors, "other", 10**7, 16, 1.0)) == ["f32", "f16"]
    with pytest.raises(PlanError, match="above its floor"):
        offered(parse_encodings(("int4",)), floors, "t", 10**7, 16, 1.0)


def test_small_tables_are_offered_smaller_codebooks_and_tiny_ones_none():
    small = names(offered(ALL, (), "t", 4_000, 16, 1.0))
    assert {"pq4", "pq4.64", "pq4.16"} <= set(small)
    assert not any(name.startswith("pq") for name in names(offered(ALL, (), "t", 60, 16, 1.0)))


def test_codebooks_are_float32_where_float16_would_lose_precision():
    for largest in (1e-4, 1e5):
        assert "pq4.f32" in names(offered(ALL, (), "t", 10**7, 16, largest))


def test_what_was_asked_for_alone_is_offered_though_it_does_not_pay():
    only = (parse_encoding("pq4"),)
    assert names(offered(only, (), "t", 50, 16, 1.0)) == ["pq4.50", "pq4.16"]


def test_what_sizes_make_equal_is_offered_once():
    both = parse_encodings(("pq4", "pq4.64"))
    assert names(offered(both, (), "t", 50, 16, 1.0)) == ["pq4.50", "pq4.16"]
