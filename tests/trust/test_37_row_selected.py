"""Row 37: the row `selected` of a run does not see its own block; candidates that are trained alike share their networks."""
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from hybrid_ssm import run as running
from hybrid_ssm.calendars import align
from hybrid_ssm.choice import selection_table
from hybrid_ssm.config import parse_config
from hybrid_ssm.handler import FinancialDataHandler
from hybrid_ssm.risk import RiskPolicy
from hybrid_ssm.synthetic import factor_market

TEXT = """
name = "select"
[folds]
test_start = "{start}"
test_end = "{end}"
years = 1
[models]
names = ["tsmom", "macd", "long_only", "ewmac"]
[costs]
bps = 5.0
[select]
names = ["tsmom", "macd", "long_only", "ewmac"]
"""


@pytest.fixture(scope="module")
def market():
    "Configuration, data, folds and weights of four rules over five test blocks"
    bars = factor_market(1700, list("ABCI"), 3).bars
    universe = bars.select(list("ABC"))
    days = bars.sessions
    config = parse_config(TEXT.format(start=f"{days[420]:%Y-%m-%d}", end=f"{days[-1]:%Y-%m-%d}"))
    handler = FinancialDataHandler(bars=universe, features=["return_1"], costs=0.0005)
    data = running.ExperimentData(universe, align(bars.select(["I"]), universe), handler)
    folds = running._folds(config, data.sessions)
    tested = data.sessions[np.concatenate([f.test for f in folds])]
    return config, data, folds, running.target_weights(config, data, {}, tested)


def blind(market):
    "Later blocks turned round, or ruined, change no choice up to and including the first of them"
    config, data, folds, weights = market
    names = running.choose_rows(config, data, folds, weights).names
    compared = 0
    for k in range(1, len(folds)):
        later = data.sessions[folds[k].test[0]:]
        for factor in (-1.0, 1e4)[: 1 + (k == 1)]:
            poisoned = {n: w.mul(pd.Series(1.0, w.index).mask(w.index.isin(later), factor), axis=0) for n, w in weights.items()}
            found = running.choose_rows(config, data, folds, poisoned).names
            assert found[:k + 1] == names[:k + 1], f"block {k + 1} and later change the choice before"
            compared += k + 1
    return compared, names


def test_the_row_does_not_see_its_block(market, mutants, monkeypatch, tell):
    compared, names = blind(market)
    tell(f"{compared} choices compared, 0 differ; {len(set(names))} candidates held in {len(names)} blocks")

    def hindsight(returns, traded, first, periods):  # planted: the best of all blocks, in every block
        whole = {n: pd.concat([b for b in r if b is not None]) for n, r in returns.items() if any(b is not None for b in r)}
        best = max(whole, key=lambda n: whole[n].mean() / whole[n].std())
        return replace(selection_table(returns, traded, first, periods), names=(best,) * len(folds))
    folds = market[2]

    def guard(choose):
        monkeypatch.setattr(running, "selection_table", choose)
        blind(market)
    guard(selection_table)
    mutants.kill(37, "the run chooses on all blocks", guard, hindsight)


def test_a_ruin_to_come_is_not_known(market, mutants, monkeypatch):
    "A row that loses everything in the last block has its results of the blocks before"
    config, data, folds, weights = market
    late = weights["long only"].index >= data.sessions[folds[-1].test[0]]
    ruined = weights["long only"].mul(np.where(late, 1e4, 1.0), axis=0)

    def guard(results):
        found = results("long only", ruined, config, data, folds)
        honest = running.block_results("long only", weights["long only"], config, data, folds)
        assert [b is None for b in found] == [False] * (len(folds) - 1) + [True]
        for a, b in zip(found[:-1], honest):
            pd.testing.assert_series_equal(a.net_returns, b.net_returns, check_exact=True)

    def forgets(label, frame, *rest):  # planted: a ruined row was never there
        alive = running.run_backtests({label: frame}, config, data)
        return running.block_results(label, frame, *rest) if alive else [None] * len(folds)
    guard(running.block_results)
    mutants.kill(37, "a ruin to come is known", guard, forgets)


ALIKE = """
[models]
names = ["hybrid", "calm", "mixed", "sharp", "deep", "booked", "calm_booked"]
[candidates.calm]
model = "hybrid"
risk.volatility_target = 0.05
[candidates.mixed]
model = "hybrid"
ensemble.combine = "mixture"
train.seeds = [0, 1, 2, 3]
[candidates.sharp]
model = "hybrid"
loss.sharpe = 3.0
[candidates.deep]
model = "hybrid"
models.n_layers = 3
[candidates.booked]
model = "hybrid"
loss.traded = 1.0
[candidates.calm_booked]
model = "hybrid"
loss.traded = 1.0
risk.volatility_target = 0.05
"""


def test_rows_share_what_is_trained_alike(mutants, monkeypatch):
    def guard(key):
        monkeypatch.setattr(running, "training_key", key)
        own = ("sharp", "deep", "booked", "calm_booked")  # a traded objective sees the policy
        assert running.trained_as(parse_config(ALIKE)) == dict(hybrid="hybrid", calm="hybrid", mixed="hybrid") | {n: n for n in own}
    guard(running.training_key)
    mutants.kill(32, "rows with another objective share networks", guard, lambda config, name: str(config.row(name).models))
    mutants.kill(32, "rows with another risk are trained twice", guard, lambda config, name: config.row(name).fingerprint)
    honest = running.training_key
    mutants.kill(32, "a traded objective does not see its policy", guard,
                 lambda config, name: honest(replace(config, candidates={n: {k: v for k, v in c.items() if k != "risk"} for n, c in config.candidates.items()}, risk=RiskPolicy()), name))
