"""What is not asked for is not imported: the modules of ours that making one picture needs."""

import subprocess
import sys

MOST = 97
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
