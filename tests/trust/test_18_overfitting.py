"""Row 18: PBO and SPA are calibrated. On noise the best of one half is as good as any in the other, and SPA rejects as often as it says."""
from itertools import combinations

import arch.bootstrap
import numpy as np
import pandas as pd
import pytest

from hybrid_ssm.inference import probability_of_overfitting, step_m, superior_predictive_ability
from hybrid_ssm.metrics import MetricError


def noise(rows, variants, rng):
    "Variants that share a market, and have no merit"
    return 0.7 * rng.standard_normal((rows, 1)) + rng.standard_normal((rows, variants))


def halves(x, blocks, judge):
    "PBO the slow way; `judge` says in which half the chosen variant is ranked"
    parts, low = np.array_split(x, blocks), []
    for some in combinations(range(blocks), blocks // 2):
        inside = np.concatenate([parts[i] for i in some])
        outside = np.concatenate([parts[i] for i in range(blocks) if i not in some])
        chosen = (inside.mean(0) / inside.std(0)).argmax()
        other = {"out": outside, "in": inside}[judge]
        ratio = other.mean(0) / other.std(0)
        low.append((ratio < ratio[chosen]).sum() + 1 <= (x.shape[1] + 1) / 2)
    return np.mean(low)


def overfitting_of_noise(tables, rows, variants, blocks):
    "A guard over implementations: PBO of noise is near one half on average"
    def guard(implementation):
        rng = np.random.default_rng(18)
        mean = np.mean([implementation(noise(rows, variants, rng), blocks) for _ in range(tables)])
        assert 0.42 <= mean <= 0.60, f"mean PBO of noise {mean:.3f}"
        return mean
    return guard


def ours(x, blocks):
    "The product"
    return probability_of_overfitting(x, blocks).value


def test_noise_is_overfitted_half_of_the_time(tell):
    tell(f"mean PBO of noise {overfitting_of_noise(150, 160, 20, 8)(ours):.3f}")


def test_swapped_samples_are_seen(mutants):
    # exchanging the halves everywhere changes nothing, since each half is also the other half of some way:
    # the defect is to judge the choice in the sample that it was made in
    guard = overfitting_of_noise(20, 80, 12, 4)
    guard(lambda x, blocks: halves(x, blocks, "out"))
    mutants.kill(18, "in- and out-of-sample swapped", guard, lambda x, blocks: halves(x, blocks, "in"))


def test_the_fast_form_equals_the_slow_one(mutants):
    def guard(implementation):
        rng = np.random.default_rng(1)
        for rows, variants in ((160, 10), (167, 11), (200, 15)):
            x = noise(rows, variants, rng) + np.linspace(0, 0.2, variants)
            assert abs(implementation(x, 6) - halves(x, 6, "out")) < 1e-12
    guard(ours)
    mutants.kill(18, "rows that fill no block left out", guard, lambda x, blocks: ours(x[: len(x) // blocks * blocks], blocks))


def test_merit_is_told_from_noise():
    x = noise(320, 12, np.random.default_rng(2))
    x[:, 3] += 0.5
    assert ours(x, 8) < 0.05


@pytest.mark.parametrize("table, text", [
    (np.ones((400, 9)), "9 variants: at least 10"),
    (np.random.default_rng(0).standard_normal((159, 12)), "159 rows of returns are too few: 160"),
    (np.full((400, 12), np.nan), "is nan"),
    (np.full((400, 12), np.inf), "is inf"),
    (np.ones((400, 12)), "does not vary"),
    (pd.DataFrame(np.random.default_rng(0).standard_normal((400, 12)), columns=["a"] * 12), "two variants are called 'a'"),
])
def test_what_cannot_be_ranked_is_refused(table, text):
    with pytest.raises(MetricError, match=text):
        probability_of_overfitting(table)


def size_of(nulls, rows, variants, repetitions, low, high):
    "A guard over tests: how often 5 % are reached where no variant has merit"
    def guard(p_value):
        rng = np.random.default_rng(181)
        found = [p_value(noise(rows, variants, rng), repetitions, seed) for seed in range(nulls)]
        share = np.mean(np.array(found) < 0.05)
        assert low <= share <= high, f"size {share:.3f} on {nulls} nulls"
        return share
    return guard


def spa(x, repetitions, seed):
    "The product"
    return superior_predictive_ability(x, block=5, repetitions=repetitions, seed=seed).p_value


def best_alone(x, repetitions, seed):
    "Planted: the best variant is tested as if it had been the only one"
    best = (x.mean(0) / x.std(0)).argmax()
    return superior_predictive_ability(x[:, [best]], block=5, repetitions=repetitions, seed=seed).p_value


def test_the_size_is_what_it_says(tell):
    tell(f"SPA rejects {size_of(200, 120, 6, 119, 0.01, 0.10)(spa):.1%} of 200 nulls at 5 %")


def test_choosing_first_is_seen(mutants):
    mutants.kill(18, "the best tested alone", size_of(60, 120, 8, 119, 0.0, 0.12), best_alone)


def test_it_is_the_test_of_arch():
    rng = np.random.default_rng(3)
    for seed in range(3):
        x = noise(150, 6, rng) + [0.2, 0, 0, -0.3, 0, 0.1]
        theirs = arch.bootstrap.SPA(np.zeros(150), -x, reps=100, seed=seed)
        theirs.compute()
        mine = superior_predictive_ability(x, repetitions=100, seed=seed, studentize=False)
        assert [mine.lower, mine.p_value, mine.upper] == list(theirs.pvalues)
        steps = arch.bootstrap.StepM(np.zeros(150), -x, reps=100, seed=seed)
        steps.compute()
        assert step_m(x, repetitions=100, seed=seed, studentize=False) == steps.superior_models


def test_all_may_be_better(mutants):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((400, 3)) * [1, 0.3, 0.3] + [0.9, 0.06, 0.06]  # all are, and not all at the first step

    def guard(implementation):
        try:
            named = implementation(x)
        except ValueError as error:
            raise AssertionError(f"fails where every variant is better: {error}") from error
        assert named == [0, 1, 2]

    def plain(x):
        "Planted: StepM of arch 8.0.0, which asks for the largest of no variant"
        found = arch.bootstrap.StepM(np.zeros(len(x)), -x, reps=200, seed=0)
        found.compute()
        return found.superior_models

    guard(lambda x: step_m(x, repetitions=200, seed=0, studentize=False))
    if arch.__version__ == "8.0.0":
        mutants.kill(18, "no guard for all selected", guard, plain)


@pytest.mark.slow
def test_both_are_calibrated_at_full_size(tell):
    tell(f"mean PBO of noise {overfitting_of_noise(60, 640, 30, 12)(ours):.3f}")
    tell(f"SPA rejects {size_of(400, 500, 20, 299, 0.022, 0.078)(spa):.1%} of 400 nulls of 500 rows, 20 variants at 5 %")
