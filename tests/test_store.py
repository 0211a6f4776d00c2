"""A snapshot store under two writers, a reader and SIGKILL: nobody sees a half, and no lock stays behind. Folders of an
earlier version are moved over, and slow fetches hold nobody up.
"""
import hashlib
import io
import json
import os
import sqlite3
import subprocess
import sys
import time
from threading import Barrier, Thread

import numpy as np
import pandas as pd
import pytest

import hybrid_ssm.store as room
from hybrid_ssm.data import DataError
from hybrid_ssm.sources import RAW_COLUMNS, RawBars
from hybrid_ssm.store import SnapshotStore, StoreError

WRITER = '''
import sys, time
import pandas as pd
from hybrid_ssm.sources import RAW_COLUMNS, RawBars
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


# --- a folder of an earlier version

def bars_of(symbol, value=None, sessions=5):
    "Flat bars; the price says whose they are"
    days = pd.bdate_range("2024-01-02", periods=sessions).as_unit("us")
    price = float(len(symbol) + 1) if value is None else float(value)
    table = pd.DataFrame(dict.fromkeys(RAW_COLUMNS, price), index=range(sessions)).assign(date=days, dividend=0., split=1.)
    return RawBars(symbol, table[list(RAW_COLUMNS)], days[-1], "USD", False)


def earlier(folder, symbols, **facts):
    "What the earlier version wrote: a Parquet file per symbol and a manifest with a seal of its own; symbol -> file"
    folder.mkdir(parents=True)
    files, paths = {}, {}
    for symbol in symbols:
        buffer = io.BytesIO()
        bars_of(symbol).table.to_parquet(buffer, index=False)
        digest = hashlib.sha256(buffer.getvalue()).hexdigest()
        files[symbol] = {"sha256": digest, "rows": 5, "first": "2024-01-02", "last": "2024-01-08", "complete": "2024-01-08",
                         "currency": "USD", "split_adjusted": False, "gap": None, "fetched": "2024-01-09T10:00:00Z",
                         "restated": 2, "revised": 3, "why": "close of 2024-01-03 changed"} | facts.get(symbol, {})
        stem = {"KO": "KO", "BRK/A": "BRK%2FA", "old": "%6F%6C%64"}[symbol]
        paths[symbol] = folder / f"{stem}.{digest[:16]}.parquet"
        paths[symbol].write_bytes(buffer.getvalue())
    content = {"files": files, "version": 1}
    seal = hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()
    (folder / "manifest.json").write_bytes(json.dumps(content | {"seal": seal}, sort_keys=True).encode() + b"\n")
    (folder / ".lock").touch()
    return paths


def snapshot(folder):
    "name -> bytes of a folder's files"
    return {p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_an_earlier_folder_is_moved_over(tmp_path):
    store = SnapshotStore(tmp_path, "replay", fetch=None, offline=True)
    paths = earlier(store.folder, ["KO", "BRK/A", "old"], old={"final": True})
    assert store.symbols == ["BRK/A", "KO", "old"]
    for symbol in paths:
        raw = store.raw(symbol)
        pd.testing.assert_frame_equal(raw.table, bars_of(symbol).table)
        assert (raw.currency, raw.split_adjusted) == ("USD", False)
    assert store.raw("KO").complete == pd.Timestamp("2024-01-08") and store.raw("old").complete > pd.Timestamp("2026-01-01")
    assert store.contents.loc["KO", ["restated", "revised", "why", "fetched"]].tolist() == [
        2, 3, "close of 2024-01-03 changed", "2024-01-09T10:00:00Z"]
    assert store.verify() == [] and store.load(["KO"], end="2024-01-08").symbols.tolist() == ["KO"]
    assert sorted(p.name for p in store.folder.iterdir()) == [".lock", "store.sqlite", "store.sqlite-mark"]


def test_threads_move_a_folder_over_once(tmp_path):
    store, found = SnapshotStore(tmp_path, "replay", offline=True), []
    earlier(store.folder, ["KO", "BRK/A"])
    threads = [Thread(target=lambda: found.append(store.symbols)) for _ in range(8)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    assert found == [["BRK/A", "KO"]] * 8


@pytest.mark.parametrize("harm", [lambda p: p.write_bytes(p.read_bytes()[:-1]), lambda p: p.unlink(),
                                  lambda p: p.write_bytes(p.read_bytes()[:50] + b"!" + p.read_bytes()[51:])], ids=["cut", "gone", "flip"])
def test_damage_in_an_earlier_folder_is_named_and_nothing_is_lost(tmp_path, harm):
    store = SnapshotStore(tmp_path, "replay", fetch=bars_of)
    paths = earlier(store.folder, ["KO", "BRK/A"])
    harm(paths["KO"])
    before = snapshot(store.folder)
    for look in (lambda: store.symbols, lambda: store.load(["BRK/A"]), lambda: store.update(["BRK/A"])):
        with pytest.raises(StoreError, match=paths["KO"].name) as error:
            look()
        assert "clear('KO')" in error.value.remedy
    assert before.items() <= snapshot(store.folder).items()
    store.clear("KO")
    assert store.symbols == ["BRK/A"] and store.verify() == []
    assert store.update(["KO"]).index.tolist() == ["KO"]


@pytest.mark.parametrize("manifest", [None, b"", b"{}", b"[]", b'{"files": {}, "version": 1, "seal": "0"}', b"\xff", b"null"])
def test_an_earlier_manifest_that_is_damaged_or_missing(tmp_path, manifest):
    store = SnapshotStore(tmp_path, "replay", fetch=bars_of)
    earlier(store.folder, ["KO"])
    (store.folder / "manifest.json").unlink() if manifest is None else (store.folder / "manifest.json").write_bytes(manifest)
    before = snapshot(store.folder)
    for look in (lambda: store.symbols, lambda: store.load("KO"), lambda: store.update(["KO"])):
        with pytest.raises(StoreError, match="manifest is (missing|damaged)"):
            look()
    assert before.items() <= snapshot(store.folder).items()
    store.clear()
    assert store.symbols == [] and store.load("KO", end="2024-01-08").symbols.tolist() == ["KO"]


def test_killed_while_a_folder_is_moved_over(tmp_path, monkeypatch):
    real = room.Database.ask
    for step in range(60):
        store, calls = SnapshotStore(tmp_path / str(step), "replay", offline=True), iter(range(1000))
        earlier(store.folder, ["KO", "BRK/A"])
        def ask(database, *statement):
            if next(calls) == step:
                raise KeyboardInterrupt
            return real(database, *statement)
        with monkeypatch.context() as patch:
            patch.setattr(room.Database, "ask", ask)
            try:
                store.symbols
                break
            except KeyboardInterrupt:
                pass
        assert store.symbols == ["BRK/A", "KO"] and store.verify() == []
    assert 20 < step < 59


# --- fetching

def test_slow_fetches_of_different_symbols_go_on_at_once(tmp_path):
    together, done = Barrier(3), []
    def fetch(symbol, start=None):
        together.wait(30)  # broken unless three fetches are in progress at the same moment
        return bars_of(symbol)
    def work(symbol):
        done.append(SnapshotStore(tmp_path, "replay", fetch=fetch).load(symbol, end="2024-01-08").symbols[0])
    threads = [Thread(target=work, args=(s,)) for s in ("A", "B", "C")]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    assert sorted(done) == ["A", "B", "C"]


def test_a_symbol_that_is_cleared_or_retired_while_it_is_fetched(tmp_path):
    store = SnapshotStore(tmp_path, "replay", fetch=bars_of)
    store.update(["KO"])
    meanwhile = iter([lambda: store.retire("KO")])
    def fetch(symbol, start=None):
        next(meanwhile, lambda: None)()
        return bars_of(symbol)
    SnapshotStore(tmp_path, "replay", fetch=fetch).update(["KO"])  # by name: the symbol is asked for again
    assert store.raw("KO").complete == pd.Timestamp("2024-01-08")
    meanwhile = iter([lambda: store.clear("KO")])
    SnapshotStore(tmp_path, "replay", fetch=fetch).update(["KO"])
    assert store.symbols == ["KO"] and store.verify() == []


def test_an_error_of_the_source_is_the_source_s_own(tmp_path):
    def fetch(symbol, start=None):
        raise sqlite3.OperationalError("a source that keeps a database of its own")
    with pytest.raises(sqlite3.OperationalError, match="of its own"):
        SnapshotStore(tmp_path, "replay", fetch=fetch).load("KO")
    assert SnapshotStore(tmp_path, "replay", fetch=bars_of).load("KO", end="2024-01-08").symbols.tolist() == ["KO"]


def test_counters_go_on(tmp_path):
    value = [1.]
    store = SnapshotStore(tmp_path, "replay", fetch=lambda symbol, start=None: bars_of(symbol, value[0]))
    for number in range(3):
        value[0] = number + 1.
        store.update(["KO"])
    assert store.contents.loc["KO", ["restated", "revised"]].tolist() == [2, 0]
    with room.reading(store.path) as (database, index):
        assert index["KO"]["version"] == 3 and database.ask("SELECT count(*) FROM versions") == [(1,)]


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    SnapshotStore(tmp_path, "replay", fetch=bars_of).update(["KO"])
    before, real = snapshot(tmp_path), os.access
    monkeypatch.setattr(os, "access", lambda path, mode, **how: mode != os.W_OK and real(path, mode, **how))
    store = SnapshotStore(tmp_path, "replay", fetch=bars_of, offline=True)
    assert store.load(end="2024-01-08").symbols.tolist() == ["KO"] and store.verify() == []
    assert snapshot(tmp_path) == before
    with pytest.raises(DataError):
        store.retire("KO")


def test_a_newer_layout_is_not_cleared_away(tmp_path):
    store = SnapshotStore(tmp_path, "replay", fetch=bars_of)
    store.update(["KO"])
    database = sqlite3.connect(store.path)
    database.execute("PRAGMA user_version=7")
    database.close()
    for look in (store.load, store.clear, lambda: store.update(["KO"])):
        with pytest.raises(StoreError, match="layout 7 is newer than 1"):
            look()
