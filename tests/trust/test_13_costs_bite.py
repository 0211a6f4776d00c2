"""Row 13: costs bite. Net = gross - turnover x cost x equity at the fill, and more cost never leaves more money."""
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from hybrid_ssm.backtest import run_backtest
from hybrid_ssm.config import Config
from hybrid_ssm.data import Bars
from hybrid_ssm.run import run_backtests

COSTS = (0.0, 1e-4, 5e-4, 2e-3)
FILLS = ("close", "next_close", "next_open")


def case(seed):
    "A random market with holes, and random targets; every third one is long only"
    rng = np.random.default_rng(seed)
    sessions, symbols = int(rng.integers(2, 60)), int(rng.integers(1, 8))
    days = pd.bdate_range("2015-01-01", periods=sessions)
    names = [f"S{i}" for i in range(symbols)]
    close = pd.DataFrame(np.exp(rng.normal(0, 0.02, (sessions, symbols)).cumsum(0)), days, names)
    close = close.mask(rng.random(close.shape) < rng.choice([0.0, 0.2]))
    bars = Bars(close=close, open=close * np.exp(rng.normal(0, 0.01, close.shape)))
    weights = pd.DataFrame(rng.normal(0, 0.5 / symbols, close.shape), days, names)
    if seed % 3 == 0:
        weights = weights.abs()
    return weights, bars, FILLS[seed % 3] if close.notna().any().all() else "close"


def at_the_fill(book, bars, fill):
    "The equity at the time of the trade, as a multiple of that at the previous close"
    before = bars.close.ffill().shift()
    price = bars.open if fill == "next_open" else bars.close
    moved = (price / before - 1).reindex(book.equity.index).fillna(0.0)
    return 1 + (book.weights.shift(fill_value=0.0) * moved).sum(axis=1)


def check(implementation, seeds):
    "The books of `implementation` charge what they say, and charge it everywhere"
    everything = 0.0
    for seed in seeds:
        weights, bars, fill = case(seed)
        books = [implementation(weights, bars, costs=cost, fill=fill) for cost in COSTS]
        for cost, book in zip(COSTS, books):
            traded = book.trades.abs().sum(axis=1)
            assert np.allclose(book.turnover, traded, rtol=0, atol=1e-12), "turnover is not traded"
            paid = book.gross_returns - book.net_returns
            charged = book.turnover * cost * at_the_fill(book, bars, fill)
            assert np.allclose(paid, charged, rtol=0, atol=1e-9), (
                f"seed {seed}: net is not gross - turnover x {cost} x the equity at the fill")
            assert np.allclose(paid, book.costs, rtol=0, atol=1e-12), f"seed {seed}: other costs"
            equity = (1 + book.net_returns).cumprod()
            assert np.allclose(book.equity, equity, rtol=0, atol=1e-9), "equity is not compounded"
        ends = [book.equity.iloc[-1] for book in books]
        assert all(a >= b - 1e-12 for a, b in zip(ends, ends[1:])), f"seed {seed}: not monotone"
        everything += books[0].turnover.sum()
        if books[0].turnover.sum() > 0:
            assert ends[0] > ends[-1], f"seed {seed}: trading was free"
    assert everything > 10 * len(seeds), "the cases hardly trade, so they prove nothing"


def quick(implementation):
    "60 random cases"
    check(implementation, range(60))


def entries_only(weights, bars, costs=None, fill="close"):
    "Planted: a trade that makes the position smaller is free"
    book = run_backtest(weights, bars, costs=costs, fill=fill)
    larger = book.weights.abs() > book.weights.shift(fill_value=0.0).abs()
    paid = book.trades.abs().where(larger, 0.0).sum(axis=1) * costs
    net = book.gross_returns - paid
    return replace(book, net_returns=net, costs=paid, equity=(1 + net).cumprod())


def rebalancing_is_free(weights, bars, costs=None, fill="close"):
    "Planted: turnover as the difference of two targets, as if held weights did not drift"
    book = run_backtest(weights, bars, costs=costs, fill=fill)
    turnover = weights.diff().fillna(weights).abs().sum(axis=1)
    net = book.gross_returns - turnover * costs
    return replace(book, net_returns=net, turnover=turnover, equity=(1 + net).cumprod())


def charged_on_the_equity_before_the_move(weights, bars, costs=None, fill="close"):
    "Planted: the cost is a share of the equity at the previous close, not of that at the trade"
    book = run_backtest(weights, bars, costs=costs, fill=fill)
    paid = book.turnover * costs
    net = book.gross_returns - paid
    return replace(book, net_returns=net, costs=paid, equity=(1 + net).cumprod())


def test_costs_bite():
    quick(run_backtest)


@pytest.mark.slow
def test_costs_bite_in_a_thousand_markets():
    check(run_backtest, range(1000))


@pytest.mark.parametrize("planted", [entries_only, rebalancing_is_free, charged_on_the_equity_before_the_move],
                         ids=lambda f: f.__name__)
def test_mutants(mutants, planted):
    mutants.kill(13, planted.__doc__.removeprefix("Planted: "), quick, planted)


def test_each_symbol_pays_its_own_cost():
    weights, bars, _ = case(1)
    own = pd.Series(np.linspace(1e-4, 2e-3, len(bars.symbols)), bars.symbols)
    book = run_backtest(weights, bars, costs=own)
    charged = (book.trades.abs() * own).sum(axis=1) * at_the_fill(book, bars, "close")
    assert np.allclose(book.costs, charged, rtol=0, atol=1e-12)


def test_a_roll_costs_one_more_fraction():
    weights, bars, _ = case(3)
    rng = np.random.default_rng(0)
    roll = pd.DataFrame(rng.integers(0, 2, bars.close.shape), bars.sessions, bars.symbols)
    book = run_backtest(weights, replace(bars, extras={"roll": roll}), costs=1e-3)
    plain = run_backtest(weights, bars, costs=1e-3)
    assert book.rolled.sum() > 0 and book.equity.iloc[-1] < plain.equity.iloc[-1]
    charged = 1e-3 * (book.turnover + book.rolled) * at_the_fill(book, bars, "close")
    assert np.allclose(book.gross_returns - book.net_returns, charged, rtol=0, atol=1e-12)


def test_costs_are_a_share_of_the_equity_at_the_trade():
    "Five times the equity, and a back office that counts one session after the other"
    rng = np.random.default_rng(5)
    days, names = pd.bdate_range("2015-01-01", periods=500), list("ABCDE")
    returns = rng.normal(2e-4, 0.012, (500, 5))
    bars = Bars(close=pd.DataFrame((1 + returns).cumprod(0), days, names))
    target, held, equity, cost = np.array([2.0, 1.5, 1.0, 1.0, -0.5]), np.zeros(5), 1.0, 1e-3
    for t in range(500):
        r = returns[t] if t else np.zeros(5)
        value = 1 + held @ r
        held, equity = held * (1 + r) / value, equity * value
        equity *= 1 - cost * np.abs(target - held).sum()
        held = target
    book = run_backtest(pd.DataFrame([target] * 500, days, names), bars, costs=cost)
    assert book.equity.iloc[-1] == pytest.approx(equity, abs=1e-9)


def check_impact(trade):
    "A run charges impact from the first test session on, in a new listing too, and twice where all costs are doubled"
    rng = np.random.default_rng(0)
    days, names = pd.bdate_range("2015-01-01", periods=150), ["A", "B", "C"]
    close = pd.DataFrame(100 * np.exp(rng.normal(0, 0.02, (150, 3)).cumsum(0)), days, names)
    close.iloc[:100, 2] = np.nan
    volume = pd.DataFrame(1e5, days, names).where(close.notna())
    data = SimpleNamespace(universe=Bars(close=close, volume=volume))
    weights = {"x": pd.DataFrame(0.3, days, names).where(close.notna(), 0.0).iloc[80:]}
    config = Config(costs={"bps": 0.0, "impact": 1.0, "capital": 1e6})
    once, twice = (trade(weights, config, data, cost_multiple=k)["x"] for k in (1.0, 2.0))
    usual, daily = (volume * close).rolling(21, 1).mean().iloc[80], close.pct_change().ewm(span=60).std().iloc[80]
    by_hand = (0.3 * daily * np.sqrt(0.3 * 1e6 / usual)).sum()
    assert abs(once.costs.iloc[0] / by_hand - 1) < 0.2, "the first session does not pay the square-root law"
    assert once.trades["C"].iloc[20] > 0 and once.costs.iloc[20] > by_hand / 9, "a new listing is traded for nothing"
    assert abs(twice.costs.iloc[0] / once.costs.iloc[0] - 2) < 1e-9, "twice the cost is not twice the impact"


def test_impact_of_a_run(mutants):
    check_impact(run_backtests)
    mutants.kill(13, "impact is not doubled with the costs", check_impact, lambda w, c, d, cost_multiple: run_backtests(w, c, d))
    free = lambda w, c, d, cost_multiple: run_backtests(w, replace(c, costs=replace(c.costs, impact=1e-9)), d)
    mutants.kill(13, "impact is left out", check_impact, free)
