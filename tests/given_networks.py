"""Files of networks whose weights a user gives, drawn small with the public libraries."""

import pytest
import torch


def clip_model(folder, vision_only=False):
    """transformers' CLIP with random weights, and the file of it."""
    transformers = pytest.importorskip("transformers")
    shape = {"num_hidden_layers": 5, "intermediate_size": 96, "hidden_act": "quick_gelu"}
    vision = {
        **shape,
        "hidden_size": 64,
        "num_attention_heads": 1,
        "image_size": 56,
        "patch_size": 14,
    }
    text = {**shape, "vocab_size": 49408}
    text |= {"bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 1}
    torch.manual_seed(0)
    if vision_only:
        config = transformers.CLIPVisionConfig(**vision, projection_dim=24)
        network = transformers.CLIPVisionModelWithProjection(config)
    else:
        config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
        network = transformers.CLIPModel(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    network.save_pretrained(folder / f"clip-{vision_only}")
    return network.eval(), folder / f"clip-{vision_only}" / "model.safetensors"
