"""Row 30, in returns: value at risk of symbols and portfolios is broken as often as it says, and the losses beyond it are as large.

On simulated markets the true distribution is known and is forecast. Outcomes over h sessions overlap, so every h-th is
counted, and the binomial error holds.
"""
import numpy as np
import pandas as pd
import pytest

import hybrid_ssm.outlook as outlook_module
from hybrid_ssm.data import Bars
from hybrid_ssm.forecast import Forecast
from hybrid_ssm.outlook import ReturnForecast, in_returns, portfolio_outlook
from hybrid_ssm.targets import forward_targets, volatility

HORIZONS, LEVELS, DAY = (1, 5, 21), (.01, .05), .003  # small moves: sums of returns and compounded ones are alike


def tables(values):
    "A frame of sessions x symbols"
    days = pd.bdate_range("1950-01-02", periods=len(values))
    return pd.DataFrame(values, days, [f"S{i}" for i in range(values.shape[1])])


def market(sessions, symbols, correlation=0., df=np.inf, seed=0):
    "Bars, and the forecast that is their truth; the shocks of a session share a factor and their random scale"
    rng, t = np.random.default_rng(seed), np.arange(sessions + 21)
    sd = DAY * (1 + .5 * np.sin(2 * np.pi * (t[:, None] / 250 + np.arange(symbols) / symbols)))
    shock = np.sqrt(1 - correlation) * rng.standard_normal((sessions, symbols))
    shock += np.sqrt(correlation) * rng.standard_normal((sessions, 1))
    if np.isfinite(df):
        shock *= np.sqrt((df - 2) / rng.chisquare(df, (sessions, 1)))
    returns = np.vstack([np.zeros((1, symbols)), sd[:sessions - 1] * shock[1:]])
    bars = Bars(close=tables(100 * np.cumprod(1 + returns, 0)))
    unit, zero = volatility(bars), tables(np.zeros((sessions, symbols)))
    horizons = (1,) if np.isfinite(df) else HORIZONS
    nu = df if np.isfinite(df) else 1e6
    spread = {h: tables(np.sqrt(sum(sd[k:k + sessions] ** 2 for k in range(h)))) for h in horizons}
    scale = {h: s / (unit * np.sqrt(h)) * np.sqrt((nu - 2) / nu) for h, s in spread.items()}
    return bars, Forecast(zero, dict.fromkeys(scale, zero), scale, dict.fromkeys(scale, zero + nu))


def within_error(losses, var, level, horizon, label):
    "The share of losses beyond the value at risk is the level, up to three binomial errors"
    known = (np.isfinite(losses) & np.isfinite(var))[::horizon]
    hit = (losses > var)[::horizon][known]
    error = 3 * np.sqrt(level * (1 - level) / len(hit))
    assert abs(hit.mean() - level) < error, f"{label}: {hit.mean():.2%} of {len(hit)} beyond {level:.0%}, error {error:.2%}"
    return hit.mean()


def losses_of(bars, horizon):
    return -forward_targets(bars, (horizon,)).frame(horizon, scaled=False).to_numpy()


def guard_symbols(convert, sessions=8400):
    "Value at risk of single symbols, that move independently, at all horizons and levels"
    bars, truth = market(sessions, 3)
    found = convert(truth, bars)
    return {(p, h): within_error(losses_of(bars, h), found.var(p, h).to_numpy(), p, h, f"{h} sessions")
            for p in LEVELS for h in HORIZONS}


def without_the_root(forecast, bars):
    right = in_returns(forecast, bars)
    return ReturnForecast(right.mean, {h: s / np.sqrt(h) for h, s in right.scale.items()}, right.df)


def test_value_at_risk(tell, mutants):
    found = guard_symbols(in_returns)
    tell("  ".join(f"VaR {p:.0%}, h {h}: {v:.2%}" for (p, h), v in found.items()))
    mutants.kill(30, "no root of the horizon", guard_symbols, without_the_root)
    mutants.kill(30, "gains for losses", guard_symbols, lambda f, b: Mirrored(**vars(in_returns(f, b))))


class Mirrored(ReturnForecast):
    "The quantile of the gains, called a loss"

    def var(self, level=.01, horizon=1):
        return self.quantile(level, horizon)


def guard_shortfall(expected, level=.05):
    "Mean loss beyond the value at risk, in units of the expected one"
    bars, truth = market(6000, 4, correlation=.3, df=5.)
    found = in_returns(truth, bars)
    loss, var, es = losses_of(bars, 1), found.var(level).to_numpy(), expected(found, level).to_numpy()
    beyond = loss > var
    ratio = loss[beyond] / es[beyond]
    sessions = beyond.any(1).sum()  # symbols of one session are bad together
    error = 3 * ratio.std() / np.sqrt(sessions)
    assert abs(ratio.mean() - 1) < error, f"mean loss beyond VaR / ES = {ratio.mean():.3f}, error {error:.3f}"
    return ratio.mean(), error


def test_expected_shortfall(tell, mutants):
    tell("mean loss / ES: {:.3f}, three errors {:.3f}".format(*guard_shortfall(lambda f, p: f.es(p))))
    mutants.kill(30, "expected shortfall of a normal", guard_shortfall, lambda f, p: ReturnForecast(
        f.mean, {1: f.scale[1] * np.sqrt(5 / 3)}, {1: f.df[1] * 0 + 1e6}).es(p))
    mutants.kill(30, "value at risk for expected shortfall", guard_shortfall, lambda f, p: f.var(p))


def guard_portfolio(df, horizons, sessions=4200):
    "Value at risk of a portfolio that is long and short, of symbols that move together"
    bars, truth = market(sessions, 6, correlation=.6, df=df)
    rng = np.random.default_rng(1)
    weights = tables(np.repeat(rng.uniform(-.1, .5, (sessions // 21, 6)), 21, 0))  # new ones each month
    out = {}
    for h in horizons:
        outlook = portfolio_outlook(truth, weights, bars, h)
        loss = np.nansum(weights.to_numpy() * losses_of(bars, h), 1)
        loss[-h:] = np.nan
        warm = slice(252, None)  # correlations have been seen for a year
        for p in LEVELS:
            out[p, h] = within_error(loss[warm], outlook.var(p).to_numpy()[warm], p, h, f"portfolio, {h} sessions")
    return out


def test_portfolios(tell, mutants, monkeypatch):
    found = {("t", *k): v for k, v in guard_portfolio(5., (1,)).items()}
    found |= {("normal", *k): v for k, v in guard_portfolio(np.inf, (1, 5)).items()}
    tell("  ".join(f"{law} {p:.0%}, h {h}: {v:.2%}" for (law, p, h), v in found.items()))

    def no_correlation(returns, span):
        yield from (np.eye(returns.shape[1]) for _ in returns)

    def with_correlations(planted):
        with monkeypatch.context() as patch:
            patch.setattr(outlook_module, "correlations", planted)
            guard_portfolio(np.inf, (1,))
    mutants.kill(30, "a portfolio without correlations", with_correlations, no_correlation)
    with_correlations(outlook_module.correlations)


def test_a_portfolio_knows_the_past_alone():
    bars, truth = market(400, 4, correlation=.5)
    weights = dict.fromkeys(bars.symbols, .25)
    whole = portfolio_outlook(truth, weights, bars, 5)
    for cut in (100, 300):
        end = bars.sessions[cut - 1]
        short = portfolio_outlook(truth.window(end=end), weights, bars.upto(end), 5)
        for name in ("mean", "scale", "df", "alone"):
            np.testing.assert_array_equal(getattr(short, name), getattr(whole, name)[:cut])


def test_what_is_held_without_a_forecast_has_no_risk_figure():
    bars, truth = market(300, 3)
    gone = truth.mean[1].copy()
    gone.iloc[250, 0] = np.nan
    holed = Forecast(truth.position, truth.mean | {1: gone}, truth.scale | {1: truth.scale[1].where(gone.notna())}, truth.df)
    outlook = portfolio_outlook(holed, {"S0": .5, "S1": .5}, bars)
    assert np.isnan(outlook.var().iloc[250]) and np.isfinite(outlook.var().iloc[[249, 251]]).all()
    spared = portfolio_outlook(holed, {"S1": .5}, bars)
    assert np.isfinite(spared.var().iloc[250])


@pytest.mark.parametrize("level", [.001, .01, .05, .5, .99])
def test_mixtures(level):
    "Quantiles of a mixture of two members, by counting"
    bars, truth = market(60, 1)
    members = [Forecast(truth.position, {1: truth.mean[1] + shift}, {1: truth.scale[1] * wide}, {1: truth.df[1] * 0 + 4})
               for shift, wide in ((-.5, 1), (.5, 3))]
    mixed = in_returns(members, bars)
    rng = np.random.default_rng(0)
    at = lambda m, q: getattr(m, q)[1].iloc[-1, 0]
    drawn = np.concatenate([at(m, "mean") + at(m, "scale") * rng.standard_t(4, 200_000) for m in mixed.members])
    below = (drawn < mixed.quantile(level).iloc[-1, 0]).mean()
    assert abs(below - level) < 4 * np.sqrt(level * (1 - level) / len(drawn))
    assert abs(-drawn[drawn < -mixed.var(level).iloc[-1, 0]].mean() / mixed.es(level).iloc[-1, 0] - 1) < .1
