"""Several processes give the weights, positions and run folder of one.

If one fails, all end.

Their gradients are sums in another order, so weights agree to rounding and not to the bit. Adam
would blow that up where a gradient is nothing but rounding (it divides by its size); here its
``eps`` is large enough not to.
"""

import signal
import socket
import time

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed import HashStore

from making import forked, go, metrics, recipe, tables, write_recipe
from safelight.data.examples import Order
from safelight.errors import BadInput
from safelight.training.parallel import Processes, _another_failed, process_group
from safelight.training.run import open_run


def port():
    """A port that is free; without sockets there is nothing to test."""
    try:
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            return one.getsockname()[1]
    except OSError as error:
        pytest.skip(f"no sockets: {error}")


def pair(*words, cache):
    """The command line twice, as ``torchrun`` starts it."""
    shared = {
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port()),
        "SAFELIGHT_CACHE": str(cache),
    }
    return [forked(*words, **shared, RANK=str(rank), LOCAL_RANK=str(rank)) for rank in range(2)]


def ended(processes):
    """The exit codes, and the lines that all have printed."""
    printed = [process.communicate(timeout=120) for process in processes]
    assert not any(out for out, _ in printed)
    return [process.returncode for process in processes], "".join(
        lines for _, lines in printed
    ).splitlines()


def state(folder):
    return load_file(sorted((folder / "checkpoints").iterdir())[-1] / "state.safetensors")


def assert_equal(ours, theirs):
    """Compare weights to 1e-6 of the largest of each tensor, and the optimiser's state to 1e-4.

    With a discriminator weights are compared to 1e-4, because logits and the ratio of two norms
    pass rounding on from update to update. In the optimiser's state the sign of an L1 gradient may
    flip where the difference rounds to the other side of zero. There is no feature network: flat
    shapes lie on the kinks of its pooling, where rounding changes its gradient.
    """
    assert ours.keys() == theirs.keys()
    weights = 1e-4 if any("discriminator" in name for name in theirs) else 1e-6
    for name, value in theirs.items():
        within = 1e-4 if name.startswith("optimiser/") else weights
        apart, largest = (ours[name].float() - value.float()).abs().max(), value.float().abs().max()
        assert apart <= within * largest + 1e-9, f"{name}: {apart} of {largest}"


ADVERSARIAL = {  # without accumulation: some values are computed for each micro-batch alone
    "loop__accumulate": 1,
    "objective__adversarial": {
        "discriminator": {"kind": "patch", "width": 8, "layers": 1, "norm": "actnorm"}
    },
}
CODES = {
    "kind": "vq",
    "width": 8,
    "multipliers": [1, 2],
    "blocks": 1,
    "groups": 4,
    "codebook": {"number": 16, "decay": 0.9},
}
STAGES = {
    "reconstruction": {},
    "denoising": {},
    "adversarial": ADVERSARIAL,
    "codes": {"objective__autoencoder": CODES},
}


@pytest.fixture
def tree(stage, pictures, tiny_folder):
    kind = stage if stage == "denoising" else "reconstruction"
    changes = {"loop__updates": 5, "loop__batch": 8, "loop__accumulate": 2} | STAGES[stage]
    made = tables(kind, pictures, tiny_folder, **changes)
    made["optimiser"] = {"kind": "adamw", "eps": 0.1}
    made["watch"]["write"] = 1
    made["framing"]["mirror"] = kind == "reconstruction"
    return made


def until_five(tree, tmp_path):
    """Two processes at work that know no end, past five updates."""
    tree["loop"]["updates"] = 100_000
    path = write_recipe(tmp_path / "shapes.toml", tree)
    processes = pair("train", path, "--run", tmp_path / "two", cache=tmp_path / "its-cache")
    until = time.monotonic() + 120
    while not (tmp_path / "two" / "checkpoints" / "0000005").exists():
        assert all(process.poll() is None for process in processes), ended(processes)
        assert time.monotonic() < until
        time.sleep(0.01)
    return processes


def assert_two_are_one(tree, tmp_path):
    """Two processes against one, and five updates later, after one has continued alone."""
    reached = int(open_run(tmp_path / "two").checkpoints[-1].name)
    tree["loop"]["updates"] = reached
    one = go(tmp_path / "one", recipe(tree))
    for updates in (reached, reached + 5):
        runs = [
            open_run(tmp_path / name, changes=(f"loop.updates={updates}",))
            for name in ("two", "one")
        ]
        if updates > reached:
            runs = [go(run.folder, run.recipe) for run in runs]
        assert_equal(*(state(run.folder) for run in runs))
    lines = [
        {line["update"]: line for line in metrics(run.folder) if "rate" in line}
        for run in (runs[0], one)
    ]
    assert max(lines[0]) == reached + 5
    for update in lines[0].keys() & lines[1].keys():
        assert lines[0][update] == pytest.approx(lines[1][update], rel=1e-4)
    assert [start["processes"] for start in runs[0].recall("origin")["starts"]] == [2, 1]


@pytest.mark.parametrize("stage", ["reconstruction", "adversarial", "codes"])
def test_stopping_one_process_stops_both_and_equals_one_process(tree, tmp_path):
    processes = until_five(tree, tmp_path)
    processes[1].send_signal(signal.SIGINT)
    codes, lines = ended(processes)
    reached = int(open_run(tmp_path / "two").checkpoints[-1].name)
    assert codes == [130, 130], lines
    assert lines == [f"saved at update {reached}; resume with: safelight train {tmp_path / 'two'}"]
    assert_two_are_one(tree, tmp_path)


@pytest.mark.parametrize("stage", ["denoising"])
def test_killing_one_process_ends_the_other_with_a_sentence(tree, tmp_path):
    processes = until_five(tree, tmp_path)
    processes[1].kill()
    codes, lines = ended(processes)
    assert codes == [1, -signal.SIGKILL]
    assert lines == [
        "error: another process of this run has ended, so this one ends too; the last checkpoint "
        "is kept."
    ]
    assert_two_are_one(tree, tmp_path)


def test_only_the_first_process_that_failed_prints_why():
    store = HashStore()
    assert [_another_failed(store) for _ in range(3)] == [False, True, True]


def test_a_batch_that_cannot_be_divided_is_refused():
    Processes(world=2).share(8, 4)
    with pytest.raises(
        BadInput, match=r"6 pictures cannot be divided among 2 processes of 2 .* a multiple of 4"
    ):
        Processes(world=2).share(6, 2)


@pytest.mark.parametrize("world", [1, 2, 4])
def test_the_processes_draw_the_positions_of_one(world):
    whole = Order(11, seed=2).batches(8, 16)
    shares = [Order(11, 2, rank, world).batches(8, 16) for rank in range(world)]
    for _ in range(3):
        positions, indices = next(whole)
        drawn = dict(pair for share in shares for pair in zip(*next(share), strict=True))
        assert drawn == dict(zip(positions, indices, strict=True))


def test_gradients_are_averaged_in_buckets_with_zeros_for_missing_ones(monkeypatch):
    """All-reduce as another process answers it: which gradients it has, then each bucket."""
    parameters = [torch.nn.Parameter(torch.zeros(size)) for size in ((2, 3), (4,), (1,), (5,))]
    parameters[0].grad = torch.full((2, 3), 2.0)
    parameters[1].grad = torch.full((4,), 1.0)
    theirs = [
        torch.tensor([1.0, 0.0, 0.0, 1.0]),
        torch.cat([torch.full((6,), 4.0), torch.zeros(4)]),
        torch.ones(5),
    ]
    monkeypatch.setattr("safelight.training.parallel.BUCKET", 10)
    monkeypatch.setattr(
        "safelight.training.parallel.dist.all_reduce", lambda tensor: tensor.add_(theirs.pop(0))
    )
    Processes(world=2).average(parameters)
    assert not theirs
    assert [None if p.grad is None else p.grad.unique().tolist() for p in parameters] == [
        [3.0],
        [0.5],
        None,
        [0.5],
    ]


def test_a_single_process_exchanges_nothing():
    alone, values = Processes(), torch.ones(3)
    assert alone.mean(values) is values
    assert alone.total(values) is values
    assert alone.means({"a": 0.1}) == {"a": 0.1}
    assert [alone.any(flag) for flag in (True, False)] == [True, False]
    with process_group() as processes:
        assert processes == alone


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE: wanted a number"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "MASTER_ADDR, MASTER"),
    ],
)
def test_an_incomplete_environment_is_refused(environment, message, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(BadInput, match=message), process_group():
        pass
