"""Row 37: choosing does not see the test.

Which candidate is traded in a block depends on earlier blocks alone: whatever is put in place of later ones (1e9, NaN, no
result, a shuffle, another market), choices up to then stay, exactly. And on markets that cannot be predicted the row that
trades the choices earns nothing: its mean Sharpe ratio over 200 of them is within 3 standard errors of 0, while a choice
by all blocks seems to earn something. Returns are gross: costs alone would push the mean below zero.

All markets are columns of one table, so that rules and sizing run once for all of them.
"""
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest

from hybrid_ssm.backtest import run_backtest
from hybrid_ssm.baselines import LSTMBaseline
from hybrid_ssm.choice import choose, selected_rows, selection_table, walk_choice
from hybrid_ssm.handler import FinancialDataHandler
from hybrid_ssm.hybrid import HybridFinancialModel
from hybrid_ssm.metrics import sharpe
from hybrid_ssm.risk import inverse_volatility
from hybrid_ssm.rules import ewmac_rule, long_only, macd_rule, tsmom
from hybrid_ssm.splits import walk_forward
from hybrid_ssm.synthetic import no_signal
from hybrid_ssm.trainer import ModelTrainer

SYMBOLS, SESSIONS, START, FIRST = 3, 1650, "2015-01-01", "long only"  # five test blocks of a year


class Noise(NamedTuple):
    "Markets without a signal, side by side: symbols 0 to 2 are the first market, 3 to 5 the second"
    bars: object
    folds: list
    weights: dict  # candidate -> target weights, sessions x all symbols

    def columns(self, market, width=SYMBOLS):
        "The symbols of one market"
        return self.bars.symbols[width * market:width * (market + 1)]

    def days(self):
        "The sessions of each block"
        return [self.bars.sessions[f.test] for f in self.folds]


def ridge(bars, folds):
    "Positions of a linear learner, one per market, fitted anew before each block on what was known then"
    returns = bars.returns.to_numpy()
    sigma = bars.returns.rolling(63).std().to_numpy()
    past = [bars.returns.rolling(h).sum().to_numpy() / h ** .5 / sigma for h in (5, 21, 63)]
    shape = len(returns), -1, SYMBOLS
    x = np.nan_to_num(np.stack(past, -1).clip(-3, 3)).reshape(*shape, len(past))  # (sessions, markets, symbols, features)
    y = np.nan_to_num(np.r_[returns[1:], returns[:1] * np.nan] / sigma).reshape(shape)
    out = np.zeros(y.shape)
    for fold in folds:
        seen = slice(63, fold.valid[-1])  # the label of the last row is known one session later
        square = np.einsum("tmsf,tmsg->mfg", x[seen], x[seen]) + 100 * np.eye(len(past))
        slope = np.linalg.solve(square, np.einsum("tmsf,tms->mf", x[seen], y[seen])[..., None])[..., 0]
        out[fold.test] = np.tanh(20 * np.einsum("tmsf,mf->tms", x[fold.test], slope))
    return pd.DataFrame(out.reshape(returns.shape), bars.sessions, bars.symbols)


def traded(bars):
    "Every candidate on all markets of these bars"
    folds = walk_forward(bars.sessions, START, bars.sessions[-1], years=1, min_train=300)
    rules = {FIRST: long_only, "momentum": tsmom, "macd": macd_rule, "crossings": ewmac_rule}
    positions = {name: rule(bars) for name, rule in rules.items()} | {"ridge": ridge(bars, folds)}
    return Noise(bars, folds, {name: inverse_volatility(p, bars) for name, p in positions.items()})


@lru_cache(maxsize=2)
def noise(markets, seed=0):
    "So many markets without a signal"
    return traded(no_signal(SESSIONS, SYMBOLS * markets, seed).bars)


def gross(weights, returns):
    "What targets decided at each close earn in the next session, before costs"
    held = weights.shift(1, fill_value=0.).to_numpy()
    return pd.Series((held * returns.loc[weights.index, weights.columns].fillna(0.).to_numpy()).sum(1), weights.index)


def blocks_of(noise, market, width=SYMBOLS):
    "Candidate -> gross returns of each block, and its turnover there"
    names, returns = noise.columns(market, width), noise.bars.returns
    earned, turnover = {}, {}
    for name, table in noise.weights.items():
        own = table[names]
        whole, change = gross(own, returns), own.diff().abs().sum(axis=1)
        spans = [slice(f.test[0], f.test[-1] + 1) for f in noise.folds]
        earned[name] = [whole.iloc[span] for span in spans]
        turnover[name] = [252 * float(change.iloc[span].mean()) for span in spans]
    return earned, turnover


def on_all_blocks(returns, turnover, first):
    "chosen on all blocks"
    return [choose(returns, turnover, first)] * max(map(len, returns.values()))


def on_its_own_block(returns, turnover, first):
    "the block itself is seen"
    until = lambda table, k: {n: v[:k] for n, v in table.items()}
    return [choose(until(returns, k + 1), until(turnover, k + 1), first) for k in range(len(returns[first]))]


# --- what comes later changes nothing


def shuffled(block):
    "The same returns in another order"
    return pd.Series(np.random.default_rng(len(block)).permutation(block), block.index)


POISONS = {"huge": lambda b: b * 0 + 1e9, "NaN": lambda b: b * np.nan, "no result": lambda b: None, "ruin": lambda b: b * 0 - 1,
           "shuffle": shuffled, "turned": lambda b: -b, "drift": lambda b: shuffled(b) + .01}


def cases(table):
    "(first block that is spoilt, how, candidates that are spoilt): all of them together, and each alone"
    return [(start, kind, victims) for start in range(len(table[FIRST])) for kind in POISONS
            for victims in (list(table), *([name] for name in table))]


def choices_stand(table, turnover, picked):
    "Choices up to each block, whatever is put in place of this block and later ones"
    def guard(pick):
        plain = pick(table, turnover, FIRST)
        for start, kind, victims in picked:
            late = {n: v[:start] + [1e9] * (len(v) - start) for n, v in turnover.items()}
            spoilt = {n: b[:start] + [POISONS[kind](x) if n in victims else x for x in b[start:]] for n, b in table.items()}
            assert pick(spoilt, late, FIRST)[:start + 1] == plain[:start + 1], f"{kind} in {victims} from block {start}"
    return guard


@pytest.mark.slow
def test_later_blocks_change_no_choice_in_all_cases():
    table, turnover = blocks_of(noise(12), 1)
    choices_stand(table, turnover, cases(table))(walk_choice)


def test_later_blocks_change_no_choice(mutants):
    table, turnover = blocks_of(noise(12), 0)
    assert tuple(walk_choice(table, turnover, FIRST)) == selection_table(table, turnover, FIRST).names
    guard = choices_stand(table, turnover, cases(table)[::7])
    guard(walk_choice)
    for planted in (on_all_blocks, on_its_own_block):
        mutants.kill(37, f"{planted.__doc__}, later blocks poisoned", guard, planted)


def test_later_prices_change_no_weight(mutants):
    "From the prices on: another market after a block begins leaves choices and weights up to then as they were"
    one, other = (no_signal(SESSIONS, SYMBOLS, seed).bars for seed in (3, 4))

    def selected(bars, pick):
        found = traded(bars)
        names = pick(*blocks_of(found, 0), FIRST)
        return names, selected_rows(found.weights, found.days(), names)

    def guard(pick):
        names, weights = selected(one, pick)
        for k, fold in enumerate(traded(one).folds[1:4], 1):
            cut = fold.test[0]
            returns = one.returns.copy()
            returns.iloc[cut:] = -3 * other.returns.iloc[cut:].to_numpy()
            close = (1 + returns.fillna(0.)).cumprod() * one.close.iloc[0]
            changed, after = selected(type(one).from_long(close.rename_axis("date").melt(
                ignore_index=False, var_name="symbol", value_name="close").reset_index()), pick)
            assert changed[:k + 1] == names[:k + 1], f"choices up to block {k}"
            before = weights.loc[:one.sessions[cut - 1]]
            np.testing.assert_allclose(after.loc[before.index].to_numpy(), before.to_numpy(), rtol=1e-9, err_msg=f"block {k}")
    guard(walk_choice)
    mutants.kill(37, f"{on_all_blocks.__doc__}, other prices later", guard, on_all_blocks)


# --- on noise there is nothing to choose


def ratios(found, pick, markets):
    "Sharpe ratio of the selected row in each market, all blocks together, gross"
    out = []
    for market in range(markets):
        names = pick(*blocks_of(found, market), FIRST)
        own = {name: table[found.columns(market)] for name, table in found.weights.items()}
        out.append(sharpe(gross(selected_rows(own, found.days(), names), found.bars.returns)).value)
    return np.array(out)


def test_gross_returns_are_those_of_the_backtest():
    found = noise(12)
    table = found.weights["macd"][found.columns(1)].loc[START:]
    bars = found.bars.select(list(table.columns)).window(table.index[0])
    np.testing.assert_allclose(gross(table, found.bars.returns), run_backtest(table, bars, costs=0.).gross_returns, atol=1e-12)


def earns_nothing(found, markets, tell=lambda text: None):
    "The selected row's mean Sharpe ratio is within 3 standard errors of zero"
    def guard(pick):
        values = ratios(found, pick, markets)
        error = values.std(ddof=1) / len(values) ** .5
        tell(f"{pick.__name__}: mean Sharpe {values.mean():+.3f} ± {error:.3f} ({len(values)} markets)")
        assert abs(values.mean()) < 3 * error, f"mean Sharpe {values.mean():+.2f} ± {error:.2f} on noise"
    return guard


def test_noise_pays_nothing(tell):
    earns_nothing(noise(12), 12, tell)(walk_choice)


@pytest.mark.slow
def test_noise_pays_nothing_in_200_markets(tell, mutants):
    earns_nothing(noise(200), 200, tell)(walk_choice)
    for planted in (on_all_blocks, on_its_own_block):  # a quarter of the markets is enough to see them
        mutants.kill(37, f"{planted.__doc__}, noise markets", earns_nothing(noise(200), 50, tell), planted)


# --- two small networks, once


def networks(seed):
    "A small hybrid and a small LSTM, trained before each block on one market without a signal"
    bars = no_signal(1150, 4, seed).bars
    data = FinancialDataHandler(bars=bars, features=("return_5", "return_21"), horizons=(1,), costs=0.)
    folds, positions = data.folds("2017-01-01", years=1, min_train=300), {}
    for name, build in {"hybrid": lambda: HybridFinancialModel(2, 4, 2, 1, n_layers=1, horizons=(1,), windows=(21,), seed=seed),
                        "lstm": lambda: LSTMBaseline(4, 2, n_layers=1, horizons=(1,), seed=seed)}.items():
        parts = []
        for fold in folds:
            trainer = ModelTrainer(build(), data=data, seed=seed, device="cpu")
            trainer.train_model(3, 1e-2, fold=fold, window=84, warm_up=21, stride=42, batch_size=32, progress=False)
            parts.append(trainer.predict(data.panel).position.iloc[fold.test])
        positions[name] = pd.concat(parts).reindex(bars.sessions)
    return Noise(bars, folds, {name: inverse_volatility(p, bars) for name, p in positions.items()})


@pytest.mark.long
def test_networks_on_noise_pay_nothing(tell):
    found = [networks(seed) for seed in range(60)]
    values = []
    for one in found:
        earned, turnover = blocks_of(one, 0, len(one.bars.symbols))
        names = walk_choice(earned, turnover, "hybrid")
        values.append(sharpe(gross(selected_rows(one.weights, one.days(), names), one.bars.returns)).value)
    mean, error = np.mean(values), np.std(values, ddof=1) / len(values) ** .5
    tell(f"two networks: mean Sharpe {mean:+.2f} ± {error:.2f} ({len(values)} markets)")
    assert abs(mean) < 3 * error
