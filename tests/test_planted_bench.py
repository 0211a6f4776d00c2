"""What bench/planted.py stores and prints is what was fitted: nothing twice, and nothing tested that was trained on."""
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from hybrid_ssm.feature_set import FEATURES

SCRIPT = Path(__file__).resolve().parents[1] / "bench" / "planted.py"
sys.path.insert(0, str(SCRIPT.parent))  # where the benches find what they share
spec = importlib.util.spec_from_file_location("bench_planted", SCRIPT)
bench = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bench)


def arguments(folder, *words):
    return bench.arguments(["--out", str(folder), "--losses", "sharpe", "joint", "--models", "hybrid", "lstm", "--seeds", "2",
                            "--rates", ".01", ".02", *words])


def row_of(job):
    "What a fit might give: the joint loss is .1 better, the hybrid .2, seed 1 by .05, and the second rate is the better one"
    share = .3 + .1 * (job["loss"] == "joint") + .2 * (job["model"] == "hybrid") + .05 * job["seed"]
    scores = dict(share=share, ceiling=.8, net=1., gross=2., turnover=9., valid=-job["rate"])
    return job | dict(scores=scores, seconds=1., parameters=7, machine="this one", torch="2")


def test_a_stopped_run_goes_on(tmp_path, capsys):
    asked, args = [], arguments(tmp_path)
    def fitter(job):
        if len(asked) == 7: raise KeyboardInterrupt
        asked.append(tuple(job.values()))
        return row_of(job)
    with pytest.raises(KeyboardInterrupt): bench.work(args, fitter)
    first, asked[:] = list(asked), []
    with open(tmp_path / "fits.jsonl", "a") as file: file.write('{"market": "no')  # stopped in the middle of a line
    def rest(job):
        asked.append(tuple(job.values()))
        return row_of(job)
    bench.work(args, rest)
    assert not set(first) & set(asked) and len(set(first + asked)) == len(first + asked) == 2 * 4 + 2 * 4
    bench.work(args, lambda job: pytest.fail("fitted twice"))
    rows = bench.read(tmp_path)
    assert {r["rate"] for r in rows if r["seed"] != bench.GRID_SEED} == {.02}          # the lower validation loss
    assert [r["seed"] for r in rows if r["seed"] != bench.GRID_SEED] == [0] * 4 + [1] * 4
    bench.tables(args)
    printed = capsys.readouterr().out
    assert "this one" in printed and "+0.100 ± 0.000" in printed and "+0.200 ± 0.000" in printed
    bench.tables(arguments(tmp_path, "--epochs", "11"))
    assert "share" not in capsys.readouterr().out                                         # another budget, another table
    asked[:] = []
    bench.work(arguments(tmp_path, "--stride", "5"), rest)
    assert len(asked) == 16


def test_equal_parameters():
    wanted = bench.build("hybrid", 0).num_parameters
    for name in bench.MODELS: assert abs(bench.build(name, 0).num_parameters / wanted - 1) < .05


def test_the_tested_sessions_were_not_trained_on(monkeypatch):
    monkeypatch.setattr(bench, "TEST_SESSIONS", 200)
    made, past, whole = bench.market("few", 3, 300)
    assert len(made.bars.sessions) == 500 and past.sessions[-1] == made.bars.sessions[299]
    positions = made.truth.oracle_positions()
    result = bench.out_of_sample(positions, made, 300)
    assert result.net_returns.index[0] == made.bars.sessions[300]
    scores = bench.score(result, made, 300)
    assert scores["gross"] == pytest.approx(scores["oracle"]) and scores["share"] < 1. and scores["ceiling"] < 1.2
    assert "planted_signal" not in FEATURES
    bench.market.cache_clear()


def test_a_fit_is_a_line(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "TEST_SESSIONS", 150)
    args = arguments(tmp_path, "--sessions", "450", "--epochs", "1", "--stride", "63")
    job = bench.job_of(args, market="few", loss="joint", model="lstm", seed=0, rate=.01)
    row = bench.once(args, job, bench.fit)
    assert json.loads((tmp_path / "fits.jsonl").read_text()) == row == bench.once(args, job, None)
    assert np.isfinite([*row["scores"].values(), row["seconds"]]).all() and row["parameters"] > 4e3
    bench.market.cache_clear()
