"""The pass ahead of writing: what is refused, what is noted, which mean row comes out."""

import json

import numpy as np
import pytest
from checkpoints import bfloat16, save
from hypothesis import given
from hypothesis import strategies as st
from strategies import random_rows

from sharkstore.checksum import crc32c
from sharkstore.encodings import parse_encoding, planes_for
from sharkstore.errors import NonFiniteError
from sharkstore.kernels import build_rowmap
from sharkstore.plan.model import TablePlan, TierPlan
from sharkstore.readers.safetensors import SafetensorsFile
from sharkstore.tensors import Tensor
from sharkstore.write import rows as rows_module
from sharkstore.write import scan
from sharkstore.write.rows import TableRows
from sharkstore.write.scan import Scan, scan_dense, scan_rows, spans
from sharkstore.write.survey import Survey, Surveys, survey_of

F32_MAX = np.float32(0.999 * 2.0**127)  # with a scale rounded up, float32 holds this


@pytest.fixture
def survey(tmp_path, monkeypatch):
    """Survey one table, in blocks of 64 rows."""
    monkeypatch.setattr(rows_module, "BLOCK_BYTES", 1)

    def run(values, tiers=("int8",), of_row=None, counts=None, *, zero=False, **changes):
        path = save(tmp_path / "m.safetensors", {"emb": values})
        source = SafetensorsFile(str(path))
        tensor = source.tensors["emb"]
        of_row = np.zeros(tensor.rows, np.uint8) if of_row is None else np.asarray(of_row, np.uint8)
        rowmap = build_rowmap(of_row, planes_for(len(tiers))) if len(tiers) > 1 else None
        plan = TablePlan(
            **{
                "name": "emb",
                "rows": tensor.rows,
                "dim": tensor.shape[1],
                "dtype": tensor.dtype,
                "action": "store",
                "order": "id",
                "tiers": tuple(
                    TierPlan(parse_encoding(text), int(np.count_nonzero(of_row == index)))
                    for index, text in enumerate(tiers)
                ),
                **changes,
            }
        )
        counts = None if counts is None else np.asarray(counts)
        return survey_of(plan, scanned(TableRows(source, tensor, rowmap, zero), plan, counts))

    return run


def scanned(rows, plan, counts):
    """What all spans of a table come to, each by way of its document."""
    found = Scan.empty(plan)
    for span in spans(rows.tensor, rows.block_rows):
        document = json.loads(json.dumps(scan_rows(rows, plan, counts, span).document()))
        found.join(Scan.parse(document))
    return found


def weighted(values, counts):
    """The mean row by use, summed in long double."""
    weights = np.asarray(counts, np.longdouble)[:, None]
    return ((values.astype(np.longdouble) * weights).sum(axis=0) / weights.sum()).astype(np.float32)


# --- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("encoding", ["f32", "f16", "int8", "int8.affine", "constant"])
def test_values_that_are_not_finite_name_the_table_and_the_row(survey, bad, encoding):
    values = random_rows(300, 4)
    values[217, 2] = bad
    with pytest.raises(NonFiniteError, match="table 'emb': NaN or infinity in rows 217;"):
        survey(values, [encoding])


def test_only_the_first_rows_are_named_and_the_others_counted(survey):
    values = random_rows(300, 4)
    values[[3, 70, 71, 140, 141, 142, 299]] = np.nan
    with pytest.raises(NonFiniteError, match=r"rows 3, 70, 71, 140, 141 and 2 more; .*--nonfinite"):
        survey(values)


def test_a_pruned_table_must_be_finite_too(survey):
    values = random_rows(10, 4)
    values[3] = np.nan
    with pytest.raises(NonFiniteError, match="rows 3;"):
        survey(values, action="prune")


def test_a_dropped_table_may_hold_anything(survey):
    values = random_rows(10, 4)
    values[3] = np.nan
    survey(values, action="drop")


@pytest.mark.parametrize(
    ("encoding", "limit"),
    [
        ("f16", 65520.0),
        ("int8.affine", 65520.0),
        ("int4.affine", 65520.0),
        ("int8.affine.f32", 2.0**126),
        ("int2.affine.f32", 2.0**126),
        ("int4", 2.0**127),
        ("int2.f32", 2.0**127),
    ],
)
@pytest.mark.parametrize("sign", [1, -1])
def test_a_value_that_an_encoding_cant_hold_is_refused(survey, encoding, limit, sign):
    values = random_rows(100, 4)
    values[70, 3] = sign * limit
    with pytest.raises(NonFiniteError, match=f"'emb': a value of .* does not fit {encoding}"):
        survey(values, [encoding])


@pytest.mark.parametrize(
    ("encoding", "largest"),
    [
        ("f16", np.nextafter(np.float32(65520), np.float32(0))),
        ("int8.affine", np.nextafter(np.float32(65520), np.float32(0))),
        ("int8.affine.f32", np.nextafter(np.float32(2.0**126), np.float32(0))),
        ("int8", F32_MAX),
        ("int4", F32_MAX),
        ("int2", F32_MAX),
        ("int8.f32", F32_MAX),
        ("f32", F32_MAX),
        ("constant", F32_MAX),
    ],
)
def test_the_largest_value_that_fits_is_taken(survey, encoding, largest):
    values = random_rows(100, 4)
    values[70, 3] = largest
    assert survey(values, [encoding]).largest == [float(largest)]


def test_only_the_tier_of_the_value_counts(survey):
    values = random_rows(100, 4)
    values[70, 3] = 1e6
    of_row = np.ones(100)
    of_row[70] = 0
    assert survey(values, ["f32", "f16"], of_row).largest[0] == 1e6
    with pytest.raises(NonFiniteError, match="does not fit f16"):
        survey(values, ["f16", "f32"], of_row)


def test_float64_that_float32_cant_hold_is_refused(survey):
    values = np.ones((100, 2))
    values[70, 0] = 1e300
    with pytest.raises(NonFiniteError, match="rows 70;"):
        survey(values)


# --- what is noted ---------------------------------------------------------------------------


def test_values_that_become_zero_when_asked_are_counted(survey):
    values = random_rows(100, 4)
    values[70] = np.nan
    values[3, 1] = np.inf
    found = survey(values, zero=True)
    assert found.zeroed == 5
    expected = np.where(np.isfinite(values), values, 0)
    assert found.largest == [float(np.abs(expected).max())]


def test_the_mean_leaves_out_nothing_that_became_zero(survey):
    values = np.array([[2.0, np.nan], [4.0, 6.0]], np.float32)
    found = survey(values, zero=True, action="prune")
    np.testing.assert_array_equal(found.means[0], [3.0, 3.0])


def test_the_largest_value_of_each_tier_is_found(survey):
    values = random_rows(300, 4)
    of_row = np.arange(300) % 3
    found = survey(values, ["f32", "f16", "int8"], of_row)
    assert found.largest == [float(np.abs(values[of_row == tier]).max()) for tier in range(3)]


def test_rows_too_small_for_f16_are_counted(survey):
    values = random_rows(100, 2)
    values[10] = 0  # stays what it is
    values[11] = 2.0**-26  # rounds to zero
    values[12] = [1e-9, -1e-12]
    values[13] = 2.0**-19  # the first that keeps five bits
    assert survey(values, ["f16"]).faint == 2
    assert survey(values, ["f32"]).faint == 0


def test_rows_too_small_beside_their_tiers_largest_are_counted(survey):
    values = np.array([[1.0], [1e-14], [0.0]], np.float32)
    assert survey(values, ["int8"]).faint == 1


def test_rows_too_small_for_affine_scales_are_counted(survey):
    values = np.array([[1.0, 2.0], [1e-9, 2e-9], [0.0, 0.0]], np.float32)
    assert survey(values, ["int8.affine"]).faint == 1


@pytest.mark.parametrize(
    ("encoding", "least"),
    [("int4", 2.0**-32), ("int2", 2.0**-31), ("int4.affine", 2.0**-16), ("int2.affine", 2.0**-18)],
)
def test_rows_too_small_for_scales_of_few_bits_are_counted(survey, encoding, least):
    """Of symmetric scales, beside a row of 2: the least with five bits is told by the largest."""
    values = np.zeros((4, 2), np.float32)
    values[:3, 0] = 2.0, 2 * least, least / 2
    assert survey(values, [encoding]).faint == 1


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_other_float_dtypes_are_surveyed_as_float32(survey, dtype):
    values = random_rows(100, 4).astype(dtype)
    largest = float(np.abs(values.astype(np.float32)).max())
    assert survey(values).largest == [largest]


def test_bfloat16_is_surveyed_as_float32(survey):
    values = random_rows(100, 4)
    rounded = (values.view(np.uint32) & 0xFFFF0000).view(np.float32)
    assert survey(bfloat16(values)).largest == [float(np.abs(rounded).max())]


@pytest.mark.parametrize("shape", [(0, 4), (1, 1), (64, 1), (65, 3)])
def test_tables_of_any_length_are_surveyed(survey, shape):
    values = random_rows(*shape)
    found = survey(values, default="mean")
    assert found.largest == [float(np.abs(values).max(initial=0))]
    assert found.mean.shape == (shape[1],)


# --- mean rows -------------------------------------------------------------------------------


def test_a_mean_row_is_weighted_by_counts(survey):
    values, counts = random_rows(300, 4), np.random.default_rng(1).integers(0, 9, 300)
    found = survey(values, action="prune", counts=counts)
    np.testing.assert_array_equal(found.means[0], weighted(values, counts))


def test_without_counts_it_is_the_plain_mean(survey):
    values = random_rows(300, 4)
    found = survey(values, action="prune")
    np.testing.assert_array_equal(found.means[0], weighted(values, np.ones(300)))


def test_of_rows_that_were_never_used_it_is_the_plain_mean(survey):
    values = random_rows(300, 4)
    found = survey(values, action="prune", counts=np.zeros(300))
    np.testing.assert_array_equal(found.means[0], weighted(values, np.ones(300)))


def test_a_mean_row_is_summed_in_float64(survey):
    values = np.array([[3e38], [3e38], [-3e38], [1.0]], np.float32)
    found = survey(values, action="prune", counts=[1, 1, 2, 4])
    np.testing.assert_array_equal(found.means[0], [0.5])


def test_counts_in_float32_are_summed_in_float64(survey):
    counts = np.ones(128, np.float32)
    counts[0] = 2.0**24  # from here on float32 does not hold every integer
    values = np.ones((128, 1), np.float32)
    values[0] = 0
    found = survey(values, action="prune", counts=counts)
    np.testing.assert_array_equal(found.means[0], weighted(values, counts))


def test_the_default_row_is_the_mean_of_the_whole_table(survey):
    values, counts = random_rows(300, 4), np.random.default_rng(1).integers(0, 9, 300)
    found = survey(values, ["f32", "int8"], np.arange(300) % 2, counts, default="mean")
    np.testing.assert_array_equal(found.mean, weighted(values, counts))
    assert found.means == {}


def test_a_constant_tier_has_the_mean_of_its_own_rows(survey):
    values, counts = random_rows(300, 4), np.random.default_rng(1).integers(0, 9, 300)
    of_row = np.arange(300) % 2
    found = survey(values, ["f32", "constant"], of_row, counts)
    assert list(found.means) == [1]
    np.testing.assert_array_equal(
        found.means[1], weighted(values[of_row == 1], counts[of_row == 1])
    )


# --- digests ---------------------------------------------------------------------------------


def test_the_crc_is_that_of_the_tensors_bytes(survey):
    values = random_rows(300, 4)
    assert survey(values).crcs == [crc32c(values)]


def test_a_larger_table_has_a_crc_for_each_span(survey, monkeypatch):
    monkeypatch.setattr(scan, "LEAST_SPAN", 64 * 16)
    values = random_rows(300, 4)
    expected = [crc32c(values[start : start + 64]) for start in range(0, 300, 64)]
    assert survey(values).crcs == expected


def test_the_crc_of_a_dense_tensor_is_that_of_its_bytes(tmp_path):
    values = np.arange(7 * 5 * 3, dtype=np.int16).reshape(7, 5, 3)
    source = SafetensorsFile(str(save(tmp_path / "m.safetensors", {"w": values})))
    (span,) = spans(source.tensors["w"], 1)
    assert span.nbytes == values.nbytes
    assert scan_dense(source, source.tensors["w"], span) == crc32c(values)


@given(rows=st.integers(0, 5000), dim=st.integers(0, 9), block=st.sampled_from([1, 64, 640]))
def test_spans_cover_a_tensor_in_whole_blocks(rows, dim, block):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan, "LEAST_SPAN", 1000)
        found = list(spans(Tensor("t", (rows, dim), "float32"), block))
    assert [row for one in found for row in range(one.start, one.stop)] == list(range(rows))
    assert all(one.start % block == 0 for one in found)
    assert sum(one.nbytes for one in found) == rows * dim * 4


TENSORS = {"emb": Tensor("emb", (9, 2), "float32"), "w": Tensor("w", (3,), "int8")}


def digest(tensors=TENSORS, *, emb=1, w=2):
    return Surveys({"emb": Survey([0.0], crcs=[emb])}, {"w": [w]}).source_digest(tensors)


def test_the_source_digest_is_the_same_whatever_the_order():
    surveys = Surveys({}, {"w": [2], "emb": [1]})
    assert surveys.source_digest(dict(reversed(TENSORS.items()))) == digest()


@pytest.mark.parametrize(
    "other",
    [
        digest(emb=3),
        digest(w=3),
        digest({**TENSORS, "w": Tensor("w", (3, 1), "int8")}),
        digest({**TENSORS, "w": Tensor("w", (3,), "uint8")}),
    ],
    ids=["table", "parameter", "shape", "dtype"],
)
def test_the_source_digest_tells_other_content_apart(other):
    assert other != digest()
