"""A text encoder that is trained from scratch together with the denoiser, as in latent diffusion (arXiv 2112.10752).

Byte-level BPE, learned from the captions themselves, and a small transformer: every text has an encoding, and nothing
has to be downloaded.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn

from safelight.errors import BadInput
from safelight.nn.attention import SelfAttention
from safelight.nn.text_state import pack, unpack
from safelight.tokenization.chunks import shown
from safelight.types.networks import Condition, Prompt, Tokens

PAD, BEGIN, END = range(3)
MARKERS = 3  # their ids come before the tokenizer's own, so that no text can spell them
MULTIPLE = 8  # lengths are rounded up to it, so that few different shapes reach the denoiser


@dataclass(frozen=True)
class Config:
    """An encoder of texts up to ``length`` tokens; longer ones are cut. ``pooled``: also a vector for the whole."""

    vocabulary: int = 2048
    length: int = 32
    width: int = 256
    depth: int = 3
    heads: int = 4
    pooled: bool = True

    def __post_init__(self) -> None:
        smallest = {"vocabulary": MARKERS + 256, "length": 2, "width": 1, "depth": 1, "heads": 1}
        for name, value in asdict(self).items():
            if name in smallest and value < smallest[name]:
                raise BadInput(f"{name} must be at least {smallest[name]}, not {value}.")
        if self.width % self.heads:
            raise BadInput(
                f"a width of {self.width} cannot be shared out among {self.heads} heads."
            )

    def build(self) -> "TextEncoder":
        """The encoder, freshly initialised; it has to ``fit`` its tokens from captions before it is called."""
        return TextEncoder(self)


class TextEncoder(nn.Module):
    """The prompts' texts → ``tokens`` (b, n, width) with their mask and, if pooled, ``vector`` (b, width)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.vocabulary = Vocabulary(config.vocabulary - MARKERS)
        self.embedding = nn.Embedding(config.vocabulary, config.width)
        self.positions = nn.Parameter(0.02 * torch.randn(config.length, config.width))
        self.blocks = nn.ModuleList(Block(config.width, config.heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)
        self.pool = nn.Linear(config.width, config.width) if config.pooled else None
        nn.init.normal_(self.embedding.weight, std=0.02)

    def fit(self, prompts: Iterable[Prompt]) -> None:
        """Learn the tokens from the prompts' texts, the same ones whatever the order in which the texts come."""
        self.vocabulary.fit(prompt.text for prompt in prompts)

    def forward(self, prompts: Sequence[Prompt]) -> Condition:
        """The condition of ``prompts``; BadInput if nothing was learned or loaded yet."""
        return self.encode(*self.tokenise(prompts))

    def null_condition(
        self, prompts: Sequence[Prompt], only: Collection[str] | None = None
    ) -> Condition:
        """The encoding of the empty text for each prompt, or the prompts' own if ``only`` leaves text alone."""
        if only is not None and "text" not in only:
            return self.encode(*self.tokenise(prompts))
        one = self.encode(*self.tokenise([Prompt()]))
        assert one.tokens is not None
        values = one.tokens.values.expand(len(prompts), -1, -1)
        mask = one.tokens.mask.expand(len(prompts), -1)
        vector = None if one.vector is None else one.vector.expand(len(prompts), -1)
        return Condition(tokens=Tokens(values, mask), vector=vector)

    def tokenise(self, prompts: Sequence[Prompt]) -> tuple[Tensor, Tensor]:
        """Texts as ``ids`` and ``mask`` (b, n), n the longest rounded up to a multiple of 8, within the length."""
        rows = [[BEGIN, *self.pieces(prompt.text), END] for prompt in prompts]
        longest = max(map(len, rows), default=2)
        n = min(-(-longest // MULTIPLE) * MULTIPLE, self.config.length)
        ids = torch.tensor(
            [row + [PAD] * (n - len(row)) for row in rows], dtype=torch.long
        ).reshape(len(rows), n)
        ids = ids.to(self.embedding.weight.device)
        return ids, ids != PAD

    def pieces(self, text: str) -> list[int]:
        """The ids of a text's tokens, cut to what fits between the markers; its tail is not even looked at."""
        looked_at = text[: self._longest]
        return [
            MARKERS + piece for piece in self.vocabulary.pieces(looked_at)[: self.config.length - 2]
        ]

    @property
    def _longest(self) -> int:
        """How many letters of a text are looked at."""
        return self.config.length * 64

    @property
    def reads_weights(self) -> bool:
        """False: brackets are characters like others."""
        return False

    def truncated(self, prompt: Prompt) -> list[str]:
        """What of a prompt does not fit between the markers, as a sentence."""
        most, longest = self.config.length - 2, self._longest
        left = self.vocabulary.behind(prompt.text[:longest], most) + prompt.text[longest:]
        return (
            [f"this model reads {most} pieces of a prompt; not read: {shown(left)}"]
            if left.strip()
            else []
        )

    def encode(self, ids: Tensor, mask: Tensor) -> Condition:
        """The tensor part, which can be compiled: ``ids`` and ``mask`` (b, n) → the condition."""
        x = self.embedding(ids) + self.positions[: ids.shape[1]]  # (b, n, width)
        for block in self.blocks:
            x = block(x, mask)
        x = self.norm(x)
        if self.pool is None:
            return Condition(tokens=Tokens(x, mask))
        counts = mask.to(x.dtype)[:, :, None]
        mean = (x * counts).sum(dim=1) / counts.sum(dim=1)  # (b, width)
        return Condition(tokens=Tokens(x, mask), vector=self.pool(mean))


class Block(nn.Module):
    """Pre-norm attention and MLP, (b, n, width) → (b, n, width)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads, qk_norm=False)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width),
            nn.GELU("tanh"),
            nn.Linear(4 * width, width),
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + self.attention(self.norm(x), mask=mask)
        change: Tensor = self.mlp(x)
        return x + change


class Vocabulary(nn.Module):
    """Byte-level BPE (lower case, NFC) of at most ``size`` tokens; it travels in the state dict."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.tokenizer: Tokenizer | None = None

    def fit(self, texts: Iterable[str]) -> None:
        """Learn the merges from ``texts``, each different one counted once."""
        tokenizer = Tokenizer(models.BPE())
        tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=self.size, initial_alphabet=alphabet, show_progress=False
        )
        tokenizer.train_from_iterator(sorted({whole(text) for text in texts}), trainer)
        self.tokenizer = tokenizer

    def pieces(self, text: str) -> list[int]:
        """The ids of the text's tokens, from 0; BadInput if nothing was learned or loaded yet."""
        if self.tokenizer is None:
            raise BadInput(
                "this text encoder knows no tokens yet; train it on captions or load its weights first."
            )
        return self.tokenizer.encode(whole(text)).ids

    def behind(self, text: str, pieces: int) -> str:
        """What of a text follows its first so many tokens."""
        offsets = [] if self.tokenizer is None else self.tokenizer.encode(whole(text)).offsets
        return whole(text)[offsets[pieces][0] :] if len(offsets) > pieces else ""

    def get_extra_state(self) -> Tensor:
        return pack("" if self.tokenizer is None else self.tokenizer.to_str())

    def set_extra_state(self, state: Tensor) -> None:
        text = unpack(state)
        self.tokenizer = Tokenizer.from_str(text) if text else None


def whole(text: str) -> str:
    """``text`` with a question mark for each half of a surrogate pair, which UTF-8 cannot hold."""
    return text.encode("utf-8", "replace").decode()
