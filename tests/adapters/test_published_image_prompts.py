"""Published image prompts, at full size on the meta device: detected, and matched to denoisers."""

import re

import pytest
import torch

from recorded import real_shapes
from safelight.adapters.image_prompt import Config
from safelight.adapters.image_tokens import LinearProjection, MlpProjection, Resampler
from safelight.attachments.image_prompts import adapter_places
from safelight.denoisers.flux.config import Config as Flux
from safelight.errors import BadInput
from safelight.layouts.ip_adapter.original import LAYOUTS
from safelight.layouts.unet import ldm as ldm_unet

SD1 = (*[320] * 2, *[640] * 2, *[1280] * 5, *[640] * 3, *[320] * 3, 1280)
SDXL = (*[640] * 4, *[1280] * 20, *[1280] * 30, *[640] * 6, *[1280] * 10)
PUBLISHED = {  # a kind, its millions of parameters, and for what it is
    "sd15": (Config(LinearProjection(1024, 4, 768), SD1), 22.3, "SD"),
    "sd15-vit-G": (Config(LinearProjection(1280, 4, 768), SD1), 23.1, "SD"),
    "plus": (Config(Resampler(), SD1), 49.1, "SD"),
    "full-face": (Config(MlpProjection("states", 1280, 1280, 1, 768), SD1), 21.8, "SD"),
    "faceid": (Config(MlpProjection("face", 512, 1024, 4, 768), SD1), 22.8, "SD"),
    "faceid-portrait": (Config(MlpProjection("face", 512, 1024, 16, 768), SD1), 32.3, "SD"),
    "faceid-plus": (Config(Resampler(tokens=4, face=512, face_hidden=1024), SD1), 52.8, "SD"),
    "sdxl": (Config(LinearProjection(1280, 4, 2048), SDXL), 351.3, "XL"),
    "sdxl-plus": (Config(Resampler(1280, 1280, 20, 64, 4, 5120, 16, 2048), SDXL), 423.7, "XL"),
    "flux": (Config(LinearProjection(768, 4, 4096), (3072,) * 19, bias=True), 490.9, "FLUX"),
    "flux-v2": (Config(LinearProjection(768, 16, 4096), (3072,) * 19, bias=True), 528.7, "FLUX"),
}


@pytest.fixture(scope="module")
def denoisers():
    lists = {"SD": "real.UNET-v1-SD", "XL": "real.UNET-XL-SD"}
    found = {}
    with torch.device("meta"):
        for name, one in lists.items():
            shapes = {
                re.sub(r"^model\.diffusion_model\.", "", key): shape
                for key, shape in real_shapes(one).items()
            }
            found[name] = ldm_unet.LAYOUTS[0].config(shapes, {}).build()
        return found | {"FLUX": Flux(single=1).build()}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_one_is_known_by_its_shapes_and_fits(name, denoisers):
    config, millions, family = PUBLISHED[name]
    with torch.device("meta"):
        adapter = config.build()
    for layout in LAYOUTS[1:] if family == "FLUX" else LAYOUTS[:1]:
        shapes = {
            key: tuple(one.shape)
            for key, one in layout.table(config).to_theirs(adapter.state_dict())
        }
        assert [one for one in LAYOUTS if one.recognises(shapes)] == [layout]
        assert layout.config(shapes, {}) == config
    assert round(sum(one.numel() for one in adapter.parameters()) / 1e6, 1) == millions
    places = adapter_places(config, denoisers[family], name)
    assert sorted(place.index for place in places) == [*range(len(config.widths))]
    for other in denoisers.keys() - {family}:
        with pytest.raises(
            BadInput, match=rf"{name} is for a denoiser of {len(config.widths)} attentions .* \(as "
        ):
            adapter_places(config, denoisers[other], name)
