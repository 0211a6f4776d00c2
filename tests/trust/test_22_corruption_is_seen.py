"""Row 22: corruption is seen. One flipped bit, or one cut, anywhere in a snapshot store: every look at it gives exactly
what was stored, or is refused by name. Never another value, never one symbol less.
"""
import shutil
import sqlite3

import numpy as np
import pandas as pd
import pytest

import hybrid_ssm.store as room
from hybrid_ssm.sources import RAW_COLUMNS, RawBars
from hybrid_ssm.store import SnapshotStore, StoreError

SYMBOLS = ("KO", "BRK/A", "^GSPC")
LATER = "PEP"  # the one whose bytes are in the log only


def source(symbol, start=None):
    "A random share of 100 sessions with a dividend and a split"
    rng = np.random.default_rng(len(symbol))
    close = 50 * np.exp(rng.normal(0, 0.02, 100).cumsum())
    days = pd.bdate_range("2020-01-02", periods=100).as_unit("us")
    table = pd.DataFrame({"date": days, "volume": 1000.0, "dividend": 0.0, "split": 1.0}
                         | dict.fromkeys(("open", "high", "low", "close", "adj_close"), close))
    table.loc[50, ["dividend", "split"]] = 0.5, 2.0
    return RawBars(symbol, table[list(RAW_COLUMNS)], days[-1])


def contents_of(folder):
    "name -> bytes of the files of a store; the lock files are empty"
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file() and not p.name.endswith("-shm")}


def lay(folder, files):
    "Put these files, and no others, into the folder"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


@pytest.fixture(scope="module")
def states(tmp_path_factory):
    "The files of a store at rest, and of one whose last change is only in the log, as after a kill"
    folder = tmp_path_factory.mktemp("made")
    store = SnapshotStore(folder, "replay", fetch=source)
    store.update(SYMBOLS)
    store.retire("KO")
    rest = contents_of(store.folder)
    reader = sqlite3.connect(store.path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM state").fetchall()  # as long as it looks, the log stays
    store.update([LATER])
    logged = contents_of(store.folder)
    reader.close()
    assert sorted(rest) == ["store.sqlite", "store.sqlite-mark"]
    assert sorted(logged) == ["store.sqlite", "store.sqlite-mark", "store.sqlite-wal"]
    return {"rest": rest, "logged": logged}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    "A store that can only read; what lies in its folder is laid there"
    return SnapshotStore(tmp_path_factory.mktemp("store"), "replay", fetch=None, offline=True)


def read_all(store):
    "Everything that the store holds, as plain values that can be compared"
    raws = [store.raw(symbol) for symbol in store.symbols]
    facts = store.contents.to_csv()
    return [(r.symbol, r.table.to_csv(), str(r.complete), r.currency, r.split_adjusted) for r in raws] + [facts]


def load_all(store):
    "The same through the front door"
    bars = store.load()
    return [bars.symbols.tolist(), bars.close.to_csv(), sorted(store.symbols)]


def flip(content, rng):
    "One bit anywhere"
    return flipped(content, int(rng.integers(len(content))), rng)


def flip_fact(content, rng):
    "One bit of the facts that stand before the bytes of a symbol, or near the start of a small file"
    places = [i for i in range(len(content)) if content.startswith(b"PAR1", i)] or [len(content)]
    place = int(rng.choice(places)) - int(rng.integers(1, min(200, places[0])))
    return flipped(content, place, rng)


def flipped(content, place, rng):
    "One bit of the byte at `place`"
    return content[:place] + bytes([content[place] ^ 1 << int(rng.integers(8))]) + content[place + 1:]


def cut(content, rng):
    "The rest is missing; sometimes everything is"
    return content[:int(rng.integers(len(content))) * int(rng.integers(8) > 0)]


def gone(content, rng):
    "The file itself is missing"
    return


def verdicts(read, store, files, defects, seed):
    "(defect, file, what the reader said) for each spoiled file"
    rng, names = np.random.default_rng(seed), sorted(files, key=len)
    lay(store.folder, files)
    before = read(store)
    for number, defect in enumerate(defects):
        name = names[0] if number % 2 else names[(number // 2) % len(names)]  # the database most often
        spoiled = {**files, name: defect(files[name], rng)}
        lay(store.folder, {n: c for n, c in spoiled.items() if c is not None})
        try:
            said = "unharmed" if read(store) == before else "accepted"
        except StoreError as error:
            said = "refused" if store.path.name in str(error) else f"another file blamed: {error}"
            said = said if error.remedy else f"no remedy: {error}"
        except Exception as error:
            said = f"not typed: {error!r}"
        yield defect.__name__, name, said


def check(read, store, states, flips, cuts, seed=0):
    "Exactly the stored values or a refusal that names the file"
    defects = np.random.default_rng(seed).permutation([flip, flip_fact] * (flips // 2) + [cut] * cuts)
    said = pd.concat(pd.DataFrame(verdicts(read, store, files, defects[i::2], seed), columns=["defect", "file", "said"])
                     for i, files in enumerate(states.values()))
    wrong = said[~said["said"].isin(["refused", "unharmed"])]
    assert wrong.empty, f"{len(wrong)} of {len(said)}: {wrong.iloc[0].tolist()}"
    count = said["said"].value_counts()
    assert count["refused"] > count.get("unharmed", 0)
    by = ", ".join(f"{n} {len(s)}" for n, s in said.groupby("file"))
    return (f"{2 * (flips // 2):,} flipped bits, {cuts:,} cut files ({by}): {count['refused']:,} refused, "
            f"{count.get('unharmed', 0):,} exactly as stored, 0 other values, 0 rows missing")


def checksum_skipped(store):
    "Planted: the checksum of a symbol's bytes is skipped"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "_intact", lambda content, facts: True)
        return read_all(store)


class Agreeable(str):
    "Equal to everything"
    def __ne__(self, other):
        return False


def seal_skipped(store):
    "Planted: the seal of the facts is skipped"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "_seal", lambda *facts: Agreeable())
        return read_all(store)


def mark_skipped(store):
    "Planted: the mark of the last change is skipped"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "_read_mark", lambda path: 0)
        return read_all(store)


def test_corruption_is_seen(store, states, tell):
    tell(check(read_all, store, states, flips=140, cuts=60))


def test_corruption_is_seen_through_the_front_door(store, states, tell):
    tell(check(load_all, store, states, flips=16, cuts=8))


def test_a_missing_file_is_seen(store, states):
    said = [v for files in states.values() for v in verdicts(read_all, store, files, [gone] * 12, 0)]
    expected = {"store.sqlite": {"refused"}, "store.sqlite-wal": {"refused"}, "store.sqlite-mark": {"unharmed"}}
    assert {name: {v[2] for v in said if v[1] == name} for name in expected} == expected


def test_a_damaged_index_of_the_log_is_made_anew(store, states):
    for content in (b"", b"x" * 100, bytes(32768), np.random.default_rng(0).bytes(32768)):
        lay(store.folder, states["logged"])
        expected = read_all(store)
        lay(store.folder, {**states["logged"], "store.sqlite-shm": content})
        assert read_all(store) == expected


def test_a_symbol_that_vanishes_is_seen(store, states):
    for statement in ("DELETE FROM versions WHERE id=2", "UPDATE versions SET final=0", "UPDATE versions SET id=9 WHERE id=1",
                      "INSERT INTO versions SELECT 9, x'41', version, sha256, rows, first, last, complete, currency, split_adjusted, "
                      "gap, fetched, restated, revised, why, final, content FROM versions WHERE id=1",
                      "UPDATE versions SET split_adjusted=0 WHERE id=1", "UPDATE versions SET currency='EUR' WHERE id=1",
                      "UPDATE versions SET complete='2021-01-01' WHERE id=1", "DELETE FROM state", "UPDATE state SET changes=99"):
        lay(store.folder, states["rest"])
        with sqlite3.connect(store.path) as database:
            database.execute(statement)
        database.close()
        with pytest.raises(StoreError, match="store.sqlite: index is damaged"):
            store.load()


@pytest.mark.parametrize("planted", [checksum_skipped, seal_skipped, mark_skipped], ids=lambda f: f.__name__)
def test_mutants(mutants, store, states, planted):
    mutants.kill(22, planted.__doc__.removeprefix("Planted: "),
                 lambda read: check(read, store, states, flips=140, cuts=60), planted)


@pytest.mark.slow
def test_corruption_is_seen_a_thousand_times(store, states, tell):
    tell(check(read_all, store, states, flips=1000, cuts=500, seed=1))
