"""What the site adds to the pages of ``docs/``: model cards, changelog, notebooks, and links that hold there.

The pages are written to be read in the repository as well, where a link may lead to any file.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "cards/arrhythmia.md": "ibt_deploy/bundles/arrhythmia/card.md",
    "cards/sepsis.md": "ibt_deploy/bundles/sepsis/card.md",
}
"""Pages of the site, and the files of the repository that they show."""

ASSETS = {
    "cards/arrhythmia-curves.svg": "ibt_deploy/bundles/arrhythmia/curves.svg",
    "cards/sepsis-curves.svg": "ibt_deploy/bundles/sepsis/curves.svg",
}
LINK = re.compile(r"\[([^\]]+)\]\((?!https?:|#|mailto:)([^)\s#]+)(#[^)]*)?\)")
ROLE = re.compile(r":(?:func|class|mod|data|meth|attr|exc):<code>~?([^<]+)</code>")


def on_config(config: Any) -> Any:
    """Put pages that the navigation forgot at the end of the guides."""
    listed = json.dumps(config["nav"])
    guides = next(section["Guides"] for section in config["nav"] if "Guides" in section)
    pages = sorted(path.name for path in (ROOT / "docs").glob("*.md"))
    guides[-1:-1] = [page for page in pages if f'"{page}"' not in listed]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made from files elsewhere in the repository."""
    for page, source in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        name = Path(page).stem
        files.append(
            File.generated(config, page, content=text.replace("(curves.svg)", f"({name}-curves.svg)"))
        )
    for asset, source in ASSETS.items():
        files.append(File.generated(config, asset, content=(ROOT / source).read_bytes()))
    for notebook in sorted((ROOT / "examples" / "notebooks").glob("*.ipynb")):
        files.append(File.generated(config, f"notebooks/{notebook.stem}.md", content=_notebook(notebook)))
    return files


def on_page_markdown(markdown: str, page: Any, files: Files, **_: Any) -> str:
    """Point links at pages of the site; a link to any other file of the repository becomes its name."""
    here = _origin(page.file.src_uri)

    def replaced(match: re.Match[str]) -> str:
        text, target, anchor = match.group(1), match.group(2), match.group(3) or ""
        if files.get_file_from_path(_relative(page.file.src_uri, target)) is not None:
            return match.group(0)
        path = (ROOT / here).parent.joinpath(target).resolve()
        for file in files:
            if path == ROOT / _origin(file.src_uri):
                up = "../" * page.file.src_uri.count("/")
                return f"[{text}]({up}{file.src_uri}{anchor})"
        return text if path.exists() else match.group(0)

    return LINK.sub(replaced, markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Show roles of docstrings as the names that they mean."""
    return ROLE.sub(lambda match: f"<code>{match.group(1).rpartition('.')[2]}</code>", html)


def _origin(uri: str) -> str:
    """The file of the repository that a page comes from."""
    if uri.startswith("notebooks/"):
        return f"examples/{uri.removesuffix('.md')}.ipynb"
    return PAGES.get(uri, f"docs/{uri}")


def _relative(uri: str, target: str) -> str:
    parts: list[str] = []
    for part in (*uri.split("/")[:-1], *target.split("/")):
        if part == ".." and parts:
            parts.pop()
        elif part not in (".", ".."):
            parts.append(part)
    return "/".join(parts)


def _notebook(path: Path) -> str:
    """A notebook as Markdown: its texts, and its code without what it printed."""
    cells = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        cells.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
    cells.insert(1, f"*This page is the notebook `examples/notebooks/{path.name}`.*")
    return "\n\n".join(cells) + "\n"
