"""A codebook: vectors of which each latent becomes the nearest (van den Oord et al., arXiv
1711.00937)."""

import zlib
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from safelight.errors import BadInput
from safelight.nn.configs import Codes
from safelight.types.tensors import Latents

_AT_ONCE = (
    2**22
)  # distances held at once, so that memory stays at 16 MB whatever the number of latents


class Codebook(nn.Module):
    """Latents (b, c, *space) ⇄ numbers of codes (b, *space), in float32 whatever the precision
    around it."""

    codes: Tensor
    count: Tensor  # (k,) and (k, c): how many latents chose a code lately, and their sum
    total: Tensor
    idle: Tensor  # (k,) updates since a latent chose a code
    # Of this update's latents (k,), (k, c), (k, c): how many chose a code, and their sum and
    # that of their squares
    chosen: Tensor
    sums: Tensor
    squares: Tensor

    def __init__(self, options: Codes, channels: int) -> None:
        super().__init__()
        self.options = options
        number = options.number
        first = (
            torch.randn(number, channels)
            if options.normalise
            else (2 * torch.rand(number, channels) - 1) / number
        )
        first = self.placed(first)
        if options.decay:
            self.register_buffer("codes", first)
            self.register_buffer("count", torch.zeros(number))
            self.register_buffer("total", torch.zeros(number, channels))
        else:
            self.codes = nn.Parameter(first)
        if options.restart:
            self.register_buffer("idle", torch.zeros(number))
        if self.watches:
            self.register_buffer("chosen", torch.zeros(number), persistent=False)
            self.register_buffer("sums", torch.zeros(number, channels), persistent=False)
            self.register_buffer("squares", torch.zeros(number, channels), persistent=False)

    @property
    def watches(self) -> bool:
        """True if codes move by what latents choose."""
        return bool(self.options.decay or self.options.restart)

    def placed(self, vectors: Tensor) -> Tensor:
        """Vectors, along the second axis, where codes may lie: on the unit sphere, or anywhere."""
        return F.normalize(vectors, dim=1) if self.options.normalise else vectors

    @torch.no_grad()
    def nearest(self, latents: Latents) -> Tensor:
        """The number of the nearest code in squared Euclidean distance (the first of equals), int64
        (b, *space)."""
        rows = _rows(latents)  # (n, c)
        codes = self._vectors()
        lengths = codes.square().sum(
            1
        )  # a latent's own length is the same for all codes, so it may be left out
        with torch.autocast(rows.device.type, enabled=False):
            parts = torch.split(rows, max(1, _AT_ONCE // len(codes)))
            found = [torch.addmm(lengths, part, codes.T, alpha=-2).min(1).indices for part in parts]
        return torch.cat(found).view(latents.shape[0], *latents.shape[2:])

    def lookup(self, indices: Tensor) -> Latents:
        """The codes (b, c, *space) of numbers (b, *space). BadInput for a number that no code
        has."""
        known = not indices.is_floating_point() and (
            indices.numel() == 0 or bool(indices.min() >= 0)
        )
        if not known or (indices.numel() and int(indices.max()) >= self.options.number):
            found = f"{indices.min().item()} to {indices.max().item()}"
            raise BadInput(
                f"wanted whole numbers of codes from 0 to {self.options.number - 1}, got {found}."
            )
        return self._at(indices)

    def forward(self, latents: Latents) -> Latents:
        """The nearest codes; a gradient goes straight through to the latents."""
        latents = self.placed(latents.float())
        return self._at(self.nearest(latents)).detach() + (latents - latents.detach())

    def distances(self, latents: Latents) -> tuple[Tensor, Tensor]:
        """Mean squared distances (b,) of latents from their codes: for the latents to learn, and
        for the codes.

        While training, it also takes down what ``after_update`` needs of these latents.
        """
        latents = self.placed(latents.float())
        indices = self.nearest(latents)
        if self.watches and self.training and torch.is_grad_enabled():
            self._note(latents.detach(), indices)
        codes = self._at(indices)
        commitment, codebook = (
            (latents - codes.detach()).square(),
            (latents.detach() - codes).square(),
        )
        return commitment.flatten(1).mean(1), codebook.flatten(1).mean(1)

    @torch.no_grad()
    def after_update(
        self, seed: int, update: int, total: Callable[[Tensor], Tensor] = lambda sums: sums
    ) -> None:
        """Move codes by what was taken down since the last time, over all processes that ``total``
        sums over."""
        if not self.watches:
            return
        chosen, sums, squares = (total(one) for one in (self.chosen, self.sums, self.squares))
        taken = chosen > 0
        if self.options.decay and taken.any():
            self.count.mul_(self.options.decay).add_(chosen, alpha=1 - self.options.decay)
            self.total.mul_(self.options.decay).add_(sums, alpha=1 - self.options.decay)
            self.codes[taken] = self.placed(self.total[taken] / self.count[taken, None]).to(
                self.codes.dtype
            )
        if self.options.restart and taken.any():
            self.idle.add_(1).masked_fill_(taken, 0)
            self._restart(chosen, sums, squares, zlib.crc32(f"codebook {seed} {update}".encode()))
        for one in (self.chosen, self.sums, self.squares):
            one.zero_()

    def _restart(self, chosen: Tensor, sums: Tensor, squares: Tensor, key: int) -> None:
        """Draw codes long idle from the latents about codes in use, the more often the more latents
        those have.

        Mean and deviation of the latents about a code are sums, so every process of a parallel run
        draws the same; where one latent chose a code, the draw is that latent.
        """
        dead = (self.idle >= self.options.restart).nonzero().flatten()
        if not len(dead):
            return
        stream = torch.Generator().manual_seed(key)
        parents = torch.multinomial(
            chosen.cpu().float(), len(dead), replacement=True, generator=stream
        ).to(dead.device)
        noise = torch.randn(len(dead), sums.shape[1], generator=stream).to(dead.device)
        mean = sums[parents] / chosen[parents, None]
        deviation = (squares[parents] / chosen[parents, None] - mean.square()).clamp(min=0).sqrt()
        self.codes[dead] = self.placed(mean + deviation * noise).to(self.codes.dtype)
        self.idle[dead] = 0
        if self.options.decay:
            self.count[dead], self.total[dead] = 0, 0

    def _note(self, latents: Tensor, indices: Tensor) -> None:
        rows, flat = _rows(latents), indices.flatten()
        lengths = torch.bincount(flat, minlength=self.options.number)
        sorted_ = rows[
            flat.argsort(stable=True)
        ]  # sums in a fixed order: the same bits each time, on any device
        self.chosen += lengths
        self.sums += torch.segment_reduce(sorted_, "sum", lengths=lengths, initial=0)
        self.squares += torch.segment_reduce(sorted_.square(), "sum", lengths=lengths, initial=0)

    def _vectors(self) -> Tensor:
        return self.placed(self.codes.float())

    def _at(self, indices: Tensor) -> Tensor:
        return F.embedding(indices, self._vectors()).movedim(-1, 1)  # (b, c, *space)


def _rows(latents: Tensor) -> Tensor:
    return latents.movedim(1, -1).flatten(0, -2).float()
