"""Every guard is shown a planted defect: `mutants` plants it, demands that the guard fires, and counts."""
import os
from dataclasses import dataclass, field

import pytest

os.environ["HYBRID_SSM_TRIALS"] = "off"  # what tests train is no trial of the user's


@dataclass
class Mutants:
    "The planted defects of one test run and what became of them, and the figures its guards tell"
    killed: list = field(default_factory=list)
    survived: list = field(default_factory=list)
    told: list = field(default_factory=list)

    def kill(self, row, name, guard, planted):
        "Run `guard(planted)`; it must raise AssertionError, or the mutant survives and the test fails"
        label = f"row {row}: {name}"
        try:
            guard(planted)
        except AssertionError:
            self.killed.append(label)
            return
        except Exception as error:  # a crash is no verdict: the guard never got to judge
            self.survived.append(f"{label} (guard crashed: {type(error).__name__}: {error})")
            raise
        self.survived.append(label)
        pytest.fail(f"mutant survived, so the guard proves nothing: {label}", pytrace=False)

    @property
    def verdict(self):
        "One line for the end of the run"
        return f"mutants killed {len(self.killed)}/{len(self.killed) + len(self.survived)}"


_MUTANTS = pytest.StashKey[Mutants]()


def _of(config):
    "What this process has counted so far"
    return config.stash.setdefault(_MUTANTS, Mutants())


@pytest.fixture(scope="session")
def mutants(pytestconfig):
    "`mutants.kill(row, name, guard, planted)`: plant a defect and demand that its guard fires"
    return _of(pytestconfig)


@pytest.fixture
def tell(request):
    "`tell(text)`: a figure that is printed at the end of the run, beside the test's name"
    return lambda text: _of(request.config).told.append(f"{request.node.name}: {text.strip()}")


def pytest_sessionfinish(session):
    "A worker process hands what it counted to the run that started it"
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["mutants"] = vars(_of(session.config))


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    "Add what a worker counted; one that crashed has nothing to hand over"
    for name, lines in getattr(node, "workeroutput", {}).get("mutants", {}).items():
        getattr(_of(node.config), name).extend(lines)


def pytest_terminal_summary(terminalreporter, config):
    mutants = _of(config)
    for line in sorted(mutants.told):
        terminalreporter.write_line(line)
    if not (mutants.killed or mutants.survived):
        return
    terminalreporter.section("planted defects")
    for label in sorted(mutants.killed):
        terminalreporter.write_line(f"killed    {label}")
    for label in sorted(mutants.survived):
        terminalreporter.write_line(f"SURVIVED  {label}", red=True)
    terminalreporter.write_line(mutants.verdict, green=not mutants.survived, red=bool(mutants.survived), bold=True)
