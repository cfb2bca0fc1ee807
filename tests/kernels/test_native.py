"""The native kernels equal the reference bit for bit, whichever of them runs."""

import functools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    BOOKED,
    CONSTANT,
    F16,
    F32,
    INT8,
    PACKED,
    ROW_BY_ROW,
    assert_same_bits,
    exact_rows,
    memory_table,
    padded,
    random_rows,
)
from views import (
    TIERS,
    check_bags,
    check_lookup,
    make_view,
    some_ids,
    using,
)

from sharkstore import kernels
from sharkstore.encodings import Encoding
from sharkstore.errors import ArgumentError, DtypeError
from sharkstore.kernels import reference
from sharkstore.kernels.rowmap import build_rowmap

FAST_DIMS = [4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256]
OTHER_DIMS = [1, 2, 3, 5, 7, 15, 17, 20, 31, 33, 63, 65, 100, 130, 255, 257, 300, 1000, 4096]
COUNTS = [0, 1, 7, 8, 9, 31, 32, 33, 63, 64, 65, 127, 128, 129, 160, 161, 191, 193, 255, 257, 1000]
DTYPES = [np.int64, np.int32]
MODES = ["sum", "mean", "max"]

every_backend = pytest.mark.parametrize("backend", kernels.backends())
every_tiers = pytest.mark.parametrize("tiers", TIERS)


@pytest.fixture(autouse=True)
def kernels_of_this_test(request):
    """The kernels that the test's parameter names."""
    if "backend" not in request.fixturenames:
        yield
        return
    with using(request.getfixturevalue("backend")):
        yield


@functools.cache
def sample(tiers, rows, dim, wild=False):
    """A table of these tiers, and the same bound."""
    view = make_view(TIERS[tiers], rows, dim, seed=rows + dim, wild=wild)
    return view, kernels.bind(view)


def cuts(count, rng):
    """Offsets (bags + 1,) of bags that are mostly short, some empty, some of one id."""
    lengths = rng.choice([0, 1, 1, 2, 3, 20], size=count // 4 + 3)
    ends = np.minimum(np.cumsum(lengths), count)
    return np.concatenate([[0], ends, [count]]).astype(np.int64)


# --- dims, encodings, widths of row maps -----------------------------------------------------


@every_backend
@pytest.mark.parametrize("dim", FAST_DIMS + OTHER_DIMS)
def test_lookups_of_every_dim_and_encoding(backend, dim):
    rng = np.random.default_rng(dim)
    for name in TIERS:
        for wild in (False, True):
            view, table = sample(name, 130, dim, wild)
            dtype = DTYPES[wild]
            check_lookup(view, table, some_ids(130, 170, rng, dtype), name, shift=4 * wild)


@every_backend
@pytest.mark.parametrize("mode", [*MODES, "weighted"])
@pytest.mark.parametrize("dim", FAST_DIMS + OTHER_DIMS)
def test_bags_of_every_dim_and_encoding(backend, dim, mode):
    rng = np.random.default_rng(dim)
    for name in TIERS:
        view, table = sample(name, 130, dim)
        ids = some_ids(130, 70, rng, DTYPES[dim % 2])
        weights = rng.normal(size=70).astype(np.float32) if mode == "weighted" else None
        pool = "sum" if mode == "weighted" else mode
        check_bags(view, table, ids, cuts(70, rng), pool, weights, what=name)


@every_backend
@pytest.mark.parametrize("mode", [*MODES, "weighted"])
def test_bags_of_any_bytes(backend, mode):
    rng = np.random.default_rng(7)
    for name in TIERS:
        for dim in (3, 16, 33, 64):
            view, table = sample(name, 130, dim, wild=True)
            ids = some_ids(130, 200, rng)
            weights = rng.normal(size=200).astype(np.float32) if mode == "weighted" else None
            pool = "sum" if mode == "weighted" else mode
            check_bags(view, table, ids, cuts(200, rng), pool, weights, what=name)


# --- numbers of ids --------------------------------------------------------------------------


@every_backend
@pytest.mark.parametrize("dtype", DTYPES)
@every_tiers
def test_lookups_of_every_number_of_ids(backend, tiers, dtype):
    rng = np.random.default_rng(1)
    for dim in (16, 7):
        view, table = sample(tiers, 200, dim)
        for count in COUNTS:
            check_lookup(view, table, some_ids(200, count, rng, dtype), tiers)


@every_backend
@pytest.mark.parametrize("dtype", DTYPES)
@every_tiers
def test_bags_of_every_number_of_ids(backend, tiers, dtype):
    rng = np.random.default_rng(2)
    view, table = sample(tiers, 200, 16)
    for count in COUNTS:
        ids = some_ids(200, count, rng, dtype)
        padding = int(rng.integers(-1, 200))
        check_bags(view, table, ids, cuts(count, rng), MODES[count % 3], None, padding, tiers)


@every_backend
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("each", [0, 1, 20, 129, 1000])
def test_bags_of_one_length(backend, each, mode):
    rng = np.random.default_rng(each)
    for name in ("f32", "int8", "4 tiers", "8 tiers"):
        for dim in (16, 33):
            view, table = sample(name, 200, dim)
            ids = some_ids(200, 5 * each, rng)
            offsets = np.arange(6) * each
            check_bags(view, table, ids, offsets, mode, what=name)
            check_bags(view, table, ids.reshape(5, each), None, mode, padding=3, what=name)


@every_backend
def test_many_empty_bags_between_full_ones(backend):
    view, table = sample("3 tiers", 200, 16)
    ids = some_ids(200, 600, np.random.default_rng(3))
    offsets = np.concatenate([np.zeros(300), [200, 200, 201], np.full(500, 400), [600, 600]])
    for mode in MODES:
        check_bags(view, table, ids, offsets.astype(np.int64), mode)


@every_backend
@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (5, 7), (2, 3, 4), (1, 1, 1, 1)])
def test_lookups_of_ids_of_any_shape(backend, shape):
    view, table = sample("2 tiers", 200, 16)
    ids = np.random.default_rng(0).integers(200, size=shape)
    check_lookup(view, table, np.array(ids))


# --- rows ------------------------------------------------------------------------------------


@every_backend
@every_tiers
@pytest.mark.parametrize("rows", [0, 1, 2, 63, 64, 65, 128])
def test_tables_of_few_rows(backend, tiers, rows):
    rng = np.random.default_rng(rows)
    view, table = sample(tiers, rows, 5)
    for dtype in DTYPES:
        ids = some_ids(rows, 50, rng, dtype)
        check_lookup(view, table, ids, tiers)
        check_bags(view, table, ids, cuts(50, rng), "mean", what=tiers)
    if rows:
        check_lookup(view, table, np.arange(rows), tiers)


@every_backend
@pytest.mark.parametrize("planes", [1, 2, 3])
def test_blocks_of_one_tier_only(backend, planes):
    """Tiers that begin and end with blocks, and tiers without rows."""
    count = 2**planes
    tiers = np.repeat(np.arange(0, count, 2, dtype=np.uint8), 128)
    view = make_view([F32] * count, len(tiers), 8, tiers=tiers)
    table = kernels.bind(view)
    check_lookup(view, table, np.arange(len(tiers)))
    check_lookup(view, table, np.arange(len(tiers))[::-1].astype(np.int32))


@every_backend
def test_a_pruned_table_of_almost_four_billion_rows(backend):
    rows, one = 2**32 - 1, padded(np.arange(16, dtype=np.float32).view(np.uint8).reshape(1, 64))
    default = np.ones(16, np.float32)
    view = kernels.TableView(rows, 16, [kernels.Tier(CONSTANT, rows, one)], None, default)
    table = kernels.bind(view)
    ids = np.array([0, 2**31, 2**32 - 2, 2**32 - 1, 2**32, -1, 2**63 - 1, -(2**63)])
    check_lookup(view, table, ids)
    check_lookup(view, table, np.array([0, 2**31 - 1, -1, -(2**31)], np.int32))
    check_bags(view, table, ids, np.array([0, 3, 8]), "mean", padding=2**31)


@every_backend
@pytest.mark.parametrize("planes", [0, 1, 2, 3])
def test_rows_more_than_four_gigabytes_away(backend, planes):
    rows, dim = 12_000_000, 100
    try:
        data = np.zeros((rows + 1, 4 * dim), np.uint8)[:rows]  # never touched: takes no memory
    except MemoryError:
        pytest.skip("this system promises no more memory than it has")
    ids = np.array([0, 63, 64, 10_737_419, 11_000_063, rows - 1])
    data[ids] = np.random.default_rng(0).integers(0, 100, (len(ids), 4 * dim))
    tiers, rowmap = [kernels.Tier(F32, rows, data)], None
    if planes:  # all rows are in the last tier
        nothing = kernels.Tier(F32, 0, padded(np.empty((0, 4 * dim), np.uint8)))
        tiers = [nothing] * (2**planes - 1) + tiers
        rowmap = np.zeros((rows // 64, {1: 16, 2: 32, 3: 64}[planes]), np.uint8)
        rowmap[:, : 8 * planes] = 255
        counters = (64 * np.arange(rows // 64, dtype="<u4")).view(np.uint8).reshape(-1, 4)
        last = 8 * planes + 4 * (2**planes - 1)
        rowmap[:, last : last + 4] = counters
        rowmap = padded(rowmap)
    view = kernels.TableView(rows, dim, tiers, rowmap, np.ones(dim, np.float32))
    check_lookup(view, kernels.bind(view), ids)


# --- values ----------------------------------------------------------------------------------


def one_tier(encoding, stored, dim):
    tier = kernels.Tier(encoding, len(stored), padded(stored))
    return kernels.TableView(len(stored), dim, [tier], None, np.zeros(dim, np.float32))


@every_backend
@pytest.mark.parametrize("dim", [1, 16, 64])
def test_every_float16_is_widened_exactly(backend, dim):
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.uint8).reshape(-1, 2 * dim)
    view = one_tier(F16, halves, dim)
    check_lookup(view, kernels.bind(view), np.arange(len(halves)))


@every_backend
@pytest.mark.parametrize("exponent", [-126, -20, 0, 21, 126])
@pytest.mark.parametrize("name", ["int8", "int4", "int2"])
def test_every_symmetric_scale(backend, name, exponent):
    encoding = Encoding(name, scale_exponent=exponent)
    codes = np.array([-128, -127, -1, 0, 1, 2, 127, 64], np.int8).view(np.uint8)
    scales = np.arange(1 << 16, dtype=np.uint16).view(np.uint8).reshape(-1, 2)
    stored = np.concatenate([scales, np.tile(codes, (len(scales), 1))], axis=1)
    view = one_tier(encoding, stored[:, : encoding.row_bytes(8)].copy(), 8)
    check_lookup(view, kernels.bind(view), np.arange(len(scales)))


@every_backend
@pytest.mark.parametrize("encoding", PACKED, ids=str)
def test_every_code(backend, encoding):
    header = np.random.default_rng(0).normal(size=(50, 2)).astype(encoding.scale_dtype)
    header = header.view(np.uint8).reshape(50, -1)[:, : encoding.header_bytes]
    codes = np.tile(np.arange(256, dtype=np.uint8), (50, 1))
    whole = 256 * 8 // encoding.bits
    for dim in (whole, whole - 1):
        stored = np.concatenate([header, codes], axis=1)[:, : encoding.row_bytes(dim)]
        view = one_tier(encoding, stored, dim)
        check_lookup(view, kernels.bind(view), np.arange(50))


SPECIAL = np.array([np.inf, -np.inf, np.nan, 0.0, -0.0, 1e-45, -3e38, 3e38, 1.0], np.float32)


@every_backend
@pytest.mark.parametrize("dim", [3, 16, 33])
def test_bags_of_special_values_in_any_order(backend, dim):
    """Infinities that cancel, NaN first and last in a maximum, zeros of both signs."""
    rng = np.random.default_rng(dim)
    rows = rng.choice(SPECIAL, (300, dim))
    view = one_tier(F32, rows.view(np.uint8), dim)
    table = kernels.bind(view)
    ids, offsets = rng.integers(300, size=900), np.arange(0, 901, 3)
    for mode in MODES:
        check_bags(view, table, ids, offsets, mode)
        check_bags(view, table, ids.reshape(-1, 1), None, mode)


@every_backend
@pytest.mark.parametrize("name", ["f32", "int8", "8 tiers"])
def test_special_weights(backend, name):
    rng = np.random.default_rng(4)
    for dim in (7, 16):
        view, table = sample(name, 200, dim)
        ids = some_ids(200, 300, rng)
        for weights in (SPECIAL, SPECIAL[3:]):
            check_bags(view, table, ids, cuts(300, rng), "sum", rng.choice(weights, 300))


# --- padding ---------------------------------------------------------------------------------


@every_backend
@pytest.mark.parametrize("mode", [*MODES, "weighted"])
@pytest.mark.parametrize("padding", [0, 5, 199])
def test_padding_is_left_out_and_not_counted(backend, padding, mode):
    rng = np.random.default_rng(padding)
    for name in TIERS:
        view, table = sample(name, 200, 16)
        ids = some_ids(200, 400, rng)
        ids[rng.random(400) < 0.4] = padding
        ids[:40] = padding
        weights = rng.normal(size=400).astype(np.float32) if mode == "weighted" else None
        pool = "sum" if mode == "weighted" else mode
        check_bags(view, table, ids, cuts(400, rng), pool, weights, padding, name)
        check_bags(view, table, np.full(150, padding), np.array([0, 70, 150]), pool, None, padding)


@every_backend
def test_an_id_outside_is_no_padding(backend):
    """Ids that 32 or 64 bits take for the padding id are outside all the same."""
    view, table = sample("2 tiers", 200, 16)
    ids = np.array([5, 5 + 2**32, 5 - 2**32, -1, 200, 5])
    check_bags(view, table, ids, np.array([0, 3, 6]), "mean", padding=5)


# --- large batches ---------------------------------------------------------------------------


@functools.cache
def large(dim):
    """A table of more than 32 MiB, bound, and the ids of its rows that are not zeros."""
    rows = (40 << 20) // (4 * dim)
    tiers = (np.arange(rows) % 64 < 8).astype(np.uint8)
    small = make_view([INT8], int(tiers.sum()), dim).tiers[0]
    most = rows - small.rows
    data = np.zeros((most + 1, 4 * dim), np.uint8)[:most]  # mostly untouched: takes no memory
    rowmap = padded(build_rowmap(tiers, 1))
    held = [kernels.Tier(F32, most, data), small]
    view = kernels.TableView(rows, dim, held, rowmap, np.ones(dim, np.float32))
    known = np.arange(0, rows, rows // 1000)
    tier, slot = reference.resolve(view, known)
    filled = slot[tier == 0]
    data[filled] = random_rows(len(filled), dim).view(np.uint8)
    return view, kernels.bind(view), known


@every_backend
@pytest.mark.parametrize("shift", [0, 4, 16, 32])
@pytest.mark.parametrize("dim", [16, 24, 32, 48, 128, 256, 20, 100])
def test_large_outputs_that_bypass_the_cache(backend, dim, shift):
    view, table, known = large(dim)
    rng = np.random.default_rng(dim)
    count = (1 << 20) // (4 * dim)
    for more in (0, 1, 45) if shift in (0, 4) else (1,):
        ids = some_ids(view.rows, count + more, rng, DTYPES[more % 2], outside=0.01)
        ids[: len(ids) - 50 : 2] = rng.choice(known, len(ids) - 50)[::2]
        check_lookup(view, table, ids, shift=shift)
        if shift == 0:
            check_bags(view, table, ids, np.arange(len(ids) + 1), what="of one row")


# --- anything --------------------------------------------------------------------------------


@st.composite
def requests(draw):
    """A table of any tiers, ids, and how to pool them."""
    encodings = draw(st.lists(st.sampled_from(ROW_BY_ROW + BOOKED), min_size=1, max_size=8))
    rows = draw(st.sampled_from([0, 1, 63, 64, 65, 127, 129]) | st.integers(0, 300))
    dim = draw(st.sampled_from(FAST_DIMS) | st.integers(1, 140))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    lengths = draw(st.lists(st.integers(0, 5) | st.sampled_from([20, 140]), max_size=40))
    offsets = np.cumsum([0, *lengths])
    ids = some_ids(rows, int(offsets[-1]), rng, draw(st.sampled_from(DTYPES)))
    mode = draw(st.sampled_from([*MODES, "weighted"]))
    weights = None
    if mode == "weighted":
        weights = rng.normal(size=len(ids)).astype(np.float32)
    padding = draw(st.integers(-1, rows - 1)) if rows else -1
    view = make_view(encodings, rows, dim, seed, wild=draw(st.booleans()))
    return view, ids, (offsets, "sum" if mode == "weighted" else mode, weights, padding)


@given(requests())
def test_any_request(request_of):
    view, ids, how = request_of
    table = kernels.bind(view)
    for backend in kernels.backends():
        with using(backend):
            check_lookup(view, table, ids)
            check_bags(view, table, ids, *how)


# --- arrays of another kind ------------------------------------------------------------------

ROWS = exact_rows(200, 6)


@pytest.fixture(scope="module")
def table():
    """A table of three tiers whose rows come back as they are."""
    return memory_table(ROWS, [F32, F16, INT8], np.arange(200) % 3)[0]


def unaligned(array):
    off = np.frombuffer(bytearray(1) + array.tobytes(), array.dtype, offset=1)
    return off.reshape(array.shape)


FORMS = {
    "as it is": lambda a: a,
    "int32": lambda a: a.astype(np.int32),
    "every other": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "backwards": lambda a: a[..., ::-1].copy()[..., ::-1],
    "unaligned": unaligned,
    "unaligned int32": lambda a: unaligned(a.astype(np.int32)),
    "read-only": lambda a: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape),
    "long long": lambda a: a.astype(np.longlong),
    "list": lambda a: a.tolist(),
    "torch": torch.tensor,
    "torch int32": lambda a: torch.tensor(a, dtype=torch.int32),
    "torch, strided": lambda a: torch.tensor(np.repeat(a, 2, axis=-1))[..., ::2],
    "subclass": lambda a: a.view(np.recarray),
}


@pytest.mark.parametrize("out", [False, True], ids=["", "out"])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_integers_in_any_form_make_lookups_and_bags(table, form, out):
    ids, offsets = np.arange(40)[::-1].copy(), np.array([0, 3, 3, 39])
    rows, bags = np.empty((40, 6), np.float32), np.empty((4, 6), np.float32)
    expected = np.add.reduceat(ROWS[ids], [0, 3, 39]).astype(np.float32)
    expected = np.insert(expected, 1, 0, axis=0)
    given = {"out": rows} if out else {}
    assert_same_bits(table.lookup(form(ids), **given), ROWS[ids])
    pair = form(ids.reshape(4, 10))
    assert_same_bits(table.lookup(pair), ROWS[ids].reshape(4, 10, 6))
    assert_same_bits(table.embedding_bag(pair), ROWS[ids].reshape(4, 10, 6).sum(axis=1))
    given = {"out": bags} if out else {}
    for starts in (form(offsets), offsets):
        assert_same_bits(table.embedding_bag(form(ids), starts, **given), expected)
    assert_same_bits(table.embedding_bag(ids, form(offsets)), expected)
    weights = np.full(40, 2, np.float32)
    for weighted in (weights, unaligned(weights), weights.tolist(), np.repeat(weights, 2)[::2]):
        got = table.embedding_bag(form(ids), form(offsets), weighted)
        assert_same_bits(got, expected * np.float32(2))


@pytest.mark.parametrize(
    "ids", [np.arange(3.0), np.arange(3, dtype=">i8"), np.arange(3, dtype=">i4"), np.ones(3, bool)]
)
def test_ids_of_another_dtype_are_refused(table, ids):
    for call in (table.lookup, lambda ids: table.embedding_bag(ids, np.array([0]))):
        with pytest.raises(DtypeError, match="ids of dtype"):
            call(ids)


def frozen(array):
    array.flags.writeable = False
    return array


def overlapping(ids):
    """Ids, and an array to write rows into that takes in their memory."""
    memory = np.zeros(6 * len(ids) * 4, np.uint8)
    inside = memory[-ids.nbytes :].view(ids.dtype)
    inside[:] = ids
    return inside, memory.view(np.float32).reshape(len(ids), 6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_out_over_the_ids_is_refused(table, dtype):
    ids, out = overlapping(np.arange(4, dtype=dtype))
    with pytest.raises(ArgumentError, match="shares memory"):
        table.lookup(ids, out)
    with pytest.raises(ArgumentError, match="shares memory"):
        table.embedding_bag(ids, np.arange(4), out=out)
    np.testing.assert_array_equal(ids, np.arange(4))


def test_out_over_offsets_or_weights_is_refused(table):
    offsets, out = overlapping(np.arange(4))
    with pytest.raises(ArgumentError, match="shares memory"):
        table.embedding_bag(np.arange(4), offsets, out=out)
    weights, out = overlapping(np.ones(4, np.float32))
    with pytest.raises(ArgumentError, match="shares memory"):
        table.embedding_bag(np.arange(4), np.arange(4), weights, out=out)


@pytest.mark.parametrize(
    ("out", "error", "message"),
    [
        (frozen(np.empty((4, 6), np.float32)), ArgumentError, "writable"),
        (unaligned(np.empty((4, 6), np.float32)), ArgumentError, "aligned"),
        (np.empty((6, 4), np.float32).T, ArgumentError, "C-contiguous"),
        (np.empty((4, 12), np.float32)[:, ::2], ArgumentError, "C-contiguous"),
        (np.empty((4, 6), np.float64), DtypeError, "got float64"),
        (np.empty((4, 6), np.int32), DtypeError, "got int32"),
        (np.empty((4, 6), ">f4"), DtypeError, "got >f4"),
        (np.empty((5, 6), np.float32), ArgumentError, "wrong shape"),
        (np.empty((4, 5), np.float32), ArgumentError, "wrong shape"),
        (np.empty(24, np.float32), ArgumentError, "wrong shape"),
        (np.empty((2, 2, 6), np.float32), ArgumentError, "wrong shape"),
        (torch.empty((4, 6)), DtypeError, "got Tensor"),
    ],
)
def test_out_that_does_not_fit_is_refused(table, out, error, message):
    for call in (
        lambda: table.lookup(np.arange(4), out),
        lambda: table.lookup([0, 1, 2, 3], out),
        lambda: table.embedding_bag(np.arange(4), np.arange(4), out=out),
        lambda: table.embedding_bag(np.arange(4).reshape(4, 1), out=out),
    ):
        with pytest.raises(error, match=message):
            call()


def test_native_calls_leave_other_arrays_to_python():
    _, native = sample("3 tiers", 200, 6)
    out = np.empty((4, 6), np.float32)
    for ids in (np.arange(8)[::2], unaligned(np.arange(4)), np.arange(4.0), [0, 1, 2, 3], None):
        assert native.lookup(ids, out) is NotImplemented
        assert native.embedding_bag(ids, np.arange(4), None, False, 0, -1, out) is NotImplemented
    for other in (frozen(out.copy()), unaligned(out), out[:3], out.T, None):
        assert native.lookup(np.arange(4), other) is NotImplemented
    ids = np.arange(4)
    for offsets in (np.arange(5), np.arange(4, dtype=np.int32), np.arange(8)[::2], [0, 1, 2, 3]):
        assert native.embedding_bag(ids, offsets, None, False, 0, -1, out) is NotImplemented
    for weights in (np.ones(3, np.float32), np.ones(4), np.ones((4, 1), np.float32), [1] * 4):
        assert native.embedding_bag(ids, ids, weights, False, 0, -1, out) is NotImplemented


@pytest.mark.parametrize("backend", kernels.backends())
def test_padding_is_left_out_before_its_slot_is_looked_at(backend):
    view = make_view(TIERS["2 tiers"], 200, 16)
    view.rowmap[1, 8:] = 255
    out = np.ones((1, 16), np.float32)
    with using(backend):
        table = kernels.bind(view)
        assert (
            table.embedding_bag(np.array([70, 70]), np.array([0]), None, False, 0, 70, out) is None
        )
    assert not out.any()
