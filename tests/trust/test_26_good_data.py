"""Row 26: good data is not "repaired". Whatever a market really did loads, and not one cell of it is changed."""
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hybrid_ssm.calendars import exchange_sessions
from hybrid_ssm.data import Bars
from hybrid_ssm.files import read_long
from hybrid_ssm.sources import SAMPLE_INDICES, SAMPLE_STOCKS, load_bars

PRICES = ("open", "high", "low", "close")


def stock(rng, days, symbol="KO", level=50.0, size=0.015):
    "An ordinary stock"
    close = level * np.exp(np.cumsum(rng.standard_t(4, len(days)) * size / 1.4))
    open_ = close * np.exp(rng.normal(0, size / 2, len(days)))
    high = np.maximum(open_, close) * np.exp(rng.exponential(size / 2, len(days)))
    low = np.minimum(open_, close) * np.exp(-rng.exponential(size / 2, len(days)))
    volume = np.round(np.exp(rng.normal(14, 0.3, len(days))))
    return pd.DataFrame(dict(date=days, symbol=symbol, open=open_, high=high, low=low, close=close, volume=volume))


def two_years(rng, name="XNYS"):
    "Real sessions"
    days = exchange_sessions(name, "2017", "2020").index
    first = int(rng.integers(0, len(days) - 500))
    return days[first:first + 500]


def moved(frame, row, factor, day=1.0, after=1.0, calm=1.0):
    "Everything from a row on is worth `factor` times as much; volume and its wildness change too"
    frame = frame.copy()
    step = np.where(np.arange(len(frame)) >= row, factor, 1.0)
    wild = np.where(np.arange(len(frame)) > row, calm, 1.0)
    move = np.diff(np.log(frame["close"]), prepend=np.log(frame["close"].iloc[0])) * (wild - 1)
    for name in PRICES:
        frame[name] = frame[name] * step * np.exp(np.cumsum(move))
    frame.loc[row:, "volume"] = np.round(frame.loc[row:, "volume"] * after)
    frame.loc[row, "volume"] = np.round(frame.loc[row, "volume"] * day)
    return frame


def halts(rng):
    "Trading stops for a day, for a month; it resumes 40 % lower with ten times the volume"
    frame, others = stock(rng, two_years(rng)), []
    for k in range(3):
        others.append(stock(rng, frame["date"], f"S{k}"))
    frame = moved(frame, 240, 0.6, day=10, after=2, calm=2)
    frame = frame.drop(index=[100, *range(220, 240)])
    return pd.concat([frame, *others]), {"calendar": "XNYS"}


def half_days(rng):
    "The session after Thanksgiving and Christmas Eve trade a third of the usual volume"
    closes = exchange_sessions("XNYS", "2018-11-01", "2020-01-31")
    early = closes.dt.hour < 20
    frame = stock(rng, closes.index)
    frame["volume"] = np.round(frame["volume"] * np.where(early, 0.33, 1.0))
    assert early.sum() >= 4
    return frame, {"calendar": "XNYS"}


def mixed_calendars(rng):
    "New York and Tokyo side by side, ten closed days of the Golden Week of 2019 included"
    tables = [stock(rng, exchange_sessions(c, "2019", "2019").index, s)
              for s, c in (("SPY", "XNYS"), ("N225", "XTKS"))]
    table = pd.DataFrame(dict(symbol=["SPY", "N225"], calendar=["XNYS", "XTKS"], close_time=["16:00", "15:00"],
                              timezone=["America/New_York", "Asia/Tokyo"]))
    return pd.concat(tables), {"instruments": table}


def crude(rng):
    "West Texas crude settled at -37.63 on 2020-04-20, and at 10.01 a day later"
    days = exchange_sessions("XNYS", "2020-03-02", "2020-05-29").index
    frame = stock(rng, days, "CL", 20.0)
    row = int(days.get_loc(pd.Timestamp("2020-04-20")))
    frame.loc[row, list(PRICES)] = 17.73, 17.85, -40.32, -37.63
    frame.loc[row + 1, list(PRICES)] = -14.0, 13.86, -16.74, 10.01
    return frame, {"instruments": pd.DataFrame(dict(symbol=["CL"], allow_negative=True))}


def crude_panel(rng):
    "The same as a back-adjusted panel: given returns below -100 %, an adjusted level below zero, no carry"
    frame, options = crude(rng)
    price = frame["close"]
    ret = price.diff() / price.shift().abs()
    return pd.DataFrame(dict(date=frame["date"], symbol="CL", price=price, adjusted=price - 30, ret=ret, carry=np.nan,
                             roll=(np.arange(len(price)) % 20 == 9).astype(int), flag=0)), options


def ten_for_one(rng):
    "A true 10:1 move, down or up: volume explodes on the day and the weeks after are wild"
    factor = float(rng.choice([0.1, 10.0]) * rng.uniform(0.97, 1.03))
    return moved(stock(rng, two_years(rng)), 250, factor, day=30, after=rng.uniform(2, 10), calm=3), {}


def ten_for_one_exactly(rng):
    "The same by exactly 10, with volume as before"
    return moved(stock(rng, two_years(rng)), 250, float(rng.choice([0.1, 10.0]))), {}


def ten_for_one_closes(rng):
    "The same where there are closes only"
    frame = moved(stock(rng, two_years(rng)), 250, float(rng.choice([0.1, 10.0])), calm=3)
    return frame[["date", "symbol", "close"]], {}


def halved_by_news(rng):
    "A drug fails: the price halves at the open, twenty times the shares change hands"
    return moved(stock(rng, two_years(rng)), 250, float(rng.choice([1 / 2, 1 / 3, 1 / 4])), day=20, after=2.5), {}


def split_adjusted(rng):
    "A split that was adjusted, and is named in a column of its own; a dividend in the adjusted close"
    frame = stock(rng, two_years(rng))
    row = np.arange(len(frame))
    return frame.assign(split=np.where(row == 250, 4.0, 0.0), adj_close=frame["close"] * np.where(row < 300, 0.97, 1)), {}


def flash_crash(rng):
    "A stub quote of a cent in a session that closed as if nothing had happened"
    frame = stock(rng, two_years(rng))
    frame.loc[250, "low"] = 0.01
    return frame, {}


def small_and_large(rng):
    "A price of a hundredth of a cent, and one of half a million"
    days = two_years(rng)
    return pd.concat([stock(rng, days, "PENNY", 1e-4), stock(rng, days, "BRK/A", 5e5)]), {}


def sleepy(rng):
    "Hardly traded: closes stand still for weeks, days without volume, moves without volume"
    frame = stock(rng, two_years(rng), size=0.05)
    awake = rng.random(len(frame)) < 0.1
    awake[0] = True
    for name in PRICES:
        frame[name] = frame["close"].where(awake).ffill().round(3)
    frame["volume"] = frame["volume"].where(awake | (rng.random(len(frame)) < 0.05), 0)
    return frame, {}


def every_day(rng):
    "A market without weekends beside one from Sunday to Thursday"
    days = pd.date_range("2020-01-01", periods=500)
    return pd.concat([stock(rng, days, "BTC", 2e4, 0.04), stock(rng, days[days.day_of_week.isin([6, 0, 1, 2, 3])], "TASI")]), {}


def born_and_gone(rng):
    "One listed in the middle, one delisted after losing 98 %, one silent for two years"
    days = exchange_sessions("XNYS", "2015", "2019").index
    gone = stock(rng, days[:700], "GONE")
    gone = moved(moved(gone, 650, 0.15, day=40, after=6, calm=3), 690, 0.13, day=5, after=3, calm=2)
    silent = stock(rng, days, "SILENT").drop(index=range(300, 900))
    table = pd.DataFrame(dict(symbol=["NEW", "GONE"], inception=[f"{days[400]:%Y-%m-%d}", None],
                              delisting=[None, f"{days[699]:%Y-%m-%d}"]))
    return pd.concat([stock(rng, days[400:], "NEW"), gone, silent]), {"instruments": table}


def crash(rng):
    "All fall by a fifth in one session, and stay wild"
    days = two_years(rng)
    return pd.concat([moved(stock(rng, days, f"S{k}"), 250, rng.uniform(0.75, 0.85), 3, 2, 3) for k in range(8)]), {}


def single_precision(rng):
    "Prices that were stored in four bytes, high equal to close to the last digit"
    frame = stock(rng, two_years(rng))
    frame["high"] = np.where(rng.random(len(frame)) < 0.3, np.maximum(frame["open"], frame["close"]), frame["high"])
    return frame.astype(dict.fromkeys(PRICES, "float32")), {}


CASES = (halts, half_days, mixed_calendars, crude, crude_panel, ten_for_one, ten_for_one_exactly, ten_for_one_closes,
         halved_by_news, split_adjusted, flash_crash, small_and_large, sleepy, every_day, born_and_gone, crash,
         single_precision)


def changed(bars, frame):
    "The number of cells in which bars differ from the table they were loaded from"
    names = {"price": "close"} if "price" in frame and "ret" in frame else {}
    frame = frame.rename(columns=names).sort_values(["date", "symbol"]).reset_index(drop=True)
    back = bars.to_long().sort_values(["date", "symbol"]).reset_index(drop=True)
    if len(back) != len(frame):
        return abs(len(back) - len(frame))
    assert (back["date"] == frame["date"]).all() and (back["symbol"] == frame["symbol"]).all()
    numbers = [c for c in frame if c not in ("date", "symbol")]
    a, b = back[numbers].to_numpy(float), frame[numbers].to_numpy(float)
    return int((~((a == b) | (np.isnan(a) & np.isnan(b)))).sum())


def check(load, seeds):
    "Every case loads; nothing is changed, not even where repair was asked for"
    counts = Counter()
    for case in CASES:
        for seed in seeds:
            frame, options = case(np.random.default_rng([CASES.index(case), seed]))
            for repair in (None, "mask", "drop"):
                try:
                    bars = load(frame, repair=repair, **options)
                except ValueError as error:
                    raise AssertionError(f"{case.__name__} {seed}: refused, {error}") from None
                count = changed(bars, frame)
                assert count == 0, f"{case.__name__} {seed} repair={repair}: {count} cells changed"
                assert "repairs" not in bars.provenance
                counts["cells"] += frame.size
            counts["markets"] += 1
    return counts


def quick(load):
    "One market of every kind"
    return check(load, range(1))


def spike_filter(frame, **options):
    "Planted: a move of more than half is taken for an error and masked"
    bars = read_long(frame, **options)
    wild = bars.returns.abs() > 0.5
    return bars if not wild.to_numpy().any() else Bars(bars.close.mask(wild), instruments=bars.instruments)


def fill_halts(frame, **options):
    "Planted: a session without a price gets the last one"
    bars = read_long(frame, **options)
    return Bars(bars.close.ffill(), bars.open, bars.high, bars.low, bars.volume, bars.excess, bars.extras)


def split_by_price(frame, **options):
    "Planted: whatever looks like a split is adjusted, by the price alone"
    bars = read_long(frame, **options)
    ratio = bars.close / bars.close.ffill().shift()
    factor = ratio.where((ratio * 10).sub(1).abs().lt(0.01) | (ratio / 10).sub(1).abs().lt(0.01), 1.0)
    return Bars(bars.close / factor.cumprod(), bars.open, bars.high, bars.low, bars.volume, bars.excess, bars.extras)


def no_negative(frame, **options):
    "Planted: a negative price is refused whatever the instrument table says"
    return read_long(frame, **{k: v for k, v in options.items() if k != "instruments"})


def strict(frame, **options):
    "Planted: what should only be noted is refused"
    return read_long(frame, strict=True, **options)


def test_good_data_is_not_changed(tell):
    counts = quick(read_long)
    tell(f"{counts['markets']} markets, {counts['cells']:,} cells, 0 changed, 0 refused")


@pytest.mark.parametrize("defect", [spike_filter, fill_halts, split_by_price, no_negative, strict])
def test_mutants(mutants, defect):
    mutants.kill(26, defect.__name__, quick, defect)


def test_a_true_ten_for_one_move_is_not_even_noted():
    "Real moves leave traces that no split leaves"
    from hybrid_ssm.checks import data_warnings
    for case in (ten_for_one, ten_for_one_exactly, ten_for_one_closes, halved_by_news, crash):
        for seed in range(3):
            frame, options = case(np.random.default_rng([99, seed]))
            noted = [f.rule for f in data_warnings(read_long(frame, **options)) if "split" in f.rule or "seam" in f.rule]
            assert not noted, f"{case.__name__}: {noted}"


def test_the_sample_and_a_real_panel(tell):
    "The bundled prices since 1990, and a panel of futures where the tests are told of one"
    bars = load_bars([*SAMPLE_STOCKS, *SAMPLE_INDICES], calendar="XNYS")
    repaired = load_bars([*SAMPLE_STOCKS, *SAMPLE_INDICES], repair="drop")
    assert bars.sha256 == repaired.sha256 and "repairs" not in repaired.provenance
    tell(f"sample: {int(bars.observed.to_numpy().sum()):,} prices, 0 changed")
    folder = os.environ.get("HYBRID_SSM_PANEL")
    if not folder:
        pytest.skip("HYBRID_SSM_PANEL names no folder with a panel")
    path, table = Path(folder) / "futures_dev.parquet", Path(folder) / "instruments.csv"
    panel = load_bars(source=path, instruments=table, repair="drop")
    assert changed(panel, pd.read_parquet(path)) == 0
    tell(f"panel: {int(panel.observed.to_numpy().sum()):,} rows, 0 changed")


@pytest.mark.slow
def test_good_data_is_not_changed_in_full(tell):
    counts = check(read_long, range(1, 61))
    tell(f"{counts['markets']:,} markets, {counts['cells']:,} cells, 0 changed, 0 refused")
