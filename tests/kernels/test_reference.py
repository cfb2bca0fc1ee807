"""What the numpy reference computes, against plain loops and bounds derived from the spec."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import (
    AFFINE,
    AFFINE8,
    BOOKED,
    CONSTANT,
    F16,
    F32,
    INT8,
    PACKED,
    SYMMETRIC,
    SYMMETRIC8,
    assert_same_bits,
    decode_slowly,
    kinds_of_rows,
    memory_table,
    random_codebook,
    random_codes,
    random_rows,
)

from sharkstore import kernels
from sharkstore.encodings import Encoding
from sharkstore.kernels import reference, rowmap
from sharkstore.quant.encode import fitted

LARGEST = float(np.finfo(np.float32).max)
DIMS = [1, 3, 64, 129, 130]
FLOAT32_HALF_UNIT = 2.0**-24  # of a value's size, where it is normal
FLOAT16_HALF_UNIT = 2.0**-11
SUBNORMAL_HALF_UNIT = {"float16": 2.0**-25, "float32": 2.0**-150}


def scaled(exponent):
    return Encoding("int8", scale_exponent=exponent)


KINDS = list(kinds_of_rows(1))


# --- bytes by hand ---------------------------------------------------------------------------

BY_HAND = [
    # scale 127 / 127 = 1 = 0x3c00; 0.5, 1.5 and -2.5 round to even
    (INT8, [127, -63, 0.5, 1.5, -2.5], "003c 7f c1 00 02 fe", [127, -63, 0, 2, -2]),
    # scale 2^-20, stored as 2^14 = 0x7400
    (scaled(34), [127 * 2.0**-20, -(2.0**-20)], "0074 7f ff", None),
    # scale 3 = 0x40400000 in float32
    (SYMMETRIC[1], [381, -3, 0], "00004040 7f ff 00", None),
    # bias -1 = 0xbc00, scale (254 + 1) / 255 = 1
    (AFFINE[0], [-1, 0, 254, 1.5], "003c 00bc 00 01 ff 02", [-1, 0, 254, 1]),
    (AFFINE[1], [2, 512], "00000040 00000040 00 ff", None),
    # the farthest value takes code -8: scale -1 = 0xbc00; code + 8, low bits first, odd dim
    (Encoding("int4"), [8, -7, 0, 3, -4], "00bc f0 58 0c", [8, -7, -0.0, 3, -4]),
    # code -2 and a scale of 3
    (Encoding("int2", "symmetric", "float32"), [-6, 3, 0, 3, -3], "00004040 ec 01", None),
    (
        Encoding("int2", "symmetric", "float32"),
        [6, -3, 0, -3, 3],
        "000040c0 ec 01",
        [6, -3, -0.0, -3, 3],
    ),
    # bias -1, scale 2
    (Encoding("int4", "affine"), [-1, 29, 1, 3, 5], "0040 00bc f0 21 03", None),
    (Encoding("int2", "affine"), [2, 1, 0, 3, 1], "003c 0000 c6 01", None),
    (F16, [1, -2, 65504, 2.0**-24], "003c 00c0 ff7b 0100", None),
    (F32, [1, -0.0], "0000803f 00000080", None),
]


@pytest.mark.parametrize(("encoding", "row", "stored", "decoded"), BY_HAND)
def test_bytes_computed_by_hand(encoding, row, stored, decoded):
    encoded = reference.encode_rows(encoding, np.array([row], np.float32))
    assert encoded.tobytes() == bytes.fromhex(stored)
    expected = np.array([row if decoded is None else decoded], np.float32)
    assert_same_bits(kernels.decode_rows(encoding, encoded, len(row)), expected)


# --- encodings -------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize(
    "encoding", [F32, F16, CONSTANT, *PACKED, scaled(20), scaled(-107), scaled(126)], ids=repr
)
def test_decoder_equals_plain_python_on_random_bytes(encoding, dim):
    size = encoding.row_bytes(dim)
    stored = np.random.default_rng(dim).integers(0, 256, (40, size), np.uint8)
    with np.errstate(all="ignore"):  # random scales may be NaN or infinite
        got = kernels.decode_rows(encoding, stored, dim)
    slow = [decode_slowly(encoding, row.tobytes(), dim) for row in stored]
    expected = np.array(slow, np.float64).astype(np.float32)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
    assert_same_bits(np.nan_to_num(got), np.nan_to_num(expected))


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("encoding", BOOKED, ids=str)
def test_decoder_of_codes_equals_plain_python_on_random_bytes(encoding, dim):
    rng = np.random.default_rng(dim)
    book = random_codebook(encoding, dim, rng, wild=True)
    codes = random_codes(encoding, 40, dim, rng, wild=True)
    with np.errstate(all="ignore"):  # random entries may be NaN or infinite
        got = kernels.decode_rows(encoding, codes, dim, book)
    expected = np.array([decode_slowly(encoding, row, dim, book) for row in codes], np.float32)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
    assert_same_bits(np.nan_to_num(got), np.nan_to_num(expected))


@pytest.mark.parametrize("encoding", PACKED, ids=str)
def test_damaged_scales_decode_without_a_warning(encoding):
    stored = reference.encode_rows(encoding, np.zeros((1, 3), np.float32))
    infinity = np.array(np.inf, encoding.scale_dtype).tobytes()
    stored[0, : len(infinity)] = list(infinity)
    assert np.isnan(kernels.decode_rows(encoding, stored, 3)).all()


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("encoding", [F32, F16, *PACKED], ids=str)
def test_encoding_a_block_equals_encoding_its_rows_one_by_one(encoding, dim):
    rows = np.concatenate(list(kinds_of_rows(dim).values()))
    whole = reference.encode_rows(fitted(encoding, 60000), rows)
    single = [reference.encode_rows(fitted(encoding, 60000), row[None]) for row in rows]
    np.testing.assert_array_equal(whole, np.concatenate(single))


@pytest.mark.parametrize("encoding", [F32, F16, *PACKED], ids=str)
def test_no_rows_encode_to_no_rows(encoding):
    stored = reference.encode_rows(encoding, np.empty((0, 5), np.float32))
    assert stored.shape == (0, encoding.row_bytes(5))
    assert kernels.decode_rows(encoding, stored, 5).shape == (0, 5)


def stored_head(encoding, stored):
    """True scale and bias of rows, in float64."""
    head = np.ascontiguousarray(stored[:, : encoding.header_bytes]).view(encoding.scale_dtype)
    step = head[:, 0].astype(np.float64) * 2.0**-encoding.scale_exponent
    return step, head[:, -1].astype(np.float64)


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("encoding", SYMMETRIC8, ids=str)
def test_symmetric_values_are_within_half_a_step(encoding, kind, dim):
    rows = kinds_of_rows(dim)[kind]
    encoding = fitted(encoding, float(np.abs(rows).max()))
    stored = reference.encode_rows(encoding, rows)
    decoded = kernels.decode_rows(encoding, stored, dim)
    step, _ = stored_head(encoding, stored)
    half_step = step * (0.5 + 2 * 128 * FLOAT32_HALF_UNIT)  # quotient and product are rounded
    clipped = np.maximum(np.abs(rows).max(axis=1) - 127.5 * step, 0)
    bound = half_step + clipped + 127 * 2 * SUBNORMAL_HALF_UNIT["float32"]
    assert (np.abs(rows - decoded.astype(np.float64)) <= bound[:, None]).all()


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("kind", ["normal", "tiny", "one huge value", "equal", "positive"])
@pytest.mark.parametrize("encoding", SYMMETRIC8, ids=str)
def test_symmetric_error_is_a_254th_of_the_largest_value(encoding, kind, dim):
    rows = kinds_of_rows(dim)[kind]
    encoding = fitted(encoding, float(np.abs(rows).max()))
    decoded = kernels.decode_rows(encoding, reference.encode_rows(encoding, rows), dim)
    # the step is the largest value / 127, rounded to a float16 that is normal in these rows
    largest = np.abs(rows).max(axis=1, keepdims=True).astype(np.float64)
    bound = largest / 254 * (1 + FLOAT16_HALF_UNIT) * (1 + 2**-14)
    assert (np.abs(rows - decoded.astype(np.float64)) <= bound).all()


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("encoding", AFFINE8, ids=str)
def test_affine_values_are_within_half_a_step_and_the_rounding_of_bias_and_scale(
    encoding, kind, dim
):
    rows = kinds_of_rows(dim)[kind]
    decoded = kernels.decode_rows(encoding, reference.encode_rows(encoding, rows), dim)
    exact = rows.astype(np.float64)
    low, high = exact.min(axis=1), exact.max(axis=1)
    part = FLOAT16_HALF_UNIT if encoding.scale_dtype == "float16" else FLOAT32_HALF_UNIT
    least = SUBNORMAL_HALF_UNIT[encoding.scale_dtype]
    bias_error = np.maximum(np.abs(low) * part, least)
    span = high - low + bias_error
    scale_error = np.maximum(span / 255 * part, least) + span / 255 * 2 * FLOAT32_HALF_UNIT
    half_step = (span / 255 + scale_error) / 2
    # offset, quotient, product and sum are rounded to float32
    rounding = 4 * FLOAT32_HALF_UNIT * (span + np.abs(low) + np.abs(high)) + 2.0**-148
    bound = half_step + bias_error + 255 * scale_error + rounding
    assert (np.abs(exact - decoded) <= bound[:, None]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_f16_values_are_within_half_a_unit(kind):
    rows = kinds_of_rows(17)[kind]
    decoded = kernels.decode_rows(F16, reference.encode_rows(F16, rows), 17)
    bound = np.maximum(np.abs(rows) * FLOAT16_HALF_UNIT, SUBNORMAL_HALF_UNIT["float16"])
    assert (np.abs(rows - decoded) <= bound).all()


@pytest.mark.parametrize("encoding", [F32, CONSTANT], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_float32_rows_come_back_bit_for_bit(encoding, kind):
    rows = kinds_of_rows(17)[kind]
    assert_same_bits(kernels.decode_rows(encoding, reference.encode_rows(encoding, rows), 17), rows)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("encoding", PACKED, ids=str)
def test_zero_rows_have_zero_scales_and_come_back_as_plus_zero(encoding, sign):
    zeros = np.copysign(np.zeros((2, 5), np.float32), sign)
    stored = reference.encode_rows(encoding, zeros)
    assert not stored[:, : encoding.header_bytes].any()
    assert_same_bits(kernels.decode_rows(encoding, stored, 5), np.zeros((2, 5), np.float32))


@pytest.mark.parametrize("encoding", AFFINE, ids=str)
def test_equal_values_come_back_as_their_bias(encoding):
    rows = np.repeat(np.array([[0.1], [-7.3], [1000.1]], np.float32), 9, axis=1)
    decoded = kernels.decode_rows(encoding, reference.encode_rows(encoding, rows), 9)
    np.testing.assert_allclose(decoded, rows, rtol=FLOAT16_HALF_UNIT)


@pytest.mark.parametrize("encoding", SYMMETRIC, ids=str)
@pytest.mark.parametrize("largest", [0.999 * 2.0**127, 2.0**126, 2.0**-126, 2.0**-149])
def test_ends_of_float32_stay_finite_and_keep_their_sign(encoding, largest):
    rows = np.array([[largest, -largest, 0]], np.float32)
    encoding = fitted(encoding, largest)
    decoded = kernels.decode_rows(encoding, reference.encode_rows(encoding, rows), 3)
    assert np.isfinite(decoded).all()
    assert ((decoded == 0) | (np.sign(decoded) == np.sign(rows))).all()


def test_a_row_far_smaller_than_its_tier_is_never_worse_than_zero():
    rows = np.float32(10.0) ** -np.arange(0, 40, dtype=np.float32)[:, None]
    encoding = fitted(INT8, 1.0)
    decoded = kernels.decode_rows(encoding, reference.encode_rows(encoding, rows), 1)
    assert (np.abs(rows - decoded) <= rows).all()


@given(st.floats(2.0**-100, LARGEST, width=32))
def test_scale_exponent_takes_the_largest_scale_near_the_top_of_float16(largest):
    scale = float(np.float32(largest) / np.float32(127))
    assert 2.0**14 <= scale * 2.0 ** kernels.scale_exponent(largest) < 2.0**15


@given(st.floats(0, LARGEST, width=32))
def test_scale_exponent_is_a_power_that_float32_holds(largest):
    assert -126 <= kernels.scale_exponent(largest) <= 126


def test_scale_exponent_of_zeros_is_zero():
    assert kernels.scale_exponent(0.0) == 0


# --- row map ---------------------------------------------------------------------------------


def naive_rowmap(tiers, planes, counts):
    """Blocks as bytes, from integers and loops."""
    seen = list(counts) + [0] * (2**planes - len(counts))
    blocks = []
    for start in range(0, len(tiers), 64):
        words = [0] * planes
        before = list(seen)
        for bit, tier in enumerate(tiers[start : start + 64]):
            for plane in range(planes):
                words[plane] |= (tier >> plane & 1) << bit
            seen[tier] += 1
        block = b"".join(word.to_bytes(8, "little") for word in words)
        block += b"".join(count.to_bytes(4, "little") for count in before)
        blocks.append(block.ljust({1: 16, 2: 32, 3: 64}[planes], b"\0"))
    return b"".join(blocks)


@st.composite
def tiers_of_rows(draw):
    """Planes, and tiers of 1 to 300 rows."""
    planes = draw(st.integers(1, 3))
    rows = draw(st.integers(1, 300))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return planes, rng.integers(2**planes, size=rows).astype(np.uint8)


@pytest.mark.parametrize("build", [rowmap.build_rowmap, kernels.build_rowmap])
@given(drawn=tiers_of_rows(), counts=st.lists(st.integers(0, 2**31), max_size=8))
def test_row_map_equals_a_plain_loop(build, drawn, counts):
    planes, tiers = drawn
    counts = counts[: 2**planes]
    blocks = build(tiers, planes, counts)
    assert blocks.shape == (-(-len(tiers) // 64), {1: 16, 2: 32, 3: 64}[planes])
    assert blocks.tobytes() == naive_rowmap(tiers.tolist(), planes, counts)


@given(tiers_of_rows())
def test_row_map_gives_the_tiers_back_and_zeros_for_spare_rows(drawn):
    planes, tiers = drawn
    got = kernels.rowmap_tiers(kernels.build_rowmap(tiers, planes))
    np.testing.assert_array_equal(got[: len(tiers)], tiers)
    assert not got[len(tiers) :].any()


@pytest.mark.parametrize("build", [rowmap.build_rowmap, kernels.build_rowmap])
@pytest.mark.parametrize("planes", [1, 2, 3])
def test_row_map_of_no_rows_has_no_blocks(build, planes):
    blocks = build(np.empty(0, np.uint8), planes)
    assert blocks.shape == (0, {1: 16, 2: 32, 3: 64}[planes])


@pytest.mark.parametrize("blocks", [1, 2])
@given(tiers_of_rows())
def test_row_map_built_in_parts_equals_the_whole(blocks, drawn):
    planes, tiers = drawn
    assume(len(tiers) > 64 * blocks)
    head, tail = tiers[: 64 * blocks], tiers[64 * blocks :]
    counts = np.bincount(head, minlength=2**planes).tolist()
    parts = [kernels.build_rowmap(head, planes), kernels.build_rowmap(tail, planes, counts)]
    np.testing.assert_array_equal(np.concatenate(parts), kernels.build_rowmap(tiers, planes))


@given(tiers_of_rows())
def test_counters_count_the_rows_of_each_tier_before_a_block(drawn):
    planes, tiers = drawn
    counters = kernels.rowmap_counters(kernels.build_rowmap(tiers, planes))
    for block, counted in enumerate(counters):
        before = np.bincount(tiers[: 64 * block], minlength=2**planes)
        np.testing.assert_array_equal(counted, before)


def table_of(tiers, planes):
    """A table of 2 ** planes tiers; each row holds its own id."""
    ids = np.arange(len(tiers), dtype=np.float32)[:, None]
    held = [
        kernels.Tier(F32, int((tiers == t).sum()), reference.encode_rows(F32, ids[tiers == t]))
        for t in range(2**planes)
    ]
    rowmap = kernels.build_rowmap(tiers, planes)
    return kernels.TableView(len(tiers), 1, held, rowmap, np.zeros(1, np.float32))


@given(tiers_of_rows())
def test_resolve_equals_a_plain_loop(drawn):
    planes, tiers = drawn
    got_tiers, slots = reference.resolve(table_of(tiers, planes), np.arange(len(tiers)))
    seen = [0] * 8
    for row, tier in enumerate(tiers.tolist()):
        assert (got_tiers[row], slots[row]) == (tier, seen[tier])
        seen[tier] += 1


@pytest.mark.parametrize("planes", [1, 2, 3])
def test_a_counter_that_points_past_its_tier_is_refused(planes):
    tiers = np.arange(200, dtype=np.uint8) % 2
    table = table_of(tiers, planes)
    table.rowmap[2, 8 * planes + 4 : 8 * planes + 8] = 255  # tier 1, rows from 128
    with pytest.raises(kernels.SlotError) as caught:
        reference.resolve(table, np.arange(200))
    assert (caught.value.row, caught.value.tier) == (129, 1)


def test_a_tier_that_the_table_lacks_is_refused():
    table = table_of(np.arange(64, dtype=np.uint8) % 3, 2)
    table.rowmap[0, :16] = 255
    with pytest.raises(kernels.SlotError):
        reference.resolve(replace(table, tiers=table.tiers[:3]), np.array([0]))


# --- lookup and pooling by blocks ------------------------------------------------------------


def test_more_ids_than_a_block_are_looked_up():
    rows = random_rows(100, 2)
    table, _ = memory_table(rows)
    ids = np.arange(reference.LOOKUP_BLOCK + 1000) % 100
    assert_same_bits(table.lookup(ids), rows[ids])


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@given(st.lists(st.integers(0, 30), max_size=12))
def test_pooling_by_blocks_equals_pooling_at_once(mode, lengths):
    rows = random_rows(40, 3)
    view = kernels.TableView(
        40, 3, [kernels.Tier(F32, 40, reference.encode_rows(F32, rows))], None, rows[0]
    )
    offsets = np.cumsum([0, *lengths])
    ids = np.random.default_rng(len(lengths)).integers(40, size=offsets[-1])
    at_once, by_blocks = np.empty((2, len(lengths), 3), np.float32)
    reference.pool(rows[ids], offsets, None, mode, at_once)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "LOOKUP_BLOCK", 8)  # bags shorter and longer than a block
        reference.embedding_bag(view, ids, offsets, None, mode, by_blocks)
    assert_same_bits(by_blocks, at_once)
