"""The pages as documents: what can be checked of the website without Quarto."""

import ast
import importlib.util
import itertools
import json
import re
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pypandoc
import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / "nbs"
PACKAGE = ROOT / "alberta_nb"
MAX_CELLS = 60
MAX_OUTPUT_BYTES = 300_000
MAX_EXPORTED_LINES = 40
COMMANDS = ("pip install . && alberta-nb learn", 'pip install -e ".[dev]" && pytest')

DIRECTIVE = re.compile(r"^#\s*\|")
EXPORTED = re.compile(r"^#\s*\|\s*exports?\b", re.MULTILINE)
EVAL_FALSE = re.compile(r"^#\s*\|\s*eval:\s*false\s*$", re.MULTILINE)
TITLE = re.compile(r"# [^\n]+\n+> [^\n]+\n?")
CODE = re.compile(r"(^|\n)(```|~~~).*?\n\2[^\n]*|(?<!`)(`+)(?!`).*?(?<!`)\3(?!`)", re.DOTALL)
LINK = re.compile(r"\]\(<?([^)\s>]+)>?[^)]*\)|\b(?:href|src)=\"([^\"]+)\"|^\[[^\]]+\]:\s*(\S+)", re.MULTILINE)
LABEL = re.compile(r"\{[^}]*#([\w-]+)[^}]*\}|^#\s*\|\s*label:\s*([\w-]+)", re.MULTILINE)
REFERENCE = re.compile(r"(?<![\w\\])@((?:eq|fig|tbl|sec)-[\w-]+)")


def find_pages() -> list[str]:
    """Every page of the book, as a path from nbs/."""
    paths = (path.relative_to(NBS) for path in NBS.rglob("*.ipynb"))
    return sorted(p.as_posix() for p in paths if not any(part[0] in "._" for part in p.parts))


PAGES = find_pages()
each_page = pytest.mark.parametrize("page", PAGES)


@cache
def cells(page: str) -> list[dict]:
    """The cells of a page, each source as one string."""
    found = json.loads((NBS / page).read_text(encoding="utf-8"))["cells"]
    return [{**cell, "source": "".join(cell["source"])} for cell in found]


def prose(page: str) -> list[str]:
    """The Markdown cells of a page."""
    return [cell["source"] for cell in cells(page) if cell["cell_type"] == "markdown"]


def outputs(page: str) -> list[dict]:
    """All outputs of a page."""
    return [output for cell in cells(page) for output in cell.get("outputs", [])]


def sidebar_pages(contents: list) -> Iterator[str]:
    """Every notebook that a sidebar lists, in its order."""
    for entry in contents:
        if isinstance(entry, str):
            yield entry
        else:
            yield from filter(None, [entry.get("href") or entry.get("file")])
            yield from sidebar_pages(entry.get("contents", []))


def website() -> dict:
    """The website part of the Quarto configuration."""
    return yaml.safe_load((ROOT / "_quarto.yml").read_text(encoding="utf-8"))["website"]


@cache
def pandoc(source: str) -> tuple[str, str]:
    """The HTML of a Markdown text with TeX in it, and what pandoc has to say against it, if anything."""
    options = ["--mathml", "--fail-if-warnings"]
    try:
        return pypandoc.convert_text(source, "html", format="markdown", extra_args=options), ""
    except RuntimeError as error:
        return "", str(error)


def anchors(page: str) -> set[str]:
    """What a link into a page can point to: labels of Quarto, and the identifiers that pandoc makes."""
    labels = {label for cell in cells(page) for match in LABEL.findall(cell["source"]) for label in match if label}
    return labels | set(re.findall(r'\bid="([^"]+)"', pandoc("\n\n".join(prose(page)))[0]))


# --- the website ---


def test_sidebar_lists_every_page_once() -> None:
    listed = list(sidebar_pages(website()["sidebar"]["contents"]))
    assert sorted(listed) == PAGES
    assert listed[0] == "index.ipynb"


def test_navbar_leads_to_pages() -> None:
    links = [entry["href"] for entry in website()["navbar"]["left"]]
    assert set(links) <= set(PAGES)


def test_nbdev_configuration_points_to_ours() -> None:
    # nbdev writes its own default where this stub is missing, and the site would change without a word.
    assert (NBS / "_quarto.yml").read_text(encoding="utf-8").strip() == "metadata-files: [../_quarto.yml]"


def test_pages_are_shown_as_committed() -> None:
    configuration = yaml.safe_load((ROOT / "_quarto.yml").read_text(encoding="utf-8"))
    assert configuration["execute"]["enabled"] is False
    assert configuration["format"]["html"]["html-math-method"] == "mathml"
    assert (NBS / configuration["format"]["html"]["css"]).exists()


# --- the README ---


def test_readme_comes_from_the_index() -> None:
    spec = importlib.util.spec_from_file_location("readme", ROOT / "tools" / "readme.py")
    assert spec and spec.loader
    readme = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(readme)
    assert readme.stale(ROOT) == [], "run python tools/readme.py"


@pytest.mark.parametrize("command", COMMANDS)
def test_readme_gives_the_two_commands(command: str) -> None:
    assert command in (ROOT / "README.md").read_text(encoding="utf-8").splitlines()


def test_readme_links_resolve() -> None:
    text = CODE.sub("", (ROOT / "README.md").read_text(encoding="utf-8"))
    links = [next(filter(None, match)) for match in LINK.findall(text)]
    missing = [link for link in links if not re.match(r"\w+:|#", link) and not (ROOT / link.split("#")[0]).exists()]
    assert missing == []


# --- every page ---


@each_page
def test_title_cell(page: str) -> None:
    first = cells(page)[0]
    assert first["cell_type"] == "markdown"
    assert TITLE.fullmatch(first["source"]), "the first cell holds `# Title` and `> one line`, nothing else"


@each_page
def test_page_is_short(page: str) -> None:
    assert len(cells(page)) <= MAX_CELLS
    widgets = json.loads((NBS / page).read_text(encoding="utf-8"))["metadata"].get("widgets", {})
    assert len(json.dumps(outputs(page))) + len(json.dumps(widgets)) <= MAX_OUTPUT_BYTES


@each_page
def test_exported_cells_are_short(page: str) -> None:
    long = {}
    for number, cell in enumerate(cells(page)):
        lines = [line for line in cell["source"].splitlines() if not DIRECTIVE.match(line)]
        if cell["cell_type"] == "code" and EXPORTED.search(cell["source"]) and len(lines) > MAX_EXPORTED_LINES:
            long[number] = len(lines)
    assert long == {}, "cell: lines"


@each_page
def test_page_says_nothing_on_stderr(page: str) -> None:
    assert [o for o in outputs(page) if o.get("name") == "stderr" or o["output_type"] == "error"] == []


@each_page
def test_page_names_no_path_of_its_author(page: str) -> None:
    text = json.dumps([prose(page), outputs(page)])
    paths = {str(ROOT), str(Path.home()), sys.prefix, tempfile.gettempdir() + "/", "/tmp/", "/home/", "/Users/"}
    assert [path for path in sorted(paths) if re.search(rf"(?<![\w.~]){re.escape(path)}", text)] == []


@each_page
def test_page_is_clean(page: str) -> None:
    code = [cell for cell in cells(page) if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] is None for cell in code), "run nbdev_clean"
    assert all(set(cell["metadata"]) <= {"tags", "hide_input"} for cell in code), "run nbdev_clean"


@each_page
def test_tex_can_be_read(page: str) -> None:
    # One call for the page is fast; cell by cell only where it fails, to say where.
    _, warning = pandoc("\n\n".join(prose(page)))
    if warning:
        where = {number: found for number, text in enumerate(prose(page)) if (found := pandoc(text)[1])}
        pytest.fail(f"{where or warning}")


@each_page
def test_links_resolve(page: str) -> None:
    missing = []
    for link in (next(filter(None, match)) for text in prose(page) for match in LINK.findall(CODE.sub("", text))):
        if re.match(r"(?:https?|mailto):", link):
            continue
        path, _, anchor = link.partition("#")
        target = ((NBS / page).parent / path).resolve() if path else NBS / page
        if not target.is_file() or not target.is_relative_to(ROOT):
            missing.append(link)
        elif anchor and target.suffix == ".ipynb" and anchor not in anchors(target.relative_to(NBS).as_posix()):
            missing.append(link)
    assert missing == []


@each_page
def test_references_resolve(page: str) -> None:
    # Quarto numbers equations and figures by page, so a label has to stand on the page that refers to it.
    wanted = {label for text in prose(page) for label in REFERENCE.findall(CODE.sub("", text))}
    assert wanted - anchors(page) == set()


@each_page
def test_exporting_pages_name_their_module(page: str) -> None:
    code = [cell["source"] for cell in cells(page) if cell["cell_type"] == "code"]
    exports = any(EXPORTED.search(source) for source in code)
    modules = [name for source in code for name in re.findall(r"^#\s*\|\s*default_exp\s+(\S+)", source, re.MULTILINE)]
    assert len(modules) == int(exports)
    for module in modules:
        assert (ROOT / "alberta_nb" / (module.replace(".", "/") + ".py")).is_file(), "run nbdev_export"


@each_page
def test_imports_stand_in_cells_of_their_own(page: str) -> None:
    # nbdev runs every cell with an import when it prepares the website, without the cells above it.
    mixed = {}
    for number, cell in enumerate(cells(page)):
        if cell["cell_type"] != "code" or EXPORTED.search(cell["source"]) or EVAL_FALSE.search(cell["source"]):
            continue
        nodes = list(ast.walk(ast.parse(cell["source"])))
        if any(isinstance(node, ast.Import | ast.ImportFrom) for node in nodes):
            mixed[number] = [ast.unparse(node) for node in nodes if isinstance(node, ast.Expr | ast.Assign)]
    assert {number: found[0] for number, found in mixed.items() if found} == {}


def test_next_is_the_next_page() -> None:
    """Where a page says what comes next, it is what the sidebar lists next."""
    order = re.findall(r"^\s+- ((?:[a-z]+/)?\w+)\.ipynb", (ROOT / "_quarto.yml").read_text(encoding="utf-8"), re.M)
    told = 0
    for page, following in itertools.pairwise(order):
        cells = json.loads((ROOT / "nbs" / f"{page}.ipynb").read_text(encoding="utf-8"))["cells"]
        for link in re.findall(r"Next: \[[^\]]*\]\(([^)#]+)", "".join(cells[-1]["source"])):
            told += 1
            assert (ROOT / "nbs" / page).parent.joinpath(link).resolve() == ROOT / "nbs" / f"{following}.ipynb", page
    assert told > 10


def shown(node: ast.stmt) -> list[ast.stmt]:
    """What the website shows of a function or a class: itself, or its fields and how it is made."""
    if not isinstance(node, ast.ClassDef):
        return [node]
    makes = ("__init__", "__new__")
    return [n for n in node.body if isinstance(n, ast.AnnAssign) or isinstance(n, ast.FunctionDef) and n.name in makes]


def annotations(node: ast.stmt) -> list[ast.expr | None]:
    if isinstance(node, ast.AnnAssign):
        return [node.annotation]
    assert isinstance(node, ast.FunctionDef)
    return [a.annotation for a in (*node.args.args, *node.args.kwonlyargs)] + [node.returns]


def test_public_names_are_annotated_with_what_is_there() -> None:
    """The website evaluates the annotations that it shows: a name in quotes that comes later stops the build."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                notes = [note for part in shown(node) for note in annotations(part)]
                quoted = [n.value for n in notes if isinstance(n, ast.Constant) and isinstance(n.value, str)]
                assert not quoted, f"{path.name}: {node.name} names {quoted} in quotes"
