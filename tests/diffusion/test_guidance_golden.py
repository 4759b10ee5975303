"""Recorded trajectories of a class-conditional DiT, unguided, guided on all channels and on three:
see ``golden.json`` for how they were made. The network is written out here, so that nothing but
guidance and the waist is tested."""

from itertools import pairwise

import pytest
import torch
from einops import rearrange
from torch.nn import functional as F

from recorded import Recording
from safelight.diffusion.guidance.channels import Channels
from safelight.diffusion.guidance.classifier_free import ClassifierFree
from safelight.diffusion.guidance.none import Unguided
from safelight.diffusion.guided import guided
from safelight.diffusion.prediction import Noise, noise_of
from safelight.diffusion.process import Process
from safelight.diffusion.schedule import ScaledLinear
from safelight.types.diffusion import Estimate, NoiseLevel
from safelight.types.networks import Condition

NULL, HEADS = 1000, 2


class Recorded:
    """The public layout's network: noise in the first four channels of its answer, learned variance
    in the others."""

    def __init__(self, weights):
        self.weights = weights

    def linear(self, x, name):
        return F.linear(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def norm(self, x, shift, scale):
        return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift

    def attend(self, x, block):
        q, k, v = rearrange(
            self.linear(x, f"{block}.qkv"), "b n (three h d) -> three b h n d", three=3, h=HEADS
        )
        return self.linear(
            rearrange(F.scaled_dot_product_attention(q, k, v), "b h n d -> b n (h d)"),
            f"{block}.proj",
        )

    def __call__(self, noisy, time, condition):
        angles = time[:, None] * torch.exp(
            -torch.arange(128) * torch.log(torch.tensor(10000.0)) / 128
        )
        heard = self.linear(torch.cat([angles.cos(), angles.sin()], dim=1), "t_embedder.mlp.0")
        heard = F.silu(self.linear(F.silu(heard), "t_embedder.mlp.2") + condition.vector)[:, None]
        patches = F.conv2d(
            noisy, self.weights["x_embedder.proj.weight"], self.weights["x_embedder.proj.bias"], 2
        )
        x = rearrange(patches, "b c h w -> b (h w) c") + self.weights["pos_embed"]
        for block in ("blocks.0", "blocks.1"):
            modulation = self.linear(heard, f"{block}.adaLN_modulation.1").chunk(6, dim=-1)
            x = x + modulation[2] * self.attend(self.norm(x, *modulation[:2]), f"{block}.attn")
            inner = F.gelu(
                self.linear(self.norm(x, *modulation[3:5]), f"{block}.mlp.fc1"), approximate="tanh"
            )
            x = x + modulation[5] * self.linear(inner, f"{block}.mlp.fc2")
        x = self.norm(x, *self.linear(heard, "final_layer.adaLN_modulation.1").chunk(2, dim=-1))
        return rearrange(
            self.linear(x, "final_layer.linear"),
            "b (h w) (p q c) -> b c (h p) (w q)",
            h=4,
            p=2,
            q=2,
        )


class LearnedNoise(Noise):
    """Noise, and a variance that rules hand on."""

    def to_estimate(self, answer, noisy, level):
        return Estimate(
            super().to_estimate(answer[:, :4], noisy, level).clean, variance=(answer[:, 4:] + 1) / 2
        )


@pytest.fixture(scope="module")
def golden():
    recording = Recording("dit")
    weights = torch.load(recording.file("DiT.pt"), weights_only=True)
    return weights, recording.inputs, recording.outputs


def level_of(step):
    """The level of a whole step of linear betas; before the first one everything is clean."""
    kept = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    alpha = kept[step].sqrt() if step >= 0 else torch.ones((), dtype=torch.float64)
    return NoiseLevel(torch.tensor(float(step)), alpha, (1 - alpha**2).sqrt(), alpha * 0, alpha * 0)


def test_the_network_is_the_recorded_one(golden):
    weights, inputs, outputs = golden
    labels = Condition(vector=weights["y_embedder.embedding_table.weight"][inputs["labels"]])
    for time in (0, 500, 999):
        found = Recorded(weights)(inputs["x"], torch.full((3,), float(time)), labels)
        torch.testing.assert_close(found, outputs[f"output.t{time}"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("case", "rule"),
    [
        ("none", Unguided()),
        ("all", ClassifierFree(4.0)),
        ("three", Channels(ClassifierFree(4.0), first=3)),
    ],
)
def test_guided_trajectories(golden, case, rule):
    weights, inputs, outputs = golden
    table = weights["y_embedder.embedding_table.weight"]
    condition, nothing = (
        Condition(vector=table[labels])
        for labels in (inputs["labels"], torch.full_like(inputs["labels"], NULL))
    )
    process = Process(ScaledLinear(), LearnedNoise())
    waist = guided(process, {"main": Recorded(weights)}, rule, condition, lambda only: nothing)
    wanted = outputs[f"ddim.{case}.latents"]
    noisy = wanted[0]
    steps = [*outputs["ddim.timesteps"].tolist(), -1]
    for index, (here, there) in enumerate(pairwise(steps), 1):
        level, after = level_of(here), level_of(there)
        estimate = waist(noisy, level)
        noisy = after.alpha * estimate.clean + after.sigma * noise_of(estimate, noisy, level)
        assert (noisy - wanted[index]).norm() / wanted[index].norm() < 1e-4
