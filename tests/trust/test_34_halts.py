"""Row 34: a halt is a halt. Units are kept through any silence, and the return at the reopening is earned in full."""
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from hybrid_ssm.backtest import run_backtest
from hybrid_ssm.data import Bars


def halt(seed):
    "A random market of two symbols; the first is silent for 1 to 60 sessions and reopens somewhere else"
    rng = np.random.default_rng(seed)
    silent, start = int(rng.integers(1, 61)), int(rng.integers(1, 6))
    sessions = start + silent + int(rng.integers(1, 8))
    days = pd.bdate_range("2019-01-01", periods=sessions)
    close = 100 * np.exp(rng.normal(0, 0.02, (sessions, 2)).cumsum(0))
    close[start + silent:, 0] *= rng.uniform(0.6, 1.3)
    close[start:start + silent, 0] = np.nan
    weights = rng.choice([-1.0, 1.0], 2) * rng.uniform(0.05, 0.5, (sessions, 2))
    return pd.DataFrame(weights, days, ["halted", "other"]), Bars(close=pd.DataFrame(close, days, ["halted", "other"]))


def units_ledger(weights, bars, cost):
    "Equity of an account that owns cash and units, and trades what has a price"
    cash, units, price, out = 1.0, dict.fromkeys(weights, 0.0), dict.fromkeys(weights, 0.0), []
    for day in weights.index:
        quotes = bars.close.loc[day].dropna()
        price |= dict(quotes)
        value = cash + sum(units[s] * price[s] for s in weights)
        fee = cost * sum(abs(weights.at[day, s] * value - units[s] * price[s]) for s in quotes.index)
        cash -= fee
        for s in quotes.index:
            wanted = weights.at[day, s] * (value - fee) / price[s]
            cash -= (wanted - units[s]) * price[s]
            units[s] = wanted
        out.append(cash + sum(units[s] * price[s] for s in weights))
    return np.array(out)


def check(implementation, seeds):
    "The equity of `implementation` is that of the ledger in every session"
    for seed in seeds:
        weights, bars = halt(seed)
        book = implementation(weights, bars, costs=0.001)
        slow = units_ledger(weights, bars, 0.001)
        assert np.abs(book.equity.to_numpy() - slow).max() < 1e-9, f"seed {seed}: another equity"


def quick(implementation):
    "100 halts"
    check(implementation, range(100))


def sold_in_silence(weights, bars, costs=None):
    "Planted: sold after 21 silent sessions, at a price that nobody quotes"
    observed = bars.observed
    gone = observed.rolling(21, min_periods=1).max() == 0
    invented = bars.close.where(observed | ~gone, bars.close.ffill())
    return run_backtest(weights.where(~gone, 0.0), replace(bars, close=invented), costs=costs)


def test_a_halt_is_a_halt():
    quick(run_backtest)


@pytest.mark.slow
def test_five_hundred_halts():
    check(run_backtest, range(500))


def test_mutants(mutants):
    mutants.kill(34, "sold after 21 silent sessions", quick, sold_in_silence)


@pytest.mark.parametrize("silent", [1, 20, 21, 22, 59, 250])
@pytest.mark.parametrize("given", [False, True], ids=["closes", "given returns"])
@pytest.mark.parametrize("fill", ["close", "next_close"])
def test_one_hundred_silence_sixty(silent, given, fill):
    "Bought at 100, silence, 60: the account has 0.60, however long it was; a short one has 1.40"
    days = pd.bdate_range("2020-01-01", periods=silent + 3)
    close = pd.DataFrame({"X": [100.0, 100.0] + [np.nan] * silent + [60.0]}, days)
    returns = pd.DataFrame({"X": [np.nan, 0.0] + [np.nan] * silent + [-0.4]}, days)
    bars = Bars(close=close, excess=returns if given else None)
    for side in (1.0, -1.0):
        book = run_backtest(pd.DataFrame(side, days, ["X"]), bars, costs=0.0, fill=fill)
        assert book.equity.iloc[-1] == pytest.approx(1 - 0.4 * side, abs=1e-12)
        assert (book.equity.iloc[:-1] == 1).all() and book.turnover.iloc[2:-1].sum() == 0


def test_orders_wait_for_a_price():
    "Whoever wants out during a halt gets out at the reopening, and earns its return"
    days = pd.bdate_range("2020-01-01", periods=40)
    close = pd.DataFrame({"X": [100.0] * 5 + [np.nan] * 30 + [60.0] * 5}, days)
    weights = pd.DataFrame({"X": [1.0] * 5 + [0.0] * 35}, days)
    book = run_backtest(weights, Bars(close=close), costs=0.01)
    assert np.flatnonzero(book.trades["X"]).tolist() == [0, 35]
    assert book.equity.iloc[-1] == pytest.approx(0.99 * 0.6 * 0.99, abs=1e-12)  # in and out
