"""The tasks of bench/learning.py are what they claim: an oracle solves them, a shuffled one not, nothing sees ahead."""
import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

SCRIPT = Path(__file__).resolve().parents[1] / "bench" / "learning.py"
spec = importlib.util.spec_from_file_location("bench_learning", SCRIPT)
bench = importlib.util.module_from_spec(spec)
sys.path.insert(0, str(SCRIPT.parent))  # where the benches find what they share
spec.loader.exec_module(bench)


def answer(mean, scale=None, df=None, regime=None):
    "The output of a model"
    mean = torch.as_tensor(np.asarray(mean), dtype=torch.float32)
    one = torch.ones_like(mean)
    regime = torch.ones_like(mean[..., :1]) if regime is None else torch.as_tensor(regime)
    return SimpleNamespace(mean=mean, scale=one if scale is None else torch.as_tensor(scale, dtype=torch.float32),
                           df=one * 1e4 if df is None else df, regime=regime)


def recall_oracle(batch, rng=None):
    "Looks the code up among the marked pairs of the past; with `rng`, reads another pair's value"
    x, out = batch.x.numpy(), np.zeros(batch.y.shape)
    for b in range(len(x)):
        for t in np.flatnonzero(x[b, :, -1]):
            start = t - t % bench.EPISODE
            pairs = x[b, start:t][x[b, start:t, -2] > 0]
            found = (pairs[:, :8] == x[b, t, :8]).all(1)
            assert found.sum() == 1                                   # a code is shown once and never as a distractor
            out[b, t] = pairs[rng.integers(len(pairs)) if rng is not None else found.argmax(), 8:11]
    return answer(out)


def test_recall_is_solved_by_looking_up():
    batch = bench.recall(1)
    score = bench.recall_score([recall_oracle(batch)], [batch])
    assert all(score[f"recall_{n}"] == 1. for n in bench.LEVELS) and score["frontier"] == 16
    wrong = bench.recall_score([recall_oracle(batch, np.random.default_rng(0))], [batch])
    assert wrong["recall_4"] < .5 and wrong["recall_16"] < .35 and wrong["frontier"] == 1  # 1/m + (1 - 1/m)/8
    assert bench.squared(recall_oracle(batch), batch) == 0.


def test_recall_keeps_its_promises():
    batch, x = bench.recall(2), bench.recall(2).x
    assert (x[..., 8:11][x[..., -1] > 0] == 0).all()                  # a query does not contain the value
    shown = x[..., -2].view(bench.BATCH, 4, bench.EPISODE).sum(-1)
    assert (shown == torch.tensor(batch.truth["pairs"])[:, None]).all()
    assert set(batch.truth["pairs"]) == set(bench.LEVELS)
    for row, pairs in zip(x[:8], batch.truth["pairs"]):
        codes = [tuple(c) for c in row[(row[:, -1] == 0) & (row[:, 0] != 0)][:, :8].tolist()]
        assert len(codes) == len(set(codes)) == 4 * 2 * pairs         # as many distractors as pairs, no code twice


def filter_answer(batch):
    "The optimal filter: its probability of the wild state, the density of its mixture, and the true state"
    ahead, density = bench.filtered(batch.truth)
    return ahead, density, batch.truth["states"][:, :-1]


def test_the_filter_gains_and_is_calibrated(tell):
    batches = [bench.regimes(seed) for seed in range(8)]
    ahead, density, _ = (np.concatenate(t) for t in zip(*map(filter_answer, batches)))
    following = np.concatenate([b.truth["states"][:, 1:] for b in batches])
    r = np.concatenate([b.truth["r"][:, 1:] for b in batches])
    gain = (density - bench.mixture(r, .5)).mean()
    tell(f"the optimal filter gains {gain:.3f} nats a session over the best constant distribution")
    assert gain > .05
    for low in np.linspace(0, .9, 10):                                # where it predicts 30 %, 30 % happens
        inside = (ahead >= low) & (ahead < low + .1)
        if inside.sum() > 600: assert abs(following[inside].mean() - ahead[inside].mean()) < .05
    shuffled = np.random.default_rng(0).permutation(ahead.ravel()).reshape(ahead.shape)
    assert (bench.mixture(r, shuffled) - bench.mixture(r, .5)).mean() < -.05


def test_the_best_constant_distribution_is_the_best():
    r = np.concatenate([bench.regimes(seed).truth["r"][:, 1:].ravel() for seed in range(8)])
    gains = [bench.mixture(r, p).mean() for p in (.3, .4, .5, .6, .7)]
    assert max(gains) - gains[2] < .003


def test_regime_scores_know_right_from_wrong():
    batches = [bench.regimes(seed) for seed in range(4)]
    def output(b, wild): return answer(np.zeros(b.y.shape), np.where(wild, 1.3, .55)[..., None],
                                     regime=np.eye(2)[wild.astype(int)])
    knowing = [output(b, b.truth["states"][:, :-1] == 1) for b in batches]
    blind = [output(b, np.random.default_rng(0).random(b.y.shape[:2]) > .5) for b in batches]
    right, wrong = bench.regimes_score(knowing, batches), bench.regimes_score(blind, batches)
    assert min(right[k] for k in ("share", "ari", "ari_regime", "ari_weights")) > .99 and right["lag"] == 0.
    assert wrong["share"] < 0. and abs(wrong["ari"]) < .01 and abs(wrong["ari_regime"]) < .01
    assert right["ari_filter"] > .6 and 1 < right["lag_filter"] < 20


def test_adjusted_rand_by_hand():
    a = np.array([0, 0, 1, 1])
    assert bench.adjusted_rand(a, 1 - a) == 1.                        # the names of the labels have no influence
    assert bench.adjusted_rand(a, np.array([0, 1, 0, 1])) == pytest.approx(-.5)
    assert bench.adjusted_rand(np.zeros(4, int), a) == 0.


def pattern_oracle(batch, rng=None):
    "What followed when the code of today was last seen, faded; with `rng`, what followed some other day"
    x, out = batch.x.numpy(), np.zeros(batch.y.shape)
    for b in range(len(x)):
        last = {}
        for t, row in enumerate(x[b]):
            if t: last[tuple(row[:8])] = row[8]
            if rng is not None and last: out[b, t, 0] = bench.KEEP * list(last.values())[rng.integers(len(last))]
            elif tuple(row[9:17]) in last: out[b, t, 0] = bench.KEEP * last[tuple(row[9:17])]
    out[..., 1] = bench.drift(x[..., -1])
    return answer(out)


def test_both_parts_are_solved_by_their_oracle():
    batches = [bench.both(seed) for seed in range(2)]
    score = bench.both_score([pattern_oracle(b) for b in batches], batches)
    assert score["pattern"] == pytest.approx(1., abs=.05) and score["drift"] == pytest.approx(1., abs=1e-6)
    rng = np.random.default_rng(0)
    wrong = bench.both_score([pattern_oracle(b, rng) for b in batches], batches)
    assert wrong["pattern"] < 0.


def test_the_drift_is_longer_than_two_windows():
    batches = [bench.both(seed) for seed in range(2)]
    def near(z, w): return np.stack([bench.drift(np.where(np.arange(z.shape[1]) > t - w, z, 0.))[:, t]
                                     for t in range(z.shape[1])], 1)
    reach = 2 * bench.TASKS["both"].window - 1
    seen = [answer(np.stack([np.zeros(b.y.shape[:2]), near(b.x[..., -1].numpy(), reach)], -1)) for b in batches]
    assert bench.both_score(seen, batches)["drift"] < .4              # two layers of windows cannot hold it


def same(a, b, until):
    "Do two batches agree in what is seen until a session, and in what is asked before it?"
    return torch.equal(a.x[:, :until + 1], b.x[:, :until + 1]) and torch.equal(a.y[:, :until], b.y[:, :until])


@pytest.mark.parametrize("name", ["recall", "regimes", "both"])
def test_seeds_make_batches(name):
    make = bench.TASKS[name].make
    assert same(make(5), make(5), 251) and not torch.equal(make(5).x, make(6).x)
    assert make(5).x.shape == (bench.BATCH, bench.SESSIONS, bench.TASKS[name].features)
    assert make(5).y.shape[-1] == len(bench.TASKS[name].horizons) and make(5).asked.shape == make(5).y.shape


def test_targets_arrive_tomorrow():
    regimes, both = bench.regimes(3), bench.both(3)
    assert torch.equal(regimes.x[:, 1:, 0], regimes.y[:, :-1, 0])     # today's target is visible in tomorrow's row, not before
    assert torch.equal(both.x[:, 1:, 8], both.y[:, :-1, 0]) and torch.equal(both.x[:, 1:, :8], both.x[:, :-1, 9:17])
    here = np.corrcoef(both.x[:, 1:, 8].flatten(), both.y[:, 1:, 0].flatten())[0, 1]
    assert abs(here) < .05
    z = both.x[..., -1].numpy()
    later = np.concatenate([z[:, :100], 9 + 0 * z[:, 100:]], 1)
    assert np.array_equal(bench.drift(later)[:, :100], bench.drift(z)[:, :100])


def test_equal_parameters():
    for task in bench.TASKS.values():
        wanted = bench.build("hybrid", task, 0).num_parameters
        for name in ("none", "lstm"):
            assert abs(bench.build(name, task, 0).num_parameters / wanted - 1) < .03
    with pytest.raises(bench.ConfigError): bench.hybrid("magic", bench.TASKS["both"])


def arguments(folder, *words):
    return bench.arguments(["--out", str(folder), "--tasks", "both", "--models", "hybrid", "lstm", "--seeds", "2",
                            "--rates", ".01", ".02", *words])


def test_a_stopped_run_goes_on(tmp_path, capsys):
    asked, args = [], arguments(tmp_path)
    def fitter(job):
        if len(asked) == 5: raise KeyboardInterrupt
        asked.append(tuple(job.values()))
        scores = dict(loss=job["rate"], pattern=.5 + .1 * (job["model"] == "hybrid"), drift=.1 * job["seed"])
        return job | dict(scores=scores, seconds=1., parameters=7, machine="this one", torch="2")
    with pytest.raises(KeyboardInterrupt): bench.work(args, fitter)
    first, asked[:] = list(asked), []
    with open(tmp_path / "fits.jsonl", "a") as file: file.write('{"task": "bo')  # stopped in the middle of a line
    bench.work(args, fitter)
    assert not set(first) & set(asked) and len(set(first + asked)) == len(first + asked) == 2 * 2 + 2 * 2
    bench.work(args, lambda job: pytest.fail("fitted twice"))
    rows = bench.read(tmp_path)
    assert len(rows) == 8 and {r["rate"] for r in rows if r["seed"] != bench.GRID_SEED} == {.01}
    assert [r["seed"] for r in rows if r["seed"] != bench.GRID_SEED] == [0, 0, 1, 1]   # seed 0 of everything first
    bench.tables(args)
    printed = capsys.readouterr().out
    assert "this one" in printed and "0.600 ± 0.000" in printed and "+0.100 ± 0.000" in printed


def test_a_fit_is_a_line(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "BATCH", 4)
    job = dict(task="both", model="hybrid", seed=0, steps=2, rate=.01)
    row = bench.once(tmp_path, job, bench.fit)
    assert json.loads((tmp_path / "fits.jsonl").read_text()) == row == bench.once(tmp_path, job, None)
    assert np.isfinite([*row["scores"].values(), row["seconds"]]).all() and row["parameters"] > 2e4
