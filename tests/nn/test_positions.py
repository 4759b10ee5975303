import pytest
import torch

from safelight.errors import BadInput
from safelight.nn.positions import grid_positions, rotation, split


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("width", [16, 20])
def test_the_product_of_turned_vectors_depends_on_the_offset_alone(axes, width):
    query, key = torch.randn(2, width, generator=torch.Generator().manual_seed(axes)).double()

    def product(here, there):
        turn = rotation(torch.tensor([here, there]), width)
        q, k = turn(torch.stack([query, key])[:, None].float())[:, 0]
        return (q @ k).item()

    for axis in range(axes):
        step = [3 if other == axis else 0 for other in range(axes)]
        moved = [place + 7 for place in step]
        assert product([0] * axes, step) == pytest.approx(product([7] * axes, moved), abs=1e-4)
        assert product([0] * axes, step) != pytest.approx(product([0] * axes, [0] * axes), abs=1e-2)
        assert product([0] * axes, step) != pytest.approx(product(step, [0] * axes), abs=1e-3)


def test_turning_keeps_lengths_and_leaves_the_origin_alone():
    x = torch.randn(2, 15, 3, 12)
    turned = rotation(grid_positions((3, 5)), 12)(x)
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    torch.testing.assert_close(turned[:, 0], x[:, 0])
    assert not torch.allclose(turned[:, 1:], x[:, 1:], atol=1e-2)


def test_grid_positions_follow_the_order_of_flattening():
    assert grid_positions((2, 3)).tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]


def test_pairs_are_shared_out_evenly_and_never_to_none():
    assert split(32, 3) == (11, 11, 10)
    with pytest.raises(BadInput, match="heads of 4 channels are too narrow for positions on 3 axes"):
        split(2, 3)
