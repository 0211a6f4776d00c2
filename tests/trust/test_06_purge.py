"""Row 6: splits are purged by label time. 1,000 random settings, 0 labels that meet what is judged."""
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest

from hybrid_ssm.splits import SplitError, apart, combinatorial_purged, holdout, usable, walk_forward


@dataclass
class Setting:
    "One random way to split one random set of labels"
    kind: str
    sessions: pd.DatetimeIndex
    known_at: np.ndarray  # (S, N): when each label became known, -1 = never
    horizon: int          # of the labels, in rows of the symbol
    options: dict


def random_labels(rng, n, horizon):
    "Symbols that miss sessions; a label ripens after `horizon` own rows, or earlier at a barrier."
    known_at = np.full((n, int(rng.integers(1, 4))), -1)
    early = rng.random() < .5
    for column in known_at.T:
        own = np.flatnonzero(rng.random(n) < rng.uniform(.5, 1))
        wait = rng.integers(1, horizon + 1, len(own)) if early else np.full(len(own), horizon)
        end = np.arange(len(own)) + wait
        column[own[end < len(own)]] = own[end[end < len(own)]]
    return known_at


def random_setting(rng):
    "Any of the four ways to split, with any embargo"
    n, horizon = int(rng.integers(150, 500)), int(rng.integers(1, 41))
    days = pd.bdate_range(f"{rng.integers(1990, 2015)}-{rng.integers(1, 13):02}-01", periods=n)
    kind = str(rng.choice(["expanding", "rolling", "holdout", "combinatorial"]))
    embargo, share = int(rng.integers(0, 41)), float(rng.uniform(.05, .5))
    first = days[int(n * rng.uniform(.3, .8))]
    walk = dict(test_start=first, test_end=days[-1], years=int(rng.integers(1, 3)), embargo=embargo, valid_fraction=share, min_train=30)
    options = {"expanding": walk, "rolling": walk | {"train_sessions": int(rng.integers(20, n // 3))},
               "holdout": {"valid_fraction": share},
               "combinatorial": {"groups": int(rng.integers(3, 11)), "tested": int(rng.integers(1, 4)), "embargo": embargo}}
    return Setting(kind, days, random_labels(rng, n, horizon), horizon, options[kind])


def by_time(setting):
    "What the room does: labels are judged by the session at which they were known"
    return setting.known_at


def lay(setting, believed, clear=apart):
    "(labels that teach, positions that are judged) of each seam of each fold, purged by `believed`"
    if setting.kind == "combinatorial":
        folds = combinatorial_purged(setting.sessions, setting.known_at, **setting.options)
        runs = lambda f: [(r[0], r[-1]) for r in np.split(f.test, np.flatnonzero(np.diff(f.test) != 1) + 1)]
        return [(clear(believed, runs(f), f.embargo), f.test) for f in folds]
    folds = [holdout(setting.sessions, **setting.options)] if setting.kind == "holdout" else \
        walk_forward(setting.sessions, **setting.options)
    seams = []
    for f in folds:
        for part, until, judged in ((f.train, f.train_until, np.concatenate([f.valid, f.test])), (f.valid, f.valid_until, f.test)):
            teaches = np.zeros(setting.known_at.shape, bool)
            teaches[part] = usable(believed, part, until)
            seams.append((teaches & (setting.known_at >= 0), judged))
    return seams


def meetings(known_at, teaches, judged):
    "Labels that teach and watch a session which a judged label watches: counted over sessions, without any deadline"
    steps = np.zeros(len(known_at) + 1)
    for column in known_at.T:
        rows = judged[column[judged] >= 0]
        np.add.at(steps, rows, 1), np.add.at(steps, column[rows] + 1, -1)
    watched = np.cumsum(steps)[:-1] > 0
    watched[judged] = True
    before = np.r_[0, np.cumsum(watched)]
    row, column = np.nonzero(teaches)
    return int((before[known_at[row, column] + 1] > before[row]).sum())


def check(lay, believe, count, seed=0, demand=True):
    "No label that teaches meets what is judged. Returns settings, seams and labels that taught."
    rng, done, seams, taught = np.random.default_rng(seed), 0, 0, 0
    while done < count:
        setting = random_setting(rng)
        try:
            laid = lay(setting, believe(setting))
        except SplitError:  # too short for what was asked: refused, with the numbers
            continue
        for teaches, judged in laid:
            met = meetings(setting.known_at, teaches, judged)
            assert not met, f"{setting.kind} {setting.options}: {met} labels meet what is judged"
            taught += int(teaches.sum())
        done, seams = done + 1, seams + len(laid)
    assert not demand or taught > 100 * count, "hardly a label teaches, so nothing is proved"
    return done, seams, taught


def test_a_thousand_settings(tell):
    done, seams, taught = check(lay, by_time, 1000)
    tell(f" {done:,} settings, {seams:,} seams, {taught:,} labels that teach, 0 overlaps")


def test_the_embargo_is_kept():
    rng, seen = np.random.default_rng(3), 0
    while seen < 100:
        s = random_setting(rng)
        if s.kind == "holdout":
            continue
        try:
            laid = walk_forward(s.sessions, **s.options) if s.kind != "combinatorial" else \
                combinatorial_purged(s.sessions, s.known_at, **s.options)
        except SplitError:
            continue
        seen, embargo = seen + 1, s.options["embargo"]
        for f in laid:
            if s.kind != "combinatorial":
                assert f.test[0] - f.valid[-1] - 1 == embargo
            else:
                assert not set(f.train) & {t + k for t in f.test for k in range(embargo + 1)}


@pytest.mark.slow
def test_ten_thousand_settings():
    check(lay, by_time, 10_000, seed=1)


# ---- planted defects

def by_row_count(setting):
    "Known so many rows of the calendar later, as most libraries count"
    rows = np.arange(len(setting.sessions))[:, None]
    return np.where(setting.known_at >= 0, rows + setting.horizon, -1)


def not_at_all(setting):
    return np.where(setting.known_at >= 0, np.arange(len(setting.sessions))[:, None], -1)


def one_sided(known_at, blocks, embargo):
    "Purged in front of a judged block and forgotten behind it"
    rows = np.arange(len(known_at))[:, None]
    keep = known_at >= 0
    for first, last in blocks:
        keep &= (known_at < first) | (rows > last)
    return keep


def test_planted_defects(mutants):
    mutants.kill(6, "purge by row count", lambda believe: check(lay, believe, 50), by_row_count)
    mutants.kill(6, "no purge", lambda believe: check(lay, believe, 50), not_at_all)
    mutants.kill(6, "purge in front of the block only",
                 lambda clear: check(lambda s, b: lay(s, b, clear), by_time, 50), one_sided)
