"""Make the embedded model from a finished run: bf16 weights, its card and its recipe.

Other files of the folder are kept.

python scripts/ship_stickers.py runs/stickers
python scripts/ship_stickers.py src/safelight/models/stickers    (a new card for the same weights)
"""

import argparse
import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import safelight
from safelight.checkpoints.locate import EMBEDDED
from safelight.settings import Settings

SUMMARY = (
    "Emoji from a prompt, 128 px. Name a thing and a style: 'flat emoji', 'glossy 3d emoji', "
    "'cartoon emoji with soft shading' or 'soft cartoon blob emoji'. A small model, trained for "
    "about four hours on one to two processor cores: it obeys some prompts "
    "recognisably and is vague about many."
)
LICENCE = (
    "Apache-2.0 (denoiser, text encoder); MIT (autoencoder: TAESD, Ollin Boer Bohan); data: see "
    "ATTRIBUTION.md"
)
SETTINGS = Settings(
    steps=12, sampler="unipc", spacing="beta", guidance=3.0
)  # docs/samplers.md says why


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    run = parser.parse_args().run
    model = safelight.load(run, precision="bf16")
    card = replace(
        model.card,
        name="stickers",
        summary=SUMMARY,
        licence=LICENCE,
        licences=(),
        settings=SETTINGS,
    )
    model = replace(model, card=card)
    target = EMBEDDED / "stickers"
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "stickers"
        safelight.save(model, made)
        for file in made.iterdir():
            shutil.copy(file, target / file.name)
    if run.resolve() != target.resolve():
        config = json.loads((run / "config.json").read_text(encoding="utf-8"))
        (target / "recipe.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    print(
        f"{target}: "
        f"{sum(file.stat().st_size for file in target.rglob('*') if file.is_file()) / 1e6:.1f} MB"
    )


if __name__ == "__main__":
    main()
