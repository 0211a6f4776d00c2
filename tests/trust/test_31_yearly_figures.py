"""Row 31: yearly figures know the calendar. Any market, through the command line, equals a computation of its own."""
import math
from datetime import date

import numpy as np
import pandas as pd
import pytest

from hybrid_ssm.cli import main

START, END, TEST = "2008-01-01", "2019-12-31", "2013-01-01"
CLOCKS = {"daily": "B", "weekly": "W-FRI", "monthly": "BME", "seven-day": "D"}


def prices(kind, seed=0):
    "A long table of three random symbols on one calendar, or on two of them"
    rng, parts = np.random.default_rng(seed), []
    for i, symbol in enumerate(("AAA", "BBB", "IDX")):
        clock = CLOCKS.get(kind) or ("D" if symbol == "AAA" else "B")
        days = pd.date_range(START, END, freq=clock)
        gone = np.diff(days, prepend=days[0] - pd.Timedelta(days=1)) / pd.Timedelta(days=365.25)
        moves = 0.06 * gone + 0.2 * np.sqrt(gone) * rng.standard_normal(len(days))
        parts.append(pd.DataFrame(dict(date=days, symbol=symbol, close=50 * (i + 1) * np.exp(moves.cumsum()))))
    return pd.concat(parts)


def through_the_shell(folder, kind, *options):
    "Run the command line on the market and read back its table and its net returns"
    file, out = folder / f"{kind}.csv", folder / "-".join(("runs", kind, *options))
    prices(kind).to_csv(file, index=False)
    status = main(["experiment", "demo", "--data", str(file), "--benchmark", "IDX", "--start", START,
                   "--models", "equal_weight", "index", "long_only", "--test-start", TEST, "--test-end", END,
                   "--cost-bps", "5", "--no-progress", "--out", str(out), *options])
    assert status == 0
    run = next(path.parent for path in out.glob("*/table.csv"))
    return pd.read_csv(run / "table.csv", index_col=0), pd.read_parquet(run / "net_returns.parquet")


def equal_weight_net(kind):
    "Net returns of equal weights by a ledger that owns cash and units, day by day"
    wide = prices(kind).pivot(index="date", columns="symbol", values="close")
    wide = wide.loc[TEST:END]
    cash, units, last, equity, out = 1.0, dict.fromkeys(wide, 0.0), {}, 1.0, []
    for row in wide.to_dict("records"):
        seen = {symbol: p for symbol, p in row.items() if not math.isnan(p)}
        last |= seen
        value = cash + sum(units[s] * last[s] for s in last)
        share = 1 / len(seen)  # the rule holds what has a price
        fee = sum(abs(share - units[s] * last[s] / value) for s in seen) * 5e-4 * value
        for s in seen:
            wanted = share * (value - fee) / last[s]
            cash -= (wanted - units[s]) * last[s]
            units[s] = wanted
        cash -= fee
        after = cash + sum(units[s] * last[s] for s in last)
        out.append(after / equity - 1)
        equity = after
    return pd.Series(out, wide.index)


def yearly(net):
    "Sharpe ratio, growth and volatility a year, counted in calendar days with plain Python"
    first, last = (date.fromisoformat(f"{day:%Y-%m-%d}") for day in net.index[[0, -1]])
    per_year = (len(net) - 1) / ((last - first).days / 365.25)
    mean = math.fsum(net) / len(net)
    spread = math.sqrt(math.fsum((x - mean) ** 2 for x in net) / (len(net) - 1))
    growth = math.exp(math.fsum(map(math.log1p, net)) * per_year / len(net)) - 1
    return {"Net Sharpe": mean / spread * math.sqrt(per_year), "Annual return": growth,
            "Volatility": spread * math.sqrt(per_year)}


def check(folder, kinds):
    "Every yearly figure of every row, and the returns of the equal weights themselves"
    def guard(shell):
        for kind in kinds:
            table, net = shell(folder, kind)
            if kind != "mixed":  # every symbol in every session: the ledger needs no rule for silence
                own = equal_weight_net(kind)
                assert np.abs(net["equal weight"].to_numpy() - own.to_numpy()).max() < 1e-9, f"{kind}: returns"
            for label in table.index:
                for name, value in yearly(net[label]).items():
                    assert abs(table.loc[label, name] - value) < 1e-9, f"{kind}: {name} of {label}"
    return guard


def test_yearly_figures(tmp_path):
    check(tmp_path, ["weekly", "seven-day"])(through_the_shell)


@pytest.mark.slow
def test_yearly_figures_of_every_market(tmp_path):
    check(tmp_path, [*CLOCKS, "mixed"])(through_the_shell)


def test_fixed_252_is_seen(tmp_path, mutants):
    fixed = lambda folder, kind: through_the_shell(folder, kind, "--periods", "252")
    mutants.kill(31, "252 everywhere", check(tmp_path, ["weekly"]), fixed)
