"""Situations that users of trading software have reported in public, each with inputs of our own and the right value."""
from math import sqrt

import numpy as np
import pandas as pd
import pytest

from hybrid_ssm.backtest import run_backtest
from hybrid_ssm.data import Bars, DataError
from hybrid_ssm.files import read_long
from hybrid_ssm.metrics import MetricError, annual_return, correlation, sharpe
from hybrid_ssm.sources import load_bars, to_currency

DAYS = pd.bdate_range("2018-01-01", periods=60)


def put(folder, text, name="prices.csv"):
    "A file of this text"
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def refused(call, *words, error=DataError):
    "`call` is refused with all of these words"
    with pytest.raises(error) as caught:
        call()
    for word in words:
        assert word in str(caught.value), f"{word!r} is not in: {caught.value}"


def test_monthly_returns_are_no_days():
    "ranaroussi/quantstats 116: the ratio of monthly returns was annualised as if they were days"
    monthly = pd.Series(np.tile([.02, -.01, .015], 20), pd.date_range("2015-01-31", periods=60, freq="ME"))
    per_year = 59 / ((monthly.index[-1] - monthly.index[0]).days / 365.25)
    assert sharpe(monthly).value == pytest.approx(monthly.mean() / monthly.std() * sqrt(per_year), rel=1e-12)
    assert per_year == pytest.approx(12, rel=2e-3)


def test_growth_and_ratio_use_one_calendar():
    "Lumiwealth/quantstats_lumi 30: 365 for the growth and for the ratio of a market with 252 sessions, or 252 for both"
    sessions = load_bars(["KO"], "2005", "2014").sessions
    daily = pd.Series(1.1 ** (1 / 252) - 1, sessions)
    years = (sessions[-1] - sessions[0]).days / 365.25
    assert annual_return(daily) == pytest.approx((1 + daily).prod() ** (1 / years) - 1, rel=1e-3)


def test_bars_within_a_day_of_trading():
    "polakowo/vectorbt 294 (15-minute bars): dates with a time of day are no sessions, and are named"
    stamps = pd.date_range("2020-01-02 09:30", periods=26, freq="15min")
    refused(lambda: Bars(pd.DataFrame({"A": 1.}, stamps)), "midnight")


def test_a_download_written_as_text(tmp_path):
    "ranaroussi/yfinance 2355: a row of tickers and a row that says Date stand between the header and the prices"
    path = put(tmp_path, "Price,Adj Close,Close,High,Low,Open,Volume\nTicker,MMM,MMM,MMM,MMM,MMM,MMM\nDate,,,,,,\n"
                         "2024-03-11,76.9,92.0,93,91,92.5,4206571\n2024-03-12,80.7,93.5,94,92,92.8,16737302\n")
    bars = load_bars(source=path)
    assert list(bars.symbols) == ["MMM"] and bars.close["MMM"].tolist() == [92.0, 93.5]


def test_prices_above_a_thousand(tmp_path):
    "pydata/pandas-datareader 168: 1,040.00 came back as text"
    path = put(tmp_path, 'date,symbol,close\n2020-01-02,GOOGL,"1,040.00"\n2020-01-03,GOOGL,"999.50"\n')
    assert load_bars(source=path).close["GOOGL"].tolist() == [1040.0, 999.5]


def test_a_disclaimer_above_the_header(tmp_path):
    "sjev/trading-with-python 2: an exchange began to put a sentence above the header"
    text = "# Volatility index futures are for information only\nTrade Date,Open,High,Low,Close\n2020-01-02,14,15,13,14.5\n2020-01-03,14,15,13,14.1\n"
    bars = load_bars("VX", source=put(tmp_path, text), columns={"Trade Date": "date"})
    assert bars.close["VX"].tolist() == [14.5, 14.1]
    bare = put(tmp_path, text.replace("# ", ""))
    refused(lambda: load_bars("VX", source=bare, columns={"Trade Date": "date"}), "comment='Volatility'", "--comment Volatility")
    again = load_bars("VX", source=bare, columns={"Trade Date": "date"}, comment="Volatility")
    assert again.close.equals(bars.close)


def test_months_by_name_and_volumes_in_thousands(tmp_path):
    "derlin/investing-historical-data 2: 'Jan 19, 2018' fell apart at its comma, and 68.18K is a volume"
    path = put(tmp_path, 'Date,Price,Open,High,Low,Vol.,Change %\n"Jan 19, 2018",608.00,611.25,613.50,605.25,68.18K,-0.61%\n'
                         '"Jan 18, 2018",611.75,612.00,614.00,610.00,70.00K,0.10%\n')
    bars = load_bars("ZS", source=path)
    assert bars.close["ZS"].tolist() == [611.75, 608.0] and bars.sessions[1] == pd.Timestamp("2018-01-19")
    assert bars.volume is None or bars.volume["ZS"].tolist() == [70000.0, 68180.0]


def test_german_lists(tmp_path):
    "tresorone/tresor-import 4940: semicolons, days before months, decimal commas"
    path = put(tmp_path, "Datum;UniEuroAktien\n04.07.2016;60,52\n14.07.2016;62,93\n")
    bars = load_bars(source=path)
    assert bars.close.iloc[:, 0].tolist() == [60.52, 62.93] and bars.sessions[0] == pd.Timestamp("2016-07-04")


def test_semicolons_in_a_comma_separated_file(tmp_path):
    "philipperemy/FX-1-Minute-Data 2: .csv with ';'"
    path = put(tmp_path, "date;symbol;close\n2020-01-02;EURUSD;1.1172\n2020-01-03;EURUSD;1.1160\n")
    assert load_bars(source=path).close["EURUSD"].tolist() == [1.1172, 1.116]


def test_a_halt_is_valued_at_the_last_price():
    "HKUDS/Vibe-Trading 1318: after five silent bars a held position was put back to its entry price"
    close = pd.DataFrame({"A": np.r_[np.linspace(100, 150, 10), np.full(30, np.nan), 140., np.full(19, 140.)]}, DAYS)
    book = run_backtest(pd.DataFrame(1., DAYS, ["A"]), Bars(close), costs=0.)
    assert (book.equity.iloc[9:40] == book.equity.iloc[9]).all()
    assert book.equity.iloc[40] == pytest.approx(1.4) and book.trades.iloc[10:40].abs().to_numpy().sum() == 0


def test_nothing_is_bought_during_a_suspension():
    "nlethetech/nepse-quant-terminal 17, QuantConnect/Lean 5275: suspended shares were bought"
    close = pd.DataFrame({"A": 100., "B": 50.}, DAYS)
    close.iloc[5:30, 0] = np.nan
    weights = pd.DataFrame({"A": 0., "B": .5}, DAYS)
    weights.iloc[10:, 0] = .5  # wanted in the silence
    book = run_backtest(weights, Bars(close), costs=0.)
    assert np.flatnonzero(book.trades["A"]).tolist() == [30]


def test_a_delisting_is_paid_out():
    "QuantConnect/Lean 4397: a company was delisted and the book never heard of it"
    close = pd.DataFrame({"A": 100., "B": 50.}, DAYS)
    close.iloc[20:, 0] = np.nan
    table = pd.DataFrame(dict(symbol=["A", "B"], delisting=[DAYS[19], pd.NaT], delisting_return=[-.3, np.nan]))
    book = run_backtest(pd.DataFrame({"A": .5, "B": 0.}, DAYS), Bars(close, instruments=table), costs=0.)
    assert book.equity.iloc[-1] == pytest.approx(1 - .5 * .3) and book.weights["A"].iloc[-1] == 0


def test_dates_with_a_zone_beside_dates_without():
    "ranaroussi/quantstats 245: taking the zone off moved midnight in New York to five in the morning, and nothing matched"
    returns = pd.Series(np.random.default_rng(0).normal(0, .01, 60), DAYS)
    zoned = returns.tz_localize("America/New_York")
    refused(lambda: correlation(returns, zoned), "time zone", ".tz_localize(None)", error=MetricError)
    refused(lambda: correlation(returns, zoned.tz_convert(None)), "0 dates in common", error=MetricError)
    assert correlation(returns, zoned.tz_localize(None)) == pytest.approx(1)


def test_pence_and_pounds():
    "portfolio-performance/portfolio 4038: quotes in pence taken for pounds"
    close = pd.DataFrame({"LSEG.L": np.linspace(9000, 9900, 60), "BP": np.linspace(5, 6, 60)}, DAYS)
    bars = Bars(close, instruments=pd.DataFrame(dict(symbol=["LSEG.L", "BP"], currency=["GBp", "GBP"])))
    refused(lambda: run_backtest(pd.DataFrame(.5, DAYS, bars.symbols), bars, costs=0.), "GBp", "to_currency")
    pounds = to_currency(bars, "GBP")
    assert pounds.close["LSEG.L"].iloc[0] == pytest.approx(90) and pounds.close["BP"].iloc[0] == 5
    assert set(pounds.instruments["currency"]) == {"GBP"}


def test_a_source_that_changes_its_unit():
    "ghostfolio/ghostfolio 2973: one day pence, the next day pounds"
    close = np.where(np.arange(60) < 30, 1234., 12.34)
    refused(lambda: read_long(pd.DataFrame(dict(date=DAYS, symbol="VUSA.L", close=close))), "VUSA.L", "100x jump")


def test_a_month_between_two_rebalancings():
    "dcajasn/Riskfolio-Lib 113, pmorissette/bt 133: are weights kept or do they drift? They drift, and nothing is traded"
    rng = np.random.default_rng(0)
    close = pd.DataFrame(100 * np.exp(rng.normal(0, .02, (60, 2)).cumsum(0)), DAYS, ["A", "B"])
    first = pd.DataFrame(.5, DAYS[:1], ["A", "B"])
    book = run_backtest(first, Bars(close), costs=0., rebalance="given")
    assert book.equity.iloc[-1] == pytest.approx((close.iloc[-1] / close.iloc[0]).mean()) and book.turnover.iloc[1:].sum() == 0


def test_a_short_position_pays_its_fee():
    "mementum/backtrader 125, pmorissette/bt 277: price x volume x 10 % / 365 for every day of a short sale"
    days = pd.date_range("2016-06-01", "2016-08-01")
    bars, short = Bars(pd.DataFrame({"A": 100.}, days)), pd.DataFrame(0., days, ["A"])
    short.iloc[0] = -.5
    book = run_backtest(short.iloc[:1], bars, costs=0., borrow=.10, rebalance="given")
    assert book.equity.iloc[-1] == pytest.approx(1 - .5 * .10 * 61 / 365.25, rel=1e-4)


def test_margin_is_charged():
    "Robot-Wealth/risk-premia-app 18: interest on negative cash, days / 365 x cash x rate"
    days = pd.date_range("2016-01-01", periods=100)
    bars = Bars(pd.DataFrame({"A": 100.}, days))
    book = run_backtest(pd.DataFrame(2., days[:1], ["A"]), bars, costs=0., financing=.06, rebalance="given")
    assert book.equity.iloc[-1] == pytest.approx(1 - .06 * 99 / 365.25, rel=2e-2) and book.equity.iloc[-1] < 1


def test_a_set_number_of_periods_reaches_every_statistic(tmp_path):
    "One run, one number of periods: the table, the stress table, the blocks and the differences agree"
    from hybrid_ssm.config import parse_config
    from hybrid_ssm.experiment import Experiment
    from hybrid_ssm.summary import block_table, stress_table
    days = pd.bdate_range("2014-01-01", "2018-12-31")
    rng = np.random.default_rng(0)
    parts = [pd.DataFrame(dict(date=days, symbol=s, close=100 * np.exp(rng.normal(3e-4, .01, len(days)).cumsum()))) for s in "ABX"]
    pd.concat(parts).to_csv(tmp_path / "p.csv", index=False)
    text = f"""
[data]
source = "{(tmp_path / 'p.csv').as_posix()}"
benchmark = "X"
periods = 52.0
[folds]
test_start = "2017-01-01"
test_end = "2018-12-31"
[models]
names = ["tsmom", "index"]
[costs]
bps = 5.0
"""
    result = Experiment(parse_config(text)).run(tmp_path / "runs", progress=False)
    net = result.backtests["index"].net_returns
    value = net.mean() / net.std() * sqrt(52)
    assert result.table.frame.loc["index", "Net Sharpe"] == pytest.approx(value)
    for shown in (stress_table(result).loc["index", "As configured"], block_table(result).loc["index"].iloc[0]):
        assert shown.startswith(f"{value:.2f} ")


def test_a_listing_that_ends_is_asked_for_before_the_training(tmp_path):
    "A delisting without its return stops the run before a folder exists"
    from hybrid_ssm.cli import main
    days = pd.bdate_range("2014-01-01", "2018-12-31")
    long = pd.concat([pd.DataFrame(dict(date=days[:1200] if s == "A" else days, symbol=s, close=100. + np.arange(len(days))[:1200 if s == "A" else None] % 7))
                      for s in "ABX"])
    long.to_csv(tmp_path / "p.csv", index=False)
    pd.DataFrame(dict(symbol=list("ABX"), delisting=[f"{days[1199]:%Y-%m-%d}", "", ""], cost_fraction=.0005)).to_csv(tmp_path / "i.csv", index=False)
    words = ["experiment", "demo", "--data", str(tmp_path / "p.csv"), "--instruments", str(tmp_path / "i.csv"), "--benchmark", "X", "--models",
             "equal_weight", "index", "--test-start", "2018-01-01", "--test-end", "2018-12-31", "--no-progress", "--out", str(tmp_path / "runs")]
    assert main(words) == 2 and not (tmp_path / "runs").exists()
    assert main([*words, "--delisting-return", "-0.3"]) == 0
