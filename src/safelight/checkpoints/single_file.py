"""Writing a model as one safetensors file, by the names of its family's first publisher."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from safelight.checkpoints.saved_parts import PartToWrite, layout_of, parts_to_write
from safelight.config import kind_of
from safelight.diffusion.prediction import Noise, NoiseAndVariance, V
from safelight.diffusion.process import Process
from safelight.diffusion.schedule import EDM
from safelight.errors import BadInput
from safelight.files import writing
from safelight.layouts import schedulers, training_metadata
from safelight.layouts.families import Family
from safelight.model import LatentDiffusion
from safelight.types.diffusion import Prediction
from safelight.weights.progress import ByteProgress, ProgressCallback, no_progress
from safelight.weights.writing import size, write_tensors

MODELSPEC: Mapping[Prediction, str] = {Noise(): "epsilon", NoiseAndVariance(): "epsilon", V(): "v"}
"""How the metadata of single files (modelspec) call a prediction."""


def write_single_file(
    model: LatentDiffusion, path: Path, progress: ProgressCallback = no_progress
) -> None:
    """Write all parts to one file; a part alone without a prefix.

    Raises BadInput if no family has such parts, or if its layout cannot hold them.
    """
    if path.suffix != ".safetensors":
        raise BadInput(f"a single file wants a name that ends in .safetensors, got {path.name!r}.")
    family, parts = parts_to_write(model)
    bare = family is not None and family.bare and len(parts) == 1
    tensors: dict[str, Tensor] = {}
    for part in parts:
        tensors |= _tensors(part, family, bare)
    metadata = {
        "format": "pt",
        "modelspec.title": model.card.name,
        "modelspec.license": model.card.licence,
    }
    if family is not None and model.process is not None:
        stated, prediction = _process(model.process, family, whole_model=not bare)
        tensors, metadata = tensors | stated, metadata | prediction
    with writing(path) as temporary:
        write_tensors(
            tensors, temporary, metadata, ByteProgress("writing", size(tensors), progress)
        )


def _tensors(part: PartToWrite, family: Family | None, bare: bool) -> dict[str, Tensor]:
    """The tensors of one part by the names of its layout, under its prefix."""
    if family is None:
        name = "transformers" if part.part == "image_encoder" else "ldm"
        return dict(layout_of(name, part).table(part.config).to_theirs(part.state))
    place = family.single[part.part]
    prefix, name = place[part.number] if part.part == "towers" else place
    theirs = dict(layout_of(name, part).table(part.config).to_theirs(part.state))
    tensors = {("" if bare else prefix) + key: tensor for key, tensor in theirs.items()}
    if part.part == "autoencoder":
        tensors |= _latent_scale(family, part)
        if "again" in family.single:  # the encoder of the condition is the same
            copy = family.single["again"]
            tensors |= {copy + key: tensor.clone() for key, tensor in theirs.items()}
    return tensors


def _latent_scale(family: Family, part: PartToWrite) -> dict[str, Tensor]:
    """The tensors that state the scale of the latents; BadInput if the layout has none for it."""
    if "latents_mean" in part.metadata:
        mean = part.state["scale.mean"]
        deviation = part.state["scale.deviation"] * family.scale
        names = training_metadata.LATENTS
        return {
            name: value.reshape(1, -1, 1, 1)
            for name, value in zip(names, (mean, deviation), strict=True)
        }
    usual = {"scaling_factor": family.scale, "shift_factor": family.shift}
    stated = {key: value for key, value in part.metadata.items() if key in usual}
    if all(abs(usual[key] - value) < 1e-5 for key, value in stated.items()):
        return {}
    if "scale_factor" in family.single.get("marks", ()) and part.metadata["shift_factor"] == 0:
        return {"scale_factor": part.state["scale.deviation"][0].double().reciprocal().float()}
    raise BadInput(
        f"a single file of {family.title} has latents of the scale {family.scale:g}, got "
        f"{part.metadata['scaling_factor']:g}, which it cannot state; "
        "write a folder (--to diffusers)."
    )


def _process(
    process: Process, family: Family, whole_model: bool
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata that state schedule and prediction.

    An unusual schedule is stated by its table, if the file holds a ``whole_model``. BadInput for
    a process that no file of the family can state: readers would take it for another.
    """
    usual = family.process()
    prediction = MODELSPEC.get(process.prediction, kind_of(process.prediction))
    known = prediction in MODELSPEC.values()
    if process.prediction != usual.prediction and not known:
        raise BadInput(
            f"a single file of {family.title} cannot state the prediction {prediction}; "
            "write a folder (--to diffusers), or native."
        )
    metadata = {"modelspec.prediction_type": prediction} if known else {}
    of_latents = (*training_metadata.LATENTS, "scale_factor")
    names = [name for name in family.single.get("marks", ()) if name not in of_latents]
    tensors = training_metadata.write(names, process)
    if process.schedule == usual.schedule or (
        isinstance(process.schedule, EDM) and training_metadata.SIGMAS[0] in tensors
    ):
        return tensors, metadata
    table = schedulers.table(process.schedule)
    if not whole_model or schedulers.of_table(table, usual.schedule) != process.schedule:
        raise BadInput(
            f"a single file of {family.title} cannot state the schedule {process.schedule}; "
            "write a folder (--to diffusers), or native."
        )
    return tensors | {"alphas_cumprod": table}, metadata
