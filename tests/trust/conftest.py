"""Every guard is shown a planted defect: `mutants` plants it, demands that the guard fires, and counts."""
from dataclasses import dataclass, field

import pytest


@dataclass
class Mutants:
    "The planted defects of one test run, and what became of them"
    killed: list = field(default_factory=list)
    survived: list = field(default_factory=list)

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



@pytest.fixture(scope="session")
def mutants(pytestconfig):
    "`mutants.kill(row, name, guard, planted)`: plant a defect and demand that its guard fires"
    return pytestconfig.stash.setdefault(_MUTANTS, Mutants())


def pytest_terminal_summary(terminalreporter, config):
    mutants = config.stash.get(_MUTANTS, None)
    if mutants is None or not (mutants.killed or mutants.survived):
        return
    terminalreporter.section("planted defects")
    for label in mutants.killed:
        terminalreporter.write_line(f"killed    {label}")
    for label in mutants.survived:
        terminalreporter.write_line(f"SURVIVED  {label}", red=True)
    terminalreporter.write_line(mutants.verdict, green=not mutants.survived, red=bool(mutants.survived), bold=True)
