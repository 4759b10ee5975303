"""A text encoder trained from scratch with the denoiser, as in latent diffusion (arXiv 2112.10752).

Its byte-level BPE is fitted to the captions, and its transformer is small: every text has an
encoding, and nothing has to be downloaded.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn

from safelight.errors import BadInput
from safelight.nn.attention import SelfAttention
from safelight.nn.text_state import pack, unpack
from safelight.tokenization.chunks import quote
from safelight.types.networks import Condition, Prompt, Tokens

PAD, BOS, EOS = range(3)
SPECIAL = 3  # special tokens come before the vocabulary, so that no text can contain them
MULTIPLE = 8  # lengths are rounded up to it, so that few different shapes reach the denoiser


@dataclass(frozen=True)
class Config:
    """An encoder of texts of at most ``length`` tokens; longer ones are truncated.

    ``pooled``: also a vector, a projection of the mean over tokens.
    """

    vocabulary: int = 2048
    length: int = 32
    width: int = 256
    depth: int = 3
    heads: int = 4
    pooled: bool = True

    def __post_init__(self) -> None:
        smallest = {"vocabulary": SPECIAL + 256, "length": 2, "width": 1, "depth": 1, "heads": 1}
        for name, value in asdict(self).items():
            if name in smallest and value < smallest[name]:
                raise BadInput(f"{name} must be at least {smallest[name]}, not {value}.")
        if self.width % self.heads:
            raise BadInput(f"a width of {self.width} cannot be divided among {self.heads} heads.")

    def build(self) -> "TextEncoder":
        """The encoder, freshly initialised; ``fit`` its vocabulary before calling it."""
        return TextEncoder(self)


class TextEncoder(nn.Module):
    """The prompts' texts → ``tokens`` (b, n, width) and, if pooled, ``vector`` (b, width)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.vocabulary = Vocabulary(config.vocabulary - SPECIAL)
        self.embedding = nn.Embedding(config.vocabulary, config.width)
        self.positions = nn.Parameter(0.02 * torch.randn(config.length, config.width))
        self.blocks = nn.ModuleList(Block(config.width, config.heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)
        self.pool = nn.Linear(config.width, config.width) if config.pooled else None
        nn.init.normal_(self.embedding.weight, std=0.02)

    def fit(self, prompts: Iterable[Prompt]) -> None:
        """Fit the vocabulary to the prompts' texts; their order does not matter."""
        self.vocabulary.fit(prompt.text for prompt in prompts)

    def forward(self, prompts: Sequence[Prompt]) -> Condition:
        """The condition of ``prompts``; BadInput if no vocabulary was fitted or loaded yet."""
        return self.encode(*self.tokenise(prompts))

    def null_condition(
        self, prompts: Sequence[Prompt], only: Collection[str] | None = None
    ) -> Condition:
        """The encoding of no text, or the prompts' own if ``only`` does not name ``text``."""
        if only is not None and "text" not in only:
            return self.encode(*self.tokenise(prompts))
        empty = self.encode(*self.tokenise([Prompt()]))
        assert empty.tokens is not None
        count = len(prompts)
        values = empty.tokens.values.expand(count, -1, -1)
        mask = empty.tokens.mask.expand(count, -1)
        vector = None if empty.vector is None else empty.vector.expand(count, -1)
        return Condition(tokens=Tokens(values, mask), vector=vector)

    def tokenise(self, prompts: Sequence[Prompt]) -> tuple[Tensor, Tensor]:
        """Texts as ``ids`` and ``mask`` (b, n).

        n is the longest text rounded up to a multiple of 8, at most the configured length.
        """
        rows = [[BOS, *self.token_ids(prompt.text), EOS] for prompt in prompts]
        longest = max(map(len, rows), default=2)
        n = min(-(-longest // MULTIPLE) * MULTIPLE, self.config.length)
        padded = [row + [PAD] * (n - len(row)) for row in rows]
        ids = torch.tensor(padded, dtype=torch.long).reshape(len(rows), n)
        ids = ids.to(self.embedding.weight.device)
        return ids, ids != PAD

    def token_ids(self, text: str) -> list[int]:
        """The ids of a text's tokens, truncated to what fits between begin and end."""
        ids = self.vocabulary.token_ids(text[: self._max_characters])
        return [SPECIAL + token for token in ids[: self.config.length - 2]]

    @property
    def _max_characters(self) -> int:
        """How many characters of a text are tokenised."""
        return self.config.length * 64

    @property
    def reads_weights(self) -> bool:
        """False: brackets are characters like others."""
        return False

    def truncated(self, prompt: Prompt) -> list[str]:
        """A sentence that says what of a prompt is cut off, if anything is."""
        most, end = self.config.length - 2, self._max_characters
        rest = self.vocabulary.text_after(prompt.text[:end], most) + prompt.text[end:]
        if not rest.strip():
            return []
        return [f"this model reads {most} tokens of a prompt; cut off is: {quote(rest)}"]

    def encode(self, ids: Tensor, mask: Tensor) -> Condition:
        """``ids`` and ``mask`` (b, n) → the condition; only tensors, so that it can be compiled."""
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
    """Byte-level BPE (lower case, NFC) of at most ``size`` tokens, kept in the state dict."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.tokenizer: Tokenizer | None = None

    def fit(self, texts: Iterable[str]) -> None:
        """Learn the merges from ``texts``; equal texts count once."""
        tokenizer = Tokenizer(models.BPE())
        tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=self.size, initial_alphabet=alphabet, show_progress=False
        )
        tokenizer.train_from_iterator(sorted({encodable(text) for text in texts}), trainer)
        self.tokenizer = tokenizer

    def token_ids(self, text: str) -> list[int]:
        """The ids of the text's tokens, from 0; BadInput if nothing was fitted or loaded yet."""
        if self.tokenizer is None:
            raise BadInput(
                "this text encoder has no vocabulary yet; "
                "train it on captions or load its weights first."
            )
        return self.tokenizer.encode(encodable(text)).ids

    def text_after(self, text: str, count: int) -> str:
        """What of a text follows its first ``count`` tokens."""
        offsets = [] if self.tokenizer is None else self.tokenizer.encode(encodable(text)).offsets
        return encodable(text)[offsets[count][0] :] if len(offsets) > count else ""

    def get_extra_state(self) -> Tensor:
        return pack("" if self.tokenizer is None else self.tokenizer.to_str())

    def set_extra_state(self, state: Tensor) -> None:
        text = unpack(state)
        self.tokenizer = Tokenizer.from_str(text) if text else None


def encodable(text: str) -> str:
    """``text`` with a question mark for each lone surrogate, which UTF-8 cannot encode."""
    return text.encode("utf-8", "replace").decode()
