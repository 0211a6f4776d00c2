"""Row 2, the check that users call: every planted cheat is found, the rare ones too, and nothing that is built in is accused.

`check_causal` is the guard here, so the planted defects are things of users: features, rules and models that look ahead.
"""
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.signal import lfilter
from torch import nn

from hybrid_ssm import attention
from hybrid_ssm.baselines import MODELS, BoostingBaseline, LSTMBaseline, RidgeBaseline
from hybrid_ssm.causality import LookAheadError, causality_market, check_causal
from hybrid_ssm.data import DataError
from hybrid_ssm.feature_set import FEATURES, compute_features
from hybrid_ssm.features import fit_scaler
from hybrid_ssm.forecast import Forecast
from hybrid_ssm.handler import FinancialDataHandler, input_arrays
from hybrid_ssm.hybrid import HybridFinancialModel
from hybrid_ssm.rules import POSITION_RULES, WEIGHT_RULES
from hybrid_ssm.splits import holdout
from hybrid_ssm.synthetic import planted_signal
from hybrid_ssm.trainer import ModelTrainer, predict_arrays, to_forecast

MARKET = causality_market()
MARKET = replace(MARKET, instruments=MARKET.instruments.assign(delisting=[None, None, None, "2019-12-31"]))


def looks_honest(thing, **settings):
    "The guard: nothing changed"
    report = check_causal(thing, **settings)
    assert report.causal, str(report)
    return report


# ---- features and rules that cheat always

def scaled_by_all_rows(bars):
    panel = compute_features(bars, ("return_21", "rsi_14"))
    return fit_scaler(panel, panel.sessions[-1]).transform(panel)


CHEATS = {
    "centred rolling mean": lambda bars: bars.close.rolling(21, center=True).mean(),
    "gaps filled backwards": lambda bars: bars.close.bfill(),
    "z-score of the whole sample": lambda bars: (bars.close - bars.close.mean()) / bars.close.std(),
    "the price of tomorrow": lambda bars: bars.close.shift(-1),
    "the return of tomorrow": lambda bars: bars.close.pct_change(-1, fill_method=None),
    "rank over all sessions": lambda bars: bars.close.rank(),
    "share of the highest price": lambda bars: bars.close / bars.close.max(),
    "share of the lowest price": lambda bars: bars.close / bars.close.min(),
    "month end joined back": lambda bars: bars.close.resample("ME").last().reindex(bars.sessions, method="bfill"),
    "mean of the month joined back": lambda bars: bars.close.groupby(bars.sessions.to_period("M")).transform("mean"),
    "a scaler fitted on all rows": scaled_by_all_rows,
    "who will be delisted": lambda bars: bars.close * bars.instruments.delisting.isna(),
    "the number of sessions": lambda bars: bars.close * len(bars.sessions),
    "interpolated gaps": lambda bars: bars.close.interpolate(),
}


def test_usual_cheats(mutants):
    for name, cheat in CHEATS.items():
        mutants.kill(2, f"check_causal: {name}", lambda thing: looks_honest(thing, bars=MARKET, cuts=4), cheat)


# ---- cheats that show late or rarely; the default cuts must find them

def where(condition, bars, rows=-1):
    "Closes, and of the cells of a condition the close that comes later"
    return bars.close.shift(rows).where(pd.DataFrame(condition, bars.sessions, bars.symbols), bars.close)


def cells(bars, rows):
    return np.broadcast_to(np.asarray(rows)[:, None], bars.close.shape)


def month_ends(bars):
    month = bars.sessions.to_period("M")
    following = (bars.sessions + pd.offsets.BDay()).to_period("M")  # the calendar alone: no row is looked at
    return cells(bars, month != following)


def far_ahead(bars):
    return where(cells(bars, np.arange(len(bars.sessions)) >= 300), bars, -5)


RARE = {
    "on the last session of a month": lambda bars: where(month_ends(bars), bars),
    "on Wednesdays": lambda bars: where(cells(bars, bars.sessions.day_of_week == 2), bars),
    "five sessions, after a warm-up of 300": far_ahead,
    "of the second symbol": lambda bars: where(np.arange(4) + 0 * bars.close.to_numpy() == 1, bars),
    "where volume is there": lambda bars: where(bars.volume.notna().to_numpy(), bars),
    "where volume is missing": lambda bars: where((bars.volume.isna() & bars.observed).to_numpy(), bars),
    "through the pattern of gaps": lambda bars: bars.close.shift(-1).isna() & bars.observed,
    "on the first session of a month": lambda bars: where(
        cells(bars, bars.sessions.to_period("M") != (bars.sessions - pd.offsets.BDay()).to_period("M")), bars),
}


def test_rare_cheats(mutants):
    for name, cheat in RARE.items():
        mutants.kill(2, f"check_causal: a leak {name}", lambda thing: looks_honest(thing, bars=MARKET), cheat)


def test_the_report_names_the_leak():
    report = check_causal(RARE["of the second symbol"], MARKET, cuts=2, name="mine")
    assert set(report.found.symbol) == {"S01"}
    with pytest.raises(LookAheadError, match="mine looks ahead: value of S01 on ") as error:
        report.check()
    assert (error.value.thing, error.value.symbol) == ("mine", "S01") and error.value.poison in report.found.kind.values
    leaky = check_causal(replace(FEATURES["rsi_14"], name="mine", function=lambda h: np.r_[h.level[1:], np.nan]), cuts=1)
    assert leaky.leaks == ("mine", "mine observed")


def test_every_session_where_the_default_is_too_coarse(mutants):
    def once(bars):
        return where(cells(bars, bars.sessions == "2019-05-14"), bars)
    assert check_causal(once, MARKET).causal  # one cell of 2,400: the report says that 16 of 599 cuts were made
    bars = MARKET.window("2019-03-01")
    mutants.kill(2, "check_causal: a leak on one single session", lambda thing: looks_honest(
        thing, bars=bars, cuts="all", kinds=("cut",)), once)


# ---- answers that come from an earlier call

def remembered(key):
    "A rule that keeps what it computed under a key of the bars"
    kept = {}

    def rule(bars):
        if key(bars) not in kept:
            kept[key(bars)] = bars.returns.rolling(21).mean()
        return kept[key(bars)].reindex(bars.sessions)

    return rule


def from_the_third_call_on(bars, calls=[0]):  # noqa: B006
    calls[0] += 1
    return bars.close * (1 + (calls[0] > 60))


def honest_or_refused(thing, **settings):
    try:
        looks_honest(thing, **settings)
    except DataError as error:
        raise AssertionError(str(error)) from error


def test_answers_of_an_earlier_call(mutants):
    for name, key in {"by nothing": lambda bars: 0, "by its length": lambda bars: len(bars.sessions), "by its dates": lambda bars: (bars.sessions[0], bars.sessions[-1])}.items():
        mutants.kill(2, f"check_causal: a cache keyed {name}", lambda thing: looks_honest(thing, bars=MARKET, cuts=2), remembered(key))
    mutants.kill(2, "check_causal: what depends on the number of calls", lambda thing: honest_or_refused(thing, bars=MARKET, cuts=16), from_the_third_call_on)
    looks_honest(remembered(lambda bars: bars.sha256), bars=MARKET, cuts=2)  # by its content: honest
    same = FEATURES["return_21"].function
    kept = {}
    feature = replace(FEATURES["return_21"], name="kept", function=lambda series: kept.setdefault(len(series.rows), same(series)))
    mutants.kill(2, "check_causal: a feature cached by its length", lambda thing: looks_honest(thing, bars=MARKET, cuts=2), feature)


# ---- what looks suspicious and is honest

def weekly(bars):
    "The last price of the week before"
    return bars.close.resample("W-FRI").last().shift().reindex(bars.sessions, method="ffill")


def filtered(bars):
    return lfilter([.1], [1, -.9], bars.returns.fillna(0.), axis=0)


HONEST = {
    "rolling statistics": lambda bars: {k: getattr(bars.returns.rolling(21, min_periods=5), k)() for k in ("std", "skew", "median", "max")},
    "correlation with the first symbol": lambda bars: bars.returns.rolling(63).corr(bars.returns["S00"]),
    "rank in its own past": lambda bars: bars.close.expanding(20).rank(pct=True),
    "exponential averages": lambda bars: bars.close.ewm(span=20).mean() / bars.close.ewm(span=60).mean() - 1,
    "gaps filled forwards": lambda bars: bars.close.ffill().pct_change(5, fill_method=None),
    "the week before": weekly,
    "a recursive filter": filtered,
    "a running maximum": lambda bars: bars.close / bars.close.cummax(),
    "a sum over symbols": lambda bars: bars.returns.mean(axis=1),
    "a matrix product": lambda bars: bars.returns.fillna(0.).to_numpy() @ np.random.default_rng(0).normal(size=(4, 3)),
    "random numbers of its own": lambda bars: np.random.default_rng(0).normal(size=bars.close.shape),
}


def test_honest_ones_are_not_accused():
    for name, honest in HONEST.items():
        looks_honest(honest, bars=MARKET, cuts=2, name=name)


# ---- models that cheat

class Flipped(LSTMBaseline):
    "Reads backwards, too"

    def __init__(self, hidden_dim, input_dim):
        super().__init__(hidden_dim, input_dim)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.both = nn.GRU(input_dim, hidden_dim, batch_first=True, bidirectional=True)
            self.back = nn.Linear(2 * hidden_dim, input_dim)

    def _run(self, x, dt=None, mask=None, asset=None, prior=None, cache=None):
        return super()._run(x + self.back(self.both(x.to(self.back.weight))[0]), dt, mask, asset, prior, cache)


class Standardised(LSTMBaseline):
    "Standardises with the mean of all sessions that it is given"

    def _run(self, x, dt=None, mask=None, asset=None, prior=None, cache=None):
        return super()._run(x - x.mean(1, keepdim=True), dt, mask, asset, prior, cache)


class BatchStatistics(LSTMBaseline):
    "Batch normalisation: all sessions together, while it is trained"

    def __init__(self, hidden_dim, input_dim):
        super().__init__(hidden_dim, input_dim)
        self.batch = nn.BatchNorm1d(input_dim)

    def _run(self, x, dt=None, mask=None, asset=None, prior=None, cache=None):
        same = self.batch(x.to(self.batch.weight).transpose(1, 2)).transpose(1, 2)
        return super()._run(same, dt, mask, asset, prior, cache)


class ClosedGate(LSTMBaseline):
    "Looks ahead through a connection that begins at zero"

    def __init__(self, hidden_dim, input_dim):
        super().__init__(hidden_dim, input_dim)
        self.gate = nn.Parameter(torch.zeros(1))

    def _run(self, x, dt=None, mask=None, asset=None, prior=None, cache=None):
        return super()._run(x + self.gate * x.roll(-1, 1), dt, mask, asset, prior, cache)


class LateLeak(LSTMBaseline):
    "Five sessions ahead, from the 300th on"

    def _run(self, x, dt=None, mask=None, asset=None, prior=None, cache=None):
        late = (torch.arange(x.shape[1]) >= 300)[None, :, None]
        return super()._run(torch.where(late, x.roll(-5, 1), x), dt, mask, asset, prior, cache)


class MaskLeak(LSTMBaseline):
    "Knows what will be missing"

    def _run(self, x, dt=None, mask=None, asset=None, prior=None, cache=None):
        ahead = mask.roll(-1, 1).to(x) if mask is not None else 0.0
        return super()._run(x + ahead, dt, mask, asset, prior, cache)


CHEATING_MODELS = (Flipped, Standardised, BatchStatistics, ClosedGate, LateLeak, MaskLeak)


def test_cheating_models(mutants, monkeypatch):
    for kind in CHEATING_MODELS:
        mutants.kill(2, f"check_causal: {kind.__doc__}", lambda model: looks_honest(
            model, cuts=1, kinds=("nan", "huge")), kind(4, 3))
    original = attention.lag_bias
    monkeypatch.setattr(attention, "lag_bias", lambda age, slope, window: original(age + 1, slope, window))
    mutants.kill(2, "check_causal: attention mask off by one", lambda model: looks_honest(
        model, cuts=1, kinds=("huge",)), hybrid())


def hybrid(**form):
    return HybridFinancialModel(2, 4, 3, 2, n_layers=1, windows=(21, 63), **form)


def small(name):
    "One small model of each class"
    if name == "HybridFinancialModel":
        return hybrid()
    sizes = {"TransformerBaseline": dict(dim=4, num_heads=2), "SSMBaseline": dict(dim=4, num_heads=2, state_dim=2),
             "DLinearBaseline": dict(dim=4), "LSTMBaseline": dict(hidden_dim=4), "VSNLSTMBaseline": dict(hidden_dim=4)}
    return MODELS[name](input_dim=3, **sizes.get(name, {}))


@pytest.mark.parametrize("name", MODELS)
def test_no_model_is_accused(name, tell):
    tell(str(looks_honest(small(name), cuts=1, kinds=("cut", "nan", "huge"))))


def forecast_of(model):
    "What a fitted trainer does: features, their scaling by the past, the network"
    names = ("return_1", "return_21", "rsi_14")
    scaler = fit_scaler(compute_features(MARKET, names), MARKET.sessions[200])

    def run(bars):
        panel = compute_features(bars, names)
        return to_forecast(predict_arrays(model, input_arrays(panel, scaler)), panel, model.horizons)
    return run


def test_forecasts(mutants):
    honest = forecast_of(LSTMBaseline(4, 3))
    report = looks_honest(honest, bars=MARKET, cuts=[MARKET.sessions[k] for k in (300, 450)])
    assert "mean 21" not in report.constant and report.compared > 10_000

    def of_all(bars):
        f = honest(bars)
        return Forecast(f.position / f.position.std(), f.mean, f.scale, f.df)
    mutants.kill(2, "check_causal: positions scaled by the whole sample", lambda thing: looks_honest(
        thing, bars=MARKET, cuts=2), of_all)


# ---- what is built in

def test_no_rule_is_accused(tell):
    for name in POSITION_RULES | WEIGHT_RULES:
        few = dict(cuts=1, kinds=("cut", "huge")) if name in ("rotated_blend", "blend", "ewmac", "macd") else dict(cuts=2)
        tell(str(looks_honest(name, **few)))


def test_no_default_feature_is_accused(tell):
    tell(str(looks_honest("default", cuts=2, kinds=("cut", "shuffle"))))


@pytest.mark.slow
def test_no_feature_is_accused(tell):
    report = looks_honest(list(FEATURES), cuts=5)  # every feature has values, else this would raise
    tell(f"{len(FEATURES)} features: {report}")


@pytest.mark.slow
def test_no_rule_is_accused_anywhere(tell):
    for name in POSITION_RULES | WEIGHT_RULES:
        tell(str(looks_honest(name, cuts=5 if name == "rotated_blend" else 16)))


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_no_model_is_accused_anywhere(name, tell):
    tell(str(looks_honest(small(name), cuts=4)))


@pytest.mark.slow
@pytest.mark.parametrize("build", [RidgeBaseline, partial(BoostingBaseline, min_leaf=20)], ids=["ridge", "boosting"])
def test_no_fitted_learner_is_accused(build, tell):
    "Before they are fitted their means are constant, and agreement shows nothing"
    data = FinancialDataHandler(bars=planted_signal(600, sharpe=20.).bars, features=("return_1", "return_21", "rsi_14"))
    trainer = ModelTrainer(build(3), data=data, device="cpu")
    trainer.train_model(1, 1e-2, fold=holdout(data.sessions), window=63, warm_up=21, stride=21, progress=False)
    report = looks_honest(trainer.model, cuts=2)
    assert not {"mean 1", "mean 5", "mean 21"} <= set(report.constant)
    tell(str(report))
