"""Models on the Hugging Face hub: ``owner/name``, ``owner/name@revision``, ``owner/name:file``.

Only the files that a model needs are downloaded, by ``huggingface_hub``: it shows progress,
resumes interrupted downloads, and keeps files in its cache.
"""

import errno
import glob
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from safelight.errors import BadInput, CannotSave, unknown

IDENTIFIER = re.compile(
    r"(?P<repo>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>[\w./-]+))?(:(?P<file>[^:\\]+))?"
)
WEIGHTS = (".safetensors", ".ckpt", ".pt", ".bin")
TEXT_FILES = (".json", ".txt", ".model", ".md")
"""The suffixes of configurations, tokenizers and the model card."""

VARIANT = re.compile(r"\.(fp16|bf16|fp32|ema|non_ema)\b|openvino")
UNUSED = "safety_checker"
CARD = "README.md"
"""The model card, which states the licence."""

PAGE = "https://huggingface.co"


@dataclass(frozen=True)
class HubModel:
    """A model on the hub, or one file of it."""

    repo: str
    revision: str | None = None
    file: str | None = None

    def __str__(self) -> str:
        revision, file = (
            f"@{self.revision}" if self.revision else "",
            f":{self.file}" if self.file else "",
        )
        return f"{self.repo}{revision}{file}"


def is_identifier(text: str) -> bool:
    """Whether ``text`` could name a model on the hub, and does not end like a file of weights."""
    match = IDENTIFIER.fullmatch(text)
    return match is not None and not match["repo"].endswith(WEIGHTS)


def fetch(identifier: str) -> Path:
    """Download a model from the hub, or take it from the cache, and return its folder or file.

    It is a folder of parts (native, or with a model_index.json) without unneeded files, or the one
    file of weights. Raises BadInput, with the command to download it elsewhere, if the hub cannot
    be reached and nothing is cached; if there is no such model, revision or file; or if there are
    several files of weights and none was named.
    """
    match = IDENTIFIER.fullmatch(identifier)
    if not match:
        raise BadInput(
            f"{identifier!r} names no model on the hub; "
            "wanted owner/name, owner/name@revision or :file."
        )
    model = HubModel(match["repo"], match["revision"], match["file"])
    try:
        from huggingface_hub import errors
    except ImportError:
        raise BadInput(
            f"{identifier!r} would come from the hub; pip install safelight[hub]."
        ) from None
    try:
        return _online(model)
    except BadInput:
        raise
    except errors.GatedRepoError:
        address = f"{PAGE}/{model.repo}"
        raise BadInput(
            f"{model.repo} wants its terms accepted: do so at {address}, then `hf auth login`."
        ) from None
    except errors.RepositoryNotFoundError:
        raise BadInput(
            f"the hub has no {model.repo}, or it is private: if so, `hf auth login`."
        ) from None
    except errors.RevisionNotFoundError:
        raise BadInput(
            f"{model.repo} has no revision {model.revision!r}; see {PAGE}/{model.repo}/tree."
        ) from None
    except Exception as error:  # each version of the library raises another without a network
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise CannotSave(
                f"{model} cannot be kept: {error.strerror}; make room or set HF_HOME."
            ) from None
        reason = (str(error).splitlines() or [type(error).__name__])[0].split(". ")[0][:120]
    try:
        return _cached(model)
    except Exception:  # BadInput too: the cache holds other files of it
        raise _unreachable(model, reason) from None


def choose(model: HubModel, files: Iterable[str]) -> tuple[str, list[str]]:
    """The file to load (empty: the folder) and all files to download, of those in a repository.

    Raises BadInput if the file that was named is not there, or if no single one is the model.
    """
    names = sorted(files)
    if model.file:
        if model.file not in names:
            raise unknown(f"file of {model.repo}:", model.file, names)
        shards = [name for name in names if _is_shard(name, model.file)]
        return model.file, [model.file, *shards, *(name for name in names if name == CARD)]
    if "model_index.json" in names:
        return "", _parts(names)
    if "manifest.json" in names and "config.json" in names:
        return "", [
            name
            for name in names
            if "/" not in name and name.endswith((".safetensors", *TEXT_FILES))
        ]
    weights = [name for name in names if name.endswith(WEIGHTS)]
    best = [name for name in weights if name.endswith(".safetensors")] or weights
    if len(best) != 1:
        listed = ", ".join(best[:8]) + (" …" if len(best) > 8 else "")
        got = f"{listed}: name one, as in {model.repo}:{best[0]}" if best else "neither"
        raise BadInput(f"{model.repo}: wanted a folder of parts or one file of weights, got {got}.")
    return best[0], [*best, *(name for name in names if name == CARD)]


def _parts(names: list[str]) -> list[str]:
    """The files of a folder of parts: configurations, and weights in one form of each part.

    Safetensors are preferred to pickles, and full precision to variants.
    """
    inside = [name for name in names if name.count("/") == 1 and not name.startswith(UNUSED)]
    chosen = [name for name in names if "/" not in name and name.endswith((".json", ".md"))]
    for folder in dict.fromkeys(name.partition("/")[0] for name in inside):
        files = [name for name in inside if name.startswith(f"{folder}/")]
        weights = [name for name in files if name.endswith(WEIGHTS)]
        safe = [name for name in weights if name.endswith(".safetensors")] or weights
        full = [name for name in safe if not VARIANT.search(name)] or safe
        chosen += full
        for name in files:
            is_index = name.endswith(".index.json")
            if name.endswith(TEXT_FILES) and (
                not is_index or any(_is_shard(file, name) for file in full)
            ):
                chosen.append(name)
    return chosen


def _is_shard(name: str, index: str) -> bool:
    """Whether ``index`` is an index of files of weights, and ``name`` one of them."""
    stem, _, suffix = index.removesuffix(".index.json").rpartition(".")
    pattern = re.escape(stem) + r"-\d+-of-\d+\." + re.escape(suffix)
    return index.endswith(".index.json") and re.fullmatch(pattern, name) is not None


def _online(model: HubModel) -> Path:
    import huggingface_hub as hub

    files = hub.HfApi().model_info(model.repo, revision=model.revision).siblings or ()
    entry, names = choose(model, [file.rfilename for file in files])
    patterns = [glob.escape(name) for name in names]
    return (
        Path(hub.snapshot_download(model.repo, revision=model.revision, allow_patterns=patterns))
        / entry
    )


def _cached(model: HubModel) -> Path:
    import huggingface_hub as hub

    nothing: list[str] = []  # only the folder's path is wanted
    folder = hub.snapshot_download(
        model.repo, revision=model.revision, allow_patterns=nothing, local_files_only=True
    )
    paths = [path for path in Path(folder).rglob("*") if path.is_file()]
    names = [path.relative_to(folder).as_posix() for path in paths]
    return Path(folder) / choose(model, names)[0]


def _unreachable(model: HubModel, reason: str) -> BadInput:
    what = f"{model.repo} {model.file}" if model.file else model.repo
    revision = f" --revision {model.revision}" if model.revision else ""
    folder = model.repo.partition("/")[2]
    target = f"{folder}/{model.file}" if model.file else folder
    return BadInput(
        f"{model} cannot be downloaded here ({reason}): where there is a network, run "
        f"`hf download {what}{revision} --local-dir {folder}`, "
        f"copy that folder here and load {target!r} instead."
    )
