"""A picture as a prompt: equal to the peer library, layer by layer in the right order, and as if not there at 0."""

import pytest
import torch
from safetensors.torch import save_file

from recorded import difference, error
from safelight.checkpoints.dialects import diffusers_unet
from safelight.checkpoints.image_prompts import eye_table, read, read_eye, table, with_image_prompt
from safelight.checkpoints.texts import joined
from safelight.checkpoints.weights import open_weights
from safelight.checkpoints.words import add_words
from safelight.denoisers.unet import Config, Level, Norm
from safelight.errors import BadInput
from safelight.model import LatentDiffusion
from safelight.nn.clip_vision import DEVIATION, MEAN, seen
from safelight.nn.clip_vision import Config as EyeConfig
from safelight.nn.towers import clip
from safelight.types import Prompt

SHAPE = Config(levels=(Level(32, 1, 4), Level(64, 2, 8)), blocks=1, middle=2, text_width=24, norm=Norm(8))
LAYERS = 1 + 2 + 2 * 2 + 2 * 1 + 2


@pytest.fixture
def model():
    torch.manual_seed(0)
    network = SHAPE.build().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    tower = clip.Config(width=24, depth=1, heads=2, hidden=16)
    return LatentDiffusion(denoiser=network, conditioner=joined("sd1", [tower]).build().eval())


@pytest.fixture
def file(model, tmp_path):
    """An adapter's file with random weights, in the order of its layers: down, up, middle."""
    widths = [32, *[64] * 2, *[64] * 4, *[32] * 2, *[64] * 2]
    assert len(widths) == LAYERS
    weights = {"image_proj.proj.weight": torch.randn(4 * 24, 10), "image_proj.proj.bias": torch.randn(4 * 24)}
    weights |= {"image_proj.norm.weight": torch.rand(24), "image_proj.norm.bias": torch.randn(24)}
    for number, width in enumerate(widths):
        weights |= {f"ip_adapter.{2 * number + 1}.to_{one}_ip.weight": torch.randn(width, 24) for one in "kv"}
    path = tmp_path / "ip-adapter.safetensors"
    save_file(weights, path)
    return path


@torch.no_grad()
def answer(model, prompts, noisy, negative=False):
    conditioner = model.conditioner
    condition = conditioner.nothing(prompts) if negative else conditioner(prompts)
    return model.denoiser(noisy, torch.tensor([3.0, 801.0]), condition)


@torch.no_grad()
def test_it_equals_the_peer_library_with_the_same_weights(model, file):
    diffusers = pytest.importorskip("diffusers")
    dialect = diffusers_unet.DIALECTS[0]
    said = dict(dialect.describe(SHAPE))
    assert said.pop("_class_name") == "UNet2DConditionModel"
    peer = diffusers.UNet2DConditionModel(**said)
    peer.load_state_dict(dict(dialect.table(SHAPE).write(model.denoiser.state_dict())))
    weights = dict(open_weights(file))
    parts = {part: {} for part in ("image_proj", "ip_adapter")}
    for name, tensor in weights.items():
        part, _, rest = name.partition(".")
        parts[part][rest] = tensor
    peer._load_ip_adapter_weights([parts], low_cpu_mem_usage=False)
    noisy, vectors = torch.randn(2, 4, 8, 12), torch.randn(2, 10)
    prompts = [Prompt(text, {"image_vector": vectors[row]}) for row, text in enumerate(("a fox", "an owl"))]
    text = model.conditioner(prompts).tokens.values
    for scale in (1.0, 0.6):
        for processor in peer.attn_processors.values():
            if "IPAdapter" in type(processor).__name__:
                processor.scale = [scale]
        given = {"image_embeds": [vectors[:, None]]}
        want = peer(noisy, torch.tensor([3.0, 801.0]), text, added_cond_kwargs=given).sample
        assert error(answer(with_image_prompt(model, file, scale), prompts, noisy), want) < 1e-5
    plain = answer(model, prompts, noisy)
    assert difference(want, plain) > 0.01
    assert error(answer(with_image_prompt(model, file, 0.0), prompts, noisy), plain) < 1e-6


@torch.no_grad()
def test_without_a_picture_the_vector_is_zero_and_several_adapters_add_up(model, file):
    adapted = with_image_prompt(model, file)
    noisy = torch.randn(2, 4, 8, 12)
    bare = [Prompt("a fox"), Prompt("an owl")]
    zeros = [Prompt(one.text, {"image_vector": torch.zeros(10)}) for one in bare]
    seen = [Prompt(one.text, {"image_vector": torch.ones(2, 10), "image_scale": 0.5}) for one in bare]
    assert torch.equal(answer(adapted, bare, noisy), answer(adapted, zeros, noisy))
    assert difference(answer(adapted, seen, noisy), answer(adapted, bare, noisy)) > 0.01
    kept = adapted.conditioner.nothing(seen, ["text"]).streams[0]
    assert torch.equal(kept.values, adapted.conditioner(seen).streams[0].values)
    taken = adapted.conditioner.nothing(seen).streams[0]
    assert torch.equal(taken.values[:, :4], adapted.conditioner(bare).streams[0].values)
    negative = [Prompt("", {**one.given, "negative": True}) for one in seen]
    assert torch.equal(adapted.conditioner(negative).streams[0].values, taken.values)
    twice = with_image_prompt(adapted, file)
    assert len(twice.conditioner(bare).streams) == 2
    assert answer(twice, seen, noisy).isfinite().all()


def test_words_and_changing_prompts_still_reach_the_towers(model, file, tmp_path):
    adapted = with_image_prompt(model, file)
    save_file({"<toy>": torch.ones(24)}, tmp_path / "toy.safetensors")
    assert add_words(adapted, tmp_path / "toy.safetensors") == ["<toy>"]
    asked = Prompt("[a:b:0.5]", {"emphasis": "mean"})
    assert adapted.conditioner.at(asked, 1, 2).text == "b"


def test_what_does_not_fit_is_refused(model, file, tmp_path):
    adapted = with_image_prompt(model, file)
    with pytest.raises(BadInput, match=r"image_vector: this image prompt reads vectors of 10 numbers, got .* \(9,\)"):
        adapted.conditioner([Prompt("", {"image_vector": torch.ones(9)})])
    with pytest.raises(BadInput, match=r"as many pictures each, got \[1, 2\]"):
        adapted.conditioner([Prompt(), Prompt("", {"image_vector": torch.ones(2, 10)})])
    with pytest.raises(BadInput, match="is for a U-Net that reads with text towers"):
        with_image_prompt(LatentDiffusion(), file)
    other = tmp_path / "other.safetensors"
    save_file({"latents": torch.ones(2)}, other)
    with pytest.raises(BadInput, match=r"other\.safetensors is no image prompt that is known"):
        with_image_prompt(model, other)
    wide = Config(levels=SHAPE.levels, blocks=1, text_width=32, norm=Norm(8)).build()
    with pytest.raises(BadInput, match="for a denoiser of a text 24 wide; this one's is 32"):
        read(open_weights(file), wide, "it")
    deep = Config(levels=SHAPE.levels, blocks=2, middle=2, text_width=24, norm=Norm(8)).build()
    with pytest.raises(BadInput, match="is missing"):
        read(open_weights(file), deep, "it")


def test_a_file_comes_back_to_the_bit(model, file):
    weights = open_weights(file)
    adapter = read(weights, model.denoiser, "it")
    order = [0, 1, 2, *range(5, LAYERS), 3, 4]
    again = dict(table(order).write(adapter.state_dict()))
    assert again.keys() == set(weights)
    assert all(torch.equal(again[name], weights[name]) for name in again)


@torch.no_grad()
def test_the_eye_equals_that_of_transformers_and_gives_the_vector(model, file, tmp_path):
    transformers = pytest.importorskip("transformers")
    said = {"hidden_size": 128, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    said |= {"image_size": 28, "patch_size": 14, "projection_dim": 10, "hidden_act": "quick_gelu"}
    torch.manual_seed(0)
    theirs = transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(**said)).eval()
    path = tmp_path / "model.safetensors"
    save_file({name: one.contiguous() for name, one in theirs.state_dict().items()}, path)
    eye = read_eye(open_weights(path), "it")
    assert dict(eye_table(eye.config).write(eye.state_dict())).keys() == theirs.state_dict().keys()
    images = 2 * torch.rand(2, 3, 28, 28) - 1
    vectors = eye(images)
    assert error(vectors, theirs(pixel_values=seen(images, 28)).image_embeds) < 1e-5
    adapted = with_image_prompt(model, file, encoder=path)
    given = [Prompt("a fox", {"image": one}) for one in images]
    made = [Prompt("a fox", {"image_vector": one}) for one in vectors]
    stream, wanted = (adapted.conditioner(each).streams[0].values for each in (given, made))
    assert error(stream, wanted) < 1e-5
    with pytest.raises(BadInput, match="has no eye: add the image encoder"):
        with_image_prompt(model, file).conditioner(given)
    narrow = save({**theirs.state_dict(), "visual_projection.weight": torch.ones(9, 128)}, tmp_path)
    with pytest.raises(BadInput, match="makes vectors of 9 numbers, the image prompt reads 10"):
        with_image_prompt(model, file, encoder=narrow)
    with pytest.raises(BadInput, match="is no image encoder that is known"):
        with_image_prompt(model, file, encoder=file)


def save(weights, folder):
    save_file({name: one.contiguous() for name, one in weights.items()}, folder / "narrow.safetensors")
    return folder / "narrow.safetensors"


def test_the_eye_sees_the_middle_square_at_its_own_size():
    images = torch.zeros(1, 3, 20, 40)
    images[..., 10:30] = 1.0
    square = seen(images, 10) * torch.tensor(DEVIATION)[:, None, None] + torch.tensor(MEAN)[:, None, None]
    assert square.shape == (1, 3, 10, 10)
    torch.testing.assert_close(square[..., 2:8], torch.ones(1, 3, 10, 6))
    with pytest.raises(BadInput, match="cannot see whole patches"):
        EyeConfig(size=225)
