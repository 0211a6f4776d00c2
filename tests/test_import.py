"""Importing stays light: what is loaded is asked of a fresh interpreter, the time it takes is not."""
import subprocess
import sys
from pathlib import Path

import pytest

import hybrid_ssm

ROOT = Path(__file__).resolve().parent.parent


def loaded(statement, candidates):
    "Those of `candidates` that a fresh interpreter has loaded after `statement`"
    code = f"{statement}\nimport sys\nprint(*(m for m in {sorted(candidates)!r} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_the_package_loads_nothing_heavy():
    assert loaded("import hybrid_ssm", {"torch", "pandas", "numpy", "matplotlib", "scipy", "skfolio"}) == set()


def test_the_model_loads_torch_and_no_data_library():
    heavy = {"pandas", "matplotlib", "scipy", "skfolio", "seaborn", "yfinance", "ipywidgets"}
    assert loaded("import hybrid_ssm.hybrid", heavy | {"torch"}) == {"torch"}


@pytest.mark.parametrize("module", ["forecast", "calibration", "backtest", "metrics", "figures", "report", "costs", "plugins", "config", "keys", "trials", "cli"])
def test_torch_free_modules_stay_so(module):
    assert loaded(f"import hybrid_ssm.{module}", {"torch"}) == set()


def test_the_probe_sees_a_heavy_import():
    assert loaded("import numpy", {"numpy"}) == {"numpy"}


def test_every_promised_name_exists():
    code = "import hybrid_ssm as h\nfor name in h.__all__: getattr(h, name)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


TOP_LEVEL = {"AttentionExplorer", "Bars", "Ensemble", "Experiment", "FinancialDataHandler", "HybridFinancialModel", "ModelTrainer",
             "RegimeExplorer", "RiskPolicy", "league_table", "load_bars", "run_backtest", "sharpe", "walk_forward"}


def test_the_top_level_holds_these_names():
    assert set(hybrid_ssm.__all__) == TOP_LEVEL
    assert set(dir(hybrid_ssm)) >= TOP_LEVEL
    with pytest.raises(AttributeError, match="no attribute 'load_barz'"):
        hybrid_ssm.load_barz


SNIPPET = """
import hybrid_ssm
from hybrid_ssm import *
reveal_type(hybrid_ssm.load_bars)
reveal_type(Experiment.from_file("demo").run())
reveal_type(sharpe)
hybrid_ssm.load_barz
Experiment.from_file(3)
"""


def test_a_type_checker_sees_the_real_signatures(tmp_path):
    pytest.importorskip("mypy")
    (tmp_path / "snippet.py").write_text(SNIPPET)
    command = [sys.executable, "-m", "mypy", "--ignore-missing-imports", "--follow-imports=silent", str(tmp_path / "snippet.py")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    shown = [line.split(": ", 1)[1] for line in done.stdout.splitlines() if "snippet.py" in line]
    assert 'note: Revealed type is "def (symbols:' in shown[0] and shown[0].rstrip('"').endswith("-> hybrid_ssm.data.Bars")
    assert "hybrid_ssm.run.ExperimentResult" in shown[1] and "def (returns:" in shown[2]
    assert shown[3].startswith('error: Module has no attribute "load_barz"') and "incompatible type" in shown[4], done.stdout + done.stderr
