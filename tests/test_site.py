"""The documentation builds as a site, warnings being errors (the extra ``docs``)."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LACKING = importlib.util.find_spec("mkdocs") is None


@pytest.mark.slow
@pytest.mark.skipif(LACKING, reason="the extra docs is not installed")
def test_the_site_builds_without_a_warning(tmp_path):
    run = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "-q", "--strict", "-d", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    home = (tmp_path / "index.html").read_text("utf-8")
    assert "Two commands" in home
    process = (tmp_path / "reference/safelight/diffusion/process/index.html").read_text("utf-8")
    assert 'id="safelight.diffusion.process.Process.denoise"' in process
    assert 'href="../reference/' in (tmp_path / "tour/index.html").read_text("utf-8")


def test_each_page_of_docs_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text("utf-8").partition("\nnav:")[2]
    for page in (ROOT / "docs").glob("*.md"):
        assert f": {page.name}\n" in navigation + "\n", page.name
