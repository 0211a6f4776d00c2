"""Row 27, the part about prices: no code runs from data files, whatever they pretend to be."""
import gzip
import hashlib
import io
import json
import pickle
import sqlite3

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from hostile import Bomb, archive

import hybrid_ssm.files as files_room
import hybrid_ssm.store as store_room
from hybrid_ssm.data import DataError
from hybrid_ssm.sources import RAW_COLUMNS, RawBars, load_bars
from hybrid_ssm.store import SnapshotStore, changing, file_stem

PRICES = "date,symbol,close\n2024-01-02,KO,60\n2024-01-03,KO,61\n"


def parquet(table):
    "The bytes of an arrow table or a frame"
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pandas(table) if isinstance(table, pd.DataFrame) else table, buffer)
    return buffer.getvalue()


def array(bomb, save=np.save):
    "The bytes of a numpy file of objects"
    buffer = io.BytesIO()
    save(buffer, np.array([bomb], dtype=object), allow_pickle=True) if save is np.save else save(
        buffer, x=np.array([bomb], dtype=object))
    return buffer.getvalue()


def extension_table(storage, name):
    "A parquet file whose schema asks the reader to rebuild a Python type from `storage`"
    marks = {b"ARROW:extension:name": name, b"ARROW:extension:metadata": storage}
    field = pa.field("close", pa.binary(), metadata=marks)
    return parquet(pa.table([pa.array([b"x"])], schema=pa.schema([field])))


def hostile(canary):
    "(name, suffix, bytes) of 30 files"
    bomb = Bomb(canary)
    good = pd.read_csv(io.StringIO(PRICES))
    pickled = [pickle.dumps(bomb, protocol) for protocol in range(6)]
    call = f"__import__('os').mkdir({str(canary)!r})"
    yaml = f"!!python/object/apply:os.mkdir ['{canary}']\n".encode()
    noted = pa.Table.from_pandas(good).replace_schema_metadata({b"pandas": pickled[4], b"ARROW:schema": pickled[4]})
    for protocol, content in enumerate(pickled):
        yield f"pickle, protocol {protocol}", ".parquet", content
        yield f"pickle, protocol {protocol}", ".csv", content
    yield "pickle, gzipped", ".csv.gz", gzip.compress(pickled[4])
    yield "pickle with the marks of parquet around it", ".parquet", b"PAR1" + pickled[4] + b"PAR1"
    yield "pickle after a header", ".csv", b"date,symbol,close\n" + pickled[0]
    yield "pickle in a zip", ".csv", archive({"data": pickled[4]})
    yield "weights with a pickle inside", ".parquet", archive({"archive/data.pkl": pickled[2], "archive/version": "3"})
    yield "numpy objects", ".parquet", array(bomb)
    yield "numpy objects", ".csv", array(bomb)
    yield "numpy archive", ".parquet", array(bomb, np.savez)
    yield "yaml", ".csv", yaml
    yield "yaml", ".parquet", yaml
    yield "a formula", ".csv", PRICES.replace("61", f"\"=cmd|'/c mkdir {canary}'!A0\"").encode()
    yield "Python as a price", ".csv", PRICES.replace("61", f'"{call}"').encode()
    yield "Python as a name of a column", ".csv", PRICES.replace("close", f'close,"@{call}"').replace("6", "6,6").encode()
    yield "pickle as a symbol", ".parquet", parquet(good.assign(symbol=[pickled[4], pickled[4]]))
    yield "pickle in the notes of a parquet file", ".parquet", parquet(noted)
    yield "a Python type in a parquet file", ".parquet", extension_table(pickled[4], b"arrow.py_extension_type")
    yield "an object type in a parquet file", ".parquet", extension_table(pickled[4], b"pandas.object")
    yield "a data base", ".parquet", database(canary)


def database(canary):
    "The bytes of an SQLite file with a trigger"
    with sqlite3.connect(":memory:") as base:
        base.execute("create table bars (x)")
        base.execute(f"create trigger t after insert on bars begin select '{canary}'; end")
        return base.serialize()


def as_source(path, folder):
    "Read as a file of prices"
    return load_bars(source=path)


def as_instruments(path, folder):
    "Read as an instrument table"
    (folder / "prices.csv").write_text(PRICES)
    return load_bars(source=folder / "prices.csv", instruments=path)


FACTS = {"rows": 2, "first": "2024-01-02", "last": "2024-01-03", "complete": "2024-01-03", "currency": "USD",
         "split_adjusted": True, "fetched": "2024-01-04T00:00:00Z"}


def as_stored(path, folder):
    "Read from a snapshot store whose seals were forged to vouch for it"
    content, store = path.read_bytes(), SnapshotStore(folder / "store", offline=True)
    with changing(store.path) as (database, index):
        facts = FACTS | {"sha256": hashlib.sha256(content).hexdigest(), "id": 1}
        store_room._put(database, "KO", facts, content)
    return store.load()


def as_facts(path, folder):
    "Read as every fact of a symbol, sealed"
    content, store = path.read_bytes().decode("latin-1"), SnapshotStore(folder / "facts", offline=True)
    with changing(store.path) as (database, index):
        store_room._put(database, "KO", dict.fromkeys(FACTS, content) | {"sha256": content, "why": content, "id": 1}, b"")
    store._repr_html_()
    return store.load()


def instead(path, folder, name):
    "Read from a store one of whose files it has replaced"
    store = SnapshotStore(folder / f"instead{name}", "replay", offline=True, lock_timeout=0.)
    if not store.path.exists():
        store_room.create_database(store.path)
    sound = store.path.read_bytes()
    file = store.folder / f"store.sqlite{name}"
    file.write_bytes(path.read_bytes())
    try:
        return store.load()
    finally:
        for left in store.folder.iterdir():
            left.unlink()
        store.path.write_bytes(sound)


def as_database(path, folder):
    "Read in place of the database"
    return instead(path, folder, "")


def as_log(path, folder):
    "Read in place of the log of the database"
    return instead(path, folder, "-wal")


def as_mark(path, folder):
    "Read in place of the mark of a store"
    return instead(path, folder, "-mark")


def earlier(folder, manifest, name="KO.parquet", content=b""):
    "Load from a folder as an earlier version left it"
    store = SnapshotStore(folder, offline=True)
    store.folder.mkdir(parents=True, exist_ok=True)
    (store.folder / name).write_bytes(content)
    (store.folder / "manifest.json").write_bytes(manifest)
    try:
        return store.load()
    finally:
        store.clear()


def as_manifest(path, folder):
    "Read as the manifest of a store of an earlier version"
    return earlier(folder / "manifest", path.read_bytes())


def as_earlier(path, folder):
    "Read from a store of an earlier version whose manifest was forged to vouch for it"
    content = path.read_bytes()
    facts = FACTS | {"sha256": hashlib.sha256(content).hexdigest()}
    sealed = {"files": {"KO": facts}, "version": 1}
    sealed["seal"] = hashlib.sha256(json.dumps(sealed, sort_keys=True).encode()).hexdigest()
    return earlier(folder / "earlier", json.dumps(sealed).encode(), f"{file_stem('KO')}.{facts['sha256'][:16]}.parquet", content)


DOORS = as_source, as_instruments, as_stored, as_facts, as_database, as_log, as_mark, as_manifest, as_earlier


def check(folder, doors=DOORS):
    "Nothing is executed, and what is refused is refused by a typed error"
    canary, opened, refused, untyped = folder / "canary", 0, 0, []
    files = list(hostile(canary))
    assert len(files) == 30
    for number, (name, suffix, content) in enumerate(files):
        path = folder / f"file{number}{suffix}"
        path.write_bytes(content)
        for door in doors:
            try:
                door(path, folder)
                opened += 1
            except DataError:
                refused += 1
            except Exception as error:
                untyped.append(f"{name} {suffix}, {door.__doc__}: {error!r}")
            assert not canary.exists(), f"{name} {suffix}, {door.__doc__}: code was executed"
    assert not untyped, f"{len(untyped)} refused without a typed error: {untyped[0]}"
    assert refused > opened
    return f"{len(files)} hostile files, {len(doors)} doors: 0 executed, {refused} refused, {opened} read as plain values"


def test_the_bomb_works(tmp_path):
    pickle.loads(pickle.dumps(Bomb(tmp_path / "canary"), 0))
    assert (tmp_path / "canary").exists()


def test_no_code_runs_from_price_files(tmp_path, tell):
    tell(check(tmp_path))


def obliging_reader(path, checks=None):
    "Planted: what is no table is unpickled"
    try:
        return pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
    except Exception as error:
        try:
            return pickle.loads(path.read_bytes())
        except Exception:
            raise DataError("unreadable") from error


def test_mutant(mutants, tmp_path, monkeypatch):
    monkeypatch.setattr(files_room, "_read_table", obliging_reader)
    mutants.kill(27, obliging_reader.__doc__.removeprefix("Planted: "), check, tmp_path)


# --- a database that brings statements of its own

STATEMENTS = ("CREATE TRIGGER t AFTER UPDATE ON state BEGIN DELETE FROM versions; END",
              "CREATE TRIGGER t AFTER INSERT ON versions BEGIN UPDATE versions SET currency='XXX'; END",
              "CREATE VIEW v AS SELECT * FROM versions", "CREATE INDEX i ON versions (symbol)",
              "ALTER TABLE versions RENAME TO other; CREATE VIEW versions AS WITH RECURSIVE r(id) AS (SELECT 1 UNION ALL SELECT id FROM r) "
              "SELECT other.* FROM other, r", "ALTER TABLE state ADD COLUMN x DEFAULT 1")


def check_statements(folder):
    "A store whose database holds a trigger, a view or another table is refused before any of them is used"
    for number, statement in enumerate(STATEMENTS):
        store = SnapshotStore(folder / str(number), "replay", fetch=answer)
        store.update(["KO"])
        database = sqlite3.connect(store.path)
        database.executescript(statement)
        database.close()
        for look in (store.load, lambda: store.update(["PEP"]), lambda: store.retire("KO"), store.verify):
            try:
                refused = bool(look()) and look == store.verify
            except DataError:
                refused = True
            assert refused, f"accepted: {statement}"


def answer(symbol, start=None):
    "Two sessions"
    frame = pd.DataFrame(dict.fromkeys(RAW_COLUMNS, [1.0, 1.0])).assign(dividend=0.0)
    frame["date"] = pd.to_datetime(["2024-01-02", "2024-01-03"])
    return RawBars(symbol, frame, pd.Timestamp("2024-01-03"))


def test_a_database_with_statements_in_it(tmp_path):
    check_statements(tmp_path)


def test_mutant_of_statements(mutants, tmp_path, monkeypatch):
    def guard(planted):
        monkeypatch.setattr(store_room, "_check_layout", planted)
        check_statements(tmp_path)
    mutants.kill(27, "triggers and views in the database are not looked for", guard, lambda database: None)
