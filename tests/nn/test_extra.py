import pytest
import torch

from safelight.nn.text_state import pack, unpack


@pytest.mark.parametrize("text", ["", "plain", "näïve 🦊"])
def test_unpack_is_the_inverse(text):
    assert pack(text).dtype == torch.uint8
    assert unpack(pack(text)) == text
