"""Row 32: where tasks run changes no number; what was stopped or killed ends as if it had not been.

Workers are processes of this machine or of a dask cluster on it. A run that is killed, its parent or one of its workers,
leaves no process behind and is finished by `resume`.
"""
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import psutil
import pytest

from hybrid_ssm import run as running
from hybrid_ssm.compute import TaskError
from hybrid_ssm.config import ComputeConfig, parse_config

TEXT = """
name = "workers"
[data]
source = "{source}"
symbols = ["AAA", "BBB"]
benchmark = "IDX"
[features]
names = ["return_1", "return_21", "return_63"]
[folds]
test_start = "2013-01-01"
test_end = "2014-12-31"
years = 1
[models]
names = ["ridge", "lstm", "hybrid", "tsmom"]
state_dim = 2
memory_dim = 4
num_heads = 1
[train]
epochs = 1
seeds = [0, 1]
window = 63
warm_up = 21
stride = 63
threads = 1
[compute]
backend = "sequential"
[costs]
bps = 5.0
"""
SCRIPT = """
import signal
import sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a run that was started in the background ignores Ctrl-C
from dataclasses import replace
from hybrid_ssm.config import ComputeConfig, read_config
from hybrid_ssm.run import run_experiment
config = replace(read_config({config!r}), compute=ComputeConfig(2))
print(run_experiment(config, {out!r}, progress=False).complete)
"""  # no `if __name__ == "__main__"`: none is needed


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    "The configuration and its file: two symbols and an index; twelve tasks: three learners, two folds, two seeds"
    folder, rng, parts = tmp_path_factory.mktemp("market"), np.random.default_rng(0), []
    days = pd.bdate_range("2010-01-01", "2014-12-31")
    for symbol in ("AAA", "BBB", "IDX"):
        close = 100 * np.exp(rng.normal(3e-4, 0.01, len(days)).cumsum())
        parts.append(pd.DataFrame(dict(date=days, symbol=symbol, close=close)))
    pd.concat(parts).to_csv(folder / "prices.csv", index=False)
    (folder / "small.toml").write_text(TEXT.format(source=(folder / "prices.csv").as_posix()))
    return parse_config((folder / "small.toml").read_text()), folder / "small.toml"


def few(config):
    "Four tasks instead of twelve"
    return replace(config, models=replace(config.models, names=("lstm", "tsmom")), folds=replace(config.folds, test_end="2013-12-31"))


def run(config, out, **compute):
    "The net returns of every row"
    result = running.run_experiment(replace(config, compute=ComputeConfig(**compute)), out, progress=False)
    return pd.DataFrame({k: b.net_returns for k, b in result.backtests.items()}), result


def workers():
    "Processes that a run of this process has left"
    return [p for p in psutil.Process().children(recursive=True) if "LokyProcess" in " ".join(p.cmdline())]


@pytest.fixture(scope="module")
def plain(config, tmp_path_factory):
    "The net returns of all twelve tasks, one after another in this process"
    return run(config[0], tmp_path_factory.mktemp("plain"), backend="sequential")[0]


@pytest.fixture(scope="module")
def plain_few(config, tmp_path_factory):
    "The same of four tasks"
    return run(few(config[0]), tmp_path_factory.mktemp("few"), backend="sequential")[0]


def same(config, out, ways, plain):
    "Every way gives the same net returns as one task after another here"
    for way in ways:
        found, _ = run(config, out, **way)
        pd.testing.assert_frame_equal(found, plain, check_exact=True, obj=str(way))
        assert not workers(), f"{way} left processes behind"


def test_two_workers(config, tmp_path, plain_few):
    same(few(config[0]), tmp_path, [dict(workers=2)], plain_few)


@pytest.mark.slow
def test_a_worker_with_numbers_of_its_own_is_seen(config, tmp_path, plain_few, mutants, monkeypatch):
    honest = running.run_task

    def by_process(task, *rest):
        def planted(config, name, seed, symbols=0, build=running.build_model):
            return build(config, name, os.getpid(), symbols)
        running.build_model, kept = planted, running.build_model
        try:
            honest(task, *rest)
        finally:
            running.build_model = kept

    def guard(task):
        monkeypatch.setattr(running, "run_task", task)
        same(few(config[0]), tmp_path, [dict(workers=2)], plain_few)
    mutants.kill(32, "a worker that seeds from its process number", guard, by_process)


@pytest.mark.slow
def test_any_number_of_workers(config, tmp_path, plain):
    same(config[0], tmp_path, [dict(workers=1), dict(workers=2), dict(workers=4)], plain)


@pytest.mark.slow
def test_a_cluster_of_two(config, tmp_path, plain):
    pytest.importorskip("distributed")
    same(config[0], tmp_path, [dict(workers=2, backend="dask")], plain)


def interrupted(config, out, after):
    "Ctrl-C in the middle of the task number `after`; then the resumed run"
    honest, count = running.run_task, iter(range(99))

    def stops(task, *rest):
        if next(count) == after:
            task.folder(rest[3]).mkdir(parents=True)
            raise KeyboardInterrupt
        honest(task, *rest)
    running.run_task = stops
    try:
        with pytest.raises(KeyboardInterrupt):
            running.run_experiment(config, out, progress=False)
    finally:
        running.run_task = honest
    result = running.run_experiment(config, out, resume=True, progress=False)
    return pd.DataFrame({k: b.net_returns for k, b in result.backtests.items()})


def test_stopped_inside_a_task(config, tmp_path, plain_few, mutants, monkeypatch):
    small = few(config[0])

    def guard(done):
        monkeypatch.setattr(running.Task, "done", done)
        out = tmp_path / str(id(done))
        try:
            found = interrupted(small, out, after=1)
        except OSError as error:
            raise AssertionError("a task that was not finished counts as done") from error
        pd.testing.assert_frame_equal(found, plain_few, check_exact=True)
    guard(running.Task.done)
    mutants.kill(32, "a folder counts as a finished task", guard, lambda task, run: task.folder(run).exists())


def test_errors_name_their_task(config, tmp_path, monkeypatch):
    def fails(task, *rest):
        raise running.ConfigError("no such thing")
    monkeypatch.setattr(running, "run_task", fails)
    with pytest.raises(TaskError, match="fold 1 lstm seed 0: ConfigError: no such thing"):
        run(few(config[0]), tmp_path, backend="sequential")


def killed(config, out, how):
    "A run on two workers in a process of its own, disturbed after its first task; its words, and how many tasks were done"
    script = SCRIPT.format(config=str(config[1]), out=str(out))
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    parent, done = psutil.Process(process.pid), []
    while not done and process.poll() is None:
        time.sleep(0.01)
        done = list(out.glob("*/folds/*/*/*/forecast.parquet"))
    family = parent.children(recursive=True)
    workers = [p for p in family if "LokyProcess" in " ".join(p.cmdline())]
    for p in workers:  # on a busy machine they would finish everything before the signal arrives
        p.suspend()
    how(process, workers)
    for p in psutil.wait_procs(workers, timeout=3)[1]:
        p.resume()
    words = process.communicate(timeout=120)[0]
    left = psutil.wait_procs(family, timeout=30)[1]
    assert not left, f"still running: {left}"
    return words, len(list(out.glob("*/folds/*/*/*/forecast.parquet")))


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
@pytest.mark.parametrize("what", ["parent killed", "worker killed", "Ctrl-C"])
def test_killed_and_resumed(config, tmp_path, plain, what, tell):
    how = {"parent killed": lambda process, family: process.kill(), "worker killed": lambda process, family: family[0].kill(),
           "Ctrl-C": lambda process, family: process.send_signal(signal.SIGINT)}[what]
    words, done = killed(config, tmp_path / "killed", how)
    assert 0 < done < 12, f"{done} of 12 tasks were done"
    if what == "worker killed":
        assert "TaskError" in words and "--resume" in words, words
    result = running.run_experiment(config[0], tmp_path / "killed", resume=True, progress=False)
    found = pd.DataFrame({k: b.net_returns for k, b in result.backtests.items()})
    pd.testing.assert_frame_equal(found, plain, check_exact=True)
    tell(f"{what} after {done} of 12 tasks: the resumed table is the same")
