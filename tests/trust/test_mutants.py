"""The counter of planted defects is itself tested: a guard that stays silent must turn the run red."""
import subprocess
import sys
from pathlib import Path

CONFTEST = Path(__file__).parent.parent / "conftest.py"
SUITE = '''
def guard(x): assert x > 0, "not positive"
def crash(x): raise TypeError("cannot judge")
def test_fires(mutants): mutants.kill(0, "negative number", guard, -1)
def test_silent(mutants): mutants.kill(0, "a defect nobody sees", guard, 1)
def test_crashes(mutants): mutants.kill(0, "a guard that breaks", crash, 1)
'''


def run_suite(folder, *picked):
    "Run the small suite above in a process of its own"
    (folder / "conftest.py").write_text(CONFTEST.read_text())
    (folder / "test_suite.py").write_text(SUITE)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(folder)]
    names = [str(folder / f"test_suite.py::{name}") for name in picked]
    return subprocess.run(command + names, cwd=folder, capture_output=True, text=True)


def test_a_guard_that_fires_is_counted(tmp_path):
    done = run_suite(tmp_path, "test_fires")
    assert done.returncode == 0, done.stdout
    assert "mutants killed 1/1" in done.stdout


def test_a_silent_or_broken_guard_is_a_failure(tmp_path):
    done = run_suite(tmp_path, "test_fires", "test_silent", "test_crashes")
    assert done.returncode == 1, done.stdout
    assert "mutants killed 1/3" in done.stdout
    assert "SURVIVED  row 0: a defect nobody sees" in done.stdout
    assert "1 passed" in done.stdout and "2 failed" in done.stdout
