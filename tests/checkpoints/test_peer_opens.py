"""Folders that we write, opened by diffusers and transformers: the same networks as before."""

import json
from importlib import import_module

import pytest
import torch

from recorded import Recording
from safelight import checkpoints
from safelight.checkpoints import diffusers_writing

OWN = {
    "_name_or_path",
    "_diffusers_version",
    "transformers_version",
    "torch_dtype",
    "dtype",
    "architectures",
}
OWN |= {
    "scale_decoder_outputs",
    "attn_norm_num_groups",
    "out_channels",
}  # of decoders; where None is what we say
SIZES = {"vae", "vqvae"}  # whose sample_size nothing depends on


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", ["sd", "sdxl", "sd3", "flux", "ldm-uncond"])
@pytest.mark.parametrize("largest", [10**10, 50_000])
def test_the_peer_opens_what_we_wrote_as_what_we_read(tmp_path, monkeypatch, name, largest):
    """Weights, and what its configurations make of them; in one file a part or in several."""
    pytest.importorskip("diffusers")
    monkeypatch.setattr(diffusers_writing, "MAX_SHARD_BYTES", largest)
    source, made = Recording("diffusers-folders").file(name), tmp_path / name
    checkpoints.save(checkpoints.read(source), made, "diffusers")
    index = json.loads((made / "model_index.json").read_text())
    assert any(made.rglob("*.safetensors.index.json")) == (largest < 10**10)
    for part, (library, kind) in (
        (key, one) for key, one in index.items() if isinstance(one, list)
    ):
        if not (made / part / "config.json").is_file():
            continue
        peer = getattr(import_module(library), kind)
        variant = "fp16" if any((source / part).glob("*.fp16.*")) else None
        ours, theirs = (
            peer.from_pretrained(made / part),
            peer.from_pretrained(source / part, variant=variant),
        )
        got, want = ours.state_dict(), theirs.state_dict()
        assert got.keys() == want.keys()
        assert all(torch.equal(got[key].float(), want[key].float()) for key in want), part
        assert _made(ours, part) == _made(theirs, part), part


def _made(network, part):
    """The network's fields of a configuration; one value for all levels equals a list of it."""
    said = dict(network.config if isinstance(network.config, dict) else network.config.to_dict())
    kept = {key: one for key, one in said.items() if key not in OWN and not key.startswith("_")}
    kept |= {"sample_size": 0} if part in SIZES else {}
    kept |= {"shift_factor": said.get("shift_factor") or 0}
    alike = {
        key
        for key, one in kept.items()
        if isinstance(one, list | tuple) and len({*map(str, one)}) == 1
    }
    return {key: one[0] if key in alike else one for key, one in kept.items()}
