"""Row 30, of several seeds: a forecast that keeps its members means their mixture wherever it goes, and a plain one is left alone.

`USES` names every function of the package that answers from a forecast's distribution. Each is compared with an independent
calculation from the members; then the members are dropped, and each must notice.
"""
import inspect
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t as student

import hybrid_ssm.calibration as calibration
import hybrid_ssm.forecast as forecast_module
import hybrid_ssm.outlook as outlook
from hybrid_ssm.calibration import Calibration
from hybrid_ssm.data import DataError
from hybrid_ssm.forecast import (
    Forecast,
    MixtureForecast,
    average_forecasts,
    concat_forecasts,
    read_forecast,
)
from hybrid_ssm.risk import signal
from hybrid_ssm.synthetic import factor_market
from hybrid_ssm.targets import forward_targets

SESSIONS, SYMBOLS = 160, 2


@pytest.fixture(scope="module")
def case():
    "A market, its labels, two members that disagree, and their mixture"
    bars = factor_market(SESSIONS, SYMBOLS, seed=1).bars
    rng, flat = np.random.default_rng(0), bars.close * 0
    def member(mean, scale, df):
        mu = {h: flat + mean + .2 * rng.standard_normal(flat.shape) for h in (1, 5)}
        return Forecast(flat + np.sign(mean), mu, dict.fromkeys(mu, flat + scale), dict.fromkeys(mu, flat + df), {"regime_0": flat + 1})
    members = member(.8, .3, 4.), member(-.4, 1.2, 9.)
    return SimpleNamespace(bars=bars, targets=forward_targets(bars, (1, 5)), members=members, mixture=mixed(members))


def mixed(members):
    return MixtureForecast(**vars(average_forecasts(members)), members=tuple(members))


def laws(members, h=1):
    "Location, scale and degrees of freedom, each (member, session, symbol)"
    return [np.stack([getattr(m, q)[h].to_numpy() for m in members]) for q in ("mean", "scale", "df")]


def cdf(members, x, h=1):
    mean, scale, df = laws(members, h)
    return student.cdf(x, df, mean, scale).mean(0)


def outcome(case, h=1):
    return case.targets.scaled[..., case.targets.horizons.index(h)]


def scores(case, members):
    "Mean log score and Brier score by textbook formulas"
    y, (mean, scale, df) = outcome(case), laws(members)
    known = np.isfinite(y)
    log = -np.log(student.pdf(y, df, mean, scale).mean(0))[known].mean()
    brier = ((1 - cdf(members, 0.) - (y > 0)) ** 2)[known].mean()
    return log, brier


def quantile_spread(members, found, level):
    "Ends of an interval hold what they announce"
    return np.allclose(cdf(members, found[1]) - cdf(members, found[0]), level, atol=1e-9)


def apply(case, f):
    "The factors reach each member"
    out = Calibration({1: 1.5, 5: 1.}, {1: .5, 5: 1.}).apply(f)
    right = mixed([replace(m, mean=m.mean | {1: .5 * m.mean[1]}, scale=m.scale | {1: 1.5 * m.scale[1]}) for m in case.members])
    return np.allclose(out.direction(), right.direction()) and np.allclose(out.scale[1], right.scale[1]) and same_mixture(out, right)


def same_mixture(a, b):
    x = b.position * 0 + .3
    return isinstance(a, MixtureForecast) and all(np.array_equal(a.cdf(x, h), b.cdf(x, h)) for h in b.horizons)


def fit(case, f):
    "The factors are where the likelihood of the mixture is highest"
    s = calibration.fit_calibration(f, case.targets, min_outcomes=50)
    y, (mean, scale, df) = outcome(case), laws(case.members)
    loss = lambda a, b: -np.nanmean(np.log(student.pdf(y, df, b * mean, a * scale).mean(0)))
    at = s.scale[1], s.shrink[1]
    near = [loss(at[0] * k, np.clip(at[1] + d, 0, 1)) for k, d in ((1.02, 0), (.98, 0), (1, .02), (1, -.02))]
    return loss(*at) <= min(near) + 1e-9 and np.isfinite(s.error[1])


def conformal(case, f):
    found = calibration.adaptive_conformal(f, case.targets, .8, rate=0.)
    return quantile_spread(case.members, (found.lower, found.upper), .8)


def score_table(case, f):
    found = calibration.score_table(f, case.targets).estimates
    log, brier = scores(case, case.members)
    same = found[1, "Brier"].value == calibration.reliability(f, case.targets).brier.value
    return same and np.allclose([found[1, "log score"].value, found[1, "Brier"].value], (log, brier)) and crps(case, found)


def crps(case, found):
    "The score by its definition, an integral"
    y, grid = outcome(case), np.linspace(-30, 30, 6001)
    each = []
    for s, i in np.argwhere(np.isfinite(y)):
        mean, scale, df = (a[:, s, i, None] for a in laws(case.members))
        each.append(((student.cdf(grid, df, mean, scale).mean(0) - (grid >= y[s, i])) ** 2).sum() * .01)
    return abs(found[1, "CRPS"].value - np.mean(each)) < 1e-3


def pooled_returns(case, f):
    converted = outlook.in_returns(f, case.bars)
    plain = outlook.in_returns(list(case.members), case.bars)
    same = [np.array_equal(a, b, equal_nan=True) for a, b in ((converted.probability(.02), plain.probability(.02)), (converted.es(), plain.es()))]
    return all(same) and len(converted.members) == 2


def parquet(case, f, folder):
    return same_mixture(read_forecast(f.to_parquet(folder / "f.parquet")), case.mixture)


def joined(case, f):
    day = f.sessions[80]
    return same_mixture(concat_forecasts([f.window(end=f.sessions[79]), f.window(day)]), case.mixture)


def parts(case, f):
    return all(np.array_equal(a, b) for a, b in zip(forecast_module.uncertainty_parts([f]), forecast_module.uncertainty_parts(case.members)))


def sharp(case, f):
    low, high = (forecast_module.mixture_quantile(case.members, q) for q in (.1, .9))
    mean, scale, df = laws(case.members)
    sd = np.sqrt((scale**2 * df / (df - 2)).mean(0) + mean.var(0)).mean()
    return np.allclose(calibration.sharpness(f, .8).loc[1], [(high - low).mean(axis=None), sd])


def pit(case, f):
    return np.allclose(calibration.pit(f, case.targets), cdf(case.members, outcome(case)), equal_nan=True)


def covered(case, f):
    hit = np.abs(2 * cdf(case.members, outcome(case)) - 1) <= .5
    found = calibration.coverage(f, case.targets, [.5], [1]).frame
    return np.isclose(found["actual"][0], hit[np.isfinite(outcome(case))].mean())


def portfolio(case, f):
    "Its Student-t has the moments of the members"
    return all(np.array_equal(*(getattr(outlook.portfolio_outlook(x, {"S00": 1.}, case.bars), q) for x in (f, list(case.members))), equal_nan=True) for q in ("mean", "scale"))


VALUES = lambda case: case.mixture.position * 0 + .3
USES = {  # function -> check, True where it answers for the mixture of the members
    "Forecast.direction": lambda c, f, d: np.allclose(f.direction(), 1 - cdf(c.members, 0.)),
    "Forecast.magnitude": lambda c, f, d: np.allclose(f.magnitude(), np.mean([m.magnitude() for m in c.members], axis=0)),
    "Forecast.window": lambda c, f, d: same_mixture(f.window(), c.mixture),
    "Forecast.to_parquet": parquet,
    "read_forecast": parquet,
    "members_of": lambda c, f, d: forecast_module.members_of(f) == c.members,
    "concat_forecasts": lambda c, f, d: joined(c, f),
    "match_regimes": lambda c, f, d: same_mixture(forecast_module.match_regimes(c.members[0], f), c.mixture),
    "uncertainty_parts": lambda c, f, d: parts(c, f),
    "mixture_cdf": lambda c, f, d: np.allclose(forecast_module.mixture_cdf([f], VALUES(c)), cdf(c.members, .3)),
    "mixture_quantile": lambda c, f, d: np.allclose(cdf(c.members, forecast_module.mixture_quantile([f], .1)), .1),
    "in_returns": lambda c, f, d: pooled_returns(c, f),
    "pit": lambda c, f, d: pit(c, f),
    "coverage": lambda c, f, d: covered(c, f),
    "reliability": lambda c, f, d: np.isclose(calibration.reliability(f, c.targets).brier.value, scores(c, c.members)[1]),
    "sharpness": lambda c, f, d: sharp(c, f),
    "score_table": lambda c, f, d: score_table(c, f),
    "Calibration.apply": lambda c, f, d: apply(c, f),
    "fit_calibration": lambda c, f, d: fit(c, f),
    "adaptive_conformal": lambda c, f, d: conformal(c, f),
    "signal": lambda c, f, d: np.allclose(signal(f, "law"), 1 - 2 * cdf(c.members, 0.)),
}
MOMENTS = {  # these need no more than position, regimes, mean and variance, which the average has too
    "Forecast.uncertainty", "Forecast.plot", "average_forecasts", "outcomes", "dominant_regime", "portfolio_outlook", "coverage_of",
}


@pytest.mark.parametrize("use", USES)
def test_the_mixture_is_meant(case, use, tmp_path, mutants):
    guard = lambda f: _demand(USES[use](case, f, tmp_path), use)
    guard(case.mixture)
    mutants.kill(30, f"{use} without the members", guard, average_forecasts(case.members))


def _demand(held, use):
    assert held, f"{use} does not answer for the mixture of the members"


def test_moments_are_those_of_the_members(case):
    assert portfolio(case, case.mixture)
    with pytest.raises(DataError, match="is not that of the members"):
        replace(case.mixture, scale={h: 2 * s for h, s in case.mixture.scale.items()})


def missing(known):
    "Public functions of the three modules that take a forecast and that nobody has judged"
    wanted = {f"Forecast.{n}" for n, m in vars(Forecast).items() if inspect.isfunction(m) and n[0] != "_"}
    for module in (forecast_module, outlook, calibration):
        for name, thing in inspect.getmembers(module, inspect.isfunction):
            if thing.__module__ == module.__name__ and name[0] != "_" and "Forecast" in str(inspect.signature(thing)):
                wanted.add(name)
    return wanted - set(known) - {"read_return_forecast"}  # which reads what is in returns


def test_every_function_is_judged(mutants):
    def guard(known):
        assert not missing(known), f"say what a mixture means in {missing(known)}"

    guard({*USES, *MOMENTS})
    mutants.kill(30, "a function that takes a forecast, not judged", guard, {*USES, *MOMENTS} - {"sharpness"})


def test_a_file_of_a_plain_forecast_is_as_before(case, tmp_path):
    plain = case.members[0]
    path = plain.to_parquet(tmp_path / "f.parquet")
    assert not [c for c in pd.read_parquet(path) if c.startswith("member")]
    assert type(read_forecast(path)) is Forecast


def test_twelve_members_keep_their_order(case, tmp_path):
    many = mixed([replace(case.members[0], mean={h: m + k for h, m in case.members[0].mean.items()}) for k in range(12)])
    again = read_forecast(many.to_parquet(tmp_path / "f.parquet"))
    assert all(np.array_equal(a.mean[1], b.mean[1]) for a, b in zip(many.members, again.members))
