"""Classes and functions that pickles in torch files may name, and what is made of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sharkstore.readers.inert import Global, Record, constants, records
from sharkstore.readers.torch_shards import (
    DTENSORS,
    NAMED,
    SHARDED,
    WRAPPER,
    Distributed,
    distributed,
)
from sharkstore.readers.torch_values import (
    MOST_AXES,
    Stored,
    Unstorable,
    rebuild_v2,
    rebuild_v3,
    same,
    unstorable,
)

STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexDoubleStorage": "complex128",
    "ComplexFloatStorage": "complex64",
    "QUInt8Storage": "quint8",
    "QInt8Storage": "qint8",
    "QInt32Storage": "qint32",
    "QUInt4x2Storage": "quint4x2",
    "QUInt2x4Storage": "quint2x4",
    "storage.UntypedStorage": "uint8",
    "storage._UntypedStorage": "uint8",
    "UntypedStorage": "uint8",
}
ITEMSIZES = {
    **dict.fromkeys(("float64", "int64", "complex64"), 8),
    **dict.fromkeys(("float32", "int32", "qint32"), 4),
    **dict.fromkeys(("float16", "bfloat16", "int16"), 2),
    "complex128": 16,
}
DTYPES = (
    *("float64", "float32", "float16", "bfloat16", "complex32", "complex64", "complex128"),
    *("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8", "bool"),
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in range(1, 8)),
    *("qint8", "quint8", "qint32", "quint4x2", "quint2x4"),
    *("bits8", "bits16", "bits1x8", "bits2x4", "bits4x2"),
    *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
    "float4_e2m1fn_x2",
)
QSCHEMES = (
    *("per_tensor_affine", "per_tensor_symmetric", "per_channel_affine", "per_channel_symmetric"),
    "per_channel_affine_float_qparams",
)
PARAMETERS = ("torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer", "torch.Tensor")


def _empty_dict() -> dict[Any, Any]:
    return {}


def _default_dict(factory: object = None) -> dict[Any, Any]:
    del factory
    return {}


def _size(items: object) -> tuple[Any, ...]:
    if type(items) is not tuple or len(items) > MOST_AXES:
        raise TypeError("not of a tuple")
    return items


def _member(owner: object, name: object) -> Global | Record:
    """`getattr`: protocol 2 has it for classes within classes, of which there is one.

    Python 3.11.0 to 3.11.3 write the members of enums so.
    """
    if isinstance(owner, Global) and owner.name.endswith("MEM_FORMAT_ENCODING"):
        return Record(owner.name, (name,))
    if owner != Global(SHARDED) or name != "ProcessGroupState":
        raise ValueError("names something else than a state of a process group")
    return Global(f"{SHARDED}.ProcessGroupState")


def _rebuild_type(function: object, kind: object, args: object, state: object) -> Any:
    """A tensor of a subclass: `torch._tensor._rebuild_from_type_v2`."""
    if type(function) is not Global or type(kind) is not Global or type(args) is not tuple:
        raise TypeError("not of a function, a type and arguments")
    if kind.name in PARAMETERS:
        rebuild = REBUILDS.get(function.name)
        if rebuild is None or len(args) > MOST_AXES:
            raise TypeError("not of a function that rebuilds a tensor")
        return rebuild(*args)
    return distributed(kind.name, args, state)


REBUILDS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": rebuild_v2,
    "torch._utils._rebuild_tensor_v2": rebuild_v2,
    "torch._utils._rebuild_tensor_v3": rebuild_v3,
    "torch._utils._rebuild_parameter": same,
    "torch._utils._rebuild_parameter_with_state": same,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": same,
    "torch._utils._rebuild_device_tensor_from_numpy": unstorable("of another device, as numpy"),
    "torch._utils._rebuild_sparse_tensor": unstorable("sparse or quantised"),
    "torch._utils._rebuild_qtensor": unstorable("sparse or quantised"),
    "torch._utils._rebuild_nested_tensor": unstorable("nested"),
    "torch._utils._rebuild_meta_tensor_no_storage": unstorable("without data"),
    "torch._utils._rebuild_wrapper_subclass": unstorable("a tensor that wraps others"),
}
NAMES: Mapping[str, Callable[..., Any]] = {
    **REBUILDS,
    "torch._tensor._rebuild_from_type_v2": _rebuild_type,
    "torch.Size": _size,
    "collections.OrderedDict": _empty_dict,
    "collections.defaultdict": _default_dict,
    "builtins.getattr": _member,
    **constants(
        *(f"torch.{dtype}" for dtype in (*DTYPES, *QSCHEMES)),
        *(f"torch.{storage}" for storage in STORAGES),
        *("builtins.int", "builtins.float", "builtins.str", "builtins.list", "builtins.dict"),
        *PARAMETERS,
        *(SHARDED, WRAPPER, *DTENSORS),
    ),
    **records(
        *("collections.Counter", "_codecs.encode", "torch.device"),
        *("torch.serialization._get_layout", "builtins.complex", "builtins.slice"),
        *("builtins.set", "builtins.frozenset", "builtins.bytearray", "builtins.range"),
        *(
            f"numpy.{core}.multiarray.{one}"
            for core in ("core", "_core")
            for one in ("scalar", "_reconstruct")
        ),
        *("numpy.ndarray", "numpy.dtype"),
        *NAMED,
    ),
}


def storage_of(pid: object) -> tuple[str, str, int]:
    """Dtype, key and bytes of a storage, out of its persistent id.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(pid, tuple) or len(pid) != 5 or pid[0] != "storage":
        raise TypeError("a persistent id that is no storage's")
    _, kind, key, _, count = pid
    if type(kind) is not Global or type(key) is not str or type(count) is not int:
        raise TypeError("a storage of no type, key and length")
    dtype = STORAGES.get(kind.name.removeprefix("torch."))
    if dtype is None:
        raise TypeError(f"a storage of type {kind.name}")
    return dtype, key, count * ITEMSIZES.get(dtype, 1)


def kind_of(value: object) -> str:
    """What a value is, in a word."""
    if isinstance(value, Record | Global):
        return value.name.rpartition(".")[2]
    if isinstance(value, Stored | Unstorable | Distributed):
        return "Tensor"
    return type(value).__name__
