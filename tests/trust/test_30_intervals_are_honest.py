"""Row 30: intervals are honest, in drift too. 90 % hold 90 % at N = 10,000; adaptive ones hold it through a 3x break, and hear no label early."""
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm, t

from hybrid_ssm.calibration import adaptive_conformal, coverage, dependent_mean, fit_calibration
from hybrid_ssm.forecast import Forecast
from hybrid_ssm.targets import Targets

LEVEL = .9
BAND = .0077  # 2.57 standard errors of a share of .9 among 10,000 independent outcomes
MOST = 2.5758 * (LEVEL * (1 - LEVEL) / 10_000) ** .5


def market(sessions, symbols, horizon=1, volatility=1., shared=0., claimed=1., seed=0):
    "A forecast that announces t(6) with scale `claimed`, and labels of that law with scale `volatility`, some symbols absent at first"
    rng = np.random.default_rng(seed)
    day = shared**.5 * rng.standard_normal((sessions + horizon, 1)) + (1 - shared)**.5 * rng.standard_normal((sessions + horizon, symbols))
    sums = np.stack([day[k + 1:k + 1 + sessions] for k in range(horizon)]).sum(0) / horizon**.5
    df = rng.uniform(3, 30, (sessions, symbols))
    mean = .2 * rng.standard_normal((sessions, symbols))
    y = mean + np.broadcast_to(volatility, sessions)[:, None] * t.ppf(norm.cdf(sums), df)
    days, names = pd.bdate_range("2000-01-03", periods=sessions), [f"S{i}" for i in range(symbols)]
    frame = lambda v: pd.DataFrame(np.broadcast_to(v, (sessions, symbols)).copy(), days, names)
    up = rng.random(sessions)[:, None]
    said = Forecast(frame(0.), {horizon: frame(mean)}, {horizon: frame(claimed)}, {horizon: frame(df)},
                    {"regime_0": frame(up), "regime_1": frame(1 - up)})
    known = np.broadcast_to(np.arange(sessions)[:, None] + horizon, (sessions, symbols)).copy()
    known[known >= sessions] = -1
    y = np.where(known >= 0, y, np.nan)[..., None]
    return said, Targets(y, known[..., None], y, np.ones((sessions, symbols)), (horizon,), days, tuple(names))


# ---- a right law keeps what it says

def kept_by_the_law(claimed=1., seeds=range(20)):
    "Coverage of 10,000 independent outcomes per seed: not one seed in a hundred may leave the band"
    found = []
    for seed in seeds:
        said, targets = market(1001, 10, claimed=claimed, seed=seed)
        row = coverage(said, targets, [LEVEL]).frame.query("regime == 'all'").iloc[0]
        assert row["outcomes"] == 10_000
        found.append(row["actual"])
    out = (np.abs(np.array(found) - LEVEL) > BAND).sum()
    assert out <= max(1, len(found) // 25), f"{out} of {len(found)} seeds outside {LEVEL} ± {BAND}: {np.round(found, 4)}"
    assert abs(np.mean(found) - LEVEL) < MOST / len(found)**.5, f"mean {np.mean(found):.4f}"
    return np.array(found)


def test_the_band_is_a_99_percent_band():
    assert round(MOST, 4) == BAND


def test_a_right_law_holds_ninety_percent(tell):
    found = kept_by_the_law()
    tell(f"90 % interval of a right law: {found.mean():.4f} over 20 x 10,000 outcomes, largest gap {abs(found - LEVEL).max():.4f}")


@pytest.mark.slow
def test_a_right_law_at_length():
    kept_by_the_law(seeds=range(100, 400))


def error_is_honest(estimate, seeds=range(80)):
    "The announced error of a coverage is the spread it has over markets whose symbols move together and whose labels overlap"
    for horizon in (1, 10):
        said = [market(400, 6, horizon=horizon, shared=.8, seed=s) for s in seeds]
        hits = [np.where(np.isfinite(b.scaled[..., 0]), abs(b.scaled[..., 0] - a.mean[horizon]) < 1.7, np.nan) for a, b in said]
        each = [estimate(h, horizon) for h in hits]
        ratio = np.mean([e[1] for e in each]) / np.std([e[0] for e in each])
        assert .75 < ratio < 1.3, f"horizon {horizon}: announced error is {ratio:.2f} of the true one"


def ours(hits, horizon):
    e = dependent_mean(hits, horizon)
    return e.value, e.se


def test_the_error_knows_dependence():
    error_is_honest(ours)


# ---- drift

def broken(seed, horizon=1):
    "Volatility triples after the third of six blocks of 250 sessions, 10,000 outcomes each"
    return market(1500, 40, horizon=horizon, volatility=np.where(np.arange(1500) < 750, 1., 3.), shared=.3, seed=seed)


def adaptive(said, targets):
    return adaptive_conformal(said, targets, LEVEL)


def adaptive_by_regime(said, targets):
    return adaptive_conformal(said, targets, LEVEL, by_regime=True)


def static(said, targets):
    "The quantile of the first block, kept for ever"
    at_rest = adaptive_conformal(said, targets, LEVEL, rate=0.)
    half = (at_rest.upper - at_rest.lower).iloc[:250] / 2
    middle = (at_rest.upper + at_rest.lower).iloc[:250] / 2
    score = abs(targets.scaled[:250, :, 0] - middle) / half
    return adaptive_conformal(said, targets, LEVEL, rate=0., start=float(np.nanquantile(score, LEVEL)))


def holds_in_drift(method, seeds=range(3)):
    "Every block within .02 of what was announced, the one with the break included"
    blocks = np.array([method(*broken(s)).coverage(6)["actual"] for s in seeds])  # (seeds, 6)
    assert (abs(blocks - LEVEL) <= .02).all(), f"blocks: {np.round(blocks, 3).tolist()}"
    return blocks


def test_adaptive_intervals_hold_through_a_break(tell):
    blocks, at_rest = holds_in_drift(adaptive), static(*broken(0)).coverage(6)["actual"]
    assert (at_rest.iloc[3:] < .8).all() and (abs(at_rest.iloc[:3] - LEVEL) <= .02).all()
    tell(f"per block of 10,000 through a 3x break: adaptive {blocks.min():.3f} to {blocks.max():.3f}, static falls to {at_rest.min():.3f}")


def test_a_factor_for_each_regime_holds_too():
    holds_in_drift(adaptive_by_regime, range(1))


@pytest.mark.slow
def test_adaptive_intervals_at_length():
    holds_in_drift(adaptive, range(10, 60))
    holds_in_drift(adaptive_by_regime, range(10, 30))


# ---- nothing is heard early

def hears_nothing_early(method, horizons=(1, 5, 21)):
    "Labels not known by a session are poisoned or shuffled: no interval up to that session moves by one bit"
    for horizon in horizons:
        said, targets = market(160, 5, horizon=horizon, shared=.3, seed=horizon)
        whole, moved = method(said, targets, horizon), 0
        rng = np.random.default_rng(horizon)
        for cut in rng.integers(25, 130, 12):
            later = targets.known_at > cut
            for poison in (1e9, rng.permutation(targets.scaled[later]), np.nan):
                y = targets.scaled.copy()
                y[later] = poison
                part = method(said, replace(targets, scaled=y), horizon)
                for a, b in ((part.lower, whole.lower), (part.upper, whole.upper)):
                    assert np.array_equal(a.iloc[:cut + 1], b.iloc[:cut + 1], equal_nan=True), f"horizon {horizon}: row {cut} or before moved"
                moved += not np.array_equal(part.lower, whole.lower, equal_nan=True)
        assert moved > 12, "the poison is hardly felt later, so nothing is proved"


def heard_when_known(said, targets, horizon):
    return adaptive_conformal(said, targets, LEVEL, horizon, by_regime=True)


def fit_sees_nothing_late(fit, cuts=(200, 333)):
    "The factors fitted before a session do not move by one bit with labels that are known at it or later"
    for horizon in (1, 21):
        said, targets = market(400, 5, horizon=horizon, claimed=.7, seed=horizon)
        for cut in cuts:
            until, whole = said.sessions[cut], None
            for poison in (None, 1e9, -3., np.nan):
                y = targets.scaled.copy()
                if poison is not None:
                    y[targets.known_at >= cut] = poison
                fitted = fit(said, replace(targets, scaled=y), until)
                whole = whole or fitted
                assert fitted == whole, f"horizon {horizon}: labels known at {cut} or later moved the fit ({poison})"


def test_no_label_is_heard_early():
    hears_nothing_early(heard_when_known)


def test_factors_are_fitted_on_what_was_known():
    fit_sees_nothing_late(fit_calibration)


# ---- planted defects

def heard_today(said, targets, horizon):
    "Feedback from the label of the session itself"
    rows = np.arange(len(targets.sessions))[:, None, None]
    return heard_when_known(said, replace(targets, known_at=np.where(targets.known_at >= 0, rows, -1)), horizon)


def heard_tomorrow(said, targets, horizon):
    "Every label taken for known one session later, whatever its horizon"
    rows = np.arange(len(targets.sessions))[:, None, None]
    return heard_when_known(said, replace(targets, known_at=np.where(targets.known_at >= 0, rows + 1, -1)), horizon)


def fitted_by_rows(said, targets, until):
    "The rows in front of the session, with labels that look beyond it"
    return fit_calibration(said.window(None, said.sessions[said.sessions.get_loc(until) - 1]), targets)


def naive_error(hits, horizon):
    there = hits[np.isfinite(hits)]
    return there.mean(), there.std() / len(there)**.5


def by_session_only(hits, horizon):
    return ours(hits, 0)


def test_planted_defects(mutants):
    mutants.kill(30, "static quantile", holds_in_drift, static)
    mutants.kill(30, "a law 5 % too narrow", kept_by_the_law, .95)
    mutants.kill(30, "a law 5 % too wide", kept_by_the_law, 1.05)
    mutants.kill(30, "feedback from a label of today", hears_nothing_early, heard_today)
    mutants.kill(30, "every label known tomorrow", hears_nothing_early, heard_tomorrow)
    mutants.kill(30, "factors fitted by rows, not by known labels", fit_sees_nothing_late, fitted_by_rows)
    mutants.kill(30, "every outcome an experiment", error_is_honest, naive_error)
