"""Row 15: delisted assets close. The units become cash at last price x (1 + delisting return), and only there."""
import numpy as np
import pandas as pd
import pytest

from hybrid_ssm.backtest import RuinError, run_backtest
from hybrid_ssm.calendars import resample
from hybrid_ssm.data import Bars, DataError

nan = np.nan
DAYS = pd.DatetimeIndex(["2020-03-02", "2020-03-03", "2020-03-04", "2020-03-05", "2020-03-06", "2020-03-09"])
# prices, delisting, return, weight of 'X' -> cash and value of 'X' after each close, by hand, without costs
CASES = {
    "sold out at a loss, with a price on its last day": (
        [100, 110, 99, nan, nan, nan], "2020-03-04", -0.3, 0.5,
        [0.5, 0.525, 0.49875, 0.49875 * 1.7, 0.49875 * 1.7, 0.49875 * 1.7],
        [0.5, 0.525, 0.49875, 0, 0, 0]),
    "silent before its last day": (
        [100, 110, nan, nan, nan, nan], "2020-03-05", -1.0, 0.5,
        [0.5, 0.525, 0.525, 0.525, 0.525, 0.525], [0.5, 0.525, 0.525, 0, 0, 0]),
    "short, delisted on a Saturday": (
        [100, 80, nan, nan, nan, nan], "2020-03-07", -0.5, -0.5,
        [1.5, 1.65, 1.65, 1.65, 1.65, 1.65 - 0.275], [-0.5, -0.55, -0.55, -0.55, -0.55, 0]),
    "taken over at a premium": (
        [100, 100, 100, 120, nan, nan], "2020-03-05", 0.25, 0.5,
        [0.5, 0.5, 0.5, 0.55, 1.2375, 1.2375], [0.5, 0.5, 0.5, 0.55, 0, 0]),
}


def market(prices, end, earned, days=DAYS):
    "One symbol that ends, beside one that goes on"
    table = pd.DataFrame(dict(symbol=["X", "Y"], delisting=[end, nan], delisting_return=[earned, nan]))
    return Bars(close=pd.DataFrame({"X": prices, "Y": 10.0}, days, dtype=float), instruments=table)


def check(implementation):
    "Cash and position of each case in every session, and the same with given returns"
    for name, (prices, end, earned, weight, cash, held) in CASES.items():
        bars = market(prices, end, earned)
        weights = pd.DataFrame({"X": weight, "Y": 0.0}, DAYS)
        given = Bars(close=bars.close, excess=bars.returns, instruments=bars.instruments)
        for these in (bars, given):
            book = implementation(weights, these, costs=0.0)
            assert np.allclose(book.cash, cash, rtol=0, atol=1e-12), f"{name}: cash"
            assert np.allclose(book.positions["X"], held, rtol=0, atol=1e-12), f"{name}: position"


def kept_at_its_last_price(weights, bars, costs=None):
    "Planted: position kept at last price"
    return run_backtest(weights, Bars(close=bars.close, excess=bars.excess), costs=costs)


def sold_at_its_last_price(weights, bars, costs=None):
    "Planted: closed at the last price, as if a delisting cost nothing"
    return run_backtest(weights, bars, costs=costs, delisting_return=dict.fromkeys(bars.symbols, 0.0))


def test_delisted_assets_close():
    check(run_backtest)


@pytest.mark.parametrize("planted", [kept_at_its_last_price, sold_at_its_last_price], ids=lambda f: f.__name__)
def test_mutants(mutants, planted):
    mutants.kill(15, planted.__doc__.removeprefix("Planted: "), check, planted)


@pytest.mark.parametrize("fill", ["close", "next_close", "next_open"])
def test_the_end_is_no_trade(fill):
    "The settlement is neither turnover nor cost, and the symbol is gone for good"
    bars = market([100, 100, 100, nan, nan, nan], "2020-03-04", -0.3)
    bars = Bars(close=bars.close, open=bars.close, instruments=bars.instruments)
    book = run_backtest(pd.DataFrame({"X": 0.5, "Y": 0.25}, DAYS), bars, costs=0.01, fill=fill)
    assert book.trades["X"].iloc[3:].eq(0).all() and book.weights["X"].iloc[3:].eq(0).all()
    assert book.gross_returns.iloc[3] == pytest.approx(-0.3 * book.weights["X"].iloc[2], abs=1e-12)


def test_bars_that_end_earlier():
    "A delisting after the end of the bars changes nothing, and needs no return"
    weights, bars = pd.DataFrame({"X": 0.5, "Y": 0.0}, DAYS), market([100, 110, 99, 98, 97, 96], "2020-03-09", nan)
    assert run_backtest(weights, bars, costs=0.0).equity.equals(run_backtest(weights, Bars(close=bars.close), costs=0.0).equity)


def test_a_return_that_nobody_stated():
    "Named where a position is really held; a number, a mapping or the column states it"
    weights, bars = pd.DataFrame({"X": 0.5, "Y": 0.0}, DAYS), market([100, 100, 100, nan, nan, nan], "2020-03-04", nan)
    with pytest.raises(DataError, match="'X' .*2020-03-05.*delisting_return.*delisting_return=-.3") as caught:
        run_backtest(weights, bars, costs=0.0)
    assert caught.value.symbol == "X" and caught.value.session == DAYS[3]
    absent = Bars(close=bars.close, instruments=bars.instruments.drop(columns="delisting_return"))
    with pytest.raises(DataError, match="column delisting_return"):
        run_backtest(weights, absent, costs=0.0)
    for stated in (-0.3, {"X": -0.3}, pd.Series({"X": -0.3, "Z": 0.1})):
        for these in (bars, absent):
            assert run_backtest(weights, these, costs=0.0, delisting_return=stated).equity.iloc[-1] == pytest.approx(0.85)
    flat = weights.assign(X=[0.5, 0.5, 0.0, 0.0, 0.0, 0.0])
    assert run_backtest(flat, bars, costs=0.0).equity.iloc[-1] == 1.0  # sold in time: nothing to state


def test_the_table_goes_before_one_number_and_a_mapping_before_the_table():
    weights, bars = pd.DataFrame({"X": 0.5, "Y": 0.0}, DAYS), market([100, 100, 100, nan, nan, nan], "2020-03-04", -0.1)
    assert run_backtest(weights, bars, costs=0.0, delisting_return=-0.3).equity.iloc[-1] == pytest.approx(0.95)
    assert run_backtest(weights, bars, costs=0.0, delisting_return={"X": -0.3}).equity.iloc[-1] == pytest.approx(0.85)


@pytest.mark.parametrize("stated, text", [(-30, "-30"), ("thirty", "'thirty'"), (np.inf, "inf")])
def test_a_return_that_is_none(stated, text):
    weights, bars = pd.DataFrame({"X": 0.5, "Y": 0.0}, DAYS), market([100, 100, 100, nan, nan, nan], "2020-03-04", nan)
    with pytest.raises(DataError, match=f"delisting_return of 'X' is {text}"):
        run_backtest(weights, bars, costs=0.0, delisting_return=stated)


def test_prices_after_the_end():
    with pytest.raises(DataError, match="'X' has a price on 2020-03-06, after its delisting on 2020-03-04"):
        run_backtest(pd.DataFrame({"X": 0.5, "Y": 0.0}, DAYS), market([100, 100, 100, nan, 90, nan], "2020-03-04", 0.0), costs=0.0)


@pytest.mark.parametrize("end", ["2020-03-04", pd.Timestamp("2020-03-04"), 20200304, "20200304"])
def test_dates_as_tables_have_them(end):
    book = run_backtest(pd.DataFrame({"X": 0.5, "Y": 0.0}, DAYS), market([100, 100, 100, nan, nan, nan], end, -0.3), costs=0.0)
    assert book.equity.tolist() == pytest.approx([1, 1, 1, 0.85, 0.85, 0.85])


def test_ruined_by_a_delisting():
    with pytest.raises(RuinError, match="2020-03-05"):
        run_backtest(pd.DataFrame({"X": 1.5, "Y": 0.0}, DAYS), market([100, 100, 100, nan, nan, nan], "2020-03-04", -1.0), costs=0.0)


def test_weekly_bars_earn_the_last_week():
    "The bar of the week of the delisting is dated after it: its return is earned, the settlement follows"
    days = pd.bdate_range("2020-03-02", periods=20)
    prices = [100.0] * 5 + [110.0] * 3 + [nan] * 12
    weekly = resample(market(prices, days[7], -0.3, days), "W")
    assert weekly.sessions[1] > days[7] and weekly.close["X"].notna().sum() == 2
    book = run_backtest(pd.DataFrame({"X": 0.5, "Y": 0.0}, weekly.sessions), weekly, costs=0.0)
    assert book.gross_returns.tolist() == pytest.approx([0, 0.05, 0.5 * -0.3, 0])
