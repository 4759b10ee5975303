import pytest
import torch

from safelight.errors import BadInput
from safelight.nn.patchify import patch_grid, patchify, unpatchify


@pytest.mark.parametrize("space", [(6,), (6, 10), (2, 4, 6)])
def test_unpatchify_is_the_inverse(space):
    x = torch.randn(2, 3, *space)
    cut = patchify(x, 2)
    assert cut.shape == (2, x[0, 0].numel() // 2 ** len(space), 3 * 2 ** len(space))
    assert torch.equal(unpatchify(cut, 2, patch_grid(space, 2)), x)


def test_a_token_holds_one_patch():
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert patchify(x, 2)[0].tolist() == [
        [0, 1, 4, 5],
        [2, 3, 6, 7],
        [8, 9, 12, 13],
        [10, 11, 14, 15],
    ]


def test_a_size_that_the_patch_does_not_divide_is_refused():
    with pytest.raises(BadInput, match="latents of size 4×5 cannot be cut into patches of 2"):
        patchify(torch.zeros(1, 1, 4, 5), 2)
