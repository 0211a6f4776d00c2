"""Row 24: changes reach the disk. Every change of a snapshot store is committed by a connection whose settings were read
back: SQLite waits for the disk (`synchronous=FULL`) and keeps a log (`journal_mode=WAL`).
"""
import sqlite3

import pandas as pd
import pytest

import hybrid_ssm.store as room
from hybrid_ssm.sources import RAW_COLUMNS, RawBars
from hybrid_ssm.store import SnapshotStore, StoreError

WANTED = {"synchronous": 2, "journal_mode": "wal"}


def source(symbol, start=None):
    "Three sessions"
    days = pd.bdate_range("2024-01-02", periods=3).as_unit("us")
    table = pd.DataFrame(dict.fromkeys(RAW_COLUMNS, 1.0), index=range(3))
    return RawBars(symbol, table.assign(date=days, dividend=0.0), days[-1])


def settings_at_commit(monkeypatch, work):
    "The settings of every connection at every commit that `work` makes"
    found, ask = [], room.Database.ask
    def watched(database, statement, values=()):
        if statement == "COMMIT":
            found.append({name: sqlite3.Connection.execute(database, f"PRAGMA {name}").fetchone()[0] for name in WANTED})
        return ask(database, statement, values)
    with monkeypatch.context() as patch:
        patch.setattr(room.Database, "ask", watched)
        work()
    return found


def guard(folder, monkeypatch):
    "Reading, writing, retiring and clearing: every commit under the settings that were asked for"
    store = SnapshotStore(folder, "replay", fetch=source)
    def work():
        store.update(["KO", "PEP"])
        store.load(["KO"])
        store.retire("KO")
        store.clear(["PEP"])
        store.clear()
    found = settings_at_commit(monkeypatch, work)
    wrong = [f for f in found if f != WANTED]
    assert len(found) >= 8 and not wrong, f"{len(wrong)} of {len(found)} commits: {wrong[:1]}"
    return f"{len(found)} commits, all with {WANTED}"


def test_every_commit(tmp_path, monkeypatch, tell):
    tell(guard(tmp_path, monkeypatch))


def deaf(real):
    "SQLite, where it was built without the setting or cannot have it: the statement is accepted and does nothing"
    def ask(database, statement, values=()):
        refused = statement.startswith(("PRAGMA synchronous=", "PRAGMA journal_mode="))
        return real(database, statement.replace("=2", "=0").replace("=wal", "=delete") if refused else statement, values)
    return ask


def guard_refusal(folder, monkeypatch):
    "Where the settings are not accepted, nothing is written and the error says why"
    monkeypatch.setattr(room.Database, "ask", deaf(room.Database.ask))
    try:
        SnapshotStore(folder, "replay", fetch=source).update(["KO"])
    except StoreError as error:
        assert "network drives" in error.remedy
    else:
        raise AssertionError("written without the settings")


def test_refused_settings_are_named(tmp_path, monkeypatch):
    guard_refusal(tmp_path, monkeypatch)


@pytest.mark.parametrize("setting", [{"synchronous": 0}, {"synchronous": 1}, {"journal_mode": "delete"}], ids=str)
def test_mutants(mutants, tmp_path, monkeypatch, setting):
    def guarded(planted):
        monkeypatch.setattr(room, "_PRAGMAS", room._PRAGMAS | planted)
        guard(tmp_path, monkeypatch)
    mutants.kill(24, f"connections with {setting}", guarded, setting)


def test_settings_not_read_back(mutants, tmp_path, monkeypatch):
    def guarded(planted):
        monkeypatch.setattr(room, "_check_settings", planted)
        guard_refusal(tmp_path, monkeypatch)
    mutants.kill(24, "settings are not read back", guarded, lambda database, settings: None)
