"""Seeds of one small network: one after the other, in processes, or as one batched network.

usage: python bench/seeds.py [--rounds 5] [--steps 3] [--seeds 3 5] [--sizes usual tiny]

one after the other  every seed makes its steps with the trainer's own functions, one thread.
batched              all seeds as one network: `torch.func.stack_module_state`, `functional_call` and `vmap` over the first
                     axis of every parameter. Each seed keeps its own windows, its own objective, its own clipping and the
                     same AdamW steps. One thread.
processes            the seeds shared out among two processes with one thread each (joblib's loky), which stay alive.

A step is the whole of it: windows taken from their tables, forward, the joint objective net of costs, backward, clipping, AdamW. Before anything
is timed, the gradients of one batched step are compared with those of the single networks (ratio of norms).

The model checks its inputs by value, which `vmap` cannot trace; the batched form therefore runs with these checks off, as
compiled code does. Beside wall-clock time, which others on the machine lengthen, the time of the processor is compared for the
two forms of one thread. Two processes spend as much of it as one after the other does, so on two quiet cores they are twice as
fast, and one batched thread has to save more than half of the processor's time to be faster than they are.
"""
import argparse
import time
from contextlib import contextmanager
from functools import cache

import numpy as np
import torch
from common import head, interleave, machine, median, ratio, row
from joblib import Parallel, delayed
from torch import nn
from torch.func import functional_call, stack_module_state, vmap

from hybrid_ssm.callbacks import SCHEDULES, configure_optimizer
from hybrid_ssm.handler import PanelArrays
from hybrid_ssm.hybrid import HybridFinancialModel, ModelOutput
from hybrid_ssm.loop import Batch, Run, gradients, take_batch
from hybrid_ssm.losses import JointLoss

SIZES = {"usual": dict(state_dim=16, memory_dim=32, num_heads=4, batch=64, length=252, warm_up=63),
         "tiny": dict(state_dim=4, memory_dim=8, num_heads=2, batch=16, length=63, warm_up=21)}
FEATURES, SYMBOLS, SESSIONS, RATE, LOSS = 10, 20, 2520, 1e-3, JointLoss()


@cache
def windows(size):
    "Windows into tables of noise (speed does not depend on what the numbers are)"
    rng, shape = np.random.default_rng(0), (SYMBOLS, SESSIONS, FEATURES)
    tables = PanelArrays(rng.standard_normal(shape, np.float32), np.ones(shape, bool), np.ones(SESSIONS, np.float32),
                         rng.standard_normal((SYMBOLS, SESSIONS, 3), np.float32), np.full(shape[:2], .05, np.float32))
    length = SIZES[size]["length"]
    return tables.cut(np.arange(0, SESSIONS - length + 1, length // 2), length, SIZES[size]["warm_up"])


def network(size, seed):
    "A fresh network"
    return HybridFinancialModel(*(SIZES[size][k] for k in ("state_dim", "memory_dim")), FEATURES, SIZES[size]["num_heads"], seed=seed)


def draw(size, seed, step):
    "The windows of one step of one seed"
    rows = np.random.default_rng([seed, step]).integers(0, len(windows(size)), SIZES[size]["batch"])
    return take_batch(windows(size), rows)


# --- one network at a time


class Single:
    "One seed, step by step, as the trainer does it"
    def __init__(self, size, seed):
        self.size, self.seed, self.count = size, seed, 0
        self.run = configure_optimizer(Run(network(size, seed), 1), RATE, 10 ** 6, loss=LOSS)

    def gradient(self):
        "Add the gradient of the next step"
        gradients(self.run.model, draw(self.size, self.seed, self.count), LOSS)

    def step(self):
        "One whole step"
        self.gradient()
        nn.utils.clip_grad_norm_(self.run.model.parameters(), 1.)
        self.run.optimizer.step(), self.run.schedule.step(), self.run.optimizer.zero_grad()
        self.count += 1


@cache
def single(size, seed):
    "The same object in every call of one process, so that a worker builds it once"
    return Single(size, seed)


def work(size, seeds, steps):
    "Steps of some seeds in this process"
    torch.set_num_threads(1)
    for seed in seeds:
        for _ in range(steps): single(size, seed).step()


# --- all seeds as one network


@contextmanager
def unchecked():
    "Checks by value off, as in compiled code"
    honest = torch.compiler.is_compiling
    torch.compiler.is_compiling = lambda: True
    try: yield
    finally: torch.compiler.is_compiling = honest


class Batched:
    "Seeds stacked along the first axis of every parameter"
    def __init__(self, size, seeds):
        self.size, self.seeds, self.count = size, list(seeds), 0
        nets = [network(size, seed) for seed in seeds]
        self.parameters, self.buffers = stack_module_state(nets)
        self.net = nets[0].to("meta")
        self.optimizer = torch.optim.AdamW(self.parameters.values(), lr=RATE, weight_decay=.01)
        self.schedule = SCHEDULES["one_cycle"](self.optimizer, RATE, 10 ** 6)

    def forward(self, batch):
        "Outputs of all seeds, each on its own windows"
        one = lambda p, b, x, dt: tuple(functional_call(self.net, (p, b), (x,), dict(dt=dt)))
        with unchecked():  # everything is observed: without a mask nothing is spent on it, as in the single form
            return ModelOutput(*vmap(one)(self.parameters, self.buffers, batch.x, batch.dt))

    def gradient(self):
        "Add the gradients of the next step of every seed"
        parts = [draw(self.size, seed, self.count) for seed in self.seeds]
        stacked = Batch(*(None if v[0] is None else torch.stack(v) for v in zip(*parts)))
        out = self.forward(stacked)
        sum(LOSS(ModelOutput(*(v[i] for v in out)), part).total for i, part in enumerate(parts)).backward()

    def clip(self):
        "Each seed's gradient to a norm of at most 1"
        grads = [p.grad for p in self.parameters.values() if p.grad is not None]
        norms = sum(g.reshape(len(g), -1).square().sum(1) for g in grads).sqrt()
        factor = (1 / (norms + 1e-6)).clamp(max=1.)
        for g in grads: g.mul_(factor.view(-1, *[1] * (g.dim() - 1)))

    def step(self):
        "One whole step of every seed"
        self.gradient(), self.clip()
        self.optimizer.step(), self.schedule.step(), self.optimizer.zero_grad()
        self.count += 1


def disagreement(size, seeds):
    "Gradients of one batched step against the single ones: largest ratio of norms over the parameters of all seeds together"
    many = Batched(size, seeds)
    many.gradient()
    worst = 0.
    for i, seed in enumerate(seeds):
        one = Single(size, seed)
        one.gradient()
        pairs = [(p.grad, many.parameters[name].grad[i]) for name, p in one.run.model.named_parameters() if p.grad is not None]
        apart = sum((a - b).square().sum() for a, b in pairs).sqrt() / sum(a.square().sum() for a, _ in pairs).sqrt()
        worst = max(worst, float(apart))
    return worst


# --- the table


def processor_ratio(forms, rounds):
    "Median over rounds of processor seconds, one after the other over batched"
    used = lambda call: (-time.process_time(), call(), time.process_time())
    spent = lambda call: sum(x for x in used(call) if x is not None)
    return float(np.median([spent(forms["one after the other"]) / spent(forms["batched"]) for _ in range(rounds)]))


def measure(size, count, args, pool):
    "One row: baselines in turn"
    seeds = range(count)
    apart = disagreement(size, seeds)
    many, halves = Batched(size, seeds), [seeds[::2], seeds[1::2]]

    def batched():
        for _ in range(args.steps): many.step()
    forms = {"one after the other": lambda: work(size, seeds, args.steps), "batched": batched,
             "two processes": lambda: pool(delayed(work)(size, half, args.steps) for half in halves)}
    taken = interleave(forms, args.rounds)
    against = lambda a, b: ratio(taken, a, b)
    print(row(f"{size}, {count} seeds", apart, 1e3 * median(taken, "one after the other") / args.steps / count,
              against("one after the other", "batched"), processor_ratio(forms, args.rounds),
              against("one after the other", "two processes"), against("two processes", "batched")), flush=True)


def main():
    "Print the machine line and the table"
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--rounds", type=int, default=5)
    ask.add_argument("--steps", type=int, default=3, help="of every seed, in a round")
    ask.add_argument("--seeds", type=int, nargs="+", default=[3, 5])
    ask.add_argument("--sizes", nargs="+", default=list(SIZES), choices=list(SIZES))
    args = ask.parse_args()
    torch.set_num_threads(1)
    print(machine(), flush=True)
    print(head("", "gradients apart", "ms a step of one seed", "one after the other / batched", "the same, processor time",
               "one after the other / two processes", "two processes / batched"))
    with Parallel(n_jobs=2, backend="loky", inner_max_num_threads=1) as pool:
        for size in args.sizes:
            for count in args.seeds: measure(size, count, args, pool)


if __name__ == "__main__":
    from seeds import main as importable  # workers find its functions by the name of this module

    importable()
