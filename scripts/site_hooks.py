"""MkDocs hooks: README.md as the home page, and links into the source as reference links.

On a page, ``[`name`](../src/safelight/room/file.py#L12)`` points at a line, which is what people
want in an editor or a code host. The site has no source, but a page for each module, so the same
link goes to the definition's entry there (of a private name to its module). Of a link to any other
file outside ``docs`` the text stays.
"""

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)")
SOURCE = re.compile(r"(?:\.\./)?src/(safelight/[\w/]+)\.py(#L\d+)?")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the home page, made of README.md."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    files.append(File.generated(config, "index.md", content=home(text)))
    return files


def on_page_markdown(markdown: str, page: Page, **rest: Any) -> str:
    """Point a page's links at what the site holds; generated pages of the reference stay."""
    if page.file.src_uri.startswith("reference/"):
        return markdown
    return LINK.sub(link, markdown)


def home(text: str) -> str:
    """README.md as a page that lies in ``docs``."""
    text = re.sub(r"(\]\()docs/", r"\1", text)
    return re.sub(
        r"(\]\()(?=(?:src|LICENSE|CHANGELOG|CONTRIBUTING|recipes|scripts))", r"\1../", text
    )


def link(match: re.Match[str]) -> str:
    """One link as the site can follow it."""
    text, target = match[1], match[2]
    source = SOURCE.fullmatch(target)
    if source is None:
        return text if target.startswith("../") else match[0]
    module = source[1].replace("/", ".").removesuffix(".__init__")
    name = text.strip("`")
    private = any(part.startswith("_") for part in name.split("."))
    return f"[{text}][{module}.{name}]" if source[2] and not private else f"[{text}][{module}]"
