"""A slow back office: cash and units, one symbol and one session at a time, and random books to compare with."""
import math
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from hybrid_ssm.backtest import RuinError
from hybrid_ssm.data import Bars

REBALANCE = ("session", "given", "week", "month", "quarter", "year")
FILLS = ("close", "next_close", "next_open")


@dataclass
class Case:
    "What a backtest is given"
    weights: pd.DataFrame
    bars: Bars
    costs: dict
    terms: dict = field(default_factory=dict)  # fill, rebalance, borrow, financing

    def run(self, implementation):
        "The books of `implementation`"
        return implementation(self.weights, self.bars, costs=self.costs, **self.terms)


def period_of(day, rebalance):
    "The calendar period of a day, by the calendar alone"
    return {"week": lambda: tuple(day.isocalendar())[:2], "month": lambda: (day.year, day.month),
            "quarter": lambda: (day.year, (day.month - 1) // 3), "year": lambda: day.year}[rebalance]()


def schedule(case):
    "session -> the row of weights that is decided there"
    rebalance, given = case.terms.get("rebalance", "session"), list(case.weights.index)
    if rebalance in ("session", "given"):
        return {day: day for day in given}
    days, out = list(case.bars.sessions), {}
    for day, following in zip(days, days[1:] + [None]):
        if following is None or period_of(day, rebalance) != period_of(following, rebalance):
            rows = [g for g in given if g <= day and period_of(g, rebalance) == period_of(day, rebalance)]
            if rows:
                out[day] = rows[-1]
    return out


def settlement(bars, symbol):
    "The session in which a delisted position becomes cash, or None"
    if "delisting" not in bars.instruments or pd.isna(bars.instruments.at[symbol, "delisting"]):
        return None
    end = pd.Timestamp(bars.instruments.at[symbol, "delisting"])
    last = bars.close[symbol].loc[:end].last_valid_index()
    later = [day for day in bars.sessions if last is not None and day > last and day >= end]
    return later[0] if later else None


class Account:
    "Cash, and units at their last prices"

    def __init__(self, symbols):
        self.cash, self.units, self.price = 1.0, dict.fromkeys(symbols, 0.0), dict.fromkeys(symbols, 1.0)

    def worth(self, symbol):
        "Value of one position"
        return self.units[symbol] * self.price[symbol]

    @property
    def equity(self):
        "Cash and all positions"
        return self.cash + sum(self.worth(s) for s in self.units)

    def shares(self, wanted):
        "What must be traded to reach the weights `wanted`, as shares of the equity"
        return {s: w - self.worth(s) / self.equity for s, w in wanted.items()}

    def fill(self, wanted, bill):
        "Pay the bill, then buy and sell units until each of `wanted` has its share of what is left"
        left = self.equity - bill
        self.cash -= bill
        for s, w in wanted.items():
            units = w * left / self.price[s]
            self.cash -= (units - self.units[s]) * self.price[s]
            self.units[s] = units


def quotes(bars):
    "Prices that returns are counted from: the closes, or an index made of the given returns"
    if bars.excess is None:
        return bars.close
    return (1 + bars.excess.fillna(0.0)).cumprod().where(bars.close.notna())


def ledger(case):
    "session -> equity, cash, positions, traded, fee of the trades, borrow and interest"
    bars, terms, names = case.bars, case.terms, list(case.weights.columns)
    fill, rebalance = terms.get("fill", "close"), terms.get("rebalance", "session")
    free = bars.excess is not None
    borrow = dict.fromkeys(names, 0.0) | ({} if free else terms.get("borrow") or {})
    financing = 0.0 if free else terms.get("financing", 0.0)
    decided, prices, account = schedule(case), quotes(bars), Account(names)
    ends = {s: settlement(bars, s) for s in names}
    pending, active, waiting, out = None, None, dict.fromkeys(names, 0), []
    for day in bars.sessions:
        if day < case.weights.index[0] or (rebalance == "session" and day > case.weights.index[-1]):
            continue
        if fill == "close":
            pending = decided.get(day, pending)
        seen = [s for s in names if not math.isnan(bars.close.at[day, s])]
        over = [s for s in names if ends[s] == day]
        start, owed, fees = account.equity, 0.0, 0.0
        if (seen or over) and active is not None:
            years = (day - active).days / 365.25
            owed += financing * years * max(-account.cash, 0.0)
            owed += sum(borrow[s] * years * max(-account.worth(s), 0.0) for s in names)
            account.cash -= owed
        active = day if seen or over else active
        fillable = list(seen)
        for s in seen:
            account.price[s] = prices.at[day, s]
            if fill == "next_open":
                if math.isnan(bars.open.at[day, s]):
                    fillable.remove(s)
                else:
                    account.price[s] = bars.open.at[day, s]
        for s in over:
            account.cash += account.worth(s) * (1 + bars.instruments.at[s, "delisting_return"])
            account.units[s] = 0.0
        if "roll" in bars.extras:
            for s in names:
                waiting[s] += bars.extras["roll"].at[day, s]
            fees = sum(abs(account.worth(s)) * waiting[s] * case.costs[s] for s in seen)
            waiting |= dict.fromkeys(seen, 0)
        wanted = {}
        if fillable and pending is not None:
            wanted, pending = {s: case.weights.at[pending, s] for s in fillable}, None
        shares, value = account.shares(wanted), account.equity
        fees += sum(abs(x) * value * case.costs[s] for s, x in shares.items())
        account.fill(wanted, fees)
        for s in seen:
            account.price[s] = prices.at[day, s]
        if fill != "close":
            pending = decided.get(day, pending)
        out.append(dict(day=day, equity=account.equity, cash=account.cash,
                        turnover=sum(map(abs, shares.values())), financing_costs=owed / start,
                        costs=(fees + owed) / start, **{f"of {s}": account.worth(s) for s in names}))
    return pd.DataFrame(out).set_index("day")


def calendar(rng):
    "Sessions with weekends, holidays, and sometimes days on which nothing will trade"
    days = pd.date_range("2019-11-01", periods=int(rng.integers(8, 150)))
    return days[(rng.random(len(days)) < rng.choice([0.25, 0.7, 1.0])) | (np.arange(len(days)) < 2)]


def random_case(seed):
    "Halts, delistings, rolls, borrow, financing, given returns: whatever can happen to a book"
    rng = np.random.default_rng(seed)
    days, n = calendar(rng), int(rng.integers(1, 5))
    names, shape = [f"S{i}" for i in range(n)], (len(days), n)
    moves = rng.normal(0, 0.02, shape)
    close = pd.DataFrame(50 * np.exp(moves.cumsum(0)), days, names)
    hidden = rng.random(shape) < rng.choice([0.0, 0.1, 0.3])
    hidden |= (rng.random(len(days)) < rng.choice([0.0, 0.1]))[:, None]  # sessions without a market
    table = pd.DataFrame(dict(delisting=pd.NaT, delisting_return=np.nan), names)
    table["delisting"] = table["delisting"].astype("datetime64[us]")
    for i, name in enumerate(names):
        first = int(rng.integers(0, len(days)))
        hidden[first:first + int(rng.integers(0, 60)), i] |= rng.random() < 0.5  # a long halt
        if rng.random() < 0.4:
            end = days[0] + pd.Timedelta(days=int(rng.integers(0, (days[-1] - days[0]).days + 20)))
            hidden[days > end, i] = True
            table.loc[name] = end, rng.choice([-1.0, -0.3, 0.0, rng.uniform(-0.9, 0.5)])
    close = close.mask(hidden)
    fill, excess = rng.choice(FILLS), None
    if rng.random() < 0.3 and fill != "next_open":
        excess = pd.DataFrame(moves, days, names).where(close.notna())
        close = close - 55.0  # back-adjusted levels, some below zero
    opens = close * np.exp(rng.normal(0, 0.01, shape))
    opens = opens.mask((rng.random(shape) < 0.05) & (close.notna().cumsum() > 5)) if fill == "next_open" else None
    weights = pd.DataFrame(rng.normal(0, 0.6 / n, shape), days, names)
    weights = weights.abs() if rng.random() < 0.3 else weights
    rebalance = rng.choice(REBALANCE)
    keep = rng.random(len(days)) < (0.2 if rebalance == "given" else rng.choice([0.3, 1.0]))
    keep[int(rng.integers(0, len(days)))] = True
    weights = weights[keep] if rebalance != "session" else weights.iloc[int(rng.integers(0, 3)):]
    if opens is not None:  # an opening price is needed where a symbol trades at all
        last = weights.index[-1] if rebalance == "session" else days[-1]
        inside = opens.loc[weights.index[0]:last].isna().all()
        opens = opens.where(~inside, close, axis=1)
    roll = pd.DataFrame((rng.random(shape) < 0.05).astype(float), days, names)
    bars = Bars(close=close, open=opens, excess=excess, instruments=table.rename_axis("symbol").reset_index(),
                extras={"roll": roll} if rng.random() < 0.5 else {})
    terms = dict(fill=str(fill), rebalance=str(rebalance))
    if rng.random() < 0.5:
        terms |= dict(borrow=dict(zip(names, rng.uniform(0, 0.2, n))), financing=float(rng.uniform(0, 0.2)))
    return Case(weights, bars, dict(zip(names, rng.uniform(0, 0.005, n))), terms)


def disagreement(case, implementation):
    "Largest distance between the books of `implementation` and the ledger, over everything both know, and the ledger"
    slow = ledger(case)
    try:
        book = case.run(implementation)
    except RuinError as error:  # the same ruin, on the same day
        ruined = slow.index[slow.equity <= 0][:1]
        assert len(ruined) and f"{ruined[0]:%Y-%m-%d}" in str(error), f"ruined on {ruined}: {error}"
        return 0.0, slow
    assert book.equity.index.equals(pd.DatetimeIndex(slow.index)), "other sessions"
    worst = 0.0
    for name in ("equity", "cash", "turnover", "financing_costs", "costs"):
        worst = max(worst, float(np.abs(getattr(book, name) - slow[name]).max()))
    for name in case.weights.columns:
        worst = max(worst, float(np.abs(book.positions[name] - slow[f"of {name}"]).max()))
    exact = book.gross_returns - book.costs
    assert exact.equals(book.net_returns.rename(None)), "net is not gross - costs"
    paid = (book.trades.abs() * pd.Series(case.costs)).sum(axis=1) * book.fill_equity + book.financing_costs
    if "roll" not in case.bars.extras:
        worst = max(worst, float(np.abs(paid - book.costs).max()))
    return worst, slow
