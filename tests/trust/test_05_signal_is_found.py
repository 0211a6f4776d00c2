"""Row 5: a real signal is found. The whole pipeline is trained on the first part of a market with a planted drift. On later sessions
it earns, net of cost, at least half of the gross Sharpe ratio of an oracle that knows the drift and pays nothing.

Bars -> features -> scaler -> labels -> windows -> training -> forecast -> weights -> backtest: nothing is replaced by a
shortcut, except in the mutants. Eight epochs are two to four steps each, and 135 sessions choose the best of them: the first
half of the epochs is excluded, because an almost untrained network would win too often.
"""
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from hybrid_ssm.backtest import run_backtest
from hybrid_ssm.feature_set import FEATURES
from hybrid_ssm.features import Feature
from hybrid_ssm.handler import FinancialDataHandler
from hybrid_ssm.hybrid import HybridFinancialModel
from hybrid_ssm.metrics import sharpe
from hybrid_ssm.risk import inverse_volatility
from hybrid_ssm.synthetic import planted_signal
from hybrid_ssm.trainer import ModelTrainer

MARKETS = {"slow and clear": dict(symbols=4, half_life=60., visible=.9),
           "fast": dict(symbols=6, half_life=20., visible=.85),
           "noisy": dict(symbols=3, half_life=90., visible=.6)}
SESSIONS, TRAIN_SESSIONS, SHARPE = 2400, 900, 3.


def visible_signal(series):
    "The visible signal of the planted market"
    return series.columns["signal"]


PLANTED = Feature("planted_signal", "technical", warm_up=1, meaning="the visible part of the drift", source="this market",
                  function=visible_signal, inputs=("close", "signal"))


def handler(bars):
    "Bars, features and labels, the way a user gets them"
    return FinancialDataHandler(bars=bars, features=(PLANTED, "return_5"), horizons=(1,))


def shuffled_labels(data):
    "shuffled labels: each label belongs to another session"
    scaled, rng = data.targets.scaled.copy(), np.random.default_rng(0)
    rows = np.flatnonzero(np.isfinite(scaled).all((1, 2)))
    scaled[rows] = scaled[rng.permutation(rows)]
    data.targets = replace(data.targets, scaled=scaled)
    return data


def trained(market, seed, plant):
    "Net returns of the later sessions of a model that was trained on the earlier ones"
    days = market.bars.sessions
    past = plant(handler(market.bars.window(end=days[TRAIN_SESSIONS - 1])))
    model = HybridFinancialModel(4, 8, 2, 2, n_layers=1, horizons=(1,), windows=(21, 21), seed=seed)
    trainer = ModelTrainer(model, data=past, seed=seed, device="cpu")
    trainer.train_model(8, 2e-2, window=84, warm_up=21, stride=42, batch_size=32, patience=8, floor=4, progress=False)
    return out_of_sample(trainer.predict(handler(market.bars).panel).position, market).net_returns


def out_of_sample(positions, market):
    "The backtest of the later sessions, all positions sized alike"
    return run_backtest(inverse_volatility(positions, market.bars), market.bars).window(market.bars.sessions[TRAIN_SESSIONS])


def sharpe_ratios(kind, seeds, plant):
    "Sharpe ratios of one kind of market: of the model net, of the oracle gross (2, seeds)"
    ratios = []
    for seed in seeds:
        market = planted_signal(SESSIONS, seed=seed, sharpe=SHARPE, **MARKETS[kind])
        oracle = out_of_sample(market.truth.oracle_positions(), market).gross_returns
        ratios.append((sharpe(trained(market, seed, plant)).value, sharpe(oracle).value))
    return np.transpose(ratios)


def check(plant, kinds, seeds, tell=lambda text: None):
    "At least half of what the oracle earns, and surely more than nothing"
    for kind in kinds:
        ours, oracle = sharpe_ratios(kind, seeds, plant)
        half = stats.t.ppf(.975, len(ours) - 1) * ours.std(ddof=1) / np.sqrt(len(ours))
        share = ours.mean() / oracle.mean()
        tell(f"{kind}: net Sharpe {ours.mean():.2f} ± {half:.2f} of the oracle's gross {oracle.mean():.2f}: "
             f"{share:.0%} ({len(ours)} seeds)")
        assert share >= .5, f"{kind}: {share:.0%} of the oracle's Sharpe ratio"
        assert ours.mean() - half > 0, f"{kind}: {ours.mean():.2f} ± {half:.2f} may be nothing"


def unchanged(data):
    "The handler as it is"
    return data


def test_a_planted_signal_is_found(tell):
    check(unchanged, ["slow and clear"], range(3), tell)


@pytest.mark.slow
def test_a_planted_signal_is_found_in_three_markets(tell):
    check(unchanged, MARKETS, range(20), tell)


def test_mutant(mutants):
    mutants.kill(5, shuffled_labels.__doc__.split(":")[0], lambda plant: check(plant, ["slow and clear"], range(3)), shuffled_labels)


@pytest.mark.slow
def test_mutant_in_full(mutants):
    def each(plant):
        for kind in MARKETS:  # it must fail in every market, not in one of them
            try: check(plant, [kind], range(20))
            except AssertionError: continue
            return
        raise AssertionError("no market was fooled")
    mutants.kill(5, "shuffled labels, in each of three markets", each, shuffled_labels)


def test_the_feature_leaves_no_trace():
    handler(planted_signal(300, 2).bars)
    assert "planted_signal" not in FEATURES
