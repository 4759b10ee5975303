"""What is attached to a loaded model: LoRA and its kin, embeddings, control, image prompts.

One way for each: parse the user's text (``specs``), read the file (``lora_files``, ``embeddings``,
``image_prompts``, ``checkpoints.parts``), apply it to the model (``attach_…``).
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from safelight.attachments.specs import ControlSpec, EmbeddingSpec, ImagePromptSpec, LoraSpec

if TYPE_CHECKING:
    from safelight.model import LatentDiffusion


def attach(
    model: "LatentDiffusion",
    loras: Sequence[LoraSpec] = (),
    embeddings: Sequence[EmbeddingSpec] = (),
    image_prompts: Sequence[ImagePromptSpec] = (),
    controls: Sequence[ControlSpec] = (),
    size: tuple[int | None, int | None] = (None, None),
    hints: Mapping[str, Any] | None = None,
) -> "LatentDiffusion":
    """The model with all of these attached, for pictures of this ``size`` (width, height).

    Only what is attached is imported. Raises BadInput for what does not fit the model.
    """
    if loras or embeddings:
        from safelight.attachments.adapters import attach_adapters

        model = attach_adapters(model, loras, embeddings)
    for image_prompt in image_prompts:
        from safelight.attachments.image_prompts import attach_image_prompt

        model = attach_image_prompt(model, image_prompt, hints)
    for control in controls:
        from safelight.attachments.control import attach_control

        model = attach_control(model, control, *size)
    return model
