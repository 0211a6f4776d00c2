"Regimes of a market: the weights separate where a truth is known, and nothing looks ahead"
from dataclasses import replace

import numpy as np
import pytest

from hybrid_ssm.feature_set import compute_features
from hybrid_ssm.features import symbol_series
from hybrid_ssm.market_regime import (
    REGIME_FEATURES,
    REGIME_TRAINING,
    RegimeHandler,
    RegimeLoss,
    regime_trainer,
    volatility_level,
)
from hybrid_ssm.synthetic import regime_switching


@pytest.fixture(scope="module")
def market():
    return regime_switching(1500, 1, seed=3, mean=(0., 0.), spread=(.005, .018), stay=.99)


def weights(market, loss):
    "Weight of the wild regime in the last 500 sessions, which nothing was learnt from, and the true state"
    trainer = regime_trainer(market.bars, market.bars.sessions[999], loss=loss)
    trainer.train_model(15, 1e-2, options=REGIME_TRAINING)
    panel = RegimeHandler(bars=market.bars, features=REGIME_FEATURES).panel
    wild = trainer.predict(panel).regime["regime_1"]["S00"].to_numpy()
    return wild[1000:], market.truth.states["S00"].to_numpy()[1000:]


def test_weights_separate(market, mutants):
    def separates(loss):
        wild, state = weights(market, loss)
        gap = wild[state == 1].mean() - wild[state == 0].mean()
        assert gap > .25, gap

    two = RegimeLoss(scales=(.5, 1.5))
    separates(two)
    mutants.kill("regimes", "an objective that hardly reads the weights", separates, replace(two, weight=1e-9))


def test_level_of_volatility_is_causal(market, mutants):
    series = symbol_series(market.bars, ["close"])[0]

    def causal(level):
        poisoned = replace(series, returns=np.append(series.returns[:700], np.full(len(series.returns) - 700, .3)))
        np.testing.assert_array_equal(level(poisoned, 21)[:700], level(series, 21)[:700])

    def whole_sample(series, span):
        return volatility_level(series, span) - np.nanmean(volatility_level(series, span))

    causal(volatility_level)
    mutants.kill("regimes", "a level against the mean of the whole sample", causal, whole_sample)


def test_later_sessions_are_out_of_reach(market):
    end = market.bars.sessions[999]
    data = regime_trainer(market.bars, end).data
    assert data.sessions[-1] == end
    assert np.isnan(data.targets.scaled[-1]).all()  # its label would be tomorrow's return
    cut = compute_features(market.bars.upto(end), REGIME_FEATURES)
    np.testing.assert_array_equal(cut.values, data.panel.values)


@pytest.mark.parametrize("changes, words", [
    (dict(scales=(1.,)), "two or more"), (dict(scales=(0., 1.)), "above 0"), (dict(scales=(1., .5)), "growing"),
    (dict(weight=float("nan")), "weight=nan"), (dict(df=2.), "df=2.0"),
    (dict(entropy=float("inf")), "entropy=inf")])
def test_a_loss_without_meaning_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        RegimeLoss(**changes)
