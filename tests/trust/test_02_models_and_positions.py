"""Row 2, second half: models, forecasts and positions do not depend on later sessions.

From bars to target weights: a model is trained on sessions before every cut, then all later bars are spoiled, features are
computed again and the whole history is forecast again, at the same length. Forecasts and weights before the cut keep their
bits. A history that is cut short gives the same to 1e-6 (other lengths, other matrix products). A model that corrects a
classical rule is among them: the rule is computed again from the spoiled bars as well.
"""
from functools import partial, partialmethod

import numpy as np
import pandas as pd
import pytest
import torch

import hybrid_ssm.handler as handler_module
import hybrid_ssm.trainer as trainer_module
from hybrid_ssm.baselines import LSTMBaseline
from hybrid_ssm.data import Bars
from hybrid_ssm.features import fit_scaler
from hybrid_ssm.handler import FinancialDataHandler
from hybrid_ssm.hybrid import HybridFinancialModel
from hybrid_ssm.losses import JointLoss
from hybrid_ssm.risk import RiskPolicy
from hybrid_ssm.splits import holdout
from hybrid_ssm.synthetic import factor_market
from hybrid_ssm.trainer import ModelTrainer

FEATURES = ("return_1", "return_21", "rsi_14", "efficiency_63")
KINDS = ("huge", "shuffle")
TRAIN_SESSIONS = 260  # that a model may be trained on
POLICY = RiskPolicy(buffer=.1)


def market(sessions):
    "Three symbols; one misses sessions, one lists late."
    bars, rng = factor_market(sessions, list("ABC"), 0).bars, np.random.default_rng(0)
    hole = np.zeros((sessions, 3), bool)
    hole[:, 1], hole[:9, 2] = rng.random(sessions) < .05, True
    carry = pd.DataFrame(rng.normal(0, .05, (sessions, 3)), bars.sessions, bars.symbols)
    return Bars(close=bars.close.mask(hole), instruments=bars.instruments, extras=dict(carry=carry))


def poison(bars, cut, kind, rng):
    "All closes from `cut` on replaced by nonsense."
    cells = bars.close.to_numpy(float, copy=True)
    cells[cut:] = 1e9 if kind == "huge" else cells[cut + rng.permutation(len(cells) - cut)]
    carry = bars.extras["carry"].copy()
    carry.iloc[cut:] = rng.normal(0, 9., carry.iloc[cut:].shape)
    return Bars(close=pd.DataFrame(cells, bars.sessions, bars.symbols), instruments=bars.instruments, extras=dict(carry=carry))


def hybrid():
    return HybridFinancialModel(2, 4, len(FEATURES), 2, n_layers=2, windows=(21, 63))


def lstm():
    return LSTMBaseline(hidden_dim=4, input_dim=len(FEATURES))


def corrected():
    "The hybrid, as a correction of carry"
    return hybrid()


def trading():
    "The hybrid, trained on what a book trades"
    return hybrid()


PRIOR, LOSS = {corrected: "carry"}, {trading: JointLoss(traded=1.)}


def trained(bars, build):
    "A trainer that was fitted on the first sessions only."
    data = FinancialDataHandler(bars=bars, features=FEATURES)
    fold, whole = holdout(data.sessions[:TRAIN_SESSIONS]), data.sessions
    fold = type(fold)(0, fold.train, fold.valid, fold.test, fold.train_until, fold.valid_until, whole)
    torch.manual_seed(0)
    trainer = ModelTrainer(build(), data=data, device="cpu", prior=PRIOR.get(build), loss=LOSS.get(build, JointLoss()), policy=POLICY)
    trainer.train_model(1, 1e-2, fold=fold, window=63, warm_up=21, stride=21, progress=False)
    return trainer


def outputs(trainer, bars):
    "Distributions, positions, regimes and target weights of all sessions, as arrays."
    forecast = trainer.predict(bars=bars)
    frames = {"position": forecast.position, "weights": POLICY.weights(forecast, bars)} | forecast.regime
    frames |= {f"{q} {h}": f for q in ("mean", "scale", "df") for h, f in getattr(forecast, q).items()}
    return {k: v.to_numpy() for k, v in frames.items()}


def guard(prepare, bars, cuts, kinds=KINDS):
    "Spoil what is later than each cut. Returns how many numbers were compared."
    clean, rng, compared = prepare(bars), np.random.default_rng(1), 0
    known = outputs(clean, bars)
    for cut in cuts:
        for kind in kinds:
            spoiled = poison(bars, cut, kind, rng)
            now = outputs(prepare(spoiled) if prepare.__name__ == "again" else clean, spoiled)
            for name, value in known.items():
                same = value[:cut].tobytes() == now[name][:cut].tobytes()
                assert same, f"{kind} from row {cut} on changes {name} before it"
                compared += value[:cut].size
    return compared


def trained_once(build):
    "The same trainer for every cut."
    kept = []
    def prepare(bars):
        kept.append(kept[0] if kept else trained(bars, build))
        return kept[0]
    return prepare


def trained_again(build):
    "Trained anew on the spoiled bars: no training session lies behind a cut."
    def again(bars):
        return trained(bars, build)
    return again


def cuts(count, sessions):
    return np.unique(np.linspace(TRAIN_SESSIONS, sessions - 2, count).astype(int))


@pytest.mark.parametrize("build", [hybrid, lstm, corrected])
def test_models_and_positions(build, tell):
    compared = guard(trained_once(build), market(380), cuts(4, 380))
    compared += guard(trained_again(build), market(380), [TRAIN_SESSIONS, 300], kinds=("huge",))
    tell(f"{build.__name__}: {compared:,} numbers of distributions, positions, regimes and weights, 0 changed")


def test_a_traded_objective(tell):
    compared = guard(trained_again(trading), market(300), [TRAIN_SESSIONS], kinds=("huge",))
    tell(f"trained anew, holdings recorded: {compared:,} numbers, 0 changed")


@pytest.mark.slow
@pytest.mark.parametrize("build", [hybrid, lstm])
def test_a_hundred_cuts(build, tell):
    bars = market(400)
    points = cuts(100, 400)
    assert len(points) == 100
    compared = guard(trained_once(build), bars, points) + guard(trained_again(build), bars, points[::10])
    tell(f"{build.__name__}: {len(points)} cuts, {compared:,} numbers, 0 changed")


@pytest.mark.parametrize("build", [hybrid, lstm, corrected])
def test_cut_short(build, tell):
    bars = market(380)
    trainer = trained(bars, build)
    known, far = outputs(trainer, bars), 0.
    for cut in (270, 300, 379):
        short = outputs(trainer, bars.upto(bars.sessions[cut - 1]))
        for name, value in known.items():
            both = np.nan_to_num(value[:cut]), np.nan_to_num(short[name])
            far = max(far, np.linalg.norm(both[0] - both[1]) / max(np.linalg.norm(both[0]), 1e-12))
    assert far <= 1e-6
    tell(f"{build.__name__}: cut short, ratio of norms {far:.1e}")


def test_planted(mutants, monkeypatch):
    def leaky(panel, until):
        return fit_scaler(panel, panel.sessions[-1])
    def scaled_by_all(planted):
        with monkeypatch.context() as patch:
            patch.setattr(handler_module, "fit_scaler", planted)
            guard(trained_again(hybrid), market(380), [300])
    mutants.kill(2, "a model whose scaler is fitted on all rows", scaled_by_all, leaky)

    def z_scored(planted):
        with monkeypatch.context() as patch:
            real = trainer_module.to_forecast
            patch.setattr(trainer_module, "to_forecast", lambda *a: planted(real(*a)))
            guard(trained_once(hybrid), market(380), [300])
    def whole_sample(forecast):
        spread = forecast.position.std()
        return type(forecast)((forecast.position / (3 * spread)).clip(-1, 1), forecast.mean, forecast.scale, forecast.df, forecast.regime)
    mutants.kill(2, "positions scaled by the whole sample", z_scored, whole_sample)

    def backwards(planted):
        with monkeypatch.context() as patch:
            patch.setattr(trainer_module, "predict_arrays", partial(planted, trainer_module.predict_arrays))
            guard(trained_once(hybrid), market(380), [300])
    def tomorrow(real, model, arrays, device="cpu", asset=None):
        x = np.concatenate([arrays.x[:, 1:], arrays.x[:, -1:]], 1)
        return real(model, type(arrays)(x, arrays.mask, arrays.dt), device, asset=asset)
    mutants.kill(2, "a model that is shown tomorrow's features", backwards, tomorrow)

    def ahead(planted):
        with monkeypatch.context() as patch:
            patch.setattr(trainer_module._Prior, "positions", partialmethod(planted, trainer_module._Prior.positions))
            guard(trained_once(corrected), market(380), [300])
    def next_rule(prior, real, bars):
        return real(prior, bars).shift(-1).fillna(0.)
    mutants.kill(2, "a model that corrects tomorrow's rule", ahead, next_rule)
