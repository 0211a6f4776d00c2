"""Row 33: intervals cover. A Sharpe ratio, a paired difference and a difference of seeds, each against a known truth."""
from math import sqrt
from statistics import NormalDist

import numpy as np
import pytest

from hybrid_ssm.metrics import sharpe, sharpe_difference, sharpe_error

RATIO = 0.05  # the true ratio of one period
KINDS = ("iid", "AR .2", "AR .5", "GARCH")


def noise(kind, n, k, rng, before=200):
    "k histories of n returns with mean 0 and variance 1"
    shocks = rng.standard_normal((n + before, k))
    if kind == "iid":
        return shocks[before:]
    out = np.zeros_like(shocks)
    if kind == "GARCH":
        variance = np.ones(k)
        for t, z in enumerate(shocks):
            variance = 0.02 + 0.08 * out[t - 1] ** 2 + 0.9 * variance if t else variance
            out[t] = np.sqrt(variance) * z
        return out[before:]
    phi = float(kind.split()[1])
    for t in range(1, len(out)):
        out[t] = phi * out[t - 1] + shocks[t]
    return out[before:] * sqrt(1 - phi**2)


def of_a_ratio(kind, n, repetitions, estimate, rng):
    "How often the 95 % interval of a Sharpe ratio holds the truth"
    x, z = noise(kind, n, repetitions, rng) + RATIO, NormalDist().inv_cdf(0.975)
    found = [estimate(column) for column in x.T]
    return np.mean([abs(value - RATIO) < z * se for value, se in found])


def of_a_difference(kind, n, repetitions, rng):
    "The same for two strategies of equal merit that share most of their noise"
    common, *own = (noise(kind, n, repetitions, rng) for _ in range(3))
    a, b = ((common + 0.5 * e) / sqrt(1.25) + RATIO for e in own)
    found = (sharpe_difference(x, y, periods=1) for x, y in zip(a.T, b.T))
    return np.mean([d.low < 0 < d.high for d in found])


def of_seeds(count, repetitions, rng, spread=0.03, n=500):
    "The same for two networks with `count` seeds each, whose skill differs from seed to seed"
    hits = []
    for _ in range(repetitions):
        market = rng.standard_normal((n, 1))
        a, b = (list((market + 0.5 * rng.standard_normal((n, count))
                      + (RATIO + spread * rng.standard_normal(count)) * sqrt(1.25)).T) for _ in range(2))
        d = sharpe_difference(a, b, periods=1)
        hits.append(d.low < 0 < d.high)
    return np.mean(hits)


def ours(x):
    "The estimate and the error of the product"
    found = sharpe(x, periods=1)
    return found.value, found.se


def as_if_independent(x):
    "Planted: the formula for independent returns"
    z = (x - x.mean()) / x.std()
    ratio = x.mean() / x.std(ddof=1)
    return ratio, sharpe_error(ratio, (z**3).mean(), (z**4).mean(), len(x))


def covers(repetitions, sizes, kinds=KINDS, slack=0.0):
    "A guard over estimates: every cell lies in its band; `slack` for fewer repetitions"
    def guard(estimate):
        rng, shown = np.random.default_rng(33), []
        for n in sizes:
            low = 0.93 if n >= 2000 else 0.91
            for kind in kinds:
                share = of_a_ratio(kind, n, repetitions, estimate, rng)
                shown.append(f"{kind} n {n}: {share:.3f}")
                assert low - slack <= share <= 0.97 + slack, f"{kind}, n {n}: {share:.3f}"
        return "; ".join(shown)
    return guard


def test_a_ratio_is_covered(tell):
    tell(covers(400, [500], slack=0.02)(ours))


def test_the_formula_for_independent_returns_is_seen(mutants):
    mutants.kill(33, "iid formula", covers(400, [500], slack=0.02), as_if_independent)


def test_a_difference_is_covered(tell):
    rng = np.random.default_rng(34)
    shares = {kind: of_a_difference(kind, 500, 300, rng) for kind in ("iid", "AR .5")}
    tell(str(shares))
    assert all(0.89 <= share <= 0.99 for share in shares.values()), shares


def test_seeds_are_covered(tell):
    shares = {count: of_seeds(count, 200, np.random.default_rng(count)) for count in (3, 10)}
    tell(str(shares))
    assert all(0.89 <= share <= 0.99 for share in shares.values()), shares


def test_days_alone_do_not_cover_seeds(mutants):
    def guard(interval):
        rng, hits = np.random.default_rng(5), []
        for _ in range(200):
            market = rng.standard_normal((500, 1))
            skill = RATIO + 0.1 * rng.standard_normal(3)
            seeds = list((market + 0.5 * rng.standard_normal((500, 3)) + skill * sqrt(1.25)).T)
            rule = market[:, 0] + 0.5 * rng.standard_normal(500) + RATIO * sqrt(1.25)
            d = interval(seeds, rule)
            hits.append(d.low < 0 < d.high)
        assert np.mean(hits) >= 0.88, np.mean(hits)
    guard(lambda seeds, rule: sharpe_difference(seeds, rule, periods=1))
    mutants.kill(33, "days of one seed", guard, lambda seeds, rule: sharpe_difference(seeds[0], rule, periods=1))


@pytest.mark.slow
def test_every_cell_is_covered(tell):
    tell(covers(2000, [500, 2000])(ours))
    rng = np.random.default_rng(35)
    for n, low in ((500, 0.91), (2000, 0.93)):
        for kind in KINDS:
            share = of_a_difference(kind, n, 2000, rng)
            tell(f"difference, {kind} n {n}: {share:.3f}")
            assert low <= share <= 0.97, f"difference, {kind}, n {n}: {share:.3f}"
    for count in (3, 5, 10):
        share = of_seeds(count, 1000, rng)
        tell(f"{count} seeds: {share:.3f}")
        assert 0.90 <= share <= 0.98, f"{count} seeds: {share:.3f}"
