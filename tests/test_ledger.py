"""The books against a slow back office of cash and units, whatever the market and the orders do."""
import numpy as np
import pandas as pd
import pytest
from ledger import FILLS, REBALANCE, disagreement, random_case, settlement

from hybrid_ssm.backtest import RuinError, run_backtest
from hybrid_ssm.data import Bars, DataError
from hybrid_ssm.sources import load_bars

nan = np.nan


def books(seeds):
    "Every random book agrees with the ledger; returns how often each thing happened"
    seen = {}
    for seed in seeds:
        case = random_case(seed)
        distance, slow = disagreement(case, run_backtest)
        assert distance < 1e-9, f"seed {seed}: {distance:.1e}"
        happened = {case.terms["fill"], case.terms["rebalance"]}
        happened |= {"given returns"} if case.bars.excess is not None else set()
        happened |= {"below zero"} if (case.bars.close < 0).any().any() else set()
        happened |= {"rolls"} if "roll" in case.bars.extras else set()
        happened |= {"borrow or financing"} if slow.financing_costs.any() else set()
        ends = [settlement(case.bars, s) for s in case.weights]
        happened |= {"delisted"} if any(e is not None and e >= slow.index[0] for e in ends) else set()
        dead = case.bars.close[list(case.weights)].isna().all(axis=1)
        happened |= {"no market"} if dead.any() else set()
        for name in happened:
            seen[name] = seen.get(name, 0) + 1
    return seen


def every(seen, least):
    "Each thing that can happen did, often enough"
    names = {*FILLS, *REBALANCE, "given returns", "below zero", "rolls", "borrow or financing", "delisted", "no market"}
    assert names <= set(seen) and min(seen.values()) >= least, seen


def test_a_hundred_books():
    every(books(range(100)), 5)


@pytest.mark.slow
def test_two_thousand_books(tell):
    seen = books(range(2000))
    every(seen, 150)
    tell(f"2,000 books agree with the ledger to 1e-9: {seen}")


def test_sessions_without_a_market_do_not_exist():
    "With weekends of a seven-day calendar in the bars the books are those without them"
    days = pd.date_range("2020-01-01", periods=120)
    rng, trades = np.random.default_rng(0), days.day_of_week < 5
    close = pd.DataFrame(50 * np.exp(rng.normal(0, 0.02, (120, 3)).cumsum(0)), days, list("ABC"))
    close.loc[~trades] = nan
    weights = pd.DataFrame(rng.normal(0, 0.6, close.shape), days, list("ABC"))
    weights.loc[~trades] = nan
    weights = weights.ffill()
    terms = dict(costs=0.002, borrow=0.05, financing=0.04)
    for fill in ("close", "next_close", "next_open"):
        whole, week = (run_backtest(w, Bars(close=c, open=c), fill=fill, **terms)
                       for w, c in ((weights, close), (weights[trades], close[trades])))
        assert np.abs(whole.equity[trades] - week.equity).max() < 1e-12
        for name in ("gross_returns", "costs", "financing_costs", "turnover", "net_returns"):
            assert not getattr(whole, name)[~trades].any(), f"{fill}: {name} where nothing trades"
        assert np.abs(whole.weights.diff()[~trades]).max().max() == 0


def test_orders_on_a_session_without_a_market_wait():
    "Month-end weights dated by a Sunday are traded at the next close, not lost"
    days = pd.date_range("2020-05-25", periods=14)
    close = pd.DataFrame({"A": np.where(days.day_of_week < 5, 100.0, nan)}, days)
    for rebalance in ("given", "month"):
        book = run_backtest(pd.DataFrame({"A": [1.0]}, [days[6]]), Bars(close=close), costs=0.0, rebalance=rebalance)
        assert book.trades.index[book.trades["A"] != 0].tolist()[0] == pd.Timestamp("2020-06-01")


def test_a_missed_rebalancing_is_missed():
    "A symbol that is halted at the rebalancing keeps its units until the next one"
    days = pd.bdate_range("2020-01-01", periods=6)
    bars = Bars(close=pd.DataFrame({"A": [100, 100, nan, 110, 110, 110], "B": 50.0}, days, dtype=float))
    given = pd.DataFrame({"A": [0.5, 0.0, 0.0], "B": [0.5, 1.0, 0.0]}, days[[0, 2, 5]])
    book = run_backtest(given, bars, costs=0.0, rebalance="given")
    assert np.flatnonzero(book.trades["A"]).tolist() == [0, 5]
    assert book.equity.iloc[-1] == pytest.approx(1.05)


@pytest.mark.parametrize("rebalance", ["given", "month"])
def test_monthly_weights(rebalance):
    "The ledger of twelve trades a year; filling the rows in between would trade 2.7 times as much"
    bars = load_bars(None, "2015", "2016")
    daily = pd.DataFrame(1 / 20, bars.sessions, bars.symbols)
    monthly = daily.groupby(daily.index.to_period("M")).tail(1)
    held, turnover, equity = np.zeros(20), 0.0, 1.0
    for day, r in zip(bars.sessions, bars.returns.fillna(0).to_numpy()):
        growth = 1 + held @ r
        held, equity = held * (1 + r) / growth, equity * growth
        if day in monthly.index:
            traded = np.abs(1 / 20 - held).sum()
            held, turnover, equity = np.full(20, 1 / 20), turnover + traded, equity * (1 - 0.0005 * traded)
    book = run_backtest(monthly, bars, rebalance=rebalance)
    assert book.turnover.sum() == pytest.approx(turnover, abs=1e-9)
    assert book.equity.iloc[-1] == pytest.approx(equity, abs=1e-9)
    with pytest.raises(DataError, match="no row for session 2015-02-02.*rebalance='given'.*rebalance='month'"):
        run_backtest(monthly, bars)


def test_only_the_last_target_of_a_period_counts():
    bars = load_bars(["KO", "JPM"], "2015", "2015")
    rng = np.random.default_rng(0)
    daily = pd.DataFrame(rng.normal(0, 0.3, bars.close.shape), bars.sessions, bars.symbols)
    last = daily.groupby(daily.index.to_period("Q")).tail(1)
    other = daily.copy()
    other.loc[~daily.index.isin(last.index)] = 99.0
    a, b = (run_backtest(w, bars, rebalance="quarter", fill="next_close") for w in (daily, other))
    assert a.equity.equals(b.equity) and (a.turnover > 0).sum() == 3  # the fourth is filled next year
    after = [bars.sessions[bars.sessions.get_loc(day) + 1] for day in last.index[:3]]
    assert a.turnover.index[a.turnover > 0].tolist() == after


@pytest.mark.parametrize("fill", FILLS)
def test_nothing_looks_ahead(fill):
    "Cutting bars and orders after a session changes nothing up to it, halts and delistings included"
    rng = np.random.default_rng(0)
    days = pd.bdate_range("2020-01-01", periods=60)
    close = pd.DataFrame(50 * np.exp(rng.normal(0, 0.02, (60, 3)).cumsum(0)), days, list("ABC"))
    close = close.mask(rng.random(close.shape) < 0.2)
    close.iloc[30:, 1] = nan
    table = pd.DataFrame(dict(symbol=["B"], delisting=[days[33]], delisting_return=[-0.4]))
    bars = Bars(close=close, open=close * 1.001, instruments=table)
    weights = pd.DataFrame(rng.normal(0, 0.3, close.shape), days, list("ABC"))
    for rebalance in ("session", "given"):
        orders = weights if rebalance == "session" else weights.iloc[::7]
        terms = dict(costs=0.001, fill=fill, rebalance=rebalance, borrow=0.02, financing=0.03)
        whole = run_backtest(orders, bars, **terms)
        for cut in (8, 29, 32, 33, 34, 35, 50):
            part = run_backtest(orders.loc[:days[cut]], bars.upto(days[cut]), **terms)
            for name in ("equity", "weights", "costs", "turnover"):
                assert getattr(part, name).equals(getattr(whole, name).loc[:days[cut]]), (cut, name)


def test_a_year_of_borrow_and_financing():
    "By calendar time: a year costs the rate, however many sessions it has"
    for days in (pd.bdate_range("2019-01-01", "2020-01-01"), pd.date_range("2019-01-01", "2020-01-01"),
                 pd.date_range("2019-01-01", "2020-01-01", freq="73D")):
        bars = Bars(close=pd.DataFrame({"A": 100.0, "B": 50.0}, days))
        short = run_backtest(pd.DataFrame({"A": -0.5, "B": 0.0}, days), bars, costs=0.0, borrow={"A": 0.04, "B": nan})
        years = 365 / 365.25
        assert short.financing_costs.sum() == pytest.approx(0.5 * 0.04 * years, abs=1e-12)
        lent = run_backtest(pd.DataFrame({"A": 1.0, "B": 0.75}, days), bars, costs=0.0, financing=0.06)
        assert lent.financing_costs.sum() == pytest.approx(0.75 * 0.06 * years, abs=1e-12)
        assert lent.costs.equals(lent.financing_costs.rename("costs"))
        from_table = Bars(close=bars.close, instruments=pd.DataFrame(dict(symbol=["A"], borrow=[0.04])))
        column = run_backtest(pd.DataFrame({"A": -0.5, "B": 0.0}, days), from_table, costs=0.0)
        assert column.equity.equals(short.equity)
        free = Bars(close=bars.close, excess=bars.returns.fillna(0.0))
        book = run_backtest(pd.DataFrame({"A": -2.0, "B": 3.0}, days), free, costs=0.0, borrow=0.5, financing=0.5)
        assert book.equity.iloc[-1] == 1 and "borrow and financing: none" in book._repr_html_()
    assert "borrow and financing: 2.00%" in short._repr_html_()


def test_ruined_by_interest():
    days = pd.DatetimeIndex(["2019-01-01", "2019-01-02", "2021-01-01"])
    bars = Bars(close=pd.DataFrame({"A": 100.0}, days))
    with pytest.raises(RuinError, match="2021-01-01"):
        run_backtest(pd.DataFrame({"A": 3.0}, days), bars, costs=0.0, financing=0.3)


def test_next_open_needs_prices_that_can_be_divided():
    "Shifting back-adjusted levels would change the result, so given returns are refused; so are prices below zero"
    days = pd.bdate_range("2020-01-01", periods=30)
    rng = np.random.default_rng(0)
    close = pd.DataFrame({"A": 100 + rng.normal(0, 1, 30).cumsum(), "B": 50.0}, days)
    opens, weights = close + rng.normal(0, 0.3, close.shape), pd.DataFrame(0.5, days, ["A", "B"])
    table = pd.DataFrame(dict(symbol=["A"], allow_negative=[True]))
    good = Bars(close=close, open=opens)
    assert run_backtest(weights, good, costs=0.0, fill="next_open").equity.iloc[-1] > 0
    scaled = Bars(close=close * 0.01, open=opens * 0.01)  # adjusted by a ratio: the same books
    assert np.allclose(run_backtest(weights, scaled, costs=0.0, fill="next_open").equity,
                       run_backtest(weights, good, costs=0.0, fill="next_open").equity, rtol=0, atol=1e-12)
    for bars, text in ((Bars(close=close, open=opens, excess=good.returns), "given returns .back-adjusted.: use 'next_close'"),
                       (Bars(close=close - 100, open=opens - 100), "positive prices.*'A'.*next_close"),
                       (Bars(close=close, open=opens.assign(B=0.0)), "positive prices.*'B'"),
                       (Bars(close=close, open=opens, instruments=table), "positive prices.*'A'.*allow_negative"),
                       (Bars(close=close, open=opens * [1.0, 1.4]), "opens of 'B' are typically 34% away"),
                       (Bars(close=close), "needs opening prices")):
        with pytest.raises(DataError, match=text):
            run_backtest(weights, bars, costs=0.0, fill="next_open")


def test_a_contract_below_zero():
    "Long units stay long when their price goes through zero, and gain when it recovers"
    days = pd.bdate_range("2020-04-16", periods=6)
    price = [20.0, 18.0, -37.0, -10.0, 10.0, 12.0]
    bars = Bars(close=pd.DataFrame({"CL": price}, days))
    given = pd.DataFrame({"CL": [0.1]}, days[:1])
    book = run_backtest(given, bars, costs=0.0, rebalance="given")
    units = 0.1 / 20.0
    assert book.equity.tolist() == pytest.approx([1 + units * (p - 20.0) for p in price], abs=1e-12)
    assert book.positions["CL"].tolist() == pytest.approx([units * abs(p) for p in price], abs=1e-12)
    panel = Bars(close=bars.close, excess=bars.returns)  # the first fall is below -100 %
    book = run_backtest(given, panel, costs=0.0, rebalance="given")
    assert book.equity.iloc[2] == pytest.approx(1 + units * -57, abs=1e-12)
    assert book.weights["CL"].iloc[2] > 0 and book.equity.iloc[3] > book.equity.iloc[2]


@pytest.mark.parametrize("price", [0.0, np.inf])
def test_a_price_without_a_return(price):
    days = pd.bdate_range("2020-01-01", periods=4)
    bars = Bars(close=pd.DataFrame({"A": [1.0, price, 2.0, 2.0]}, days))
    with pytest.raises(DataError, match="price of 'A' on 2020-01-02 is"):
        run_backtest(pd.DataFrame({"A": 0.5}, days), bars, costs=0.0)


def test_a_hole_in_given_returns():
    days = pd.bdate_range("2020-01-01", periods=4)
    close = pd.DataFrame({"A": [1.0, 2.0, 3.0, 4.0]}, days)
    bars = Bars(close=close, excess=pd.DataFrame({"A": [nan, 0.1, nan, 0.1]}, days))
    with pytest.raises(DataError, match="'A' has a price but no return on 2020-01-03"):
        run_backtest(pd.DataFrame({"A": 0.5}, days), bars, costs=0.0)


def test_currencies():
    "Prices in two currencies are no book; given returns are, and so is what nobody labelled"
    days = pd.bdate_range("2020-01-01", periods=4)
    close = pd.DataFrame({"A": 1.0, "B": 2.0, "C": 3.0}, days)
    table = pd.DataFrame(dict(symbol=["A", "B", "C"], currency=["USD", "JPY", nan]))
    weights, bars = pd.DataFrame(0.2, days, list("ABC")), Bars(close=close, instruments=table)
    with pytest.raises(DataError, match="prices in 2 currencies in one portfolio"):
        run_backtest(weights, bars, costs=0.0)
    run_backtest(weights[["A", "C"]], bars, costs=0.0)
    run_backtest(weights, Bars(close=close, excess=close * 0, instruments=table), costs=0.0)


def test_weights_that_mean_one_thing():
    bars = load_bars(["KO", "JPM", "GE"], "2015", "2015")
    rng = np.random.default_rng(0)
    weights = pd.DataFrame(rng.normal(0, 0.3, bars.close.shape), bars.sessions, bars.symbols)
    book = run_backtest(weights, bars)
    other = run_backtest(weights[weights.columns[::-1]], bars)
    assert np.allclose(book.equity, other.equity, rtol=0, atol=1e-12)
    assert other.weights.columns.equals(weights.columns[::-1])
    one = run_backtest(weights[["GE"]], bars)
    for same in (weights["GE"], weights["GE"].astype("Float64"), weights[["GE"]].set_axis(bars.sessions.as_unit("s"))):
        assert run_backtest(same, bars).equity.equals(one.equity)


ERRORS = {  # name: weights made of good ones, what the message must hold
    "newest first": (lambda w: w.iloc[::-1], r"weights\.sort_index\(\)"),
    "shuffled": (lambda w: w.sample(frac=1, random_state=0), r"weights\.sort_index\(\)"),
    "a row twice": (lambda w: w.iloc[[0, 1, 2, 2, 3]], "several rows for 2015-01-06"),
    "text": (lambda w: w.set_axis(w.index.strftime("%Y-%m-%d")), r"pd\.to_datetime\(weights\.index\)"),
    "dates": (lambda w: w.set_axis(w.index.date), r"pd\.to_datetime\(weights\.index\)"),
    "zone": (lambda w: w.tz_localize("America/New_York"), r"time zone America/New_York.*\.tz_localize\(None\)"),
    "time": (lambda w: w.set_axis(w.index + pd.Timedelta(hours=16)), r"16:00.*\.index\.normalize\(\)"),
    "no date": (lambda w: w.set_axis(w.index.where(w.index != w.index[3], pd.NaT)), "no date in row 3"),
    "daily periods": (lambda w: w.set_axis(w.index.to_period("D")), r"to_timestamp\(\)"),
    "monthly periods": (lambda w: w.resample("ME").last().to_period("M"), r"to_period\('M'\)"),
    "numbered": (lambda w: w.reset_index(drop=True), r"set_axis\(bars\.sessions\)"),
    "numbers": (lambda w: w.set_axis(w.index.strftime("%Y%m%d").astype(int)), r"20150102.*index\.astype\(str\)"),
    "another session": (lambda w: w.rename(index={w.index[-1]: pd.Timestamp("2016-01-02")}), "2016-01-02, which is no"),
    "month ends": (lambda w: w.resample("ME").last(), "2015-01-31, which is no session"),
    "no row": (lambda w: w.iloc[:0], "no row"),
    "a hole": (lambda w: w.drop(w.index[5]), "no row for session 2015-01-09.*rebalance='given'"),
    "no column": (lambda w: w.iloc[:, :0], "no column"),
    "a symbol twice": (lambda w: w[["KO", "JPM", "KO"]], "several columns 'KO'"),
    "an unknown symbol": (lambda w: w.rename(columns={"KO": "KOO"}), "'KOO'.*did you mean KO"),
    "numbered columns": (lambda w: w.set_axis(range(3), axis=1), r"column 0 \(int\)"),
    "levels of columns": (lambda w: pd.concat({"a": w}, axis=1), "several levels"),
    "a long table": (lambda w: w.stack(), "several levels"),
    "a nameless series": (lambda w: w["KO"].rename(None), r"named None.*weights\.rename\('"),
    "an array": (lambda w: w.to_numpy(), "ndarray: give a DataFrame"),
    "a mapping": (lambda w: {"KO": 1.0}, "dict: give a DataFrame"),
    "not a number": (lambda w: w.mask(w == w.iloc[2, 1]), "on 2015-01-06 is nan: .*0 for flat"),
    "infinite": (lambda w: w.replace(w.iloc[2, 1], np.inf), "on 2015-01-06 is inf"),
    "text for numbers": (lambda w: w.astype(str), r"weights\.astype\(float\)"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_weights_that_do_not(name):
    make, text = ERRORS[name]
    bars = load_bars(["KO", "JPM", "GE"], "2015", "2015")
    rng = np.random.default_rng(0)
    weights = pd.DataFrame(rng.normal(0, 0.3, bars.close.shape), bars.sessions, bars.symbols)
    with pytest.raises(DataError, match=text):
        run_backtest(make(weights), bars)


@pytest.mark.parametrize("terms, text", [
    (dict(fill="open"), "fill='open' is unknown: choose 'close'"), (dict(rebalance="monthly"), "'month'"),
    (dict(financing=-0.01), "financing = -0.01"), (dict(financing="3%"), "financing = '3%'"),
    (dict(financing=nan), "financing = nan"), (dict(borrow=-0.01), "borrow fee of 'KO' is -0.01"),
    (dict(borrow={"KO": 0.01}), "borrow fee of 'JPM' is nan"), (dict(borrow="x"), "borrow of 'KO' is 'x'"),
    (dict(bars=pd.DataFrame({"KO": [1.0]})), "DataFrame, not Bars: .*Bars.close"),
    (dict(bars=None), "NoneType, not Bars")])
def test_terms_that_are_none(terms, text):
    bars = load_bars(["KO", "JPM"], "2015", "2015")
    with pytest.raises(DataError, match=text):
        run_backtest(pd.DataFrame(-0.5, bars.sessions, bars.symbols), **dict(bars=bars) | terms)


def test_the_months_of_periods_are_repaired_as_told():
    bars = load_bars(["KO", "JPM"], "2015", "2015")
    daily = pd.DataFrame(0.5, bars.sessions, bars.symbols)
    weights = daily.resample("ME").last().to_period("M")
    try:
        run_backtest(weights, bars, rebalance="given")
    except DataError as error:
        told = str(error).partition("for its last one, ")[2]
    repaired = eval(told, {"weights": weights, "bars": bars, "pd": pd})
    assert repaired.index.equals(daily.groupby(daily.index.to_period("M")).tail(1).index)
    assert run_backtest(repaired, bars, rebalance="given").turnover.gt(0).sum() == 12


def test_a_window_keeps_the_clock_and_its_first_return():
    bars = load_bars(["KO", "JPM"], "2015", "2016")
    weights = pd.DataFrame(0.5, bars.sessions, bars.symbols)
    book = run_backtest(weights, Bars(close=bars.close, periods=260.0), costs=0.0)
    cut = book.window("2016")
    assert cut.periods == 260.0 and cut.periods_per_year == 260.0 and book.periods_per_year == 260.0
    assert cut.equity.iloc[0] == pytest.approx(1 + book.net_returns.loc[cut.equity.index[0]], abs=1e-15)
    assert cut.equity.iloc[0] != 1
    assert cut.financing_costs.index.equals(cut.equity.index)
    weekly = run_backtest(weights.iloc[::5], Bars(close=bars.close.iloc[::5]), costs=0.0)
    years = (weekly.equity.index[-1] - weekly.equity.index[0]).days / 365.25
    assert weekly.periods is None and weekly.periods_per_year == pytest.approx((len(weekly.equity) - 1) / years)
    traded = weekly.turnover.mean() * weekly.periods_per_year
    assert f"traded {traded:.1f} times the equity a year" in weekly._repr_html_()
    with pytest.raises(DataError, match="no session from 2030"):
        book.window("2030")
