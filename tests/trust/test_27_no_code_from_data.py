"""Row 27, the part about prices: no code runs from data files, whatever they pretend to be."""
import gzip
import io
import json
import pickle
import sqlite3

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hostile import Bomb, archive

import hybrid_ssm.data as data_room
from hybrid_ssm.data import DataError, load_bars
from hybrid_ssm.store import MANIFEST, SnapshotStore, data_file, seal_manifest


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


def as_stored(path, folder):
    "Read from a snapshot store whose manifest was forged to vouch for it"
    import hashlib
    content = path.read_bytes()
    store = SnapshotStore(folder / "store", offline=True)
    store.folder.mkdir(parents=True, exist_ok=True)
    facts = {"sha256": hashlib.sha256(content).hexdigest(), "rows": 2, "complete": "2024-01-03", "currency": "USD",
             "split_adjusted": True, "fetched": "2024-01-04T00:00:00Z"}
    data_file(store.folder, "KO", facts["sha256"]).write_bytes(content)
    (store.folder / MANIFEST).write_bytes(seal_manifest({"KO": facts}))
    return store.load()


def as_manifest(path, folder):
    "Read as the manifest of a store"
    store = SnapshotStore(folder / "forged", offline=True)
    store.folder.mkdir(parents=True, exist_ok=True)
    (store.folder / MANIFEST).write_bytes(path.read_bytes())
    return store.load()


def check(folder, doors=(as_source, as_instruments, as_stored, as_manifest)):
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
    monkeypatch.setattr(data_room, "_read_table", obliging_reader)
    mutants.kill(27, obliging_reader.__doc__.removeprefix("Planted: "), check, tmp_path)
