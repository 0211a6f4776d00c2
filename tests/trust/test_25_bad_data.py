"""Row 25: bad data is named. A fuzzed table either loads to the very same bars, or the error names the planted fault."""
import os
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context

import numpy as np
import pandas as pd
import pytest

from hybrid_ssm.calendars import exchange_sessions
from hybrid_ssm.checks import ERRORS, WARNINGS
from hybrid_ssm.data import Bars, DataError
from hybrid_ssm.files import read_long

ZONES = ("UTC", "America/New_York", "Asia/Tokyo", "Australia/Lord_Howe")
FULL = 10_000  # tables, each in every zone
NUMBERS = ("open", "high", "low", "close", "volume")
STARTS = ("2018-03-05", "2019-01-02", "2019-06-03")  # summer time begins or ends in all of them, but in Tokyo


def sound(rng):
    "One of 500 clean tables"
    return clean(int(rng.integers(500))).copy()


@cache
def clean(seed):
    "A long table of two to four symbols on real sessions, with every column by name"
    rng = np.random.default_rng(seed)
    days = exchange_sessions("XNYS", "2018", "2019").index
    days = days[days.get_loc(pd.Timestamp(str(rng.choice(STARTS)))):][:64]
    frames = []
    for symbol in ("KO", "BRK/A", "7203", "x y")[:int(rng.integers(2, 5))]:
        size = rng.choice([-1, 1], 64) * rng.uniform(0.008, 0.012, 64)
        close = rng.choice([0.04, 20.0, 4e5]) * np.exp(np.cumsum(size))
        low, high = close * rng.uniform(0.98, 0.995, 64), close * rng.uniform(1.005, 1.02, 64)
        frames.append(pd.DataFrame(dict(date=days, symbol=symbol, open=low + (high - low) / 3, high=high, low=low,
                                        close=close, volume=np.round(rng.uniform(8e5, 1.2e6, 64)))))
    return pd.concat(frames, ignore_index=True)


def reference(frame, instruments):
    "The bars that a sound table means, by pivot and without the loader"
    wide = {n: frame.pivot(index="date", columns="symbol", values=n) for n in NUMBERS}
    return Bars(**{n: f.sort_index(axis=1).rename_axis(index=None, columns=None) for n, f in wide.items()},
                instruments=instruments)


class Plant:
    "Plants one fault, and says what the error must name: a list of (rule, symbol, session, column)"

    def __init__(self, frame, rng):
        self.frame, self.rng, self.options, self.instruments = frame, rng, {}, {}
        self.symbols = frame["symbol"].unique()
        self.symbol = str(rng.choice(self.symbols))
        self.rows = frame.index[frame["symbol"] == self.symbol]
        self.row = int(self.rows[rng.integers(25, 40)])

    def at(self, rule, column, row=None):
        "The failure in one cell"
        row = self.row if row is None else row
        return [(rule, self.symbol, self.frame.at[row, "date"], column)]

    def cell(self, rule, column, value):
        "One cell is overwritten"
        expected = self.at(rule, column)
        self.frame[column] = self.frame[column].astype(object if isinstance(value, (str, bool)) else float)
        self.frame.at[self.row, column] = value
        return expected

    def after(self, factor, volume=1.0):
        "All prices from a row on are scaled, and the step itself is exactly the factor"
        later = self.rows[self.rows >= self.row]
        step = self.frame.at[self.row - 1, "close"] / self.frame.at[self.row, "close"]
        self.frame.loc[later, ["open", "high", "low", "close"]] *= factor * step
        self.frame.loc[later, "volume"] = np.round(self.frame.loc[later, "volume"] * volume)

    def away(self, days):
        "All dates from a row on move"
        later = self.rows[self.rows >= self.row]
        self.frame.loc[later, "date"] += pd.Timedelta(days=days)


def missing_column(p):
    name = str(p.rng.choice(["close", "date", "symbol"]))
    p.frame = p.frame.drop(columns=name)
    return [("missing column", None, None, name)]


def column_twice(p):
    name = str(p.rng.choice([*NUMBERS, "symbol"]))
    p.frame[name.title()] = p.frame[name]
    return [("column given twice", None, None, name)]


def extra_column(p):
    p.frame["volum"], p.options = 1.0, {"strict": ["extra column"]}
    return [("extra column", None, None, "volum")]


def duplicate(p):
    expected = p.at("duplicate row", "date")
    p.frame.loc[len(p.frame)] = p.frame.loc[p.row]
    return expected


def contradiction(p):
    expected = duplicate(p)
    p.frame.loc[len(p.frame) - 1, "volume"] += 1
    return expected


def not_a_date(p):
    p.frame["date"] = p.frame["date"].dt.strftime("%Y-%m-%d").astype(object)
    p.frame.at[p.row, "date"] = str(p.rng.choice(["03/04/2019", "soon", "2019-02-30", "", "20190230"]))
    return [("not a date", p.symbol, None, "date")]


def missing_symbol(p):
    expected = [("missing symbol", None, p.frame.at[p.row, "date"], "symbol")]
    p.frame["symbol"] = p.frame["symbol"].astype(object)
    p.frame.at[p.row, "symbol"] = p.rng.choice([None, " "])
    return expected


def mixed_zone(p):
    expected = p.at("mixed time zone", "date")
    text = p.frame["date"].map(lambda d: f"{d:%Y-%m-%d} 16:00:00-05:00").astype(object)
    text[p.row] = text[p.row][:19] + str(p.rng.choice(["", "+09:00", "Z"]))
    p.frame["date"] = text
    return expected


def text(p):
    return p.cell("not a number", str(p.rng.choice(NUMBERS)), str(p.rng.choice(["1,5", "n.a.", "$3", "1.2.3"])))


def yes(p):
    return p.cell("not a number", str(p.rng.choice(NUMBERS)), True)


def missing_price(p):
    return p.cell("missing price", "close", np.nan)


def infinite(p):
    return p.cell("infinite value", str(p.rng.choice(NUMBERS)), float(p.rng.choice([np.inf, -np.inf])))


def not_positive(p):
    return p.cell("price not positive", str(p.rng.choice(["open", "low", "close"])), float(p.rng.choice([0.0, -3.0])))


def spike(p):
    value = p.frame.at[p.row, "close"] * float(p.rng.choice([0.004, 250.0]))
    return p.cell("100x jump", "close", value)


def unit_change(p):
    expected = p.at("100x jump", "close")
    p.after(float(p.rng.choice([0.01, 100.0])))
    return expected


def crossed(p):
    return p.cell("high below low", "high", p.frame.at[p.row, "low"] * 0.99)


def outside(p):
    side, far = p.rng.choice(["low", "high"]), 1.1
    value = p.frame.at[p.row, side] * (far if side == "high" else 1 / far)
    return p.cell("outside low and high", str(p.rng.choice(["open", "close"])), value)


def negative_volume(p):
    return p.cell("negative volume", "volume", -100.0)


def split(p):
    factor = float(p.rng.choice([1 / 2, 1 / 3, 1 / 4, 1 / 10, 2, 4, 10]))
    expected = p.at("split without adjustment", "close")
    p.after(factor, 1 / factor)
    return expected


def named_split(p):
    expected = p.at("split without adjustment", "close")
    p.after(0.5)
    p.frame["split"] = np.where(p.frame.index == p.row, 2.0, 0.0)
    return expected


def seam(p):
    expected = p.at("seam in adjusted prices", "adj_close")
    p.frame["adj_close"] = p.frame["close"]
    p.frame.loc[p.rows[p.rows < p.row], "adj_close"] *= 0.6
    return expected


def reused(p):
    p.after(float(p.rng.choice([30.0, 1 / 30])))
    p.away(497)
    p.options = {"calendar": None}
    return p.at("reused ticker", "close")


def long_gap(p):
    p.away(497)
    p.options = {"calendar": None}
    return p.at("long gap", "close")


def outside_listing(p):
    days = p.frame.loc[p.rows, "date"]
    p.instruments = {p.symbol: {"inception": f"{days.iloc[2]:%Y-%m-%d}", "delisting": f"{days.iloc[-2]:%Y-%m-%d}"}}
    return [("outside listing", p.symbol, d, "date") for d in days.iloc[[0, 1, -1]]]


def future(p):
    last = int(p.rows[-1])
    p.frame.at[last, "date"] = pd.Timestamp("2100-01-04")
    p.options = {"calendar": None, "strict": False}  # its distance is a long gap as well
    return p.at("future date", "date", last)


def unfinished(p):
    last = p.frame["date"].max()
    p.options = {"now": last + pd.Timedelta(hours=19), "calendar": "XNYS"}
    return [("unfinished session", s, last, "date") for s in p.frame["symbol"].unique()]


def non_session(p):
    gaps = p.frame.loc[p.rows, "date"].diff().dt.days.to_numpy()
    row = int(p.rows[np.flatnonzero(gaps >= 3)[0]])
    p.frame.at[row, "date"] -= pd.Timedelta(days=1)  # a Sunday or a holiday
    p.options = {"calendar": "XNYS"}
    return p.at("row on a non-session", "date", row)


def missing_session(p):
    day = p.frame.at[p.row, "date"]
    p.frame = p.frame[p.frame["date"] != day].reset_index(drop=True)
    p.options = {"calendar": "XNYS"}
    return [("missing session", None, day, "date")]


def not_a_cost(p):
    p.instruments = {p.symbol: {"cost_fraction": 5.0}}
    return [("not a sensible cost", p.symbol, None, "cost_fraction")]


def missing_volume(p):
    return p.cell("missing volume", "volume", np.nan)


def quiet_move(p):
    return p.cell("price move without volume", "volume", 0.0)


def thin_last(p):
    p.row = int(p.rows[-1])
    return p.cell("thin last bar", "volume", 1e4)


def wide_range(p):
    return p.cell("100x range", "low", p.frame.at[p.row, "close"] / 400)


def stale(p):
    run = list(range(p.row - 11, p.row + 1))
    names = ["open", "high", "low", "close"]
    p.frame.loc[run, names] = p.frame.loc[[run[0]] * 12, names].to_numpy()
    return p.at("stale run", "close")


def weekend(p):
    gaps = p.frame.loc[p.rows, "date"].diff().dt.days.to_numpy()
    row = int(p.rows[np.flatnonzero(gaps >= 3)[0]])
    p.frame.at[row, "date"] = p.frame.at[row - 1, "date"] + pd.Timedelta(days=1)  # hardly ever a Friday holiday
    p.options = {"calendar": None}
    rule = p.at("weekend row", "date", row)
    return rule if p.frame.at[row, "date"].day_of_week == 5 else None


FAULTS = (missing_column, column_twice, extra_column, duplicate, contradiction, not_a_date, missing_symbol, mixed_zone,
          text, yes, missing_price, infinite, not_positive, spike, unit_change, crossed, outside, negative_volume, split,
          named_split, seam, reused, long_gap, outside_listing, future, unfinished, non_session, missing_session,
          not_a_cost, missing_volume, quiet_move, thin_last, wide_range, stale, weekend)


def dressed(frame, zone, rng):
    "The same table as another program would have written it"
    frame = frame.copy()
    if "date" in frame and pd.api.types.is_datetime64_dtype(frame["date"]):
        at = frame["date"] + pd.Timedelta(hours=int(rng.choice([0, 16])))
        local = at.dt.tz_localize(zone)
        forms = [lambda: local, lambda: local.astype(str), lambda: local.astype(object), lambda: frame["date"],
                 lambda: frame["date"].dt.strftime("%Y%m%d"), lambda: frame["date"].dt.date,
                 lambda: frame["date"].dt.strftime("%Y%m%d").astype(int), lambda: frame["date"].astype("datetime64[s]")]
        frame["date"] = forms[rng.integers(len(forms))]()
    if "symbol" in frame and rng.random() < 0.3:
        frame["symbol"] = frame["symbol"].map(lambda s: f" {s} ", na_action="ignore")
    if rng.random() < 0.3:
        plain = [c for c in frame if frame[c].dtype == float]
        frame[plain] = frame[plain].map(repr)  # numbers as text, to the last digit
        frame[plain] = frame[plain].mask(frame[plain] == "nan")
    if rng.random() < 0.5 and "volum" not in frame:
        frame["comment"] = "read by nobody"
    frame = frame.sample(frac=1, random_state=int(rng.integers(1 << 31)))
    frame = frame[list(rng.permutation(frame.columns))]
    return frame.rename(columns=str.upper) if rng.random() < 0.3 else frame


def table_of(symbols, changes):
    "An instrument table with some cells changed"
    table = pd.DataFrame({"cost_fraction": 5e-4, "close_time": "16:00", "timezone": "America/New_York"},
                         index=pd.Index(symbols, name="symbol"))
    for symbol, cells in changes.items():
        for name, value in cells.items():
            table.loc[symbol, name] = value
    return table.reset_index()


def verdict(load, frame, instruments, options):
    "What became of a load: a fingerprint, or the failures"
    try:
        return load(frame, instruments, **options).sha256
    except DataError as error:
        return [(f.rule, f.symbol, f.session, f.column and f.column.lower()) for f in error.failures]


KINDS = (*FAULTS, *[None] * 10)  # None: a sound table; 45 kinds and 4 zones have no common divisor


def check(load, numbers, seed=0):
    "Fuzz `load` and compare each verdict with what was planted; returns the counts"
    counts = Counter()
    for number in numbers:
        for place, zone in enumerate(ZONES):
            rng = np.random.default_rng([seed, number, place])
            fault, plant = KINDS[(4 * number + place) % len(KINDS)], Plant(sound(rng), rng)
            if fault is None:
                plant.instruments = {}
                expected = reference(plant.frame, table_of(plant.frame["symbol"].unique(), {})).sha256
            else:
                expected = fault(plant)
            options = {"strict": [r for r in WARNINGS if r != "extra column"],
                       "calendar": "XNYS" if rng.random() < 0.5 else None} | plant.options
            instruments = table_of(plant.symbols, plant.instruments)
            found = verdict(load, dressed(plant.frame, zone, rng), instruments, options)
            if isinstance(found, list):
                found.sort(key=str)
            if isinstance(expected, list):
                expected.sort(key=str)
            what = fault.__name__ if fault else "a sound table"
            assert expected is None or found == expected, f"{number} {zone} {what}: {expected} became {found}"
            counts["identical" if fault is None else expected[0][0] if expected else "not planted"] += 1
    return counts


def quick(load):
    "12 tables in 4 time zones: every kind at least once"
    return check(load, range(12))


def drop_duplicates(frame, instruments, **options):
    "Planted: repeated rows vanish in silence"
    return read_long(frame.drop_duplicates(), instruments, **options)


def coerce(frame, instruments, **options):
    "Planted: what is no number becomes a hole, and the row is dropped"
    frame = frame.copy()
    for name in [c for c in frame if str(c).lower() in NUMBERS]:
        frame[name] = pd.to_numeric(frame[name], errors="coerce")
    return read_long(frame.dropna(), instruments, **options)


def first_only(frame, instruments, **options):
    "Planted: the error is reported without the place"
    try:
        return read_long(frame, instruments, **options)
    except DataError as error:
        raise DataError(str(error), rule=error.rule) from None


def lenient(frame, instruments, **options):
    "Planted: a rule that was switched off"
    return read_long(frame, instruments, **options | {"accept": ["split without adjustment"]})


def test_bad_data_is_named(tell):
    counts = quick(read_long)
    tell(f"{sum(counts.values())} tables, {counts['identical']} identical, {len(counts) - 1} rules")
    untried = set(ERRORS) | set(WARNINGS)
    untried -= set(counts)
    assert counts["not planted"] == 0
    assert untried == {"no rows", "missing return", "return below -100 %", "return without a price", "neither 0 nor 1",
                       "possible split", "possible seam", "maybe unfinished", "ambiguous time zone", "shifted weekdays",
                       "period label", "outside calendar", "mixed frequencies", "maybe week label",
                       "several currencies"}, untried  # shown in the notebook and in tests/test_clocks.py


@pytest.mark.parametrize("defect", [drop_duplicates, coerce, first_only, lenient])
def test_mutants(mutants, defect):
    mutants.kill(25, defect.__name__, quick, defect)


def test_sizes():
    "Empty, one row, one symbol"
    for frame in (pd.DataFrame(), pd.DataFrame(columns=["date", "symbol", "close"])):
        with pytest.raises(DataError):
            read_long(frame)
    one = read_long(pd.DataFrame({"date": ["2019-01-02"], "symbol": ["KO"], "close": [50.0]}), strict=True)
    assert one.close.shape == (1, 1)


def part(numbers):
    "One worker's share of the full form"
    return check(read_long, numbers, seed=1)


@pytest.mark.slow
def test_bad_data_is_named_in_full(tell):
    "10,000 tables in 4 time zones, on all cores"
    workers = os.cpu_count() or 1
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        counts = sum(pool.map(part, [range(k, FULL, 8 * workers) for k in range(8 * workers)]), Counter())
    tell(f"{sum(counts.values()):,} tables, {counts['identical']:,} identical; {dict(counts)}")
    assert sum(counts.values()) == FULL * len(ZONES)
