"""Configurations: frozen dataclasses ⇄ TOML and JSON, and slots that hold one of several kinds.

A configuration is a frozen dataclass. A field that may be one of several kinds is a *slot*. The
kinds of a slot are the files of a folder (``tasks/text_to_image.py`` holds ``TextToImage``), or its
packages (``autoencoders/kl/config.py`` holds ``Config``, which imports no torch), or the
dataclasses of a file (``diffusion/schedule.py`` holds ``Linear``), or those of all files of a
folder (``diffusion/samplers/heun.py`` holds ``Heun`` and ``DPM2``). Adding a file or a class adds a
kind; nothing is registered.
"""

import re
import tomllib
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config
from pydantic_core import core_schema

from safelight import old_names
from safelight.errors import BadInput, unknown

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

_HERE = Path(__file__).parent


class Builds(Protocol[T_co]):
    """A configuration that builds what it describes."""

    def build(self) -> T_co: ...


def kind_of(value: object) -> str:
    """The kind of a configuration or of its class, such as ``kl`` or ``classifier-free``."""
    cls = value if isinstance(value, type) else type(value)
    if cls.__name__ == "Config":  # the only one of its file or package, which gives it its name
        module = cls.__module__.removesuffix(".config")
        return module.rpartition(".")[2].replace("_", "-")
    named: str | None = vars(cls).get("kind")
    return named or _hyphenated(cls.__name__)


def _hyphenated(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower()


@dataclass(frozen=True)
class Slot:
    """A place for one of the kinds of a room.

    ``Slot("autoencoders")`` has one in each file of the folder, and one in each package of it that
    has a ``config.py``; ``Slot("diffusion.schedule")`` has those of the file, and
    ``Slot("diffusion.samplers.*")`` those of all files of the folder.

    It reads a mapping with a ``kind``, the kind alone, or ``kind:option=value,option=value``; where
    ``number`` is set, such as ``"classifier-free:scale"``, also a bare number. A kind with a field
    ``of`` holds another kind of the same room, to which options go that it lacks itself:
    ``interval:of=apg,scale=7,high=0.6``.
    """

    room: str
    number: str | None = None

    def kinds(self) -> list[str]:
        """The names of all kinds. For a folder nothing is imported."""
        if self.room.endswith(".*"):
            return sorted(_modules_of_kinds(self.room.removesuffix(".*")))
        return _files(self.room) if self._is_folder else sorted(_classes(self.room))

    def config(self, kind: object) -> type:
        """The dataclass of a kind; BadInput with the nearest name if there is none."""
        if kind not in self.kinds():
            raise unknown(self.word, kind, self.kinds())
        if self.room.endswith(".*"):
            module = _modules_of_kinds(self.room.removesuffix(".*"))[str(kind)]
        else:
            module = _module(self.room, str(kind)) if self._is_folder else self.room
        return _classes(module)[str(kind)]

    def all(self) -> list[type[Any]]:
        """The dataclasses of all kinds; imports every file of the room."""
        return [self.config(kind) for kind in self.kinds()]

    @property
    def word(self) -> str:
        """What one kind of the room is called in messages."""
        return self.room.removesuffix(".*").rpartition(".")[2].removesuffix("s").replace("_", " ")

    def read(self, value: object) -> Any:
        """A configuration from any of the accepted forms."""
        if is_dataclass(value) and not isinstance(value, type):
            return self._checked(value)
        if self.number and (number := _number(value)) is not None:
            kind, _, option = self.number.partition(":")
            options: dict[Any, Any] = {option: number}
        elif isinstance(value, str):
            kind, options = _parse_kind(value)
        elif isinstance(value, Mapping) and "kind" in value:
            kind, options = (
                value["kind"],
                {key: item for key, item in value.items() if key != "kind"},
            )
        else:
            raise BadInput(
                f"{self.word}: wanted a kind ({', '.join(self.kinds())}) with its options, got "
                f"{value!r}."
            )
        kind = old_names.TABLE.kind(self.room, kind)
        options = self._with_new_names(kind, options)
        config = self.config(kind)
        return read(config, self._nested(config, options), f"{self.word} {kind}")

    def write(self, value: object) -> dict[str, Any]:
        """The mapping that ``read`` makes the same configuration from."""
        inner = {"of": self.write(vars(value)["of"])} if "of" in vars(value) else {}
        return {"kind": kind_of(value), **dump(value), **inner}

    @property
    def _is_folder(self) -> bool:
        return (_HERE / self.room.replace(".", "/")).is_dir()

    def _with_new_names(self, kind: object, options: Mapping[Any, Any]) -> dict[Any, Any]:
        """Options of a kind, of which some may have former names."""
        return old_names.TABLE.options(f"{self.room.removesuffix('.*')}.{kind}", options)

    def _nested(self, config: type, options: Mapping[Any, Any]) -> dict[Any, Any]:
        """The options with ``of`` read, if the kind has one; what only the inner kind may know is
        given to it."""
        own = {field.name: field for field in fields(config)}
        if "of" not in own:
            return dict(options)
        lacking = {key: value for key, value in options.items() if key not in own}
        inner = options.get("of", kind_of(own["of"].default_factory))
        if lacking and isinstance(inner, str):
            kind, inner = _parse_kind(inner)
            inner["kind"] = kind
        if isinstance(inner, Mapping):
            inner = old_names.TABLE.slot(self.room, inner)
            lacking = self._with_new_names(inner.get("kind"), lacking)
        holds = inner.get("kind") if isinstance(inner, Mapping) else None
        known = (
            {field.name for field in fields(self.config(holds))} if holds in self.kinds() else set()
        )
        for key in lacking:
            if key not in known and "of" not in known:
                raise unknown(f"key in {self.word} {kind_of(config)}:", key, {*own, *known})
        if lacking:
            inner = {**inner, **lacking}
        return {
            **{key: value for key, value in options.items() if key in own},
            "of": self.read(inner),
        }

    def _checked(self, value: object) -> object:
        if self.config(kind_of(value)) is not type(value):
            raise unknown(self.word, kind_of(value), self.kinds())
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self.read, serialization=core_schema.plain_serializer_function_ser_schema(self.write)
        )


@lru_cache
def _files(room: str) -> list[str]:
    """The kinds of a folder: its files, and its packages that have a ``config.py``."""
    folder = _HERE / room.replace(".", "/")
    names = {path.stem for path in folder.glob("*.py")}
    names |= {path.parent.name for path in folder.glob("*/config.py")}
    return sorted(name.replace("_", "-") for name in names if not name.startswith("_"))


def _module(room: str, kind: str) -> str:
    """The module, without ``safelight.``, that holds the configuration of a folder's kind."""
    name = kind.replace("-", "_")
    is_package = (_HERE / room.replace(".", "/") / name).is_dir()
    return f"{room}.{name}.config" if is_package else f"{room}.{name}"


_DATACLASS = re.compile(
    r"^@dataclass[^\n]*\nclass ([A-Za-z]\w*)[^\n]*\n((?:[ ][^\n]*\n|\n)*)", re.M
)
_KIND = re.compile(r'^    kind: ClassVar(?:\[str\])? = "([^"]+)"', re.M)


@lru_cache
def _modules_of_kinds(folder: str) -> dict[str, str]:
    """The module, without ``safelight.``, of each kind in a folder of files with several kinds.

    It is read from the text of the files: only the file of a kind that is used is imported.
    """
    modules = {}
    for name in _files(folder):
        stem = name.replace("-", "_")
        text = (_HERE / folder.replace(".", "/") / f"{stem}.py").read_text(encoding="utf-8")
        for cls, body in _DATACLASS.findall(text):
            kind = _KIND.search(body)
            modules[kind[1] if kind else _hyphenated(cls)] = f"{folder}.{stem}"
    return modules


@lru_cache
def _classes(room: str) -> dict[str, type]:
    module = import_module(f"safelight.{room}")
    mine = (
        item
        for item in vars(module).values()
        if isinstance(item, type) and item.__module__ == module.__name__
    )
    return {
        kind_of(cls): cls for cls in mine if is_dataclass(cls) and not cls.__name__.startswith("_")
    }


def read(cls: type[T], value: Mapping[str, Any], where: str = "") -> T:
    """``value`` as a ``cls``.

    BadInput, which names the place, for an unknown key and for a value of another type.
    """
    if not isinstance(value, Mapping):
        raise BadInput(f"{where or 'configuration'}: wanted a table of options, got {value!r}.")
    value = _with_new_names(cls, value)
    _check_keys(cls, value, where)
    try:
        return _adapter(cls).validate_python(dict(value))  # type: ignore[no-any-return]
    except ValidationError as error:
        raise _as_bad_input(error, where) from None


def dump(value: object) -> dict[str, Any]:
    """A configuration as plain JSON values; ``read`` makes an equal one from them."""
    return _adapter(type(value)).dump_python(value, mode="json", fallback=_name_of)  # type: ignore[no-any-return]


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file; BadInput names the file and what is wrong in it."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(f"there is no file {str(path)!r}.") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadInput(f"{str(path)!r} cannot be read as TOML: {error}.") from None


def override(cls: type[T], config: T, changes: Sequence[str]) -> T:
    """``config`` with changes such as ``optimiser.rate=1e-3``; only keys that exist, the nearest
    suggested."""
    tree = dump(config)
    for change in changes:
        path, equals, text = change.partition("=")
        if not equals:
            raise BadInput(f"--set wants key=value, got {change!r}.")
        *parents, last = path.strip().split(".")
        place = tree
        for key in parents:
            place = _child(place, key, path)
        _child(place, last, path)
        place[last] = _parse(text)
    return read(cls, tree)


def _child(place: Any, key: str, path: str) -> Any:
    known = list(place) if isinstance(place, dict) else []
    if key not in known:
        raise unknown(f"key in {path!r}:", key, known)
    return place[key]


def _parse_kind(text: str) -> tuple[str, dict[str, Any]]:
    """``kind:a=1,b=x`` as the kind and its options; a comma inside brackets belongs to a list."""
    kind, _, rest = text.partition(":")
    pairs = (pair.partition("=") for pair in re.split(r",(?![^\[]*\])", rest) if pair)
    return kind.strip(), {key.strip(): _parse(value) for key, _, value in pairs}


def _parse(text: str) -> Any:
    """A value as TOML writes it, else the text itself."""
    try:
        return tomllib.loads(f"value = {text.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        return text.strip()


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except ValueError:
        return None


def _make_adapter(cls: type) -> TypeAdapter[Any]:
    # Other types are taken as they are: a kind may hold another one, read already.
    return TypeAdapter(with_config(ConfigDict(arbitrary_types_allowed=True))(cls))


_adapter: Callable[[type], TypeAdapter[Any]] = lru_cache(_make_adapter)


def _name_of(value: object) -> str:
    """What has no form in JSON (a function that someone gave in Python) by its name, which can be
    read but not used."""
    return (
        f"{type(value).__name__} {value.__name__}"
        if isinstance(value, types.FunctionType)
        else type(value).__name__
    )


def _with_new_names(cls: type, value: Mapping[str, Any]) -> dict[str, Any]:
    """``value`` with today's names of options, here and in the tables below."""
    hints = get_type_hints(cls, include_extras=True)
    found = old_names.TABLE.options(old_names.place(cls), value)
    for key, item in found.items():
        for part in _dataclasses(_value_hint(hints.get(key))):
            if isinstance(item, Mapping):
                found[key] = item = {
                    name: _with_new_names(part, one) if isinstance(one, Mapping) else one
                    for name, one in item.items()
                }
        for part in _dataclasses(hints.get(key)):
            if isinstance(item, Mapping):
                found[key] = item = _with_new_names(part, item)
            elif isinstance(item, list | tuple):
                found[key] = item = [
                    _with_new_names(part, one) if isinstance(one, Mapping) else one for one in item
                ]
    return found


def _check_keys(cls: type, value: Mapping[str, Any], where: str) -> None:
    """Refuse keys that no field has, here and in the tables below; pydantic would drop them
    silently."""
    hints = get_type_hints(cls, include_extras=True)
    names = [field.name for field in fields(cls)]
    for key, item in value.items():
        place = f"{where}.{key}" if where else key
        if key not in names:
            raise unknown(f"key in {where or 'the configuration'}:", key, names)
        for part in _dataclasses(_value_hint(hints[key])):
            for name, one in item.items() if isinstance(item, Mapping) else ():
                if isinstance(one, Mapping):
                    _check_keys(part, one, f"{place}.{name}")
        for part in _dataclasses(hints[key]):
            for one in item if isinstance(item, list | tuple) else [item]:
                if isinstance(one, Mapping):
                    _check_keys(part, one, place)


def _value_hint(hint: Any) -> Any:
    """The type of the values of a field that holds a mapping by name; None for other fields."""
    return get_args(hint)[1] if get_origin(hint) is Mapping else None


def _dataclasses(hint: Any) -> Iterator[type]:
    """The dataclasses among what a field may hold."""
    if get_origin(hint) is Annotated:
        return  # a slot checks its own keys
    if isinstance(hint, type) and is_dataclass(hint):
        yield hint
    elif get_origin(hint) in (Union, types.UnionType, tuple, list):
        for part in get_args(hint):
            yield from _dataclasses(part)


def _as_bad_input(error: ValidationError, where: str) -> BadInput:
    """The first of pydantic's findings in one sentence that begins with the place."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in (where, *first["loc"]) if part != "")
    inner = first.get("ctx", {}).get("error")
    if isinstance(inner, BadInput):
        has_place = place == "" or re.match(
            rf"{re.escape(re.split('[ .]', place)[-1])}[ .:]", str(inner)
        )
        return BadInput(str(inner) if has_place else f"{place}: {inner}")
    if first["type"] in ("missing", "missing_argument"):
        return BadInput(f"{place}: this key is required but missing.")
    message = first["msg"][0].lower() + first["msg"][1:]
    return BadInput(f"{place}: {message.removeprefix('input ')}, got {first['input']!r}.")
