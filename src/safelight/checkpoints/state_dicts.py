"""State dicts of parts: loaded strictly, by today's names, and their fingerprints."""

from collections.abc import Collection, Mapping
from typing import TypeVar

from torch import Tensor, nn

from safelight import old_names
from safelight.errors import BadInput
from safelight.files import digest

T = TypeVar("T")


def load_strictly(
    module: nn.Module, state: Mapping[str, Tensor], where: str, assign: bool = False
) -> None:
    """Load a complete state dict; BadInput lists missing, unexpected and misshapen names.

    ``assign``: the module takes the tensors themselves, in their memory and precision, instead of
    copying their values.
    """
    wanted = module.state_dict()
    state = current_names(module, state, wanted)
    problems = [f"{name} is missing" for name in wanted if name not in state]
    problems += [f"{name} is not expected" for name in state if name not in wanted]
    problems += [
        f"{name} has shape {tuple(state[name].shape)}, wanted {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in state and not name.endswith("_extra_state") and state[name].shape != tensor.shape
    ]
    if problems:
        more = f" … and {len(problems) - 4} more" if len(problems) > 4 else ""
        raise BadInput(f"{where} does not fit its configuration: {'; '.join(problems[:4])}{more}.")
    module.load_state_dict(dict(state), assign=assign)


def current_names(
    module: nn.Module, state: Mapping[str, T], wanted: Collection[str]
) -> dict[str, T]:
    """A module's state, which may have former names, by today's names of those ``wanted``."""
    names = old_names.TABLE.tensors(old_names.place(vars(module).get("config")), state, wanted)
    return {names[name]: value for name, value in state.items()}


def fingerprint(part: nn.Module) -> str:
    """One hash of the names, shapes and values in a part's state dict.

    The names are those that the tensors had at first, so that runs and caches still recognise a
    part after a renaming.
    """
    where = old_names.place(vars(part).get("config"))
    state = {old_names.TABLE.first(where, name): value for name, value in part.state_dict().items()}
    return digest(
        data
        for name in sorted(state)
        for data in (
            name,
            str(tuple(state[name].shape)),
            state[name].float().cpu().contiguous().numpy().tobytes(),
        )
    )
