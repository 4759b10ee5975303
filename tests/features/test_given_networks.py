"""Networks whose weights the user gives: equal to the public implementations, and strict about
files."""

import pytest
import torch
from safetensors.torch import save_file

from given_networks import clip_model
from safelight.errors import BadInput
from safelight.features import clip, dinov2, inception


def pictures(side=64, batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand(batch, 3, 8, 8, generator=generator) * 2 - 1
    return torch.nn.functional.interpolate(small, (side, side), mode="bilinear")


def dino(folder, registers=0, gated=False):
    """transformers' network with random weights, and the file of it."""
    transformers = pytest.importorskip("transformers")
    shape = {"hidden_size": 64, "num_hidden_layers": 6, "num_attention_heads": 2, "mlp_ratio": 2}
    shape |= {"image_size": 70, "patch_size": 14, "use_swiglu_ffn": gated}
    if registers:
        config = transformers.Dinov2WithRegistersConfig(**shape, num_register_tokens=registers)
        network = transformers.Dinov2WithRegistersModel(config)
    else:
        network = transformers.Dinov2Model(transformers.Dinov2Config(**shape))
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    network.save_pretrained(folder / "dino")
    return network.eval(), folder / "dino" / "model.safetensors"


@pytest.mark.parametrize(("registers", "gated"), [(0, False), (3, False), (0, True)])
def test_dinov2_is_that_of_transformers(tmp_path, registers, gated):
    theirs, path = dino(tmp_path, registers, gated)
    network = dinov2.Config(str(path), heads=2).build()
    images = pictures(224)
    mean, deviation = (torch.tensor(one).view(3, 1, 1) for one in (dinov2.MEAN, dinov2.DEVIATION))
    with torch.no_grad():
        answer = theirs((((images + 1) / 2) - mean) / deviation, output_hidden_states=True)
        torch.testing.assert_close(
            network.vector(images), answer.pooler_output, rtol=1e-4, atol=1e-4
        )
        maps = network.maps(images)
    assert [one.shape for one in maps] == [(2, 64, 16, 16)] * 5
    patches = answer.hidden_states[-1][:, -256:].transpose(1, 2).reshape(2, 64, 16, 16)
    torch.testing.assert_close(maps[-1], patches, rtol=1e-4, atol=1e-3)
    assert network.name == "dinov2-vit-64-14"


def test_dinov2_takes_the_names_of_its_authors(tmp_path):
    _, path = dino(tmp_path)
    network = dinov2.Config(str(path), heads=2).build()
    original = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert "blocks.5.attn.qkv.weight" in original
    assert "blocks.0.ls1.gamma" in original
    save_file(original | {"mask_token": torch.zeros(1, 64)}, tmp_path / "original.safetensors")
    again = dinov2.Config(str(tmp_path / "original.safetensors"), heads=2).build()
    assert torch.equal(again.vector(pictures()), network.vector(pictures()))
    del original["blocks.5.ls2.gamma"]
    save_file(original, tmp_path / "less.safetensors")
    with pytest.raises(BadInput, match=r"as it was published: .*blocks\.5\.ls2\.gamma"):
        dinov2.Config(str(tmp_path / "less.safetensors"), heads=2).build()
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(BadInput, match="is not DINOv2: wanted its tensors cls_token"):
        dinov2.Config(str(tmp_path / "other.safetensors")).build()


def drawn_inception(folder):
    """Inception with weights from formulas, by sorted names: any machine draws them alike."""
    path = folder / "inception.safetensors"
    with torch.device("meta"):
        layers = torch.nn.ModuleDict(inception._layers())
        shapes = {name: tensor.shape for name, tensor in layers.state_dict().items()}
    shapes |= {"fc.weight": torch.Size([1008, 2048]), "fc.bias": torch.Size([1008])}
    tracked = {
        name.replace("running_mean", "num_batches_tracked"): torch.Size([])
        for name in shapes
        if name.endswith("running_mean")
    }
    tensors = {}
    for number, (name, shape) in enumerate(sorted({**shapes, **tracked}.items())):
        if name in tracked:
            tensors[name] = torch.tensor(0)
            continue
        i = torch.arange(shape.numel(), dtype=torch.float64)
        value = torch.sin(i * 1.37 + 0.01 * i * i % 7 + number).reshape(shape)
        if name.endswith(("running_var", "bn.weight")):
            value = 1 + 0.3 * value
        else:
            value = value * ((3.0 / shape[1:].numel()) ** 0.5 if len(shape) == 4 else 0.1)
        tensors[name] = value.float()
    save_file(tensors, path)
    return path, tensors


# FeatureExtractorInceptionV3 of torch-fidelity 0.4.0 returned these for the weights of
# ``drawn_inception`` and the picture below, 1 December 2026: the first four pooled features, the
# mean and the norm of all. It has 566 tensors, of 23,850,960 parameters and 34,432 statistics.
POOLED = {
    0: ([0.02847309224, 0.19910353422, 0.47305765748, 0.07111587375], 0.26014896508, 2.79333250410),
    1: ([0.14559678733, 0.08656016737, 0.69687038660, 0.34702205658], 0.28623643368, 5.33307615870),
    3: ([0.0, 0.07202181220, 0.0, 0.02221165597], 0.08774585032, 4.18237044723),
}
VECTOR = ([0.0, 0.37674823403, 0.00670174602, 0.00195809244], 0.08387312492, 6.26402449184)


def test_inception_is_that_of_torch_fidelity(tmp_path):
    path, tensors = drawn_inception(tmp_path)
    assert len(tensors) == 566
    network = inception.Config(str(path)).build()
    assert sum(one.numel() for one in network.parameters()) == 23_850_960
    assert sum(one.numel() for one in network.buffers()) == 34_432
    y, x = torch.meshgrid(torch.arange(299.0), torch.arange(299.0), indexing="ij")
    colours = [(x * 3 + y) % 256, (x + y * 2) % 256, (x * y / 50) % 256]
    images = torch.stack(colours).to(torch.uint8)[None].float() / 127.5 - 1
    with torch.no_grad():
        found = network.vector(images)[0]
        # theirs pools 64 and 192 once more, ours shows them before that
        maps = network.maps(((images + 1) * 127.5 - 128) / 128)
    assert_close(found, VECTOR)
    for number, wanted in POOLED.items():
        x = torch.nn.functional.max_pool2d(maps[number], 3, 2) if number < 2 else maps[number]
        assert_close(x.mean((2, 3))[0], wanted)
    assert [one.shape[1] for one in maps] == [64, 192, 288, 768, 2048]
    large = network.vector(pictures(150, 1))
    assert large.shape == (1, 2048)


def assert_close(found, wanted):
    first, mean, norm = wanted
    assert found[:4].tolist() == pytest.approx(first, abs=1e-4)
    assert float(found.double().mean()) == pytest.approx(mean, rel=1e-4)
    assert float(found.double().norm()) == pytest.approx(norm, rel=1e-4)


def test_other_inceptions_are_refused(tmp_path):
    save_file({"AuxLogits.conv0.conv.weight": torch.zeros(1)}, tmp_path / "vision.safetensors")
    with pytest.raises(BadInput, match="is torchvision's Inception, whose features are others"):
        inception.Config(str(tmp_path / "vision.safetensors")).build()
    save_file({"fc.bias": torch.zeros(1000)}, tmp_path / "other.safetensors")
    with pytest.raises(BadInput, match=r"is not Inception v3 for FID: .*fc\.bias"):
        inception.Config(str(tmp_path / "other.safetensors")).build()


@pytest.mark.parametrize("vision_only", [False, True])
def test_clip_is_that_of_transformers(tmp_path, vision_only):
    theirs, path = clip_model(tmp_path, vision_only)
    network = clip.Config(str(path)).build()
    images = pictures(56)
    pixels = clip.clip_vision.preprocess(images, 56)
    with torch.no_grad():
        if vision_only:
            wanted = theirs(pixels).image_embeds
        else:
            answer = theirs.vision_model(pixels)
            wanted = theirs.visual_projection(answer.pooler_output)
        torch.testing.assert_close(network.vector(images), wanted, rtol=1e-4, atol=1e-4)
    assert [one.shape for one in network.maps(images)] == [(2, 64, 4, 4)] * 5
    assert network.name == "clip-vit-64-14"


def test_clip_s_texts_are_those_of_transformers(tmp_path):
    theirs, path = clip_model(tmp_path)
    network = clip.Config(str(path)).build()
    texts = [[49406, 320, 3240, 49407], [49406, 736, 49407]]
    with torch.no_grad():
        for ids in texts:
            state = theirs.text_model(torch.tensor([ids])).pooler_output
            wanted = theirs.text_projection(state)[0]
            torch.testing.assert_close(network.text_vector([ids])[0], wanted, rtol=1e-4, atol=1e-4)
    cut = network.text_vector([[49406, *[320] * 100, 49407]])
    torch.testing.assert_close(cut, network.text_vector([[49406, *[320] * 75, 49407]]))


def test_clip_without_what_is_needed_says_so(tmp_path):
    _, path = clip_model(tmp_path, vision_only=True)
    with pytest.raises(BadInput, match="holds no text encoder; name a file of CLIPModel"):
        clip.Config(str(path)).build().text_vector([[49406, 49407]])
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(BadInput, match="is not CLIP in the names of transformers"):
        clip.Config(str(tmp_path / "other.safetensors")).build()
