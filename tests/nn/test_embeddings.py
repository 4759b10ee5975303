import math

import torch

from safelight.nn.embeddings import TimeEmbedding, sinusoidal


def test_cosines_come_first_at_frequencies_that_fall_geometrically():
    got = sinusoidal(torch.tensor([0.0, 700.0]), 8)
    angles = [700 * math.exp(-math.log(10_000) * i / 4) for i in range(4)]
    want = torch.tensor([[math.cos(a) for a in angles] + [math.sin(a) for a in angles]])
    torch.testing.assert_close(got[1:], want, atol=1e-4, rtol=0)
    assert got[0].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]


def test_the_slowest_frequency_is_the_end_itself_where_that_is_included():
    got = sinusoidal(torch.tensor([700.0]), 8, inclusive=True)
    angles = [700 * math.exp(-math.log(10_000) * i / 3) for i in range(4)]
    torch.testing.assert_close(
        got[0, :4], torch.tensor([math.cos(a) for a in angles]), atol=1e-4, rtol=0
    )


def test_neighbouring_times_stay_apart_under_autocast():
    times = torch.tensor([999.0, 999.5])
    with torch.autocast("cpu", torch.bfloat16):
        waves = sinusoidal(times, 64)
    assert waves.dtype == torch.float32
    assert (waves[0] - waves[1]).abs().max() > 0.1


def test_the_module_follows_the_precision_of_its_weights():
    assert TimeEmbedding(16).bfloat16()(torch.tensor([3.0])).dtype == torch.bfloat16
