"""Models on the hub: ``owner/name``, ``owner/name@revision``, ``owner/name:file``; only what a model needs is fetched.

``huggingface_hub`` does the work: it shows progress, goes on where it was stopped, and keeps files in its cache.
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
WORDS = (".json", ".txt", ".model", ".md")  # configurations, tokenizers, the card
VARIANT = re.compile(r"\.(fp16|bf16|fp32|ema|non_ema)\b|openvino")
UNUSED = "safety_checker"
CARD = "README.md"  # which states the licence
PAGE = "https://huggingface.co"


@dataclass(frozen=True)
class Place:
    """A model on the hub, or one file there."""

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
    """Whether ``text`` could name a model on the hub; a path of two names could as well, but not one of a file."""
    found = IDENTIFIER.fullmatch(text)
    return found is not None and not found["repo"].endswith(WEIGHTS)


def fetch(identifier: str) -> Path:
    """The folder or file of a model on the hub, from its cache if nothing changed there since.

    A folder of parts (native, or with a model_index.json) without what a model does not need, else its one file of
    weights. Raises BadInput, with what to download to where, if the hub cannot be reached and nothing is cached; if
    there is no such model, revision or file; or if there are several files of weights and none was named.
    """
    found = IDENTIFIER.fullmatch(identifier)
    if not found:
        raise BadInput(
            f"{identifier!r} names no model on the hub; wanted owner/name, owner/name@revision or :file."
        )
    place = Place(found["repo"], found["revision"], found["file"])
    try:
        from huggingface_hub import errors
    except ImportError:
        raise BadInput(
            f"{identifier!r} would come from the hub; pip install safelight[hub]."
        ) from None
    try:
        return _online(place)
    except BadInput:
        raise
    except errors.GatedRepoError:
        address = f"{PAGE}/{place.repo}"
        raise BadInput(
            f"{place.repo} wants its terms accepted: do so at {address}, then `hf auth login`."
        ) from None
    except errors.RepositoryNotFoundError:
        raise BadInput(
            f"the hub has no {place.repo}, or it is private: if so, `hf auth login`."
        ) from None
    except errors.RevisionNotFoundError:
        raise BadInput(
            f"{place.repo} has no revision {place.revision!r}; see {PAGE}/{place.repo}/tree."
        ) from None
    except Exception as error:  # without a network each version of the library raises another
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise CannotSave(
                f"{place} cannot be kept: {error.strerror}; make room or set HF_HOME."
            ) from None
        reason = (str(error).splitlines() or [type(error).__name__])[0].split(". ")[0][:120]
    try:
        return _cached(place)
    except Exception:  # BadInput too: what is there is not what was asked for
        raise _absent(place, reason) from None


def choose(place: Place, files: Iterable[str]) -> tuple[str, list[str]]:
    """What of a repository's files makes up the model, after the one that says where all is; empty for the folder.

    Raises BadInput if the file that was asked for is not there, or if no single one can be taken for the model.
    """
    names = sorted(files)
    if place.file:
        if place.file not in names:
            raise unknown(f"file of {place.repo}:", place.file, names)
        shards = [name for name in names if _shard(name, place.file)]
        return place.file, [place.file, *shards, *(name for name in names if name == CARD)]
    if "model_index.json" in names:
        return "", _parts(names)
    if "manifest.json" in names and "config.json" in names:
        return "", [
            name for name in names if "/" not in name and name.endswith((".safetensors", *WORDS))
        ]
    weights = [name for name in names if name.endswith(WEIGHTS)]
    best = [name for name in weights if name.endswith(".safetensors")] or weights
    if len(best) != 1:
        some = ", ".join(best[:8]) + (" …" if len(best) > 8 else "")
        got = f"{some}: name one, as in {place.repo}:{best[0]}" if best else "neither"
        raise BadInput(f"{place.repo}: wanted a folder of parts or one file of weights, got {got}.")
    return best[0], [*best, *(name for name in names if name == CARD)]


def _parts(names: list[str]) -> list[str]:
    """Of a folder of parts: each one's configuration and weights, in the plainest and safest form that is there."""
    inside = [name for name in names if name.count("/") == 1 and not name.startswith(UNUSED)]
    chosen = [name for name in names if "/" not in name and name.endswith((".json", ".md"))]
    for folder in dict.fromkeys(name.partition("/")[0] for name in inside):
        here = [name for name in inside if name.startswith(f"{folder}/")]
        weights = [name for name in here if name.endswith(WEIGHTS)]
        safe = [name for name in weights if name.endswith(".safetensors")] or weights
        plain = [name for name in safe if not VARIANT.search(name)] or safe
        chosen += plain
        for name in here:
            if name.endswith(WORDS) and (
                not name.endswith(".index.json") or any(_shard(one, name) for one in plain)
            ):
                chosen.append(name)
    return chosen


def _shard(name: str, index: str) -> bool:
    """Whether ``index`` is an index of files of weights, and ``name`` one of them."""
    stem, _, suffix = index.removesuffix(".index.json").rpartition(".")
    pattern = re.escape(stem) + r"-\d+-of-\d+\." + re.escape(suffix)
    return index.endswith(".index.json") and re.fullmatch(pattern, name) is not None


def _online(place: Place) -> Path:
    import huggingface_hub as hub

    there = hub.HfApi().model_info(place.repo, revision=place.revision).siblings or ()
    entry, names = choose(place, [one.rfilename for one in there])
    patterns = [glob.escape(name) for name in names]
    return (
        Path(hub.snapshot_download(place.repo, revision=place.revision, allow_patterns=patterns))
        / entry
    )


def _cached(place: Place) -> Path:
    import huggingface_hub as hub

    nothing: list[str] = []  # is asked for: only where it would be
    kept = hub.snapshot_download(
        place.repo, revision=place.revision, allow_patterns=nothing, local_files_only=True
    )
    there = [path.relative_to(kept).as_posix() for path in Path(kept).rglob("*") if path.is_file()]
    return Path(kept) / choose(place, there)[0]


def _absent(place: Place, reason: str) -> BadInput:
    what = f"{place.repo} {place.file}" if place.file else place.repo
    revision = f" --revision {place.revision}" if place.revision else ""
    folder = place.repo.partition("/")[2]
    target = f"{folder}/{place.file}" if place.file else folder
    return BadInput(
        f"{place} cannot be had from the hub here ({reason}): where there is a network, run "
        f"`hf download {what}{revision} --local-dir {folder}`, bring that folder here and load {target!r} instead."
    )
