"""Row 25: two faults in one bar. Whatever else is wrong with a cell, and whatever is accepted, a rule that refuses does refuse."""
from itertools import combinations

import numpy as np
import pandas as pd

from hybrid_ssm.checks import Checks, _findings, checked, validate
from hybrid_ssm.data import Bars, DataError

DAYS = pd.bdate_range("2019-01-02", periods=30)
ROW = 20
PRICES = ("open", "high", "low", "close")


def market():
    "A symbol with a quiet range in every session, and another one beside it"
    rng = np.random.default_rng(5)
    close = 100 * np.exp(np.cumsum(rng.normal(0, 0.01, (30, 2)), axis=0))
    cells = dict(close=close, open=close * 0.999, high=close * 1.01, low=close * 0.99, volume=np.full((30, 2), 1e6))
    return {n: pd.DataFrame(v, DAYS, ["A", "B"]) for n, v in cells.items()}


def plants():
    "(column, value): what can be written into one cell of a bar whose close is about 100"
    values = (np.inf, -3.0, 0.2, 50.0, 200.0, 4e4)
    return [(n, v) for n in PRICES for v in values] + [("volume", v) for v in (-1.0, -np.inf)]


def referee(tables, accept):
    "The refused rules of the bar, cell by cell, in plain Python: set of (column, rule)"
    o, h, low, c = (float(tables[n].iat[ROW, 0]) for n in PRICES)
    v, before = float(tables["volume"].iat[ROW, 0]), float(tables["close"].iat[ROW - 1, 0])
    found = set()
    for name, x in zip(PRICES, (o, h, low, c)):
        if x in (np.inf, -np.inf):
            found.add((name, "infinite value"))
        elif x <= 0:
            found.add((name, "price not positive"))
    if abs(v) == np.inf:
        found.add(("volume", "infinite value"))
    if v < 0:
        found.add(("volume", "negative volume"))
    if 0 < c < np.inf and not 1 / 80 <= c / before <= 80:
        found.add(("close", "100x jump"))
    top, bottom = (h if abs(h) < np.inf else None), (low if abs(low) < np.inf else None)
    crossed = top is not None and bottom is not None and top < bottom
    if crossed:
        found.add(("high", "high below low"))
    if crossed and "high below low" in accept:
        top, bottom, crossed = bottom, top, False
    for name, x in (("open", o), ("close", c)):
        if abs(x) < np.inf and not crossed and ((top is not None and x > top) or (bottom is not None and x < bottom)):
            found.add((name, "outside low and high"))
    return {(n, r) for n, r in found if r not in accept}


def guard(judge):
    "All pairs of plants, nothing accepted or one of the rules that fire"
    count = 0
    for (n1, v1), (n2, v2) in combinations(plants(), 2):
        if n1 == n2:
            continue
        tables = market()
        for name, value in ((n1, v1), (n2, v2)):
            tables[name].iat[ROW, 0] = value
        bars = Bars(**tables)
        for accept in [(), *[(r,) for r in sorted({r for _, r in referee(tables, ())})]]:
            expected = {n for n, _ in referee(tables, accept)}
            found = {f.column for f in judge(bars, accept=list(accept)) if f.session == DAYS[ROW]}
            assert found == expected, f"{n1}={v1}, {n2}={v2}, accept={accept}: {sorted(expected)} became {sorted(found)}"
            count += 1
    return count


def first_rule_only(bars, accept):
    "Planted: the first rule of each cell hides all others"
    checks = Checks(accept=accept)
    return [f for f in _findings(bars, checks, False, rank=lambda f: 0) if checks.refuses(f.rule)]


def test_a_refused_rule_is_never_hidden(tell):
    tell(f"{guard(validate)} judgements of two faults in one bar")


def test_mutants(mutants):
    mutants.kill(25, "first_rule_only", guard, first_rule_only)


def test_what_is_repaired_is_sound():
    "After a repair nothing is left that refuses; a bar of 1.0 under a low of 130 does not load"
    tables = market()
    tables["high"].iat[ROW, 0], tables["low"].iat[ROW, 0] = 1.0, 130.0
    found = [(f.column, f.rule) for f in validate(Bars(**tables))]
    assert found == [("high", "high below low")]
    try:  # without this high there still is a low above the close
        checked(Bars(**tables), repair={"high below low": "mask"})
        raise AssertionError("a low of 130 under a close of 100 was let pass")
    except DataError as error:
        assert {f.rule for f in error.failures} == {"outside low and high"}
    for mode in ("mask", "drop", {"high below low": "drop"}):
        repaired = checked(Bars(**tables), repair=mode)
        assert validate(repaired) == [] and not repaired.high.iat[ROW, 0] == 1.0
    for n1, v1 in plants()[::5]:
        for n2, v2 in plants()[1::7]:
            tables = market()
            tables[n1].iat[ROW, 0] = v1
            tables[n2].iat[ROW, 0] = v2
            for mode in ("mask", "drop"):
                try:
                    repaired = checked(Bars(**tables), repair=mode)
                except DataError:
                    continue
                assert validate(repaired) == [], (n1, v1, n2, v2, mode)
