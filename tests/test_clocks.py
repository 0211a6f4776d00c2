"""Dates, zones, calendars and money of the data room, against slow referees: plain loops and the zone tables of Python."""
import datetime
from dataclasses import replace
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_ssm.calendars import (
    align,
    close_times,
    exchange_sessions,
    resample,
    same_day_known,
)
from hybrid_ssm.checks import checked, data_warnings, validate
from hybrid_ssm.data import Bars, DataError
from hybrid_ssm.files import read_long
from hybrid_ssm.sources import load_bars, to_currency

QUICK = settings(derandomize=True, deadline=None, max_examples=20)


def walk(n, columns=1, seed=0, size=0.01):
    "Prices that wander"
    return 50 * np.exp(np.cumsum(np.random.default_rng(seed).normal(0, size, (n, columns)), axis=0))


def refusal(load):
    "The rules of the DataError that a load must raise"
    with pytest.raises(DataError) as caught:
        load()
    return {f.rule for f in caught.value.failures}, str(caught.value)


def long(dates, n=None):
    "A long table of one symbol"
    return pd.DataFrame({"date": dates, "symbol": "X", "close": walk(len(dates))[:, 0]})


# Zones

MARKETS = ("Europe/London", "America/New_York", "Asia/Tokyo", "Australia/Sydney", "America/Sao_Paulo", "Europe/Berlin")


@pytest.mark.parametrize("zone", MARKETS)
@pytest.mark.parametrize("hour", [0, 9, 16, 20])
def test_stamps_told_in_utc(zone, hour):
    "Refused unless the zone of the market is named; then exactly the local dates"
    days = pd.bdate_range("2015-01-01", periods=200)
    local = [datetime.datetime(d.year, d.month, d.day, hour, tzinfo=ZoneInfo(zone)) for d in days]
    utc = pd.Series(pd.to_datetime([t.astimezone(datetime.UTC) for t in local]))
    for stamps in (utc, utc.astype(str), utc.dt.strftime("%Y-%m-%dT%H:%M:%SZ"), utc.astype(object)):
        if (utc.dt.hour > 0).any():  # midnight in UTC is a date: 9:00 in Tokyo
            rules, text = refusal(lambda: read_long(long(stamps)))
            assert "ambiguous time zone" in rules and "timezone='Europe/London'" in text
        table = pd.DataFrame({"symbol": ["X"], "timezone": [zone]})
        for options in ({"timezone": zone}, {"instruments": table}):
            assert read_long(long(stamps), **options).sessions.equals(days.astype("datetime64[us]"))


def test_midnight_in_utc_is_a_date():
    days = pd.bdate_range("2015-01-01", periods=60)
    for stamps in (days.tz_localize("UTC"), days.tz_localize("UTC").astype(str)):
        assert list(read_long(long(stamps)).sessions) == list(days)
    assert refusal(lambda: read_long(long(days), timezone="Europe/Londn"))[0] == {"unknown time zone"}


@pytest.mark.parametrize("form", ["Z", " UTC", "+00", "+0000", "+00:00"])
def test_every_way_to_write_utc(form):
    days = pd.bdate_range("2015-01-01", periods=60)
    for hour, rules in (("00:00:00", None), ("00:00", None), ("21:00:00", {"ambiguous time zone"})):
        stamps = [f"{d:%Y-%m-%d} {hour}{form}" for d in days]
        if rules is None:
            assert list(read_long(long(stamps)).sessions) == list(days)
        else:
            assert refusal(lambda: read_long(long(stamps)))[0] == rules
    odd = [f"{d:%Y-%m-%d}T21Z" for d in days]
    assert refusal(lambda: read_long(long(odd)))[0] == {"not a date"}


def test_listing_dates():
    "Text, dates, stamps and blanks; a month is no day"
    days = pd.bdate_range("2015-01-01", periods=10)
    for value in ("2015-01-05", datetime.date(2015, 1, 5), pd.Timestamp("2015-01-05"), np.datetime64("2015-01-05")):
        table = pd.DataFrame({"symbol": ["X"], "inception": [value], "delisting": [pd.NaT]})
        found = validate(Bars(pd.DataFrame({"X": walk(10)[:, 0]}, days), instruments=table))
        assert [(f.rule, f.session) for f in found] == [("outside listing", d) for d in days[:2]]
    for value, rules in (("", []), ("NaT", []), (None, []), ("2015-02", ["not a date"])):
        table = pd.DataFrame({"symbol": ["X"], "inception": [value]})
        assert [f.rule for f in validate(Bars(pd.DataFrame({"X": walk(10)[:, 0]}, days), instruments=table))] == rules


def test_a_market_in_its_own_zone_needs_no_word():
    "Also London in winter, where the offset is that of UTC"
    for first in ("2015-01-01", "2015-11-02"):
        days = pd.bdate_range(first, periods=60)
        stamps = (days + pd.Timedelta(hours=16.5)).tz_localize("Europe/London")
        assert list(read_long(long(stamps)).sessions) == list(days)


def test_stamps_on_both_sides_of_midnight():
    "London midnights whose zone was thrown away: 23:00 of the day before in summer"
    days = pd.bdate_range("2015-01-01", periods=300)
    naive = days.tz_localize("Europe/London").tz_convert("UTC").tz_localize(None)
    assert "ambiguous time zone" in refusal(lambda: read_long(long(naive)))[0]
    rules, text = refusal(lambda: read_long(long(naive.normalize())))  # even the hours are gone
    assert rules == {"shifted weekdays"} and "Sundays in weeks without Friday" in text


def test_weekdays_that_moved():
    "Forward and back by a day is named; markets on other days are not"
    days = pd.bdate_range("2015-01-01", periods=120)
    for shift in (-1, 1):
        assert "shifted weekdays" in refusal(lambda: read_long(long(days + pd.Timedelta(days=shift))))[0]
    every = pd.date_range("2015-01-01", periods=120)
    sunday_too = every[every.day_of_week != 5]  # currencies from Sunday evening on
    saturday_too = every[every.day_of_week != 6]
    for good in (days, every, sunday_too, saturday_too, every[::7], pd.date_range("2015-01-04", periods=80, freq="W")):
        assert validate(Bars(pd.DataFrame({"X": walk(len(good))[:, 0]}, good))) == []
    sunday_to_thursday = exchange_sessions("XSAU", "2022", "2022").index
    assert "shifted weekdays" in refusal(lambda: read_long(long(sunday_to_thursday)))[0]
    assert read_long(long(sunday_to_thursday), calendar="XSAU").sessions.day_of_week.isin([6, 0, 1, 2, 3]).all()


def test_currency_candles():
    "A day that begins at 17:00 in New York and is stamped by its beginning; an hour of Sunday evening as a bar of its own"
    days = pd.bdate_range("2015-01-05", periods=100)
    begins = (days - pd.Timedelta(hours=7)).tz_localize("America/New_York").tz_convert("UTC")
    assert "ambiguous time zone" in refusal(lambda: read_long(long(begins)))[0]
    assert refusal(lambda: read_long(long(begins), timezone="America/New_York"))[0] == {"shifted weekdays"}
    every = pd.date_range("2015-01-05", periods=100)
    every = every[every.day_of_week != 5]
    bars = read_long(long(every).assign(volume=np.where(every.day_of_week == 6, 5e4, 1e6)))
    assert {(f.rule, f.remedy) for f in data_warnings(bars)} == {("weekend row", "an evening's trades? add them to Monday")}


def test_pounds_after_pence():
    "A London share whose source changes the unit within a week"
    frame = long(pd.bdate_range("2020-04-01", periods=30))
    frame["close"] *= np.where(np.arange(30) < 20, 12.0, 0.12)
    assert refusal(lambda: read_long(frame))[0] == {"100x jump"}


# Labels that are no days

@pytest.mark.parametrize("freq", ["M", "Q", "W", "Y"])
def test_periods_are_no_sessions(freq):
    labels = pd.period_range("2015-01-01", periods=8, freq=freq)
    for dates in (labels, labels.astype(str)):
        rules, text = refusal(lambda: read_long(long(pd.Series(dates))))
        assert rules <= {"not a date", "ambiguous date"} and "its last day" in text
    last = labels.end_time.normalize()
    assert list(read_long(long(last)).sessions) == list(last)


def test_months_labelled_by_their_first_day():
    first = pd.date_range("2015-01-01", periods=12, freq="MS")
    assert refusal(lambda: read_long(long(first)))[0] == {"period label"}
    assert len(read_long(long(first), accept=["period label"]).sessions) == 12
    for other in (pd.date_range("2015-01-01", periods=12, freq="BMS"), pd.date_range("2015-01-01", periods=12, freq="BME")):
        read_long(long(other))
    for day, expected in (("MON", ["maybe week label"]), ("FRI", [])):
        bars = read_long(long(pd.date_range("2015-01-01", periods=12, freq=f"W-{day}")))
        assert [f.rule for f in data_warnings(bars)] == expected


def test_calendars_that_cannot_be_built():
    "Tel Aviv, in some versions of the library, ends in an error of its own"
    try:
        assert len(exchange_sessions("XTAE", "2019", "2019"))
    except DataError as error:
        assert error.rule == "unusable calendar" and len(str(error)) < 300


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_counters_are_no_dates(unit):
    days = pd.bdate_range("2015-01-01", periods=5)
    counts = days.astype(f"datetime64[{unit}]").astype("int64")
    for dates in (counts, counts.astype(str), counts.astype(float)):
        rules, text = refusal(lambda: read_long(long(dates)))
        assert rules <= {"not a date", "ambiguous date"} and ("unit='s'" in text or "date_format='unix" in text)
    assert list(read_long(long(days.astype(f"datetime64[{unit}]"))).sessions) == list(days)


def test_times_of_day():
    "16:00, half-days and the midnight that ends a day are the day's; several rows a day are named"
    days = pd.bdate_range("2015-01-01", periods=5)
    for hour in ("16:00", "13:00", "24:00", "20:00:00"):
        assert list(read_long(long([f"{d:%Y-%m-%d} {hour}" for d in days])).sessions) == list(days)
    ends = [f"{d:%Y-%m-%d} 24:00+09:00" for d in days]
    assert list(read_long(long(ends)).sessions) == list(days)
    assert list(read_long(long(ends), timezone="Asia/Tokyo").sessions) == list(days + pd.Timedelta(days=1))
    hours = [f"{d:%Y-%m-%d} {h}:30" for d in days for h in range(10, 16)]
    rules, text = refusal(lambda: read_long(long(hours)))
    assert rules == {"duplicate row"} and "of several a day" in text
    sunday = pd.bdate_range("2015-01-05", periods=60) - pd.Timedelta(hours=4)  # 20:00 of the evening before
    assert refusal(lambda: read_long(long(sunday)))[0] == {"shifted weekdays"}


# Closing times

def referee_close(zone, clock, day):
    "UTC, by the zone tables of Python"
    hour, minute = map(int, clock.split(":"))
    at = datetime.datetime(day.year, day.month, day.day) + datetime.timedelta(hours=hour, minutes=minute)
    return at.replace(tzinfo=ZoneInfo(zone)).astimezone(datetime.UTC)


CLOSES = {"NY": ("America/New_York", "16:00"), "LN": ("Europe/London", "16:30"), "SY": ("Australia/Sydney", "16:00"),
          "SP": ("America/Sao_Paulo", "17:55"), "BO": ("Asia/Kolkata", "15:30"), "CR": ("UTC", "24:00"), "TE": ("Asia/Tehran", "12:30")}


def table():
    return pd.DataFrame({s: dict(close_time=c, timezone=z) for s, (z, c) in CLOSES.items()}).T


def test_close_times_against_the_zone_tables():
    for day in pd.date_range("2018-01-01", "2018-12-31", freq="9D"):
        found = close_times(table(), day)
        for symbol, (zone, clock) in CLOSES.items():
            assert found[symbol] == referee_close(zone, clock, day), (symbol, day)


def test_same_day_known_where_summers_differ():
    found = same_day_known(table(), year=2018)
    days = pd.date_range("2018-01-01", "2018-12-31")
    at = {s: [referee_close(z, c, d) for d in days] for s, (z, c) in CLOSES.items()}
    for a in CLOSES:
        for b in CLOSES:
            assert found.loc[a, b] == (a == b or all(y <= x for x, y in zip(at[a], at[b]))), (a, b)
    crypto = pd.DataFrame({"close_utc": [24.0, 21.0, np.nan]}, ["BTC", "SPY", "?"])
    assert same_day_known(crypto).to_numpy().tolist() == [[True, True, False], [False, True, False], [False, False, True]]


# Weeks and months

def monthly(n=60, seed=3):
    days = pd.date_range("2010-01-01", periods=n, freq="BME")
    return days, walk(n, 1, seed, 0.05)[:, 0]


def test_a_split_in_monthly_bars_is_seen():
    days, price = monthly()
    split = pd.DataFrame({"X": np.where(np.arange(60) < 30, price, price / 3)}, days)
    volume = pd.DataFrame({"X": np.where(np.arange(60) < 30, 1e6, 3e6)}, days)
    assert [f.rule for f in data_warnings(Bars(split)) if f.session == days[30]] == ["possible split"]
    assert [f.rule for f in validate(Bars(split, volume=volume))] == ["split without adjustment"]
    named = pd.DataFrame({"X": np.where(np.arange(60) == 30, 3.0, 0.0)}, days)
    assert [f.rule for f in validate(Bars(split, extras={"split": named}))] == ["split without adjustment"]
    for k in range(40):  # months that merely move are not even noted
        clean = Bars(pd.DataFrame({"X": monthly(120, k)[1]}, pd.date_range("2010-01-01", periods=120, freq="BME")))
        assert validate(clean) + data_warnings(clean) == []


@pytest.mark.parametrize("freq", ["W-FRI", "W", "BME", "BQE", "BYE", "ME"])
def test_slow_bars_are_not_noted_for_being_slow(freq):
    days = pd.date_range("2000-01-01", periods=24, freq=freq)
    bars = Bars(pd.DataFrame(walk(24, 2, 1, 0.03), days, ["A", "B"]), volume=pd.DataFrame(1e6, days, ["A", "B"]))
    assert validate(bars) + data_warnings(bars) == []


def test_missing_sessions_of_weekly_bars_are_none():
    known = exchange_sessions("XNYS", "2018", "2019").index
    weekly = resample(Bars(pd.DataFrame({"A": walk(len(known))[:, 0]}, known)), "W")
    assert validate(weekly, calendar="XNYS") == []


def test_daily_beside_monthly_is_noted():
    days = pd.bdate_range("2015-01-01", periods=260)
    both = pd.DataFrame(walk(260, 2), days, ["DAY", "MONTH"])
    both["MONTH"] = both["MONTH"].where(days.isin(pd.date_range("2015-01-01", periods=12, freq="BME")))
    found = [f for f in data_warnings(Bars(both)) if f.rule == "mixed frequencies"]
    assert [f.symbol for f in found] == ["MONTH"] and "mixed frequencies" in checked(Bars(both))._repr_html_()


def test_years_that_a_calendar_does_not_know_are_noted():
    days = pd.bdate_range("1990-01-01", periods=60)
    found = data_warnings(Bars(pd.DataFrame({"X": walk(60)[:, 0]}, days)), calendar="XTKS")
    assert "outside calendar" in {f.rule for f in found} and "XTKS is known for" in str(found[0])
    for name in ("nyse", "NASDAQX", 5):
        assert refusal(lambda: exchange_sessions(name))[0] == {"unknown calendar"}


@st.composite
def calendars(draw):
    "Sessions with holes, symbols with holes, in a market of five or seven days"
    n, seven = draw(st.integers(8, 45)), draw(st.booleans())
    first = draw(st.dates(datetime.date(2018, 1, 1), datetime.date(2019, 12, 31)))
    days = pd.date_range(first, periods=n) if seven else pd.bdate_range(first, periods=n)
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    keep = rng.random(n) < draw(st.sampled_from([0.5, 0.9, 1.0]))
    keep[0] = True
    days, hole = days[keep], rng.random((keep.sum(), 2)) < draw(st.sampled_from([0.0, 0.3]))
    hole[0] = False
    cells = lambda x: pd.DataFrame(np.where(hole, np.nan, x), days, ["A", "B"])
    close = walk(len(days), 2, int(rng.integers(1000)))
    tables = dict(close=cells(close), open=cells(close * 0.99), high=cells(close * 1.01), low=cells(close * 0.98),
                  volume=cells(np.round(rng.uniform(1, 9, close.shape))))
    excess = np.where(rng.random(close.shape) < 0.05, -1.5, rng.normal(0, 0.01, close.shape))
    roll = (rng.random(close.shape) < 0.1).astype(float)
    if draw(st.booleans()):
        tables["high"] = tables["high"].mask(rng.random(close.shape) < 0.1)
    return Bars(**tables, excess=cells(excess), extras=dict(roll=cells(roll), flag=cells(roll * 2 + (excess > 0))))


def key(day, period):
    "The week or month of a day"
    return day.isocalendar()[:2] if period == "W" else (day.year, day.month)


def over(days, period):
    "Can no session of the last period follow? Weekends count where there have been any"
    seven, day = any(d.weekday() > 4 for d in days), days[-1] + datetime.timedelta(days=1)
    while key(day, period) == key(days[-1], period):
        if seven or day.weekday() < 5:
            return False
        day += datetime.timedelta(days=1)
    return True


def compounded(returns):
    "Of one period; a plain sum where one of them lost more than everything"
    if min(returns) <= -1:
        return sum(returns)
    growth = 1.0
    for r in returns:
        growth *= 1 + r
    return growth - 1


def whole(name, cells):
    "What a table says of several sessions with a price, one after the other; cells without NaN"
    if not cells:
        return np.nan
    if name == "flag":
        bits = 0
        for c in cells:
            bits |= int(c)
        return float(bits)
    return {"open": cells[0], "close": cells[-1], "high": max(cells), "low": min(cells), "volume": sum(cells),
            "roll": max(cells), "excess": compounded(cells)}[name]


@QUICK
@given(calendars(), st.sampled_from("WM"))
def test_resampling_against_a_loop(bars, period):
    days = [d.to_pydatetime().date() for d in bars.sessions]
    groups = {}
    for row, day in enumerate(days):
        groups.setdefault(key(day, period), []).append(row)
    groups = list(groups.values())
    found = resample(bars, period, "keep")
    assert list(found.sessions) == [bars.sessions[g[-1]] for g in groups]
    for name, frame in (bars.tables | bars.extras).items():
        for k, rows in enumerate(groups):
            for symbol in bars.symbols:
                seen = [r for r in rows if bars.observed[symbol].iloc[r]]
                cells = [float(frame[symbol].iloc[r]) for r in seen]
                half = name in ("high", "low", "volume") and any(np.isnan(cells))
                expected = np.nan if half else whole(name, [c for c in cells if not np.isnan(c)])
                got = (found.tables | found.extras)[name][symbol].iloc[k]
                np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-14, err_msg=f"{name} {symbol} {k}")
    if over(days, period) or len(groups) > 1:
        dropped = resample(bars, period)
        assert len(dropped.sessions) == len(groups) - (not over(days, period))
    else:
        assert refusal(lambda: resample(bars, period))[0] == {"empty range"}


@QUICK
@given(calendars(), calendars())
def test_alignment_against_a_loop(bars, other):
    target = list(other.sessions)
    if not set(target) & set(bars.sessions):
        assert refusal(lambda: align(bars, other))[0] == {"empty range"}
        return
    found = align(bars, other)
    assert list(found.sessions) == target
    every = all(d in target for d in bars.sessions)
    for name, frame in (bars.tables | bars.extras).items():
        for symbol in bars.symbols:
            expected, since = {}, []
            for day in bars.sessions:
                value, seen = frame.loc[day, symbol], bars.observed.loc[day, symbol]
                since += [] if np.isnan(value) else [float(value)]
                if day in target and seen:  # from one kept price to the next
                    told = name in ("excess", "volume", "roll", "flag")
                    expected[day] = whole(name, since) if told and not every else value
                    since = []
            got = (found.tables | found.extras)[name][symbol]
            np.testing.assert_allclose(got, [expected.get(d, np.nan) for d in target], rtol=1e-12, atol=1e-14)


@QUICK
@given(calendars(), st.sampled_from("WM"), st.integers(0, 100))
def test_resampling_knows_no_future(bars, period, where):
    "Cut anywhere: what was finished then is the same bar later; weekends must have been seen in a market of seven days"
    cut = bars.sessions[where % len(bars.sessions)]
    early = bars.upto(cut)
    if (early.sessions.day_of_week > 4).any() != (bars.sessions.day_of_week > 4).any():
        return
    try:
        short = resample(early, period)
    except DataError:
        return
    late = resample(bars, period, "keep")
    for name, frame in (short.tables | short.extras).items():
        pd.testing.assert_frame_equal(frame, (late.tables | late.extras)[name].loc[:short.sessions[-1]], check_freq=False)


# Money

@QUICK
@given(calendars(), st.integers(0, 1000), st.booleans())
def test_money_against_a_loop(bars, seed, excess):
    "Pence and yen into dollars, at the last rate of that day or before"
    rng = np.random.default_rng(seed)
    if not excess:
        bars = Bars(bars.close, bars.open, bars.high, bars.low, bars.volume)
    bars = Bars(**bars.tables, instruments=pd.DataFrame({"symbol": ["A", "B"], "currency": ["GBp", "JPY"]}))
    days = pd.date_range(bars.sessions[0] - pd.Timedelta(days=2), bars.sessions[-1])
    rates = pd.DataFrame({"GBP": walk(len(days), 1, seed)[:, 0], "JPY": walk(len(days), 1, seed + 1)[:, 0]}, days)
    rates = rates.mask(rng.random(rates.shape) < 0.4)
    rates.iloc[0] = [1.3, 0.01]
    found = to_currency(bars, "USD", rates, max_age=30)
    for symbol, code, parts in (("A", "GBP", 100), ("B", "JPY", 1)):
        before = None
        for day in bars.sessions[bars.observed[symbol]]:
            rate = [r for d, r in rates[code].items() if d <= day and not np.isnan(r)][-1] / parts
            for name in ("close", "open", "high", "low"):
                expected = getattr(bars, name).loc[day, symbol] * rate
                np.testing.assert_allclose(getattr(found, name).loc[day, symbol], expected, rtol=1e-12)
            assert found.volume.loc[day, symbol] == bars.volume.loc[day, symbol]
            if before is not None:
                r, change = bars.returns.loc[day, symbol], rate / before
                expected = r * change if excess else (1 + r) * change - 1
                np.testing.assert_allclose(found.returns.loc[day, symbol], expected, rtol=1e-9, atol=1e-12)
            before = rate
    assert found.currencies == ("USD",)


def test_a_set_number_of_periods_belongs_to_its_calendar():
    "252 set for days is kept by a cut, and forgotten by another calendar"
    daily = replace(load_bars(["KO", "PEP"], "2005", "2010"), periods=252)
    assert daily.select(["KO"]).periods == daily.window("2006").periods == align(daily, daily).periods == 252
    weekly = resample(daily, "W")
    assert weekly.periods is None and abs(weekly.periods_per_year - 52.18) < .1
    assert align(daily, weekly).periods is None
