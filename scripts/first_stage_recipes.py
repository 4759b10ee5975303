"""Write recipes/first-stage: a recipe for each first-stage model of latent diffusion.

They are the rows of table 8 of arXiv 2112.10752, at full size; recipes/first-stage/small has small
ones for comparison. Change the tables here, not the recipes.

    python scripts/first_stage_recipes.py
"""

from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent.parent / "recipes" / "first-stage"
BATCH = 12


class Row(NamedTuple):
    """A row: what the table says, then the shape of the network and where that is known from."""

    kind: str
    factor: int
    codes: int  # 0: KL
    channels: int
    fid: float  # on ImageNet validation
    psnr: float | None
    multipliers: tuple[int, ...]
    attention: tuple[int, ...] = ()
    zoo: str = ""  # its public configuration; empty: the widths are those of the nearest one
    updates: int = 500_000  # of the public weights, where they are known
    middle: bool = True
    note: str = ""

    @property
    def name(self) -> str:
        what = f"n{self.codes}" if self.codes else f"c{self.channels}"
        return f"{self.note or self.kind}-f{self.factor}-{what}" + (
            "" if self.middle else "-noattn"
        )


_F2, _F4, _VQ8, _KL8 = (1, 2), (1, 2, 4), (1, 2, 2, 4), (1, 2, 4, 4)
_F16, _F32 = (1, 1, 2, 2, 4), (1, 1, 2, 2, 4, 4)

ROWS = (
    Row("vq", 32, 16384, 16, 31.83, 17.45, _F32, (16, 32)),
    Row("vq", 16, 16384, 8, 5.15, 20.83, _F16, (16,), "vq-f16", 1_101_166),
    Row("vq", 8, 16384, 4, 1.14, 23.07, _VQ8, (8,), "vq-f8", 971_043),
    Row("vq", 8, 256, 4, 1.49, 22.35, _VQ8, (8,), "vq-f8-n256", 1_608_649),
    Row("vq", 4, 8192, 3, 0.58, 27.43, _F4, (), "vq-f4", 533_066),
    Row("vq", 4, 8192, 3, 1.06, 25.21, _F4, (), "vq-f4-noattn", 658_131, middle=False),
    Row("vq", 4, 256, 3, 0.47, 26.43, _F4),
    Row("vq", 2, 2048, 2, 0.16, 30.85, _F2),
    Row("vq", 2, 64, 2, 0.40, 29.13, _F2),
    Row("kl", 32, 0, 64, 2.04, 22.27, _F32, (16, 32), "kl-f32", 406_763),
    Row("kl", 32, 0, 16, 7.3, 20.38, _F32, (16, 32)),
    Row("kl", 16, 0, 16, 0.87, 24.08, _F16, (16,), "kl-f16", 442_998),
    Row("kl", 16, 0, 8, 2.63, 21.94, _F16, (16,)),
    Row("kl", 8, 0, 4, 0.90, 24.19, _KL8, (), "kl-f8", 246_803),
    Row("kl", 4, 0, 3, 0.27, 27.53, _F4, (), "kl-f4", 176_991),
    Row("kl", 2, 0, 2, 0.086, 32.47, _F2),
    Row("vq", 16, 16384, 256, 4.98, None, _F16, (16,), "vqgan_imagenet_f16_16384", note="vqgan"),
    Row("vq", 16, 1024, 256, 7.94, None, _F16, (16,), "vqgan_imagenet_f16_1024", note="vqgan"),
)


def written(row: Row) -> str:
    """The recipe of a row, as TOML."""
    what = (
        f"{row.codes} codes of {row.channels} channels" if row.codes else f"{row.channels} channels"
    )
    title = f"{(row.note or row.kind).upper()} f{row.factor}, {what}" + (
        "" if row.middle else ", no attention"
    )
    shape = (
        f"the shape of {row.zoo}"
        if row.zoo
        else "no public configuration; widths as in the zoo's nearest"
    )
    psnr = "" if row.psnr is None else f" and a PSNR of {row.psnr} dB"
    latents = f"{256 // row.factor}×{256 // row.factor}×{row.channels}"
    codebook = f"\n[objective.autoencoder.codebook]\nnumber = {row.codes}\n" if row.codes else ""
    vq = (
        f"middle = {str(row.middle).lower()}\nlegacy = true  # as the public weights were trained\n"
    )
    return f"""\
# A row of the first-stage table of latent diffusion (arXiv 2112.10752, table 8):
# at 256 px, {latents} latents.
# The paper's reaches a reconstruction FID of {row.fid}{psnr} on ImageNet validation;
# its perceptual distance is LPIPS; here it is the small network that is included (the line for
# LPIPS is below): {shape}.
# Put training pictures (the paper's: OpenImages) in data/openimages and others in
# data/imagenet-val, or change paths.
# safelight train recipes/first-stage/{row.name}.toml
title = "{title}"

[objective]
kind = "reconstruction"
l1 = 1.0
regularisers = {{ {"quantisation = 1.0" if row.codes else "kl = 1e-6"} }}

[objective.autoencoder]
kind = "{row.kind}"
width = 128
multipliers = {list(row.multipliers)}
blocks = 2
latent_channels = {row.channels}
attention = {list(row.attention)}
{vq if row.codes else ""}{codebook}
[objective.perceptual]
weight = 1.0
# network = {{ kind = "lpips", trunk = "vgg", weights = "vgg16.safetensors" }}

[objective.adversarial]
start = {0 if row.codes else 50_000}
weight = {0.75 if row.codes else 0.5}

[data]
kind = "folder"
paths = ["data/openimages"]

[validation]
kind = "folder"
paths = ["data/imagenet-val"]

[framing]
size = 256
short_side = 384
crop = "random"

[optimiser]
kind = "adamw"
betas = [0.5, 0.9]

[rate]
peak = {4.5e-6 * BATCH:.2g}  # 4.5e-6 times the batch
warmup = 0

[loop]
updates = {row.updates}
batch = {BATCH}

[watch]
write = 100
check = 5000
sheet = 5000
save = 5000
"""


class Small(NamedTuple):
    """A network of about a million parameters that trains on two cores in minutes."""

    title: str
    network: str  # as TOML

    @property
    def name(self) -> str:
        return self.title.lower().replace(" ", "-")


_VQ = """groups = 4
beta = 0.25

[objective.autoencoder.codebook]
number = 1024
decay = 0.99
restart = 20"""

SMALL = (
    Small(
        "KL f4",
        'kind = "kl"\nwidth = 20\nmultipliers = [1, 2, 4]\nblocks = 1\nlatent_channels = '
        "3\ngroups = 4",
    ),
    Small(
        "KL f8",
        'kind = "kl"\nwidth = 16\nmultipliers = [1, 2, 4, 4]\nblocks = 1\nlatent_channels = '
        "4\ngroups = 4",
    ),
    Small(
        "KL f16",
        'kind = "kl"\nwidth = 16\nmultipliers = [1, 2, 2, 4, 4]\nblocks = 1\nlatent_channels = '
        "16\ngroups = 4",
    ),
    Small(
        "VQ f4",
        f'kind = "vq"\nwidth = 20\nmultipliers = [1, 2, 4]\nblocks = 1\nlatent_channels = 3\n{_VQ}',
    ),
    Small(
        "VQ f8",
        'kind = "vq"\nwidth = 16\nmultipliers = [1, 2, 4, 4]\nblocks = 1\nlatent_channels = '
        f"4\n{_VQ}",
    ),
    Small(
        "DCAE f32",
        'kind = "dcae"\nwidths = [16, 32, 32, 64, 64, 64]\nencoder_blocks = [0, 1, 1, 1, 1, 1]\n'
        "decoder_blocks = [0, 1, 1, 1, 1, 1]\nhead = 16\nlatent_channels = 32",
    ),
)


def small(row: Small) -> str:
    """The TOML recipe of a small network, equal to the others except for the network."""
    return f"""\
# {row.title}, small: about a million parameters, 64-px crops of photographs and emoji, L1 and a
# perceptual distance, an adversarial loss in the last third. It only shows how compression factors
# and families compare (docs/first-stage.md).
# safelight train recipes/first-stage/small/{row.name}.toml
title = "{row.title} small"

[objective]
kind = "reconstruction"
l1 = 1.0

[objective.autoencoder]
{row.network}

[objective.perceptual]
weight = 0.5

[objective.adversarial]
start = 1_800
weight = 0.5
rate = 0.2

[objective.adversarial.discriminator]
kind = "patch"
width = 32

[data]
kind = "folder"
paths = [
  "data/caltech101-128/caltech101-128.zip",
  "data/emoji/emoji-fluent-128.zip",
  "data/emoji/emoji-noto-128.zip",
  "data/emoji/emoji-twemoji-128.zip",
  "data/emoji/emoji-blob-128.zip",
]
only = {{ split = "train" }}
licence = "CC BY 4.0 (Caltech 101, Twemoji), MIT (Fluent), Apache-2.0 (Noto, Blobmoji)"

[validation]
kind = "folder"
paths = ["data/caltech101-128/caltech101-128.zip"]
only = {{ split = "test" }}

[framing]
size = 64
short_side = 128
crop = "random"
mirror = true

[optimiser]
kind = "adamw"
betas = [0.5, 0.9]

[rate]
peak = 1.5e-3
warmup = 30
decay = "linear"
floor = 0.05

[loop]
updates = 2_700
batch = 8
ema = 0.99

[watch]
write = 20
check = 300
sheet = 300
save = 150
pictures = 128
"""


if __name__ == "__main__":
    for folder, texts in (
        (FOLDER, {row.name: written(row) for row in ROWS}),
        (FOLDER / "small", {row.name: small(row) for row in SMALL}),
    ):
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (folder / f"{name}.toml").write_text(text, encoding="utf-8")
            print(f"{name}.toml")
