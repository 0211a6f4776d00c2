"""The backtest: seconds against the library `bt` on the same weights, and many strategies at once.

usage: python bench/backtest.py [--quick] [--symbols 20] [--years 20] [--variants 1000] [--rounds 3]

Both accounts trade the same random weights at every close, without costs, in one process, in turn; their equity must be the
same to 1e-8 before anything is timed. What is printed is the median over rounds of the ratio of seconds: above 1, ours is the
faster one. Then `--variants` strategies are run by `backtest_variants`, and a few of them alone: the net returns must be the
same. Memory is that of the whole process. `--quick` is 5 symbols x 2 years and 50 strategies.
"""
import argparse
import resource
import statistics
import time
import warnings
from collections.abc import Mapping

import bt
import numpy as np
import pandas as pd
from processor import processor

from hybrid_ssm.backtest import backtest_variants, run_backtest
from hybrid_ssm.core import SESSIONS_PER_YEAR
from hybrid_ssm.data import Bars


class Variants(Mapping):
    "Strategies that are made when they are asked for: a thousand tables of weights need not be in memory"

    def __init__(self, base, count):
        self.base, self.count = base, count

    def __getitem__(self, name):
        rng = np.random.default_rng(int(name))
        return self.base * rng.uniform(0.1, 1.0, self.base.shape[1])

    def __iter__(self):
        return iter(map(str, range(self.count)))

    def __len__(self):
        return self.count


def market(symbols, years, seed=0):
    "Random prices, and targets that change in every session"
    rng = np.random.default_rng(seed)
    days = pd.bdate_range("2000-01-03", periods=years * SESSIONS_PER_YEAR)
    names = [f"S{i:02d}" for i in range(symbols)]
    close = pd.DataFrame(100 * np.exp(rng.normal(0, 0.01, (len(days), symbols)).cumsum(0)), days, names)
    return Bars(close=close), pd.DataFrame(rng.normal(0, 1 / symbols, close.shape), days, names)


def by_bt(weights, close):
    "Equity as `bt` finds it"
    algos = [bt.algos.WeighTarget(weights), bt.algos.Rebalance()]
    oracle = bt.Backtest(bt.Strategy("s", algos), close, initial_capital=1e6, integer_positions=False, progress_bar=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        oracle.run()
    return oracle.strategy.prices.reindex(weights.index) / 100


def seconds(call):
    "Seconds by the clock, and of the processor, of one call"
    clock, began = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - clock, time.process_time() - began


def peak():
    "Most memory that the process ever held, MiB"
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def against_bt(bars, weights, rounds):
    "Print the ratio to `bt`"
    apart = np.abs(by_bt(weights, bars.close) - run_backtest(weights, bars, costs=0.0).equity).max()
    assert apart < 1e-8, f"the two accounts differ by {apart:.1e}, so their speed is not compared"
    taken = [(seconds(lambda: by_bt(weights, bars.close)), seconds(lambda: run_backtest(weights, bars, costs=0.0))) for _ in range(rounds)]
    theirs, ours = (statistics.median(pair[k][1] for pair in taken) for k in (0, 1))
    ratio = statistics.median(pair[0][1] / pair[1][1] for pair in taken)
    print(f"| bt | {theirs:.2f} |\n| run_backtest | {ours:.3f} |")
    print(f"bt takes {ratio:.0f} times as long; the equity differs by {apart:.0e}")


def many(bars, weights, count):
    "Print what many strategies take together, and each of some alone"
    every, before = Variants(weights, count), peak()
    out = []
    clock, spent = seconds(lambda: out.append(backtest_variants(every, bars, costs=5e-4)))
    some = list(every)[:: max(count // 5, 1)][:5]
    alone = statistics.median(seconds(lambda n=n: run_backtest(every[n], bars, costs=5e-4))[1] for n in some)
    apart = max(np.abs(out[0].net_returns[n] - run_backtest(every[n], bars, costs=5e-4).net_returns).max() for n in some)
    assert apart <= 1e-12, f"a strategy among many differs from itself alone by {apart:.1e}"
    print(f"{count} strategies: {spent:.1f} s of the processor ({clock:.1f} s by the clock), {count * alone / spent:.1f} times as fast as one after the other")
    print(f"peak memory {peak():.0f} MiB, {before:.0f} MiB before; net returns differ by {apart:.0e} from those alone")


def main():
    "Print the machine and both comparisons"
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--quick", action="store_true")
    ask.add_argument("--symbols", type=int, default=20)
    ask.add_argument("--years", type=int, default=20)
    ask.add_argument("--variants", type=int, default=1000)
    ask.add_argument("--rounds", type=int, default=3)
    args = ask.parse_args()
    if args.quick:
        args.symbols, args.years, args.variants = 5, 2, 50
    bars, weights = market(args.symbols, args.years)
    print(f"{processor()}, numpy {np.__version__}, pandas {pd.__version__}, bt {bt.__version__}")
    print(f"{args.symbols} symbols x {args.years} years = {len(weights)} sessions, seconds of the processor, median of {args.rounds}")
    against_bt(bars, weights, args.rounds)
    many(bars, weights, args.variants)


if __name__ == "__main__":
    main()
