"""One session more: what a bar costs, batch by batch, and whether it stays that cheap.

usage: python bench/streaming.py [--batches 1 64 500] [--rounds 7] [--bars 50] [--compile] [--long 10000]

A round times `bars` steps of each baseline in turn. `--long` walks that many bars with one cache and prints the size of the
cache and the time of a bar at the beginning and at the end: neither may grow.
"""
import argparse
import resource
import time

import torch
from common import head, interleave, machine, median, ratio, row
from torch import nn

from hybrid_ssm.baselines import LSTMBaseline
from hybrid_ssm.hybrid import HybridFinancialModel

WIDTH, ROWS, HEADS, FEATURES = 64, 16, 4, 20


def build():
    "The hybrid of two blocks, in evaluation mode and without gradients"
    return HybridFinancialModel(ROWS, WIDTH, FEATURES, HEADS, seed=0).eval().requires_grad_(False)


def walk(step, cache, batch, bars):
    "`bars` steps as a function without arguments; the cache goes on from call to call"
    x, held = torch.randn(batch, FEATURES), [cache]

    def run():
        for _ in range(bars):
            _, held[0] = step(x, held[0])
    return run


def bare_lstm(batch, bars):
    "Two layers of `nn.LSTM` on features, nothing around them"
    net = nn.LSTM(FEATURES, WIDTH, 2, batch_first=True).requires_grad_(False)
    return walk(lambda x, state: net(x[:, None], state), None, batch, bars)


def baselines(batch, bars, compiled):
    "name -> function that walks `bars` bars"
    model, lstm = build(), LSTMBaseline(WIDTH, FEATURES).eval().requires_grad_(False)
    runners = {"hybrid": walk(model.step, model.init_cache(batch), batch, bars),
               "LSTM with the hybrid's heads": walk(lstm.step, lstm.init_cache(batch), batch, bars),
               "nn.LSTM alone": bare_lstm(batch, bars)}
    if compiled:
        fast = torch.compile(model.step, dynamic=False)
        runners["hybrid, compiled"] = walk(fast, model.init_cache(batch), batch, bars)
    return runners


def size(cache):
    "Bytes a cache holds"
    if isinstance(cache, torch.Tensor):
        return cache.numel() * cache.element_size()
    return sum(map(size, cache))


def endurance(bars):
    "The first and the last tenth of a long walk"
    model = build()
    cache, took = model.init_cache(1), []
    x = torch.randn(bars, 1, FEATURES)
    before, peak = size(cache), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for t in range(bars):
        start = time.perf_counter()
        _, cache = model.step(x[t], cache)
        took.append(time.perf_counter() - start)
    median = lambda part: sorted(part)[len(part) // 2] * 1e6
    growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) / 1024
    print(f"\n{bars:,} bars: cache {before:,} -> {size(cache):,} bytes, process +{growth:.1f} MiB, a bar "
          f"{median(took[:bars // 10]):,.0f} us in the first tenth, {median(took[-bars // 10:]):,.0f} us in the last")


def main():
    "Print the machine line and a row per batch and baseline"
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--batches", type=int, nargs="+", default=[1, 64, 500])
    ask.add_argument("--rounds", type=int, default=7)
    ask.add_argument("--bars", type=int, default=50)
    ask.add_argument("--threads", type=int, default=1)
    ask.add_argument("--compile", action="store_true", help="the step compiled, too (about a minute a batch size)")
    ask.add_argument("--long", type=int, default=10_000, help="bars of the long walk; 0 = none")
    args = ask.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    print(machine())
    print(f"one step, two blocks of width {WIDTH}, {args.rounds} rounds of {args.bars} bars\n")
    others = "LSTM with the hybrid's heads", "nn.LSTM alone"
    print(head("batch", "", "us a bar", *(f"this / {baseline}" for baseline in others)))
    for batch in args.batches:
        bars = max(args.bars // (1 + batch // 50), 4)
        runners = baselines(batch, bars, args.compile)
        taken = interleave(runners, args.rounds)
        for name in runners:
            each = round(1e6 * median(taken, name) / bars)
            print(row(batch, name, each, *(ratio(taken, name, baseline) for baseline in others)), flush=True)
    if args.long:
        endurance(args.long)


if __name__ == "__main__":
    main()
