"""Row 22: corruption is seen. One flipped bit, or one cut, anywhere in a snapshot store is refused by name."""
import json

import numpy as np
import pandas as pd
import pytest

import hybrid_ssm.store as room
from hybrid_ssm.data import RAW_COLUMNS, RawBars
from hybrid_ssm.store import SnapshotStore, StoreError

SYMBOLS = ("KO", "BRK/A", "^GSPC")


def source(symbol, start=None):
    "A random share of 250 sessions with a dividend and a split"
    rng = np.random.default_rng(len(symbol))
    close = 50 * np.exp(rng.normal(0, 0.02, 250).cumsum())
    days = pd.bdate_range("2020-01-02", periods=250).as_unit("us")
    table = pd.DataFrame({"date": days, "volume": 1000.0, "dividend": 0.0, "split": 1.0}
                         | dict.fromkeys(("open", "high", "low", "close", "adj_close"), close))
    table.loc[100, ["dividend", "split"]] = 0.5, 2.0
    return RawBars(symbol, table[list(RAW_COLUMNS)], days[-1])


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    "A store that can only read"
    folder = tmp_path_factory.mktemp("store")
    SnapshotStore(folder, "replay", fetch=source).update(SYMBOLS)
    return SnapshotStore(folder, "replay", fetch=None, offline=True)


def read_all(store):
    "Everything that the store holds"
    return [store.raw(symbol).table for symbol in store.symbols]


def load_all(store):
    "The same through the front door"
    return [store.load().close]


def flip(content, rng):
    "One bit"
    place = int(rng.integers(len(content)))
    return content[:place] + bytes([content[place] ^ 1 << int(rng.integers(8))]) + content[place + 1:]


def cut(content, rng):
    "The rest is missing"
    return content[:int(rng.integers(len(content)))]


def verdicts(read, store, defects, seed):
    "(defect, file, what the reader said) for each spoiled file; 'accepted' where it said nothing"
    rng, files = np.random.default_rng(seed), sorted(p for p in store.folder.iterdir() if p.name != ".lock")
    assert len(files) == len(SYMBOLS) + 1
    for number, defect in enumerate(defects):
        path = files[number % len(files)]
        sound = path.read_bytes()
        path.write_bytes(defect(sound, rng))
        try:
            read(store)
            said = "accepted"
        except StoreError as error:
            said = "refused" if path.name in str(error) and error.remedy else f"another file blamed: {error}"
        except Exception as error:
            said = f"not typed: {error!r}"
        finally:
            path.write_bytes(sound)
        yield defect.__name__, path.suffix, said


def check(read, store, flips, cuts, seed=0):
    "Nothing accepted, and each refusal names the file"
    before = read(store)
    said = pd.DataFrame(verdicts(read, store, [flip] * flips + [cut] * cuts, seed), columns=["defect", "file", "said"])
    wrong = said[said["said"] != "refused"]
    assert wrong.empty, f"{len(wrong)} of {len(said)}: {wrong['said'].iloc[0]}"
    for old, new in zip(before, read(store)):
        pd.testing.assert_frame_equal(old, new)
    return f"{flips:,} flipped bits, {cuts:,} cut files: {len(said):,} refused, 0 accepted"


def checksum_skipped(store):
    "Planted: the checksum of a data file is skipped"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "_intact", lambda content, facts: True)
        return read_all(store)


def seal_skipped(store):
    "Planted: the seal of the manifest is skipped"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "_unsealed", lambda content: json.loads(content)["files"])
        return read_all(store)


def test_corruption_is_seen(store, tell):
    tell(check(read_all, store, flips=70, cuts=30))


def test_corruption_is_seen_through_the_front_door(store, tell):
    tell(check(load_all, store, flips=8, cuts=4))


@pytest.mark.parametrize("planted", [checksum_skipped, seal_skipped], ids=lambda f: f.__name__)
def test_mutants(mutants, store, planted):
    mutants.kill(22, planted.__doc__.removeprefix("Planted: "),
                 lambda read: check(read, store, flips=32, cuts=16), planted)


@pytest.mark.slow
def test_corruption_is_seen_a_thousand_times(store, tell):
    tell(check(read_all, store, flips=1000, cuts=500, seed=1))
