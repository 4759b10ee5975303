"""The running mean of weights, and a run's state in a file."""

import json

import pytest
import torch
from torch import nn

from safelight.errors import BadInput, CannotSave
from safelight.training.objective import Group
from safelight.training.optimisers import Adamw, Muon
from safelight.training.state import Ema, State


def test_the_running_mean_in_closed_form():
    weight = nn.Parameter(torch.tensor(0.0, dtype=torch.float64))
    ema = Ema({"w": weight}, 0.5)
    wanted = 0.0
    for update in range(20):
        with torch.no_grad():
            weight.fill_(update + 1.0)
        ema.update(update)
        keep = min(0.5, (1 + update) / (10 + update))
        wanted = keep * wanted + (1 - keep) * (update + 1)
    assert float(ema.mean["w"]) == pytest.approx(wanted, abs=1e-12)
    assert 18 < wanted < 20  # a mean of the last few: with decay 0.5 it lags by about one


def test_swapped_weights_are_the_average_and_come_back_exactly():
    weight = nn.Parameter(torch.randn(5, 5).to(memory_format=torch.contiguous_format))
    ema = Ema({"w": weight}, 0.9)
    ema.mean["w"].mul_(0.3)
    kept, address = weight.detach().clone(), weight.data_ptr()
    seen = []

    def judged():
        with ema.swapped():
            seen.append(weight.detach().clone())
            raise KeyError

    with pytest.raises(KeyError):
        judged()
    assert torch.equal(seen[0], ema.mean["w"])
    assert not torch.equal(seen[0], kept)
    assert torch.equal(weight, kept)
    assert weight.data_ptr() == address  # optimisers hold on to it


def state(config, seed=0):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 4, 70), nn.Linear(70, 64))
    net.to(memory_format=torch.channels_last)
    parameters = dict(net.named_parameters())
    return net, State(
        {"net": net},
        [Group("all", parameters)],
        {"all": config.build(parameters)},
        {"all": Ema(parameters, 0.9)},
    )


def update(net, made, number):
    images = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(number))
    net(images).square().mean().backward()
    made.optimisers["all"].step()
    made.optimisers["all"].zero_grad()
    made.ema["all"].update(number)


@pytest.mark.parametrize("config", [Adamw(decay=0.1), Muon(min_side=32)])
def test_a_state_is_restored_completely(config, tmp_path):
    net, made = state(config)
    for number in range(3):
        update(net, made, number)
    made.save(tmp_path / "3", 3, {"all/loss": [0.1, 0.2]})
    other_net, other = state(config, seed=1)
    assert other.load(tmp_path / "3") == (3, {"all/loss": [0.1, 0.2]})
    for number in range(3, 6):
        update(net, made, number)
        update(other_net, other, number)
    for name, value in net.state_dict().items():
        assert torch.equal(value, other_net.state_dict()[name]), name
    for name, value in made.ema["all"].mean.items():
        assert torch.equal(value, other.ema["all"].mean[name]), name


def test_an_incomplete_checkpoint_is_refused_in_one_sentence(tmp_path):
    _, made = state(Adamw())
    made.save(tmp_path / "3", 3, {})
    file = tmp_path / "3" / "state.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(
        BadInput, match=r"cannot be read .* remove it to resume from the one before"
    ):
        made.load(tmp_path / "3")
    made.save(tmp_path / "4", 4, {})
    for broken in ("{", "[]", json.dumps({"update": None}), json.dumps({})):
        (tmp_path / "4" / "state.json").write_text(broken)
        with pytest.raises(BadInput, match="cannot be read"):
            made.load(tmp_path / "4")


def test_weights_of_another_network_are_refused_with_their_names(tmp_path):
    _, made = state(Adamw())
    made.save(tmp_path / "3", 3, {})
    other = nn.Sequential(nn.Linear(2, 2))
    strange = State({"net": other}, [], {}, {})
    with pytest.raises(BadInput, match=r"2\.bias is not expected"):
        strange.load(tmp_path / "3")


def test_a_full_disk_leaves_the_earlier_checkpoint_unchanged(tmp_path, monkeypatch):
    import safelight.training.state as room

    _, made = state(Adamw())
    made.save(tmp_path / "3", 3, {})
    before = (tmp_path / "3" / "state.safetensors").read_bytes()

    def full(tensors, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(room, "write_tensors", full)
    with pytest.raises(CannotSave, match="No space left"):
        made.save(tmp_path / "3", 4, {})
    assert [path.name for path in tmp_path.iterdir()] == ["3"]
    assert (tmp_path / "3" / "state.safetensors").read_bytes() == before
