"""A snapshot store under two writers, a reader and SIGKILL: nobody sees a half, and no lock stays behind."""
import subprocess
import sys
import time

import numpy as np
import pytest

from hybrid_ssm.store import SnapshotStore

WRITER = '''
import sys, time
import pandas as pd
from hybrid_ssm.data import RAW_COLUMNS, RawBars
from hybrid_ssm.store import SnapshotStore

def fetch(symbol, start=None):
    "Every answer is another one, the same number in all its cells"
    days = pd.bdate_range("2020-01-01", periods=500)
    table = pd.DataFrame(dict.fromkeys(RAW_COLUMNS, float(time.time_ns() % 10**9 + 1)), index=range(500))
    table = table.assign(date=days.as_unit("us"), dividend=0., split=1.)
    return RawBars(symbol, table, days[-1])

store = SnapshotStore(sys.argv[1], "replay", fetch=fetch)
store.update(["A", "B"], refresh=True)
print("ready", flush=True)
while True:
    store.update(["A", "B"], refresh=True)
'''


def writer(folder):
    "A process that rewrites the store without pause, once it has begun"
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def read(store):
    "The two symbols; each must be one answer and not two halves"
    tables = [store.raw(symbol).table for symbol in ("A", "B")]
    assert all(len(t) == 500 and t["close"].nunique() == 1 and (t["close"] == t["volume"]).all() for t in tables)
    return tables


def survive(folder, kills, seed=0):
    "Two writers at once; one of them is killed again and again while the store is read"
    rng, store, reads, seen = np.random.default_rng(seed), SnapshotStore(folder, "replay", offline=True), 0, set()
    steady = writer(folder)
    try:
        for _ in range(kills):
            victim, until = writer(folder), time.monotonic() + rng.uniform(0.02, 0.4)
            while time.monotonic() < until:
                seen.add(read(store)[0]["close"].iloc[0])
                reads += 1
            victim.kill()
            victim.wait()
            read(store)
    finally:
        steady.kill()
        steady.wait()
    assert store.verify() == []
    print(f"{kills} kills, {reads} reads of {len(seen)} versions, 0 halves")
    final = writer(folder)  # no stale lock keeps it out
    final.kill()
    final.wait()
    assert store.verify() == [] and len(seen) > 1


def test_two_writers_a_reader_and_kills(tmp_path):
    survive(tmp_path, kills=2)


@pytest.mark.slow
def test_many_kills(tmp_path):
    survive(tmp_path, kills=40, seed=1)
