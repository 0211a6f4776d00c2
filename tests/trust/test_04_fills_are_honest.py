"""Row 4: fills are honest. Where prices bounce between bid and ask, a reversal strategy loses unless it is filled at the print that gave its signal."""
import numpy as np
import pandas as pd
import pytest

from hybrid_ssm.backtest import ExecutionFaults, run_backtest
from hybrid_ssm.data import Bars
from hybrid_ssm.metrics import sharpe

HALF_SPREAD, COST = 1e-3, 2e-4  # of the value; a cost far below the spread, so that an illusion would show


def market(seed, sessions=504, symbols=6):
    "Values that wander by 0.1 % a session; opens and closes are printed at the bid or at the ask, by the toss of a coin"
    rng = np.random.default_rng(seed)
    days, names = pd.bdate_range("2012-01-02", periods=sessions), [f"B{i}" for i in range(symbols)]
    value = 100 * np.exp(rng.normal(0, 0.001 / np.sqrt(2), (2 * sessions, symbols)).cumsum(0))
    printed = value * (1 + HALF_SPREAD * rng.choice([-1.0, 1.0], value.shape))
    open_, close = (pd.DataFrame(printed[k::2], days, names) for k in (0, 1))
    return Bars(close=close, open=open_)


def reversal(bars):
    "Sells what closed up and buys what closed down"
    return -np.sign(bars.returns.fillna(0.0)) / len(bars.symbols)


def ratio(implementation, bars, fill, costs=COST):
    "Net Sharpe ratio of the reversal strategy"
    return sharpe(implementation(reversal(bars), bars, costs=costs, fill=fill).net_returns).value


def check(implementation, seeds):
    "It loses with both honest fills, in every market"
    for seed in seeds:
        bars = market(seed)
        for fill in ("next_close", "next_open"):
            net = ratio(implementation, bars, fill)
            assert net < 0, f"seed {seed}: a Sharpe ratio of {net:.2f} at '{fill}', where nothing can be earned"


def quick(implementation):
    "Five markets"
    return check(implementation, range(5))


def at_the_observed_close(weights, bars, costs, fill):
    "Planted: filled at the close that gave the signal"
    return run_backtest(weights, bars, costs=costs, fill="close")


def at_the_last_close(weights, bars, costs, fill):
    "Planted: a fill at the open is booked at the close before it"
    stale = Bars(close=bars.close, open=bars.close.shift().fillna(bars.open))
    return run_backtest(weights, stale if fill == "next_open" else bars, costs=costs, fill=fill)


def test_a_bounce_earns_nothing(tell):
    quick(run_backtest)
    bars = market(0)
    table = {name: ratio(run_backtest, bars, fill, 0.0) for name, fill in
             {"at the close": "close", "one day late": "next_close", "at the next open": "next_open"}.items()}
    assert table["at the close"] > 5, "the market shows no illusion, so its absence proves nothing"
    tell("Sharpe before costs: " + ", ".join(f"{name} {value:+.2f}" for name, value in table.items()))


@pytest.mark.parametrize("planted", [at_the_observed_close, at_the_last_close], ids=lambda f: f.__name__)
def test_mutants(mutants, planted):
    mutants.kill(4, planted.__doc__.removeprefix("Planted: "), quick, planted)


def test_one_session_of_delay_is_the_next_close():
    bars = market(1)
    late = run_backtest(reversal(bars), bars, costs=COST, faults=ExecutionFaults(delay=1))
    assert late.net_returns.equals(run_backtest(reversal(bars), bars, costs=COST, fill="next_close").net_returns)


@pytest.mark.slow
def test_twenty_markets(tell):
    check(run_backtest, range(20))
    fills = {"at the close": "close", "one day late": "next_close", "at the next open": "next_open"}
    means = {name: np.mean([ratio(run_backtest, market(seed), fill) for seed in range(20)]) for name, fill in fills.items()}
    tell("20 markets, mean Sharpe net of 2 bp: " + ", ".join(f"{name} {value:+.2f}" for name, value in means.items()))
