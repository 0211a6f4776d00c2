"""Row 3: the whole pipeline is honest on noise. On markets that cannot be predicted it earns nothing, before costs.

Bars -> features -> scaler -> labels -> a learner fitted before each test block -> forecast -> weights -> backtest: nothing is
replaced by a shortcut. The learner is a ridge, whose fits take milliseconds; the feature is the log of the price, which shows at once when
later sessions leak into it. Returns are gross: after costs a pipeline without skill loses what it trades, so that a mean
below zero would prove nothing.

In the full form 200 markets have a mean Sharpe ratio within 3 standard errors of zero, and their ratios over their own standard
errors are distributed like a standard normal (Kolmogorov-Smirnov, p > .001). The quick form sums these ratios over few markets.
The mutant scales the feature by mean and standard deviation of the whole sample: where the price stands against its own future mean then
predicts where it goes.
"""
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from hybrid_ssm.backtest import run_backtest
from hybrid_ssm.baselines import RidgeBaseline
from hybrid_ssm.features import Feature
from hybrid_ssm.handler import FinancialDataHandler
from hybrid_ssm.metrics import sharpe
from hybrid_ssm.risk import RiskPolicy
from hybrid_ssm.synthetic import no_signal
from hybrid_ssm.trainer import ModelTrainer

SYMBOLS, SESSIONS, START, WINDOW, WARM_UP = 24, 640, "2018-10-01", 252, 21


def log_price(series):
    "The log of the close"
    return np.log(series.columns["close"])


LEVEL = Feature("log_price", "technical", warm_up=1, meaning="log of the price", source="none", function=log_price)


def as_computed(panel):
    "The features as they are"
    return panel


def global_z_score(panel):
    "global z-score: each symbol's feature less its mean over all sessions, in standard deviations of all sessions"
    values = np.where(panel.observed, panel.values, np.nan).astype(float)
    scaled = (values - np.nanmean(values, 0)) / np.nanstd(values, 0)
    return replace(panel, values=np.where(panel.observed, scaled, panel.values).astype(np.float32))


def ratio(seed, plant):
    "The gross Sharpe ratio of the pipeline, walked forward through one market"
    bars = no_signal(SESSIONS, SYMBOLS, seed).bars
    data = FinancialDataHandler(bars=bars, features=(LEVEL,), horizons=(1,), costs=0.)
    data.panel = plant(data.panel)
    positions = []
    for fold in data.folds(START, years=1, min_train=250):
        model = RidgeBaseline(1, penalties=(1e1, 1e3, 1e5), horizons=(1,))
        trainer = ModelTrainer(model, data=data, device="cpu")
        trainer.train_model(1, fold=fold, window=WINDOW, warm_up=WARM_UP, stride=WINDOW - WARM_UP, progress=False)
        positions.append(trainer.predict(data.panel).position.iloc[fold.test])
    weights = RiskPolicy().weights(pd.concat(positions), bars)
    return sharpe(run_backtest(weights, bars.window(weights.index[0], weights.index[-1]), costs=0.).gross_returns)


def near_zero(seeds, tell=lambda text: None):
    "Sharpe ratios over their standard errors: their sum is no more than 3 standard deviations from zero"
    def guard(plant):
        scores = np.array([s.value / s.se for s in (ratio(seed, plant) for seed in seeds)])
        total = scores.sum() / len(scores) ** .5
        tell(f"{plant.__name__}: {len(scores)} markets, mean ratio {scores.mean():+.2f} standard errors, together {total:+.1f}")
        assert abs(total) < 3, f"{total:+.1f} standard errors on noise"
    return guard


def like_noise(seeds, tell):
    "The mean is within 3 standard errors of zero, and the distribution is that of noise"
    def guard(plant):
        found = [ratio(seed, plant) for seed in seeds]
        values, scores = (np.array(x) for x in zip(*[(s.value, s.value / s.se) for s in found]))
        error, p = values.std(ddof=1) / len(values) ** .5, stats.kstest(scores, "norm").pvalue
        tell(f"{plant.__name__}: mean Sharpe {values.mean():+.3f} ± {error:.3f}, KS p {p:.3g} ({len(values)} markets)")
        assert abs(values.mean()) < 3 * error, f"mean Sharpe {values.mean():+.2f} ± {error:.2f} on noise"
        assert p > .001, f"ratios over their errors are no standard normal: KS p = {p:.2g}"
    return guard


def test_the_pipeline_is_honest_on_noise(tell, mutants):
    near_zero(range(10), tell)(as_computed)
    mutants.kill(3, "global z-score", near_zero(range(5), tell), global_z_score)


@pytest.mark.slow
def test_the_pipeline_is_honest_on_200_markets(tell, mutants):
    like_noise(range(200), tell)(as_computed)
    mutants.kill(3, "global z-score, full form", like_noise(range(25), tell), global_z_score)
