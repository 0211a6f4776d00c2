"""Does the hybrid learn what it claims? Three tasks with known truth, a small budget, baselines of equal parameter count.

usage: python bench/learning.py [--tasks recall regimes both] [--models hybrid none lstm ...] [--seeds 5] [--steps N]
                                [--rates .003 .01 .03] [--own-rates] [--out runs/learning] [--table]

recall   pairs of a code and a value are shown among distractors, later codes alone: 1, 2, 4, 8 or 16 pairs an episode.
regimes  the calm and wild market of `hybrid_ssm.synthetic`: how much of what the optimal filter gains over the best
         constant distribution does the model gain, how soon does it notice a switch?
both     one sequence, two targets: what followed when today's code was last seen (only a memory that is looked up by
         content holds that), and a mean over 500 sessions of a noisy input (only a state holds that).

Every fit is one line of JSON in OUT/fits.jsonl, written when it ends; what is there is not fitted again, so that a run
that was stopped goes on where it was. `--table` prints what is there. Seed 0 of everything comes before seed 1. The
learning rate of a model is the one whose held-out loss on a separate seed is lowest; hybrids with another `coupling`
take the rate of the hybrid, so that they differ in nothing else. The sequences of one seed are the same for
all models, and all differences in the table are paired.
"""
import argparse
import math
import time
from collections import defaultdict
from collections.abc import Callable
from functools import lru_cache, partial
from typing import NamedTuple

import common
import numpy as np
import torch
from common import interval, machine, read
from scipy import stats

from hybrid_ssm.baselines import MODELS
from hybrid_ssm.core import ConfigError
from hybrid_ssm.hybrid import HybridFinancialModel, seeded
from hybrid_ssm.synthetic import regime_filter, regime_switching

BATCH, SESSIONS, WARM = 32, 252, 63
WIDTH, HEADS, LAYERS = 32, 4, 2  # of the hybrid
GRID_SEED = 1000  # learning rates are chosen on sequences that are never scored
HYBRIDS = "hybrid", "none", "shuffled", "frozen", "no_memory", "parallel", "series", "two_pass", "fixed_point"
BASELINES = "lstm", "transformer", "ssm"


class Batch(NamedTuple):
    "Sequences, what is asked at each session, and where it is asked"
    x: torch.Tensor  # what is seen (b, l, f)
    y: torch.Tensor  # what is asked (b, l, H)
    asked: torch.Tensor  # where (b, l, H)
    truth: dict  # what only the maker knows, numpy


class Task(NamedTuple):
    "Sequences from a seed, a loss, and scores of held-out sequences"
    make: Callable  # seed -> Batch
    loss: Callable  # output, batch -> scalar
    score: Callable  # output of, list of batches -> dict
    features: int
    horizons: tuple
    window: int  # of every attention head, hybrid and Transformer alike
    steps: int  # budget, for every model alike


def tensors(x, y, asked, **truth):
    "A batch from arrays"
    return Batch(torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.float32), torch.tensor(asked), truth)


def codes(rng, rows, n):
    "`n` different codes of eight bits in each row: signs (rows, n, 8)"
    numbers = rng.permuted(np.tile(np.arange(256), (rows, 1)), axis=1)[:, :n]
    return 2. * (numbers[..., None] >> np.arange(8) & 1) - 1


def squared(out, batch):
    "Squared error of the mean over what is asked, one part per target"
    error = (out.mean - batch.y).square().masked_fill(~batch.asked, 0.)
    return (error.sum((0, 1)) / batch.asked.sum((0, 1)).clamp_min(1)).mean()


# --- associative recall

LEVELS, EPISODE, SHOWN, BITS = (1, 2, 4, 8, 16), 63, 32, 3


def recall(seed):
    "Four episodes: 32 sessions show pairs, as many distractors, or nothing; 31 ask for the value of a code of a pair"
    rng, episodes = np.random.default_rng(seed), SESSIONS // EPISODE
    pairs = rng.choice(LEVELS, (BATCH, 1, 1))
    order = rng.permuted(np.tile(np.arange(SHOWN), (BATCH, episodes, 1)), axis=2)  # below `pairs`: a pair
    busy = (order < 2 * pairs)[..., None]
    code = codes(rng, BATCH, episodes * SHOWN).reshape(BATCH, episodes, SHOWN, 8) * busy
    value = rng.choice([-1., 1.], (BATCH, episodes, SHOWN, BITS)) * busy
    which = np.floor(rng.random((BATCH, episodes, EPISODE - SHOWN)) * pairs)
    slot = (order[:, :, None] == which[..., None]).argmax(-1)[..., None]  # where the asked pair was shown
    asked_code, answer = (np.take_along_axis(t, slot, 2) for t in (code, value))
    shown = np.concatenate([code, value, (order < pairs)[..., None], 0 * code[..., :1]], -1)
    query = np.concatenate([asked_code, 0 * answer, 0 * slot, 1 + 0 * slot], -1)
    x = np.concatenate([shown, query], 2).reshape(BATCH, SESSIONS, -1)
    y = np.concatenate([0 * value, answer], 2).reshape(BATCH, SESSIONS, BITS)
    return tensors(x, y, np.broadcast_to(x[..., -1:] > 0, y.shape).copy(), pairs=pairs[:, 0, 0])


def recall_score(outputs, batches):
    "Share of queries whose three bits are all right, and the most pairs with 90 % of them; guessing has 1/8"
    hits = defaultdict(list)
    for out, batch in zip(outputs, batches):
        asked = batch.asked[..., 0]
        right = (((out.mean > 0) == (batch.y > 0)).all(-1) & asked).sum(1) / asked.sum(1)
        for pairs, share in zip(batch.truth["pairs"], right.tolist()): hits[int(pairs)].append(share)
    scores = {f"recall_{n}": float(np.mean(hits[n])) for n in LEVELS}
    return scores | dict(frontier=max((n for n in LEVELS if scores[f"recall_{n}"] >= .9), default=0))


# --- regime switching

MEAN, SPREAD, STAY, UNIT = np.array([.0008, -.0012]), np.array([.008, .02]), .99, .0152


def regimes(seed):
    "Returns of 32 symbols, each on its own clock, and their size; the next return is asked"
    market = regime_switching(SESSIONS + 2, BATCH, seed, MEAN, SPREAD, STAY)
    r = market.bars.returns.to_numpy().T[:, 1:] / UNIT  # (b, l + 1), the first session has none
    x = np.stack([r[:, :-1], np.abs(r[:, :-1])], -1)
    asked = np.ones_like(r[:, 1:, None], dtype=bool)
    return tensors(x, r[:, 1:, None], asked, r=r, states=market.truth.states.to_numpy().T[:, 1:])


def likelihood(out, batch):
    "Mean negative log-likelihood of the predicted distribution, nats per session"
    predicted = torch.distributions.StudentT(out.df, out.mean, out.scale, validate_args=False)
    return -predicted.log_prob(batch.y).mean()


def mixture(r, wild):
    "Log density of a return when the next session is wild with this probability"
    density = lambda k: stats.norm.pdf(r, MEAN[k] / UNIT, SPREAD[k] / UNIT)
    return np.log(wild * density(1) + (1 - wild) * density(0))


def filtered(truth):
    "Probability that the next session is wild, parameters known, and the log density of what came (b, l)"
    p = regime_filter(truth["r"].T[:-1] * UNIT, MEAN, SPREAD, STAY).T
    ahead = p * STAY + (1 - p) * (1 - STAY)
    return ahead, mixture(truth["r"][:, 1:], ahead)


def adjusted_rand(a, b):
    "Adjusted Rand index of two labellings (Hubert and Arabie 1985)"
    table = np.histogram2d(a.ravel(), b.ravel(), bins=[np.arange(a.max() + 2) - .5, np.arange(b.max() + 2) - .5])[0]
    two = lambda n: (n * (n - 1) / 2).sum()
    rows, columns, both = two(table.sum(1)), two(table.sum(0)), two(table)
    chance = rows * columns / two(np.array([table.sum()]))
    top = (rows + columns) / 2
    return float((both - chance) / (top - chance)) if top > chance else 0.


def best_cut(readout, wild):
    "The threshold that agrees most often with the truth"
    cuts = np.quantile(readout, np.linspace(.01, .99, 99))
    return cuts[np.argmax([((readout > c) == wild).mean() for c in cuts])]


def detection_lag(readout, states, least=10):
    "Mean sessions from a switch until the readout first agrees; a regime that ends unnoticed counts its length"
    lags = []
    for row, truth in zip(readout, states):
        ends = np.append(np.flatnonzero(np.diff(truth)) + 1, len(truth))
        for start, end in zip(ends, ends[1:]):
            if start < WARM or end - start < least: continue
            agree = np.flatnonzero(row[start:end] == truth[start:end])
            lags.append(agree[0] if len(agree) else end - start)
    return float(np.mean(lags))


def noticed(readout, states):
    "Adjusted Rand index and detection lag of a readout, its sign and threshold fitted on the first half"
    half = len(readout) // 2
    seen, wild = readout[:half, WARM:], states[:half, WARM:] == 1
    if seen[wild].mean() < seen[~wild].mean(): return noticed(-readout, states)
    found, states = (readout > best_cut(seen, wild))[half:], states[half:]
    return adjusted_rand(found[:, WARM:].astype(int), states[:, WARM:]), detection_lag(found, states)


def regimes_score(outputs, batches):
    "Share of the filter's gain over the best constant distribution; agreement with the true state, and how late"
    stack, truths = lambda values: np.concatenate([np.asarray(v) for v in values]), [b.truth for b in batches]
    r, states = stack(t["r"] for t in truths)[:, 1:], stack(t["states"] for t in truths)[:, :-1]
    ahead, best = map(stack, zip(*map(filtered, truths)))
    densities = [torch.distributions.StudentT(o.df, o.mean, o.scale).log_prob(b.y)[..., 0] for o, b in zip(outputs, batches)]
    gain = lambda density: float((density - mixture(r, .5))[:, WARM:].mean())
    ari, lag = noticed(stack(o.scale[..., 0].log() for o in outputs), states)
    ari_filter, lag_filter = noticed(ahead, states)
    ari_weights, _ = noticed(stack(o.regime[..., 0] for o in outputs), states)
    half = (slice(len(r) // 2, None), slice(WARM, None))
    ari_regime = adjusted_rand(stack(o.regime.argmax(-1) for o in outputs)[half], states[half])
    return dict(share=gain(stack(densities)) / gain(best), gap=gain(best), ari=ari, ari_filter=ari_filter, lag=lag,
                lag_filter=lag_filter, ari_weights=ari_weights, ari_regime=ari_regime)


# --- a pattern to look up, a drift to hold

KEEP, MEMORY, LONGEST_LAG = .9, 500, 20


def both(seed):
    "Each session: yesterday's code, what followed it today, today's code, a noisy input"
    rng, rows = np.random.default_rng(seed), np.arange(BATCH)
    codebook, fresh = codes(rng, BATCH, 256), np.zeros(BATCH, int)
    number, seen = np.zeros((BATCH, SESSIONS), int), np.zeros((BATCH, SESSIONS), bool)
    r, last = rng.standard_normal((BATCH, SESSIONS + 1)), np.zeros((BATCH, 256))  # r[t + 1] follows the code of t
    for t in range(SESSIONS):
        lag = rng.integers(2, LONGEST_LAG + 1, BATCH)
        seen[:, t] = (rng.random(BATCH) < .5) & (lag <= t) | (fresh >= 256)
        number[:, t] = np.where(seen[:, t], number[rows, np.maximum(t - lag, 0)], fresh.clip(max=255))
        fresh += ~seen[:, t]
        again = KEEP * last[rows, number[:, t]] + math.sqrt(1 - KEEP ** 2) * r[:, t + 1]
        r[:, t + 1] = last[rows, number[:, t]] = np.where(seen[:, t], again, r[:, t + 1])
    code, z = codebook[rows[:, None], number], rng.standard_normal((BATCH, SESSIONS))
    before = np.concatenate([0 * code[:, :1], code[:, :-1]], 1)
    x = np.concatenate([before, r[:, :-1, None], code, z[..., None]], -1)
    asked = np.stack([seen, np.ones_like(seen)], -1)
    return tensors(x, np.stack([r[:, 1:], drift(z)], -1), asked, number=number, r=r)


def drift(z):
    "Exponentially weighted sum with a memory of 500 sessions, of unit variance at the last session"
    rho = math.exp(-1 / MEMORY)
    out = z.copy()
    for t in range(1, z.shape[1]): out[:, t] += rho * out[:, t - 1]
    return out * math.sqrt((1 - rho ** 2) / (1 - rho ** (2 * z.shape[1])))


def both_score(outputs, batches):
    "Share of each target's variance that is explained in late sessions, of the pattern's relative to what can be"
    late = lambda values: torch.cat([v[:, 2 * WARM:] for v in values])
    y, mean, asked = late(b.y for b in batches), late(o.mean for o in outputs), late(b.asked[..., 0] for b in batches)
    r2 = lambda y, mean: 1 - ((y - mean).square().mean() / y.square().mean()).item()
    return dict(pattern=r2(y[..., 0][asked], mean[..., 0][asked]) / KEEP ** 2, drift=r2(y[..., 1], mean[..., 1]))


TASKS = {"recall": Task(recall, squared, recall_score, 8 + BITS + 2, (1, 2, 3), 63, 300),
         "regimes": Task(regimes, likelihood, regimes_score, 2, (1,), 63, 200),
         "both": Task(both, squared, both_score, 18, (1, 2), 21, 400)}
HEADLINES = {"recall": [f"recall_{n}" for n in LEVELS] + ["frontier"],
             "regimes": ["share", "ari", "lag", "ari_weights", "ari_regime"], "both": ["pattern", "drift"]}
CLASSES = {"lstm": "LSTMBaseline", "transformer": "TransformerBaseline", "ssm": "SSMBaseline"}


# --- models of equal parameter count

def hybrid(name, task):
    "The hybrid, or the one that differs from it by its coupling or control"
    coupling = "mixture" if name == "hybrid" else name
    return HybridFinancialModel(16, WIDTH, task.features, HEADS, n_layers=LAYERS, horizons=task.horizons, n_regimes=2,
                                windows=(task.window,) * HEADS, coupling=coupling)


def sizes(name, window):
    "Sizes of a baseline, the usual ones first"
    if name == "lstm": return [dict(hidden_dim=d) for d in range(24, 80)]
    if name == "ssm":
        rows = [*range(16, 41), *range(15, 7, -1)]  # if not the hybrid's 16, rather more state than less
        return [dict(dim=d, num_heads=HEADS, state_dim=n) for n in rows for d in range(32, 56, HEADS)]
    return [dict(dim=d, num_heads=h, window=window) for h in (HEADS, 2) for d in range(32, 56, h)]


@lru_cache
def matched(name, task):
    "The first size within 3 % of the hybrid's parameter count, else the nearest"
    cls = MODELS[CLASSES[name]]
    rest = dict(input_dim=task.features, n_layers=LAYERS, horizons=task.horizons)
    wanted = hybrid("hybrid", task).num_parameters
    off = [abs(cls(**size, **rest).num_parameters / wanted - 1) for size in sizes(name, task.window)]
    near = next((i for i, o in enumerate(off) if o < .03), int(np.argmin(off)))
    return lambda: cls(**sizes(name, task.window)[near], **rest)


def build(name, task, seed):
    "A fresh model; ConfigError where the installed package does not know it"
    make = partial(hybrid, name, task) if name in HYBRIDS else matched(name, task)
    with seeded(seed): return make()


# --- one fit

def train(model, task, seed, steps, rate):
    "AdamW, one-cycle, clipped gradients; a fresh batch at every step"
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=.2)
    losses = []
    for step in range(steps):
        batch = task.make(1_000_000 * (seed + 1) + step)
        loss = task.loss(model(batch.x), batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses


@torch.no_grad()
def examine(model, task, seed, batches=8):
    "Held-out loss and scores on sequences that no model was trained on"
    held = [task.make(1_000_000 * (seed + 1) + 900_000 + i) for i in range(batches)]
    outputs = [model(batch.x) for batch in held]
    loss = float(np.mean([task.loss(out, batch).item() for out, batch in zip(outputs, held)]))
    return dict(loss=loss, **task.score(outputs, held))


def fit(job):
    "Train and examine: the row that is kept"
    task, started = TASKS[job["task"]], time.perf_counter()
    model = build(job["model"], task, job["seed"])
    losses = train(model, task, job["seed"], job["steps"], job["rate"])
    curve = [round(float(np.mean(part)), 4) for part in np.array_split(losses, min(10, len(losses)))]
    level = "-".join(map(str, LEVELS)) if job["task"] == "recall" else ""
    scores = examine(model.eval(), task, job["seed"])
    return job | dict(level=level, parameters=model.num_parameters, scores=scores, curve=curve, machine=machine(load=False),
                      torch=torch.__version__, seconds=round(time.perf_counter() - started, 1))


# --- the file of fits

KEY = "task", "model", "seed", "steps", "rate"


def once(out, job, fitter):
    "The row of a job, fitted only if it is not there"
    return common.once(out, job, fitter, KEY, HEADLINES[job["task"]])


def budget(task, args):
    "Steps of a fit"
    return args.steps or TASKS[task].steps


def chosen_rate(task, model, args, fitter):
    "The rate with the lowest held-out loss on the separate seed"
    tuned = "hybrid" if model in HYBRIDS and not args.own_rates else model
    jobs = [dict(task=task, model=tuned, seed=GRID_SEED, steps=budget(task, args), rate=rate) for rate in args.rates]
    if len(jobs) == 1: return args.rates[0]
    return min((once(args.out, job, fitter) for job in jobs), key=lambda row: row["scores"]["loss"])["rate"]


def known(args):
    "Which models the installed package can build, with their parameter counts"
    names = []
    for model in args.models:
        try: counts = [f"{build(model, TASKS[task], 0).num_parameters:,}" for task in args.tasks]
        except ConfigError as refused: print(f"{model} is left out: {refused}")
        else: names.append(model), print(f"{model}: {' / '.join(counts)} parameters ({' / '.join(args.tasks)})")
    return names


def work(args, fitter=fit):
    "Every fit that is not there yet; seed 0 of everything first"
    models = known(args)
    for seed in range(args.seeds):
        for task in args.tasks:
            for model in models:
                rate = chosen_rate(task, model, args, fitter)
                once(args.out, dict(task=task, model=model, seed=seed, steps=budget(task, args), rate=rate), fitter)


# --- tables

def scored(rows, task, steps):
    "model -> seed -> row, grid fits left out; the last one counts"
    table = defaultdict(dict)
    for row in rows:
        if (row["task"], row["steps"]) != (task, steps) or row["seed"] == GRID_SEED: continue
        table[row["model"]][row["seed"]] = row
    return table


def scores_table(table, names):
    "One line per model: mean and standard deviation over seeds; one seed has none"
    print("\n| model | parameters | rate | seeds | " + " | ".join(names) + " |\n|" + "---|" * (4 + len(names)))
    for model in [m for m in HYBRIDS + BASELINES if m in table]:
        rows = list(table[model].values())
        values = np.array([[row["scores"][name] for name in names] for row in rows])
        cells = [f"{v.mean():.3f}" + (f" ± {v.std(ddof=1):.3f}" if len(v) > 1 else "") for v in values.T]
        front = model, f"{rows[0]['parameters']:,}", f"{rows[0]['rate']:g}", str(len(rows))
        print("| " + " | ".join([*front, *cells]) + " |")


def differences_table(table, names):
    "Hybrid minus each baseline, paired by seed, with a 95 % interval"
    print("\n| hybrid minus | " + " | ".join(names) + " |\n|" + "---|" * (1 + len(names)))
    for model in [m for m in HYBRIDS + BASELINES if m in table and m != "hybrid"]:
        ours = table["hybrid"]
        pairs = [(ours[s]["scores"], row["scores"]) for s, row in table[model].items() if s in ours]
        if pairs: print(f"| {model} | " + " | ".join(interval([a[n] - b[n] for a, b in pairs]) for n in names) + " |")


def tables(args):
    "Everything that is there, and the line of the machine it ran on"
    rows = read(args.out)
    for line in sorted({row["machine"] for row in rows}): print(line)
    for task in args.tasks:
        table = scored(rows, task, budget(task, args))
        if not table: continue
        print(f"\n## {task}, {budget(task, args)} steps")
        scores_table(table, HEADLINES[task])
        differences_table(table, HEADLINES[task])
        optimum = {k: np.mean([r["scores"][k] for m in table.values() for r in m.values()])
                   for k in ("gap", "ari_filter", "lag_filter") if task == "regimes"}
        if optimum: print("\nOptimal filter: " + ", ".join(f"{k} {v:.3f}" for k, v in optimum.items()))


def arguments(words=None):
    "The options of the command line"
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    ask.add_argument("--models", nargs="+", default=["hybrid", *BASELINES, *HYBRIDS[1:]], choices=HYBRIDS + BASELINES)
    ask.add_argument("--seeds", type=int, default=5)
    ask.add_argument("--steps", type=int, help="of every fit; without it each task has its own budget, at most 400")
    ask.add_argument("--rates", type=float, nargs="+", default=[.003, .01, .03], help="learning rates to choose from")
    ask.add_argument("--own-rates", action="store_true", help="choose a rate for every coupling and control too")
    ask.add_argument("--threads", type=int, default=1)
    ask.add_argument("--out", default="runs/learning")
    ask.add_argument("--table", action="store_true", help="print the tables of what is there and stop")
    return ask.parse_args(words)


if __name__ == "__main__":
    common.work_and_show(arguments(), work, tables)
