"""Learned words (textual inversion, arXiv 2208.01618): a few vectors that stand for a name in a prompt.

Four containers are in use: a tensor by the word itself (diffusers; several words too), ``emb_params`` with the word in
the file's name, the web UI's dictionary, in a pickle or flattened into names, and one tensor a tower for SDXL and
Stable Diffusion 3.
"""

from collections.abc import Mapping

from torch import Tensor

from safelight.errors import BadInput

DICTIONARY = "string_to_param."
TOWERS = ("clip_l", "clip_g", "t5xxl")
PLAIN = ("emb_params", "embedding")


def read(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str], name: str
) -> dict[str, list[Tensor]]:
    """The words of a file, each with its vectors (n, width), one tensor for each tower that it was learned for.

    ``tensors`` and ``metadata`` are the file's, names of nested ones joined by dots; ``name`` is the word where the
    file holds none, that of the file. Raises BadInput if it holds no words, or anything that is none.
    """
    plain = [key for key in tensors if key in PLAIN or key.startswith(DICTIONARY)]
    towers = [key for key in tensors if key in TOWERS]
    if plain or towers:
        named = metadata.get("name", name) if plain and plain[0].startswith(DICTIONARY) else name
        words = {named: [_vectors(key, tensors[key]) for key in plain or towers]}
        left = [key for key in tensors if key not in plain and key not in towers]
    else:
        bare = [key for key in tensors if key == key.strip() and ":" not in key and "." not in key]
        words = {key: [_vectors(key, tensors[key])] for key in bare}
        left = [key for key in tensors if key not in words and ":" not in key]
    if left or not words:
        raise BadInput(
            f"{name} holds no learned words: wanted a tensor by its word, emb_params or string_to_param, got "
            f"{', '.join([*left, *tensors][:3]) or 'nothing'}."
        )
    return words


def _vectors(key: str, tensor: Tensor) -> Tensor:
    vectors = tensor[None] if tensor.ndim == 1 else tensor
    if vectors.ndim != 2 or not vectors.is_floating_point() or 0 in vectors.shape:
        raise BadInput(
            f"{key}: wanted vectors of shape (width) or (n, width), got {tuple(tensor.shape)}."
        )
    return vectors.float()
