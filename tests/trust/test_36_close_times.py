"""Row 36: nothing is used before its own close.

Tokyo, London and New York share a date, not an hour. For each symbol, all that closes later on the same date is spoiled:
prices, positions, and whether there is a price at all. Weights, with limits and no-trade band, the rules that mix symbols, and
features keep their bits.
"""
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import hybrid_ssm.risk as room
import hybrid_ssm.sizing as sizing
from hybrid_ssm.data import Bars
from hybrid_ssm.feature_set import compute_features
from hybrid_ssm.risk import RiskPolicy, inverse_volatility
from hybrid_ssm.rules import equal_weight
from hybrid_ssm.sizing import decorrelated, no_trade_band
from hybrid_ssm.targets import known_at_close, volatility

HOURS = pd.DataFrame({"close_time": ["15:00", "15:00", "16:30", "16:00", "16:00", None],
                      "timezone": ["Asia/Tokyo", "Asia/Tokyo", "Europe/London", "America/New_York", "America/New_York", None]},
                     ["N225", "TOPIX", "FTSE", "SPY", "QQQ", "GOLD"])
LATER = {"N225": ["FTSE", "SPY", "QQQ", "GOLD"], "TOPIX": ["FTSE", "SPY", "QQQ", "GOLD"], "FTSE": ["SPY", "QQQ", "GOLD"],
         "SPY": ["GOLD"], "QQQ": ["GOLD"], "GOLD": ["N225", "TOPIX", "FTSE", "SPY", "QQQ"]}  # by hand; nobody knows when GOLD closes
POLICIES = {"budget": RiskPolicy(), "realised": RiskPolicy(scaling="realised"), "plain": RiskPolicy(scaling="none"),
            "limits": RiskPolicy(max_weight=.1, max_gross=.15), "band": RiskPolicy(buffer=.1, max_gross=.2),
            "rotated": RiskPolicy(decorrelate=True, decorrelate_span=100)}
FEATURES = ("return_1", "market_correlation_63", "market_beta_126", "average_correlation_63", "momentum_rank_63")


def world(sessions, seed=0):
    "Six symbols in three zones that move together, with holes, and positions"
    rng = np.random.default_rng(seed)
    r = rng.normal(0, .01, (sessions, 1)) + rng.normal(0, .01, (sessions, 6))
    close = pd.DataFrame(100 * np.exp(r.cumsum(0)), pd.bdate_range("2019-01-01", periods=sessions), HOURS.index)
    p = pd.DataFrame(rng.uniform(-1, 1, close.shape), close.index, close.columns)
    return Bars(close=close.mask(rng.random(close.shape) < .05), instruments=HOURS), p


def spoiled(bars, p, row, later, rng):
    "The same world with nonsense in the symbols that close later on one date"
    close, other = bars.close.copy(), p.copy()
    close.loc[close.index[row], later] = rng.choice([1., 1e4, np.nan], len(later))
    other.loc[close.index[row], later] = rng.choice([-1., 1., np.nan], len(later))
    return replace(bars, close=close), other


def rotated(bars, p):
    "Positions decorrelated by what is known at each close"
    return decorrelated(p, bars.returns / volatility(bars), known_at_close(bars))


def rules(bars, p):
    "The rules that mix symbols"
    return {"rotated": rotated(bars, p), "rotated, band": no_trade_band(rotated(bars, p), .15), "equal": equal_weight(bars)}


def guard(prepare, bars, p, rows):
    "Spoil later closes of each row's date for each symbol. Returns how many numbers were compared."
    whole, rng, compared = prepare(bars, p), np.random.default_rng(1), 0
    for row in rows:
        for symbol, later in LATER.items():
            now = prepare(*spoiled(bars, p, row, later, rng))
            for name, value in whole.items():
                early = value.iloc[:row].to_numpy().tobytes() == now[name].iloc[:row].to_numpy().tobytes()
                mine = value[symbol].iloc[:row + 1].to_numpy(), now[name][symbol].iloc[:row + 1].to_numpy()
                assert early and mine[0].tobytes() == mine[1].tobytes(), \
                    f"{name}: {symbol} on row {row} depends on what closes later on the same date"
                compared += value.iloc[:row].size + 1
    return compared


def sized(bars, p):
    "Weights of all policies"
    return {k: policy.weights(p, bars) for k, policy in POLICIES.items()} | {"parity": inverse_volatility(p, bars)}


def features(bars, p):
    "Features of each symbol, some of them across symbols"
    panel = compute_features(bars, FEATURES, np.float64)
    return {name: panel.frame(name) for name in FEATURES}


@pytest.mark.parametrize("prepare, rows", [(sized, (22, 61, 119)), (rules, (70, 119)), (features, (200,))])
def test_later_closes(prepare, rows, tell):
    compared = guard(prepare, *world(max(rows) + 5), rows)
    tell(f"{prepare.__name__}: {compared:,} numbers, 0 changed")


@pytest.mark.slow
@pytest.mark.parametrize("prepare", [sized, rules])
def test_later_closes_of_many_dates(prepare, tell):
    rows = range(21, 260, 12)
    compared = sum(guard(prepare, *world(270, seed), rows) for seed in range(2))
    tell(f"{prepare.__name__}: {compared:,} numbers, 0 changed")


def test_the_poison_works():
    "A symbol that closes last does see the earlier closes of its date, so the guard does compare what can change"
    bars, p = world(120)
    other = spoiled(bars, p, 100, ["N225", "TOPIX"], np.random.default_rng(0))
    for name in ("budget", "limits", "band"):
        before, after = (POLICIES[name].weights(q, b).iloc[100] for q, b in ((p, bars), other[::-1]))
        assert before["SPY"] != after["SPY"] and before["GOLD"] == after["GOLD"]


def test_one_exchange():
    "Without any closing time, all closes count as simultaneous"
    bars, p = world(120)
    plain = Bars(close=bars.close)
    noon = Bars(close=bars.close, instruments=pd.DataFrame({"close_utc": 12.}, HOURS.index))
    assert RiskPolicy().weights(p, plain).equals(RiskPolicy().weights(p, noon))


def test_planted(mutants, monkeypatch):
    bars, p = world(125)

    def same_date(planted):
        with monkeypatch.context() as patch:
            patch.setattr(room, "known_at_close", planted)
            guard(sized, bars, p, (61,))
    mutants.kill(36, "same-date volatility", same_date, lambda bars: np.ones((len(bars.symbols),) * 2, bool))

    def limits(planted):
        with monkeypatch.context() as patch:
            patch.setattr(sizing, "_gross_known", planted)
            guard(lambda b, q: {"limits": POLICIES["limits"].weights(q, b)}, bars, p, (61,))
    mutants.kill(36, "the gross weight of the whole date", limits,
                 lambda size, rows, group: size.sum(1, keepdims=True))

    def correlations(planted):
        with monkeypatch.context() as patch:
            patch.setattr(room, "_variances", planted)
            guard(sized, bars, p, (61,))
    real = room._variances
    mutants.kill(36, "correlations with the date's own returns", correlations,
                 lambda x, bars, span, first, lagged: real(x, bars, span, first, False))

    def rotation(planted):
        guard(lambda b, q: {"rotated": planted(b, q)}, bars, p, (119,))
    rotation(rotated)
    mutants.kill(36, "rotation by the whole date", rotation, lambda b, q: decorrelated(q, b.returns / volatility(b)))
