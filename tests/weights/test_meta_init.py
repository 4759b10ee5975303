"""Modules without weights: nothing is drawn, and what is computed is as in any other."""

import subprocess
import sys

import torch
from torch import nn

from safelight.weights.meta import meta_init


class Layered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.large = nn.Sequential(
            nn.Linear(3, 4), nn.Conv2d(3, 4, 3), nn.Embedding(5, 6), nn.GroupNorm(2, 4)
        )
        self.drawn = nn.Parameter(torch.randn(3))
        self.register_buffer("table", torch.arange(6.0).sin(), persistent=False)
        self.plain = torch.linspace(0, 1, 5)
        nn.init.zeros_(self.large[0].weight)
        nn.init.trunc_normal_(self.large[2].weight)


def test_weights_have_no_memory_and_tables_are_as_ever():
    made, real = meta_init(Layered), Layered()
    assert all(one.is_meta for one in made.large.parameters())
    assert torch.equal(made.table, real.table)
    assert torch.equal(made.plain, real.plain)
    assert {name: one.shape for name, one in made.state_dict().items()} == {
        name: one.shape for name, one in real.state_dict().items()
    }


def test_given_the_weights_of_another_it_is_its_equal():
    real = Layered()
    made = meta_init(Layered)
    made.load_state_dict(real.state_dict(), assign=True)
    assert not any(one.is_meta for one in [*made.parameters(), *made.buffers()])
    x = torch.ones(2, 3)
    assert torch.equal(made.large[0](x), real.large[0](x))
    assert made.large[0].weight.requires_grad


def test_what_is_made_afterwards_is_real_again():
    meta_init(Layered)
    assert not torch.empty(3).is_meta
    try:
        meta_init(lambda: nn.Linear(-1, 2))
    except RuntimeError:
        assert not torch.empty(3).is_meta


def test_loading_imports_no_compiler():
    """To draw for weights that are not there torch would import its compiler, which takes a
    second."""
    ask = "import sys, safelight\nsafelight.load('stickers')\nprint('torch._dynamo' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "False"
