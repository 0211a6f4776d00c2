"""Files as people have them: they load to the values that were written, or the error names the one option that decides.

The values are written down here by hand, cell by cell; nothing is computed by the reader under test."""
import bz2
import gzip
import io
import lzma
import re
import tempfile
import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir

from hybrid_ssm.checks import FILE_OPTIONS, Checks
from hybrid_ssm.data import Bars, DataError
from hybrid_ssm.sources import load_bars

set_hypothesis_home_dir(Path(tempfile.gettempdir(), "hypothesis"))  # nothing is written beside the code
DAYS = pd.DatetimeIndex(["2020-01-10", "2020-01-13", "2020-01-14"])
CLOSE = {"KO": [54.25, 54.5, 55.125], "PEP": [134.5, 135.25, 136.0]}
VOLUME = {"KO": [1200.0, 1500.0, 900.0], "PEP": [700.0, 650.0, 800.0]}
OPTION = re.compile(r"set (\w+)=")


@pytest.fixture
def put(tmp_path):
    "`put(text, name, encoding)`: write a file and return its path"
    def write(text, name="prices.csv", encoding="utf-8"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
        return path
    return write


def refusal(*args, **kwargs):
    "The DataError of a load that must fail; every option that it names exists"
    with pytest.raises(DataError) as caught:
        load_bars(*args, **kwargs)
    text = str(caught.value)
    for option in OPTION.findall(text):
        flag, key, _ = FILE_OPTIONS[option]
        assert key in text and flag in text, text
    return caught.value


def same(bars, close, days=DAYS, **fields):
    "Exactly these values, sessions and symbols"
    assert bars.symbols.tolist() == list(close) and bars.sessions.equals(pd.DatetimeIndex(days).as_unit("us"))
    for name, table in {"close": close, **fields}.items():
        np.testing.assert_array_equal(getattr(bars, name).to_numpy(), np.array(list(table.values()), float).T)


# ------------------------------------------------------------------------------------------ downloads of yfinance
def download(symbols, group_by="column", fields=("Close", "High", "Low", "Open", "Volume")):
    "A table as `yf.download` gives it"
    value = {"Close": lambda s, c: c, "Adj Close": lambda s, c: c / 2, "High": lambda s, c: c + 1,
             "Low": lambda s, c: c - 1, "Open": lambda s, c: c + 0.5, "Volume": lambda s, c: np.array(VOLUME[s])}
    cells = {(f, s): value[f](s, np.array(CLOSE[s])) for f in fields for s in symbols}
    frame = pd.DataFrame(cells, index=DAYS.rename("Date")).rename_axis(["Price", "Ticker"], axis=1)
    return frame.swaplevel(axis=1).sort_index(axis=1, level=0) if group_by == "ticker" else frame


@pytest.mark.parametrize("group_by", ["column", "ticker"])
@pytest.mark.parametrize("symbols", [["KO"], ["KO", "PEP"]])
def test_downloads(tmp_path, symbols, group_by):
    frame, close = download(symbols, group_by), {s: CLOSE[s] for s in symbols}
    path = tmp_path / "yf.csv"
    shapes = {"as it is": frame, "no names": frame.rename_axis([None, None], axis=1),
              "index without a name": frame.rename_axis(None), "reset": frame.reset_index(),
              "bare": frame.rename_axis(None).rename_axis([None, None], axis=1)}
    for label, table in shapes.items():
        index = label != "reset"
        if index:
            table.to_csv(path)
        else:
            table.T.reset_index().T.to_csv(path, header=False, index=False)
        for source in (path, table):
            bars = load_bars(source=source)
            same(bars, close, volume={s: VOLUME[s] for s in symbols})
            assert (bars.high.to_numpy() - bars.close.to_numpy() == 1).all(), label
        table.to_parquet(tmp_path / "yf.parquet")
        same(load_bars(source=tmp_path / "yf.parquet"), close)
        naive = pd.read_csv(path)  # header lines two and three became rows, columns became Close.1
        same(load_bars(source=naive), close)
        naive.to_csv(path, index=False)
        same(load_bars(source=path), close)
    flat = frame.set_axis([str(c) for c in frame.columns], axis=1)  # what a tool leaves that knows one level
    flat.to_parquet(tmp_path / "flat.parquet")
    same(load_bars(source=tmp_path / "flat.parquet"), close)


def test_tickers_that_look_like_fields(tmp_path):
    "LOW and OPEN are companies"
    frame = download(["KO", "PEP"]).rename(columns={"KO": "LOW", "PEP": "OPEN"})
    for table in (frame, frame.swaplevel(axis=1)):
        for names in (["Price", "Ticker"], [None, None]):
            names = names if table is frame else names[::-1]
            table.rename_axis(names, axis=1).to_csv(tmp_path / "yf.csv")
            same(load_bars(source=tmp_path / "yf.csv"), {"LOW": CLOSE["KO"], "OPEN": CLOSE["PEP"]})


def test_history_of_one_ticker(put):
    text = ("Date,Open,High,Low,Close,Volume,Dividends,Stock Splits\n"
            "2020-01-10 00:00:00-05:00,54.0,55.0,53.5,54.25,1200,0.0,0.0\n"
            "2020-01-13 00:00:00-05:00,54.0,55.0,53.5,54.5,1500,0.4,0.0\n"
            "2020-01-14 00:00:00-05:00,54.0,56.0,53.5,55.125,900,0.0,0.0\n")
    same(load_bars("KO", source=put(text)), {"KO": CLOSE["KO"]}, volume={"KO": VOLUME["KO"]})
    error = refusal(source=put(text))
    assert error.column == "symbol" and "--symbols AAA" in str(error) and "data.symbols" in str(error)


def test_adjusted_close_is_told_and_settable(tmp_path):
    frame = download(["KO", "PEP"], fields=("Adj Close", "Close", "High", "Low", "Open", "Volume"))
    frame.to_csv(tmp_path / "yf.csv")
    for source in (frame, tmp_path / "yf.csv"):
        bars = load_bars(source=source)
        same(bars, CLOSE)
        assert any("Close is read and not Adj Close" in n and "--columns" in n for n in bars.provenance["notes"])
        other = load_bars(source=source, columns={"Adj Close": "close"})
        same(other, {s: [c / 2 for c in v] for s, v in CLOSE.items()})
        assert "Adj Close read as close" in other.provenance["adjustment"]
        np.testing.assert_allclose(other.high, (bars.close + 1) / 2)  # moved with the close


def test_fields_are_no_symbols(tmp_path):
    "A file whose close has another name is not a market of Open, High and Low"
    frame = download(["KO"]).droplevel(1, axis=1).rename(columns={"Close": "Settle"})
    frame.to_csv(tmp_path / "one.csv")
    error = refusal("KO", source=tmp_path / "one.csv")
    assert error.column == "close" and "columns={'Settle': 'close'}" in str(error)
    same(load_bars("KO", source=tmp_path / "one.csv", columns={"Settle": "close"}), {"KO": CLOSE["KO"]})
    glued = download(["KO", "PEP"])
    glued = glued.set_axis(["_".join(c) for c in glued.columns], axis=1)
    assert "fields and no symbols" in str(refusal(source=glued))
    tickers = pd.DataFrame({"LOW": CLOSE["KO"], "OPEN": CLOSE["PEP"]}, DAYS)
    assert refusal(source=tickers).column == "close"
    same(load_bars(["LOW", "OPEN"], source=tickers), {"LOW": CLOSE["KO"], "OPEN": CLOSE["PEP"]})


# ------------------------------------------------------------------------------------------ other sources
def test_sources_of_the_web(put):
    stooq = ("<TICKER>,<PER>,<DATE>,<TIME>,<OPEN>,<HIGH>,<LOW>,<CLOSE>,<VOL>,<OPENINT>\n"
             "KO.US,D,20200110,000000,54,55,53.5,54.25,1200,0\nKO.US,D,20200113,000000,54,55,53.5,54.5,1500,0\n"
             "KO.US,D,20200114,000000,54,56,53.5,55.125,900,0\n")
    same(load_bars(source=put(stooq, "ko.us.TXT")), {"KO.US": CLOSE["KO"]}, volume={"KO.US": VOLUME["KO"]})
    nasdaq = ('Date,Close/Last,Volume,Open,High,Low\n01/14/2020,"$55.125",900,$54,$56,$53.5\n'
              "01/13/2020,$54.5,1500,$54,$55,$53.5\n01/10/2020,$54.25,N/A,$54,$55,$53.5\n")
    bars = load_bars("KO", source=put(nasdaq))
    same(bars, {"KO": CLOSE["KO"]}, low={"KO": [53.5] * 3})
    assert np.isnan(bars.volume.iloc[0, 0]) and bars.volume.iloc[1:, 0].tolist() == [1500, 900]
    investing = ('\ufeff"Date","Price","Open","High","Low","Vol.","Change %"\n"01/14/2020","1,055.125","1,054.00","1,056.00",'
                 '"1,053.50","1.20M","0.5%"\n"01/13/2020","1,054.50","1,054.00","1,055.00","1,053.50","985.20K","-0.5%"\n'
                 '"01/10/2020","1,054.25","1,054.00","1,055.00","1,053.50","-","0.1%"\n')
    bars = load_bars("KO", source=put(investing))
    same(bars, {"KO": [1054.25, 1054.5, 1055.125]})
    assert bars.volume.iloc[1:, 0].tolist() == [985200.0, 1200000.0]
    fred = "observation_date,SP500\n2020-01-10,3265.35\n2020-01-13,.\n2020-01-14,3283.15\n"
    same(load_bars(source=put(fred)), {"SP500": [3265.35, 3283.15]}, DAYS[[0, 2]])
    vantage = "timestamp,open,high,low,close,volume\n2020-01-13,54,55,53.5,54.5,1500\n2020-01-10,54,55,53.5,54.25,1200\n"
    same(load_bars("KO", source=put(vantage)), {"KO": CLOSE["KO"][:2]}, DAYS[:2], volume={"KO": [1200, 1500]})
    value = put("timestamp,value\n2020-01-13,54.5\n2020-01-10,54.25\n")
    same(load_bars("BRENT", source=value), {"BRENT": [54.25, 54.5]}, DAYS[:2])
    assert refusal(source=value).column == "symbol"


GERMAN = "Datum;Eröffnung;Hoch;Tief;Schlusskurs;Volumen\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-le", "cp1252"])
def test_german_spreadsheet(put, encoding):
    path = put(GERMAN + "10.01.2020;1.054,00;1.055,00;1.053,50;1.054,25;12.345\n13.01.2020;1.054,00;1.055,00;1.053,50;"
               "1.054,50;985\n14.01.2020;1.054,00;1.056,00;1.053,50;1.055,125;1.200.000\n", "Kurse.CSV", encoding)
    options = {}
    if encoding in ("utf-16-le", "cp1252"):
        assert f"set encoding='{encoding}'" in str(refusal("KO", source=path))
        options = {"encoding": encoding}
    bars = load_bars("KO", source=path, **options)
    same(bars, {"KO": [1054.25, 1054.5, 1055.125]}, volume={"KO": [12345.0, 985.0, 1200000.0]})
    assert bars.provenance["read as"] == "separator ';', decimal mark ',', dates as %d.%m.%Y"


def test_french_header(put):
    path = put("Date\tOuverture\tPlus haut\tPlus bas\tClôture\tVolume\n10/01/2020\t1 054,00\t1 055,00\t1 053,50\t1 054,25\t"
               "12 345\n13/01/2020\t1\u202f054,00\t1\u00a0055,00\t1 053,50\t1 054,50\t985\n", "cours.tsv")
    same(load_bars("MC.PA", source=path), {"MC.PA": [1054.25, 1054.5]}, DAYS[:2], volume={"MC.PA": [12345.0, 985.0]})
    path = put("Jour;Valeur\n2020-01-10;1,5\n2020-01-13;1,75\n")
    assert "columns={'Jour': 'date'}" in str(refusal("X", source=path))
    same(load_bars("X", source=path, columns={"Jour": "Date", "Valeur": "Close"}), {"X": [1.5, 1.75]}, DAYS[:2])


NUMBERS = [("1,234.56", "1,300.25", 1234.56, 1300.25), ("1.234,56", "1.300,25", 1234.56, 1300.25),
           ("1 234,56", "1 300,25", 1234.56, 1300.25), ("1'234.56", "1'300.25", 1234.56, 1300.25),
           ("1\u2019234.56", "1\u2019300.25", 1234.56, 1300.25), ("1\u00a0234,5", "1\u202f300,25", 1234.5, 1300.25),
           ("12,5", "13", 12.5, 13.0), ("1,234,567", "1,300,000", 1234567.0, 1300000.0), ("0,125", "0,250", 0.125, 0.25),
           ("1.5e3", "1.6E3", 1500.0, 1600.0), ("$1,234.56", "$1,300.25", 1234.56, 1300.25), ("+5.5", "6.25 ", 5.5, 6.25)]


@pytest.mark.parametrize("first,second,one,two", NUMBERS)
def test_numbers(put, first, second, one, two):
    path = put(f"date;A\n2020-01-10;{first}\n2020-01-13;{second}\n")
    same(load_bars(source=path), {"A": [one, two]}, DAYS[:2])
    same(load_bars(source=put(f'date,A\n2020-01-10,"{first}"\n2020-01-13,"{second}"\n')), {"A": [one, two]}, DAYS[:2])
    frame = pd.DataFrame({"date": DAYS[:2], "A": [first, second]})
    same(load_bars(source=frame), {"A": [one, two]}, DAYS[:2])


@pytest.mark.parametrize("text", ['date,A\n2020-01-10,"1,234"\n2020-01-13,"1,300"\n', "date;A\n2020-01-10;1.234\n2020-01-13;1.300\n",
                                  'symbol,date,close\nA,2020-01-10,"1,234"\nA,2020-01-13,"1,300"\n'])
def test_ambiguous_numbers(put, text):
    path = put(text)
    error = refusal(source=path)
    assert (error.rule, error.value) == ("ambiguous number", "1,234" if '"' in text else "1.234")
    mark = "," if '"' in text else "."
    for options, values in (({"decimal": mark}, [1.234, 1.3]), ({"thousands": mark}, [1234.0, 1300.0]),
                            ({"decimal": ".,".replace(mark, "")}, [1234.0, 1300.0])):
        same(load_bars(source=path, **options), {"A": values}, DAYS[:2])


def test_another_column_proves_the_mark(put):
    path = put('date,symbol,close,volume\n2020-01-10,A,12.5,"1,234"\n2020-01-13,A,12.75,"1,300"\n')
    same(load_bars(source=path), {"A": [12.5, 12.75]}, DAYS[:2], volume={"A": [1234.0, 1300.0]})
    path = put('date;symbol;close;volume\n2020-01-10;A;12,5;1.234\n2020-01-13;A;12,75;1.300\n')
    same(load_bars(source=path), {"A": [12.5, 12.75]}, DAYS[:2], volume={"A": [1234.0, 1300.0]})
    same(load_bars(source=put("date,A\n2020-01-10,1.234\n2020-01-13,1.300\n")), {"A": [1.234, 1.3]}, DAYS[:2])
    mixed = put("date;A\n2020-01-10;1,5\n2020-01-13;1.5\n2020-01-14;1.75\n")
    assert [f.rule for f in refusal(source=mixed).failures] == ["not a number"]


DATES = [("10.01.2020", "13.01.2020", "%d.%m.%Y"), ("01/10/2020", "01/13/2020", "%m/%d/%Y"), ("10/01/2020", "13/01/2020", "%d/%m/%Y"),
         ("10-01-2020", "13-01-2020", "%d-%m-%Y"), ("1/10/2020", "1/13/2020", "%m/%d/%Y"), ("10,01,2020", "13,01,2020", "%d,%m,%Y"),
         ("10-Jan-2020", "13-Jan-2020", "%d %b %Y"), ("Jan 10, 2020", "Jan 13, 2020", "%b %d %Y"), ("2020/01/10", "2020/01/13", None),
         ("20200110", "20200113", None), ("2020-01-10T16:00:00", "2020-01-13T16:00:00", None), ("10.01.2020 17:30", "13.01.2020 17:30", "%d.%m.%Y")]


@pytest.mark.parametrize("first,second,form", DATES)
def test_dates(put, first, second, form):
    path = put(f"date;A\n{first};12.5\n{second};12.75\n")
    bars = load_bars(source=path)
    same(bars, {"A": [12.5, 12.75]}, DAYS[:2])
    assert (f"dates as {form}" in bars.provenance["read as"]) == (form is not None)


def test_ambiguous_dates(put):
    for text, forms in [("03/04/2020 04/04/2020", {"%d/%m/%Y": ["2020-04-03", "2020-04-04"], "%m/%d/%Y": ["2020-03-04", "2020-04-04"]}),
                        ("03.04.20 04.04.20", {"%d.%m.%y": ["2020-04-03", "2020-04-04"], "%y.%m.%d": ["2003-04-20", "2004-04-20"]}),
                        ("43831 43832", {"excel": ["2020-01-01", "2020-01-02"], "excel1904": ["2024-01-02", "2024-01-03"]}),
                        ("2020-01 2020-02", {"%Y-%m": ["2020-01-31", "2020-02-29"]}), ("1578614400 1578873600", {"unix": ["2020-01-10", "2020-01-13"]})]:
        first, second = text.split()
        path = put(f"date,A\n{first},12.5\n{second},12.75\n")
        error = refusal(source=path)
        assert error.rule == "ambiguous date" and error.value == first
        for form, days in forms.items():
            assert f"date_format='{form}'" in str(error)
            same(load_bars(source=path, date_format=form), {"A": [12.5, 12.75]}, days)
    path = put("date,A\n13/01/2020,1.5\n01/14/2020,1.75\n")
    assert refusal(source=path).rule == "ambiguous date"  # no order fits both
    assert [str(f.value) for f in refusal(source=path, date_format="%d/%m/%Y").failures] == ["'01/14/2020'"]
    frame = pd.DataFrame({"date": [43840, 43843], "A": [12.5, 12.75]})
    assert refusal(source=frame).rule == "ambiguous date"
    same(load_bars(source=frame, date_format="excel"), {"A": [12.5, 12.75]}, DAYS[:2])


# ------------------------------------------------------------------------------------------ the file itself
def test_names_of_files(put, tmp_path, monkeypatch):
    text = b"date,KO\n2020-01-10,54.25\n2020-01-13,54.5\n2020-01-14,55.125\n"
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("prices.csv", text)
        file.writestr("__MACOSX/._prices.csv", b"x")
    kinds = {"A.CSV": text, "b.Csv.GZ": gzip.compress(text), "c.csv.bz2": bz2.compress(text), "d.csv.xz": lzma.compress(text),
             "e.zip": archive.getvalue(), "f.csv.zip": archive.getvalue(), "g.txt": text, "h.2020.csv": text, "Börse.csv": text}
    for name, content in kinds.items():
        same(load_bars(source=put(content, name)), {"KO": CLOSE["KO"]})
    pd.DataFrame({"KO": CLOSE["KO"]}, DAYS).to_parquet(tmp_path / "I.Parquet")
    same(load_bars(source=str(tmp_path / "I.Parquet")), {"KO": CLOSE["KO"]})
    for form in ("NFC", "NFD"):
        same(load_bars(source=tmp_path / unicodedata.normalize(form, "Börse.csv")), {"KO": CLOSE["KO"]})
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    same(load_bars(source="~/A.CSV"), {"KO": CLOSE["KO"]})
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as file:
        file.writestr("a.csv", text)
        file.writestr("b.csv", text)
    for name, word in {"two.zip": "unpack", "x.xlsx": "save it as CSV", "x.feather": "unknown format", "x.csv.part": "unknown format",
                       "broken.csv.gz": "cannot be read"}.items():
        path = tmp_path / name
        path.write_bytes(path.read_bytes() if path.exists() else text)
        assert word in str(refusal(source=path)), name
    assert "a directory" in str(refusal(source=tmp_path))
    for address in ("https://example.org/prices.csv", "s3://bucket/prices.parquet", "file:///prices.csv"):
        assert "only local files" in str(refusal(source=address))


def test_lines_that_are_no_data(put):
    rows = "2020-01-10,54.25\n2020-01-13,54.5\n2020-01-14,55.125\n"
    bars = load_bars(source=put("# prices of a bank\n\ndate,KO,,\n" + rows.replace("\n", ",,\n") + ",,,\n"))
    same(bars, {"KO": CLOSE["KO"]})
    assert "1 comment lines left out" in bars.provenance["read as"]
    footer = put("date,KO\n" + rows + "Data provided by a bank\n")
    error = refusal(source=footer)
    assert error.rule == "incomplete line" and "line 5" in str(error) and "footer=1" in str(error)
    same(load_bars(source=footer, footer=1), {"KO": CLOSE["KO"]})
    assert refusal(source=put("date,symbol,close\n2020-01-10,KO,5\n2020-01-1")).rule == "incomplete line"  # cut off
    assert refusal(source=put("date,KO\n2020-01-10,1,5\n")).rule == "too many fields"
    same(load_bars(source=put("sep=;\ndate;KO\n" + rows.replace(",", ";"))), {"KO": CLOSE["KO"]})
    odd = put("date,KO\n#2020-01-10,54.25\n" + rows)
    assert "comment='#'" in str(refusal(source=odd))
    same(load_bars(source=odd, comment="#"), {"KO": CLOSE["KO"]})
    same(load_bars(source=put("% x\ndate KO\n" + rows.replace(",", "  ")), comment="%", separator="space"), {"KO": CLOSE["KO"]})
    assert "separator='space'" in str(refusal(source=put("date KO\n" + rows.replace(",", " "))))
    for text in ("", "\n\n", "\ufeff", "date,symbol,close\n", "date,KO\n", "date;KO\n"):
        error = refusal(source=put(text))
        assert error.rule in ("no rows", "missing column"), (text, error)
    assert refusal(source=put(rows)).rule == "no header"


def test_one_symbol_spelled_in_two_ways(put):
    composed, decomposed = (unicodedata.normalize(f, "Börse") for f in ("NFC", "NFD"))
    text = f"date,symbol,close\n2020-01-10,{composed},5\n2020-01-13,{decomposed},6\n2020-01-10,A\u00a0B,5\n2020-01-13,A B\u00a0,6\n"
    bars = load_bars(source=put(text))
    same(bars, {"A B": [5, 6], composed: [5, 6]}, DAYS[:2])
    assert any("composed" in note and composed in note for note in bars.provenance["notes"])
    same(load_bars([decomposed], source=put(text)), {composed: [5, 6]}, DAYS[:2])
    both = refusal(source=put(text + f"2020-01-13,{composed},6.5\n"))
    assert both.rule == "duplicate row"
    assert refusal(source=put(f"date,{composed},{decomposed}\n2020-01-10,5,6\n")).rule == "column given twice"


def test_codes_stay_text(put):
    path = put("Code,date,close\n000001,2020-01-10,5\nNA,2020-01-10,6\n")
    same(load_bars(source=path, columns={"Code": "symbol"}), {"000001": [5], "NA": [6]}, DAYS[:1])


def test_missing_values(put):
    path = put("date,symbol,close,volume\n2020-01-10,A,5,n.a.\n2020-01-13,A,6,7\n")
    error = refusal(source=path)
    assert error.rule == "not a number" and "missing=['n.a.']" in str(error)
    bars = load_bars(source=path, missing=["n.a."])
    assert np.isnan(bars.volume.iloc[0, 0]) and bars.volume.iloc[1, 0] == 7


def test_further_kinds(put):
    "Coins in milliseconds, months by name, two columns that differ in a capital, a symbol without any price"
    coin = put("Open time,Open,High,Low,Close,Volume\n1578614400000,1,2,.5,1.5,3\n1578873600000,1,2,.5,1.75,4\n")
    assert "columns={'Open time': 'date'}" in str(refusal("BTC", source=coin))
    assert "date_format='unix_ms'" in str(refusal("BTC", source=coin, columns={"Open time": "date"}))
    bars = load_bars("BTC", source=coin, columns={"Open time": "date"}, date_format="unix_ms")
    same(bars, {"BTC": [1.5, 1.75]}, DAYS[:2], volume={"BTC": [3, 4]})
    named = put('Date,Close\n"May 29, 2020",5.5\n"June 1, 2020",5.75\n')
    same(load_bars("A", source=named), {"A": [5.5, 5.75]}, ["2020-05-29", "2020-06-01"])
    short = put("Date,Close\n10-Jan-20,5.5\n13-Jan-20,5.75\n")
    assert "date_format='%d-%b-%y'" in str(refusal("A", source=short))
    same(load_bars("A", source=short, date_format="%d-%b-%y"), {"A": [5.5, 5.75]}, DAYS[:2])
    twice = put("date,Close,close\n2020-01-10,5,7\n2020-01-13,5.5,7\n")
    assert "columns={'Close': 'close'}" in str(refusal("A", source=twice))
    same(load_bars("A", source=twice, columns={"Close": "close"}), {"A": [5, 5.5]}, DAYS[:2])
    bars = load_bars(source=put("date,A,B\n2020-01-10,5,\n2020-01-13,6,\n"))
    same(bars, {"A": [5, 6]}, DAYS[:2])
    assert bars.provenance["read as"] == "without any value: B"


# ------------------------------------------------------------------------------------------ what may be a source
def test_whatever_is_a_market():
    wide = pd.DataFrame(CLOSE, DAYS)
    bars = load_bars(source=wide)
    long = bars.to_long()
    for source in (wide, long, bars, {"close": wide}, download(["KO", "PEP"])):
        same(load_bars(source=source), CLOSE)
        same(load_bars(["PEP"], "2020-01-13", source=source), {"PEP": CLOSE["PEP"][1:]}, DAYS[1:])
        assert refusal(["PEP", "KOO"], source=source).rule == "unknown symbol"
    bad = Bars(wide.assign(KO=[54.0, 54000.0, 54.0]))
    assert "accept=['100x jump'] (TOML data.accept, command line --accept '100x jump')" in str(refusal(source=bad))
    assert load_bars(source=bad, accept=["100x jump"]).sha256 == bad.sha256
    for nothing in (7, None, b"prices.csv", [wide]):
        assert refusal(source=nothing).rule == "unknown source"
    assert refusal(source=wide, decimel=",").rule == "unknown option"
    both = load_bars(source={"close": wide, "volume": pd.DataFrame(VOLUME, DAYS)})
    same(both, CLOSE, volume=VOLUME)


def test_names_that_are_asked_for():
    bars = load_bars(source=pd.DataFrame(CLOSE, DAYS))
    pair = ["PEP", "KO"]
    for symbols in (pair, tuple(pair), pd.Series(pair), pd.Index(pair), np.array(pair), dict.fromkeys(pair).keys(), iter(pair)):
        assert load_bars(symbols, source=bars).symbols.tolist() == pair
    for symbols in (set(pair), frozenset(pair)):
        assert load_bars(symbols, source=bars).symbols.tolist() == sorted(pair)
    assert load_bars("KO", source=bars).symbols.tolist() == ["KO"]
    for symbols, word in (("SPY,KO", "symbols=['SPY', 'KO']"), (7, "symbols"), (["KO", None], "None"), ([1.5], "1.5"), (b"KO", "symbols"),
                          ({"KO": 1}, "symbols"), ([], "no symbols"), (["KO", "KO"], "twice")):
        error = refusal(symbols, source=bars)
        assert word in str(error) and "\n" not in str(error)


def test_round_trips_are_equal_to_the_last_bit(tmp_path):
    rng = np.random.default_rng(5)
    days = pd.bdate_range("2019-01-01", periods=250)
    table = lambda low, high: pd.DataFrame(rng.uniform(low, high, (250, 3)), days, ["NA", "000001", "Ö"])[["000001", "NA", "Ö"]]
    close = table(50, 60)
    bars = Bars(close.mask(table(0, 1) < 0.1), volume=table(0, 1e9), open=close * 1.001, high=close * 1.01, low=close / 1.01)
    mask = lambda f: f.where(bars.close.notna())
    bars = Bars(bars.close, **{n: mask(getattr(bars, n)) for n in ("open", "high", "low", "volume")})
    path, forms = tmp_path / "long.csv", {";": ",", ",": ".", "\t": "."}
    for separator, decimal in forms.items():
        bars.to_long().to_csv(path, index=False, sep=separator, decimal=decimal, encoding="utf-8")
        again = load_bars(source=path)
        assert again.sha256 == bars.sha256, separator
        again.to_long().to_parquet(tmp_path / "long.parquet")
        assert load_bars(source=tmp_path / "long.parquet").sha256 == bars.sha256


def test_every_option_has_three_names():
    assert set(FILE_OPTIONS) - {"symbols"} == set(Checks.__dataclass_fields__) - {"now"}
    for name, (flag, key, meaning) in FILE_OPTIONS.items():
        assert flag == "--" + name.replace("_", "-") and key == f"data.{name}" and meaning


# ------------------------------------------------------------------------------------------ random files
WAYS = {"%Y-%m-%d": "{0:%Y-%m-%d}", "%Y%m%d": "{0:%Y%m%d}", "%d.%m.%Y": "{0:%d.%m.%Y}", "%d/%m/%Y": "{0:%d/%m/%Y}",
        "%m/%d/%Y": "{0:%m/%d/%Y}", "%d.%m.%y": "{0:%d.%m.%y}", "%Y/%m/%d": "{0:%Y/%m/%d}", "%d %b %Y": "{0:%d} {1} {0:%Y}",
        "excel": "{2}"}
EXAMPLES = 80
MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
FILES = settings(derandomize=True, deadline=None, database=None, print_blob=False, report_multiple_bugs=False,
                 phases=[Phase.explicit, Phase.generate], suppress_health_check=list(HealthCheck))


def day_text(day, way):
    "A day in one of the ways, without any library's parser or the locale"
    return WAYS[way].format(day, MONTHS[day.month - 1], (day - pd.Timestamp("1899-12-30")).days)


def number_text(units, places, decimal, thousands):
    "The number units / 10**places, written digit by digit"
    digits = str(units).rjust(places + 1, "0")
    whole, part = (digits[:-places], digits[-places:]) if places else (digits, "")
    groups = [whole[max(0, k - 3):k] for k in range(len(whole), 0, -3)][::-1]
    return thousands.join(groups) + (decimal + part if part else "")


@st.composite
def files(draw):
    "A market, the bytes that a program might have written of it, and the options that describe the form"
    symbols = draw(st.lists(st.sampled_from(["KO", "BRK B", "000001", "NA", "Ö"]), min_size=1, max_size=3, unique=True))
    start = draw(st.dates(pd.Timestamp("2001-01-01").date(), pd.Timestamp("2022-12-01").date()))
    days = pd.bdate_range(start, periods=draw(st.integers(2, 25)))
    places = draw(st.sampled_from([0, 0, 1, 2, 3, 3, 4]))
    level = draw(st.sampled_from([150, 1000, 2_000_000])) * 10**places
    decimal = draw(st.sampled_from(".,"))
    thousands = draw(st.sampled_from(["", "", ",.".replace(decimal, ""), "'", "\u00a0", " "]))
    separator, way = draw(st.sampled_from(",;\t|")), draw(st.sampled_from(list(WAYS)))
    if separator == "," and thousands == "." and places == 0:
        thousands = ""  # between commas 1.234 is a number with a decimal point, and nothing tells otherwise
    units = {s: [draw(st.integers(level * 9 // 10, level * 11 // 10)) for _ in days] for s in symbols}
    encoding = draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "cp1252"]))
    shape = draw(st.sampled_from(["wide", "long"] + ["single"] * (len(symbols) == 1)))
    case = draw(st.sampled_from([str.lower, str.title, str.upper]))
    text = lambda v: number_text(v, places, decimal, thousands)
    if shape == "wide":
        header = [case("date"), *symbols]
        rows = [[day_text(d, way), *(text(units[s][i]) for s in symbols)] for i, d in enumerate(days)]
    else:
        names = ["date", "symbol", "close", "volume"]
        cell = lambda i, d, s: {"date": day_text(d, way), "symbol": s, "close": text(units[s][i]), "volume": str(i + 5)}
        order = [n for n in draw(st.permutations(names)) if shape == "long" or n != "symbol"]
        header = [case(n) for n in order]
        rows = [[cell(i, d, s)[n] for n in order] for s in symbols for i, d in enumerate(days)]
    rows = draw(st.permutations(rows)) if draw(st.booleans()) else rows
    quote = lambda c: f'"{c}"' if separator in c else c
    content = "\r\n".join(separator.join(map(quote, row)) for row in [header, *rows])
    values = {s: [float(number_text(u, places, ".", "")) for u in units[s]] for s in sorted(symbols)}
    form = {"decimal": decimal, "thousands": thousands.replace("\u00a0", " ") or None, "date_format": way, "encoding": encoding,
            "separator": separator, "symbols": symbols}
    return content.encode(encoding), values, days, form


def certain():
    "Two files that read in two ways, whatever the random ones are: 1 to 3 April, and 1.234"
    days = pd.bdate_range("2020-04-01", periods=3)
    rows = "".join(f"{d:%d/%m/%Y};1{i}.5\r\n" for i, d in enumerate(days))
    form = {"decimal": ".", "thousands": None, "date_format": "%d/%m/%Y", "encoding": "utf-8", "separator": ";", "symbols": ["KO"]}
    yield ("date;KO\r\n" + rows).encode(), {"KO": [10.5, 11.5, 12.5]}, days, form
    rows = "".join(f"{d:%Y-%m-%d};1,23{i}\r\n" for i, d in enumerate(days))
    yield ("date;KO\r\n" + rows).encode(), {"KO": [1.230, 1.231, 1.232]}, days, form | {"decimal": ",", "date_format": "%Y-%m-%d"}


def faithful(load, folder, examples):
    "Files load exactly, or the error names an option; with it they load exactly"
    path, counts = Path(folder) / "random.csv", {"at once": 0, "after an option": 0}

    def judge(file):
        content, values, days, form = file
        path.write_bytes(content)
        options = {}
        for _ in range(len(form)):
            try:
                bars = load(source=path, **options)
                break
            except DataError as error:
                named = [o for o in OPTION.findall(str(error)) if o in form and o not in options]
                assert named, f"{form}: no option that decides in: {error}"
                options[named[0]] = form[named[0]]
        assert bars.symbols.tolist() == list(values), form
        assert bars.sessions.equals(days.as_unit("us")), f"{form}: {days} became {bars.sessions}"
        assert (bars.close.to_numpy() == np.array(list(values.values())).T).all(), f"{form}: {bars.close} for {values}"
        counts["after an option" if options else "at once"] += 1

    for file in certain():
        judge(file)
    settings(FILES, max_examples=examples)(given(files())(judge))()
    return counts


def month_first(**options):
    "Planted: a date that could be two is taken for the American one"
    try:
        return load_bars(**options)
    except DataError as error:
        if error.rule != "ambiguous date" or "%m/%d/%Y" not in str(error):
            raise
        return load_bars(**options | {"date_format": "%m/%d/%Y"})


def comma_is_thousands(**options):
    "Planted: a comma that could be two things is taken for the American one"
    try:
        return load_bars(**options)
    except DataError as error:
        if error.rule != "ambiguous number":
            raise
        return load_bars(**options | {"decimal": "."})


def test_random_files(tmp_path, tell):
    counts = faithful(load_bars, tmp_path, EXAMPLES)
    assert min(counts.values()) > 10
    tell(f"random files, every value exact: {counts}")


@pytest.mark.parametrize("defect", [month_first, comma_is_thousands])
def test_mutants(mutants, tmp_path, defect):
    mutants.kill(25, defect.__doc__.removeprefix("Planted: "), lambda load: faithful(load, tmp_path, EXAMPLES), defect)
