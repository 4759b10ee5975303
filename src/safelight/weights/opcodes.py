"""A pickle followed opcode by opcode, as data: nothing that it names is ever imported, looked up
or called.

Python's own reader is not used. Opcodes are split by ``pickletools``, which only decodes, and
build lists, dictionaries, tuples, words and numbers of our own. A global is never more than its
name. Calling one has a meaning here only if it is among ``CALLS``, a few functions of this file's
user that arrange data; every other call, instance and state becomes ``Inert``, an object that
keeps the name of what it would have been and drops the arguments. So whole training files can be
read, whose callbacks and settings nobody needs. That nothing runs does not rest on which names are
refused; names from Python's own library that no such file has a use for (``os.system``,
``builtins.exec``) are refused all the same, since whoever put them there meant harm.

Memory is bounded by the length of the pickle and the number of opcodes; nothing here recurses.
"""

import pickletools
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

from safelight.errors import BadInput

LONGEST = 16 << 20  # bytes
MOST = 500_000  # opcodes; a tensor takes about 35
LONGEST_NAME = 300  # characters of a global
# of a call, at most: they are copied, and one tuple could be called a hundred thousand times
ARGUMENTS = 16

CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *(
        "UNICODE",
        "BINUNICODE",
        "SHORT_BINUNICODE",
        "BINUNICODE8",
        "STRING",
        "BINSTRING",
        "SHORT_BINSTRING",
    ),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
EMPTY: Mapping[str, Callable[[], Any]] = {
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}

ROOTS = sys.stdlib_module_names | {"__builtin__", "copy_reg", "commands", "exceptions"}
PLAIN = (
    "object set frozenset list dict tuple slice range complex bytearray int float str bool bytes"
)
HARMLESS = {  # of Python's own library: what training files hold beside tensors
    "__builtin__": PLAIN,
    "_codecs": "encode",
    "argparse": "Namespace",
    "builtins": PLAIN,
    "collections": "OrderedDict defaultdict Counter deque",
    "copy_reg": "_reconstructor",
    "copyreg": "_reconstructor",
    "datetime": "datetime date timedelta timezone",
    "decimal": "Decimal",
    "functools": "partial",
    "inspect": "_empty",
    "pathlib": "Path PosixPath PurePosixPath WindowsPath PureWindowsPath",
    "types": "SimpleNamespace",
    "typing": "Any Union Optional List Dict",
    "uuid": "UUID",
}


@dataclass(frozen=True)
class Global:
    """The name of a class or function, and no more."""

    name: str


@dataclass(eq=False)
class Inert:
    """What an object of this name would have been."""

    name: str


@dataclass(eq=False)
class Machine:
    """The stack and the memo of one pickle, and what its calls and its persistent ids mean."""

    calls: Mapping[str, Callable[..., Any]]
    persistent: Callable[[Any], Any]
    stack: list[Any] = field(default_factory=list)
    mark_positions: list[int] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)
    left: dict[str, None] = field(default_factory=dict)  # the names of what stayed inert

    def run(self, stream: BytesIO) -> Any:
        """The value of the pickle that begins where ``stream`` stands, which then stands at its
        end.

        Raises BadInput, without the file's name, if it asks for what no state dict needs or cannot
        be followed.
        """
        self.stack, self.mark_positions, self.memo = [], [], {}
        try:
            for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
                if count >= MOST:
                    raise BadInput(f"is a pickle of more than {MOST:,} steps; wanted a state dict")
                if opcode.name == "STOP":
                    return self.stack.pop()
                self._step(opcode.name, argument)
        except (IndexError, KeyError, TypeError, ValueError) as error:
            if isinstance(error, BadInput):
                raise
            raise BadInput(
                f"holds a pickle that cannot be followed ({str(error)[:100] or 'it is damaged'})"
            ) from None
        raise BadInput("holds a pickle without an end")

    def _step(self, name: str, argument: Any) -> None:
        if name in LITERALS:
            self.stack.append(argument)
        elif name in CONSTANTS:
            self.stack.append(CONSTANTS[name])
        elif name in EMPTY:
            self.stack.append(EMPTY[name]())
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            self.stack.append(self.memo[argument])
        elif name in ("BINPUT", "LONG_BINPUT", "PUT", "MEMOIZE"):
            self.memo[len(self.memo) if name == "MEMOIZE" else argument] = self.stack[-1]
        elif name in TUPLES:
            self.stack[-TUPLES[name] :] = [tuple(self._top(TUPLES[name]))]
        elif name in STEPS:
            STEPS[name](self, argument)
        else:
            raise BadInput(
                f"uses the opcode {name}, which no state dict needs; nothing was executed"
            )

    def _top(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise IndexError("its stack is empty")
        return self.stack[-count:]

    def _marked(self) -> list[Any]:
        at = self.mark_positions.pop()
        items = self.stack[at:]
        del self.stack[at:]
        return items

    def _global(self, module: Any, name: Any) -> Global:
        if not isinstance(module, str) or not isinstance(name, str):
            raise BadInput("names a global by what is not a word; nothing was executed")
        if len(module) + len(name) > LONGEST_NAME:
            raise BadInput(
                f"names a global of more than {LONGEST_NAME} characters; nothing was executed"
            )
        full = f"{module}.{name}"
        if module.partition(".")[0] in ROOTS and name not in HARMLESS.get(module, "").split():
            raise BadInput(
                f"asks for {full[:100]}, which no state dict needs; nothing was executed"
            )
        return Global(full)

    def _call(self, function: Any, arguments: Any) -> Any:
        if isinstance(function, Global) and function.name in self.calls:
            if not isinstance(arguments, tuple | list) or len(arguments) > ARGUMENTS:
                raise BadInput(
                    f"calls {function.name} with what it does not take; nothing was executed"
                )
            return self.calls[function.name](*arguments)
        if isinstance(function, Global | Inert):
            self.left[function.name[:100]] = None
            return Inert(function.name)
        raise BadInput(f"calls a {type(function).__name__}; nothing was executed")

    def _put(self, pairs: list[Any]) -> None:
        """Into the dictionary on top of the stack; what stayed inert drops them."""
        target = self.stack[-1]
        if isinstance(target, dict):
            for key, value in zip(pairs[::2], pairs[1::2], strict=True):
                target[key if _simple(key) else Inert("")] = value
        elif not isinstance(target, Inert):
            raise TypeError("items for what holds none")

    def _extend(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target += values
        elif not isinstance(target, Inert):
            raise TypeError("items for what holds none")

    def do_mark(self, argument: Any) -> None:
        self.mark_positions.append(len(self.stack))

    def do_pop(self, argument: Any) -> None:
        if self.mark_positions and self.mark_positions[-1] == len(self.stack):
            self.mark_positions.pop()
        else:
            self.stack.pop()

    def do_pop_mark(self, argument: Any) -> None:
        self._marked()

    def do_dup(self, argument: Any) -> None:
        self.stack.append(self.stack[-1])

    def do_tuple(self, argument: Any) -> None:
        self.stack.append(tuple(self._marked()))

    def do_list(self, argument: Any) -> None:
        self.stack.append(self._marked())

    def do_dict(self, argument: Any) -> None:
        pairs = self._marked()
        self.stack.append({})
        self._put(pairs)

    def do_append(self, argument: Any) -> None:
        self._extend([self.stack.pop()])

    def do_appends(self, argument: Any) -> None:
        self._extend(self._marked())

    def do_setitem(self, argument: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._put([key, value])

    def do_setitems(self, argument: Any) -> None:
        self._put(self._marked())

    def do_empty_set(self, argument: Any) -> None:
        self.stack.append(Inert("builtins.set"))

    def do_frozenset(self, argument: Any) -> None:
        self._marked()
        self.do_empty_set(argument)

    def do_global(self, argument: str) -> None:
        self.stack.append(self._global(*argument.split(" ", 1)))

    def do_stack_global(self, argument: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.stack.append(self._global(module, name))

    def do_inst(self, argument: str) -> None:
        self.stack.append(self._call(self._global(*argument.split(" ", 1)), self._marked()))

    def do_obj(self, argument: Any) -> None:
        function, *arguments = self._marked()
        self.stack.append(self._call(function, arguments))

    def do_reduce(self, argument: Any) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        self.stack.append(self._call(function, arguments))

    def do_newobj_ex(self, argument: Any) -> None:
        self.stack.pop()
        self.do_reduce(argument)

    def do_build(self, argument: Any) -> None:
        """A state for what is on top. Dictionaries and tensors have none that a model needs."""
        self.stack.pop()
        if isinstance(self.stack[-1], Global):
            raise BadInput(f"changes {self.stack[-1].name[:100]}; nothing was executed")

    def do_binpersid(self, argument: Any) -> None:
        self.stack.append(self.persistent(self.stack.pop()))

    def do_nothing(self, argument: Any) -> None:
        pass


STEPS: Mapping[str, Callable[[Machine, Any], None]] = {
    "PROTO": Machine.do_nothing,
    "FRAME": Machine.do_nothing,
    "MARK": Machine.do_mark,
    "POP": Machine.do_pop,
    "POP_MARK": Machine.do_pop_mark,
    "DUP": Machine.do_dup,
    "TUPLE": Machine.do_tuple,
    "LIST": Machine.do_list,
    "DICT": Machine.do_dict,
    "APPEND": Machine.do_append,
    "APPENDS": Machine.do_appends,
    "SETITEM": Machine.do_setitem,
    "SETITEMS": Machine.do_setitems,
    "EMPTY_SET": Machine.do_empty_set,
    "FROZENSET": Machine.do_frozenset,
    "ADDITEMS": Machine.do_appends,
    "GLOBAL": Machine.do_global,
    "STACK_GLOBAL": Machine.do_stack_global,
    "INST": Machine.do_inst,
    "OBJ": Machine.do_obj,
    "REDUCE": Machine.do_reduce,
    "NEWOBJ": Machine.do_reduce,
    "NEWOBJ_EX": Machine.do_newobj_ex,
    "BUILD": Machine.do_build,
    "BINPERSID": Machine.do_binpersid,
}


def _simple(key: Any) -> bool:
    """Whether a key can be hashed in little time, whoever chose it."""
    return (
        key is None
        or type(key) in (str, bool, float, Global)
        or (type(key) is int and abs(key) < 1 << 63)
    )
