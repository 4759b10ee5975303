"""What is not asked for is not imported, in fresh processes."""

import json
import subprocess
import sys

import pytest

from recorded import Recording

MOST = 101
"""Modules of ours, packages included, that ``safelight generate`` may import with the stickers."""

CODE = """
import sys
from safelight.cli import main
sys.argv = ["safelight", "generate", "fox", "--steps", "1", "-o", sys.argv[1]]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print("modules", *sorted(m for m in sys.modules if m.split(".")[0] == "safelight"))
"""


def test_generate_imports_only_what_it_uses(tmp_path):
    path = tmp_path / "fox.png"
    command = [sys.executable, "-c", CODE, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert path.is_file()
    modules = done.stdout.splitlines()[-1].split()[1:]
    assert len(modules) <= MOST, "\n".join(modules)
    rooms = {name.split(".")[1] for name in modules if "." in name}
    assert not rooms & {"adapters", "attachments", "data", "evaluation", "features", "training"}
    used = {name.rpartition(".")[2] for name in modules if ".samplers." in name}
    assert used == {"predictor_corrector"}, used


def imported_by(code: str) -> set[str]:
    """The modules that a fresh process has imported after some code."""
    ask = f"import json, sys\n{code}\nprint(json.dumps(sorted(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    return set(json.loads(run.stdout.splitlines()[-1]))


def inspecting(path: object) -> str:
    return f"from safelight.inspection import inspect\ninspect({str(path)!r})"


@pytest.mark.parametrize(
    ("recording", "file"),
    [
        ("sd1", "model.safetensors"),
        ("flux-dev", "flux1-dev.safetensors"),
        ("sd3", "model.safetensors"),
        ("lora", "sd1-kohya.safetensors"),
    ],
)
def test_a_file_of_weights_is_inspected_without_torch(recording, file):
    modules = imported_by(inspecting(Recording(recording).file(file)))
    assert "torch" not in modules
    assert "safelight.model" not in modules


def test_a_picture_is_inspected_without_torch_and_layouts():
    modules = imported_by(inspecting(Recording("before-0.1").file("adapted.png")))
    assert "torch" not in modules
    assert not {name for name in modules if name.startswith("safelight.layouts")}


def test_a_file_is_inspected_with_the_layouts_of_its_network_only():
    modules = imported_by(inspecting(Recording("flux-dev").file("flux1-dev.safetensors")))
    layouts = {name for name in modules if name.startswith("safelight.layouts.")}
    assert "safelight.layouts.flux.original" in layouts
    assert "safelight.layouts.unet.ldm" not in layouts


def test_an_embedded_model_is_loaded_without_what_it_is_not():
    """Neither the hub nor layouts of other programs nor attachments."""
    modules = imported_by("import safelight\nsafelight.load('stickers', 'cpu', 'fp32')")
    assert "huggingface_hub" not in modules
    unused = ("layouts", "attachments", "adapters", "checkpoints.hub", "checkpoints.plan")
    prefixes = tuple(f"safelight.{name}" for name in unused)
    assert not {name for name in modules if name.startswith(prefixes)}
