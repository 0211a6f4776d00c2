"""What nbdev leaves to be done: still notebooks for git, and README.md from nbs/index.ipynb.

usage: python tools/prepare.py notebooks   widget state and volatile output removed, missing cell ids filled in
       python tools/prepare.py readme      README.md written from nbs/index.ipynb

`make prepare` runs both around nbdev_clean and nbdev_export: `notebooks` comes first, because an exported module
carries the ids of its cells.
"""
import hashlib
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WIDGET = "application/vnd.jupyter.widget"
PROGRESS = re.compile(r"\d+%\|.*\|")  # a bar of tqdm: speed and time differ from run to run
VALID_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
DIRECTIVE = re.compile(r"^\s*#\s*\|\s*(.*?)\s*$")
HIDDEN = ("hide", "default_exp", "export", "exporti", "exports", "include: false", "include:false")


def notebooks(folder=ROOT / "nbs"):
    "All notebooks below `folder`, hidden folders left out"
    return sorted(p for p in Path(folder).rglob("*.ipynb")
                  if not any(part[0] in "._" for part in p.relative_to(folder).parts))


def text(source):
    "Notebook files hold text as one string or as a list of lines"
    return source if isinstance(source, str) else "".join(source)


def still_output(output):
    "`output` without what differs from run to run; None where nothing else remains"
    if output["output_type"] == "stream":
        lines = re.split(r"(?<=[\n\r])", text(output["text"]))
        kept = [line for line in lines if not PROGRESS.search(line)]
        if len(kept) == len(lines):
            return output
        rest = "".join(kept)
        return {**output, "text": rest.splitlines(keepends=True)} if rest.strip() else None
    if "data" not in output:
        return output
    data = {kind: value for kind, value in output["data"].items() if not kind.startswith(WIDGET)}
    shown_widget = len(data) < len(output["data"])
    if shown_widget and set(data) <= {"text/plain"}:
        return None  # the printed form of a widget that is no longer there
    return {**output, "data": data, "metadata": {}}


def fill_ids(cells, name):
    "A cell keeps its id through edits; a missing, malformed or doubled one is derived from its place"
    seen = set()
    for place, cell in enumerate(cells):
        salt = 0
        while not VALID_ID.fullmatch(cell.get("id", "")) or cell["id"] in seen:
            cell["id"] = hashlib.sha256(f"{name} {place} {salt}".encode()).hexdigest()[:8]
            salt += 1
        seen.add(cell["id"])


def still_notebook(notebook, name):
    "`notebook` (a dict) as it should lie in git; `name` seeds missing cell ids"
    notebook["metadata"].pop("widgets", None)
    fill_ids(notebook["cells"], name)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"] = [o for o in map(still_output, cell["outputs"]) if o is not None]
    return notebook


def save_if_changed(path, content):
    "Write `content` to `path` unless it is there already; True when written"
    if path.exists() and path.read_text(encoding="utf-8") == content:
        return False
    path.write_text(content, encoding="utf-8", newline="\n")
    return True


def prepare_notebooks(folder=ROOT / "nbs"):
    "Bring every notebook below `folder` to rest; the paths of those that changed"
    changed = []
    for path in notebooks(folder):
        name = path.relative_to(folder).with_suffix("").as_posix()
        still = still_notebook(json.loads(path.read_text(encoding="utf-8")), name)
        content = json.dumps(still, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
        if save_if_changed(path, content):
            changed.append(path)
    return changed


def directives(cell):
    "The `#|` lines of a code cell, without their mark"
    found = map(DIRECTIVE.match, text(cell["source"]).splitlines())
    return [match[1] for match in found if match]


def reader_cells(notebook):
    "The cells a reader sees: no front matter, nothing hidden or exported, no directive lines"
    shown = []
    for cell in notebook["cells"]:
        source = text(cell["source"])
        if cell["cell_type"] == "raw" or source.strip().startswith("---\n"):
            continue
        marks = directives(cell) if cell["cell_type"] == "code" else []
        if any(mark == word or mark.startswith(word + " ") for mark in marks for word in HIDDEN):
            continue
        lines = source.splitlines(keepends=True)
        if cell["cell_type"] == "code":
            lines = [line for line in lines if not DIRECTIVE.match(line)]
            if any(mark.replace(" ", "") == "echo:false" for mark in marks):
                lines = []
        shown.append({**cell, "source": "".join(lines).strip("\n")})
    return shown


def github_links(markdown, folder):
    "Relative links of a notebook in `folder` as they must read from the root of the repository"
    def moved(match):
        opening, target, closing = match.groups()
        path, mark, anchor = target.partition("#")
        if not path or re.match(r"[a-z][a-z0-9+.-]*:|/", path) or not (folder / path).exists():
            return match[0]
        here = (folder / path).resolve().relative_to(folder.parent.resolve()).as_posix()
        return f"{opening}{here}{mark}{anchor}{closing}"

    parts = re.split(r"(^```.*?^```[^\n]*$)", markdown, flags=re.M | re.S)
    link = re.compile(r"(\]\(|(?:src|href)=\")([^)\s\"]+)([)\s\"])")
    parts[::2] = [link.sub(moved, part) for part in parts[::2]]
    return "".join(parts)


def readme(path=ROOT / "nbs" / "index.ipynb"):
    "README text and its pictures {name: bytes}, made from the notebook at `path`"
    import nbformat
    from nbconvert import MarkdownExporter

    notebook = nbformat.read(path, as_version=4)  # joins sources and outputs stored as lists of lines
    notebook["cells"] = reader_cells(notebook)
    notebook["metadata"] = {"language_info": {"name": "python"}}
    resources = {"output_files_dir": "README_files", "unique_key": "figure"}
    body, resources = MarkdownExporter().from_notebook_node(
        nbformat.from_dict(notebook), resources=resources)
    lines = [line.rstrip() for line in github_links(body, Path(path).parent).splitlines()]
    stable = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"
    return stable, resources.get("outputs", {})


def prepare_readme(root=ROOT):
    "Write README.md and its pictures; the paths of those that changed"
    body, pictures = readme(root / "nbs" / "index.ipynb")
    changed = [root / "README.md"] if save_if_changed(root / "README.md", body) else []
    for name, content in pictures.items():
        path = root / name
        path.parent.mkdir(exist_ok=True)
        if not path.exists() or path.read_bytes() != content:
            path.write_bytes(content)
            changed.append(path)
    return changed


if __name__ == "__main__":
    steps = {"notebooks": prepare_notebooks, "readme": prepare_readme}
    if len(sys.argv) != 2 or sys.argv[1] not in steps:
        sys.exit(__doc__)
    for changed in steps[sys.argv[1]]():
        print("changed", changed.relative_to(ROOT))
