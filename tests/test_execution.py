"""Execution faults against a back office in units and cash, and many strategies at once against each of them alone."""
import numpy as np
import pandas as pd
import pytest

from hybrid_ssm.backtest import ExecutionFaults, backtest_variants, run_backtest
from hybrid_ssm.data import Bars, DataError


def case(seed, sessions=40, symbols=3):
    "A market with holes, weights on some sessions, and faults of every kind; the last symbol always has a price"
    rng = np.random.default_rng(seed)
    days, names = pd.bdate_range("2018-01-01", periods=sessions), [f"S{i}" for i in range(symbols)]
    close = pd.DataFrame(50 * np.exp(rng.normal(0, 0.03, (sessions, symbols)).cumsum(0)), days, names)
    hole = rng.random(close.shape) < 0.2
    hole[:, -1] = False
    weights = pd.DataFrame(rng.normal(0, 0.2, close.shape), days, names)[rng.random(sessions) < 0.3]
    failures = pd.DataFrame(rng.random(close.shape) < 0.2, days, names)
    faults = ExecutionFaults(
        delay=int(rng.integers(0, 3)), slippage=float(rng.choice([0, 1e-3])), gap=float(rng.choice([0, 0.2])),
        filled=float(rng.choice([1.0, 0.6])), failures=failures, rest=str(rng.choice(["dropped", "carried"])))
    return weights, Bars(close=close.mask(hole)), faults


def ledger(weights, bars, faults, cost):
    "Equity after each close, of an account that owns cash and units and hands in what was not filled once more"
    cash, units, price, rest, out = 1.0, *(dict.fromkeys(weights, x) for x in (0.0, None, 0.0)), []
    sessions = list(bars.sessions)
    due = {sessions[k]: day for day in weights.index if (k := sessions.index(day) + faults.delay) < len(sessions)}
    for day in sessions:
        if day < weights.index[0]:
            price |= dict(bars.close.loc[day].dropna())
            continue
        last, quotes = dict(price), bars.close.loc[day].dropna()
        price |= dict(quotes)
        value = cash + sum(u * price[s] for s, u in units.items() if u)
        share = {s: 0.0 if faults.failures.at[day, s] else faults.filled for s in quotes.index}
        if day in due or faults.rest == "dropped":
            rest = dict.fromkeys(weights, 0.0)
        fee, orders = 0.0, {}
        for s in quotes.index:
            wanted = weights.at[due[day], s] * value - units[s] * price[s] if day in due else rest[s] * price[s]
            move = abs(price[s] / last[s] - 1) if last[s] else 0.0
            fee += share[s] * abs(wanted) * (cost + faults.slippage + faults.gap * move)
        for s in quotes.index:
            orders[s] = weights.at[due[day], s] * (value - fee) / price[s] - units[s] if day in due else rest[s]
            done = share[s] * orders[s]
            cash, units[s], rest[s] = cash - done * price[s], units[s] + done, orders[s] - done
        cash -= fee
        out.append(cash + sum(u * price[s] for s, u in units.items() if u))
    return np.array(out)


def check(implementation, seeds=range(25)):
    "The equity is that of the ledger, in every session"
    for seed in seeds:
        weights, bars, faults = case(seed)
        book = implementation(weights, bars, costs=1e-3, rebalance="given", faults=faults)
        apart = np.abs(book.equity - ledger(weights, bars, faults, 1e-3)).max()
        assert apart <= 1e-9, f"seed {seed}, {faults}: equity differs by {apart:.1e}"


def test_faults_are_those_of_a_ledger():
    check(run_backtest)


@pytest.mark.parametrize("name, change", [
    ("the rest is forgotten", dict(rest="dropped")), ("orders are filled whole", dict(filled=1.0, failures=None)),
    ("fills are never late", dict(delay=0)), ("a worse price costs nothing", dict(slippage=0.0, gap=0.0))])
def test_mutants(mutants, name, change):
    def planted(weights, bars, faults, **terms):
        kept = {k: getattr(faults, k) for k in ("delay", "slippage", "gap", "filled", "failures", "rest")}
        return run_backtest(weights, bars, faults=ExecutionFaults(**kept | change), **terms)
    mutants.kill(12, name, check, planted)


@pytest.mark.parametrize("terms", [
    dict(), dict(fill="next_close", rebalance="month", borrow=0.02, financing=0.05),
    dict(faults=ExecutionFaults(failed=0.2, filled=0.7, rest="carried"), rebalance="week"),
    dict(impact=0.5, capital=1e6)], ids=["plain", "financed", "faults", "impact"])
def test_many_strategies_are_each_of_them(terms, monkeypatch):
    "Also where they do not fit into memory together"
    monkeypatch.setattr("hybrid_ssm.backtest._TOGETHER", 3 * 3 * 15)
    bars = case(0)[1]
    bars = Bars(close=bars.close, volume=bars.close * 0 + 1e5)
    days = bars.sessions[25:]  # volatilities need a start
    rng = np.random.default_rng(1)
    many = {f"v{k}": pd.DataFrame(rng.normal(0, 0.3, (len(days), 3)), days, bars.symbols) for k in range(7)}
    if "impact" in terms:
        many = {k: w.where(bars.observed.loc[days], 0.0) for k, w in many.items()}
    together = backtest_variants(many, bars, costs=1e-3, **terms)
    assert list(together.net_returns) == list(many)
    for name, weights in many.items():
        alone = run_backtest(weights, bars, costs=1e-3, **terms)
        for column in ("gross_returns", "net_returns", "turnover"):
            assert np.abs(getattr(together, column)[name] - getattr(alone, column)).max() <= 1e-12


def test_what_is_no_action_and_no_fault():
    weights, bars, _ = case(0)
    ones = bars.close * 0 + 1
    for wrong, text in ((ones * np.nan, "give new shares"), (ones.mask(ones == 1, -1.0), "are -1"), (ones.rename(columns={"S0": "X"}), "'X'")):
        with pytest.raises(DataError, match=text):
            run_backtest(weights, bars, costs=0.0, rebalance="given", splits=wrong.fillna(np.nan))
    with pytest.raises(DataError, match="have given returns"):
        run_backtest(weights, Bars(close=bars.close, excess=bars.returns), costs=0.0, rebalance="given", dividends=ones)
    with pytest.raises(DataError, match="which is no session"):
        run_backtest(weights, bars, costs=0.0, rebalance="given", faults=ExecutionFaults(failures=pd.DataFrame({"S0": [True]}, [pd.Timestamp("2017-01-01")])))
