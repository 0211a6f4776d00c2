"""The loss charges what the backtest charges: the same positions, session by session, in units of volatility."""
import numpy as np
import pandas as pd
import pytest
import torch

from hybrid_ssm.backtest import run_backtest
from hybrid_ssm.core import SESSIONS_PER_YEAR
from hybrid_ssm.data import Bars
from hybrid_ssm.handler import FinancialDataHandler
from hybrid_ssm.losses import (
    net_gains,
    portfolio_sharpe_loss,
    session_mean,
    sharpe_loss,
    turnover_penalty,
)
from hybrid_ssm.metrics import sharpe

FRACTION = 5e-4


def market(volatility, symbols, sessions=400, seed=0, holes=0.):
    "Returns of constant known volatility, and positions that change every day"
    rng = np.random.default_rng(seed)
    days, names = pd.bdate_range("2015-01-01", periods=sessions), [f"S{i}" for i in range(symbols)]
    returns = volatility * rng.standard_normal((sessions, symbols))
    close = pd.DataFrame(100 * (1 + returns).cumprod(0), days, names).mask(rng.random(returns.shape) < holes)
    return Bars(close=close), pd.DataFrame(np.tanh(rng.standard_normal(returns.shape)), days, names)


def of_the_loss(bars, positions, volatility, cost):
    "Gains of the loss, sessions x symbols, gross and net; a symbol's return runs from price to price"
    own = [bars.close[s].dropna().pct_change().shift(-1).reindex(bars.sessions) for s in bars.symbols]
    target = torch.tensor(pd.concat(own, axis=1).to_numpy().T / volatility)
    p, c = torch.tensor(positions.to_numpy().T), torch.full(target.shape, cost / volatility)
    return p, target, net_gains(p, target, 0 * c), net_gains(p, target, c)


@pytest.mark.parametrize("symbols", [1, 5])
def test_the_loss_pays_what_the_backtest_pays(symbols, tell):
    "At a tiny volatility held weights do not drift, and nothing else may differ; at 1 % a day the drift is all that does"
    for volatility, most in ((1e-6, 1e-5), (.01, .1)):
        bars, positions = market(volatility, symbols)
        cost = FRACTION * volatility / .01  # the same in volatilities
        result = run_backtest(positions / symbols, bars, costs=cost)
        _, _, gross, net = of_the_loss(bars, positions, volatility, cost)
        days = torch.zeros(symbols, dtype=torch.long)
        gross, net = (session_mean(g, days).numpy() for g in (gross, net))  # the last session has no next one
        earned, paid = (s.to_numpy() / volatility for s in (result.gross_returns, result.costs))
        assert np.abs(gross - earned[1:]).max() < 1e-6  # what is decided today is earned tomorrow, and paid today
        off = np.abs((gross - net) - paid[:-1]).max() / paid.mean()
        tell(f"{symbols} symbol(s), volatility {volatility:g}: costs differ by at most {off:.1e} of the mean cost")
        assert off < most
        assert np.abs(net - (earned[1:] - paid[:-1])).max() < most * paid.mean() + 1e-6


def test_positions_wait_for_a_price():
    "A symbol that has no price for a session is held through it, and the whole change is paid afterwards"
    volatility = 1e-6
    bars, positions = market(volatility, 1, holes=.2, seed=3)
    cost = FRACTION * volatility / .01
    result = run_backtest(positions, bars, costs=cost)
    _, target, gross, net = of_the_loss(bars, positions, volatility, cost)
    seen = (~target.isnan()).numpy()[0]
    seen[bars.sessions >= bars.close.iloc[:, 0].last_valid_index()] = False
    assert .6 < seen.mean() < .9
    paid = result.costs.to_numpy() / volatility
    assert np.allclose((gross - net)[0].numpy()[seen], paid[seen], atol=1e-6)
    first = int(np.flatnonzero(seen)[0])
    assert np.abs(paid[first:-1][~seen[first:-1]]).max() < 1e-9  # and the backtest does not trade there either


def test_rolls_are_paid_where_the_backtest_pays_them():
    "What is held through a change of contract pays for it, as much as in the backtest and in the same step of gain and cost"
    volatility, days = 1e-6, 21
    bars, positions = market(volatility, 3)
    roll = pd.DataFrame(0., bars.sessions, bars.symbols)
    roll.iloc[days::days] = 1.
    rolled = Bars(close=bars.close, extras={"roll": roll})
    cost = FRACTION * volatility / .01
    handler = FinancialDataHandler(bars=rolled, features=("return_1",), horizons=(1,), costs=cost)
    ahead = torch.tensor(handler.prepare_training_data(63).train.tables.roll)
    p, target, gross, _ = of_the_loss(bars, positions, volatility, cost)
    net = net_gains(p, target, torch.full(target.shape, cost / volatility), ahead)
    paid = (gross - net).nanmean(0).numpy()
    result = run_backtest(positions / 3, rolled, costs=cost).costs.to_numpy() / volatility
    without = run_backtest(positions / 3, bars, costs=cost).costs.to_numpy() / volatility
    # the loss writes a roll to the session that decides to hold, the backtest to the one that rolls
    of_trades, of_rolls = without[:-1], (result - without)[1:]
    assert of_rolls.sum() > .01 * of_trades.sum()
    assert np.abs(paid[:-1] - (of_trades + of_rolls)[:len(paid) - 1]).max() < 1e-5 * of_trades.mean()


def test_ratios_agree_with_the_metrics():
    bars, positions = market(.01, 5)
    p, target, _, net = of_the_loss(bars, positions, .01, FRACTION)
    days = torch.zeros(5, dtype=torch.long)
    assert -sharpe_loss(net[0]).item() == pytest.approx(sharpe(net[0][:-1].numpy()).value, rel=1e-4)
    result = run_backtest(positions / 5, bars, costs=FRACTION)
    assert -portfolio_sharpe_loss(net, days).item() == pytest.approx(sharpe(result.net_returns.iloc[1:]).value, abs=.05)
    traded = result.turnover.iloc[:-1].mean() * SESSIONS_PER_YEAR
    assert turnover_penalty(p, target).item() == pytest.approx(traded, rel=.02)
