"""Row 21: files are written atomically. Whatever fails while a model, a checkpoint or a symbol of a snapshot store is
written, and whenever the process is killed, a reader finds the old one or the new one, whole.
"""
import builtins
import errno
import multiprocessing
import os
import time
from itertools import count
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import hybrid_ssm.callbacks as callbacks_room
import hybrid_ssm.hybrid as hybrid_room
import hybrid_ssm.store as store_room
from hybrid_ssm.callbacks import Checkpoint, configure_optimizer, resume_run
from hybrid_ssm.data import DataError
from hybrid_ssm.hybrid import HybridFinancialModel, ModelFileError
from hybrid_ssm.loop import Run, TrainerError
from hybrid_ssm.sources import RAW_COLUMNS, RawBars


def a_run(value, width=8):
    "A run whose weights are all `value`, as if it had just finished an epoch"
    torch.manual_seed(0)
    run = configure_optimizer(Run(HybridFinancialModel(2, width, 3, 2, n_layers=1), epochs=9), 1e-3, 9)
    with torch.no_grad():
        for p in run.model.parameters():
            p.fill_(value)
    run.history.rows.append(dict(epoch=0, train=1., valid=1.))
    return run


def write(folder, value, width=8):
    "A checkpoint: `last.safetensors` and the folder `best`"
    Checkpoint(folder).after_epoch(a_run(value, width))


def read(folder, width=8):
    "The values that a reader finds in both; each must be one value throughout"
    run = resume_run(a_run(-1., width), folder)
    best = HybridFinancialModel.load(folder / "best")
    found = [{p.flatten()[0].item() for p in m.parameters()} for m in (run.model, best)]
    whole = all(len(f) == 1 and bool((p == next(iter(f))).all()) for f, m in zip(found, (run.model, best))
                for p in m.parameters())
    assert whole, "a part of the old one and a part of the new one"
    return [f.pop() for f in found]


# --- faults of the operating system

class Faults:
    "Every call that touches the disk is numbered; the chosen one fails, a write after half of its bytes"
    def __init__(self, monkeypatch, folder):
        self.patch, self.folder = monkeypatch, str(folder)

    def arm(self, at):
        calls = count()
        def due():
            return next(calls) == at
        def failing(real):
            def call(*args, **kw):
                if due():
                    raise OSError(errno.EIO, "planted")
                return real(*args, **kw)
            return call
        for name in ("fsync", "replace"):
            self.patch.setattr(os, name, failing(getattr(os, name)))
        plain = builtins.open
        def opened(file, mode="r", *args, **kw):
            if "r" in mode and "+" not in mode or not str(file).startswith(self.folder):
                return plain(file, mode, *args, **kw)
            if due():
                raise OSError(errno.ENOSPC, "planted")
            return Full(plain(file, mode, *args, **kw), due)
        self.patch.setattr(builtins, "open", opened)
        def write_bytes(path, data):
            with opened(path, "wb") as file:
                return file.write(data)
        self.patch.setattr(Path, "write_bytes", write_bytes)


class Full:
    "A file on a disk that may be full"
    def __init__(self, file, due):
        self.file, self.due = file, due

    def write(self, data):
        if self.due():
            self.file.write(data[:len(data) // 2])
            self.file.flush()
            raise OSError(errno.ENOSPC, "planted")
        return self.file.write(data)

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *problem):
        self.file.close()


def guard_faults(folder, monkeypatch, before=lambda: None):
    "Let each call fail in turn; returns how many there are"
    write(folder, 1.)
    for at in count():
        with monkeypatch.context() as patch:
            before()
            Faults(patch, folder).arm(at)
            try:
                write(folder, 2. + at)
                failed = False
            except OSError:
                failed = True
        try:
            found = read(folder)
        except (TrainerError, ModelFileError) as error:
            raise AssertionError(f"fault {at}: unreadable: {error}") from error
        assert all(f in {1., *(2. + i for i in range(at + 1))} for f in found)
        if not failed:
            assert found == [2. + at] * 2
            left = {p.name for p in folder.rglob("*") if p.is_file()}
            assert len(left) == 3 and not any(name.endswith(".part") for name in left), f"left behind: {left}"
            return at


def test_every_fault(tmp_path, monkeypatch, tell):
    points = guard_faults(tmp_path, monkeypatch)
    assert points >= 12
    tell(f"{points} fault points, 0 unreadable, nothing left behind")


def direct(path, data, slow=0):
    "The planted defect: straight into the file"
    path, data = Path(path), data.encode() if isinstance(data, str) else data
    with open(path, "wb") as file:
        for part in np.array_split(np.frombuffer(data, np.uint8), 20 if slow else 1):
            file.write(part.tobytes())
            file.flush()
            time.sleep(slow)
    return path


@pytest.mark.parametrize("where", ["checkpoint", "model"])
def test_direct_writing(tmp_path, monkeypatch, mutants, where):
    def guard(writer):
        room = callbacks_room if where == "checkpoint" else hybrid_room  # the card is written last; straight, it is torn
        monkeypatch.setattr(room, "write_atomic", writer)
        guard_faults(tmp_path, monkeypatch)
    mutants.kill(21, f"{where} written directly", guard, direct)


def test_weights_under_a_fixed_name(tmp_path, monkeypatch, mutants):
    def commit(folder, data, card):  # two files that belong together, each atomic, the pair not
        hybrid_room.write_atomic(folder / "weights-0.safetensors", data)
        hybrid_room.write_atomic(folder / "model.json", hybrid_room.json.dumps(card | {"weights": "weights-0.safetensors"}).encode())
    def guard(planted):
        monkeypatch.setattr(hybrid_room, "_commit", planted)
        guard_faults(tmp_path, monkeypatch)
    mutants.kill(21, "weights and card under fixed names", guard, commit)


# --- the process is killed

def scribble(folder, ready, planted):
    "Write one checkpoint after the other until killed"
    torch.set_num_threads(1)
    if planted:
        callbacks_room.write_atomic = lambda path, data: direct(path, data, slow=.002)
    for value in count(2):
        write(Path(folder), float(value), width=32)
        ready.set()


def guard_kills(folder, kills, planted=False):
    "Kill a writer at random times; returns how far it came in all"
    write(folder, 1., width=32)
    context, rng, written = multiprocessing.get_context("forkserver"), np.random.default_rng(0), 0.
    context.set_forkserver_preload(["hybrid_ssm.callbacks"])
    for kill in range(kills):
        ready = context.Event()
        writer = context.Process(target=scribble, args=(folder, ready, planted), daemon=True)
        writer.start()
        assert ready.wait(120), "the writer never wrote"
        time.sleep(rng.uniform(0, .08))
        writer.kill()
        writer.join()
        try:
            written += max(read(folder, width=32))
        except (TrainerError, ModelFileError) as error:
            raise AssertionError(f"kill {kill}: unreadable: {error}") from error
    return written


def test_ten_kills(tmp_path, tell):
    tell(f"10 SIGKILLs, 0 unreadable, {guard_kills(tmp_path, 10):,.0f} checkpoints written")


@pytest.mark.slow
def test_two_hundred_kills(tmp_path, tell):
    tell(f"200 SIGKILLs, 0 unreadable, {guard_kills(tmp_path, 200):,.0f} checkpoints written")


def test_kills_see_direct_writing(tmp_path, mutants):
    mutants.kill(21, "killed while writing directly", lambda planted: guard_kills(tmp_path, 20, planted), True)


# --- the process is killed while it changes a snapshot store

def numbered(value):
    "A source that gives `value` in every cell"
    days = pd.bdate_range("2020-01-01", periods=500).as_unit("us")
    table = pd.DataFrame(dict.fromkeys(RAW_COLUMNS, float(value)), index=range(500)).assign(date=days, dividend=0.0, split=1.0)
    return lambda symbol, start=None: RawBars(symbol, table, days[-1])


def rewrite(folder, ready, first, planted):
    "Change two symbols of a store again and again until killed"
    if planted:
        real = store_room.write_raw
        def in_two_steps(database, index, raw, **history):
            facts = real(database, index, raw, **history)
            database.ask("COMMIT")
            time.sleep(.01)
            database.ask("BEGIN IMMEDIATE")
            return facts
        store_room.write_raw = in_two_steps
    for value in count(first):
        store_room.SnapshotStore(folder, "replay", fetch=numbered(value)).update(["A", "B"], refresh=True)
        ready.set()


def guard_store_kills(folder, kills, planted=False):
    "Kill a process that changes a store, at random times; each symbol is whole, its facts are those of its bytes, none is gone"
    store_room.SnapshotStore(folder, "replay", fetch=numbered(1)).update(["A", "B"])
    store = store_room.SnapshotStore(folder, "replay", offline=True)
    context, rng, seen = multiprocessing.get_context("forkserver"), np.random.default_rng(0), []
    context.set_forkserver_preload(["hybrid_ssm.callbacks", "hybrid_ssm.store", "pyarrow.parquet", "pyarrow.dataset"])
    for kill in range(kills):
        ready = context.Event()
        writer = context.Process(target=rewrite, args=(folder, ready, 1000 * kill + 2, planted), daemon=True)
        writer.start()
        assert ready.wait(120), "the writer never wrote"
        time.sleep(rng.uniform(0, .06))
        writer.kill()
        writer.join()
        try:
            tables = [store.raw(symbol).table for symbol in store.symbols]
            sound = store.verify()
        except DataError as error:
            raise AssertionError(f"kill {kill}: unreadable: {error}") from error
        assert len(tables) == 2 and all(len(t) == 500 and t["close"].nunique() == 1 for t in tables), "a half"
        assert all((t["close"] == t["volume"]).all() for t in tables) and sound == []
        seen += [int(t["close"].iloc[0]) - 1000 * kill for t in tables]
    left = {p.name for p in store.folder.iterdir() if not p.name.endswith((".part", "-wal", "-shm"))}
    assert left == {"fetching", "store.sqlite", "store.sqlite-mark"}
    return f"{kills} SIGKILLs of a process that changes a store, 0 unreadable, killed in change {min(seen)} to {max(seen)}"


def test_ten_kills_of_a_store(tmp_path, tell):
    tell(guard_store_kills(tmp_path, 10))


@pytest.mark.slow
def test_two_hundred_kills_of_a_store(tmp_path, tell):
    tell(guard_store_kills(tmp_path, 200))


def test_kills_see_a_change_in_two_steps(tmp_path, mutants):
    mutants.kill(21, "a change of a store in two transactions", lambda planted: guard_store_kills(tmp_path, 20, planted), True)
