"""Row 16: every trial is counted. Lines are written before a trial runs, and no change of the registry stays unseen."""
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hybrid_ssm import trials as registry
from hybrid_ssm.trials import (
    Head,
    RegistryError,
    append_records,
    counted,
    note_trials,
    read_records,
    read_trials,
    start_trials,
)

DAYS = pd.bdate_range("2020-01-01", periods=40)


def fill(folder, count=12):
    "A registry of `count` trials, half of them finished, beside a run that names them"
    path = folder / "trials.jsonl"
    facts = [dict(name=f"row {i}", fingerprint=f"{i:08x}", run="run1") for i in range(count)]
    ids = start_trials(path, facts)
    note_trials(path, "finished", {i: dict(figures=dict(sharpe=0.01)) for i in [*ids][::2]})
    (folder / "run1").mkdir()
    (folder / "run1" / "run.json").write_text(json.dumps(dict(trials=ids)))
    return path


def damages(whole, rng, count):
    "Damaged copies of a file of lines: (name, bytes), each different from the original"
    lines = whole.splitlines(keepends=True)
    for k in range(count):
        i, j = sorted(rng.choice(len(lines), 2, replace=False))
        one = rng.integers(len(whole))
        other = bytes([(whole[one] + int(rng.integers(1, 256))) % 256])
        yield [
            ("deleted", lines[:i] + lines[i + 1 :]),
            ("first deleted", lines[1:]),
            ("last deleted", lines[: -1 - k % 5]),
            ("two deleted and one edited", [x.replace(b"row", b"raw") for x in lines[: i - 1] + lines[j:]] or lines[1:]),
            ("byte changed", [whole[:one] + other + whole[one + 1 :]]),
            ("byte removed", [whole[:one] + whole[one + 1 :]]),
            ("moved", lines[:i] + [lines[j]] + lines[i:j] + lines[j + 1 :]),
            ("doubled", lines[: i + 1] + lines[i:]),
            ("inserted", lines[:i] + [b'{"event": "started"}\n'] + lines[i:]),
            ("cut short", [whole[: max(1, one)]]),
        ][k % 10]


def seen(read, path, rng, count, tell=None):
    "Every damage raises the typed error of the registry; where it can be, with the line"
    whole, found = path.read_bytes(), 0
    for name, pieces in damages(whole, rng, count):
        path.write_bytes(b"".join(pieces))
        assert path.read_bytes() != whole
        try:
            read(path)
        except RegistryError as error:
            found += 1
            assert error.line > 0, f"{name}: no line is named"
    path.write_bytes(whole)
    read(path)
    assert found == count, f"{count - found} of {count} changes stay unseen"
    if tell:
        tell(f"{count} edits and deletions, {found} detected")


def without_hashes(path):
    "Planted: lines are read as JSON, and nothing is compared"
    try:
        for line in path.read_text().splitlines():
            json.loads(line)
    except ValueError as error:
        raise RegistryError(str(error), path, 1) from error


def without_head(path):
    "Planted: the chain is checked, its end is not"
    previous = Head().hash
    for i, raw in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
        previous = registry.checked_line(raw, i, previous, path)["hash"]


@pytest.mark.parametrize("count", [100, pytest.param(5000, marks=pytest.mark.slow)])
def test_every_change_of_the_registry_is_detected(count, tmp_path, mutants, tell, monkeypatch):
    monkeypatch.setattr(registry.read_records, "__defaults__", (0.0,))  # nobody else writes here
    path = fill(tmp_path)
    seen(read_trials, path, np.random.default_rng(16), count, tell)
    for planted in (without_hashes, without_head):
        guard = lambda read: seen(read, path, np.random.default_rng(16), 100)
        whole = path.read_bytes()
        mutants.kill(16, planted.__doc__.removeprefix("Planted: "), guard, planted)
        path.write_bytes(whole)


def test_every_byte_of_the_head_counts(tmp_path):
    path = fill(tmp_path, 3)
    head = path.with_suffix(".head")
    whole = head.read_bytes()
    for place in range(len(whole)):
        head.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(RegistryError):
            read_trials(path)
    head.unlink()
    with pytest.raises(RegistryError, match="head"):
        read_trials(path)
    head.write_bytes(whole)
    read_trials(path)


def shortened(path, keep):
    "Rewrite registry and head consistently, with the first `keep` lines only"
    lines = path.read_bytes().splitlines(keepends=True)[:keep]
    head = Head(keep, 0, sum(map(len, lines)), json.loads(lines[-1])["hash"])
    path.write_bytes(b"".join(lines))
    registry._write_head(path, head)


def test_a_registry_shortened_with_its_head_disagrees_with_its_runs(tmp_path):
    path = fill(tmp_path)
    shortened(path, 11)
    assert read_records(path)[1].lines == 11  # the chain alone shows nothing
    with pytest.raises(RegistryError, match="run1"):
        read_trials(path)


def test_a_writer_refuses_a_shortened_registry(tmp_path):
    path = fill(tmp_path)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    with pytest.raises(RegistryError, match="is missing"):
        append_records(path, [dict(event="started", trial="1")])


KILLED = """
import sys, time
from pathlib import Path
import {module}
with {module}.{counted}(Path(sys.argv[1]), name="killed", fingerprint="1") as trial:
    Path(sys.argv[1], "runs").touch()   # it runs
    time.sleep(60)
"""


@contextmanager
def written_after(place, **facts):
    "Planted: a trial is written down when it has ended"
    yield
    start_trials(Path(place) / "trials.jsonl", [facts])


def killed_run_counts(module_and_name, folder):
    "A process is killed within a trial; the trial is counted, and known to have been killed"
    module, name = module_and_name
    folder.mkdir()
    path = [str(Path(__file__).parent), *sys.path]
    code = KILLED.format(module=module, counted=name)
    child = subprocess.Popen([sys.executable, "-c", code, str(folder)], env=os.environ | {"PYTHONPATH": os.pathsep.join(path)})
    try:
        for _ in range(6000):
            if (folder / "runs").exists() or child.poll() is not None:
                break
            time.sleep(0.01)
        assert (folder / "runs").exists(), "the trial did not begin"
        before = read_trials(folder).items if (folder / "trials.jsonl").exists() else ()
        assert [t.state for t in before] == ["started"], "it runs and is not written down"
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    after = read_trials(folder)
    assert [t.state for t in after.items] == ["killed"] and after.count == 1


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_a_killed_run_is_counted(tmp_path, mutants):
    killed_run_counts(("hybrid_ssm.trials", "counted"), tmp_path / "real")
    planted = ("test_16_every_trial_is_counted", "written_after")
    mutants.kill(16, "write after the run", lambda name: killed_run_counts(name, tmp_path / "late"), planted)


def write_many(path, who, count):
    "What one of several processes does"
    for i in range(count):
        start_trials(path, [dict(name=f"{who}-{i}", fingerprint=str(i))])


def together(append, folder, processes=4, count=50):
    "Several processes write at once: no line is lost, and the chain is whole"
    folder.mkdir()
    path = folder / "trials.jsonl"
    kept, registry.append_records = registry.append_records, append
    try:
        fork = multiprocessing.get_context("fork")
        jobs = [fork.Process(target=write_many, args=(path, who, count)) for who in range(processes)]
        for job in jobs:
            job.start()
        for job in jobs:
            job.join()
    finally:
        registry.append_records = kept
    try:
        names = {t.name for t in read_trials(path).items}
    except RegistryError as error:
        raise AssertionError(f"the chain is broken: {error}") from error
    assert names == {f"{w}-{i}" for w in range(processes) for i in range(count)}


def without_lock(path, facts):
    "Planted: no lock is held while a line is added"
    kept, registry._locked = registry._locked, lambda *a: open(os.devnull)  # noqa: SIM115
    try:
        return append_records(path, facts)
    finally:
        registry._locked = kept


@pytest.mark.skipif(sys.platform != "linux", reason="the processes are forked")
@pytest.mark.parametrize("count", [50, pytest.param(500, marks=pytest.mark.slow)])
def test_processes_write_at_once(count, tmp_path, mutants, tell):
    together(append_records, tmp_path / "real", count=count)
    mutants.kill(16, "no lock", lambda append: together(append, tmp_path / "mutant"), without_lock)
    tell(f"4 processes x {count} trials at once: none lost")


def test_a_resumed_trial_counts_once_and_a_repeat_is_told_apart(tmp_path):
    returns = pd.Series(np.random.default_rng(0).normal(size=40) * 0.01, DAYS)
    for _ in range(2):
        with counted(tmp_path, name="same", fingerprint="1") as trial:
            note_trials(trial.path, "resumed", {trial.id: {}})
            trial.returns = returns
    found = read_trials(tmp_path)
    assert (found.count, found.starts) == (1, 2)
    pd.testing.assert_series_equal(found.returns()["same"], returns, check_names=False, check_freq=False)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_a_killed_experiment_is_counted_row_by_row(tmp_path, tell):
    rows, few = ["--models", "tsmom", "ridge", "lstm"], ["--symbols", "KO", "PEP", "JPM", "--workers", "1"]
    command = [sys.executable, "-m", "hybrid_ssm", "demo", "--quick", "--no-progress", *rows, *few, "--out", str(tmp_path)]
    child = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        while not [*tmp_path.glob("*/run.json")] and child.poll() is None:
            time.sleep(0.02)
    finally:
        child.kill()
        child.wait()
    found = read_trials(tmp_path)
    assert [(t.name, t.state) for t in found.items] == [(n, "killed") for n in ("TSMOM", "ridge", "LSTM", "long only")]
    tell(f"a killed experiment of four rows and the index: N = {found.count}")
