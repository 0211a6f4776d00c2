"""Row 27, the part about models: no code runs from a model, a checkpoint or a run folder, whatever it pretends to be."""
import io
import json
import pickle
import struct

import torch
from hostile import Bomb, archive

import hybrid_ssm.hybrid as hybrid_room
from hybrid_ssm.callbacks import Checkpoint, configure_optimizer, resume_run
from hybrid_ssm.handler import FinancialDataHandler
from hybrid_ssm.hybrid import HybridFinancialModel, ModelFileError
from hybrid_ssm.loop import Run, TrainerError
from hybrid_ssm.synthetic import no_signal
from hybrid_ssm.trainer import ModelTrainer

FEATURES = "return_1", "return_5", "return_21"


def small():
    "A model to be written over"
    return HybridFinancialModel(2, 4, 3, 2, n_layers=1)


def torch_file(thing, **how):
    "What torch.save would write"
    buffer = io.BytesIO()
    torch.save(thing, buffer, **how)
    return buffer.getvalue()


def with_header(header, body=b""):
    "A safetensors file that says what we like"
    words = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(words)) + words + body


def hostile(canary):
    "Bytes that run code in a reader that lets them, or lie about what they are"
    bomb = Bomb(canary)
    call = f"__import__('os').mkdir({str(canary)!r})"
    plain = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    return {
        **{f"pickle protocol {p}": pickle.dumps(bomb, p) for p in range(6)},
        "torch zip": torch_file(bomb), "torch legacy": torch_file(bomb, _use_new_zipfile_serialization=False),
        "torch state dict": torch_file({"w": torch.zeros(2), "x": bomb}),
        "zip with pickle": archive({"archive/data.pkl": pickle.dumps(bomb), "archive/version": "3", "archive/byteorder": "little"}),
        "python source": f"{call}\n".encode(), "call in metadata": with_header({"__metadata__": {"run": call}, "w": plain}, b"abcd"),
        "pickle in metadata": with_header({"__metadata__": {"run": pickle.dumps(bomb, 0).decode("latin-1")}, "w": plain}, b"abcd"),
        "pickle as tensor": with_header({"w": {"dtype": "U8", "shape": [20], "data_offsets": [0, 20]}}, pickle.dumps(bomb)[:20]),
        "offsets outside": with_header({"w": plain | {"data_offsets": [0, 1 << 40]}}, b"abcd"),
        "overlapping tensors": with_header({"w": plain, "v": plain}, b"abcd"),
        "huge header": struct.pack("<Q", 1 << 62) + b"{}", "no header": b"", "header is a list": with_header([call]),
        "unknown type": with_header({"w": plain | {"dtype": call}}, b"abcd"),
    }


def cards(canary, good):
    "model.json that would run or reach something"
    call = f"__import__('os').mkdir({str(canary)!r})"
    yaml = f"!!python/object/apply:os.mkdir ['{canary}']"
    evil = str(canary.parent / "evil.safetensors")
    return {
        "yaml": yaml, "python": call, "pickle": pickle.dumps(Bomb(canary), 0).decode("latin-1"),
        "model names a call": json.dumps(good | {"model": call}), "config calls": json.dumps(good | {"config": {"state_dim": call}}),
        "model is a module": json.dumps(good | {"model": "os.system"}), "path outside": json.dumps(good | {"weights": "../evil.safetensors"}),
        "absolute path": json.dumps(good | {"weights": evil}), "nan": json.dumps(good | {"sha256": float("nan")}), "list": f'["{call}"]',
    }


def trainings(canary, good):
    "A training that is no training, each time with a hash that fits"
    call = f"__import__('os').mkdir({str(canary)!r})"
    run = good["training"]
    swapped = [{}, [], call, None, run | {"scaler": call}, run | {"scaler": {"names": []}}, run | {"history": call},
               run | {"history": {"rows": 1, "floor": call}, "scaler": []}, run | {"data": {}}, run | {"data": call}]
    def sealed(training):
        card = good | {"training": training}
        data = (canary.parent / "trained" / card["weights"]).read_bytes()
        return json.dumps(card | {"sha256": hybrid_room._fingerprint(card, data)})
    return {str(i): sealed(training) for i, training in enumerate(swapped)}


def guard(tmp_path, load=HybridFinancialModel.load):
    "Every hostile file is refused by name and runs nothing; returns how many"
    canary, tried = tmp_path / "ran", 0
    run = configure_optimizer(Run(small(), epochs=2), 1e-3, 9)
    run.history.rows.append(dict(epoch=0, train=1., valid=1.))
    Checkpoint(tmp_path / "run").after_epoch(run)
    folder, state = tmp_path / "run" / "best", tmp_path / "run" / "last.safetensors"
    trained = ModelTrainer(small(), data=FinancialDataHandler(bars=no_signal(80, 2).bars, features=FEATURES), device="cpu")
    trained.save(tmp_path / "trained")
    whole = tmp_path / "trained" / "model.json"
    weights, card = next(folder.glob("weights-*")), folder / "model.json"
    good = {path: path.read_bytes() for path in (weights, card, state, whole)}
    (tmp_path / "evil.safetensors").write_bytes(torch_file(Bomb(canary)))
    def refused(path, content, read):
        path.write_bytes(content)
        try:
            read()
        except (ModelFileError, TrainerError):
            pass
        else:
            raise AssertionError("a hostile file was accepted")
        finally:
            assert not canary.exists(), "code ran"
            path.write_bytes(good[path])
        return 1
    for content in hostile(canary).values():
        tried += refused(weights, content, lambda: load(folder))
        tried += refused(state, content, lambda: resume_run(configure_optimizer(Run(small(), epochs=2), 1e-3, 9), tmp_path / "run"))
    for content in cards(canary, json.loads(card.read_text())).values():
        tried += refused(card, content.encode(), lambda: load(folder))
        tried += refused(whole, content.encode(), lambda: ModelTrainer.load(whole.parent))
    for content in trainings(canary, json.loads(whole.read_text())).values():
        tried += refused(whole, content.encode(), lambda: ModelTrainer.load(whole.parent, trained.data))
    assert load(folder).num_parameters == small().num_parameters    # and the good one is still read
    return tried


def test_hostile_models(tmp_path, tell):
    tried = guard(tmp_path)
    assert tried >= 30
    tell(f"{tried} hostile models, checkpoints and cards, 0 executed")


def test_a_reader_that_unpickles(tmp_path, mutants):
    def careless(folder):
        try:
            torch.load(io.BytesIO(next(folder.glob("weights-*")).read_bytes()), weights_only=False)
        except Exception:  # whatever it is: the damage is done
            pass
        return HybridFinancialModel.load(folder)
    mutants.kill(27, "weights_only=False", lambda load: guard(tmp_path, load), careless)


def test_a_reader_that_skips_the_hash(tmp_path, mutants, monkeypatch):
    def guarded(planted):
        monkeypatch.setattr(hybrid_room, "_fingerprint", planted)
        folder = small().save(tmp_path / "model")
        weights = next(folder.glob("weights-*"))
        weights.write_bytes(weights.read_bytes()[:-1] + b"!")
        try:
            HybridFinancialModel.load(folder)
        except ModelFileError:
            return
        raise AssertionError("a damaged model was accepted")
    guarded(hybrid_room._fingerprint)
    mutants.kill(27, "hash not compared", guarded, lambda *args: "0" * 64)


def test_the_archive_is_live(tmp_path):
    "A careless reader would have run it"
    canary = tmp_path / "ran"
    (tmp_path / "weights.pt").write_bytes(hostile(canary)["zip with pickle"])
    torch.load(tmp_path / "weights.pt", weights_only=False)
    assert canary.exists()
