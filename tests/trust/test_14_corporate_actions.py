"""Row 14: corporate actions are neutral. Prices as traded, with splits and dividends stated, give the equity of adjusted prices."""
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest

from hybrid_ssm.backtest import RuinError, run_backtest, total_return_bars
from hybrid_ssm.data import Bars, DataError
from hybrid_ssm.sources import RawBars, adjust

RATIOS = (2.0, 3.0, 0.1, 1.5, 1.05, 7.0)  # new shares per old one


@dataclass
class Case:
    "A market twice, as traded and adjusted, what lies between the two, and orders long and short"
    weights: pd.DataFrame
    traded: Bars
    adjusted: Bars
    splits: pd.DataFrame
    dividends: pd.DataFrame
    terms: dict

    @property
    def actions(self):
        return int((self.splits != 1).sum().sum() + (self.dividends > 0).sum().sum())


def as_traded(adjusted, rng, often):
    "Prices that were paid on the way to `adjusted`, told forwards: a split and a dividend change the price before anybody trades"
    traded, splits, dividends, scale, last = adjusted.copy(), np.ones(len(adjusted)), np.zeros(len(adjusted)), 1.0, np.nan
    for t, price in enumerate(adjusted):
        if last == last and rng.random() < often:
            splits[t] = rng.choice(RATIOS)
        if last == last and rng.random() < often:
            dividends[t] = last / splits[t] * rng.uniform(0.001, 0.2)
        scale, last = scale / splits[t], last / splits[t]
        scale, last = scale * (1 - dividends[t] / last if dividends[t] else 1.0), last - dividends[t]
        traded[t] = price * scale
        last = last if np.isnan(price) else traded[t]
    return traded, splits, dividends


def case(seed, sessions=60, often=0.08):
    "Actions in sessions with and without a price, several at once, before and in the session of an order"
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 5))
    days, names = pd.bdate_range("2018-01-01", periods=sessions), [f"S{i}" for i in range(n)]
    close = 50 * np.exp(rng.normal(0, 0.03, (sessions, n)).cumsum(0))
    jump, hole = np.exp(rng.normal(0, 0.01, close.shape)), rng.random(close.shape) < 0.2
    tables = []
    for i in range(n):
        seen = np.where(hole[:, i], np.nan, close[:, i])
        tables.append((seen, *as_traded(seen, rng, often)))
    seen, raw, split, paid = (pd.DataFrame(np.array(x).T, days, names) for x in zip(*tables))
    weights = pd.DataFrame(rng.normal(0, 0.5 / n, close.shape), days, names)
    fill, rebalance = ("close", "next_close", "next_open")[seed % 3], ("session", "week", "session", "month")[seed // 3 % 4]
    return Case(weights, Bars(close=raw, open=raw * jump), Bars(close=seen, open=seen * jump), split, paid,
                dict(costs=1e-3, fill=fill, rebalance=rebalance))


def check(implementation, seeds, least):
    "The equity is that of the adjusted prices, in every session; all actions are counted"
    actions, apart = 0, 0.0
    for seed in seeds:
        c = case(seed)
        try:
            ours = implementation(c.weights, c.traded, c.splits, c.dividends, **c.terms)
        except (DataError, RuinError) as error:
            raise AssertionError(f"seed {seed}: {error}") from error
        wanted = run_backtest(c.weights, c.adjusted, **c.terms)
        difference = np.abs(ours.equity - wanted.equity).max()
        actions, apart = actions + c.actions, max(apart, difference)
        assert difference <= 1e-9, f"seed {seed}: an action changes the equity by {difference:.1e}"
        assert np.abs(ours.weights - wanted.weights).max().max() <= 1e-9, f"seed {seed}: another weight"
    assert actions >= least, f"{actions} actions prove less than {least}"
    return actions, apart


def quick(implementation):
    "At least 500 actions"
    return check(implementation, range(30), 500)


def with_actions(weights, bars, splits, dividends, **terms):
    return run_backtest(weights, bars, splits=splits, dividends=dividends, **terms)


def unadjusted_quantity(weights, bars, splits, dividends, **terms):
    "Planted: a split leaves the quantity as it was"
    whole, shares = total_return_bars(bars, splits, dividends), splits.cumprod()
    return run_backtest(weights, replace(whole, close=whole.close / shares, open=whole.open / shares), **terms)


def dividends_are_not_paid(weights, bars, splits, dividends, **terms):
    "Planted: nobody is paid a dividend"
    return run_backtest(weights, bars, splits=splits, **terms)


def one_session_late(weights, bars, splits, dividends, **terms):
    "Planted: an action counts from the session after"
    return run_backtest(weights, bars, splits=splits.shift(fill_value=1.0), dividends=dividends.shift(fill_value=0.0), **terms)


def dividends_before_the_split(weights, bars, splits, dividends, **terms):
    "Planted: a dividend is taken per share of before the split of its session"
    return run_backtest(weights, bars, splits=splits, dividends=dividends / splits, **terms)


PLANTED = [unadjusted_quantity, dividends_are_not_paid, one_session_late, dividends_before_the_split]


def test_actions_change_nothing(tell):
    actions, apart = quick(with_actions)
    tell(f"{actions} splits and dividends: equity changes by at most {apart:.0e}")


@pytest.mark.parametrize("planted", PLANTED, ids=lambda f: f.__name__)
def test_mutants(mutants, planted):
    mutants.kill(14, planted.__doc__.removeprefix("Planted: "), quick, planted)


def units_ledger(c, cost):
    "A back office that owns cash and units, is handed new shares, and buys more of them for what they pay"
    cash, units, price, out = 1.0, dict.fromkeys(c.weights, 0.0), dict.fromkeys(c.weights, 1.0), []
    for day in c.weights.index:
        for s in c.weights:
            units[s], price[s] = units[s] * c.splits.at[day, s], price[s] / c.splits.at[day, s]
            if paid := c.dividends.at[day, s]:
                price[s] -= paid
                units[s] += units[s] * paid / price[s]
        quotes = c.traded.close.loc[day].dropna()
        price |= dict(quotes)
        value = cash + sum(units[s] * price[s] for s in units)
        fee = cost * sum(abs(c.weights.at[day, s] * value - units[s] * price[s]) for s in quotes.index)
        cash -= fee
        for s in quotes.index:
            wanted = c.weights.at[day, s] * (value - fee) / price[s]
            cash, units[s] = cash - (wanted - units[s]) * price[s], wanted
        out.append(cash + sum(units[s] * price[s] for s in units))
    return np.array(out)


def test_a_ledger_of_shares_agrees():
    "No adjusted price is made: shares are split, dividends are paid into cash and buy shares"
    for seed in range(0, 30, 3):
        c = case(seed)
        book = with_actions(c.weights, c.traded, c.splits, c.dividends, costs=2e-3)
        assert np.abs(book.equity - units_ledger(c, 2e-3)).max() <= 1e-9, f"seed {seed}"


def test_adjusted_at_the_source():
    "The prices that a source's raw table becomes give the same returns"
    for seed in range(6):
        c = case(seed)
        whole = total_return_bars(c.traded, c.splits, c.dividends)
        for s in c.weights:
            if c.traded.close[s].notna().sum() < 2:
                continue
            table = pd.DataFrame({"date": c.weights.index, "adj_close": np.nan, "dividend": c.dividends[s].to_numpy(), "split": c.splits[s].to_numpy(), "volume": 1.0}
                                 | dict.fromkeys(("open", "high", "low", "close"), c.traded.close[s].to_numpy()))
            theirs = adjust(RawBars(s, table, c.weights.index[-1], split_adjusted=False)).set_index("date")["close"]
            ours = whole.close[s].dropna()
            assert np.allclose(ours / ours.iloc[0], theirs / theirs.iloc[0], rtol=1e-12, atol=0)


def test_nothing_is_known_before():
    "Cut after any session, the account until there is the same to the last bit"
    c = case(1)
    whole = with_actions(c.weights, c.traded, c.splits, c.dividends, costs=1e-3)
    for cut in range(1, 60, 12):
        part = with_actions(c.weights.iloc[:cut], c.traded.upto(c.weights.index[cut - 1]), c.splits.iloc[:cut], c.dividends.iloc[:cut], costs=1e-3)
        assert part.equity.equals(whole.equity.iloc[:cut])
