"""Row 20: a run that is stopped at any step and resumed ends in the same bits as one that was left alone.

Weights, moments of the optimiser, the running mean of the weights, the best weights, the schedule, the history and, where
the objective charges what a book trades, the recorded holdings are compared in the checkpoint that both leave behind.
"""
import json

import pytest
import torch
from safetensors import safe_open
from torch import nn

import hybrid_ssm.loop as loop
import hybrid_ssm.trainer as room
from hybrid_ssm.callbacks import AverageWeights, RecordHoldings, resume_run
from hybrid_ssm.handler import FinancialDataHandler
from hybrid_ssm.hybrid import HybridFinancialModel
from hybrid_ssm.loop import Callback, Run
from hybrid_ssm.losses import JointLoss
from hybrid_ssm.risk import RiskPolicy
from hybrid_ssm.synthetic import planted_signal
from hybrid_ssm.trainer import ModelTrainer

pytestmark = pytest.mark.filterwarnings("ignore:stopped before the first epoch")
FEATURES = ("return_5", "return_21")
OPTIONS = dict(window=40, warm_up=10, stride=10, batch_size=16, micro_batch=9, average=.9, progress=False)
SHORT = dict(stride=20, batch_size=12)  # fewer windows, whole dates in a batch


@pytest.fixture(scope="module")
def data():
    "Four symbols, 320 sessions: 92 windows, six steps an epoch"
    return FinancialDataHandler(bars=planted_signal(320, 4, seed=1).bars, features=FEATURES)


class Weighed(nn.Module):
    "An objective with a weight of its own"
    def __init__(self):
        super().__init__()
        self.weight, self.joint = nn.Parameter(torch.zeros(())), JointLoss()

    def forward(self, out, batch):
        parts = self.joint(out, batch)
        return parts._replace(total=parts.total * (-self.weight).exp() + self.weight)


def traded():
    "An objective whose windows start from recorded holdings"
    return JointLoss(traded=1.)


class StopAt(Callback):
    "A hand that stops the run"
    def __init__(self, step):
        self.step = step

    def after_step(self, run):
        run.stop |= run.step == self.step


def train(data, folder, epochs, stop=None, seed=0, loss=JointLoss, prior=None, **more):
    "Go on in `folder`, from whatever weights; everything that the run leaves behind"
    model = HybridFinancialModel(state_dim=2, memory_dim=4, input_dim=len(FEATURES), num_heads=2, n_layers=1, dropout=.2, seed=seed)
    trainer = ModelTrainer(model, data=data, seed=3, device="cpu", loss=loss(), prior=prior, policy=RiskPolicy())
    trainer.train_model(epochs, 1e-2, checkpoint=folder, resume=True, callbacks=[StopAt(stop)], **OPTIONS | more)
    with safe_open(folder / "last.safetensors", framework="pt") as file:
        numbers, words = {k: file.get_tensor(k) for k in file.keys()}, json.loads(file.metadata()["run"])
    for row in words["history"]["rows"]:
        del row["seconds"]
    kept = {f"kept.{k}": v.clone() for k, v in model.state_dict().items()}
    return numbers | kept, words


def guard(data, folder, epochs, steps, **how):
    "Stop at each of the steps, go on from a model that starts elsewhere; returns the numbers compared"
    straight, said = train(data, folder / "straight", epochs, **how)
    compared = 0
    for step in steps:
        train(data, folder / str(step), epochs, stop=step, **how)
        resumed, again = train(data, folder / str(step), epochs, seed=step + 1, **how)
        assert again == said, f"stopped at step {step}: another history, schedule or step"
        assert resumed.keys() == straight.keys()
        for name, value in straight.items():
            same = resumed[name].numpy().tobytes() == value.numpy().tobytes()  # also where it is NaN
            assert same, f"stopped at step {step}: {name} differs"
            compared += value.numel()
    return compared


def test_every_step_of_twelve(data, tmp_path, tell):
    steps = range(1, 12)
    tell(f"{len(steps)} stops, {guard(data, tmp_path, 2, steps):,} numbers, 0 differ")


def test_every_step_of_a_traded_objective(data, tmp_path, tell):
    "Windows of the second epoch start from what the model of the first one holds"
    last = train(data, tmp_path / "length", 2, loss=traded, **SHORT)[1]["step"]
    steps = range(1, last)
    compared = guard(data, tmp_path, 2, steps, loss=traded, **SHORT)
    tell(f"{len(steps)} stops, {compared:,} numbers, recorded holdings among them, 0 differ")


@pytest.mark.parametrize("how", [dict(loss=Weighed), dict(every=2, schedule="cosine", smooth=2), dict(patience=1, average=None)],
                         ids=["weights in the loss", "every other step", "stopped early"])
def test_other_ways(data, tmp_path, how):
    assert guard(data, tmp_path, 3, [5, 6, 13], **how) > 0


@pytest.mark.slow
def test_every_step_of_sixty(data, tmp_path, tell):
    steps = range(1, 60)
    tell(f"{len(steps)} stops, {guard(data, tmp_path, 10, steps):,} numbers, 0 differ")


def forgetting(what, monkeypatch):
    "A way to resume that loses something"
    real = loop.plan_epoch
    def resume(run: Run, folder, callbacks=()):
        fresh = {k: v.clone() for k, v in run.model.state_dict().items()}, run.optimizer.state_dict()
        resume_run(run, folder, callbacks)
        if not run.step:  # nothing to resume
            return run
        if what == "losses of the epoch":
            run.losses = run.losses[:-1]
        if what == "epoch of the sampler":
            monkeypatch.setattr(loop, "plan_epoch", lambda data, size, seed, epoch, by_date: real(data, size, seed, 0, by_date))
        if what == "moments":
            run.optimizer.load_state_dict(run.optimizer.state_dict() | {"state": {}})
        if what == "schedule":
            run.schedule.last_epoch = 0
        if what == "seed":
            run.seed += 1
        if what == "mean":
            for callback in callbacks:
                if isinstance(callback, AverageWeights):
                    callback.load({})
        if what == "holdings":
            for callback in callbacks:
                if isinstance(callback, RecordHoldings):
                    callback.before_evaluate(run)  # from the weights of this step, not of the last epoch
        if what == "weights":
            run.model.load_state_dict(fresh[0])
        return run
    return resume


@pytest.mark.parametrize("what", ["losses of the epoch", "epoch of the sampler", "moments", "schedule", "seed", "mean", "weights"])
def test_planted(data, tmp_path, mutants, monkeypatch, what):
    def guarded(resume):
        monkeypatch.setattr(room, "resume_run", resume)
        guard(data, tmp_path, 2, [8])
    mutants.kill(20, f"{what} not resumed", guarded, forgetting(what, monkeypatch))


def test_planted_in_holdings(data, tmp_path, mutants, monkeypatch):
    def guarded(resume):
        monkeypatch.setattr(room, "resume_run", resume)
        guard(data, tmp_path, 2, [6], loss=traded, **SHORT)
    mutants.kill(20, "recorded holdings not resumed", guarded, forgetting("holdings", monkeypatch))
