"""The snapshot store: seconds to write, to read back and to load many symbols, and what one call costs.

usage: python bench/store.py [--quick] [--symbols 500] [--years 20] [--rounds 3] [--folder DIR]

Nothing is asked of a network: the source is a random market. `verify` is everything that the store does for a panel (bytes,
checksums, tables), and `load` makes the panel as well. What is printed is the median over rounds: seconds of the processor
(what others do meanwhile does not count) and seconds by the clock. `--quick` is 20 symbols x 4 years. To compare two
versions of the package, run it under each one's PYTHONPATH on the same machine.
"""
import argparse
import platform
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from processor import processor

from hybrid_ssm.core import SESSIONS_PER_YEAR
from hybrid_ssm.sources import RAW_COLUMNS, RawBars
from hybrid_ssm.store import SnapshotStore


def source(sessions):
    "A source of random shares: fetch(symbol, start=None)"
    days = pd.bdate_range("2000-01-03", periods=sessions).as_unit("us")
    def fetch(symbol, start=None):
        rng = np.random.default_rng(int(symbol[1:]))
        close = 50 * np.exp(rng.normal(0, .015, sessions).cumsum())
        table = {"date": days, "open": close * .99, "high": close * 1.01, "low": close * .98, "close": close,
                 "adj_close": close, "volume": rng.integers(1e5, 1e7, sessions).astype(float), "dividend": 0., "split": 1.}
        table = pd.DataFrame(table)[list(RAW_COLUMNS)]
        table = table if start is None else table[table["date"] >= start].reset_index(drop=True)
        return RawBars(symbol, table, days[-1], "USD")
    return fetch


def seconds(call, rounds):
    "Median seconds of the processor, and by the clock, that a call takes"
    taken = []
    for _ in range(rounds):
        start, began = time.process_time(), time.perf_counter()
        call()
        taken.append((time.process_time() - start, time.perf_counter() - began))
    return [statistics.median(t) for t in zip(*taken)]


def main():
    "Print the machine and the table"
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--quick", action="store_true")
    ask.add_argument("--symbols", type=int, default=500)
    ask.add_argument("--years", type=int, default=20)
    ask.add_argument("--rounds", type=int, default=3)
    ask.add_argument("--folder", help="where the store is made; a temporary folder if left out")
    args = ask.parse_args()
    if args.quick:
        args.symbols, args.years = 20, 4
    sessions = args.years * SESSIONS_PER_YEAR
    names = [f"S{i:04d}" for i in range(args.symbols)]
    print(f"{processor()}, pandas {pd.__version__}, Python {platform.python_version()}")
    print(f"{args.symbols} symbols x {sessions} sessions, median of {args.rounds}")
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        store = SnapshotStore(folder, "bench", fetch=source(sessions))
        end = store.fetch("S0000").table["date"].iloc[-1]
        rows = {"update, first time": seconds(lambda: store.update(names), 1)}
        shut = SnapshotStore(folder, "bench", fetch=None, offline=True)
        rows["symbols"] = seconds(lambda: shut.symbols, args.rounds)
        rows["raw of one symbol"] = seconds(lambda: shut.raw(names[-1]), args.rounds)
        rows["verify (read all)"] = seconds(shut.verify, args.rounds)
        rows["load of one symbol"] = seconds(lambda: shut.load(names[0], end=end), args.rounds)
        rows["load of all"] = seconds(lambda: shut.load(names, end=end), args.rounds)
        rows["update of ten, nothing new"] = seconds(lambda: store.update(names[:10]), args.rounds)
        size = sum(p.stat().st_size for p in Path(folder).rglob("*") if p.is_file()) / 2 ** 20
    print("\n| | seconds of the processor | by the clock |\n|---|---|---|")
    for name, taken in rows.items():
        print(f"| {name} | " + " | ".join(f"{t:.4f}" if t < .1 else f"{t:.2f}" for t in taken) + " |")
    print(f"\n{size:.1f} MiB on disk")


if __name__ == "__main__":
    main()
