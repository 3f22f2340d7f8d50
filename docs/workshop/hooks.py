"""What the build of the site does besides mkdocs: it includes sections, runs code, draws figures, lists the names.

mkdocs calls the functions `on_...` at its events. Each hands its work to a module beside this one.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from includes import ROOT, expand_includes
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from reference_pages import write_reference
from runs import PageRuns, run_pages
from sketches import SKETCHES

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
IMAGES = sorted((ROOT / "examples" / "images").glob("*.png"))
PLACES = {
    "README.md": "index.md",
    "examples/README.md": "start.md",
    "examples/migration.md": "migration.md",
    "minilearner/API.md": "reference/index.md",
    "minilearner/README.md": "explanation/architecture.md",
    "tests/benchmarks": "benchmarks.md",
    "tests/benchmarks/README.md": "benchmarks.md",
    ".github/CHANGELOG.md": "changelog.md",
    ".github/CONTRIBUTING.md": "contributing.md",
    **{f"examples/{file.name}": f"examples/{file.stem}.md" for file in EXAMPLES},
    **{f"examples/images/{file.name}": f"images/{file.name}" for file in IMAGES},
}
"""Files of the repository -> where they stand in the site."""

_runs: dict[str, PageRuns] = {}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Adds the pages that are written here to the menu."""
    menus = {
        "reference": [{title: page} for page, (title, _) in write_reference().items()],
        "examples": [{file.name: f"examples/{file.stem}.md"} for file in EXAMPLES],
    }

    def fill(entries: list[Any]) -> None:
        for entry in entries:
            for title, target in entry.items():
                if isinstance(target, list):
                    fill(target)
                else:
                    entry[title] = menus.get(target, target)

    fill(config.nav or [])
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages and figures that are made here, and runs the code of all pages."""
    for page, (title, text) in write_reference().items():
        files.append(File.generated(config, page, content=f"# {title}\n\n{text}"))
    for file in EXAMPLES:
        text = f"# {file.name}\n\n```python\n{file.read_text(encoding='utf-8')}```\n"
        files.append(File.generated(config, f"examples/{file.stem}.md", content=text))
    for image in IMAGES:
        files.append(File.generated(config, f"images/{image.name}", abs_src_path=str(image)))
    try:
        _runs.update(run_pages({file.src_uri: file.content_string for file in files.documentation_pages()}))
    except RuntimeError as error:
        raise PluginError(str(error)) from None
    for runs in _runs.values():
        for figure in runs.figures:
            files.append(File.generated(config, runs.uri(figure), abs_src_path=str(figure)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Puts the outcomes of code, the sections of other pages and the sketches into a page."""
    uri = page.file.src_uri
    if uri in _runs:
        markdown = _runs[uri].insert(markdown)
    markdown = re.sub(r"^```(\w+) [\w ]+$", r"```\1", markdown, flags=re.MULTILINE)
    markdown = expand_includes(markdown, uri, PLACES)
    return re.sub(r"^<!-- sketch: (\w+) -->$", lambda found: SKETCHES[found[1]](), markdown, flags=re.MULTILINE)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Mends what those who hear a page would stumble over: a dialog without a name, and empty heads of tables."""
    dialog = 'data-md-component="search" role="dialog"'
    return output.replace(dialog, f'{dialog} aria-label="Search"').replace("<th></th>", "<td></td>")
