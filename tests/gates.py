"""The gates: the rules of style, as pure functions from notebooks (or a folder) to a list of complaints.

Each is shown a planted violation in test_gates.py. They know the notebooks by name only, so that the same
functions judge this repository and a folder of planted ones.
"""
import ast
import builtins
import importlib
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

LONGEST_FUNCTION, LONGEST_CLASS, LONGEST_LINE, LARGEST_NOTEBOOK = 30, 90, 100, 400_000
CELLS_WITHOUT_EXAMPLE, LINES_WITHOUT_EXAMPLE = 2, 45
TOP_LEVEL = {"Bars", "load_bars", "FinancialDataHandler", "HybridFinancialModel", "ModelTrainer", "Ensemble", "RiskPolicy",
             "run_backtest", "sharpe", "league_table", "walk_forward", "Experiment", "AttentionExplorer", "RegimeExplorer"}
OLD_WORDS = {  # private words of earlier versions -> the field's word
    "rival": "baseline", "rivals": "baselines", "mend_law": "recalibrate", "told": "explanation or metadata", "said": "forecast or output",
    "opinion": "signal", "buffered": "no_trade_band", "risk_parity": "inverse_volatility", "papers": "metadata",
    "catalogue": "feature_table", "share_of": "shard", "find_rate": "lr_find", "RateTrial": "LRFinderResult",
    "twin_check": "lead_lag_check", "remarks": "data_warnings", "NOTED": "WARNINGS", "REFUSED": "ERRORS", "do_task": "run_task",
    "keep_books": "run_backtests", "book_scale": "volatility_scale", "OneProcess": "SingleProcess", "stranger": "unknown_asset",
    "grown": "predict_trees", "_PATIENCE": "max_stale_sessions", "_heard": "mix_outputs", "_say": "forward_pieces",
}
FLOORS = {  # module -> notebook number, for modules a notebook may name before they are built
    "core": "00",
    "data": "00",
    "calendars": "00a",
    "checks": "00b",
    "files": "00c",
    "sources": "00d",
    "store": "00e",
    "synthetic": "00f",
    "trials": "00g",
    "features": "01",
    "technical": "01a",
    "regime": "01b",
    "liquidity": "01c",
    "correlation": "01d",
    "feature_set": "01e",
    "targets": "01f",
    "splits": "01g",
    "costs": "01h",
    "handler": "01i",
    "sizing": "01j",
    "student": "01k",
    "book": "01l",
    "allocation": "01m",
    "limits": "01n",
    "ssm": "02",
    "attention": "03",
    "hybrid": "04",
    "baselines": "04a",
    "rules": "04b",
    "losses": "04c",
    "forecast": "04d",
    "outlook": "04g",
    "loop": "04e",
    "callbacks": "04f",
    "trainer": "05",
    "calibration": "05a",
    "causality": "05c",
    "risk": "05b",
    "market_regime": "05d",
    "tail_risk": "05e",
    "backtest": "06",
    "metrics": "06a",
    "figures": "06b",
    "report": "06c",
    "choice": "06d",
    "plugins": "06e",
    "performance": "06f",
    "inference": "06g",
    "capacity": "06h",
    "config": "07",
    "keys": "07a",
    "compute": "07b",
    "run": "08",
    "summary": "08a",
    "experiment": "08b",
    "risk_page": "08c",
    "tune": "09",
    "paper": "10",
    "monitor": "11",
    "explore": "12",
    "cli": "13",
}
NETWORK = {"yfinance", "requests", "urllib3", "urllib.request", "http.client", "http.server", "socket", "ssl",
           "curl_cffi", "httpx", "aiohttp", "websocket", "websockets", "ftplib", "smtplib", "alpaca"}
HEAVY = {"skfolio", "arch", "statsmodels", "sklearn", "optuna", "exchange_calendars", "yfinance", "talib",
         "bidask", "river", "alpaca", "quantstats", "accelerate", "tensorboard", "plotly", "cvxpy"}
AUTHOR_ONLY = {"fastcore", "nbdev", "execnb", "ghapi", "pytest"}
SKIP_REASON = re.compile(r"\b(not run|because|since|needs?|takes|requires?|reason|so that|would)\b", re.I)
MACHINE_PATH = re.compile(r"/(?:home|Users)/\w|/(?:root|tmp|work|mnt|workspace)/\w|[A-Z]:\\\\?Users\\|ipykernel_\d+"
                          r"|\b(?:localhost|127\.0\.0\.1):\d+")


@dataclass
class Cell:
    "One cell of a notebook, read without running it"
    place: int
    kind: str
    source: str
    outputs: list

    @cached_property
    def marks(self):
        "The words of its `#|` lines, e.g. {'export', 'eval: false'}"
        found = re.findall(r"^\s*#\s*\|\s*(.+?)\s*$", self.source, re.M) if self.kind == "code" else []
        return {re.sub(r"\s*:\s*", ": ", mark) for mark in found}

    @property
    def exported(self):
        "Does its code go to the module?"
        return any(mark.split()[0] in ("export", "exporti", "exports") for mark in self.marks)

    @property
    def public(self):
        "Do its names go to `__all__`?"
        return any(mark.split()[0] in ("export", "exports") for mark in self.marks)

    @cached_property
    def tree(self):
        "Its syntax tree; shell lines and magics are blanked first"
        plain = re.sub(r"^(\s*)[%!].*$", r"\1pass", self.source, flags=re.M)
        try:
            return ast.parse(plain)
        except SyntaxError:
            return ast.parse("")

    @cached_property
    def names(self):
        "Every name that its code mentions"
        return ({n.id for n in ast.walk(self.tree) if isinstance(n, ast.Name)}
                | {n.attr for n in ast.walk(self.tree) if isinstance(n, ast.Attribute)})


@dataclass
class Notebook:
    "A notebook file, read without running it"
    path: Path
    cells: list
    metadata: dict

    @classmethod
    def read(cls, path):
        "The notebook at `path`"
        raw = json.loads(Path(path).read_text(encoding="utf-8"))
        cells = [Cell(i, c["cell_type"], "".join(c["source"]), c.get("outputs", []))
                 for i, c in enumerate(raw["cells"])]
        return cls(Path(path), cells, raw["metadata"])

    @property
    def number(self):
        "`01a` of `01f_targets.ipynb`; empty where there is none"
        found = re.match(r"\d+[a-z]?(?=_)", self.path.name)
        return found[0] if found else ""

    @cached_property
    def module(self):
        "The module it exports to, or None"
        for cell in self.cells:
            for mark in cell.marks:
                if mark.startswith("default_exp "):
                    return mark.split()[1]
        return None

    @property
    def exported(self):
        "The cells that go to the module"
        return [cell for cell in self.cells if cell.exported]

    def at(self, cell, message):
        "A complaint that names the notebook and the cell"
        return f"{self.path.name} cell {cell.place}: {message}"


def read_all(folder):
    "Every notebook below `folder`, hidden folders left out"
    paths = sorted(p for p in Path(folder).rglob("*.ipynb")
                   if not any(part[0] in "._" for part in p.relative_to(folder).parts))
    return [Notebook.read(path) for path in paths]


def floor(number, module=""):
    "Sort key of a notebook: 00_core < 00_data < 00a < 01"
    return int(number[:2]), number[2:], module if number == "00" else ""


def definitions(cell, public=True):
    "Top-level functions and classes of a cell"
    kinds = ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef
    return [node for node in cell.tree.body
            if isinstance(node, kinds) and not (public and node.name.startswith("_"))]


def public_callables(cell):
    "(qualified name, node) of public functions, classes and public methods of a public cell"
    for node in definitions(cell):
        yield node.name, node
        if isinstance(node, ast.ClassDef):
            for inner in node.body:
                if isinstance(inner, (ast.FunctionDef, ast.AsyncFunctionDef)) and inner.name[0] != "_":
                    yield f"{node.name}.{inner.name}", inner


def imported(tree):
    "(dotted module, names, node) of every import below `tree`; relative ones begin with hybrid_ssm"
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, (), node
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                module = f"hybrid_ssm.{module}".rstrip(".")
            yield module, tuple(alias.name for alias in node.names), node


def touches(module, names, family):
    "Does importing `names` from `module` import one of `family`?"
    wanted = [module, *(f"{module}.{name}" for name in names)]
    return any(w == member or w.startswith(member + ".") for w in wanted for member in family)


def rooms(module, names):
    "The modules of this package that an import names"
    if module == "hybrid_ssm":
        return [name for name in names if name != "__version__"]
    return [module.split(".")[1]] if module.startswith("hybrid_ssm.") else []


# ---------------------------------------------------------------- form

def code_lines(node):
    "Lines of a definition that hold code: blank lines and comments do not count"
    return len({n.lineno for n in ast.walk(node) if hasattr(n, "lineno")})


def long_definitions(notebooks):
    "An exported function or method over 30 lines of code, or a class over 90"
    functions = ast.FunctionDef, ast.AsyncFunctionDef
    found = []
    for nb in notebooks:
        for cell in nb.exported:
            for node in ast.walk(cell.tree):
                most = LONGEST_CLASS if isinstance(node, ast.ClassDef) else LONGEST_FUNCTION
                if isinstance(node, (*functions, ast.ClassDef)) and (size := code_lines(node)) > most:
                    found.append(nb.at(cell, f"{node.name} has {size} lines of code, at most {most}"))
    return found


def only_children(notebooks):
    "A private class with exactly one child: a class cut in two to pass a limit"
    private, children = {}, {}
    for nb in notebooks:
        for cell in nb.exported:
            for node in filter(lambda n: isinstance(n, ast.ClassDef), definitions(cell, public=False)):
                if node.name.startswith("_"):
                    private[node.name] = nb.at(cell, f"{node.name} has one child only: make them one class")
                for base in node.bases:
                    name = base.id if isinstance(base, ast.Name) else getattr(base, "attr", None)
                    children.setdefault(name, set()).add(node.name)
    return [complaint for name, complaint in private.items() if len(children.get(name, ())) == 1]


def public_names(cell):
    "The public names that the top level of a cell defines: functions, classes and values"
    for node in cell.tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found = [node.name]
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found = [n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)]
        else:
            found = []
        yield from (name for name in found if not name.startswith("_"))


def names_twice(notebooks):
    "A public name that two modules define"
    homes = {}
    for nb in filter(lambda n: n.module, notebooks):
        for name in {name for cell in nb.exported for name in public_names(cell)}:
            homes.setdefault(name, []).append(nb.module)
    return [f"{name} is defined in {' and '.join(where)}: one name, one meaning"
            for name, where in sorted(homes.items()) if len(where) > 1]


def shows(cell):
    "Is the cell an example: code that a reader sees and that does more than import or print help?"
    idle = ast.Import, ast.ImportFrom
    return cell.kind == "code" and not cell.exported and not cell.marks & {"hide", "default_exp"} and any(
        not isinstance(node, idle) and "show_doc" not in {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
        for node in cell.tree.body)


def bare_name(node):
    "A class that is only a name: a docstring, no members of its own"
    return isinstance(node, ast.ClassDef) and not any(
        not (isinstance(inner, ast.Pass) or isinstance(inner, ast.Expr) and isinstance(inner.value, ast.Constant))
        for inner in node.body)


def function_lines(node):
    "Lines of a function without those of a docstring beyond its first: sections are no code"
    first = node.body[0]
    text = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    return node.end_lineno - node.lineno + 1 - (first.end_lineno - first.lineno if text else 0)


def unshown(notebooks):
    "More than two exported cells, or 45 lines of functions, without an example; a class without one at once"
    found = []
    for nb in filter(lambda n: n.module, notebooks):
        cells = lines = 0
        owed = None
        for cell in nb.cells:
            if shows(cell):
                cells, lines, owed = 0, 0, None
            kinds = ast.Import, ast.ImportFrom
            if not cell.exported or all(isinstance(node, kinds) for node in cell.tree.body):
                continue
            if owed:
                found.append(nb.at(owed[0], f"no example follows the class {owed[1]} at once"))
                owed = None
            defined = definitions(cell, public=False)
            cells += 1
            lines += sum(function_lines(node) for node in defined if not isinstance(node, ast.ClassDef))
            if cells > CELLS_WITHOUT_EXAMPLE or lines > LINES_WITHOUT_EXAMPLE:
                found.append(nb.at(cell, f"{cells} exported cells and {lines} lines of functions without an example"))
                cells = lines = 0
            classes = [n.name for n in defined if isinstance(n, ast.ClassDef) and n.name[0] != "_" and not bare_name(n)]
            owed = (cell, classes[0]) if classes else None
        found += [nb.at(owed[0], f"no example follows the class {owed[1]} at once")] if owed else []
    return found


def late_imports(notebooks):
    "A module of this package that is imported by its name at run time, where no gate can see the arrow"
    found = []
    for nb in filter(lambda n: n.module and n.module != "core", notebooks):
        for cell in nb.exported:
            calls = [n for n in ast.walk(cell.tree) if isinstance(n, ast.Call)]
            for call in calls:
                name = getattr(call.func, "id", getattr(call.func, "attr", ""))
                first = ast.unparse(call.args[0]) if call.args else ""
                if name in ("import_module", "__import__") or (
                        name == "require" and re.match(r"f?['\"](hybrid_ssm|\.)", first)):
                    found.append(nb.at(cell, f"{name}({first}) at run time: import it at the top"))
    return found


def import_effects(notebooks):
    "An exported cell that does something when the module is imported, or that changes a class from outside"
    found = []
    for nb in filter(lambda n: n.module, notebooks):
        for cell in nb.exported:
            for node in cell.tree.body:
                text = ast.unparse(node).splitlines()[0][:60]
                targets = node.targets if isinstance(node, ast.Assign) else []
                if isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant) or isinstance(node, (ast.For, ast.While, ast.With)):
                    found.append(nb.at(cell, f"runs on import: {text}"))
                elif any(isinstance(target, (ast.Attribute, ast.Subscript)) for target in targets):
                    found.append(nb.at(cell, f"changes another object on import: {text}"))
                elif isinstance(node, ast.FunctionDef) and node.args.args[:1] and node.args.args[0].arg == "self":
                    found.append(nb.at(cell, f"{node.name} is a method outside its class"))
    return found


def idle_imports(notebooks):
    "A module of this package that is imported and not used: an import for its side effect"
    found = []
    for nb in filter(lambda n: n.module, notebooks):
        used = {n.id for cell in nb.exported for n in ast.walk(cell.tree) if isinstance(n, ast.Name)}
        used |= {word for cell in nb.exported for n in ast.walk(cell.tree)
                 if isinstance(n, ast.Constant) and isinstance(n.value, str) for word in re.findall(r"\w+", n.value)}
        for cell in nb.exported:
            for node in (n for n in ast.walk(cell.tree) if isinstance(n, (ast.Import, ast.ImportFrom))):
                idle = [a.asname or a.name.split(".")[0] for a in node.names
                        if (a.asname or a.name.split(".")[0]) not in used and a.name != "annotations"]
                found += [nb.at(cell, f"imports {', '.join(idle)} and never uses it")] if idle else []
    return found


def old_words(notebooks):
    "A private word of earlier versions where the field has one of its own"
    found = []
    for nb in notebooks:
        for cell in nb.exported:
            defined = {n.name for n in ast.walk(cell.tree) if hasattr(n, "name") and isinstance(n.name, str)}
            used = cell.names | defined | {n.arg for n in ast.walk(cell.tree) if isinstance(n, (ast.arg, ast.keyword))}
            found += [nb.at(cell, f"{word}: write {OLD_WORDS[word]}") for word in sorted(used & set(OLD_WORDS))]
        for cell in filter(lambda c: c.kind == "markdown", nb.cells):
            if word := re.search(r"\b[Rr]ivals?\b", cell.source):
                found.append(nb.at(cell, f"{word[0]}: write baseline or benchmark"))
    return found


def long_lines(notebooks):
    "An exported line over 100 characters"
    return [nb.at(cell, f"a line of {len(line)} characters: {line.strip()[:40]}...")
            for nb in notebooks for cell in nb.exported for line in cell.source.splitlines()
            if len(line) > LONGEST_LINE]


def crowded_cells(notebooks):
    "More than one public definition in an exported cell"
    return [nb.at(cell, "several public definitions: " + ", ".join(node.name for node in found))
            for nb in notebooks for cell in nb.exported if len(found := definitions(cell)) > 1]


def mixed_cells(notebooks):
    "Imports and other code in one exported cell (the documentation would run it)"
    kinds = ast.Import, ast.ImportFrom
    return [nb.at(cell, "imports and other code in one cell")
            for nb in notebooks for cell in nb.exported
            if len({isinstance(node, kinds) for node in cell.tree.body}) == 2]


def stranded_cells(notebooks):
    "A cell that the documentation runs (any with an import) but that needs a cell which it does not run"
    found = []
    for nb in filter(lambda n: n.module, notebooks):
        known = set(dir(builtins)) | {"display", "get_ipython", "show_doc"}
        for cell in filter(lambda c: c.kind == "code" and "eval: false" not in c.marks, nb.cells):
            brought = list(imported(cell.tree))
            if not (cell.exported or brought):
                continue
            known |= bound(cell.tree, inside=False)
            for module, names, _ in brought:
                known |= star_names(module) if "*" in names else set()
            lost = sorted(needed(cell.tree) - known - bound(cell.tree))
            found += [nb.at(cell, f"imports, so the documentation runs it, but {', '.join(lost)} will be missing: "
                            "put the import into a cell of its own")] if lost else []
    return found


def bound(tree, inside=True):
    "Names that code below `tree` gives a meaning to; `inside=False` leaves out what stays in an inner scope"
    scopes = ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda, ast.ListComp, ast.SetComp, \
        ast.DictComp, ast.GeneratorExp
    found, todo = set(), [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            found.add(node.id)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            found |= {alias.asname or alias.name.split(".")[0] for alias in node.names}
        elif getattr(node, "name", None):
            found.add(node.name)
        if inside or not isinstance(node, scopes):
            todo += ast.iter_child_nodes(node)
    return found


def needed(tree):
    "Names that running `tree` looks up; bodies of functions wait until they are called"
    found, todo = set(), [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            found.add(node.id)
        if isinstance(node, ast.FunctionDef):
            todo += node.decorator_list
        else:
            todo += ast.iter_child_nodes(node)
    return found


def star_names(module):
    "What `from module import *` brings"
    loaded = importlib.import_module(module)
    return set(getattr(loaded, "__all__", [name for name in dir(loaded) if name[0] != "_"]))


def unproved(notebooks):
    "A public definition with no example or check before the next H2"
    found = []
    for nb in notebooks:
        waiting = {}
        for cell in [*nb.cells, Cell(len(nb.cells), "markdown", "## end", [])]:
            if cell.kind == "markdown" and re.search(r"^##? ", cell.source, re.M):
                found += [nb.at(c, f"{name} has no example or check in its section") for name, c in waiting.items()]
                waiting = {}
            elif cell.kind == "code" and cell.public:
                waiting |= {node.name: cell for node in definitions(cell)}
            elif cell.kind == "code" and not cell.exported:
                waiting = {name: c for name, c in waiting.items() if name not in cell.names}
    return found


def bad_docstrings(notebooks):
    "A public docstring missing or longer than one line; on the package's top level, one without numpydoc sections"
    found = []
    for nb in notebooks:
        for cell in filter(lambda c: c.public, nb.exported):
            for name, node in public_callables(cell):
                text = ast.get_docstring(node)
                if not text:
                    found.append(nb.at(cell, f"{name} has no docstring"))
                elif name.split(".")[0] not in TOP_LEVEL:
                    if "\n" in text.strip():
                        found.append(nb.at(cell, f"the docstring of {name} is longer than one line"))
                else:
                    found += [nb.at(cell, f"{name} is on the top level: {fault}") for fault in numpydoc_faults(node, text)]
    return found


def numpydoc_faults(node, text):
    "What the docstring of a top-level name lacks: a section, or a parameter"
    constructor = [n for n in getattr(node, "body", ()) if getattr(n, "name", "") == "__init__"]
    owner = node if not isinstance(node, ast.ClassDef) else constructor[0] if constructor else None
    names = [a.arg for a in parameters(owner) if a.arg not in ("self", "cls")] if owner else []
    if names and not re.search(r"^Parameters\n-{3,}$", text, re.M):
        return ["no section Parameters"]
    missing = [name for name in names if not re.search(rf"^[\w, *]*\b{name}\b[^:]*(:|$)", text, re.M)]
    faults = [f"the section Parameters does not name {', '.join(missing)}"] if missing else []
    property_ = any(getattr(d, "id", getattr(d, "attr", "")) in ("property", "cached_property")
                    for d in getattr(node, "decorator_list", ()))
    gives = getattr(node, "returns", None) is not None and ast.unparse(node.returns) != "None" and not property_
    return faults + (["no section Returns"] if gives and not re.search(r"^(Returns|Yields)\n-{3,}$", text, re.M) else [])


def missing_entries(notebooks):
    "A public method without `show_doc(Class.method)`: the site would not document it"
    found = []
    for nb in filter(lambda n: n.module, notebooks):
        shown = set()
        for cell in filter(lambda c: c.kind == "code" and not c.exported, nb.cells):
            for call in (n for n in ast.walk(cell.tree) if isinstance(n, ast.Call)):
                if getattr(call.func, "id", "") == "show_doc" and call.args:
                    shown.add(ast.unparse(call.args[0]))
        for cell in filter(lambda c: c.public, nb.exported):
            missing = [name for name, _ in public_callables(cell) if "." in name and name not in shown]
            found += [nb.at(cell, f"no show_doc for {', '.join(missing)}")] if missing else []
    return found


def untyped(notebooks):
    "A public function with a parameter or a result without a type"
    found = []
    for nb in notebooks:
        for cell in filter(lambda c: c.public, nb.exported):
            for node in definitions(cell):
                if isinstance(node, ast.ClassDef):
                    continue
                bare = [arg.arg for arg in parameters(node) if arg.annotation is None]
                bare += ["its result"] if node.returns is None else []
                found += [nb.at(cell, f"{node.name}: no type for {', '.join(bare)}")] if bare else []
    return found


def parameters(node):
    "The parameters of a function, starred ones left out"
    return [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]


def uncommented_parameters(notebooks):
    "A parameter of a public function without its comment (meaning, unit) on the same line"
    found = []
    for nb in notebooks:
        for cell in filter(lambda c: c.public, nb.exported):
            lines = cell.source.splitlines()
            for node in definitions(cell):
                if isinstance(node, ast.ClassDef):
                    continue
                bare = [a.arg for a in parameters(node) if "#" not in lines[(a.end_lineno or 1) - 1]]
                found += [nb.at(cell, f"{node.name}: no comment beside {', '.join(bare)}")] if bare else []
    return found


def unexplained_skips(notebooks):
    "`eval: false`, `skip_exec` or `.notest` without its reason"
    found = []
    for nb in notebooks:
        for cell in nb.cells:
            near = [c.source for c in nb.cells[max(cell.place - 1, 0):cell.place + 2] if c.kind == "markdown"]
            remarks = re.findall(r"#(?!\s*\|)(.*)$", cell.source, re.M) if cell.kind != "markdown" else []
            skipped = "eval: false" in cell.marks or (
                cell.kind == "raw" and re.search(r"skip_exec:\s*true", cell.source, re.I))
            if skipped and not SKIP_REASON.search(" ".join(near + remarks)):
                found.append(nb.at(cell, "not run, and neither the cell nor the text beside it says why"))
        if (silent := nb.path.with_name(".notest")).exists() and not silent.read_text().strip():
            found.append(f"{silent}: says no reason")
    return sorted(set(found))


def large_notebooks(notebooks):
    "A notebook over 400 kB"
    return [f"{nb.path.name}: {size // 1000} kB, at most {LARGEST_NOTEBOOK // 1000}"
            for nb in notebooks if (size := nb.path.stat().st_size) > LARGEST_NOTEBOOK]


def stored_errors(notebooks):
    "An error among the stored outputs"
    return [nb.at(cell, f"stored error {output.get('ename', '')}")
            for nb in notebooks for cell in nb.cells for output in cell.outputs
            if output["output_type"] == "error"]


def widget_state(notebooks):
    "Widget state stored in a notebook"
    found = [f"{nb.path.name}: widget state in its metadata" for nb in notebooks if "widgets" in nb.metadata]
    return found + [nb.at(cell, f"stored {kind}")
                    for nb in notebooks for cell in nb.cells for output in cell.outputs
                    for kind in output.get("data", {}) if kind.startswith("application/vnd.jupyter.widget")]


def idle_tales(notebooks):
    "A notebook of a folder (tutorial, explanation, ...) that exports"
    return [nb.at(cell, "a notebook without a number exports nothing") for nb in notebooks
            for cell in nb.exported if not nb.number or nb.path.parent.name in (
                "tutorials", "how-to", "explanations", "studies")]


# ---------------------------------------------------------------- order and walls

def floor_breaks(notebooks):
    "An exported import of a module that does not stand lower"
    levels = dict(FLOORS) | {nb.module: nb.number for nb in notebooks if nb.module and nb.number}
    found = []
    for nb in filter(lambda n: n.module and n.number, notebooks):
        for cell in nb.exported:
            for module, names, _ in imported(cell.tree):
                for room in rooms(module, names):
                    if room not in levels:
                        found.append(nb.at(cell, f"imports {room}, which is no module"))
                    elif floor(levels[room], room) >= floor(nb.number, nb.module):
                        found.append(nb.at(cell, f"imports {room} ({levels[room]}), which does not stand lower"))
    return found


def private_imports(notebooks):
    "A private name imported from another module of this package"
    found = []
    for nb in filter(lambda n: n.module, notebooks):
        for cell in nb.exported:
            for module, names, _ in imported(cell.tree):
                private = [n for n in names if n.startswith("_") and not re.fullmatch(r"__\w+__", n)]
                if private and module.split(".")[0] == "hybrid_ssm":
                    found.append(nb.at(cell, f"imports {', '.join(private)} from {module}: make it public, or move it here"))
    return found


def wall_breaks(notebooks):
    "A module that imports what its walls keep out"
    found = []
    for nb in filter(lambda n: n.module and n.number, notebooks):
        for cell in nb.exported:
            for module, names, _ in imported(cell.tree):
                found += [nb.at(cell, f"imports {module}: {why}") for why in walls(nb.number, module, names)]
    return found


def walls(number, module, names):
    "The walls that one import of the module `number` breaks"
    top = module.split(".")[0]
    if "*" in names:
        yield "star import"
    if number == "01h" and top != "typing":
        yield "costs import nothing"
    if number in ("02", "03", "04"):
        known = top in sys.stdlib_module_names | {"torch", "hybrid_ssm", "safetensors"}
        if not known or top in ("datetime", "calendar", "time"):
            yield "model modules know torch only"
    if number == "04d" or number.startswith("06"):
        if top == "torch":
            yield "this module never imports torch"
    if top in ("matplotlib", "seaborn") and number != "06b":
        yield "only 06b draws"
    if top == "ipywidgets" and number != "12":
        yield "only 12 imports ipywidgets"
    if touches(module, names, NETWORK) and number not in ("00d", "10"):
        yield "only 00d and 10 touch the network"
    if top in AUTHOR_ONLY:
        yield "needed by authors only"


def hidden_torch(notebooks):
    "A torch-free notebook (04d, 06*) that reaches torch through the modules it imports"
    links, torch = {}, set()
    for nb in filter(lambda n: n.module, notebooks):
        links[nb.module] = set()
        for module, names, node in (i for cell in nb.exported for i in imported(cell.tree)):
            links[nb.module] |= set(rooms(module, names))
            if module.split(".")[0] == "torch" and node.col_offset == 0:
                torch.add(nb.module)
    found = []
    for nb in filter(lambda n: n.module and (n.number == "04d" or n.number.startswith("06")), notebooks):
        reach, todo = set(), [nb.module]
        while todo:
            room = todo.pop()
            todo += [] if room in reach else list(links.get(room, ()))
            reach.add(room)
        found += [f"{nb.path.name}: reaches torch through {room}" for room in sorted(reach & torch)]
    return found


def heavy_imports(notebooks):
    "A heavy library imported when the module is, not inside the function that needs it"
    return [nb.at(cell, f"imports {module} at the top; do it inside the function that needs it")
            for nb in notebooks for cell in nb.exported for module, _, node in imported(cell.tree)
            if node.col_offset == 0 and module.split(".")[0] in HEAVY]


def leak_idioms(notebooks):
    "An exported cell that fills backwards or centres a window"
    found = []
    for nb in notebooks:
        for cell in nb.exported:
            for node in ast.walk(cell.tree):
                if isinstance(node, ast.Attribute) and node.attr in ("bfill", "backfill"):
                    found.append(nb.at(cell, "fills backwards"))
                if isinstance(node, ast.keyword) and isinstance(node.value, ast.Constant) and (
                        (node.arg == "center" and node.value.value is True)
                        or (node.arg == "method" and node.value.value in ("bfill", "backfill"))):
                    found.append(nb.at(cell, f"{node.arg}={node.value.value!r} looks ahead"))
    return found


def pickles(tree):
    "The ways in which code below `tree` would run code from a data file"
    for module, names, _ in imported(tree):
        if touches(module, names, {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal"}):
            yield f"imports {module}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            owner = node.value.id if isinstance(node.value, ast.Name) else ""
            if (owner, node.attr) in {("torch", "load"), ("torch", "save"), ("joblib", "load"), ("joblib", "dump")} \
                    or node.attr in ("to_pickle", "read_pickle"):
                yield f"uses {owner or '...'}.{node.attr}"
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle" and getattr(node.value, "value", 1) is True:
            yield "allow_pickle=True"


def pickled(notebooks):
    "A notebook that reads or writes pickles"
    return [nb.at(cell, how) for nb in notebooks for cell in nb.cells if cell.kind == "code"
            for how in pickles(cell.tree)]


# ---------------------------------------------------------------- the repository around the notebooks

def project_files(root):
    "The text files of the project, whether or not git knows them yet"
    kept = {".py", ".ipynb", ".md", ".toml", ".ini", ".txt", ".yml", ".yaml", ".css", ".in", ".cfg", ""}
    out = {".git", ".venv", "runs", "_docs", "_proc", "build", "dist", "__pycache__", ".pytest_cache",
           ".ipynb_checkpoints", "README_files", ".quarto", ".hypothesis", ".ruff_cache", ".mypy_cache"}
    return [p for p in sorted(Path(root).rglob("*")) if p.is_file() and p.suffix in kept
            and not any(part in out or part.endswith(".egg-info") for part in p.relative_to(root).parts)]


def machine_paths(root):
    "A file that names a folder or a process of the machine it was written on"
    return [f"{path.relative_to(root)}:{number}: {match[0]!r}"
            for path in project_files(root)
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
            if (match := MACHINE_PATH.search(line))]


def pickled_modules(root):
    "Code outside the notebooks that reads or writes pickles (tests may plant some)"
    return [f"{path.relative_to(root)}: {how}" for path in project_files(root)
            if path.suffix == ".py" and path.relative_to(root).parts[0] != "tests"
            for how in pickles(ast.parse(path.read_text(encoding="utf-8")))]


def out_of_step(root, scratch):
    "Generated modules that differ from what the notebooks export today"
    root, scratch = Path(root), Path(scratch)
    for nb in read_all(root / "nbs"):
        target = scratch / nb.path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(nb.path, target)
    (scratch / "hybrid_ssm").mkdir(exist_ok=True)
    (scratch / "nbs").mkdir(exist_ok=True)
    for name in ("settings.ini", "hybrid_ssm/__init__.py"):
        shutil.copy(root / name, scratch / name)
    code = "from nbdev.doclinks import nbdev_export; nbdev_export.__wrapped__()"
    done = subprocess.run([sys.executable, "-c", code], cwd=scratch, capture_output=True, text=True)
    if done.returncode:
        return [f"nbdev_export failed: {done.stderr[-500:]}"]
    here, fresh = ({p.name: p.read_text(encoding="utf-8") for p in (folder / "hybrid_ssm").glob("*.py")}
                   for folder in (root, scratch))
    by_hand = {"__main__.py"} - set(fresh)  # the doorstep of `python -m`, too small for a notebook
    return [f"hybrid_ssm/{name} is out of step with the notebooks: run `make prepare`"
            for name in sorted(set(here) | set(fresh)) if name not in by_hand and here.get(name) != fresh.get(name)]


def load_tool(path):
    "The script at `path` as a module"
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def stale_readme(root, tool):
    "README.md and its pictures against what nbs/index.ipynb gives"
    root = Path(root)
    body, pictures = tool.readme(root / "nbs" / "index.ipynb")
    path = root / "README.md"
    stale = [] if path.exists() and path.read_text(encoding="utf-8") == body else ["README.md"]
    stale += [name for name, content in pictures.items()
              if not (root / name).exists() or (root / name).read_bytes() != content]
    return [f"{name} is out of step with nbs/index.ipynb: run `make prepare`" for name in stale]


def restless(root, tool):
    "A notebook that `make prepare` would change"
    found = []
    for nb in read_all(Path(root) / "nbs"):
        raw = nb.path.read_text(encoding="utf-8")
        name = nb.path.relative_to(Path(root) / "nbs").with_suffix("").as_posix()
        still = json.dumps(tool.still_notebook(json.loads(raw), name), indent=1, ensure_ascii=False, sort_keys=True)
        found += [] if still + "\n" == raw else [f"{nb.path.name} is not at rest: run `make prepare`"]
    return found


def undeclared(root):
    "A library that an exported module imports and no requirement or extra of settings.ini names"
    import configparser
    config = configparser.ConfigParser(delimiters=["="])
    config.read(Path(root) / "settings.ini", encoding="utf-8")
    facts = config["DEFAULT"]
    words = " ".join(facts[key] for key in facts if key.endswith("requirements") and key != "dev_requirements").split()
    named = {re.split(r"[<>=!~\[;]", word)[0].lower().replace("-", "_") for word in words}
    called = {"talib": "ta_lib", "alpaca": "alpaca_py", "sklearn": "skfolio", "IPython": "ipywidgets",
              "statsmodels": "arch", "PIL": "matplotlib", "prometheus_client": "prometheus_client"}
    found = []
    for path in sorted((Path(root) / "hybrid_ssm").glob("*.py")):
        for module, _, _ in imported(ast.parse(path.read_text(encoding="utf-8"))):
            top = module.split(".")[0]
            if top not in sys.stdlib_module_names | {"hybrid_ssm", "__future__"}:
                if called.get(top, top).lower() not in named:
                    found.append(f"{path.name} imports {top}, which settings.ini does not name")
    return sorted(set(found))


NOTEBOOK_GATES = (long_definitions, only_children, names_twice, unshown, late_imports, import_effects, idle_imports, old_words, long_lines, crowded_cells, mixed_cells, stranded_cells, unproved, bad_docstrings, missing_entries,
                  untyped, uncommented_parameters, unexplained_skips, large_notebooks, stored_errors, widget_state,
                  idle_tales, floor_breaks, private_imports, wall_breaks, hidden_torch, heavy_imports, leak_idioms, pickled)
