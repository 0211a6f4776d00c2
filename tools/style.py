"""One handwriting: `ruff format` over the exported cells of the notebooks.

    python tools/style.py            # format them in place
    python tools/style.py --check    # only say which cells would change; 1 where any would

The generated modules cannot be formatted themselves (nbdev writes them), and examples keep the layout that
their author chose. So each exported cell is handed to ruff alone, as a cell of a notebook.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

EXPORT = re.compile(r"^\s*#\s*\|\s*exports?i?\b", re.M)


def exported(notebook: dict) -> list:
    "The cells of a notebook that go to its module"
    return [
        cell
        for cell in notebook["cells"]
        if cell["cell_type"] == "code" and EXPORT.search("".join(cell["source"]))
    ]


def formatted(cells: list, root: Path) -> list:
    "The sources of `cells` as ruff lays them out"
    bare = [dict(cell, outputs=[], execution_count=None) for cell in cells]
    notebook = dict(cells=bare, metadata={}, nbformat=4, nbformat_minor=5)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cells.ipynb"
        path.write_text(json.dumps(notebook), encoding="utf-8")
        command = [sys.executable, "-m", "ruff", "format", "--quiet"]
        config = ["--config", str(root / "pyproject.toml")]
        subprocess.run([*command, *config, str(path)], check=True)
        return [cell["source"] for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]]


def format_notebooks(root: Path, check: bool = False) -> list:
    "`notebook cell id` of each exported cell that is laid out otherwise; they are rewritten unless `check`"
    changed = []
    for path in sorted((root / "nbs").rglob("*.ipynb")):
        if any(part[0] in "._" for part in path.relative_to(root).parts):
            continue
        notebook = json.loads(path.read_text(encoding="utf-8"))
        cells = exported(notebook)
        new = formatted(cells, root) if cells else []
        wrong = [
            (cell, source)
            for cell, source in zip(cells, new, strict=True)
            if "".join(cell["source"]) != "".join(source)
        ]
        changed += [f"{path.name} cell {cell.get('id')}" for cell, _ in wrong]
        for cell, source in wrong:
            cell["source"] = "".join(source).splitlines(keepends=True)
        if wrong and not check:
            text = json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True)
            path.write_text(text + "\n", encoding="utf-8")
    return changed


def main() -> int:
    "Format, or check, the notebooks of this repository"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing, complain")
    check = parser.parse_args().check
    changed = format_notebooks(Path(__file__).resolve().parent.parent, check)
    print(*changed, sep="\n" if changed else "")
    return int(check and bool(changed))


if __name__ == "__main__":
    sys.exit(main())
