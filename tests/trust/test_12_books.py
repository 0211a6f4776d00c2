"""Row 12: the books balance. A ledger in units and cash, and the library `bt`, find the same equity."""
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from hybrid_ssm.backtest import run_backtest
from hybrid_ssm.data import Bars


def stream(seed, gaps=0.15):
    "A random market and a random stream of orders; some sessions have no order that changes anything"
    rng = np.random.default_rng(seed)
    sessions, symbols = int(rng.integers(5, 40)), int(rng.integers(1, 6))
    days = pd.bdate_range("2018-01-01", periods=sessions)
    names = [f"S{i}" for i in range(symbols)]
    close = pd.DataFrame(np.exp(rng.normal(0, 0.03, (sessions, symbols)).cumsum(0)), days, names)
    weights = pd.DataFrame(rng.normal(0, 0.6 / symbols, close.shape), days, names)
    weights[rng.random(sessions) < 0.3] = np.nan
    weights = weights.ffill().fillna(0.0)
    return weights, Bars(close=close.mask(rng.random(close.shape) < gaps))


def ledger(weights, bars, fraction):
    "Equity and cash of a back office that owns units, fills at the close and never sees a return"
    quotes, wanted = bars.close.to_numpy(), weights.to_numpy()
    units, price = np.zeros(wanted.shape[1]), np.ones(wanted.shape[1])
    cash, out = 1.0, []
    for quote, target in zip(quotes, wanted):
        seen = ~np.isnan(quote)
        price = np.where(seen, quote, price)
        value = cash + units @ price
        fee = fraction * np.abs(target * value - units * price)[seen].sum()
        order = np.where(seen, target * (value - fee) / price - units, 0.0)
        units, cash = units + order, cash - order @ price - fee
        out.append((cash + units @ price, cash))
    return np.array(out).T


def check(implementation, seeds, fraction=0.003):
    "Equity change = gross - costs, and positions + cash = equity = what the ledger holds"
    for seed in seeds:
        weights, bars = stream(seed)
        book = implementation(weights, bars, costs=fraction)
        before = book.equity.shift(fill_value=1.0)
        change = before * (book.gross_returns - book.costs)
        assert np.allclose(book.equity - before, change, rtol=0, atol=1e-9), f"seed {seed}: change"
        whole = book.positions.sum(axis=1) + book.cash
        assert np.allclose(whole, book.equity, rtol=0, atol=1e-9), f"seed {seed}: parts"
        equity, cash = ledger(weights, bars, fraction)
        assert np.allclose(book.equity, equity, rtol=0, atol=1e-9), f"seed {seed}: equity"
        assert np.allclose(book.cash, cash, rtol=0, atol=1e-9), f"seed {seed}: cash"


def quick(implementation):
    "200 random order streams"
    check(implementation, range(200))


def one_side_only(weights, bars, costs=None, fill="close"):
    "Planted: only buying costs money"
    book = run_backtest(weights, bars, costs=costs, fill=fill)
    paid = book.trades.clip(lower=0.0).sum(axis=1) * costs
    net = book.gross_returns - paid
    return replace(book, costs=paid, net_returns=net, equity=(1 + net).cumprod())


def trades_without_a_price(weights, bars, costs=None, fill="close"):
    "Planted: a session without a price fills at the last one"
    return run_backtest(weights, replace(bars, close=bars.close.ffill()), costs=costs, fill=fill)


def bt_distance(seed):
    "Largest distance of the equity from that of `bt`, without costs"
    bt = pytest.importorskip("bt", reason="the oracle is a development dependency")
    weights, bars = stream(seed, gaps=0.0)
    algos = [bt.algos.WeighTarget(weights), bt.algos.Rebalance()]
    oracle = bt.Backtest(bt.Strategy("s", algos), bars.close, initial_capital=1e6,
                         integer_positions=False, progress_bar=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prices = bt.run(oracle).prices["s"].reindex(weights.index) / 100
    return float(np.abs(prices - run_backtest(weights, bars, costs=0.0).equity).max())


def test_the_books_balance():
    quick(run_backtest)


@pytest.mark.parametrize("planted", [one_side_only, trades_without_a_price], ids=lambda f: f.__name__)
def test_mutants(mutants, planted):
    mutants.kill(12, planted.__doc__.removeprefix("Planted: "), quick, planted)


def test_bt_agrees():
    assert max(map(bt_distance, range(10))) < 1e-8


@pytest.mark.slow
def test_the_books_balance_in_a_thousand_streams():
    check(run_backtest, range(1000))
    assert max(map(bt_distance, range(100))) < 1e-8
