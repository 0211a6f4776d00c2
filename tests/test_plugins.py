"""Plugins: their names work wherever built-in ones do, and their code runs only where a person named the file."""
import json
import pickle
import subprocess
import sys
from dataclasses import asdict

import numpy as np
import pytest

import hybrid_ssm.config as config_room
from hybrid_ssm import run as running
from hybrid_ssm.config import Config, config_from_dict, parse_config, read_config
from hybrid_ssm.core import ConfigError
from hybrid_ssm.data import DataError
from hybrid_ssm.plugins import PluginFile, Plugins, load_plugins, plugin_files
from hybrid_ssm.run import build_model, load_experiment, read_run, run_experiment, target_weights
from hybrid_ssm.sources import load_bars

MINE = """
from dataclasses import dataclass, replace
from torch import nn
from hybrid_ssm.baselines import LSTMBaseline
from hybrid_ssm.feature_set import FEATURES
from hybrid_ssm.losses import JointLoss

@dataclass(frozen=True)
class Speed:
    sessions: int = 5

class Small(LSTMBaseline):
    pass

def trend(bars):
    return bars.close.pct_change(Speed().sessions, fill_method=None).clip(-1, 1)

FEATURES = (replace(FEATURES['return_5'], name='my_return'),)
MODELS = {'small': lambda config: Small(4, len(config.features))}
RULES = {'trend': trend}
LOSSES = {'calm': JointLoss(crps=1., turnover=.01)}
"""
TEXT = """
name = "plugged"
plugins = ["mine.py"]
[data]
symbols = ["KO", "PEP"]
start = "2015-01-01"
[features]
names = ["return_1", "my_return"]
[folds]
test_start = "2018-01-01"
test_end = "2018-12-31"
[models]
names = ["small", "trend", "corrected"]
[loss]
name = "calm"
[train]
epochs = 1
seeds = [0]
window = 63
warm_up = 21
stride = 63
threads = 1
[candidates.corrected]
model = "small"
models.prior = "trend"
[costs]
bps = 5.0
[compute]
backend = "sequential"
"""


@pytest.fixture
def folder(tmp_path):
    "A configuration beside its plugin"
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "mine.toml").write_text(TEXT)
    return tmp_path


def test_one_of_each_runs(folder):
    config = read_config(folder / "mine.toml")
    result = run_experiment(config, folder / "runs", progress=False)
    assert {"small", "trend", "corrected"} <= set(result.table.frame.index)
    data = result.data
    assert data.handler.panel.names == ("return_1", "my_return")
    assert type(build_model(config, "small", 0)).__name__ == "Small"
    days = result.sessions
    held = target_weights(config, data, {}, days, ["trend"])["trend"]
    assert np.isfinite(held.to_numpy()).all() and held.abs().to_numpy().sum() > 0
    assert result.forecasts["small"].position.ne(result.forecasts["corrected"].position).to_numpy().any()  # the prior is read
    with pytest.raises(ConfigError, match="plugins="):
        read_run(result.folder)
    again = read_run(result.folder, plugins=[folder / "mine.py"])
    assert again.config == config and again.table.frame.equals(result.table.frame)


def test_a_name_of_this_package_is_refused(folder):
    for defined, words in (("MODELS = {'lstm': len}", "'lstm', as a model of this package"), ("RULES = {'carry': len}", "'carry', as a rule of this package"),
                           ("LOSSES = {'a b': len}", "use letters"), ("RULES = {'selected': len}", "'selected', as a row")):
        (folder / "mine.py").write_text(defined)
        with pytest.raises(ConfigError, match="mine.py.*" + words):
            load_plugins([folder / "mine.py"])


def test_the_same_content_is_one_plugin(folder, mutants, monkeypatch):
    (folder / "copy.py").write_bytes((folder / "mine.py").read_bytes())
    (folder / "other.py").write_text("RULES = {'calm_rule': len}")

    def guard(files):
        monkeypatch.setattr(config_room, "plugin_files", files)
        once = Config(plugins=[folder / "mine.py"])
        for paths in (["mine.py", "mine.py"], ["mine.py", "copy.py"]):
            twice = Config(plugins=[folder / p for p in paths])
            assert twice == once and twice.fingerprint == once.fingerprint
            assert [*load_plugins([folder / p for p in paths]).models] == ["small"]
        assert parse_config("plugins = ['mine.py', 'copy.py']", folder) == once
        assert len(Config(plugins=[folder / "mine.py", folder / "other.py"]).plugins) == 2
    guard(plugin_files)
    mutants.kill(27, "the same plugin counts twice", guard, lambda paths: tuple(map(PluginFile.named, (p for p in paths if "copy" not in str(p)))))


def test_a_name_that_nothing_defines_is_refused(folder):
    for found, other in (("my_return\"", "my_returns\""), ("\"trend\", ", "\"trnd\", "), ("name = \"calm\"", "name = \"clam\""),
                         ("model = \"small\"", "model = \"smal\""), ("prior = \"trend\"", "prior = \"trnd\"")):
        assert found in TEXT
        with pytest.raises(ConfigError, match="did you mean|choose from"):
            parse_config(TEXT.replace(found, other), folder)


def test_a_configuration_and_its_features_reach_another_process(folder):
    config = read_config(folder / "mine.toml")
    (folder / "sent").write_bytes(pickle.dumps((config, config.feature_choice)))
    code = ("import sys, pickle, types\nimport numpy as np\nconfig, features = pickle.load(open(sys.argv[1], 'rb'))\n"
            "assert 'hybrid_ssm_plugin' not in str([*sys.modules])\n"  # it runs where it is used
            "print(type(config.extensions.models['small'](config)).__name__, features[1].name, features[1].function(types.SimpleNamespace(level=np.arange(1., 9), sigma=1.)).shape)")
    run = lambda: subprocess.run([sys.executable, "-c", code, str(folder / "sent")], capture_output=True, text=True)
    done = run()
    assert done.stdout.split() == ["Small", "my_return", "(8,)"], done.stderr
    (folder / "mine.py").write_text(MINE + "# changed")
    assert "has changed since it was named" in run().stderr


# --- code that nobody named

def bomb(folder):
    "A plugin that leaves a mark where it is run"
    path, canary = folder / "bomb.py", folder / "canary"
    path.write_text(f"import os\nos.path.exists({str(canary)!r}) or os.mkdir({str(canary)!r})\nRULES = {{'flat': len}}\n")
    return PluginFile.named(path), canary


def hostile(file):
    "What a stored configuration can say about plugins"
    facts = asdict(file)
    yield from ([facts], (facts,), [file.path], file.path, {"path": file.path}, [facts | {"sha256": ""}], [[file.path]], [facts, 3], 1, {file.path: 1})


def check_stored(read, folder):
    "A stored configuration runs no code of its own, and says how to run it"
    file, canary = bomb(folder)
    (folder / "good.py").write_text("RULES = {'calm': len}")
    run = folder / "run"
    run.mkdir(exist_ok=True)
    (run / "run.json").write_text("{}")
    plain = asdict(Config())
    for plugins in hostile(file):
        for tree in (plain | {"plugins": plugins}, plain | {"plugins": plugins, "models": {"names": ["flat"], "prior": "flat"}},
                     plain | {"candidates": {"x": {"model": "flat", "plugins": plugins}}}, plain | {"data": {"source": "sample", "plugins": plugins}}):
            (run / "config.json").write_text(json.dumps(tree))
            for given in ((), [folder / "good.py"]):
                try:
                    refused = read(json.loads((run / "config.json").read_text()), given) is None
                except ConfigError as error:
                    refused = "plugins" in str(error) or "unknown model" in str(error)
                assert not canary.exists(), f"{plugins!r} ran"
                assert refused
            with pytest.raises(ConfigError):
                read_run(run)
            assert not canary.exists(), f"{plugins!r} ran"


def trusting(tree, plugins):
    "Planted: the files that a stored configuration names are run"
    named = tree.get("plugins", ())
    paths = [n["path"] if isinstance(n, dict) else n for n in (named if isinstance(named, list) else [named])]
    return Config(**dict(tree) | {"plugins": tuple(p for p in paths if isinstance(p, str))})


def test_a_stored_configuration_runs_no_code(tmp_path, mutants):
    check_stored(config_from_dict, tmp_path)
    mutants.kill(27, trusting.__doc__.removeprefix("Planted: "), lambda read: check_stored(read, tmp_path), trusting)


def test_data_files_name_no_plugin(folder):
    file, canary = bomb(folder)
    rows = "date,symbol,close,plugins,FEATURES\n" + "".join(f"2024-01-0{d},KO,6{d},{file.path},{file.path}\n" for d in range(2, 8))
    (folder / "prices.csv").write_text(rows)
    (folder / "table.csv").write_text(f"symbol,cost_fraction,plugins\nKO,0.0005,{file.path}\n")
    for options in ({"instruments": folder / "table.csv"}, {"columns": {"plugins": "volume"}}):
        try:
            load_bars(source=folder / "prices.csv", **options)
        except DataError:
            pass
        assert not canary.exists()
    config = parse_config("[costs]\nbps = 5.0\n[folds]\ntest_start = '2024'\ntest_end = '2024'\n[data]\nbenchmark = 'KO'\n"
                          f"source = '{folder / 'prices.csv'}'\n[models]\nnames = ['long_only']")
    load_experiment(config)
    assert not canary.exists() and config.extensions == Plugins()


def test_the_bomb_works(tmp_path):
    file, canary = bomb(tmp_path)
    load_plugins([file])
    assert canary.exists()


def test_a_file_that_changed_is_refused(folder):
    config = read_config(folder / "mine.toml")
    (folder / "mine.py").write_text(MINE + "\n# a word\n")
    assert "trend" in config.extensions.rules  # the process goes on with what it has loaded; another one refuses it, as above
    changed = read_config(folder / "mine.toml")
    assert changed.fingerprint != config.fingerprint
    (folder / "other").mkdir()
    (folder / "other" / "moved.py").write_text(MINE + "\n# a word\n")
    moved = parse_config(TEXT.replace("mine.py", "other/moved.py"), folder)
    assert moved.fingerprint == changed.fingerprint  # the place of the file changes no number


AHEAD = {
    "rule": ("pct_change(Speed().sessions, fill_method=None)", "pct_change(fill_method=None).shift(-1)", "'trend' holds"),
    "scale": (".clip(-1, 1)\n", ".clip(-1, 1) / bars.close.max()\n", "'trend' holds"),
    "feature": ("replace(FEATURES['return_5'], name='my_return')",
                "replace(FEATURES['return_5'], name='my_return', function=lambda s: s.level[::-1].copy())", "'my_return' holds"),
}


@pytest.mark.parametrize("what", AHEAD)
def test_a_plugin_that_looks_ahead_is_refused(folder, what):
    old, new, words = AHEAD[what]
    data_of = lambda: (config := read_config(folder / "mine.toml"), load_experiment(config))
    running._check_plugins(*data_of())
    assert old in MINE
    (folder / "mine.py").write_text(MINE.replace(old, new))
    with pytest.raises(ConfigError, match=f"mine.py.*{words}.*reads the future"):
        running._check_plugins(*data_of())
    with pytest.raises(ConfigError, match="reads the future"):
        run_experiment(read_config(folder / "mine.toml"), folder / "runs", progress=False)
    assert not (folder / "runs").exists()  # before anything is trained
