"""Row 32: nothing but itself changes a row, and a run leaves its caller as it was."""
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from hybrid_ssm import run as running
from hybrid_ssm.calendars import align
from hybrid_ssm.config import parse_config
from hybrid_ssm.experiment import Experiment
from hybrid_ssm.handler import FinancialDataHandler

TEXT = """
name = "alone"
[data]
source = "{source}"
symbols = ["AAA", "BBB"]
benchmark = "IDX"
[features]
names = ["return_1", "return_21", "return_63"]
[folds]
test_start = "2014-01-01"
test_end = "2015-12-31"
years = 1
[models]
names = ["ridge", "lstm", "tsmom", "equal_weight", "index"]
state_dim = 2
memory_dim = 4
num_heads = 1
[train]
epochs = 1
seeds = [0, 1, 2]
window = 63
warm_up = 21
threads = 2
[compute]
backend = "sequential"
[costs]
bps = 5.0
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    "A configuration over two symbols of working days, an index, and a coin that trades every day"
    folder, rng, parts = tmp_path_factory.mktemp("market"), np.random.default_rng(0), []
    always = pd.date_range("2009-01-01", "2015-12-31")
    for symbol, days in dict(AAA=always[always.day_of_week < 5], BBB=always[always.day_of_week < 5],
                             IDX=always[always.day_of_week < 5], COIN=always).items():
        close = 100 * np.exp(rng.normal(3e-4, 0.01, len(days)).cumsum())
        parts.append(pd.DataFrame(dict(date=days, symbol=symbol, close=close)))
    pd.concat(parts).to_csv(folder / "prices.csv", index=False)
    return parse_config(TEXT.format(source=(folder / "prices.csv").as_posix())), folder / "runs"


def rows(base, **changes):
    "Net returns of every row, after `changes` to sections of the configuration"
    config, out = base
    new = {name: replace(getattr(config, name), **values) for name, values in changes.items()}
    result = Experiment(replace(config, **new)).run(out, progress=False)
    return {label: backtest.net_returns for label, backtest in result.backtests.items()}


RULES = ("tsmom", "equal_weight", "index")
VARIANTS = {
    "benchmark": (dict(data=dict(benchmark="COIN")), ("index",)),
    "further baselines": (dict(models=dict(names=("index", "macd", "equal_weight", "ewmac", "tsmom"))), ()),
    "further learners": (dict(models=dict(names=("index", "macd", "lstm", "equal_weight", "ridge", "tsmom"))), ()),
    "order of seeds": (dict(train=dict(seeds=(2, 0, 1))), ()),
    "threads": (dict(train=dict(threads=1)), ("LSTM",)),  # sums of a network round by thread
    "workers": (dict(compute=dict(workers=2, backend="loky")), ()),
}


def rules(base):
    "The same base without networks: seconds instead of minutes"
    config, out = base
    return replace(config, models=replace(config.models, names=RULES)), out


def stand_alone(base, names):
    "The rows of a plain run, found again to the last bit in every variant"
    def guard(run):
        plain = run(base)
        for name in names:
            changes, free = VARIANTS[name]
            found = run(base, **changes)
            for label in set(plain) & set(found) - set(free):
                assert plain[label].equals(found[label]), f"{name} changed {label}"
    return guard


def joined_in(base, **changes):
    "Planted: the sessions of the benchmark become sessions of the universe"
    honest = running.load_experiment

    def planted(config):
        data = honest(config)
        other = running.load_bars([config.data.benchmark], source=config.data.source)
        both = data.sessions.union(other.sessions[other.sessions <= data.sessions[-1]])
        universe = align(data.universe, both)
        handler = FinancialDataHandler(bars=universe, features=config.features, costs=config.costs.fraction)
        return running.ExperimentData(universe, align(data.index, both), handler)
    running.load_experiment = planted
    try:
        return rows(base, **changes)
    finally:
        running.load_experiment = honest


def test_rows_stand_alone(base):
    stand_alone(rules(base), ["benchmark", "further baselines"])(rows)


@pytest.mark.slow
def test_rows_stand_alone_in_every_variant(base):
    stand_alone(base, ["benchmark", "further learners", "order of seeds", "threads", "workers"])(rows)


def test_joined_sessions_are_seen(base, mutants):
    mutants.kill(32, "benchmark sessions joined in", stand_alone(rules(base), ["benchmark"]), joined_in)


def callers_state():
    "Everything that the caller's next random numbers, and its speed, depend on"
    return torch.get_rng_state().tolist(), [repr(part) for part in np.random.get_state()], torch.get_num_threads()


def one_network(base):
    "One network on one fold, beside a rule, with another number of threads than the caller has"
    rows(base, models=dict(names=("lstm", "tsmom")), train=dict(seeds=(0,)), folds=dict(years=2))


def one_task(base):
    "The same network as a task of its own, with the caller's threads"
    config, out = base
    data = running.load_experiment(config)
    fold, *_ = running._folds(config, data.sessions)
    running.run_task(running.Task(0, "lstm", 0), config, data, fold, out / "task", progress=False)


def changes_the_caller(run, name, planted):
    "Planted: `run` with the function `name` of the experiment replaced"
    def with_defect(base):
        honest = getattr(running, name)
        setattr(running, name, lambda *args: planted(honest, *args))
        try:
            run(base)
        finally:
            setattr(running, name, honest)
    return with_defect


def seeded_globally(honest, config, name, seed, symbols=0):
    torch.manual_seed(seed)
    return honest(config, name, seed, symbols)


@contextmanager
def threads_that_stay(honest, count):
    torch.set_num_threads(count)
    yield


def test_the_caller_is_left_as_it_was(base, mutants):
    def guard(run):
        torch.manual_seed(7)
        np.random.seed(7)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            before = callers_state()
            run(base)
            assert callers_state() == before
        finally:
            torch.set_num_threads(threads)

    guard(one_network)
    guard(one_task)
    mutants.kill(32, "a run that seeds its caller", guard, changes_the_caller(one_network, "build_model", seeded_globally))
    mutants.kill(32, "a task that seeds its caller", guard, changes_the_caller(one_task, "build_model", seeded_globally))
    mutants.kill(32, "a task that keeps its threads", guard, changes_the_caller(one_task, "limited_threads", threads_that_stay))
