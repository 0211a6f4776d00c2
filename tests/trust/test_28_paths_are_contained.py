"""Row 28: paths are contained and injective. No name of a source or a ticker leaves its folder, no two share a file, and
in the database a ticker is a value: never a part of a statement, and never another ticker.
"""
import itertools
import re
import unicodedata

import numpy as np
import pandas as pd
import pytest

import hybrid_ssm.store as room
from hybrid_ssm.sources import RAW_COLUMNS, RawBars
from hybrid_ssm.store import SnapshotStore, StoreError, changing, file_stem, reading, symbol_lock

SEEDS = ("BRK/A", "BRK_A", "BRK.A", "BRK-A", "BRK\\A", "BRK%2FA", "BRK%5FA", "brk/a", "..", ".", "...", "../x", "/etc/passwd",
         "C:\\x", "C:x", "\\\\host\\x", "~", "~root", "-rf", "$HOME", "`id`", ";ls", "|cat", "a\nb", "a\rb", "a\tb", "\0",
         "A\0.parquet", "manifest.json", ".lock", "x.part", " ", "  ", "A ", " A", "A.", "A..", "*", "?", "<", ">", '"', "'",
         "É", "E\u0301", "ß", "ẞ", "SS", "ſ", "K", "\u212a", "İ", "i\u0307", "ﬁ", "fi", "Ａ", "Α", "А", "\u202eoK", "\u200bA",
         "\ufeffA", "😀", "\ud800", "\udfff", "CON", "con", "PRN", "AUX", "NUL", "nul", "CON.txt", "COM1", "COM¹", "LPT9",
         "CONIN$", "AUX.parquet", "^GSPC", "ES=F", "EURUSD=X", "BTC-USD", "005930.KS", "M&M.NS", "%00", "%2e%2e%2f", "..%2f")
DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d|conin\$|conout\$)(\..*)?", re.I)


def tickers(count=2000, seed=0):
    "Hostile names, all different: the seeds, pairs of them, long ones that differ in one place, case variants, noise"
    rng = np.random.default_rng(seed)
    long = [(s * 300)[:length] + tail for s in ("X", "x", "/", "É", "../") for length in (78, 79, 80, 81, 255, 300, 5000)
            for tail in ("", "A", "a", "/")]
    pairs = (a + b for a, b in itertools.product(SEEDS, SEEDS))
    swapped = (s.swapcase() for s in SEEDS)
    noise = ("".join(map(chr, rng.choice([*range(128), 0xE9, 0x301, 0x2215, 0xFF0F, 0x10FFFF], rng.integers(1, 12))))
             for _ in range(500))
    every = dict.fromkeys(itertools.chain(SEEDS, swapped, long, noise, pairs))
    return list(itertools.islice(every, count))


def escapes_as(file):
    "Would this name leave its folder, or be something else than a file of its own, on some system?"
    return (re.search(r'[/\\\0:*?"<>|\s]|[^\x20-\x7e]', file) or file[0] in ".-~" or ".." in file or file[-1] in ". "
            or len(file) > 255 or DEVICES.fullmatch(file.partition(".")[0]))


def check(stem, folder, count=2000):
    "0 escapes, 0 collisions: first on paper, then on the disk"
    names = tickers(count)
    paths = [folder / stem(name) for name in names]
    files = [str(path.relative_to(folder)) if path.is_relative_to(folder) else "/" for path in paths]
    escapes = [name for name, file in zip(names, files) if escapes_as(file)]
    same = {unicodedata.normalize("NFKC", f).casefold() for f in files}
    assert not escapes, f"{len(escapes)} escapes, e.g. {escapes[0]!r}"
    assert len(same) == len(names), f"{len(names) - len(same)} collisions"
    for path, name in zip(paths, names):
        path.write_bytes(name.encode("utf-8", "surrogatepass"))
    assert len(list(folder.iterdir())) == len(names)
    assert all(p.read_bytes() == n.encode("utf-8", "surrogatepass") for p, n in zip(paths, names))
    return f"{len(names):,} hostile tickers, 0 escapes, 0 collisions"


def underscore(symbol):
    'Planted: "/" -> "_"'
    return file_stem(symbol.replace("/", "_"))


def one_case(symbol):
    "Planted: capitals and small letters share a file"
    return file_stem(symbol.upper())


def plain(symbol):
    "Planted: the name is the ticker itself"
    return symbol


def test_paths_are_contained_and_injective(tmp_path, tell):
    assert len(set(tickers())) == 2000
    tell(check(file_stem, tmp_path))


@pytest.mark.parametrize("planted", [underscore, one_case, plain], ids=lambda f: f.__name__)
def test_mutants(mutants, tmp_path, planted):
    mutants.kill(28, planted.__doc__.removeprefix("Planted: "), lambda stem: check(stem, tmp_path), planted)


# --- tickers in the database

def check_rows(path, count=2000):
    "Every name is a row of its own, and what comes back is what was put in"
    names, before = tickers(count), sorted(p.name for p in path.parent.parent.rglob("*"))
    content = {name: b"of " + name.encode("utf-8", "surrogatepass") for name in names}
    try:
        with changing(path) as (database, index):
            for name in names:
                room._put(database, name, {"sha256": "", "currency": name.encode("utf-8", "replace").decode()}, content[name])
        with reading(path) as (database, index):
            tables = {name for name, in database.ask("SELECT name FROM sqlite_master")}
            found = {s: database.ask("SELECT content FROM versions WHERE id=?", [f["id"]])[0][0] for s, f in index.items()}
    except StoreError as error:
        raise AssertionError(f"a ticker was read as a part of a statement: {error}") from error
    assert tables == {"versions", "state"}
    assert len(found) == len(names), f"{len(names) - len(found)} collisions"
    assert found == content
    new = {p.name for p in path.parent.parent.rglob("*")} - set(before)
    assert new <= {path.parent.name, path.name, f"{path.name}-mark"}, f"escapes: {new}"
    return f"{len(names):,} hostile tickers as rows, 0 escapes, 0 collisions"


def pasted(put):
    "Planted: the ticker is pasted into the statement"
    def planted(database, symbol, facts, content):
        put(database, symbol, facts, content)
        text = symbol.encode("utf-8", "replace").decode()
        database.ask(f"UPDATE versions SET why='' WHERE currency='{text}'")
    return planted


def lowered(put):
    "Planted: capitals and small letters share a row"
    return lambda database, symbol, facts, content: put(database, symbol.lower(), facts, content)


def test_tickers_are_values(tmp_path, tell):
    tell(check_rows(SnapshotStore(tmp_path, "replay").path))


@pytest.mark.parametrize("planted", [pasted, lowered], ids=lambda f: f.__name__)
def test_mutants_of_rows(mutants, tmp_path, monkeypatch, planted):
    def guard(change):
        monkeypatch.setattr(room, "_put", change(room._put))
        check_rows(SnapshotStore(tmp_path, "replay").path, 200)
    mutants.kill(28, planted.__doc__.removeprefix("Planted: "), guard, planted)


def source(symbol, start=None):
    "One price per name"
    row = dict.fromkeys(RAW_COLUMNS, 1.0) | {"date": pd.Timestamp("2024-01-02"), "close": float(len(symbol) + 1)}
    return RawBars(symbol, pd.DataFrame([row | dict(dividend=0.0)]), pd.Timestamp("2024-01-02"))


def test_a_store_keeps_hostile_names_apart(tmp_path):
    names = tickers()[::80]  # 25 of them
    store = SnapshotStore(tmp_path / "home", "../../elsewhere", fetch=source)
    store.update(names)
    assert [p.name for p in tmp_path.iterdir()] == ["home"]                       # the source's name is contained too
    assert store.verify() == [] and sorted(store.symbols) == sorted(names)
    assert all(store.raw(n).table["close"].item() == len(n) + 1 for n in names)
    locks = list((store.folder / "fetching").iterdir())
    assert len(locks) == len(names) and all(p.resolve().parent.parent == store.folder.resolve() for p in locks)
    for name in tickers(200):
        with symbol_lock(store.folder, name, timeout=0.0):  # contained, and not one that is already held
            pass
    assert all(p.stat().st_size == 0 for p in (store.folder / "fetching").iterdir())
    assert [p.name for p in tmp_path.iterdir()] == ["home"]
    with pytest.raises(StoreError, match="missing symbol"):
        store.update([""])
