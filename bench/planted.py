"""How much of a planted signal does each model reach under each loss? Out of sample, net of cost, at equal parameters.

usage: python bench/planted.py [--markets noisy ...] [--losses likelihood sharpe joint ...] [--models hybrid lstm ...] [--seeds 5]
                               [--epochs 10] [--floor 1] [--sessions 1500] [--stride 21] [--rates .003 .01] [--threads 1]
                               [--out runs/planted] [--table]

A market of `hybrid_ssm.synthetic.planted_signal` has a drift that is visible through noise. A model is trained on its first
`--sessions` sessions and trades the 1,500 after them through the ordinary pipeline: features, scaler, purged labels, `ModelTrainer`
(last 15 % of the training sessions choose the epoch), forecast, weights of equal risk, `run_backtest` at 5 bp one way. Its score is

share    its net Sharpe ratio divided by the GROSS one of an oracle that knows the drift and pays nothing, same sessions.

`ceiling` is the same share for an optimal filter: it knows all parameters of the market, sees what the model sees, and pays the same
costs, but ignores them when it trades. A model that takes costs into account may exceed it.

Budget of a fit, the same for all: --epochs passes over windows of 126 sessions (31 of them warm-up) that start every --stride
sessions, 32 a step; AdamW, one-cycle; none of the first --floor epochs can be the best. The learning rate of a model and a loss
is the one of --rates whose best epoch has the lowest validation loss on a market that is never scored. All models have the
hybrid's parameter count, as near as their width allows. Seed s makes the market, the weights and the order of the windows, so
that all differences are paired by seed.

Every fit is one line of JSON in OUT/fits.jsonl, written when it ends; what is there is not fitted again. A row counts for the
budget it was fitted with. `--table` prints what is there. Seed 0 of everything comes before seed 1.
"""
import argparse
import time
from collections import defaultdict
from functools import lru_cache

import common
import numpy as np
import torch
from common import interval, machine, read

from hybrid_ssm.backtest import run_backtest
from hybrid_ssm.baselines import LSTMBaseline, SSMBaseline, TransformerBaseline, equal_parameters
from hybrid_ssm.core import SESSIONS_PER_YEAR
from hybrid_ssm.features import Feature
from hybrid_ssm.handler import FinancialDataHandler
from hybrid_ssm.hybrid import HybridFinancialModel, seeded
from hybrid_ssm.losses import JointLoss
from hybrid_ssm.metrics import sharpe
from hybrid_ssm.risk import inverse_volatility
from hybrid_ssm.synthetic import planted_signal
from hybrid_ssm.trainer import ModelTrainer

TEST_SESSIONS, SHARPE = 1500, 3.  # sessions that are traded; yearly gross Sharpe ratio of knowing the drift
WINDOW, WARM, BATCH = 126, 31, 32
GRID_SEED = 1000  # learning rates are chosen on a market that is never scored
MARKETS = {"noisy": dict(symbols=6, half_life=60., visible=.6), "clear": dict(symbols=6, half_life=60., visible=.9),
           "fast": dict(symbols=6, half_life=15., visible=.8), "few": dict(symbols=2, half_life=60., visible=.6),
           "hidden": dict(symbols=6, half_life=120., visible=.3)}
LOSSES = {"likelihood": JointLoss(1., 0.), "sharpe": JointLoss(0., 1.), "joint": JointLoss(),
          "gross": JointLoss(cost_multiple=0.), "balanced": JointLoss(1., 1., learned=True),
          "portfolio": JointLoss(1., 0., portfolio=.5), "softmin": JointLoss(1., 0., softmin=.5),
          "crps": JointLoss(0., .5, crps=1.), "direction": JointLoss(0., .5, direction=1.)}
MODELS = "hybrid", "lstm", "transformer", "ssm"
KEY = "market", "loss", "model", "seed", "epochs", "floor", "sessions", "stride", "rate"
BUDGET = "epochs", "floor", "sessions", "stride"
HEADLINES = "share", "ceiling", "net", "gross", "turnover"


# --- markets

def visible_signal(series):
    "The visible signal of the planted market"
    return series.columns["signal"]


PLANTED = Feature("planted_signal", "technical", warm_up=1, meaning="the visible part of the drift", source="this market",
                  function=visible_signal, inputs=("close", "signal"))
FEATURE_NAMES = PLANTED, "return_1", "return_5", "return_21"


def handler(bars):
    "Bars, features and labels"
    return FinancialDataHandler(bars=bars, features=FEATURE_NAMES, horizons=(1,))


@lru_cache(maxsize=2)
def market(name, seed, sessions):
    "A planted market, its training part, and all of it"
    made = planted_signal(sessions + TEST_SESSIONS, seed=seed, sharpe=SHARPE, **MARKETS[name])
    return made, handler(made.bars.window(end=made.bars.sessions[sessions - 1])), handler(made.bars)


def out_of_sample(positions, made, sessions):
    "The backtest of the sessions that no model was trained on, all positions sized alike"
    return run_backtest(inverse_volatility(positions, made.bars), made.bars).window(made.bars.sessions[sessions])


# --- models of equal parameter count

def hybrid():
    "The hybrid, small"
    return HybridFinancialModel(8, 16, len(FEATURE_NAMES), 4, n_layers=2, horizons=(1,), windows=(21, 63, 63, 63))


def build(name, seed):
    "A fresh model"
    rest, wanted = dict(input_dim=len(FEATURE_NAMES), n_layers=2, horizons=(1,)), hybrid().num_parameters
    baselines = {"lstm": (lambda d: LSTMBaseline(d, **rest), 1),
                 "ssm": (lambda d: SSMBaseline(d, num_heads=2, state_dim=8, **rest), 2),
                 "transformer": (lambda d: TransformerBaseline(d, num_heads=2, window=63, **rest), 2)}
    with seeded(seed):
        if name == "hybrid": return hybrid()
        make, multiple = baselines[name]
        return equal_parameters(make, wanted, multiple)[0]


# --- one fit

def fit(job):
    "Train, trade, and score: the row that is kept"
    started, sessions = time.perf_counter(), job["sessions"]
    made, past, whole = market(job["market"], job["seed"], sessions)
    trainer = ModelTrainer(build(job["model"], job["seed"]), data=past, loss=LOSSES[job["loss"]], seed=job["seed"], device="cpu")
    history = trainer.train_model(job["epochs"], job["rate"], window=WINDOW, warm_up=WARM, stride=job["stride"],
                                  batch_size=BATCH, patience=job["epochs"], floor=job["floor"], progress=False)
    result = out_of_sample(trainer.predict(whole.panel).position, made, sessions)
    best = int(history.best_epoch)
    scores = score(result, made, sessions) | dict(valid=float(history.frame["valid"].iloc[best]), best_epoch=best)
    return job | dict(parameters=trainer.model.num_parameters, scores=scores, machine=machine(load=False),
                      torch=torch.__version__, seconds=round(time.perf_counter() - started, 1))


def score(result, made, sessions):
    "Net and gross Sharpe ratio, turnover a year, and the share of the oracle's gross ratio"
    oracle, filtered = (out_of_sample(p, made, sessions) for p in (made.truth.oracle_positions(), made.truth.best_positions()))
    best = sharpe(oracle.gross_returns).value
    net, gross = sharpe(result.net_returns).value, sharpe(result.gross_returns).value
    return dict(share=net / best, ceiling=sharpe(filtered.net_returns).value / best, net=net, gross=gross, oracle=best,
                turnover=float(result.turnover.mean() * SESSIONS_PER_YEAR / max(result.weights.abs().sum(axis=1).mean(), 1e-12)))


# --- what is fitted

def job_of(args, **job):
    "A fit with its budget"
    return job | {name: getattr(args, name) for name in BUDGET}


def once(args, job, fitter):
    "The row of a job, fitted only if it is not there"
    return common.once(args.out, job, fitter, KEY, HEADLINES)


def chosen_rate(args, market, loss, model, fitter):
    "The rate with the lowest validation loss on the market that is never scored"
    if len(args.rates) == 1: return args.rates[0]
    jobs = [job_of(args, market=market, loss=loss, model=model, seed=GRID_SEED, rate=rate) for rate in args.rates]
    return min((once(args, job, fitter) for job in jobs), key=lambda row: row["scores"]["valid"])["rate"]


def work(args, fitter=fit):
    "Every fit that is not there yet; seed 0 of everything first"
    for seed in range(args.seeds):
        for name in args.markets:
            for loss in args.losses:
                for model in args.models:
                    rate = chosen_rate(args, name, loss, model, fitter)
                    once(args, job_of(args, market=name, loss=loss, model=model, seed=seed, rate=rate), fitter)


# --- tables

def scored(args):
    "(loss, model) -> seed -> row of one market each; grid fits and other budgets left out, the last row counts"
    tables = defaultdict(lambda: defaultdict(dict))
    for row in read(args.out):
        if row["seed"] == GRID_SEED or any(row[name] != getattr(args, name) for name in BUDGET): continue
        tables[row["market"]][row["loss"], row["model"]][row["seed"]] = row
    return tables


def paired(ours, theirs):
    "Difference of the shares in the seeds that both have, with its 95 % interval"
    seeds = [seed for seed in ours if seed in theirs]
    return interval([ours[s]["scores"]["share"] - theirs[s]["scores"]["share"] for s in seeds]) if seeds else ""


def scores_table(table):
    "One line per loss and model: means over seeds, the share with its interval"
    print("\n" + common.head("loss", "model", "parameters", "rate", "seeds", "share of the oracle", "ceiling", "net Sharpe", "turnover"))
    for (loss, model), rows in sorted(table.items(), key=lambda item: order(*item[0])):
        first = next(iter(rows.values()))
        mean = lambda name: float(np.mean([row["scores"][name] for row in rows.values()]))
        print(common.row(loss, model, f"{first['parameters']:,}", f"{first['rate']:g}", len(rows),
                         interval([row["scores"]["share"] for row in rows.values()]), mean("ceiling"), mean("net"), mean("turnover")))


def order(loss, model):
    "As they are listed above"
    return list(LOSSES).index(loss), MODELS.index(model)


def differences(table):
    "The joint loss minus the others for each model; the hybrid minus the others under each loss"
    losses = [name for name in LOSSES if any(loss == name for loss, _ in table)]
    models = [name for name in MODELS if any(model == name for _, model in table)]
    print("\n" + common.head("share: joint minus", *models))
    for loss in [name for name in losses if name != "joint"]:
        print(common.row(loss, *(paired(table.get(("joint", m), {}), table.get((loss, m), {})) for m in models)))
    print("\n" + common.head("share: hybrid minus", *losses))
    for model in [name for name in models if name != "hybrid"]:
        print(common.row(model, *(paired(table.get((n, "hybrid"), {}), table.get((n, model), {})) for n in losses)))


def tables(args):
    "Everything that is there, with the budget and the machine it ran on"
    for line in sorted({row["machine"] for row in read(args.out)}): print(line)
    for name, table in scored(args).items():
        about = ", ".join(f"{k} {v:g}" for k, v in MARKETS[name].items())
        print(f"\n## {name}: {about}; Sharpe {SHARPE:g} planted; trained on {args.sessions} sessions, tested on {TEST_SESSIONS}, "
              f"{args.epochs} epochs of which the first {args.floor} cannot be the best, a window every {args.stride} sessions")
        scores_table(table)
        differences(table)


def arguments(words=None):
    "The options of the command line"
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--markets", nargs="+", default=["noisy"], choices=list(MARKETS))
    ask.add_argument("--losses", nargs="+", default=["likelihood", "sharpe", "joint"], choices=list(LOSSES))
    ask.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    ask.add_argument("--seeds", type=int, default=5)
    ask.add_argument("--epochs", type=int, default=10, help="of every fit")
    ask.add_argument("--floor", type=int, default=1, help="epochs that cannot be the best")
    ask.add_argument("--sessions", type=int, default=1500, help="of the training part; the last 15 %% of them choose the epoch")
    ask.add_argument("--stride", type=int, default=21, help="sessions between training windows: fewer make more steps")
    ask.add_argument("--rates", type=float, nargs="+", default=[.003, .01], help="learning rates to choose from")
    ask.add_argument("--threads", type=int, default=1)
    ask.add_argument("--out", default="runs/planted")
    ask.add_argument("--table", action="store_true", help="print the tables of what is there and stop")
    return ask.parse_args(words)


if __name__ == "__main__":
    common.work_and_show(arguments(), work, tables)
