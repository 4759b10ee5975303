"""Former names in files that earlier versions wrote, and what they are called today.

Add a row for everything that is renamed and may stand in a model folder, a checkpoint of a run, a
recipe or a picture:

- ``OldName(DAY, "kind", "conditioners", "towers", "text-encoders")``: a kind, in its slot's room.
- ``OldName(DAY, "option", "diffusion.samplers.euler", "swell", "s_noise")``: an option of a kind,
  which is named by room and kind; or a field of another dataclass, which is named by module and
  class, as ``training.recipe.Loop``; or a key of what has no class: ``hint``, ``picture``,
  ``picture.model`` (the recipe inside a PNG), ``run.data``, ``run.origin``, ``run.state`` (files of
  a run folder).
- ``OldName(DAY, "value", "denoisers.plain-dit.embedders", "each", "per-block")``: a value of an
  option, which is named as it is today; in a list each item, in a table each key.
- ``OldName(DAY, "tensor", "denoisers.flux", "doubles.*", "double_blocks.*")``: the beginning of the
  names of tensors in a kind of part, or in all (``*``). ``*`` stands for one segment between dots,
  ``**`` at the beginning for any number; what follows is kept. Rows of a kind apply in order, then
  those for all. What concerns autoencoders needs rows of their kinds: runs and caches of latents
  know an autoencoder by a hash that its first names are part of.

``DAY`` is the day of the change, as 2026-12-01, and ``where`` always says what things are called
today. A name that is renamed again gets a second row, and its first row's ``new`` is brought up to
date.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Literal, NamedTuple

from safelight.errors import BadInput


class OldName(NamedTuple):
    """One renaming."""

    date: str  # of the change, as 2026-12-01
    what: Literal["kind", "option", "value", "tensor"]
    where: str
    old: str
    new: str


ROWS: tuple[OldName, ...] = (
    OldName("2026-12-01", "kind", "conditioners", "nothing", "unconditional"),
    OldName("2026-12-01", "kind", "conditioners", "towers", "text-encoders"),
    OldName("2026-12-01", "option", "diffusion.samplers.euler", "swell", "s_noise"),
    OldName("2026-12-01", "option", "diffusion.samplers.heun", "swell", "s_noise"),
    OldName("2026-12-01", "option", "diffusion.samplers.heun", "churn", "s_churn"),
    OldName("2026-12-01", "option", "diffusion.samplers.heun", "churn_from", "s_tmin"),
    OldName("2026-12-01", "option", "diffusion.samplers.heun", "churn_to", "s_tmax"),
    OldName("2026-12-01", "kind", "diffusion.spacing", "picked", "lcm"),
    OldName("2026-12-01", "option", "diffusion.spacing.lcm", "among", "original_steps"),
    OldName("2026-12-01", "option", "conditioners.label", "numbered", "numeric_labels"),
    OldName("2026-12-01", "option", "conditioners.label", "attended", "as_token"),
    OldName("2026-12-01", "option", "conditioners.label", "absence", "null_class"),
    OldName("2026-12-01", "tensor", "conditioners.label", "table", "embedding"),
    OldName("2026-12-01", "option", "conditioners.text-encoders", "towers", "encoders"),
    OldName("2026-12-01", "option", "conditioners.text-encoders", "sizes", "size_conditions"),
    OldName("2026-12-01", "option", "conditioners.text-encoders", "native", "native_size"),
    OldName("2026-12-01", "option", "conditioners.text-encoders", "empty", "null_prompt"),
    OldName("2026-12-01", "option", "conditioners._encoder.EncoderConfig", "words", "tokenizer"),
    OldName("2026-12-01", "option", "conditioners._encoder.EncoderConfig", "chunks", "max_chunks"),
    OldName("2026-12-01", "option", "conditioners._encoder.EncoderConfig", "pad", "padding"),
    OldName("2026-12-01", "option", "conditioners._encoder.EncoderConfig", "row", "group"),
    OldName("2026-12-01", "option", "conditioners._encoder.EncoderConfig", "absent", "missing"),
    OldName("2026-12-01", "option", "nn.text_models.bert", "head", "head_width"),
    OldName("2026-12-01", "option", "nn.text_models.t5", "head", "head_width"),
    OldName("2026-12-01", "option", "nn.text_models.t5", "farthest", "max_distance"),
    OldName("2026-12-01", "option", "nn.text_models.decoder", "taps", "output_layers"),
    OldName("2026-12-01", "option", "nn.text_models.decoder", "shared", "kv_heads"),
    OldName("2026-12-01", "option", "nn.text_models.decoder", "head", "head_width"),
    OldName("2026-12-01", "option", "nn.text_models.decoder", "base", "rope_theta"),
    OldName(
        "2026-12-01",
        "tensor",
        "conditioners.text-encoders",
        "towers.*.words",
        "encoders.*.tokenizer",
    ),
    OldName("2026-12-01", "tensor", "conditioners.text-encoders", "towers", "encoders"),
    OldName(
        "2026-12-01",
        "tensor",
        "conditioners.text-encoders",
        "encoders.*.network.blocks.*.enter",
        "encoders.*.network.blocks.*.fc1",
    ),
    OldName(
        "2026-12-01",
        "tensor",
        "conditioners.text-encoders",
        "encoders.*.network.blocks.*.leave",
        "encoders.*.network.blocks.*.fc2",
    ),
    OldName(
        "2026-12-01",
        "tensor",
        "conditioners.text-encoders",
        "encoders.*.network.distances",
        "encoders.*.network.relative_positions",
    ),
    OldName("2026-12-01", "option", "training.adversarial.Adversarial", "begins", "start"),
    OldName(
        "2026-12-01", "option", "training.adversarial.Adversarial", "most", "max_adaptive_weight"
    ),
    OldName("2026-12-01", "option", "training.objectives.reconstruction", "costs", "regularisers"),
    OldName(
        "2026-12-01", "option", "training.objectives.reconstruction", "robust", "decoder_noise"
    ),
    OldName("2026-12-01", "option", "training.optimisers.muon", "least", "min_side"),
    OldName("2026-12-01", "option", "run.data", "stands on", "parents"),
    OldName("2026-12-01", "option", "picture", "beside", "companions"),
    OldName("2026-12-01", "tensor", "denoisers.flux", "doubles", "double_blocks"),
    OldName("2026-12-01", "tensor", "denoisers.flux", "singles", "single_blocks"),
    OldName(
        "2026-12-01",
        "tensor",
        "denoisers.control.flux",
        "network.doubles",
        "network.double_blocks",
    ),
    OldName(
        "2026-12-01",
        "tensor",
        "denoisers.control.flux",
        "network.singles",
        "network.single_blocks",
    ),
    OldName("2026-12-01", "value", "governance.licences.PartLicence.part", "word", "embedding"),
)


class OldNames:
    """A table of former names. A name that it lacks is returned as it is.

    Raises ValueError if a name is both old and new in one place: files of both ages could not be
    told apart.
    """

    def __init__(self, rows: Iterable[OldName] = ()) -> None:
        self.rows = tuple(rows)
        self._names: dict[tuple[str, str], dict[str, str]] = {}
        for row in self.rows:
            self._names.setdefault((row.what, row.where), {})[row.old] = row.new
        for (what, where), names in self._names.items():
            if both := names.keys() & set(names.values()):
                raise ValueError(
                    f"{what} of {where}: {', '.join(sorted(both))} is both an old and a new name."
                )

    def kind(self, room: str, kind: Any) -> Any:
        """Today's name of a kind of a slot's room."""
        return (
            self._names.get(("kind", _room(room)), {}).get(kind, kind)
            if isinstance(kind, str)
            else kind
        )

    def options(self, where: str, options: Mapping[Any, Any]) -> dict[Any, Any]:
        """Options with today's names and values; BadInput if one has its old and its new name."""
        names = self._names.get(("option", where), {})
        found: dict[Any, Any] = {}
        for key, value in options.items():
            name = names.get(key, key)
            if name != key and name in options:
                raise BadInput(
                    f"{key!r} is the former name of {name!r}, and both are given; "
                    f"leave {key!r} out."
                )
            found[name] = self._value(f"{where}.{name}", value)
        return found

    def slot(self, room: str, value: Mapping[Any, Any]) -> dict[Any, Any]:
        """A mapping with a ``kind``, as slots write it, with today's names.

        The kind that it may hold as ``of`` is renamed as well.
        """
        if "kind" not in value:
            return dict(value)
        kind = self.kind(room, value["kind"])
        options = {key: item for key, item in value.items() if key != "kind"}
        found = {"kind": kind, **self.options(f"{_room(room)}.{kind}", options)}
        if isinstance(inner := found.get("of"), Mapping):
            found["of"] = self.slot(room, inner)
        return found

    def recipe(self, recipe: Mapping[str, Any]) -> dict[str, Any]:
        """The recipe inside a picture with today's names."""
        found = self.options("picture", recipe)
        if isinstance(model := found.get("model"), Mapping):
            found["model"] = self.options("picture.model", model)
        if isinstance(companions := found.get("companions"), Mapping):
            found["companions"] = {
                name: self.options("picture.model", one) if isinstance(one, Mapping) else one
                for name, one in companions.items()
            }
        if isinstance(task := found.get("task"), Mapping):
            found["task"] = self.slot("tasks", task)
        if isinstance(settings := found.get("settings"), Mapping):
            found["settings"] = self.options("settings.Settings", settings)
            rooms = {
                "sampler": "diffusion.samplers",
                "spacing": "diffusion.spacing",
                "guidance": "diffusion.guidance",
            }
            for name, room in rooms.items():
                if isinstance(value := found["settings"].get(name), Mapping):
                    found["settings"][name] = self.slot(room, value)
        return found

    def tensors(self, where: str, held: Collection[str], wanted: Collection[str]) -> dict[str, str]:
        """Today's name of each tensor that a file holds, for a part that wants others.

        A tensor is renamed only if the part does not want it by the name it has, and wants it by
        the new one. BadInput if the file holds that as well.
        """
        found = {}
        for name in held:
            new = name if name in wanted else self._forward(where, name)
            if new != name and new in wanted and new in held:
                raise BadInput(
                    f"the file holds {name} and {new}, which is its name today: "
                    "one of them is too many."
                )
            found[name] = new if new in wanted else name
        return found

    def first(self, where: str, name: str) -> str:
        """What a tensor of a kind of part was called at first.

        Hashes of parts are made of these names, so that they stay. Only rows of the kind itself
        count: those for all may mean tensors of other parts.
        """
        rows = self._names.get(("tensor", where), {})
        old = name
        for before, after in reversed(rows.items()):
            old = _replaced(after, before, old)
        again = old
        for before, after in rows.items():
            again = _replaced(before, after, again)
        return old if again == name else name

    def _forward(self, where: str, name: str) -> str:
        for one in (where, "*"):
            for before, after in self._names.get(("tensor", one), {}).items():
                name = _replaced(before, after, name)
        return name

    def _value(self, where: str, value: Any) -> Any:
        names = self._names.get(("value", where))
        if not names:
            return value
        if isinstance(value, str):
            return names.get(value, value)
        if isinstance(value, list | tuple):
            return [self._value(where, one) for one in value]
        if isinstance(value, Mapping):
            return {names.get(key, key): one for key, one in value.items()}
        return value


def _replaced(before: str, after: str, name: str) -> str:
    """The name with another beginning, if it has the first; what the wildcards hold is kept."""
    looked = re.escape(before).replace(r"\*\*\.", r"((?:[^.]+\.)*?)").replace(r"\*", r"([^.]+)")
    found = re.match(rf"{looked}(?=\.|$)", name)
    if found is None:
        return name
    parts = iter(found.groups())
    return re.sub(r"\*\*\.|\*", lambda _: next(parts), after) + name[found.end() :]


def _room(room: str) -> str:
    return room.removesuffix(".*")


def place(config: object) -> str:
    """How rows name a configuration or its class: by room and kind, else by module and class.

    None has no name: "".
    """
    if config is None:
        return ""
    cls = config if isinstance(config, type) else type(config)
    module = cls.__module__.removeprefix("safelight.").removesuffix(".config")
    if cls.__name__ != "Config":
        return f"{module}.{cls.__name__}"
    room, _, file = module.rpartition(".")
    return f"{room}.{file.replace('_', '-')}"


TABLE = OldNames(ROWS)
"""What is called otherwise today."""
