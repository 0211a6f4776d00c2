"""Importing stays light: what is loaded is asked of a fresh interpreter, the time it takes is not."""
import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("room", ["forecast", "calibration", "backtest", "metrics", "figures", "report", "costs"])
def test_torch_free_rooms_stay_so(room):
    assert loaded(f"import hybrid_ssm.{room}", {"torch"}) == set()


def test_the_probe_sees_a_heavy_import():
    assert loaded("import numpy", {"numpy"}) == {"numpy"}


def test_every_promised_name_exists():
    code = "import hybrid_ssm as h\nfor name in h.__all__: getattr(h, name)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
