"""PyTorch's own files (.ckpt, .pt, .bin): their tensors by name, without a pickle ever being
executed.

Both forms are read: a zip with one pickle and one member a storage, and the older stream of
pickles with the storages behind. The pickle is followed by ``opcodes``, which calls nothing; a
tensor comes out of it as the place of its values, and is read from there when it is asked for.
"""

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from itertools import accumulate
from math import prod
from typing import Any

from safelight.errors import BadInput
from safelight.types.shapes import Shape
from safelight.weights import opcodes
from safelight.weights.header import AXES
from safelight.weights.opcodes import Global, Machine
from safelight.weights.stored import TYPES, LazyTensor, WeightFile, span
from safelight.weights.zips import Member, members

ZIP = b"PK\3\4"
PICKLE = b"\x80"
MAGIC = 0x1950A86A20F9469CFC6C  # the first of the older form's pickles
DEPTH = 24  # containers in containers
MOST_VISITS, MOST_FACTS = 200_000, 10_000
LONGEST_NAME, LONGEST_FACT = 300, 4096

STORAGES = {
    f"torch.{device}{name}Storage": kind
    for device in ("", "cuda.")
    for name, kind in {
        "Bool": "BOOL",
        "Byte": "U8",
        "Char": "I8",
        "Short": "I16",
        "Int": "I32",
        "Long": "I64",
        "Half": "F16",
        "BFloat16": "BF16",
        "Float": "F32",
        "Double": "F64",
        "ComplexFloat": "C64",
    }.items()
}
UNTYPED = ("torch.storage.UntypedStorage", "torch.UntypedStorage")
DTYPES = {f"torch.{dtype.name}": kind for kind, dtype in TYPES.items()}


@dataclass(frozen=True, eq=False)
class Storage:
    """What a tensor is a view of, by the key of its bytes."""

    key: str
    type: str
    bytes: int


@dataclass(frozen=True, eq=False)
class View:
    """A tensor: ``start`` in bytes of the storage, ``strides`` in elements."""

    storage: Storage
    start: int
    shape: Shape
    type: str
    strides: tuple[int, ...]


def looks_like(opening: bytes) -> bool:
    """Whether a file that begins so is a zip or a pickle."""
    return opening.startswith((ZIP, PICKLE))


def read_pickled(source: WeightFile) -> tuple[dict[str, LazyTensor], dict[str, str]]:
    """The tensors of a file by their path in it (``state_dict.model.…``, ``ema.…``), and its words
    and numbers.

    Under ``unread``: the names of the objects that were left alone. Raises BadInput if the file
    asks for what no state dict needs, is not whole, holds a tensor beyond its storage, or no
    tensor that has a name.
    """
    try:
        read = _zip if source.read(0, 4) == ZIP else _stream
        root, places, left = read(source)
        views, facts = _named(root)
        stored = {name: _stored(source, view, places, name) for name, view in views.items()}
    except BadInput as error:
        if str(error).startswith(source.where):
            raise
        raise BadInput(f"{source.where} {error}.") from None
    if not stored:
        objects = f"objects of {', '.join([*left][:3])}" if left else "none"
        raise BadInput(
            f"{source.where}: wanted tensors with names, got {objects}; save the model's "
            "state_dict."
        )
    return stored, facts | ({"unread": ", ".join([*left][:20])} if left else {})


Places = Callable[[str], tuple[int, int]]
"""Where the bytes of a storage begin, and how many there are."""


def _zip(source: WeightFile) -> tuple[Any, Places, Mapping[str, None]]:
    found = members(source)
    roots = [
        name.removesuffix("data.pkl") for name in found if name.rpartition("/")[2] == "data.pkl"
    ]
    if len(roots) != 1:
        raise BadInput(
            "is a zip, but not one of PyTorch's (with one data.pkl): unpack it and load what it "
            "holds"
        )
    pickle, order = found[roots[0] + "data.pkl"], found.get(roots[0] + "byteorder")
    if pickle.size > opcodes.LONGEST:
        raise BadInput(f"has a pickle of {pickle.size:,} bytes; wanted at most {opcodes.LONGEST:,}")
    if order and source.read(order.place(), min(order.size, 8)) != b"little":
        raise BadInput(
            "has the bytes of its numbers the other way round; save it anew on a usual machine"
        )
    machine = Machine(CALLS, _storage)
    root = machine.run(BytesIO(source.read(pickle.place(), pickle.size)))
    known: dict[str, tuple[int, int]] = {}

    def places(key: str) -> tuple[int, int]:
        if key not in known:
            member: Member | None = found.get(f"{roots[0]}data/{key}")
            if member is None:
                raise BadInput(f"lacks the member data/{key[:40]}; get the file again")
            known[key] = member.place(), member.size
        return known[key]

    return root, places, machine.left


def _stream(source: WeightFile) -> tuple[Any, Places, Mapping[str, None]]:
    """Pickles of a magic number, a version, the machine, the object and the storages' keys; then
    the storages."""
    stream = BytesIO(source.read(0, opcodes.LONGEST))
    storages: dict[str, Storage] = {}

    def keep(persistent_id: Any) -> Storage:
        one = _storage(persistent_id)
        return storages.setdefault(one.key, one)

    machine = Machine(CALLS, keep)
    if machine.run(stream) != MAGIC:
        raise BadInput("is a pickle, but not of PyTorch; wanted a file of weights")
    version, system, root, keys = (machine.run(stream) for _ in range(4))
    if version != 1001 or not isinstance(system, dict) or system.get("little_endian") is not True:
        raise BadInput("is of a PyTorch or a machine that is not known; save it anew")
    at, found = stream.tell(), {}
    for key in keys if isinstance(keys, list) else []:
        if not isinstance(key, str) or key not in storages or key in found:
            raise BadInput("lists storages that its tensors do not use; get the file again")
        found[key] = at + 8, storages[key].bytes
        at += 8 + storages[key].bytes
    if at > source.size:
        raise BadInput(f"ends after {source.size:,} of {at:,} bytes; get the file again")

    def places(key: str) -> tuple[int, int]:
        if key not in found:
            raise BadInput(f"lacks the storage {key[:40]}; get the file again")
        return found[key]

    return root, places, machine.left


def _storage(persistent_id: Any) -> Storage:
    """What a persistent id names: ("storage", type, key, device, elements)."""
    match persistent_id:
        case ("storage", Global(name), str(key), _, int(count)) | (
            "storage",
            Global(name),
            str(key),
            _,
            int(count),
            None,
        ):
            kind = "U8" if name in UNTYPED else STORAGES.get(name)
            if kind is None:
                raise BadInput(
                    f"holds a storage of {name[:100]}, a type that is not known; save it in another"
                )
            if not 0 <= count < 1 << 48:
                raise BadInput("holds a storage of a length that cannot be")
            return Storage(key, kind, count * TYPES[kind].itemsize)
    raise BadInput("refers to something outside itself that is no storage; nothing was executed")


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> View:
    """torch._utils._rebuild_tensor and _rebuild_tensor_v2: rest is requires_grad, hooks,
    metadata."""
    return _view(
        storage, storage.type if isinstance(storage, Storage) else "", offset, shape, strides
    )


def _typed(
    storage: Any,
    offset: Any,
    shape: Any,
    strides: Any,
    grad: Any,
    hooks: Any,
    dtype: Any,
    *rest: Any,
) -> View:
    """torch._utils._rebuild_tensor_v3: with a type of its own."""
    kind = DTYPES.get(dtype.name) if isinstance(dtype, Global) else None
    if kind is None:
        got = dtype.name[:100] if isinstance(dtype, Global) else "none"
        raise BadInput(f"holds a tensor of type {got}; known: {', '.join(DTYPES)}")
    return _view(storage, kind, offset, shape, strides)


def _view(storage: Any, kind: str, offset: Any, shape: Any, strides: Any) -> View:
    if (
        not isinstance(storage, Storage)
        or not isinstance(shape, tuple)
        or not isinstance(strides, tuple)
    ):
        raise BadInput("holds a tensor without a storage, a shape or strides")
    fits = len(shape) == len(strides) <= AXES
    if not fits or not all(
        type(one) is int and 0 <= one < 1 << 48 for one in (offset, *shape, *strides)
    ):
        raise BadInput("holds a tensor with a shape or strides that cannot be")
    size = TYPES[kind].itemsize
    if max(prod(shape), offset + span(shape, strides)) * size > storage.bytes:
        raise BadInput(
            f"holds a tensor of shape {shape[:8]} that goes beyond its storage of "
            f"{storage.bytes:,} bytes"
        )
    return View(storage, offset * size, shape, kind, () if strides == _packed(shape) else strides)


def _packed(shape: Shape) -> tuple[int, ...]:
    return tuple(accumulate(shape[:0:-1], operator.mul, initial=1))[::-1][: len(shape)]


def _parameter(data: Any, *rest: Any) -> Any:
    """torch._utils._rebuild_parameter: rest is requires_grad, hooks, state."""
    return data


def _subclass(function: Any, kind: Any, arguments: Any, state: Any) -> Any:
    """torch._tensor._rebuild_from_type_v2: a tensor that had attributes, which are dropped."""
    if isinstance(function, Global) and function.name in TENSORS and isinstance(arguments, tuple):
        return TENSORS[function.name](*arguments[: opcodes.ARGUMENTS])
    raise BadInput("holds a tensor that is made in a way that is not known; save plain tensors")


def _ordered(*pairs: Any) -> dict[Any, Any]:
    """collections.OrderedDict, which is filled by later opcodes."""
    if pairs:
        raise BadInput("holds a dictionary as Python 2 wrote it; save it anew")
    return {}


def _default(*factory: Any) -> dict[Any, Any]:
    """collections.defaultdict, likewise."""
    return {}


def _size(lengths: Any) -> Any:
    """torch.Size of a tuple, which says the same."""
    return lengths


TENSORS: Mapping[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _typed,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
}
CALLS: Mapping[str, Callable[..., Any]] = {
    **TENSORS,
    "torch._tensor._rebuild_from_type_v2": _subclass,
    "torch.Size": _size,
    "collections.OrderedDict": _ordered,
    "collections.defaultdict": _default,
}
"""All that a call in a pickle may mean. None of these does more than arrange what it is given."""


def _named(root: Any) -> tuple[dict[str, View], dict[str, str]]:
    """The tensors and the facts by their path in nested dictionaries and lists."""
    views: dict[str, View] = {}
    facts: dict[str, str] = {}
    rest: list[tuple[str, Any, int]] = [("", root, 0)]
    visits = 0
    while rest:
        path, value, depth = rest.pop()
        if isinstance(value, View) and path:
            if path in views:
                raise BadInput(f"holds {path} twice; which one counts cannot be known")
            views[path] = value
        elif isinstance(value, dict | list | tuple) and depth < DEPTH:
            visits += len(value)
            if (
                visits > MOST_VISITS
            ):  # before they are listed: one list may be in another a thousand times
                raise BadInput(f"holds more than {MOST_VISITS:,} values; wanted a state dict")
            rest += [(_join(path, key), one, depth + 1) for key, one in reversed(_items(value))]
        elif _fact(value) and len(facts) < MOST_FACTS and path:
            facts[path] = str(value)
    return views, facts


def _items(value: dict[Any, Any] | list[Any] | tuple[Any, ...]) -> list[tuple[str | int, Any]]:
    """What a container holds that may have a name: of lists only what may hold tensors."""
    if isinstance(value, dict):
        return [(key, one) for key, one in value.items() if isinstance(key, str | int)]
    return [
        (key, one) for key, one in enumerate(value) if isinstance(one, dict | list | tuple | View)
    ]


def _join(path: str, key: str | int) -> str:
    name = f"{path}.{key}" if path else str(key)
    if len(name) > LONGEST_NAME:
        raise BadInput(f"has a name of more than {LONGEST_NAME} characters: {name[:100]}…")
    return name


def _fact(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= LONGEST_FACT
    return isinstance(value, float) or (isinstance(value, int) and abs(value) < 1 << 63)


def _stored(source: WeightFile, view: View, places: Places, name: str) -> LazyTensor:
    start, length = places(view.storage.key)
    if view.storage.bytes > length:
        raise BadInput(
            f"holds {length:,} of the {view.storage.bytes:,} bytes of {name}; get the file again"
        )
    return LazyTensor(source, start + view.start, view.shape, view.type, view.strides)
