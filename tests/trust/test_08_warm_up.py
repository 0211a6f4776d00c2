"""Row 8: warm-up is declared. From its last `warm_up` rows a window gives the same bits as from all of history."""
import warnings
from dataclasses import replace
from functools import partial
from itertools import groupby

import numpy as np
import pytest
from test_01_features_causal import small_panel

from hybrid_ssm.feature_set import FEATURES, compute_features, find_features, live_features

EVERY = find_features("all")
ENDLESS = tuple(f for f in EVERY if f.tolerance == np.inf)  # parameters refitted on all of the past
FINITE = tuple(f for f in EVERY if f not in ENDLESS)
LONGEST = max(f.warm_up for f in EVERY)


def in_float64(bars, features):
    "Features before they are rounded."
    return compute_features(bars, features, np.float64)


def by_warm_up(features):
    "(warm-up, features that declare it)"
    key = lambda f: f.warm_up
    return [(rows, tuple(group)) for rows, group in groupby(sorted(features, key=key), key)]


def last_rows(bars, rows, end):
    "The last `rows` sessions before position `end`."
    return bars.window(bars.sessions[end - rows], bars.sessions[end - 1])


def guard_first_value(whole, features):
    "Without gaps the first value of each symbol stands exactly at the declared row."
    seen = whole.observed
    for k, f in enumerate(features):
        first = np.where(seen[..., k].any(0), seen[..., k].argmax(0) + 1, 0)
        assert set(first) == {f.warm_up}, f"{f.name}: first value in rows {first}"


def guard_memory(bars, features, ends, whole=None):
    "From the declared rows alone: the value of all history, within what is declared. Returns the furthest."
    whole, furthest = whole or in_float64(bars, features), dict.fromkeys((f.name for f in features), 0.0)
    for rows, group in by_warm_up(features):
        for end in ends:
            for f in group:  # held features: begin on one of the steps of the panel
                aligned = end - (end - rows) % f.step
                now = in_float64(last_rows(bars, rows, aligned), f).values[-1, :, 0]
                then = whole.frame(f.name).to_numpy()[aligned - 1]
                assert np.isfinite(now).all(), f"{f.name} is not known from its {rows} rows"
                moved = furthest[f.name] = max(furthest[f.name], np.abs(now - then).max())
                assert moved <= f.tolerance, f"{f.name} moves by {moved:.1e}, declared {f.tolerance}"
    return furthest


def guard_doubled_history(bars, features, start):
    "History before `start` exchanged for twice as much of another kind: windows behind it keep their bits."
    whole, other = in_float64(bars.window(bars.sessions[start]), features), in_float64(bars, features)
    for k, f in enumerate(features):
        safe = f.warm_up - 1
        a, b = whole.values[safe:, :, k], other.values[start + safe:, :, k]
        moved = np.nanmax(np.abs(a - b), initial=0.0)
        assert (np.isnan(a) == np.isnan(b)).all() and moved <= f.tolerance, f"{f.name} moves by {moved}"


def guard_memory_of_each(bars, whole, change):
    "The memory of every feature under changed metadata; red only if it is red for each of them."
    caught, asked = 0, [f for f in FINITE if f.warm_up > 1]
    for f in asked:
        try:
            guard_memory(bars, (replace(f, **change(f)),), (len(bars.sessions),), whole)
        except AssertionError:
            caught += 1
    assert caught < len(asked), f"all of {len(asked)} features fail"


@pytest.fixture(scope="module")
def smooth():
    "Bars without a gap, and everything computed from all of them."
    bars = small_panel(LONGEST + 61, gaps=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # nothing is masked for want of an input
        return bars, in_float64(bars, EVERY)


def test_first_value_and_memory(smooth, tell):
    bars, whole = smooth
    guard_first_value(whole, EVERY)
    furthest = guard_memory(bars, FINITE, (len(bars.sessions),), whole)
    exact = sum(moved == 0 for moved in furthest.values())
    tell(f" {len(EVERY)} features: first value where declared; {exact} exactly their window, "
          f"{len(FINITE) - exact} within their tolerance, {len(ENDLESS)} refitted on all of the past")


def test_metadata_are_complete():
    for f in EVERY:
        assert f.warm_up >= 1 and f.memory >= f.warm_up and f.lag == int(f.cross_section) and f.source and f.meaning
        assert f.tolerance == 0 or np.isfinite(f.tolerance) or f.cross_section, f"{f.name}: an endless memory of its own"


def live_equals_batch(features, bars, bars_live):
    "Furthest distance of the live form from the batch, relative to what each feature may do."
    batch, cut = in_float64(bars, features), len(bars.sessions) - bars_live
    live, furthest = live_features(features, bars.symbols, bars.upto(bars.sessions[cut - 1])), np.zeros(len(features))
    for t in range(cut, len(bars.sessions)):
        now = live.update(bars.window(bars.sessions[t], bars.sessions[t]))
        unknown = np.isnan(now) != np.isnan(batch.values[t])
        assert not unknown.any(), f"{[n for n, u in zip(live.names, unknown.any(0)) if u]} known in one form only"
        away = np.nan_to_num(np.abs(now - batch.values[t]) / np.maximum(1, np.abs(batch.values[t])))
        furthest = np.maximum(furthest, away.max(0))
    allowed = [max(1e-9, f.tolerance if np.isfinite(f.tolerance) else 0.0) for f in features]
    wrong = {n: d for n, d, limit in zip(live.names, furthest, allowed) if d > limit}
    assert not wrong, f"live and batch differ: {wrong}"
    return furthest


def test_live_equals_batch(tell):
    furthest = live_equals_batch(FINITE, small_panel(LONGEST + 30), 6)
    tell(f" 6 bars x {len(FINITE)} features: {(furthest == 0).sum()} live with the same bits, "
          f"{(furthest <= 1e-9).sum()} within 1e-9, "
          f"furthest {FINITE[furthest.argmax()].name} {furthest.max():.0e}")


@pytest.mark.slow
def test_live_equals_batch_for_longer():
    live_equals_batch(EVERY, small_panel(LONGEST + 90, seed=3), 25)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_memory_at_many_ends(seed):
    bars = small_panel(2 * LONGEST + 60, seed + 1, gaps=False)
    guard_memory(bars, FINITE, range(LONGEST, len(bars.sessions), 67))
    guard_doubled_history(bars, FINITE, 60 * (LONGEST // 60))


def test_planted_defects(smooth, mutants):
    bars, whole = smooth
    halved = lambda f: {"warm_up": f.warm_up // 2}
    mutants.kill(8, "min_history halved, every feature", partial(guard_memory_of_each, bars, whole), halved)
    for name in ("rsi_14", "macd_8_24", "market_beta_126", "adx_14"):
        def guard(change, name=name):
            guard_memory(bars, (replace(FEATURES[name], **change),), (len(bars.sessions),), whole)
        mutants.kill(8, f"min_history of {name} halved", guard, {"warm_up": FEATURES[name].warm_up // 2})

    def forgetful(name):
        live_equals_batch((replace(FEATURES[name], memory=FEATURES[name].memory // 2),), small_panel(400), 5)
    mutants.kill(8, "live form keeps half of the rows", forgetful, "macd_8_24")
