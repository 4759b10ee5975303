"""Pictures as prompts: every kind of adapter equals diffusers, and a scale of 0 has no effect."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from adapters.image_prompts import (
    EYE,
    KINDS,
    READS,
    SHAPE,
    adapter_file,
    eye_file,
    given,
    small_model,
)
from recorded import difference, error
from safelight import save
from safelight.adapters.lora import Merged
from safelight.attachments.embeddings import add_embeddings_from
from safelight.attachments.image_prompts import face_lora, with_image_prompt
from safelight.attachments.lora_files import adaptable_parts
from safelight.checkpoints.assembly import build_part
from safelight.checkpoints.parts import find_parts
from safelight.conditioners import text_readers
from safelight.denoisers.unet.config import Config, Norm
from safelight.errors import BadInput
from safelight.layouts.unet import diffusers as diffusers_unet
from safelight.model import LatentDiffusion
from safelight.types.networks import Prompt

NAMES = {"vector": "image_vector", "states": "image_states", "face": "face_vector"}


@pytest.fixture
def model():
    return small_model()


@pytest.fixture
def file(tmp_path):
    return adapter_file("single", tmp_path)


@torch.no_grad()
def answer(model, prompts, noisy, negative=False):
    conditioner = model.conditioner
    condition = conditioner.null_condition(prompts) if negative else conditioner(prompts)
    return model.denoiser(noisy, torch.tensor([3.0, 801.0]), condition)


def peer(model, *files):
    """The same U-Net in diffusers, with these adapters."""
    diffusers = pytest.importorskip("diffusers")
    layout = diffusers_unet.LAYOUTS[0]
    said = dict(layout.describe(SHAPE))
    assert said.pop("_class_name") == "UNet2DConditionModel"
    made = diffusers.UNet2DConditionModel(**said)
    made.load_state_dict(dict(layout.table(SHAPE).to_theirs(model.denoiser.state_dict())))
    states = []
    for file in files:
        parts = {part: {} for part in ("image_proj", "ip_adapter")}
        for name, tensor in load_file(file).items():
            part, _, rest = name.partition(".")
            parts[part][rest] = tensor
        states.append(parts)
    made._load_ip_adapter_weights(states, low_cpu_mem_usage=False)
    return made


def weigh(peer, *scales):
    for processor in peer.attn_processors.values():
        if "IPAdapter" in type(processor).__name__:
            processor.scale = list(scales)


def shown_to(peer, number, kind, prompts):
    """The input of diffusers for one adapter; states are set on its projection beforehand."""
    seen = [
        torch.stack([one.given[NAMES[sight]] for one in prompts])[:, None] for sight in READS[kind]
    ]
    if kind == "face-plus":
        peer.encoder_hid_proj.image_projection_layers[number].clip_embeds = seen[0]
    return seen[-1]


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_equals_the_peer_library_with_the_same_weights(kind, model, tmp_path):
    file = adapter_file(kind, tmp_path)
    other = peer(model, file)
    noisy = torch.randn(2, 4, 8, 12)
    prompts = [Prompt(text, given(kind, row)) for row, text in enumerate(("a fox", "an owl"))]
    text = model.conditioner(prompts).tokens.values
    told = {"image_embeds": [shown_to(other, 0, kind, prompts)]}
    for scale in (1.0, 0.6):
        weigh(other, scale)
        want = other(noisy, torch.tensor([3.0, 801.0]), text, added_cond_kwargs=told).sample
        assert error(answer(with_image_prompt(model, file, scale), prompts, noisy), want) < 1e-5
    if kind == "face-plus":
        other.encoder_hid_proj.image_projection_layers[0].shortcut = True
        want = other(noisy, torch.tensor([3.0, 801.0]), text, added_cond_kwargs=told).sample
        second = with_image_prompt(model, file, scale, hints={"shortcut": "yes"})
        assert error(answer(second, prompts, noisy), want) < 1e-5
    plain = answer(model, prompts, noisy)
    assert difference(want, plain) > 0.01
    assert error(answer(with_image_prompt(model, file, 0.0), prompts, noisy), plain) < 1e-6


@torch.no_grad()
def test_several_at_once_equal_the_peer_library_each_at_its_scale(model, tmp_path):
    kinds, scales = ("single", "plus", "face-plus"), (0.7, 0.4, 1.1)
    files = [adapter_file(kind, tmp_path) for kind in kinds]
    other = peer(model, *files)
    weigh(other, *scales)
    noisy = torch.randn(2, 4, 8, 12)
    shown = [
        {key: one for kind in kinds for key, one in given(kind, row).items()} for row in range(2)
    ]
    prompts = [Prompt("a fox", one) for one in shown]
    told = {
        "image_embeds": [
            shown_to(other, number, kind, prompts) for number, kind in enumerate(kinds)
        ]
    }
    text = model.conditioner(prompts).tokens.values
    want = other(noisy, torch.tensor([3.0, 801.0]), text, added_cond_kwargs=told).sample
    adapted = model
    for file, scale in zip(files, scales, strict=True):
        adapted = with_image_prompt(adapted, file, scale)
    assert error(answer(adapted, prompts, noisy), want) < 1e-5


@torch.no_grad()
def test_a_lora_of_a_face_equals_the_peers_and_goes_to_the_bit(model, tmp_path):
    """The peer needs one more library to merge it, so its part is laid upon the weights by hand."""
    file = adapter_file("face", tmp_path, lora=True)
    other, weights = peer(model, file), load_file(file)
    for number, name in enumerate(
        other.attn_processors
    ):  # the order of the names that its loader counts by
        attention = other.get_submodule(name.removesuffix(".processor"))
        for which, layer in zip(["q", "k", "v", "out"], _layers(attention), strict=True):
            path = f"ip_adapter.{number}.to_{which}_lora"
            layer.weight += weights[f"{path}.up.weight"] @ weights[f"{path}.down.weight"]
    noisy = torch.randn(2, 4, 8, 12)
    prompts = [Prompt(text, given("face", row)) for row, text in enumerate(("a fox", "an owl"))]
    text = model.conditioner(prompts).tokens.values
    told = {"image_embeds": [shown_to(other, 0, "face", prompts)]}
    want = other(noisy, torch.tensor([3.0, 801.0]), text, added_cond_kwargs=told).sample
    before = {name: one.clone() for name, one in model.denoiser.state_dict().items()}
    adapted, merged = with_image_prompt(model, file), Merged(adaptable_parts(model))
    merged.use({face_lora(file, adapted): 1.0})
    assert error(answer(adapted, prompts, noisy), want) < 1e-5
    merged.clear()
    assert all(torch.equal(one, before[name]) for name, one in model.denoiser.state_dict().items())
    assert face_lora(adapter_file("plus", tmp_path), model) is None


def _layers(attention):
    return attention.to_q, attention.to_k, attention.to_v, attention.to_out[0]


@torch.no_grad()
def test_without_a_picture_the_vector_is_zero_and_the_negative_has_none(model, file):
    adapted = with_image_prompt(model, file)
    noisy = torch.randn(2, 4, 8, 12)
    bare = [Prompt("a fox"), Prompt("an owl")]
    zeros = [Prompt(one.text, {"image_vector": torch.zeros(10)}) for one in bare]
    seen = [
        Prompt(one.text, {"image_vector": torch.ones(2, 10), "image_scale": 0.5}) for one in bare
    ]
    assert torch.equal(answer(adapted, bare, noisy), answer(adapted, zeros, noisy))
    assert difference(answer(adapted, seen, noisy), answer(adapted, bare, noisy)) > 0.01
    kept = adapted.conditioner.null_condition(seen, ["text"]).streams[0]
    assert torch.equal(kept.values, adapted.conditioner(seen).streams[0].values)
    taken = adapted.conditioner.null_condition(seen).streams[0]
    assert torch.equal(taken.values, adapted.conditioner(bare).streams[0].values)
    negative = [Prompt("", {**one.given, "negative": True}) for one in seen]
    assert torch.equal(adapted.conditioner(negative).streams[0].values, taken.values)
    twice = with_image_prompt(adapted, file)
    assert len(twice.conditioner(bare).streams) == 2
    assert answer(twice, seen, noisy).isfinite().all()


@torch.no_grad()
def test_no_picture_is_what_the_eye_sees_of_none(model, tmp_path):
    """As the peer has it: states of zeros in place of pixels, a face of zeros."""
    adapted = with_image_prompt(
        model, adapter_file("face-plus", tmp_path), encoder=eye_file(tmp_path)
    )
    conditioner = adapted.conditioner
    empty = {
        "image_states": conditioner.image_encoder.null_states()[0],
        "face_vector": torch.zeros(12),
    }
    pictures = {"image": 2 * torch.rand(2, 3, 40, 30) - 1, "face_vector": torch.ones(2, 12)}
    nothing = conditioner.null_condition([Prompt("a fox", pictures)]).streams[0].values
    assert torch.equal(nothing, conditioner([Prompt("a fox", empty)]).streams[0].values)
    assert conditioner([Prompt("a fox", pictures)]).streams[0].values.shape == (
        1,
        8,
        24,
    )  # 4 tokens a picture


@torch.no_grad()
def test_what_is_shown_holds_for_prompts_that_give_nothing(model, file, tmp_path):
    image_encoder, images = eye_file(tmp_path), 2 * torch.rand(2, 3, 40, 30) - 1
    asked = with_image_prompt(model, file, encoder=image_encoder)
    bound = with_image_prompt(model, file, encoder=image_encoder, inputs={"image": images})
    want = asked.conditioner([Prompt("a fox", {"image": images})]).streams[0].values
    got = bound.conditioner([Prompt("a fox"), Prompt("an owl")]).streams[0].values
    assert error(got, want.expand(2, -1, -1)) < 1e-6
    other = Prompt("a fox", {"image_vector": torch.ones(2, 10)})
    assert torch.equal(
        bound.conditioner([other]).streams[0].values, asked.conditioner([other]).streams[0].values
    )


@torch.no_grad()
def test_the_model_beneath_stays_as_it_was(model, file, tmp_path):
    """Hot swap: another adapter, and none, without a copy of a weight."""
    noisy, prompts = torch.randn(2, 4, 8, 12), [Prompt("a fox"), Prompt("an owl")]
    before, weights = answer(model, prompts, noisy), {**model.denoiser.state_dict()}
    for one in (file, adapter_file("face", tmp_path)):
        adapted = with_image_prompt(model, one)
        assert adapted.denoiser is model.denoiser
        assert difference(answer(adapted, prompts, noisy), before) > 0.01
    assert torch.equal(answer(model, prompts, noisy), before)
    assert all(
        weights[name] is one or torch.equal(weights[name], one)
        for name, one in model.denoiser.state_dict().items()
    )


def test_embeddings_and_long_prompts_still_reach_the_text_encoders(model, file, tmp_path):
    adapted = with_image_prompt(model, file)
    save_file({"<toy>": torch.ones(24)}, tmp_path / "toy.safetensors")
    assert add_embeddings_from(adapted, tmp_path / "toy.safetensors") == ["<toy>"]
    (reader,) = text_readers(adapted.conditioner)
    assert reader is model.conditioner
    assert reader.truncated(Prompt("fox " * 700))


def test_what_a_prompt_gives_and_the_adapter_cannot_read_is_refused(model, tmp_path):
    made = {
        kind: with_image_prompt(model, adapter_file(kind, tmp_path)).conditioner for kind in READS
    }
    image = torch.zeros(3, 30, 30)
    for kind, shown, message in (
        (
            "single",
            {"image_vector": torch.ones(9)},
            r"image_vector: this image prompt reads vectors of 10 .* \(9,\)",
        ),
        (
            "single",
            {"image": image},
            r"has no image encoder: add .* \(one that makes a vector of 10 numbers",
        ),
        (
            "plus",
            {"image_states": torch.ones(32)},
            r"image_states: .* reads states of 32 numbers, got the shape \(32,\)",
        ),
        ("plus", {}, "needs its image encoder even without a picture: add the image encoder"),
        (
            "face",
            {"image": image},
            "reads the vector of a face, not a picture: no network that finds faces is here",
        ),
        (
            "face-plus",
            {"face_vector": torch.ones(12)},
            "reads a picture: pass image, or image_states",
        ),
        (
            "face-plus",
            {**given("face-plus"), "face_vector": torch.ones(2, 12)},
            "as many faces as pictures",
        ),
    ):
        with pytest.raises(BadInput, match=message):
            made[kind]([Prompt("", shown)])
    with pytest.raises(BadInput, match=r"as many pictures each, got \[1, 2\]"):
        made["single"]([Prompt(), Prompt("", {"image_vector": torch.ones(2, 10)})])
    seeing = with_image_prompt(
        model, tmp_path / "ip-adapter-single.safetensors", encoder=eye_file(tmp_path)
    )
    with pytest.raises(BadInput, match=r"image: wanted a tensor \(3, h, w\) .* got \(1, 30, 30\)"):
        seeing.conditioner([Prompt("", {"image": image[:1]})])


def test_a_file_for_another_model_is_refused_in_a_sentence(model, file, tmp_path):
    with pytest.raises(BadInput, match="is for a U-Net or FLUX with text encoders"):
        with_image_prompt(LatentDiffusion(), file)
    other = tmp_path / "other.safetensors"
    save_file({"latents": torch.ones(2)}, other)
    with pytest.raises(BadInput, match=r"other\.safetensors: no known part has names like latents"):
        with_image_prompt(model, other)
    with pytest.raises(
        BadInput, match=r"eye\.safetensors holds image_encoder; wanted an image prompt"
    ):
        with_image_prompt(model, eye_file(tmp_path))
    weights = load_file(file)
    stranger = {
        name.replace("image_proj.proj", "image_proj.layers.0"): one for name, one in weights.items()
    }
    save_file(stranger, other)
    with pytest.raises(BadInput, match=r"a kind that is not known: layers\.0\.bias"):
        with_image_prompt(model, other)
    for shape, message in (
        (
            Config(levels=SHAPE.levels, blocks=1, text_width=32, norm=Norm(8)),
            "a text 24 wide; this one .* a text 32",
        ),
        (
            Config(levels=SHAPE.levels, blocks=2, middle=2, text_width=24, norm=Norm(8)),
            "11 attentions .* this one has 17",
        ),
    ):
        with pytest.raises(BadInput, match=message):
            with_image_prompt(
                LatentDiffusion(denoiser=shape.build(), conditioner=model.conditioner), file
            )
    save_file({name: one for name, one in weights.items() if name != "image_proj.norm.bias"}, other)
    with pytest.raises(BadInput, match=r"image_proj\.norm\.bias is missing"):
        with_image_prompt(model, other)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_comes_back_to_the_bit_and_a_nested_one_is_the_same(kind, tmp_path):
    file = adapter_file(kind, tmp_path)
    weights, nested = load_file(file), {"image_proj": {}, "ip_adapter": {}}
    for name, one in weights.items():
        part, _, rest = name.partition(".")
        nested[part][rest] = one
    torch.save(nested, tmp_path / "nested.bin")
    for path in (file, tmp_path / "nested.bin"):
        (piece,), _ = find_parts([path], {})
        again = dict(piece.layout.table(piece.config).to_theirs(build_part(piece).state_dict()))
        assert again.keys() == weights.keys()
        assert all(torch.equal(again[name], weights[name]) for name in again)


@torch.no_grad()
def test_an_eye_is_taken_from_the_model_or_from_beside_the_adapter(model, file, tmp_path):
    given = [Prompt("a fox", {"image": 2 * torch.rand(3, 28, 28) - 1})]
    image_encoder = build_part(find_parts([eye_file(tmp_path, name="mine.safetensors")], {})[0][0])
    want = (
        with_image_prompt(replace(model, image_encoder=image_encoder), file)
        .conditioner(given)
        .streams[0]
        .values
    )
    with pytest.raises(BadInput, match="has no image encoder"):
        with_image_prompt(model, file).conditioner(given)
    eye_file(tmp_path, name="clip_vision_toy.safetensors")
    assert torch.equal(with_image_prompt(model, file).conditioner(given).streams[0].values, want)
    narrow = eye_file(tmp_path, replace(EYE, projection=9), "narrow.safetensors")
    with pytest.raises(
        BadInput, match=r"narrow\.safetensors makes vectors of 9 .* needs a vector of 10 numbers"
    ):
        with_image_prompt(model, file, encoder=narrow)
    said = with_image_prompt(
        model, file, encoder=tmp_path / "mine.safetensors", hints={"image_encoder_heads": "4"}
    )
    assert said.conditioner.image_encoder.config.heads == 4
    with pytest.raises(BadInput, match="is no image encoder that is known"):
        with_image_prompt(model, file, encoder=file)
    save(
        LatentDiffusion(image_encoder=EYE.build()),
        tmp_path / "models" / "image_encoder",
        "diffusers",
    )
    (tmp_path / "sdxl_models").mkdir()
    published = with_image_prompt(
        model, file.rename(tmp_path / "sdxl_models" / "ip-adapter_sdxl_vit-h.safetensors")
    )
    assert published.conditioner.image_encoder.config.heads == 2  # its folder says so
    plus = with_image_prompt(model, adapter_file("plus", tmp_path))
    assert plus.conditioner(given).streams[0].values.shape == (1, 6, 24)
