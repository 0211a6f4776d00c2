"""All features on synthetic OHLCV: time, peak memory, time of each, growth with symbols, and pandas beside them.

usage: python bench/features.py [--quick] [--symbols 500] [--years 20] [--names all] [--rounds 5]

The baselines of the last table are the same indicators as one writes them in pandas, symbol by symbol. Each round times
every pair one after the other, so that a machine that slows down slows both; what is printed is the median over rounds
of the ratio within a round. Above 1, this package is faster. Seconds are those of the processor, on one core if
OMP_NUM_THREADS is 1. `--quick` is 20 symbols x 4 years.
"""
import argparse
import platform
import resource
import statistics
import time
import warnings

import numpy as np
import pandas as pd
from processor import processor

from hybrid_ssm.core import SESSIONS_PER_YEAR
from hybrid_ssm.data import Bars
from hybrid_ssm.feature_set import FEATURES, compute_features, find_features, live_features
from hybrid_ssm.features import (
    MissingInputWarning,
    _fill_by_symbol,
    _fill_cross_section,
    symbol_series,
)


def machine():
    "The line without which no figure means anything"
    return f"{processor()}, numpy {np.__version__}, pandas {pd.__version__}, Python {platform.python_version()}"


def market(symbols, sessions, seed=0):
    "OHLCV with a common factor, heavy tails and volumes that come in waves"
    rng, shape = np.random.default_rng(seed), (sessions, symbols)
    r = .008 * (rng.standard_t(5, shape) + rng.standard_t(5, (sessions, 1)))
    close = 50 * np.exp(np.cumsum(r - r.mean(0), 0))
    open_ = close * np.exp(-r * rng.random(shape))
    high = np.maximum(open_, close) * np.exp(.004 * rng.random(shape))
    low = np.minimum(open_, close) * np.exp(-.004 * rng.random(shape))
    volume = np.exp(12 + .5 * rng.normal(size=shape) + 20 * np.abs(r))
    frame = lambda v: pd.DataFrame(v, pd.bdate_range("2000-01-03", periods=sessions),
                                   [f"S{j:03d}" for j in range(symbols)])
    fields = ("open", "high", "low", "close", "volume")
    return Bars(**{n: frame(v) for n, v in zip(fields, (open_, high, low, close, volume))},
                extras={"carry": frame(.02 * rng.normal(size=shape))})


def seconds(call, *args):
    "Seconds of one core that one call takes (what others do meanwhile does not count)"
    start = time.process_time()
    call(*args)
    return time.process_time() - start


def each(bars, features):
    "Seconds of each feature, all symbols, filling a panel in float32 as compute_features does"
    taken = {}
    start = time.process_time()
    own = symbol_series(bars, tuple(dict.fromkeys(i for f in features for i in f.inputs)))
    taken["series"] = time.process_time() - start
    panel = np.full((*bars.close.shape, len(features)), np.nan, np.float32)
    with np.errstate(all="ignore"):
        for k, f in enumerate(features):
            fill = _fill_cross_section if f.cross_section else _fill_by_symbol
            taken[f.name] = seconds(fill, f, own, panel[..., k])
    start = time.process_time()
    np.isfinite(panel)
    taken["flags"] = time.process_time() - start
    return pd.Series(taken)


def cci(x):
    "Commodity channel index; the mean deviation has no shortcut in pandas"
    deviation = x.rolling(20).apply(lambda w: np.abs(w - w.mean()).mean(), raw=True)
    return (x - x.rolling(20).mean()) / (1.5 * deviation)


IN_PANDAS = {  # feature -> the same in pandas, of a frame with columns o h l c v r
    "ma_distance_200": lambda t: np.log(t.c / t.c.rolling(200).mean()) / (t.r.rolling(63).std() * 200 ** .5),
    "return_252": lambda t: t.c.pct_change(252) / (t.r.rolling(63).std() * 252 ** .5),
    "bollinger_width_20": lambda t: 4 * t.c.rolling(20).std(ddof=0) / t.c.rolling(20).mean(),
    "donchian_55": lambda t: (t.c - t.l.rolling(55).min()) / (t.h.rolling(55).max() - t.l.rolling(55).min()),
    "volatility_ratio_21_252": lambda t: np.log(t.r.rolling(21).std() / t.r.rolling(252).std()),
    "skewness_252": lambda t: t.r.rolling(252).skew(),
    "kurtosis_63": lambda t: t.r.rolling(63).kurt(),
    "parkinson_21": lambda t: (252 * (np.log(t.h / t.l) ** 2).rolling(21).mean() / (4 * np.log(2))) ** .5,
    "price_volume_correlation_21": lambda t: np.log(t.c).rolling(21).corr(np.log(t.v)),
    "ppo_12_26": lambda t: 100 * (t.c.ewm(span=12).mean() / t.c.ewm(span=26).mean() - 1),
    "natr_14": lambda t: (np.maximum(t.h, t.c.shift()) - np.minimum(t.l, t.c.shift())).ewm(alpha=1 / 14).mean() / t.c,
    "aroon_up_25": lambda t: t.h.rolling(26).apply(lambda w: 1 - w[::-1].argmax() / 25, raw=True),
    "cci_20": lambda t: cci(t.h + t.l + t.c),
}


def against_pandas(bars, rounds):
    "feature -> median ratio of pandas' time to ours, a few symbols"
    fields = ("open", "high", "low", "close", "volume")
    own = symbol_series(bars, fields)
    tables = [pd.DataFrame({n[0]: h.columns[n] for n in fields} | {"r": h.returns}) for h in own]
    def ours(name):
        for h in own: FEATURES[name].function(h)
    def theirs(name):
        for t in tables: IN_PANDAS[name](t)
    with np.errstate(all="ignore"):
        pairs = [{n: seconds(theirs, n) / seconds(ours, n) for n in IN_PANDAS} for _ in range(rounds + 1)][1:]
    return pd.Series({n: statistics.median(p[n] for p in pairs) for n in IN_PANDAS})


def live(bars, features, updates=3):
    "Seconds of one bar in the live form, all symbols"
    cut = len(bars.sessions) - updates
    form = live_features(features, bars.symbols, bars.upto(bars.sessions[cut - 1]))
    days = [bars.window(bars.sessions[t], bars.sessions[t]) for t in range(cut, len(bars.sessions))]
    return statistics.median(seconds(form.update, day) for day in days)


def table(rows, heads):
    "A small Markdown table"
    print("\n| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))
    for row in rows: print("| " + " | ".join(row) + " |")


def main():
    "Print the machine and the tables"
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--quick", action="store_true")
    ask.add_argument("--symbols", type=int, default=500)
    ask.add_argument("--years", type=int, default=20)
    ask.add_argument("--names", default="all", help="all, default, a family, or one feature")
    ask.add_argument("--rounds", type=int, default=5)
    ask.add_argument("--no-growth", action="store_true", help="leave out half and quarter of the symbols")
    args = ask.parse_args()
    if args.quick:
        args.symbols, args.years = 20, 4
    warnings.simplefilter("ignore", MissingInputWarning)
    features, bars = find_features(args.names), market(args.symbols, args.years * SESSIONS_PER_YEAR)
    names = [f.name for f in features]
    print(f"{machine()}\n{len(names)} features, {args.symbols} symbols x {len(bars.sessions)} sessions")

    compute_features(bars.select(list(bars.symbols[:3])), names)  # warm: imports, first calls
    memory = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** 20
    idle, counts = memory(), (args.symbols,) if args.no_growth else (args.symbols // 4, args.symbols // 2, args.symbols)
    sizes, peaks = {}, {}
    for n in counts:
        sizes[n] = each(bars.select(list(bars.symbols[:n])), features)
        peaks[n] = memory()
    wide = [f.name for f in features if f.cross_section]
    panel = lambda n: len(names) * n * len(bars.sessions) * 5 / 2 ** 30  # float32 and a flag
    print(f"\nbefore the first panel {idle:.2f} GiB were held")
    table([(str(n), f"{t.sum():.1f}", f"{t.drop(wide).sum():.1f}", f"{t[wide].sum():.1f}", f"{t.sum() / n * 1e3:.0f}",
            f"{t.sum() / len(names) / n * 1e3:.2f}", f"{peaks[n]:.2f}", f"{panel(n):.2f}") for n, t in sizes.items()],
          ("symbols", "all, s", "own-asset, s", "cross-section, s", "ms a symbol", "ms a symbol and feature",
           "peak memory, GiB", "of which the panel"))
    last = sizes[args.symbols][names] * 1e3 / args.symbols
    by_family = last.groupby([f.family for f in features])
    table([(f, str(len(v)), f"{v.median():.2f}", f"{v.max():.2f}", v.idxmax()) for f, v in by_family],
          ("family", "features", "median, ms a symbol", "longest", "which"))
    table([(n, f"{v:.2f}") for n, v in last.nlargest(12).items()], ("longest features", "ms a symbol"))

    few = bars.select(list(bars.symbols[:8]))
    table([(n, f"{v:.1f}") for n, v in against_pandas(few, args.rounds).items()], ("feature", "pandas / here"))
    quick = tuple(f for f in features if np.isfinite(f.tolerance))
    print(f"\nlive form, {len(quick)} features x {len(few.symbols)} symbols: {live(few, quick) * 1e3:.0f} ms a bar")


if __name__ == "__main__":
    main()
