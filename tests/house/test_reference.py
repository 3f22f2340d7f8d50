"""The pages about the code say what the code says: names, files, the callbacks' order."""

import ast
import importlib.util
import re
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location("reference", Path(__file__).with_name("reference.py"))
reference = importlib.util.module_from_spec(spec)
spec.loader.exec_module(reference)

ROOT = Path(__file__).parents[2]
ARCHITECTURE = ROOT / "minilearner" / "README.md"
MENTIONS = sorted(set(re.findall(r"`([^`\n]+)`", ARCHITECTURE.read_text(encoding="utf-8"))))
PAGES = [ROOT / "README.md", ARCHITECTURE, ROOT / "minilearner" / "API.md", *(ROOT / ".github").glob("*.md")]
FOREIGN = {"float", "item", "tensor"}


def test_the_pages_are_as_the_code_writes_them():
    assert reference.find_stale() == []


@pytest.fixture(scope="module")
def defined():
    """The names that the package and its tests define: classes, functions, arguments, variables and attributes."""
    names = set()
    for path in [*(ROOT / "minilearner").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]:
        names.add(path.stem)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                names.add(node.name)
            elif isinstance(node, ast.arg):
                names.add(node.arg)
            elif isinstance(node, (ast.Name, ast.Attribute)) and isinstance(node.ctx, ast.Store):
                names.add(node.id if isinstance(node, ast.Name) else node.attr)
    return names


@pytest.mark.parametrize("mention", MENTIONS)
def test_every_path_and_name_that_the_architecture_mentions_exists(mention, defined):
    if paths := [word for word in mention.split() if "/" in word or re.search(r"\.(py|md|toml)$", word)]:
        assert all(any((folder / path).exists() for folder in (ARCHITECTURE.parent, ROOT)) for path in paths)
    else:
        words = {word for word in re.findall(r"[A-Za-z_]\w*", mention) if not word.endswith("_")}
        assert words - FOREIGN <= defined


def leads_somewhere(page, link):
    path, _, anchor = link.partition("#")
    target = page.parent / path if path else page
    return target.exists() and (not anchor or anchor in anchors_of(target))


def anchors_of(page):
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def test_every_link_leads_to_a_file_and_its_heading():
    links = [(page, link) for page in PAGES for link in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8"))]
    links = [(page, link) for page, link in links if not link.startswith("http")]
    assert len(links) > 50
    assert [(page.name, link) for page, link in links if not leads_somewhere(page, link)] == []


def test_a_callback_of_another_order_makes_the_page_stale(monkeypatch):
    monkeypatch.setattr(reference.minilearner.EMA, "order", 3)
    assert reference.write_architecture() != ARCHITECTURE.read_text(encoding="utf-8")
