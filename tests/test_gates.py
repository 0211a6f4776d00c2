"""The gates over this repository, and each of them over a planted violation that must turn it red."""
import json
import shutil
from pathlib import Path

import gates
import pytest

ROOT = Path(__file__).resolve().parent.parent
TOOL = gates.load_tool(ROOT / "tools" / "prepare.py")
NOTEBOOKS = gates.read_all(ROOT / "nbs")

GOOD = [
    "# Room\n> A promise.", "#| default_exp room", "#| export\nimport math",
    "## Half\nBecause two halves make a whole.",
    '#| export\ndef half(\n    x:float, # any number\n)->float: # its half\n    "Half of `x`"\n    return math.ldexp(x, -1)',
    "assert half(2.) == 1.",
]
UNIT = '#| export\ndef one()->int: # always 1\n    "The number one"\n    return 1'
SHOWN = "one()"


def cell(source):
    "A cell of a planted notebook: markdown where it begins like a heading or a word, else code"
    if isinstance(source, dict):
        return source
    if source.startswith("---"):
        return dict(cell_type="raw", source=source, metadata={})
    if source.startswith(("# ", "## ", "A ")):
        return dict(cell_type="markdown", source=source, metadata={})
    return dict(cell_type="code", source=source, metadata={}, outputs=[], execution_count=None)


def plant(folder, sources, name="01_room.ipynb", metadata=None):
    "Write a notebook of these cells and read it back as the gates see it"
    cells = [{"id": f"cell-{i}", **cell(source)} for i, source in enumerate(sources)]
    path = Path(folder) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = dict(cells=cells, metadata=metadata or {}, nbformat=4, nbformat_minor=5)
    path.write_text(json.dumps(raw, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
    return gates.Notebook.read(path)


def output(kind, **rest):
    "A code cell with one stored output"
    return dict(cell_type="code", source="1", metadata={}, execution_count=None,
                outputs=[dict(output_type=kind, **rest)])


def room(module, *imports):
    "The cells of a room that exports these imports"
    return ["# Room\n> A promise.", f"#| default_exp {module}", "#| export\n" + "\n".join(imports)]


VIOLATIONS = {  # gate -> [(name, cells, metadata)], each of which must make it complain
    gates.long_definitions: [
        ("01_room", ["#| export\ndef one()->int:\n" + "    x = 1\n" * 30], {}),
        ("01_room", ["#| export\nclass One:\n    def one(self):\n" + "        x = 1\n" * 30], {}),
        ("01_room", ["#| export\nclass One:\n" + "    x = 1\n" * 90], {})],
    gates.only_children: [("01_room", ["#| export\nclass _Half:\n    a = 1\nclass Whole(_Half):\n    b = 2"], {})],
    gates.unshown: [("01_room", ["#| default_exp room", *[UNIT.replace("one", f"one{i}") for i in range(3)], SHOWN], {}),
                    ("01_room", ["#| default_exp room", UNIT, "#| export\ndef two():\n" + "    x = 1\n" * 45], {}),
                    ("01_room", ["#| default_exp room", "#| export\nclass One:\n    a = 1", "#| hide\nOne()"], {}),
                    ("01_room", ["#| default_exp room", "#| export\nclass One:\n    a = 1", "show_doc(One.a)"], {}),
                    ("01_room", ["#| default_exp room", "#| export\nclass One:\n    a = 1", UNIT, "One(), one()"], {})],
    gates.late_imports: [
        ("01_room", ["#| default_exp room", "#| export\ndef f(name): return import_module(f'hybrid_ssm.{name}')"], {}),
        ("01_room", ["#| default_exp room", "#| export\ndef f(): return require('hybrid_ssm.attic')"], {})],
    gates.import_effects: [
        ("01_room", ["#| default_exp room", "#| export\nREGISTRY.update(one=1)"], {}),
        ("01_room", ["#| default_exp room", "#| export\nREGISTRY['one'] = 1"], {}),
        ("01_room", ["#| default_exp room", "#| export\ndef _start(self): return 1"], {}),
        ("01_room", ["#| default_exp room", "#| export\nOne.start = start"], {}),
        ("01_room", ["#| default_exp room", "#| export\nfor x in (1, 2): print(x)"], {})],
    gates.idle_imports: [("05_trainer", room("trainer", "from hybrid_ssm import baselines"), {})],
    gates.old_words: [("01_room", ["#| export\ndef keep_books(said): return said"], {}),
                      ("01_room", ["A rival of the model."], {})],
    gates.long_lines: [("01_room", ["#| export\nx = '" + "a" * 100 + "'"], {})],
    gates.crowded_cells: [("01_room", ["#| export\ndef one(): return 1\ndef two(): return 2"], {})],
    gates.mixed_cells: [("01_room", ["#| export\nimport numpy as np\nPI = np.pi"], {})],
    gates.stranded_cells: [
        ("01_room", ["#| default_exp room", "prices = [1.]", "import math\nmath.sqrt(prices[0])"], {}),
        ("01_room", ["#| default_exp room", "#| export\ndef f(x): return x", "x = 1.",
                     "import math\nmath.sqrt(x)"], {})],
    gates.unproved: [("01_room", ["## One", UNIT, "## Two", SHOWN], {}),
                     ("01_room", ["## One", SHOWN, UNIT], {}),
                     ("01_room", ["## One", UNIT, "A word about `one`."], {})],
    gates.bad_docstrings: [("01_room", ["#| export\ndef one()->int: return 1"], {}),
                           ("01_room", ['#| export\ndef one()->int:\n    """One.\n\n    Two."""'], {}),
                           ("01_room", ['#| export\nclass A:\n    "A thing"\n    def b(self): return 1'], {}),
                           ("01_room", ['#| export\ndef sharpe(x)->int:\n    "One."'], {}),
                           ("01_room", ['#| export\ndef sharpe(x, y)->None:\n    """One.\n\n    Parameters\n    -----\n    x : int\n    """'], {}),
                           ("01_room", ['#| export\ndef sharpe()->int:\n    """One.\n\n    Two."""'], {})],
    gates.missing_entries: [
        ("01_room", ["#| default_exp room", '#| export\nclass A:\n    "A thing"\n    def b(self): "B"', "A().b()"], {})],
    gates.untyped: [("01_room", ["#| export\ndef one(x)->int: return 1"], {}),
                    ("01_room", ["#| export\ndef one(x:int): return 1"], {})],
    gates.uncommented_parameters: [("01_room", ["#| export\ndef one(\n    x:int,\n)->int: # one\n    return 1"], {})],
    gates.unexplained_skips: [("01_room", ["#| eval: false\none()"], {}),
                              ("01_room", ["---\nskip_exec: true\n---"], {})],
    gates.large_notebooks: [("01_room", [output("stream", name="stdout", text="a" * 400_001)], {})],
    gates.stored_errors: [("01_room", [output("error", ename="ValueError", evalue="no", traceback=[])], {})],
    gates.widget_state: [("01_room", ["1"], {"widgets": {}}),
                         ("01_room", [output("display_data", metadata={}, data={
                             "application/vnd.jupyter.widget-view+json": {}, "text/plain": "x"})], {})],
    gates.idle_tales: [("tutorials/01_story", [UNIT], {}), ("index", [UNIT], {})],
    gates.floor_breaks: [("01_features", room("features", "from hybrid_ssm.targets import direction"), {}),
                         ("01_features", room("features", "from hybrid_ssm import Bars"), {}),
                         ("01_features", ["#| default_exp features",
                                          "#| export\ndef f(): from hybrid_ssm.attic import x"], {})],
    gates.private_imports: [
        ("01_features", room("features", "from hybrid_ssm.data import Bars, _pivot"), {}),
        ("01_features", room("features", "from .data import _pivot as pivot"), {}),
        ("01_features", ["#| default_exp features", "#| export\ndef f(): from hybrid_ssm.data import _pivot"], {})],
    gates.wall_breaks: [("01_features", room("features", "from math import *"), {}),
                        ("01h_costs", room("costs", "import numpy"), {}),
                        ("02_ssm", room("ssm", "import pandas as pd"), {}),
                        ("03_attention", room("attention", "from datetime import date"), {}),
                        ("06a_metrics", room("metrics", "import torch"), {}),
                        ("05_trainer", room("trainer", "import matplotlib.pyplot as plt"), {}),
                        ("08_run", room("run", "import ipywidgets"), {}),
                        ("01_features", room("features", "from urllib import request"), {}),
                        ("01_features", room("features", "import yfinance"), {}),
                        ("01_features", room("features", "from fastcore.basics import patch"), {})],
    gates.heavy_imports: [("01_features", room("features", "from skfolio import Population"), {})],
    gates.leak_idioms: [("01_features", ["#| export\ny = x.bfill()"], {}),
                        ("01_features", ["#| export\ny = x.rolling(3, center=True).mean()"], {})],
    gates.pickled: [("01_room", ["import pickle"], {}), ("01_room", ["import torch\ntorch.load('w.pt')"], {}),
                    ("01_room", ["np.load('x.npy', allow_pickle=True)"], {})],
}
PLANTED = [pytest.param(gate, *case, id=f"{gate.__name__}-{number}")
           for gate, cases in VIOLATIONS.items() for number, case in enumerate(cases)]


@pytest.mark.parametrize("gate", gates.NOTEBOOK_GATES, ids=lambda gate: gate.__name__)
def test_notebooks_pass(gate):
    complaints = gate(NOTEBOOKS)
    assert not complaints, f"{gate.__doc__}:\n" + "\n".join(complaints)


@pytest.mark.parametrize("gate, name, cells, metadata", PLANTED)
def test_planted_violation_turns_the_gate_red(tmp_path, gate, name, cells, metadata):
    assert gate([plant(tmp_path, cells, f"{name}.ipynb", metadata)])


@pytest.mark.parametrize("gate", gates.NOTEBOOK_GATES, ids=lambda gate: gate.__name__)
def test_a_good_notebook_passes(tmp_path, gate):
    assert gate([plant(tmp_path, GOOD)]) == []


def test_every_gate_has_a_planted_violation():
    assert {*VIOLATIONS, gates.hidden_torch, gates.names_twice} == set(gates.NOTEBOOK_GATES)


def test_a_name_with_two_meanings_is_found(tmp_path):
    rooms = [plant(tmp_path, [f"#| default_exp {name}", UNIT], f"01{letter}_{name}.ipynb")
             for letter, name in (("a", "first"), ("b", "second"))]
    assert gates.names_twice(rooms) == ["one is defined in first and second: one name, one meaning"]
    assert gates.names_twice(rooms[:1]) == []


def test_a_method_with_an_entry_passes(tmp_path):
    cells = ["#| default_exp room", '#| export\nclass A:\n    "A thing"\n    def b(self): "B"', "A().b()", "show_doc(A.b)"]
    assert gates.missing_entries([plant(tmp_path, cells)]) == []


def test_numpydoc_sections_pass(tmp_path):
    text = '"""One.\n\n    Parameters\n    ----------\n    x, y : int\n        Two.\n\n    Returns\n    -------\n    int\n    """'
    assert gates.bad_docstrings([plant(tmp_path, [f"#| export\ndef sharpe(x, y)->int:\n    {text}"])]) == []


def test_two_children_make_a_family(tmp_path):
    family = "#| export\nclass _Base:\n    a = 1\nclass One(_Base):\n    b = 2\nclass Two(_Base):\n    b = 3"
    assert gates.only_children([plant(tmp_path, [family])]) == []


def test_hidden_torch_is_found_through_another_room(tmp_path):
    rooms = [plant(tmp_path, room("losses", "import torch"), "04c_losses.ipynb"),
             plant(tmp_path, room("forecast", "from hybrid_ssm.losses import crps"), "04d_forecast.ipynb"),
             plant(tmp_path, room("metrics", "from hybrid_ssm.forecast import Forecast"), "06a_metrics.ipynb")]
    assert len(gates.hidden_torch(rooms)) == 2
    assert gates.hidden_torch(rooms[:1]) == []


def test_a_skip_with_its_reason_passes(tmp_path):
    explained = ["A download, not run here because it needs the network:", "#| eval: false\nload_bars()"]
    assert gates.unexplained_skips([plant(tmp_path, explained)]) == []


def test_a_silent_notest_file_is_found(tmp_path):
    notebook = plant(tmp_path, GOOD)
    (tmp_path / ".notest").write_text("")
    assert gates.unexplained_skips([notebook])
    (tmp_path / ".notest").write_text("needs a broker's account")
    assert gates.unexplained_skips([notebook]) == []


# ---------------------------------------------------------------- files around the notebooks

def test_no_machine_paths():
    assert gates.machine_paths(ROOT) == []


def test_planted_machine_path(tmp_path):
    (tmp_path / "a.md").write_text("see /" + "home/me/notes")
    assert len(gates.machine_paths(tmp_path)) == 1


def test_no_pickle_in_modules():
    assert gates.pickled_modules(ROOT) == []


def test_planted_pickle_in_a_module(tmp_path):
    (tmp_path / "a.py").write_text("import pickle")
    assert len(gates.pickled_modules(tmp_path)) == 1


def test_libraries_are_declared():
    assert gates.undeclared(ROOT) == []


def test_planted_undeclared_library(tmp_path):
    shutil.copy(ROOT / "settings.ini", tmp_path)
    (tmp_path / "hybrid_ssm").mkdir()
    (tmp_path / "hybrid_ssm" / "a.py").write_text("import talib, polars\nfrom .b import c")
    assert gates.undeclared(tmp_path) == ["a.py imports polars, which settings.ini does not name"]


def test_modules_are_in_step(tmp_path):
    assert gates.out_of_step(ROOT, tmp_path) == []


def test_planted_edit_of_a_module(tmp_path):
    here = tmp_path / "here"
    plant(here / "nbs", GOOD)
    (here / "hybrid_ssm").mkdir()
    (here / "hybrid_ssm" / "__init__.py").write_text('__version__ = "0.1.0"\n')
    shutil.copy(ROOT / "settings.ini", here)
    missing = gates.out_of_step(here, tmp_path / "first")
    assert [line.split()[0] for line in missing] == ["hybrid_ssm/_modidx.py", "hybrid_ssm/room.py"]
    shutil.copytree(tmp_path / "first" / "hybrid_ssm", here / "hybrid_ssm", dirs_exist_ok=True)
    assert gates.out_of_step(here, tmp_path / "second") == []
    with (here / "hybrid_ssm" / "room.py").open("a") as module:
        module.write("# by hand\n")
    (here / "hybrid_ssm" / "orphan.py").write_text("")
    assert len(gates.out_of_step(here, tmp_path / "third")) == 2


def test_readme_is_in_step():
    assert gates.stale_readme(ROOT, TOOL) == []


def test_planted_edit_of_the_readme(tmp_path):
    plant(tmp_path / "nbs", ["# House\n> A promise.", "#| hide\nimport os", "A word on [bars](00_data.ipynb)."],
          "index.ipynb")
    plant(tmp_path / "nbs", GOOD, "00_data.ipynb")
    assert gates.stale_readme(tmp_path, TOOL)
    TOOL.prepare_readme(tmp_path)
    assert gates.stale_readme(tmp_path, TOOL) == []
    body = (tmp_path / "README.md").read_text()
    assert "(nbs/00_data.ipynb)" in body and "import os" not in body
    (tmp_path / "README.md").write_text(body + "More.\n")
    assert gates.stale_readme(tmp_path, TOOL)


def test_notebooks_are_at_rest():
    assert gates.restless(ROOT, TOOL) == []


def test_planted_unrest_is_found_and_brought_to_rest(tmp_path):
    bar = output("stream", name="stderr", text="done\n 50%|#####     | 4/8 [00:01<00:01]\r")
    widget = output("display_data", metadata={"a": 1}, data={
        "application/vnd.jupyter.widget-view+json": {}, "text/plain": "x"})
    plant(tmp_path / "nbs", [{**cell("1"), "id": "same"}, {**cell("2"), "id": "same"}, bar, widget],
          metadata={"widgets": {}})
    assert gates.restless(tmp_path, TOOL)
    assert len(TOOL.prepare_notebooks(tmp_path / "nbs")) == 1
    assert gates.restless(tmp_path, TOOL) == [] and TOOL.prepare_notebooks(tmp_path / "nbs") == []
    notebook, = gates.read_all(tmp_path / "nbs")
    assert gates.widget_state([notebook]) == []
    assert [len(c.outputs) for c in notebook.cells] == [0, 0, 1, 0]
    assert "".join(notebook.cells[2].outputs[0]["text"]) == "done\n"
