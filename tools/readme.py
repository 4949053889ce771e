"""Write README.md from nbs/index.ipynb, without Quarto.

usage: python tools/readme.py [--check]

Directives and hidden cells go, outputs become fenced text, and figures become files beside the notebook.
With --check nothing is written, and the exit code is 1 where a file differs from what it should be.
"""

import base64
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = "nbs/index.ipynb"
IMAGES = "nbs/images"

DIRECTIVE = re.compile(r"^#\s*\|\s*(?P<name>[\w-]+):?\s*(?P<value>.*)$")
FENCE = re.compile(r"^(```|~~~)")
LINK = re.compile(r"(\]\()(?!\w+:|#|/)([^)\s]+)")
SOURCE = re.compile(r"(\b(?:src|href)=\")(?!\w+:|#|/)([^\"]+)")
INLINE_CODE = re.compile(r"(`[^`]*`)")
QUARTO = re.compile(r"\s*\{[#.][^}\n]*\}\s*$|^:{3,}.*$")
ANSI = re.compile(r"\x1b\[[0-9;]*m")


def directives(source: str) -> tuple[dict[str, str], str]:
    """The `#|` lines at the top of a cell, and the code below them."""
    found, lines = {}, source.splitlines()
    while lines and (match := DIRECTIVE.match(lines[0])):
        found[match["name"]] = match["value"].strip()
        lines.pop(0)
    return found, "\n".join(lines).strip("\n")


def relink(text: str) -> str:
    """Links of the page, from the root of the repository."""
    text = SOURCE.sub(r"\1nbs/\2", LINK.sub(r"\1nbs/\2", text))
    return text.replace("](nbs/../", "](").replace('="nbs/../', '="')


def markdown(source: str) -> str:
    """Markdown as GitHub reads it: without Quarto's marks, and with links from the root of the repository."""
    lines, fenced = [], False
    for line in source.splitlines():
        if FENCE.match(line):
            fenced = not fenced
        elif not fenced:
            # The odd parts are inline code, which stays as it is.
            parts = INLINE_CODE.split(QUARTO.sub("", line))
            line = "".join(part if i % 2 else relink(part) for i, part in enumerate(parts))
        lines.append(line)
    return "\n".join(lines).strip("\n")


def fence(text: str, language: str = "") -> str:
    """A fenced block that its own text cannot close."""
    marks = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", text) or [""]))
    return f"{marks}{language}\n{text}\n{marks}"


def join(text: str | list[str]) -> str:
    """Notebooks keep text whole or as a list of lines."""
    return text if isinstance(text, str) else "".join(text)


def show(output: dict, name: str, files: dict[str, bytes], alt: str) -> str:
    """One output as Markdown; the bytes of a figure go to `files`, and `alt` stands where it cannot be seen."""
    if output["output_type"] == "stream":
        return fence(ANSI.sub("", join(output["text"])).rstrip("\n"), "text") if output["name"] == "stdout" else ""
    data = output.get("data", {})
    if "image/png" in data:
        files[f"{IMAGES}/{name}.png"] = base64.b64decode(join(data["image/png"]))
        return f"![{alt}]({IMAGES}/{name}.png)"
    if "text/markdown" in data:
        return markdown(join(data["text/markdown"]))
    return fence(join(data["text/plain"]).rstrip("\n"), "text") if "text/plain" in data else ""


def code(cell: dict, number: int, files: dict[str, bytes]) -> Iterator[str]:
    """What a reader sees of a code cell: its source, then its outputs."""
    marks, source = directives(join(cell["source"]))
    if {"hide", "default_exp", "export"} & marks.keys() or marks.get("include", "").lower() == "false":
        return
    if source and marks.get("echo", "").lower() != "false":
        yield fence(source, "python")
    if marks.get("output", "").lower() != "false":
        for i, output in enumerate(cell["outputs"]):
            yield show(output, f"index-{number}-{i}", files, marks.get("fig-alt", ""))


def render(page: Path) -> dict[str, bytes]:
    """README.md and the figures that it shows, by path from the root of the repository."""
    files: dict[str, bytes] = {}
    blocks: list[str] = []
    shown = 0
    for cell in json.loads(page.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "markdown":
            blocks.append(markdown(join(cell["source"])))
        elif cell["cell_type"] == "code":
            shown += bool(cell["outputs"])
            blocks.extend(code(cell, shown, files))
    note = f"<!-- Written by tools/readme.py from {PAGE}. Edit the notebook. -->"
    text = "\n\n".join([note, *filter(None, blocks)]) + "\n"
    return {"README.md": text.encode(), **files}


def stale(root: Path) -> list[str]:
    """The files that differ from what the page gives."""
    wanted = render(root / PAGE)
    kept = {path.relative_to(root).as_posix() for path in (root / IMAGES).glob("index-*.png")}
    wrong = [name for name, new in wanted.items() if not (root / name).exists() or (root / name).read_bytes() != new]
    return sorted({*wrong, *(kept - wanted.keys())})


def main(arguments: list[str]) -> int:
    """Write the files, or with --check say which ones are stale."""
    names = stale(ROOT)
    if arguments == ["--check"]:
        for name in names:
            print(f"stale: {name} (python tools/readme.py writes it)", file=sys.stderr)
        return int(bool(names))
    if arguments:
        print(__doc__, file=sys.stderr)
        return 2
    wanted = render(ROOT / PAGE)
    for name in names:
        path = ROOT / name
        if name in wanted:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(wanted[name])
        else:
            path.unlink()
        print(f"{'wrote' if name in wanted else 'removed'} {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
