"""Row 39: many share a store. Several threads, several processes and processes that are killed write its first symbols and
read them: nobody is refused, nobody sees a half, and each symbol is fetched once.
"""
import multiprocessing
import os
import tempfile
import time
import traceback
from contextlib import contextmanager
from pathlib import Path
from threading import Barrier, Thread

import numpy as np
import pandas as pd
import pytest

import hybrid_ssm.store as room
from hybrid_ssm.sources import RAW_COLUMNS, RawBars
from hybrid_ssm.store import SnapshotStore

SYMBOLS = ("KO", "BRK/A", "^GSPC")
CONTEXT = multiprocessing.get_context("forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn")
if CONTEXT.get_start_method() == "forkserver":
    CONTEXT.set_forkserver_preload(["hybrid_ssm.store", "pytest", "pyarrow.parquet", "pyarrow.dataset"])


def source(folder):
    "A source whose answers carry the symbol in every cell, and that notes each question in a file"
    def fetch(symbol, start=None):
        with open(Path(folder) / "asked", "a", encoding="utf-8") as file:
            file.write(f"{symbol}\n")
        days = pd.bdate_range("2024-01-02", periods=20).as_unit("us")
        table = pd.DataFrame(dict.fromkeys(RAW_COLUMNS, 1.0 + len(symbol)), index=range(20))
        return RawBars(symbol, table.assign(date=days, dividend=0.0, split=1.0), days[-1])
    return fetch


def asked(folder):
    "What the source was asked, sorted"
    return sorted((Path(folder) / "asked").read_text(encoding="utf-8").split())


def looked(store, panel=True):
    "What a user sees after a `load`: the stored values by symbol"
    if panel:
        store.load(SYMBOLS, end="2024-01-29")
    else:  # what `load` does with the store, without the panel around it, which takes three quarters of the time
        with room.reading(store.path) as (database, index):
            for symbol in SYMBOLS:
                room._current(store, symbol, pd.Timestamp("2024-01-29"), database, index)
    tables = {symbol: store.raw(symbol).table for symbol in store.symbols}
    return {s: (len(t), t["close"].unique().tolist(), t["volume"].unique().tolist()) for s, t in tables.items()}


EXPECTED = {s: (20, [1.0 + len(s)], [1.0 + len(s)]) for s in SYMBOLS}


@pytest.fixture
def place(tmp_path):
    "A folder in memory where there is one: races are looked for here, and a disk would only make them rarer"
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


# --- six threads

def crowd(folder, panel, size=6):
    "Errors and views of threads that open an empty store at the same moment"
    ready, errors, views = Barrier(size), [], []
    def work():
        store = SnapshotStore(folder, "replay", fetch=source(folder))
        ready.wait()
        try:
            views.append(looked(store, panel))
        except Exception as error:
            errors.append(f"{type(error).__name__}: {error}")
    threads = [Thread(target=work) for _ in range(size)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    return errors, views


def guard_threads(folder, loads, panels=1):
    "Nobody is refused, all see the same, each symbol is asked for once"
    for number in range(loads):
        own = Path(folder) / str(number)
        own.mkdir()
        errors, views = crowd(own, panel=number % panels == 0)
        assert not errors, f"load {number}: {errors}"
        assert views == [EXPECTED] * 6, f"load {number}: {views}"
        assert asked(own) == sorted(SYMBOLS), f"load {number}: asked for {asked(own)}"
    return (f"{loads:,} six-thread loads of an empty store ({-(-loads // panels):,} of them up to the panel), 0 failures, "
            "each symbol fetched once")


def test_six_threads(place, tell):
    tell(guard_threads(place, 40, panels=8))


@pytest.mark.slow
def test_six_threads_two_thousand_times(place, tell):
    tell(guard_threads(place, 2000, panels=50))


def two_steps(real):
    "Planted: the bytes of a symbol in one transaction, its record in the next"
    def write(database, index, raw, **history):
        facts = real(database, index, raw, **history)
        database.ask("COMMIT")
        time.sleep(.003)
        database.ask("BEGIN IMMEDIATE")
        return facts
    return write


def no_lock(real):
    "Planted: nobody waits for another one who fetches the same symbol"
    @contextmanager
    def lock(folder, symbol, timeout=0.):
        yield
    return lock


def made_in_place(real):
    "Planted: the database is made under its own name, in steps"
    def create(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            content = room._empty_database()
            with open(path, "wb") as file:
                for half in (content[:5000], content[5000:]):
                    file.write(half)
                    file.flush()
                    time.sleep(.003)
    return create


PLANTED = {"write_raw": two_steps, "symbol_lock": no_lock, "create_database": made_in_place}


@pytest.mark.parametrize("name", PLANTED)
def test_mutants_of_threads(mutants, place, monkeypatch, name):
    def guard(planted):
        monkeypatch.setattr(room, name, planted(getattr(room, name)))
        guard_threads(place, 40, panels=9)
    mutants.kill(39, f"{PLANTED[name].__doc__.removeprefix('Planted: ')} (six threads)", guard, PLANTED[name])


# --- processes that are killed while they write for the first time

def first_write(folder, begun, planted=None):
    "Write the first symbols of a store; perhaps with a defect"
    if planted:
        setattr(room, planted, PLANTED[planted](getattr(room, planted)))
    warm = SnapshotStore(Path(folder) / "warm", "replay", fetch=source(Path(folder) / "warm"))
    warm.folder.mkdir(parents=True)
    looked(warm, panel=False)  # imports and first calls are over when the time runs
    begun.set()
    SnapshotStore(folder, "replay", fetch=source(folder)).update(SYMBOLS)


def guard_kills(folder, kills, planted=None, longest=.06, seed=0):
    "Whatever the moment: the next one sees whole symbols only, and goes on"
    rng, found = np.random.default_rng(seed), np.zeros(len(SYMBOLS) + 1, int)
    for kill in range(kills):
        place = Path(folder) / str(kill)
        place.mkdir()
        begun = CONTEXT.Event()
        writer = CONTEXT.Process(target=first_write, args=(place, begun, planted), daemon=True)
        writer.start()
        assert begun.wait(120), "the writer never began"
        time.sleep(rng.uniform(0, longest))
        writer.kill()
        writer.join()
        store = SnapshotStore(place, "replay", fetch=source(place), lock_timeout=10.)
        try:
            shut = SnapshotStore(place, "replay", fetch=None, offline=True)
            before = {s: shut.raw(s).table["close"].tolist() for s in shut.symbols}
            assert before == {s: [1.0 + len(s)] * 20 for s in before}, before
            found[len(before)] += 1
            store.update(sorted(set(SYMBOLS) - set(before)) or SYMBOLS)
            assert store.verify() == [] and store.symbols == sorted(SYMBOLS)
        except room.DataError as error:
            raise AssertionError(f"kill {kill}: {error}") from error
    return f"{kills} kills during the first write, 0 failures; found 0, 1, 2, 3 symbols {found.tolist()} times"


def test_killed_at_the_first_write(place, tell):
    tell(guard_kills(place, 10))


@pytest.mark.slow
def test_five_hundred_kills_at_the_first_write(place, tell):
    tell(guard_kills(place, 500))


@pytest.mark.parametrize("name", ["write_raw", "create_database"])
def test_mutants_of_kills(mutants, place, name):
    mutants.kill(39, f"{PLANTED[name].__doc__.removeprefix('Planted: ')} (killed)",
                 lambda planted: guard_kills(place, 60, planted), name)


# --- processes at once

def member(folder, rounds, ready, answers):
    "One of several processes: in each round a new store, which all open at the same moment"
    for number in range(rounds):
        place = Path(folder) / str(number)
        place.mkdir(exist_ok=True)
        store = SnapshotStore(place, "replay", fetch=source(place))
        ready.wait(120)
        try:
            answers.put((number, looked(store)))
        except Exception:
            answers.put((number, traceback.format_exc()))


def guard_processes(folder, processes, rounds):
    "All see the same, and each symbol is asked for once"
    ready, answers = CONTEXT.Barrier(processes), CONTEXT.Queue()
    members = [CONTEXT.Process(target=member, args=(folder, rounds, ready, answers), daemon=True) for _ in range(processes)]
    for process in members: process.start()
    said = [answers.get(timeout=300) for _ in range(processes * rounds)]
    for process in members: process.join()
    wrong = [view for _, view in said if view != EXPECTED]
    assert not wrong, f"{len(wrong)} of {len(said)}: {wrong[0]}"
    for number in range(rounds):
        assert asked(Path(folder) / str(number)) == sorted(SYMBOLS)
    return f"{processes} processes at once, {rounds} rounds, 0 failures, each symbol fetched once"


def test_processes_at_once(place, tell):
    tell(guard_processes(place, 4, 5))


@pytest.mark.slow
def test_eight_processes_at_once(place, tell):
    tell(guard_processes(place, 8, 50))


def test_a_process_that_dies_while_it_fetches_holds_nobody_up(place):
    holder = CONTEXT.Process(target=hold, args=(place,), daemon=True)
    holder.start()
    while not (place / "holding").exists() and holder.is_alive():
        time.sleep(.01)
    store = SnapshotStore(place, "replay", fetch=source(place), lock_timeout=.1)
    with pytest.raises(room.StoreError, match="locked by another process"):
        store.update(["KO"])
    assert store.update(["BRK/A"]).index.tolist() == ["BRK/A"]  # another symbol is not held up
    holder.kill()
    holder.join()
    assert store.update(["KO"]).index.tolist() == ["KO"]


def hold(folder):
    "Fetch a symbol and never finish"
    with room.symbol_lock(SnapshotStore(folder, "replay").folder, "KO"):
        (Path(folder) / "holding").touch()
        time.sleep(600)
