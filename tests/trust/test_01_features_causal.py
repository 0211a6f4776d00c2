"""Row 1: features do not see the future. Every row x every feature, truncation, difference exactly 0."""
import warnings
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest

from hybrid_ssm.data import Bars
from hybrid_ssm.feature_set import FEATURES, compute_features, feature_names
from hybrid_ssm.features import (
    FeaturePanel,
    expanding_scale,
    fit_scaler,
    rank_panel,
    rolling_scale,
    winsorise,
)

EVERY = feature_names("all")
LONGEST = max(f.warm_up for f in FEATURES.values())


def small_panel(sessions, seed=0, gaps=True):
    "Three symbols with every input; one misses sessions, one lists late, prices stand still at times."
    rng, shape = np.random.default_rng(seed), (sessions, 3)
    frame = lambda v: pd.DataFrame(v, pd.bdate_range("2015-01-01", periods=sessions), list("ABC"))
    r = .01 * (rng.standard_t(4, shape) + rng.standard_t(4, (sessions, 1))) * (rng.random(shape) > .05)
    close = 50 * np.exp(np.cumsum(r, 0))
    open_ = close * np.exp(-r * rng.random(shape))
    high = np.maximum(open_, close) * np.exp(.004 * rng.random(shape))
    low = np.minimum(open_, close) * np.exp(-.004 * rng.random(shape))
    volume, carry = np.exp(12 + rng.normal(size=shape)), .02 * rng.normal(size=shape)
    hole = np.zeros(shape, bool)
    if gaps:
        hole[:, 1], hole[:9, 2] = rng.random(sessions) < .02, True
    o, h, l, c, v, k = (frame(np.where(hole, np.nan, a)) for a in (open_, high, low, close, volume, carry))
    return Bars(close=c, open=o, high=h, low=l, volume=v, extras={"carry": k})


def same_bits(now, later):
    "Equal to the last bit, not a number equal to not a number."
    return (now.view(np.uint32) == later.view(np.uint32)) | (np.isnan(now) & np.isnan(later))


def poison(bars, cut, kind, rng):
    "Everything from position `cut` on replaced by nonsense."
    def spoil(frame):
        later = frame.iloc[cut:]
        new = {"nan": later * np.nan, "huge": later * 0 + 1e9,
               "shuffle": later.iloc[rng.permutation(len(later))]}[kind]
        return pd.concat([frame.iloc[:cut], new.set_axis(later.index)])
    columns = {n: spoil(getattr(bars, n)) for n in ("close", "open", "high", "low", "volume")}
    return Bars(**columns, extras={k: spoil(v) for k, v in bars.extras.items()})


def guard_truncation(compute, bars, cuts=None):
    "Cut the bars after each row: what was computed before must be the same bits. Returns how many."
    whole, compared = compute(bars), 0
    seen = np.zeros(len(whole.names), bool)
    for cut in cuts if cuts is not None else range(1, len(bars.sessions)):
        now = compute(bars.upto(bars.sessions[cut - 1]))
        same = same_bits(now.values, whole.values[:cut])
        wrong = sorted({whole.names[f] for f in np.flatnonzero(~same.all((0, 1)))})
        assert not wrong, f"cut after {bars.sessions[cut - 1]:%Y-%m-%d}: {wrong} change with later rows"
        seen |= now.observed.any((0, 1))
        compared += same.size
    assert seen.all(), f"never observed, so never tested: {[n for n, s in zip(whole.names, seen) if not s]}"
    return compared


def guard_poison(compute, bars, cuts, kinds=("nan", "huge", "shuffle")):
    "Spoil the later rows: the earlier values must be the same bits."
    whole, rng = compute(bars), np.random.default_rng(0)
    for cut in cuts:
        for kind in kinds:
            same = same_bits(compute(poison(bars, cut, kind, rng)).values[:cut], whole.values[:cut])
            wrong = sorted({whole.names[f] for f in np.flatnonzero(~same.all((0, 1)))})
            assert not wrong, f"{kind} after row {cut} is seen before it by {wrong}"


def planted(function, bars, name="return_21", cross_section=False, lag=0):
    "`compute_features` with the function of one feature replaced by a defect."
    wrong = replace(FEATURES[name], function=function, cross_section=cross_section, lag=lag)
    return compute_features(bars, wrong)


def centred(series):
    return pd.Series(series.level).rolling(21, center=True).mean().to_numpy()


def whole_sample(series):
    level = pd.Series(series.level)
    return ((level - level.mean()) / level.std()).to_numpy()


def filled_from_behind(series):
    return pd.Series(series.level).shift(-1).ffill().to_numpy()


def in_spreads_of_all(returns):
    "Returns divided by their spread over the whole sample."
    return returns / np.sqrt(np.nansum(returns ** 2))


def scaled_by(until, bars):
    "Features of closes, scaled with statistics up to `until(panel)`."
    panel = compute_features(bars, ("return_21", "rsi_14"))
    values = fit_scaler(panel, until(panel)).transform(panel).values
    return FeaturePanel(values, np.isfinite(values), panel.names, panel.sessions, panel.symbols)


def groups():
    "All features, in groups of similar memory, so that each meets a panel just long enough for it."
    bounds = (0, 128, 256, LONGEST)
    warm_up = {n: f.warm_up for n, f in FEATURES.items()}
    return [tuple(n for n in EVERY if a < warm_up[n] <= b) for a, b in zip(bounds, bounds[1:])]


def random_cuts(sessions, count, seed):
    "Cut rows anywhere, and one behind the longest warm-up, so that every feature is met."
    return sorted({*np.random.default_rng(seed).integers(1, sessions, count).tolist(), sessions - 7})


def test_every_feature_at_random_rows(tell):
    bars = small_panel(LONGEST + 25)
    cuts = random_cuts(len(bars.sessions), 2, seed=8)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # nothing is masked for want of an input
        compared = guard_truncation(partial(compute_features, names=EVERY), bars, cuts)
    tell(f" {len(cuts)} cuts x {len(EVERY)} features x 3 symbols: {compared:,} values, 0 changed")


def test_poisoned_future():
    bars = small_panel(LONGEST + 25)
    guard_poison(partial(compute_features, names=EVERY), bars, (LONGEST + 10,), ("nan", "huge"))


@pytest.mark.parametrize("change", [partial(rolling_scale, sessions=63), partial(expanding_scale, least=63),
                                    partial(winsorise, least=63), rank_panel],
                         ids=["rolling", "expanding", "winsorised", "ranked"])
def test_scaling_that_goes_along(change):
    bars, names = small_panel(220), ("return_21", "rsi_14", "volume_shock_63")
    guard_truncation(lambda b: change(compute_features(b, names)), bars, range(3, 220, 24))
    guard_poison(lambda b: change(compute_features(b, names)), bars, (160, 200))


@pytest.mark.slow
@pytest.mark.parametrize("names", groups(), ids=["month", "year", "longer"])
def test_every_row_of_every_feature(names, tell):
    assert sorted(sum(groups(), ())) == sorted(EVERY)  # none is left out
    bars = small_panel(max(FEATURES[n].warm_up for n in names) + 25)
    compared = guard_truncation(partial(compute_features, names=names), bars)
    tell(f" {len(bars.sessions) - 1} cuts x {len(names)} features x 3 symbols: "
          f"{compared:,} values, 0 changed")


@pytest.mark.slow
def test_poisoned_future_at_many_rows():
    bars = small_panel(LONGEST + 25)
    guard_poison(partial(compute_features, names=EVERY), bars, (70, 150, 300, 420, LONGEST + 10))


def test_scaler_of_the_past_is_causal():
    bars = small_panel(200)
    guard_truncation(partial(scaled_by, lambda panel: bars.sessions[99]), bars, range(150, 200))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_random_rows_of_longer_panels(seed):
    bars = small_panel(1000, seed + 1)
    guard_truncation(partial(compute_features, names=EVERY), bars, random_cuts(1000, 20, seed))


def test_planted_defects(mutants):
    bars = small_panel(160)
    for name, function in (("centred rolling", centred), ("z-score of the whole sample", whole_sample),
                           ("tomorrow's price", filled_from_behind)):
        mutants.kill(1, name, partial(guard_truncation, bars=bars), partial(planted, function))
        mutants.kill(1, f"{name}, poisoned", partial(guard_poison, bars=bars, cuts=(120,)), partial(planted, function))
    for how, guard in (("", guard_truncation), (", poisoned", partial(guard_poison, cuts=(120,)))):
        mutants.kill(1, f"cross-section in spreads of the whole sample{how}", partial(guard, bars=bars),
                     partial(planted, in_spreads_of_all, cross_section=True, lag=1))
    mutants.kill(1, "rank of tomorrow", partial(guard_truncation, bars=bars),
                 lambda b: rank_panel(compute_features(b, ("return_21",)), lag=-1))
    mutants.kill(1, "scaler fitted on all rows", partial(guard_truncation, bars=bars),
                 partial(scaled_by, lambda panel: panel.sessions[-1]))
