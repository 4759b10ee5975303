import pytest
import torch

from safelight.errors import BadInput
from safelight.nn.positions import PositionTable, grid_positions, rotation, split


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
    with pytest.raises(
        BadInput, match="heads of 4 channels are too narrow for positions on 3 axes"
    ):
        split(2, 3)


def test_the_table_of_sines_has_the_column_first_and_then_the_row():
    table = PositionTable(5, 16).table.view(5, 5, 16).double()
    slower = 10_000.0 ** -(torch.arange(4, dtype=torch.float64) / 4)
    row, column = 3 * slower, 2 * slower
    wanted = torch.cat([column.sin(), column.cos(), row.sin(), row.cos()])
    torch.testing.assert_close(table[3, 2], wanted, atol=1e-7, rtol=0)


def test_the_middle_of_a_table_is_cut_and_the_whole_is_stretched():
    positions = PositionTable(5, 16)
    square = positions.table.view(5, 5, 16)
    assert torch.equal(positions.middle((2, 5)), square[1:3].reshape(1, 10, 16))
    assert torch.equal(positions.middle((4, 3)), square[0:4, 1:4].reshape(1, 12, 16))
    assert torch.equal(positions.stretched((5, 5)), positions.table)
    finer = positions.stretched((5, 10)).view(5, 10, 16)
    torch.testing.assert_close(finer[:, ::2], square)
    assert not torch.allclose(finer[:, 1], square[:, 1], atol=1e-2)
