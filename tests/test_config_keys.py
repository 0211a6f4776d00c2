"""Every key of a configuration does what it says: none is read by nothing.

The keys are those that `hybrid_ssm config --all` prints. Each has a probe: a value that is not the default, and a part of the
experiment that has to come out differently. A key without a probe fails, and so does a probe that sees no difference.
"""
import json
import re
from dataclasses import asdict, dataclass, field
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

import hybrid_ssm.cli as cli
import hybrid_ssm.config as config_room
import hybrid_ssm.experiment as experiment
import hybrid_ssm.run as running
from hybrid_ssm.backtest import RuinError
from hybrid_ssm.config import Config, changed, config_from_dict, parse_config
from hybrid_ssm.core import ConfigError, HybridSSMError
from hybrid_ssm.data import Bars
from hybrid_ssm.forecast import Forecast, average_forecasts
from hybrid_ssm.keys import full_text
from hybrid_ssm.losses import Batch
from hybrid_ssm.plugins import FITTED_AT_ONCE, LEARNER_NAMES
from hybrid_ssm.run import Task
from hybrid_ssm.synthetic import factor_market
from hybrid_ssm.trainer import ModelTrainer, TrainOptions

SMALL = {
    "features.names": ["return_1", "return_5"],
    "folds.test_start": "2019-06-01", "folds.test_end": "2019-12-31", "folds.years": 1, "folds.embargo": 5,
    "models.names": ["hybrid", "tsmom"], "models.memory_dim": 8, "models.state_dim": 4, "models.num_heads": 2, "models.n_layers": 1,
    "train.window": 42, "train.warm_up": 21, "train.stride": 21, "train.threads": 1, "train.epochs": 3,
    "costs.bps": 5., "compute.backend": "sequential",
}
MARKET = factor_market(400, ["A", "B", "C"], 0).bars
DAYS = MARKET.sessions

SECTORS = {"A": "x", "B": "x", "C": "y"}


def loaded(config, patch):
    "What is asked of the source of the bars, and what the experiment gets"
    calls = []

    def load(symbols, start, end, source, instruments, **options):
        calls.append(repr((symbols, start, end, source, instruments, sorted(options.items()))))
        days = {"close": MARKET.close, "open": MARKET.close, "volume": MARKET.close * 0 + 1}
        if symbols in (None, ["A"]):
            return Bars(**{n: f[symbols or ["A", "B", "C"]] for n, f in days.items()})
        return Bars(**{n: f[["A"]].set_axis(symbols, axis=1) for n, f in days.items()})
    patch.setattr(running, "load_bars", load)
    data = running.load_experiment(config)
    return calls, data.universe.periods, data.index.periods, data


def asked(config, patch):
    "The calls and the periods of them"
    return loaded(config, patch)[:3]


def features(config, patch):
    "The columns of the panel"
    return loaded(config, patch)[3].handler.panel.names


def folds(config, patch):
    "The rows of every fold"
    return [[tuple(rows) for rows in (f.train, f.valid, f.test)] for f in running._folds(config, DAYS)]


def network(config, patch):
    "The constructor's arguments of the hybrid"
    return running.build_model(config, "hybrid", 0, 3).config


def rows(config, patch):
    "The rows, and the configuration of the last one"
    return config.rows, config.row(config.models.names[-1])


def trainer(config, patch):
    "The trainer of a task"
    return running.make_trainer(config, loaded(config, patch)[3], Task(0, "hybrid", 0))


def prior(config, patch):
    "The rule that the trainer corrects"
    return getattr(trainer(config, patch), "prior", None)


def objective(config, patch):
    "The trainer's objective on one batch, or why there is none"
    return score(trainer(config, patch).loss)


def score(loss, regimes=3):
    "An objective on one batch of a network with so many regimes, or why there is none"
    rng = torch.Generator().manual_seed(0)
    normal = lambda *shape: torch.randn(*shape, generator=rng)
    b, l, h = 4, 30, 3
    out = SimpleNamespace(mean=normal(b, l, h), scale=normal(b, l, h).exp(), df=3 + normal(b, l, h).exp(), position=normal(b, l).tanh(),
                          regime=normal(b, l, regimes).softmax(-1))
    batch = Batch(normal(b, l, 2), normal(b, l, 2) > 0, torch.ones(b, l), torch.arange(b), normal(b, l, h), torch.full((b, l), .01),
                  torch.zeros(b, dtype=torch.long), index=normal(b, l))
    try:
        return loss(out, batch).total.item()
    except HybridSSMError as error:
        return str(error)


def training(config, patch):
    "What the trainer is told by a task, with which threads, and what becomes of its forecast"
    seen, frame = [], SimpleNamespace(window=lambda *days: SimpleNamespace(to_parquet=lambda path: None))

    def train(self, epochs, learning_rate, fold, options, trials):
        seen.append((epochs, learning_rate, str(options), torch.get_num_threads()))
    patch.setattr(ModelTrainer, "train_model", train)
    patch.setattr(ModelTrainer, "save", lambda *a: None)
    patch.setattr(ModelTrainer, "predict", lambda *a: frame)
    patch.setattr(running, "explain_fold", lambda *a: SimpleNamespace(save=lambda folder: None))
    patch.setattr(running, "recalibrate", lambda *a: seen.append("recalibrated") or frame)
    patch.setattr(running, "write_atomic", lambda *a: None)
    data = loaded(config, patch)[3]
    running.run_task(Task(0, "hybrid", 0), config, data, running._folds(config, data.sessions)[0], running.Path("nowhere"), False)
    return seen


def tasks(config, patch):
    "The units of work"
    return running.all_tasks(config, [None])


def forecast(seed, days=DAYS[-60:]):
    "A forecast of three symbols at two horizons"
    rng = np.random.default_rng(seed)
    frame = lambda values: pd.DataFrame(values, days, MARKET.symbols)
    draw = lambda: {h: frame(rng.normal(size=(len(days), 3))) for h in (1, 5)}
    flat = lambda value: {h: frame(np.full((len(days), 3), value)) for h in (1, 5)}
    return Forecast(frame(np.tanh(rng.normal(size=(len(days), 3)))), draw(), flat(1.), flat(5.))


def ensemble(config, patch):
    "Two seeds as one forecast"
    members = [forecast(0), forecast(1)]
    out = running.combine_seeds(config, average_forecasts(members), members)
    return type(out).__name__, out.position.sum().tolist()


def weights(config, patch):
    "What the hybrid holds, on a market with a gap"
    gone = MARKET.close.copy()
    gone.iloc[-40:-35, 0] = np.nan
    data = SimpleNamespace(universe=Bars(close=gone, volume=gone * 0 + 1e4))
    held = running.target_weights(config, data, {"hybrid": forecast(0)}, DAYS[-60:], ["hybrid"])
    return held["hybrid"].to_numpy().round(12).tolist()


def costs(config, patch):
    "What a backtest is told"
    seen = []

    def backtest(frame, bars, costs, **options):
        seen.append((costs.tolist() if hasattr(costs, "tolist") else costs, sorted(options.items())))
        raise RuinError("seen enough")
    patch.setattr(running, "run_backtest", backtest)
    table = pd.DataFrame(.1, DAYS[-9:], MARKET.symbols)
    bars = Bars(close=MARKET.close, instruments=pd.DataFrame({"cost_fraction": 2e-4}, MARKET.symbols))
    running.run_backtests({"x": table}, config, SimpleNamespace(universe=bars))
    return repr(seen)


def computing(config, patch):
    "Where the tasks are computed"
    seen = []
    patch.setattr(running, "run_all", lambda work, tasks, shared, *where: seen.append(where[:3]))
    data = loaded(config, patch)[3]
    running.run_tasks(config, data, running._folds(config, data.sessions), running.Path("nowhere"), False)
    return seen


def extensions(config, patch):
    "The names that plugins bring"
    return [*config.extensions.rules]


def titled(config, patch):
    "What the command line says first"
    said = []

    def stop(self, *args):
        raise KeyboardInterrupt
    patch.setattr(experiment.Experiment, "run", stop)
    patch.setattr(cli, "read_config", lambda *a: config)
    patch.setattr(cli, "print", lambda *text, **where: said.append(text), raising=False)
    assert cli.main(["demo"]) == 130
    return said


def noted(config, patch):
    "The notes beside the table"
    account = SimpleNamespace(net_returns=pd.Series(.01, DAYS) + np.random.default_rng(0).normal(size=400) * .01, periods=252.)
    universe = Bars(close=MARKET.close)
    names = "folder folds forecasts weights backtests complete selection"
    facts = dict.fromkeys(names.split()) | dict(config=config, forecasts={}, folds=(), weights={}, backtests={"x": account}, complete=True)
    return running._notes(SimpleNamespace(**facts, data=SimpleNamespace(universe=universe, sessions=DAYS)))


def run_name(config, patch):
    "The name of the folder of a run"
    made = []
    patch.setattr(running, "start_trials", lambda path, facts: made.append(facts[0]["run"].split("-")[2]) or {})
    patch.setattr(running, "write_json", lambda *a: None)
    patch.setattr(running.Path, "mkdir", lambda self, **how: None)
    running.open_run(config, SimpleNamespace(universe=MARKET, index=MARKET), running.Path("nowhere"))
    return made


def quick(config, patch):
    "The training of a quick run"
    return config.quickened().train


@dataclass
class Probe:
    "A value that is not the default, where it shows, and what else has to be set"
    value: object
    look: object
    given: dict = field(default_factory=dict)


CANDIDATE = {"candidates.wide.model": "hybrid", "models.names": ["hybrid", "tsmom", "wide"]}
LAW = {"risk.signal": "law"}
PLUGIN = "RULES = {'flat': lambda bars: bars.close * 0}\nLOSSES = {'mine': lambda out, batch: type('L', (), {'total': out.mean.mean()})}\n"
PROBES = {
    "name": Probe("other", run_name),
    "title": Probe("Other words", titled),
    "notes": Probe(["a word"], noted),
    "plugins": Probe("PLUGIN", extensions),
    "data.source": Probe("yahoo", asked), "data.instruments": Probe("i.csv", asked), "data.start": Probe("2018-06-01", asked),
    "data.end": Probe("2019-12-01", asked), "data.symbols": Probe(["A"], asked), "data.benchmark": Probe("B", asked),
    "data.periods": Probe(250., asked), "data.columns": Probe({"Last": "close"}, asked), "data.wide": Probe("open", asked),
    "data.date_format": Probe("%d.%m.%Y", asked), "data.decimal": Probe(",", asked), "data.thousands": Probe(".", asked),
    "data.separator": Probe(";", asked), "data.encoding": Probe("cp1252", asked), "data.comment": Probe("#", asked),
    "data.footer": Probe(1, asked), "data.missing": Probe(["-"], asked), "data.timezone": Probe("America/New_York", asked),
    "data.calendar": Probe("XNYS", asked), "data.accept": Probe(["100x jump"], asked), "data.strict": Probe(True, asked),
    "data.repair": Probe("drop", asked),
    "features.names": Probe(["return_1", "rsi_14"], features),
    "folds.test_start": Probe("2019-07-01", folds), "folds.test_end": Probe("2019-11-30", folds),
    "folds.years": Probe(1, folds, {"folds.test_start": "2018-12-15", "folds.years": 2}),
    "folds.embargo": Probe(9, folds), "folds.valid_fraction": Probe(.3, folds),
    "models.names": Probe(["hybrid"], rows), "models.state_dim": Probe(5, network), "models.memory_dim": Probe(16, network),
    "models.num_heads": Probe(4, network), "models.n_layers": Probe(3, network), "models.n_regimes": Probe(2, network),
    "models.windows": Probe([5, 9], network), "models.coupling": Probe("series", network), "models.asset_embedding": Probe(True, network),
    "models.dropout": Probe(.1, network), "models.rule": Probe("hold", network), "models.rotary": Probe(True, network),
    "models.forget": Probe(True, network), "models.kv_heads": Probe(1, network), "models.positions": Probe("rotary", network),
    "models.prior": Probe("tsmom", prior),
    "loss.name": Probe("mine", objective, {"plugins": "PLUGIN"}),
    **{f"loss.{n}": Probe(.7, objective) for n in ("likelihood", "sharpe", "crps", "direction", "quantile", "portfolio", "softmin", "turnover", "index",
                                                   "stickiness", "traded")},
    "loss.cost_multiple": Probe(2., objective), "loss.temperature": Probe(2., objective, {"loss.softmin": 1.}),
    "loss.levels": Probe([.1, .9], objective, {"loss.quantile": 1.}), "loss.learned": Probe(True, objective),
    "loss.periods": Probe(52., objective),
    "train.epochs": Probe(5, training), "train.learning_rate": Probe(1e-3, training), "train.seeds": Probe([3], tasks),
    "train.window": Probe(63, training), "train.warm_up": Probe(10, training), "train.stride": Probe(10, training),
    "train.batch_size": Probe(8, training), "train.micro_batch": Probe(4, training), "train.by_date": Probe(True, training),
    "train.schedule": Probe("cosine", training), "train.precision": Probe("bf16", training), "train.clip": Probe(.5, training),
    "train.weight_decay": Probe(.1, training), "train.patience": Probe(1, training), "train.floor": Probe(2, training),
    "train.smooth": Probe(2, training), "train.average": Probe(.9, training), "train.threads": Probe(2, training),
    "train.calibrate": Probe(True, training),
    "ensemble.combine": Probe("mixture", ensemble), "ensemble.disagreement": Probe(1., ensemble),
    "costs.bps": Probe(9., costs), "costs.fill": Probe("next_close", costs), "costs.borrow": Probe(.02, costs), "costs.financing": Probe(.03, costs),
    "costs.delisting_return": Probe(-.5, costs), "costs.impact": Probe(.2, costs, {"costs.capital": 1e6, "costs.impact": .1}),
    "costs.capital": Probe(1e6, costs, {"costs.impact": .1, "costs.capital": 1e7}),
    "risk.volatility_target": Probe(.2, weights), "risk.max_weight": Probe(.05, weights), "risk.max_gross": Probe(.2, weights), "risk.span": Probe(20, weights),
    "risk.buffer": Probe(.3, weights), "risk.signal": Probe("law", weights), "risk.horizon": Probe(5, weights, LAW),
    "risk.scaling": Probe("none", weights), "risk.max_stale_sessions": Probe(1, weights), "risk.decorrelate": Probe(True, weights),
    "risk.decorrelate_span": Probe(30, weights, {"risk.decorrelate": True}),
    "risk.volatility_targets": Probe({"A": .3}, weights), "risk.allocator": Probe("hrp", weights),
    "risk.allocator_window": Probe(60, weights, {"risk.allocator": "hrp"}),
    "risk.caution": Probe(2., weights), "risk.max_net": Probe(.01, weights), "risk.max_sector": Probe(.02, weights, {"risk.sectors": SECTORS}),
    "risk.sectors": Probe({"A": "x", "B": "y", "C": "y"}, weights, {"risk.max_sector": .02, "risk.sectors": SECTORS}),
    "risk.max_beta": Probe(.01, weights), "risk.max_correlation": Probe(.1, weights), "risk.index": Probe("A", weights, {"risk.max_beta": .01}),
    "risk.max_volume": Probe(.001, weights, {"risk.capital": 1e6, "risk.max_volume": 1.}),
    "risk.capital": Probe(1e9, weights, {"risk.max_volume": 1., "risk.capital": 1e6}),
    "risk.max_var": Probe(.001, weights), "risk.max_es": Probe(.001, weights), "risk.tail_level": Probe(.2, weights, {"risk.max_var": .001}),
    "risk.tail_window": Probe(30, weights, {"risk.max_var": .001}), "risk.brake_drawdown": Probe(.002, weights),
    "risk.brake_scale": Probe(.2, weights, {"risk.brake_drawdown": .002}), "risk.brake_release": Probe(.01, weights, {"risk.brake_drawdown": .002}),
    "risk.kill_drawdown": Probe(.002, weights), "risk.kill_sessions": Probe(5, weights, {"risk.kill_drawdown": .002}),
    "candidates": Probe({"wide": {"model": "hybrid", "models": {"memory_dim": 16}}}, rows, CANDIDATE),
    "select.names": Probe(["hybrid", "tsmom"], rows), "select.first": Probe("tsmom", lambda config, patch: config.select.first, {"select.names": ["hybrid", "tsmom"]}),
    "compute.workers": Probe(2, computing), "compute.backend": Probe("loky", computing),
    "compute.address": Probe("tcp://host:8786", computing, {"compute.backend": "dask"}),
    "quick": Probe({"epochs": 1}, quick),
}
NO_NUMBER = {"title", "notes", "compute.workers", "compute.backend", "compute.address"}  # they are no part of the fingerprint


def printed(text):
    "The keys that `config --all` prints"
    section, out = "", []
    for line in text.splitlines():
        if head := re.match(r"(?:# )?\[(\w+)(\.NAME)?\]", line):
            section = head[1]
            out += [section] if section in ("quick", "candidates") else []
        elif section != "candidates" and (key := re.match(r"(?:# )?(\w+) =", line)):
            out.append(f"{section}.{key[1]}".lstrip("."))
    return out


def check_each_has_a_probe(text):
    "No key without a probe, no probe without a key"
    keys = printed(text)
    assert len(keys) == len(set(keys)) > 90
    assert set(keys) == set(PROBES), set(keys) ^ set(PROBES)


def two(key, probe, folder):
    "The configurations without and with the value"
    (folder / "mine.py").write_text(PLUGIN)
    real = lambda value: [str(folder / "mine.py")] if value == "PLUGIN" else value
    given = {k: real(v) for k, v in (SMALL | probe.given).items()}
    return changed(Config(), given), changed(Config(), given | {key: real(probe.value)})


def check_it_shows(key, probe, folder):
    "The part of the experiment that the key is about comes out differently"
    seen = []
    for config in two(key, probe, folder):
        with pytest.MonkeyPatch.context() as patch:
            seen.append(probe.look(config, patch))
    assert seen[0] != seen[1], f"{key} = {probe.value!r} changes nothing"


def check_fingerprints(probes, folder):
    "A key that changes a number changes the fingerprint, no other does; so does it in a candidate"
    for key, probe in probes.items():
        without, given = two(key, probe, folder)
        assert (without.fingerprint != given.fingerprint) == (key not in NO_NUMBER), key
        assert parse_config(full_text(given)) == config_from_dict(json.loads(json.dumps(asdict(given))), given.plugins) == given, key


def test_every_key_but_words_and_machines_is_in_the_fingerprint(tmp_path, mutants, monkeypatch):
    honest = config_room._fingerprint_tree

    def guard(tree):
        monkeypatch.setattr(config_room, "_fingerprint_tree", tree)
        check_fingerprints(PROBES, tmp_path)
    guard(honest)
    mutants.kill(32, "a section that is not in the fingerprint", guard, lambda config: {k: v for k, v in honest(config).items() if k != "ensemble"})


def test_every_key_has_a_probe(mutants):
    text = full_text()
    check_each_has_a_probe(text)
    mutants.kill(32, "a key that nothing looks at", check_each_has_a_probe, text.replace("clip =", "momentum = 0.9\nclip =", 1))


@pytest.mark.parametrize("key", PROBES)
def test_a_key_does_what_it_says(key, tmp_path):
    check_it_shows(key, PROBES[key], tmp_path)


def test_a_key_that_nothing_reads_is_found(mutants, tmp_path, monkeypatch):
    deaf = running.HybridFinancialModel

    def guard(model):
        monkeypatch.setattr(running, "HybridFinancialModel", model)
        check_it_shows("models.dropout", PROBES["models.dropout"], tmp_path)
    guard(deaf)
    mutants.kill(32, "a key of the configuration that nothing reads", guard, lambda *sizes, dropout, **options: deaf(*sizes, **options))


def refusal(changes):
    "Why a configuration with these keys is refused; empty where it is not"
    try:
        changed(Config(), changes)
    except ConfigError as error:
        return str(error)
    return ""


# --- a candidate: each key that it accepts is read by its row

LARGER = {"models.state_dim": 32, "models.num_heads": 8, "models.memory_dim": 32}  # a width is a whole number: a small step may not move it


def alike(learner, section):
    "The learner whose row reads the same keys of a section, so that not all have to be built"
    if learner.startswith("hybrid"):
        return "hybrid" if learner == "hybrid" or section != "models" else "hybrid_parallel"
    return learner if section == "models" or learner in FITTED_AT_ONCE else "lstm"


def read_of(config, learner, section, data):
    "What a row of a learner is made and trained by, as far as it reads the configuration"
    row = config.row("x")
    network = running.build_model(config, "x", 0, 3) if section == "models" else None
    made = network and (network.config, network.num_parameters), row.ensemble, row.risk, row.train.seeds, row.train.threads, row.train.calibrate
    t, fold = row.train, running._folds(config, data.sessions)[0]
    if learner in FITTED_AT_ONCE:
        windows = data.handler.prepare_training_data(t.window, fold, t.stride, t.warm_up).train
        return made, len(windows), windows[0].target.shape, np.isfinite(np.stack([w.target for w in windows])).sum()
    return made, row.prior, t, score(row.objective, 3 if learner.startswith("hybrid") else 1)


def check_candidate_keys(learners, folder):
    "Every key that a candidate accepts changes what its row is made or trained by; the others are refused by name"
    refused = set()
    with pytest.MonkeyPatch.context() as patch:
        data = loaded(changed(Config(), SMALL), patch)[3]
    for key, probe in PROBES.items():
        section, _, name = key.partition(".")
        if section not in config_room.CANDIDATE_SECTIONS or name == "names":
            continue
        without = two(key, probe, folder)[0]
        for learner in (n for n in learners if alike(n, section) == n):
            plain = changed(without, {"candidates.x.model": learner, "models.names": ["hybrid", "x"]})
            try:
                given = changed(plain, {f"candidates.x.{key}": LARGER.get(key, probe.value)})
            except ConfigError as error:
                assert f"'{learner}'" in str(error) and f"candidates.x.{section}" in str(error), error
                refused.add((learner, key))
                continue
            assert read_of(plain, learner, section, data) != read_of(given, learner, section, data), f"{learner}: {key} is accepted and changes nothing"
    return refused


def test_a_candidate_accepts_what_its_row_reads(tmp_path, mutants, monkeypatch):
    for section in config_room.CANDIDATE_SECTIONS:
        for learner in LEARNER_NAMES:
            assert config_room._keys_read(learner, section) == config_room._keys_read(alike(learner, section), section)
    refused = check_candidate_keys(LEARNER_NAMES, tmp_path)
    assert {("ridge", "train.epochs"), ("boosting", "loss.crps"), ("ridge", "models.prior"), ("hybrid_parallel", "models.coupling")} <= refused
    assert not {key for learner, key in refused if learner == "hybrid"}
    assert {(n, k) for n, k in refused if k.startswith("train.")} == {
        (n, f"train.{k}") for n in FITTED_AT_ONCE for k in ["epochs", "learning_rate", "batch_size", "micro_batch", "by_date", "schedule", "precision", "clip", "weight_decay", "patience", "floor", "smooth", "average"]}

    def guard(keys_read):
        monkeypatch.setattr(config_room, "_keys_read", keys_read)
        check_candidate_keys(["ridge"], tmp_path)
    honest = config_room._keys_read
    guard(honest)
    mutants.kill(32, "a candidate accepts a key that its learner does not read", guard, lambda model, section: honest("hybrid", section))
    monkeypatch.setattr(config_room, "_keys_read", honest)


def test_a_prior_is_not_dropped_in_silence(mutants, monkeypatch):
    def guard(check):
        monkeypatch.setattr(config_room, "_check_prior", check)
        assert "models.prior is 'carry'" in refusal({"models.names": ["ridge", "boosting", "tsmom"], "models.prior": "carry"})
    guard(config_room._check_prior)
    mutants.kill(32, "a prior that no row of an experiment corrects", guard, lambda config: None)
    mixed = changed(Config(), {"models.names": ["ridge", "lstm", "x"], "models.prior": "carry", "candidates.x.model": "boosting"})
    assert [mixed.row(n).models.prior for n in mixed.learners] == ["", "carry", ""]
    assert running.training_key(mixed, "ridge") != running.training_key(mixed, "lstm")


def test_an_empty_section_of_a_candidate_changes_nothing():
    for section in config_room.CANDIDATE_SECTIONS:
        config = changed(Config(), {f"candidates.fast.{section}": {}, "candidates.fast.model": "hybrid"})
        assert config.row("fast").row("hybrid").fingerprint == config_from_dict(json.loads(json.dumps(asdict(config)))).row("fast").fingerprint
        assert getattr(config.row("fast"), section) == getattr(changed(config, {"models.names": ["hybrid"]}), section)


# --- keys that would change nothing

IDLE = {  # keys that contradict each other -> what the message says
    "a floor that no epoch reaches": ({"train.epochs": 3, "train.floor": 3}, "train.floor is 3.*train.epochs, 3"),
    "a mean over more epochs than there are": ({"train.epochs": 3, "train.smooth": 4}, "train.smooth is 4.*train.epochs, 3"),
    "a patience of no epoch": ({"train.patience": 0}, "train.patience is 0.*leave it out"),
    "a disagreement of one seed": ({"train.seeds": [0], "ensemble.disagreement": 1.}, r"ensemble.disagreement is 1.*train.seeds is \[0\].*two or more"),
    "a disagreement of one seed, in a candidate": ({"candidates.x.model": "lstm", "candidates.x.train.seeds": [0], "candidates.x.ensemble.disagreement": 1.},
                                                   "candidates.x: ensemble.disagreement is 1.*two or more"),
    "a capital without an impact": ({"costs.capital": 1e6}, "costs.capital is 1e.06.*give both"),
    "an impact without a capital": ({"costs.impact": 1.}, "costs.impact is 1.*give both"),
}


@pytest.mark.parametrize("case", IDLE)
def test_a_key_without_effect_is_refused_when_it_is_read(case):
    changes, words = IDLE[case]
    assert re.search(words, refusal(changes))


def test_a_disagreement_that_nobody_checks_is_found(mutants, monkeypatch):
    def guard(check):
        monkeypatch.setattr(config_room, "_check_seeds", check)
        assert "train.seeds is [0]" in refusal({"train.seeds": [0], "ensemble.disagreement": 1.})
    guard(config_room._check_seeds)
    mutants.kill(32, "a disagreement of one seed is accepted", guard, lambda config: None)


def test_the_defaults_of_the_training_are_those_of_a_trainer():
    assert TrainOptions(**Config().train.options) == TrainOptions()
    assert Config().fingerprint == changed(Config(), {"train.patience": None}).fingerprint == "ef2b9d3c"
    assert changed(Config(), {"train.patience": 3}).fingerprint != "ef2b9d3c"
