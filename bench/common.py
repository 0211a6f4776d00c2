"""What the benchmarks here share: the machine line, baselines in turn, ratios, peak memory, the file of fits, table rows."""
import ctypes
import json
import math
import os
import platform
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from processor import processor
from scipy import stats
from torch.profiler import ProfilerActivity, profile


def machine(load=True):
    "The line without which no figure means anything; where only results count and no time, the load does not"
    where = f"{processor()}, {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} thread(s)"
    if torch.cuda.is_available():
        where += f", {torch.cuda.get_device_name()}"
    where += f", torch {torch.__version__}, Python {platform.python_version()}"
    return f"{where}, {busy()}" if load else where


def busy(seconds=1.0):
    "How much of all cores others (and this process) used just now; a crowded machine is part of the figure"
    stat = Path("/proc/stat")
    if not stat.exists():
        return "load unknown"
    read = lambda: [int(x) for x in stat.read_text().splitlines()[0].split()[1:9]]
    before = read()
    time.sleep(seconds)
    spent = [b - a for a, b in zip(before, read())]
    return f"cores {100 - 100 * (spent[3] + spent[4]) // max(sum(spent), 1)} % busy with other work"


def keep_memory():
    "Ask the C library never to hand memory back, so that no call pays for fresh pages; False where it cannot"
    try:
        libc = ctypes.CDLL("libc.so.6")
        return bool(libc.mallopt(-4, 0)) and bool(libc.mallopt(-1, -1))  # no mmap, no trim
    except (OSError, AttributeError):
        return False


def seconds(call):
    "Seconds of one call; a card is waited for"
    start = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def interleave(runners, rounds):
    "Warm-up first; then every round times every baseline once, so that a machine that slows down slows all"
    for call in runners.values():
        seconds(call)
    return [{name: seconds(call) for name, call in runners.items()} for _ in range(rounds)]


def ratio(taken, a, b):
    "Median over rounds of seconds of `a` over seconds of `b`: above 1, `b` is the faster one"
    return statistics.median(round_[a] / round_[b] for round_ in taken)


def median(taken, name):
    "Median seconds of a baseline"
    return statistics.median(round_[name] for round_ in taken)


def peak_mib(call):
    "Most memory that torch held at once beyond what it held before, MiB (the allocator's own events)"
    call()  # what is allocated once is not counted
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        call()
    events = seen.profiler.kineto_results.events()
    held = most = 0
    for _, size in sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"):
        held += size
        most = max(most, held)
    return most / 2 ** 20


def work_and_show(args, work, tables):
    "Do what is missing unless only the tables were asked for, then print them"
    torch.set_num_threads(args.threads)
    if not args.table: print(machine(load=False)), work(args)
    tables(args)


def row(*cells):
    "A row of a Markdown table; numbers to three figures"
    say = lambda x: f"{x:.3g}" if isinstance(x, float) else "" if x is None else str(x)
    return "| " + " | ".join(map(say, cells)) + " |"


def head(*cells):
    "The head of a Markdown table"
    return row(*cells) + "\n" + "|---" * len(cells) + "|"


# --- the file of fits: one line of JSON each, so that a run that was stopped goes on where it was

def read(out):
    "The fits that are there; a line that was torn by a stop is not one"
    path, rows = Path(out) / "fits.jsonl", []
    for line in path.read_text().splitlines() if path.exists() else []:
        try: rows.append(json.loads(line))
        except json.JSONDecodeError: print(f"{path}: a torn line is passed over")
    return rows


def keep(out, row):
    "Append one line and see it on the disk"
    path = Path(out) / "fits.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    torn = path.exists() and not path.read_text().endswith("\n") and path.stat().st_size > 0
    with open(path, "a") as file:
        file.write("\n" * torn + json.dumps(row) + "\n")
        file.flush()
        os.fsync(file.fileno())


def once(out, job, fitter, key, headlines):
    "The row of a job, fitted only if no row has the same `key`; what it scored is told"
    row = next((r for r in read(out) if all(r.get(k) == job[k] for k in key)), None)
    if row is None:
        row = fitter(job)
        keep(out, row)
        scores = ", ".join(f"{k} {row['scores'][k]:.3f}" for k in headlines if k in row["scores"])
        what = " ".join(str(job[k]) for k in key if k not in ("seed", "steps", "rate"))
        print(f"{time.strftime('%H:%M:%S')} {what} seed {job['seed']} rate {job['rate']:g}: "
              f"{scores} ({row['seconds']:.0f} s)", flush=True)
    return row


def interval(values):
    "Mean and half of its 95 % interval"
    n = len(values)
    if n < 2: return f"{np.mean(values):+.3f}"
    return f"{np.mean(values):+.3f} ± {stats.t.ppf(.975, n - 1) * np.std(values, ddof=1) / math.sqrt(n):.3f}"
