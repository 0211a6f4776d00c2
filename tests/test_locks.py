"""One process at a time works in a folder; its lock ends with it. And small guards that read no weights that were not trained."""
import os
import subprocess
import sys
from contextlib import contextmanager

import pandas as pd
import pytest
import torch

from hybrid_ssm import core
from hybrid_ssm.core import InUseError, exclusive
from hybrid_ssm.hybrid import HybridFinancialModel
from hybrid_ssm.ssm import ModelInputError

HOLD = "import sys, time\nfrom hybrid_ssm.core import exclusive\nwith exclusive(sys.argv[1]): print('in', flush=True); time.sleep(60)"


@contextmanager
def no_lock(folder):
    yield


@contextmanager
def lock_file_alone(folder):
    "A file that says that somebody is there, and stays when he is killed"
    mark = os.path.join(folder, "mark")
    try:
        open(mark, "x").close()
    except FileExistsError:
        raise InUseError(f"'{folder}' is in use by process 0") from None
    try:
        yield
    finally:
        os.unlink(mark)


def one_at_a_time(lock, folder):
    "The guard: the second is refused with folder and process, and enters once the first is gone"
    with lock(folder):
        try:
            with lock(folder):
                raise AssertionError("two at once")
        except InUseError as error:
            assert str(folder) in str(error) and str(os.getpid()) in str(error)
    with lock(folder):
        pass


def survives_a_kill(lock, folder, hold):
    "The guard: a killed process leaves no lock behind"
    with subprocess.Popen([sys.executable, "-c", hold, str(folder)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "in\n"
        with pytest.raises(InUseError):
            lock(folder).__enter__()
        other.kill()
    try:
        with lock(folder):
            pass
    except InUseError:
        raise AssertionError("the lock of a killed process") from None


def test_one_process_at_a_time(tmp_path, mutants):
    one_at_a_time(exclusive, tmp_path)
    survives_a_kill(exclusive, tmp_path, HOLD)
    mutants.kill(20, "run folder: no lock", lambda lock: one_at_a_time(lock, tmp_path), no_lock)
    plain = "import os, sys, time\nopen(os.path.join(sys.argv[1], 'mark'), 'x').close(); print('in', flush=True); time.sleep(60)"
    mutants.kill(20, "run folder: a lock that outlives its process", lambda lock: survives_a_kill(lock, tmp_path, plain), lock_file_alone)


def test_a_killed_holder_is_named_while_it_lives(tmp_path):
    (tmp_path / ".process.json").write_text("no json")
    assert core._holder(tmp_path / ".process.json") == "another process"


# ---- the head of a position that was not trained

def refuses_the_other_head(check, monkeypatch):
    monkeypatch.setattr("hybrid_ssm.hybrid._check_trained_head", check)
    model, x = HybridFinancialModel(2, 4, 3, 2, n_layers=1, windows=(5, 21)), torch.zeros(1, 4, 3)
    rule, empty = torch.zeros(1, 4), model.init_cache(1)
    calls = (
        lambda p: model(x, prior=p),
        lambda p: model.prefill(x, empty, prior=p),
        lambda p: model.step(x[:, 0], empty, prior=None if p is None else p[:, 0]),
    )
    for corrects, wrong, right in ((True, None, rule), (False, rule, None)):
        model.corrects_prior = corrects
        for call in calls:
            call(right)
            try:
                call(wrong)
            except ModelInputError:
                continue
            raise AssertionError("the other head was read")


def test_the_other_head_is_not_read(mutants, monkeypatch):
    from hybrid_ssm.hybrid import _check_trained_head as own

    refuses_the_other_head(own, monkeypatch)
    only_missing = lambda model, prior: own(model, prior) if model.corrects_prior else None
    for name, planted in (("no check", lambda model, prior: None), ("only a missing prior", only_missing)):
        mutants.kill(10, f"untrained head: {name}", lambda check: refuses_the_other_head(check, monkeypatch), planted)


# ---- a resumed run says what differs

def test_the_settings_that_differ_are_named():
    from dataclasses import asdict, replace

    from hybrid_ssm.config import Config
    from hybrid_ssm.run import setting_differences

    config = Config()
    later = replace(config, train=replace(config.train, epochs=9), costs=replace(config.costs, bps=7.0), title="other")
    found = setting_differences(asdict(config), asdict(later))
    assert len(found) == 2 and f"train.epochs was {config.train.epochs}, is 9" in found
    assert any(text.startswith("costs.bps was ") and text.endswith("is 7.0") for text in found)
    assert setting_differences(asdict(config), asdict(config)) == []


def test_short_history_is_said():
    from types import SimpleNamespace

    from hybrid_ssm.data import DataError
    from hybrid_ssm.feature_set import compute_features, find_features
    from hybrid_ssm.synthetic import factor_market
    from hybrid_ssm.trainer import ShortHistoryWarning, _check_history

    names = ("return_1", "return_21")
    panel = compute_features(factor_market(200, 2, 0).bars, names=names)
    data = SimpleNamespace(blank=(), _features=find_features(names))
    trainer = SimpleNamespace(data=data, options=dict(warm_up=20), model=HybridFinancialModel(2, 4, 2, 2, n_layers=1, windows=(5, 21)))
    check = lambda start, end: _check_history(trainer, panel, panel.sessions[start], panel.sessions[end])
    check(190, 199)
    with pytest.warns(ShortHistoryWarning, match="^6 sessions, "):
        check(70, 75)
    with pytest.raises(DataError, match="no feature has a value there"):
        check(0, 20)
    assert isinstance(panel.sessions, pd.DatetimeIndex)
