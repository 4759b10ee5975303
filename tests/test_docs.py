"""The pages: their links are right, their Python runs and their commands exist."""

import importlib.util
import re
import shlex
import tomllib
from pathlib import Path

import pytest

from safelight.config import Slot, read
from safelight.training.recipe import Recipe

ROOT = Path(__file__).parents[1]


def links():
    spec = importlib.util.spec_from_file_location("docs_links", ROOT / "scripts" / "docs_links.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


def test_every_variable_of_ours_is_on_the_page():
    page = (ROOT / "docs" / "environment.md").read_text("utf-8")
    sources = [path for room in ("src", "tests", "scripts") for path in (ROOT / room).rglob("*.py")]
    names = {
        name
        for path in sources
        for name in re.findall(r"""["'](SAFELIGHT_[A-Z_]+)""", path.read_text("utf-8"))
    }
    assert {"SAFELIGHT_CACHE", "SAFELIGHT_DEBUG"} <= names
    assert sorted(name for name in names if f"`{name}`" not in page) == []


def pages():
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_links_point_at_what_they_name():
    script = links()
    for page in script.pages():
        assert script.linked(page) == page.read_text("utf-8"), (
            f"{page.name} is stale: python scripts/docs_links.py"
        )
    assert len(script.LINK.findall((ROOT / "docs" / "tour.md").read_text("utf-8"))) > 30


def test_a_link_to_nothing_is_found(tmp_path):
    (tmp_path / "a.py").write_text("def here() -> None: ...\n")
    (tmp_path / "page.md").write_text("[`here`](a.py#L9) ")
    assert links().linked(tmp_path / "page.md") == "[`here`](a.py#L1) "
    (tmp_path / "page.md").write_text("[`gone`](a.py#L1)")
    with pytest.raises(KeyError):
        links().linked(tmp_path / "page.md")


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_files_that_a_page_links_to_exist(page):
    for target in re.findall(r"\]\(([^)#:]+)(?:#\w+)?\)", page.read_text("utf-8")):
        assert (page.parent / target).exists(), target


RUNS = [f"docs/{page}.md" for page in ("extending", "guidance", "prompts", "adapters")]


@pytest.mark.parametrize("page", ["README.md", *RUNS])
def test_python_on_a_page_runs(page):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text("utf-8"), re.S)
    assert blocks
    for block in blocks:
        exec(compile(block, page, "exec"), {"__name__": "page"})


def test_commands_in_the_readme_exist_with_their_options():
    from typer.main import get_command

    from safelight.cli import app

    commands = get_command(app).commands
    lines = re.findall(
        r"^(?:.*&& )?safelight (.*?)(?:\s+#.*)?$", (ROOT / "README.md").read_text("utf-8"), re.M
    )
    assert len(lines) >= 6
    for line in lines:
        verb, *words = shlex.split(line)
        known = {option for param in commands[verb].params for option in param.opts}
        assert {word for word in words if word.startswith("-")} <= known, line


def test_each_autoencoder_has_a_section_whose_tables_are_read():
    page = (ROOT / "docs" / "autoencoders.md").read_text("utf-8")
    kinds = Slot("autoencoders")
    assert sorted(re.findall(r"^## (.*)$", page, re.M)) == kinds.kinds()
    tables = [
        tomllib.loads(block)["objective"]["autoencoder"]
        for block in re.findall(r"```toml\n(.*?)```", page, re.S)
    ]
    assert [table["kind"] for table in tables] == ["kl", "vq", "dcae"]
    for table in tables:
        kinds.read(table)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "recipes").rglob("*.toml")), ids=lambda path: path.name
)
def test_recipes_are_whole(path):
    recipe = read(Recipe, tomllib.loads(path.read_text("utf-8")))
    assert recipe.title
    for source in (recipe.data, recipe.validation):
        assert source is None or not any(Path(path).is_absolute() for path in source.paths)
