"""Which training gives a market model regime weights that separate? Out of sample, filtered weights only.

usage: python bench/regimes.py [--methods recipe default ...] [--markets sp500 stocks] [--seeds 3] [--fits runs/regimes] [--out bench/results/regimes]
                               [--table]

Markets: `sp500` is the daily S&P 500 of 1999-2018 that the package `arch` ships; models learn from the past and are tested on 2007-2010,
2011-2014 and 2015-2018 (expanding, embargo 21 sessions). `stocks` is the mean return of the 20 stocks of the bundled sample, 1990-2022,
tested on 2019-2022; its stocks have all survived. All networks have the same size (state 8, width 16, 2 heads, 2 blocks).

Weights of a session use that session and the ones before it. The settings of `METHODS` were chosen on the first block of `sp500` with seeds 0
and 1; all other blocks and seed 2 are new to them.

score        mean log density of the next return (in per cent), nats; `regimes`: of the mixture of the fixed regimes alone
entropy      of the weights over that of equal weights; `sure`: share of sessions with a weight above .8
ratio        volatility of the next 21 sessions where the wildest regime has weight over the one where the calmest has, both weighted
duration     sessions between two changes of the regime with the most weight
alarm_days   sessions from the begin of an alarm to its end
alarm        share of sessions in which the wildest regime has more weight than the calmest; `onsets`: alarms that begin, a year
false        onsets a year after which the volatility of 21 sessions stays below the upper quartile of those known at the onset
lag          sessions from a dated shock to the first alarm (0 = the session itself or on before it; none within 42 = missed)
adaptation   sessions from a dated low to the last alarm before 21 sessions without one

Which regime is the wildest is read from the training sessions: weighted mean |next return|. Every fit is kept in FITS and not fitted again. Results: judged.csv (a line per method, block and
seed), events.csv (a line per event), windows.csv (mean weights in spans), gaps.csv (differences of scores with a block bootstrap), weights.csv
(what the study draws).
"""
import argparse
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy import stats

from hybrid_ssm.data import Bars
from hybrid_ssm.feature_set import DEFAULT_FEATURES
from hybrid_ssm.handler import FinancialDataHandler
from hybrid_ssm.hybrid import HybridFinancialModel
from hybrid_ssm.losses import JointLoss
from hybrid_ssm.market_regime import REGIME_FEATURES, REGIME_TRAINING, RegimeHandler, RegimeLoss
from hybrid_ssm.regime import switching_path
from hybrid_ssm.sources import load_bars
from hybrid_ssm.targets import volatility
from hybrid_ssm.trainer import ModelTrainer

SHOCKS = "2007-02-27", "2008-09-15", "2010-05-06", "2011-08-05", "2015-08-24", "2018-02-05", "2020-02-24", "2022-01-21"
LOWS = "2009-03-09", "2011-10-03", "2016-02-11", "2020-03-23", "2022-10-12"
SPANS = {"2008 (Sep-Dec)": ("2008-09-15", "2008-12-31"), "2011 (Aug-Nov)": ("2011-08-05", "2011-11-30"),
         "2013 (calm)": ("2013-01-01", "2013-12-31"), "2015 (Aug-Oct)": ("2015-08-24", "2015-10-15"),
         "2017 (calm)": ("2017-01-01", "2017-12-31"), "2020 (Mar-May)": ("2020-02-24", "2020-05-29"),
         "2022 (Jan-Oct)": ("2022-01-21", "2022-10-12")}


@dataclass(frozen=True)
class Method:
    loss: object = RegimeLoss()
    slow: bool = True  # labels in the slow unit
    levels: bool = True  # features of the level of volatility; else the default ones
    usual: bool = False  # epochs, rate and options of a training that nobody tuned
    scales: tuple = ()  # of fixed regimes, for the score of the mixture


K3 = (.5, 1., 2.)
METHODS = {
    "recipe": Method(scales=K3),
    "default": Method(JointLoss(), False, False, True),
    "likelihood, more steps": Method(JointLoss(sharpe=0.), False, False),
    "+ stickiness": Method(JointLoss(sharpe=0., stickiness=.5), False, False),
    "regime loss alone": Method(RegimeLoss(), False, False),
    "slow labels and levels alone": Method(JointLoss(sharpe=0.)),
    "recipe, usual labels": Method(RegimeLoss(), False),
    "recipe, no stickiness": Method(RegimeLoss(joint=JointLoss(sharpe=0.)), scales=K3),
    "recipe, entropy penalty": Method(RegimeLoss(entropy=.1), scales=K3),
    "recipe, two regimes": Method(RegimeLoss(scales=(.6, 1.8)), scales=(.6, 1.8)),
    "recipe, Sharpe in the loss": Method(RegimeLoss(joint=JointLoss(stickiness=.5)), scales=K3),
}
NET = [*METHODS]


def sp500() -> Bars:
    "The S&P 500 of `arch`"
    from arch.data import sp500
    data = sp500.load()
    table = lambda name: data[[name]].astype(float).set_axis(["^GSPC"], axis=1)
    return Bars(*map(table, ("Close", "Open", "High", "Low", "Volume")))


def stocks() -> Bars:
    "The mean return of the sample's stocks, compounded"
    returns = load_bars(source="sample").returns.mean(axis=1).fillna(0.)
    return Bars(100 * (1 + returns).cumprod().to_frame("STOCKS"))


MARKETS = {"sp500": (sp500, "2007-01-01", 4), "stocks": (stocks, "2019-01-01", 4)}


@dataclass
class Said:
    "What a method says in every session: weights calm to wild, and log densities of the next return in per cent"
    weights: np.ndarray  # (S, k)
    score: np.ndarray  # (S,)
    mixture: np.ndarray | None = None  # (S,)


def ordered(weights: np.ndarray, r: np.ndarray, train: np.ndarray) -> np.ndarray:
    "Regimes from calm to wild, by weighted mean |next return| in training"
    known = train[:-1]
    known = known[np.isfinite(weights[known]).all(1)]
    size = (weights[known] * np.abs(r[known + 1])[:, None]).sum(0) / weights[known].sum(0)
    return weights[:, np.argsort(size)]


def network(bars, fold, method, seed) -> Said:
    "A trained network"
    kind = RegimeHandler if method.slow else FinancialDataHandler
    data = kind(bars=bars, features=REGIME_FEATURES if method.levels else DEFAULT_FEATURES, costs=.0002)
    k = len(getattr(method.loss, "scales", K3))
    model = HybridFinancialModel(8, 16, len(data.features), 2, n_regimes=k, windows=(21, 63), seed=seed)
    trainer = ModelTrainer(model, data=data, loss=method.loss, seed=seed)
    how = (100, 1e-4) if method.usual else (30, 3e-3)
    trainer.train_model(*how, fold=fold, **({} if method.usual else {"options": REGIME_TRAINING}) | {"progress": False})
    f, symbol = trainer.predict(), bars.symbols[0]
    column = lambda frame: frame[symbol].to_numpy()
    r, unit = bars.returns[symbol].to_numpy(), data.targets.volatility[:, 0]
    y = np.append(r[1:], np.nan)
    mean, scale, df = (column(getattr(f, q)[1]) for q in ("mean", "scale", "df"))
    score = stats.t.logpdf(y / unit, df, mean, scale) - np.log(100 * unit)
    pi = np.stack([column(w) for w in f.regime.values()], -1)
    each = [stats.t.pdf(y / unit, 6, 0, s) for s in method.scales]
    mixture = np.log((pi * np.stack(each, -1)).sum(-1)) - np.log(100 * unit) if each else None
    return Said(ordered(pi, r, fold.train), score, mixture)


def hidden_markov(bars, folds, _=None) -> dict:
    "Two states, refitted every 252 sessions on the last ten years: the `switching_path` of the features"
    r = bars.returns.iloc[:, 0].to_numpy()
    path = switching_path(r[1:])
    p, y = np.append(np.nan, path.turmoil), np.append(r[1:], np.nan)
    score = np.full(len(r), np.nan)
    for t in range(len(r)):
        fit = next((f for f in reversed(path.fits) if f.rows <= t), None)
        if fit is not None:
            ahead = p[t] * fit.stay[1] + (1 - p[t]) * (1 - fit.stay[0])
            d = stats.norm.pdf(y[t], fit.mean, np.sqrt(fit.variance))
            score[t] = np.log(max((1 - ahead) * d[0] + ahead * d[1], 1e-300)) - np.log(100)
    return {f.number: Said(np.stack([1 - p, p], -1), score) for f in folds}


def three_states(bars, folds) -> dict:
    "Three states of statsmodels, refitted before every block on all sessions before it; filtered"
    from statsmodels.tsa.regime_switching.markov_regression import MarkovRegression
    r, out = 100 * bars.returns.iloc[:, 0].to_numpy(), {}
    for fold in folds:
        build = lambda x: MarkovRegression(x, 3, switching_trend=False, switching_variance=True)
        np.random.seed(0)
        fit = build(r[1:fold.test[0]]).fit(disp=False, cov_type="none", search_reps=10)
        done = build(r[1:]).filter(fit.params, cov_type="none")
        pi = np.asarray(done.filtered_marginal_probabilities)
        spread = np.sqrt(fit.params[-3:])
        ahead = pi @ np.asarray(done.regime_transition)[..., 0].T
        d = stats.norm.pdf(np.append(r[2:], np.nan)[:, None], fit.params[-4], spread)
        score = np.append(np.nan, np.log(np.maximum((ahead * d).sum(1), 1e-300)))
        out[fold.number] = Said(np.vstack([np.full(3, np.nan), pi])[:, np.argsort(spread)], score)
    return out


def rule(bars, folds) -> dict:
    "Volatility of 60 sessions above the upper fifth of all of its past; a Student-t per state with the spread it had"
    r, v = bars.returns.iloc[:, 0], volatility(bars).iloc[:, 0]
    wild = (v > v.expanding(252).quantile(.8)).to_numpy()
    score, y = np.full(len(r), np.nan), np.append(r.to_numpy()[1:], np.nan)
    for state in (False, True):
        own = pd.Series(np.where(wild == state, y, np.nan) ** 2).shift(1).expanding(20).mean() ** .5
        at = wild == state
        s = own.to_numpy()[at] * np.sqrt(4 / 6)
        score[at] = stats.t.logpdf(y[at], 6, 0, s) - np.log(100)
    weights = np.stack([~wild, wild], -1).astype(float)
    return {f.number: Said(weights, score) for f in folds}


def garch(bars, folds) -> dict:
    "GARCH(1,1) with Student-t shocks, fitted before every block; it has no regimes"
    from arch import arch_model
    r, out = 100 * bars.returns.iloc[1:, 0], {}
    for fold in folds:
        model = arch_model(r, dist="t")
        fit = model.fit(last_obs=r.index[fold.test[0] - 1], disp="off")
        sigma, nu = model.fix(fit.params).conditional_volatility.to_numpy(), fit.params["nu"]
        scale = sigma * np.sqrt((nu - 2) / nu)
        score = stats.t.logpdf(r.to_numpy(), nu, fit.params["mu"], scale)  # of session t + 1 at t
        out[fold.number] = Said(np.full((len(r) + 1, 2), np.nan), np.append(score, np.nan))
    return out


REFERENCES = {"Markov switching, 2 states": hidden_markov, "Markov switching, 3 states": three_states,
              "volatility rule": rule, "GARCH-t": garch}


def month_ahead(r: np.ndarray) -> np.ndarray:
    "Mean square of the next 21 returns"
    return pd.Series(r ** 2)[::-1].rolling(21).mean()[::-1].shift(-1).to_numpy()


def alarmed(weights: np.ndarray) -> np.ndarray:
    "Whether the wildest regime outweighs the calmest"
    return weights[:, -1] > weights[:, 0]


def judge(said: Said, r: np.ndarray, test: np.ndarray) -> dict:
    "One line of judged.csv"
    row = {"score": np.nanmean(said.score[test])}
    row["regimes"] = np.nan if said.mixture is None else np.nanmean(said.mixture[test])
    w, ahead = said.weights[test], month_ahead(r)
    if np.isnan(w).all():
        return row
    k, known = w.shape[1], np.isfinite(ahead[test])
    row["entropy"] = float(-(w * np.log(np.maximum(w, 1e-12))).sum(1).mean() / np.log(k))
    row["sure"] = float((w.max(1) > .8).mean())
    level = (w[known] * ahead[test][known, None]).sum(0) / np.maximum(w[known].sum(0), 1e-12)
    row["ratio"] = float(np.sqrt(level[-1] / level[0]))
    top = w.argmax(1)
    row["duration"] = len(top) / (1 + (np.diff(top) != 0).sum())
    on = alarmed(w)
    begins = test[1:][on[1:] & ~on[:-1]]
    past = pd.Series(r ** 2).rolling(21).mean().expanding(252).quantile(.75).to_numpy()
    years = len(test) / 252
    row["alarm_days"] = on.sum() / max(len(begins) + on[0], 1)
    row |= {"alarm": float(on.mean()), "onsets": len(begins) / years, "false": float((ahead[begins] < past[begins]).sum()) / years}
    return row


def event_rows(said: Said, sessions: pd.DatetimeIndex, test: np.ndarray) -> list[dict]:
    "Lags after shocks and adaptation after lows inside one block"
    if np.isnan(said.weights[test]).all():
        return []
    on, rows = alarmed(said.weights), []
    for kind, days in (("shock", SHOCKS), ("low", LOWS)):
        for day in days:
            t = int(sessions.searchsorted(pd.Timestamp(day)))
            if not (test[0] < t <= test[-1] - 63):
                continue
            if kind == "shock":
                hits = np.flatnonzero(on[t:t + 43])
                value = 0 if on[t - 1] else hits[0] if len(hits) else np.nan
            else:
                quiet = [i for i in range(t, test[-1] - 20) if not on[i:i + 21].any()]
                value = quiet[0] - t if quiet else np.nan
            rows.append({"kind": kind, "date": day, "sessions": value, "before": bool(on[t - 1])})
    return rows


def span_rows(said: Said, sessions: pd.DatetimeIndex, test: np.ndarray) -> list[dict]:
    "Mean weights of the calmest and the wildest regime in the spans of one block"
    rows = []
    for name, (a, b) in SPANS.items():
        rows_in = test[(sessions[test] >= a) & (sessions[test] <= b)]
        if len(rows_in) and np.isfinite(said.weights[rows_in]).all():
            w = said.weights[rows_in].mean(0)
            rows.append({"span": name, "calmest": w[0], "wildest": w[-1]})
    return rows


def bootstrap(gap: np.ndarray, block: int = 63, draws: int = 1000) -> float:
    "Standard error of a mean by the circular block bootstrap"
    gap = gap[np.isfinite(gap)]
    rng = np.random.default_rng(0)
    starts = rng.integers(0, len(gap), (draws, -(-len(gap) // block)))
    rows = (starts[..., None] + np.arange(block)).reshape(draws, -1)[:, :len(gap)] % len(gap)
    return float(gap[rows].mean(1).std(ddof=1))


def fitted(market: str, name: str, bars, folds, seeds: range, fits: Path, kept_only: bool = False) -> dict:
    "What a method says, by block and seed; what is kept is not fitted again"
    out, made = {}, None
    for seed in seeds if name in METHODS else range(1):
        for fold in folds:
            path = fits / f"{market}-{name.replace(' ', '_')}-{fold.number}-{seed}.npz"
            if kept_only and not path.exists():
                continue
            if not path.exists():
                began = time.time()
                if name in METHODS:
                    said = network(bars, fold, METHODS[name], seed)
                else:
                    made = made or REFERENCES[name](bars, folds)
                    said = made[fold.number]
                np.savez_compressed(path, **{k: v for k, v in vars(said).items() if v is not None})
                print(f"{path.stem}: {time.time() - began:.0f} s", flush=True)
            with np.load(path) as kept:
                out[fold.number, seed] = Said(**kept)
    return out


def complete(own: dict, folds) -> dict:
    "Only the seeds that were fitted on every block"
    return {(f, s): v for (f, s), v in own.items() if all((fold.number, s) in own for fold in folds)}


def tables(market: str, said: dict, bars, folds) -> dict[str, list[dict]]:
    "Lines of all tables about one market"
    r, tests = bars.returns.iloc[:, 0].to_numpy(), {f.number: f.test for f in folds}
    rows: dict[str, list[dict]] = {"judged": [], "events": [], "windows": [], "gaps": []}
    for name, own in said.items():
        label = {"market": market, "method": name}
        for (f, seed), s in own.items():
            cell = label | {"block": str(bars.sessions[tests[f][0]].year), "seed": seed}
            rows["judged"].append(cell | judge(s, r, tests[f]))
            rows["events"] += [cell | e for e in event_rows(s, bars.sessions, tests[f])]
            rows["windows"] += [cell | e for e in span_rows(s, bars.sessions, tests[f])]
        each = [np.concatenate([own[f, seed].score[t] - said["GARCH-t"][f, 0].score[t] for f, t in tests.items()])
                for seed in sorted({s for _, s in own})]
        gap = np.mean(each, axis=0)
        spread = np.std([np.nanmean(g) for g in each], ddof=1) if len(each) > 1 else np.nan
        if name != "GARCH-t":
            rows["gaps"].append(label | {"gap": np.nanmean(gap), "se": bootstrap(gap), "seeds": spread})
    return rows


def drawn(said: dict, bars, folds) -> pd.DataFrame:
    "Closes and mean weights over the seeds, for the picture"
    start, columns = bars.sessions[folds[0].test[0]], {}
    for name in (n for n in ("recipe", "default", "Markov switching, 2 states") if n in said):
        for f in folds:
            mean = np.mean([s.weights[f.test] for (n, _), s in said[name].items() if n == f.number], axis=0)
            for i, column in enumerate(mean.T):
                columns.setdefault(f"{name}/{i}", []).append(pd.Series(column, bars.sessions[f.test]))
    closes = bars.close.iloc[:, 0].loc[start:].round(2)
    return pd.DataFrame({"close": closes} | {n: pd.concat(p).round(3) for n, p in columns.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="*", default=NET, choices=NET)
    parser.add_argument("--markets", nargs="*", default=[*MARKETS], choices=[*MARKETS])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--fits", type=Path, default=Path("runs/regimes"))
    parser.add_argument("--out", type=Path, default=Path("bench/results/regimes"))
    parser.add_argument("--table", action="store_true", help="fit nothing, read what is kept")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for folder in (options.fits, options.out):
        folder.mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[dict]] = {}
    for market in options.markets:
        build, begin, years = MARKETS[market]
        bars = build()
        folds = FinancialDataHandler(bars=bars).folds(begin, years=years)
        names = [*REFERENCES, *options.methods]
        said = {n: fitted(market, n, bars, folds, range(options.seeds), options.fits, options.table) for n in names}
        said = {n: whole for n, own in said.items() if (whole := complete(own, folds))}
        for table, lines in tables(market, said, bars, folds).items():
            rows.setdefault(table, []).extend(lines)
        drawn(said, bars, folds).to_csv(options.out / f"weights_{market}.csv")
    for table, lines in rows.items():
        pd.DataFrame(lines).round(4).to_csv(options.out / f"{table}.csv", index=False)
    print(pd.DataFrame(rows["judged"]).groupby(["market", "method"]).mean(numeric_only=True).round(3).to_string())


if __name__ == "__main__":
    main()
