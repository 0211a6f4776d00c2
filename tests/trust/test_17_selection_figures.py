"""Row 17: figures of selection are right. PSR, DSR, MinTRL, MinBTL and the expected maximum against published values."""
import numpy as np
import pytest

from hybrid_ssm.inference import (
    SharpeMoments,
    deflated_sharpe,
    expected_maximum,
    min_backtest_length,
    min_track_record,
    probabilistic_sharpe,
)
from hybrid_ssm.metrics import MetricError

BEST = SharpeMoments(2.5 / 250**0.5, 1250, skew=-3.0, kurtosis=10.0, periods=250)
FUND = SharpeMoments(0.036 / 0.079, 24, skew=-2.448, kurtosis=10.164, periods=12)
PSR = {("observed", "T-1"): 0.9127, ("observed", "T"): 0.9173, ("null", "T"): 0.9872, ("null", "T-1"): 0.9856}


def published(deflated, maximum, length):
    "The figures of Bailey and Lopez de Prado (2014)"
    assert abs(deflated(100) - 0.9003968) < 1e-6, f"DSR {deflated(100):.7f}"
    assert abs(maximum(100) - 2.5306029) < 1e-6, f"E[max of 100] {maximum(100):.7f}"
    assert abs(length(45) - 4.998087) < 1e-6, f"MinBTL {length(45):.6f} years"


def deflated(trials):
    "The published case: yearly ratios of the trials with variance 1/2"
    return deflated_sharpe(BEST, trials, 0.5, "year").value


def length(trials):
    "Years for a yearly ratio of 1"
    return min_backtest_length(trials, 1.0)


def test_published_values_of_selection(tell):
    published(deflated, expected_maximum, length)
    tell(f"DSR {deflated(100):.7f}, E[max of 100] {expected_maximum(100):.7f}, MinBTL {length(45):.6f} years")


@pytest.mark.parametrize("off", [-1, 1])
def test_one_trial_more_or_less_is_seen(off, mutants):
    for part in range(3):
        parts = [deflated, expected_maximum, length]
        right = parts[part]
        parts[part] = lambda trials: right(trials + off)
        mutants.kill(17, f"N off by one ({right.__name__}, {off:+d})", lambda planted: published(*planted), parts)


def test_both_definitions_of_the_probabilistic_ratio(tell, mutants):
    def guard(probability):
        for (definition, divisor), value in PSR.items():
            found = probability(FUND, definition, divisor=divisor)
            assert abs(found - value) < 5e-5, f"PSR, {definition}, {divisor}: {found:.4f}"
    guard(probabilistic_sharpe)
    assert probabilistic_sharpe(FUND, "observed") == probabilistic_sharpe(FUND, "observed", divisor="T-1")  # as published
    assert probabilistic_sharpe(FUND, "null") == probabilistic_sharpe(FUND, "null", divisor="T")
    tell(", ".join(f"{d} {k} {probabilistic_sharpe(FUND, d, divisor=k):.4f}" for d, k in PSR))
    other = {"observed": "null", "null": "observed"}
    mutants.kill(17, "definitions exchanged", guard, lambda m, d, divisor: probabilistic_sharpe(m, other[d], divisor=divisor))
    excess = SharpeMoments(FUND.ratio, FUND.n, FUND.skew, FUND.kurtosis - 3, FUND.periods)
    mutants.kill(17, "excess kurtosis", guard, lambda m, d, divisor: probabilistic_sharpe(excess, d, divisor=divisor))


def test_length_of_a_record(tell, mutants):
    def guard(needed):
        for divisor, value in (("T", 13.029), ("T-1", 14.029)):
            assert abs(needed(FUND, "null", divisor=divisor) - value) < 5e-4, f"MinTRL, {divisor}"
        for definition, divisor in PSR:  # a record of just this length has the probability asked for
            n = needed(FUND, definition, divisor=divisor)
            for rows in (int(np.floor(n)), int(np.ceil(n))):
                record = SharpeMoments(FUND.ratio, rows, FUND.skew, FUND.kurtosis)
                enough = probabilistic_sharpe(record, definition, divisor=divisor) >= 0.95
                assert enough == (rows >= n), f"{definition}, {divisor}: {rows} of {n:.2f}"
    guard(min_track_record)
    tell(f"MinTRL {min_track_record(FUND, 'null'):.3f} without 1, {min_track_record(FUND, 'null', divisor='T-1'):.3f} with it")
    mutants.kill(17, "always + 1", guard, lambda m, d, divisor: min_track_record(m, d, divisor="T-1"))


def test_units_of_the_variance_are_named(mutants):
    def guard(deflate):
        per_year, per_day = deflate(BEST, 100, 0.5, "year"), deflate(BEST, 100, 0.5 / 250, "period")
        assert abs(per_year.value - per_day.value) < 1e-12 and abs(per_year.expected - 2.5306029 * 0.5**0.5) < 1e-6
        with pytest.raises(MetricError, match="say 'period' or 'year'"):
            deflate(BEST, 100, 0.5)
    guard(deflated_sharpe)
    mutants.kill(17, "yearly variance taken as daily", guard,
                 lambda m, n, v, unit=None: deflated_sharpe(m, n, v, "period" if unit else None))


class Registry:
    "What is asked of a registry"
    count = 100

    def variance(self):
        "Of the ratios of one period"
        return 0.5 / 250


def test_a_registry_brings_its_own_count_and_variance():
    found = deflated_sharpe(BEST, Registry())
    assert found.trials == 100 and abs(found.value - 0.9003968) < 1e-6
