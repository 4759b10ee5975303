"""Tensors on their way to memory: in another precision and layout as torch would have them,
several at once."""

from threading import Thread

import pytest
import torch
from safetensors.torch import save_file

from recorded import Recording
from safelight import checkpoints
from safelight.errors import BadInput
from safelight.model import module
from safelight.runtime import prepare
from safelight.weights.files import open_weights
from safelight.weights.memory import BLOCK, LoadOptions, at_once
from safelight.weights.stored import TYPES

POINT = [kind.dtype for kind in TYPES.values() if kind.dtype.is_floating_point]


@pytest.mark.parametrize("stored", POINT, ids=str)
@pytest.mark.parametrize("wanted", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_tensor_is_what_torch_would_make_of_it(stored, wanted):
    draw = torch.Generator().manual_seed(0)
    tensors = [
        torch.randn(shape, generator=draw).to(stored)
        for shape in ((), (7,), (5, 6, 3, 3), (4, 6, 1, 1))
    ]
    tensors += [
        torch.randn(shape, generator=draw).to(stored)
        for shape in ((BLOCK + 5,), (3, BLOCK // 4, 3, 3))
    ]
    reading = LoadOptions(wanted, channels_last=True)
    for one in tensors:
        got, want = reading.of(one), one.float().to(wanted)
        assert got.dtype == wanted
        assert torch.equal(got, want)
        assert got.ndim != 4 or got.is_contiguous(memory_format=torch.channels_last)


def test_what_is_wanted_as_it_is_stays_in_the_files_pages(tmp_path):
    whole, plain = torch.arange(BLOCK), torch.randn(BLOCK)
    reading = LoadOptions(torch.float32, channels_last=True)
    assert reading.of(whole) is whole
    assert reading.of(plain) is plain
    assert LoadOptions().of(plain.half()).dtype == torch.float16
    image = torch.randn(2, 3, 4, 5).half()
    assert (
        LoadOptions(channels_last=True).of(image).is_contiguous(memory_format=torch.channels_last)
    )


def test_a_model_is_read_as_it_would_be_prepared(folder):
    """To the bit, from a folder of others and from one of ours."""
    for source in (Recording("diffusers-folders").file("sd"), folder):
        for precision, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
            want = prepare(checkpoints.read(source), "cpu", precision)
            read = checkpoints.read(source, options=LoadOptions(dtype, channels_last=True))
            got = checkpoints.load(source, "cpu", precision)
            for part in ("autoencoder", "conditioner", "denoiser"):
                found, known = (
                    module(vars(got)[part]).state_dict(),
                    module(vars(want)[part]).state_dict(),
                )
                kinds = {
                    name: one.dtype for name, one in module(vars(read)[part]).state_dict().items()
                }
                assert list(found) == list(known)
                for name, one in known.items():
                    assert found[name].dtype == one.dtype
                    assert found[name].stride() == one.stride(), name
                    assert torch.equal(found[name], one), name
                    assert kinds[name] == one.dtype or name.startswith("scale."), name


def test_infinity_is_found_in_whatever_precision(tmp_path):
    for value in (float("nan"), float("inf"), -float("inf")):
        bad = torch.zeros(BLOCK * 2)
        bad[BLOCK + 7] = value
        save_file({"a": bad.half()}, tmp_path / "a.safetensors")
        stored = open_weights(tmp_path / "a.safetensors").stored["a"]
        for dtype in (None, torch.bfloat16, torch.float32):
            with pytest.raises(BadInput, match="a holds values that are not finite"):
                stored.read("a", LoadOptions(dtype))


def test_results_come_in_order_and_the_first_refusal_counts():
    def refuse(number: int) -> int:
        if number in (3, 5):
            raise BadInput(f"no {number}")
        return number

    with pytest.raises(BadInput, match="no 3"):
        list(at_once(refuse, range(9)))
    assert list(at_once(refuse, [])) == []


def test_threads_are_as_many_afterwards_as_before():
    """Here and in whatever begins later: a worker's one is its own."""
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        seen = list(at_once(lambda number: (number, torch.get_num_threads()), range(50)))
        later: list[int] = []
        thread = Thread(target=lambda: later.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert seen == [(number, 1) for number in range(50)]
        assert later == [torch.get_num_threads()] == [4]
    finally:
        torch.set_num_threads(before)
