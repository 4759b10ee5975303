"""Every measure against a closed form or a plain double loop."""

import math

import pytest
import torch
from torch import Tensor

from safelight.config import Slot
from safelight.errors import BadInput
from safelight.evaluation.gaussians import Moments, frechet
from safelight.evaluation.metric import Pairs, rounded_to_8bit
from safelight.evaluation.metrics import codebook, psnr
from safelight.evaluation.metrics.frechet import Frechet
from safelight.evaluation.metrics.ssim import LUMINANCE, ssim


def draw(*shape, seed=0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pictures(batch=2, height=13, width=15, seed=0) -> Tensor:
    return rounded_to_8bit(draw(batch, 3, height, width, seed=seed) / 2)


def flat(value: int) -> Tensor:
    return torch.full((1, 3, 12, 12), value / 127.5 - 1)


def only(metric) -> float:
    ((_, value),) = metric.compute()
    return value


def test_the_folder_is_the_registry():
    assert Slot("evaluation.metrics").kinds() == [
        "codebook",
        "frechet",
        "perceptual",
        "psnr",
        "ssim",
    ]


def test_psnr_of_a_known_error_and_of_none():
    metric = psnr.Config().build()
    metric.update(Pairs(flat(100), flat(105)))
    assert only(metric) == pytest.approx(10 * math.log10(255**2 / 25))
    metric.update(Pairs(flat(100), flat(100)))  # a mean over pictures, not of their errors
    assert only(metric) == pytest.approx((10 * math.log10(255**2 / 25) + 100) / 2)


def plain_ssim(x: Tensor, y: Tensor) -> float:
    """The definition, a window at a time."""
    gauss = [math.exp(-((i - 5) ** 2) / (2 * 1.5**2)) for i in range(11)]
    window = torch.tensor([[a * b for a in gauss] for b in gauss], dtype=torch.float64)
    window /= window.sum()
    shares = torch.tensor(LUMINANCE, dtype=torch.float64).view(3, 1, 1)
    x, y = ((((item.double() + 1) * 127.5).round() * shares).sum(0) for item in (x, y))
    found = []
    for top in range(x.shape[0] - 10):
        for left in range(x.shape[1] - 10):
            a, b = (item[top : top + 11, left : left + 11] for item in (x, y))
            ma, mb = (window * a).sum(), (window * b).sum()
            va, vb = (window * (a - ma) ** 2).sum(), (window * (b - mb) ** 2).sum()
            both = (window * (a - ma) * (b - mb)).sum()
            c1, c2 = 2.55**2, 7.65**2
            found.append(
                (2 * ma * mb + c1) * (2 * both + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))
            )
    return float(torch.stack(found).mean())


def test_ssim_equals_a_plain_loop():
    before, after = pictures(), rounded_to_8bit(pictures() * 0.8 + 0.1 * pictures(seed=1))
    wanted = [plain_ssim(a, b) for a, b in zip(before, after, strict=True)]
    assert ssim(before, after).tolist() == pytest.approx(wanted, abs=1e-9)
    assert 0.3 < wanted[0] < 0.999


def test_ssim_closed_forms():
    assert ssim(pictures(), pictures()).tolist() == pytest.approx([1, 1])
    a, b, c1 = 100.0, 120.0, 2.55**2  # without contrast only the means count
    assert ssim(flat(100), flat(120)).item() == pytest.approx(
        (2 * a * b + c1) / (a * a + b * b + c1)
    )
    with pytest.raises(
        BadInput, match="SSIM: wanted pictures of at least 11 pixels a side, got 15×10"
    ):
        ssim(pictures(height=10), pictures(height=10))


def moments(vectors: Tensor, batch: int = 7) -> Moments:
    made = Moments()
    for part in torch.split(vectors, batch):
        made.add(part)
    return made


def test_moments_do_not_depend_on_the_batches():
    vectors = draw(50, 4) * 3 + 1000
    made = moments(vectors)
    torch.testing.assert_close(made.mean, vectors.double().mean(0))
    torch.testing.assert_close(made.covariance, torch.cov(vectors.double().T))
    assert made.count == 50


def test_frechet_of_gaussians_is_the_closed_form():
    vectors = draw(200, 5).double()
    moved = moments(vectors + torch.tensor([3.0, 0, 0, 4, 0], dtype=torch.float64))
    assert frechet(moments(vectors), moved) == pytest.approx(25)
    # N(m, s²C) from N(m, C): (s - 1)² tr C, about a mean of zero
    centred = vectors - vectors.mean(0)
    assert frechet(moments(centred), moments(3 * centred)) == pytest.approx(
        4 * torch.cov(vectors.T).trace().item()
    )
    assert frechet(moments(vectors), moments(vectors)) == pytest.approx(0, abs=1e-6)


def test_frechet_of_gaussians_whose_covariances_do_not_commute():
    one, other = draw(300, 4).double() @ draw(4, 4, seed=1).double(), draw(300, 4, seed=2).double()
    a, b = torch.cov(one.T), torch.cov(other.T)
    root = (
        torch.linalg.eigvals(a @ b).real.sqrt().sum()
    )  # the trace of the root: similar matrices share eigenvalues
    wanted = (one.mean(0) - other.mean(0)).square().sum() + a.trace() + b.trace() - 2 * root
    assert frechet(moments(one), moments(other)) == pytest.approx(wanted.item())


def test_frechet_of_fewer_vectors_than_features_is_finite():
    one, other = moments(draw(5, 40)), moments(draw(5, 40, seed=1))
    assert 0 < frechet(one, other) < math.inf


class Corners:
    """Two features: the means of the first two channels."""

    name, least, heads = "corners", 1, ()

    def maps(self, images):
        return (images,)

    def vector(self, images):
        return images[:, :2].mean((2, 3))


@pytest.mark.parametrize(("count", "biased"), [(2, True), (3, False)])
def test_a_frechet_distance_names_its_network_count_size_and_bias(count, biased):
    metric = Frechet(Corners())
    metric.update(Pairs(pictures(count), pictures(count, seed=1)))
    ((name, _),) = metric.compute()
    assert name.startswith(f"reconstruction Fréchet distance (corners, {count} pictures of 15×13")
    assert ("biased: it needs many more than 2 pictures" in name) == biased


def test_one_picture_has_no_frechet_distance():
    metric = Frechet(Corners())
    metric.update(Pairs(pictures(1), pictures(1)))
    assert list(metric.compute()) == []


def test_codebook_usage_and_perplexity():
    metric = codebook.Config().build()
    assert list(metric.compute()) == []  # nothing was discrete
    for indices in ([[0, 1]], [[2, 2]]):
        metric.update(Pairs(flat(0), flat(0), torch.tensor(indices), 8))
    (name, usage), (_, perplexity) = metric.compute()
    assert (name, usage) == ("codebook usage (of 8 codes)", 3 / 8)
    assert perplexity == pytest.approx(math.exp(-(0.25 * math.log(0.25) * 2 + 0.5 * math.log(0.5))))
