"""Row 32: a run repeats, and leaves the random state of its caller alone.

The same script gives the same weights, in the same process and in a fresh one, whatever the caller has drawn before. Building,
training and predicting change neither the random numbers of torch and numpy nor the number of threads.
"""
import random
import subprocess
import sys

import numpy as np
import pytest
import torch

import hybrid_ssm.loop as loop
from hybrid_ssm.baselines import (
    MODELS,
    BoostingBaseline,
    DLinearBaseline,
    LSTMBaseline,
    RidgeBaseline,
    SSMBaseline,
    TransformerBaseline,
    VSNLSTMBaseline,
)
from hybrid_ssm.data import Bars
from hybrid_ssm.handler import FinancialDataHandler
from hybrid_ssm.hybrid import HybridFinancialModel
from hybrid_ssm.losses import LossParts
from hybrid_ssm.synthetic import factor_market
from hybrid_ssm.trainer import Ensemble, ModelTrainer

FEATURES = ("return_1", "return_21", "rsi_14", "efficiency_63")
OPTIONS = dict(epochs=2, learning_rate=1e-2, window=42, warm_up=21, stride=21, progress=False)
BUILD = {"hybrid": lambda: HybridFinancialModel(2, 4, 4, 2, dropout=.1), "lstm": lambda: LSTMBaseline(4, 4), "vsn_lstm": lambda: VSNLSTMBaseline(4, 4),
         "transformer": lambda: TransformerBaseline(4, 4, num_heads=2), "ssm": lambda: SSMBaseline(4, 4, num_heads=2), "dlinear": lambda: DLinearBaseline(4, 4),
         "ridge": lambda: RidgeBaseline(4), "boosting": lambda: BoostingBaseline(4)}


def test_every_model_is_here():
    assert {type(build()).__name__ for build in BUILD.values()} == set(MODELS)


@pytest.fixture(scope="module")
def data():
    bars = factor_market(500, list("AB"), 0).bars
    return FinancialDataHandler(bars=Bars(close=bars.close, instruments=bars.instruments), features=FEATURES)


def state():
    "Everything that the caller's next random numbers, and its speed, depend on"
    drawn = torch.get_rng_state().tolist(), torch.initial_seed(), [repr(part) for part in np.random.get_state()], random.getstate()
    return *drawn, torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), torch.get_default_dtype()


def run(build, data):
    "Weights after the whole way, and whether the caller's state is as before"
    before = state()
    trainer = ModelTrainer(build(), data=data, device="cpu")
    trainer.train_model(**OPTIONS)
    trainer.predict()
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()]), state() == before


def check(build, data):
    "Twice in one process, after other draws of the caller"
    torch.manual_seed(1)
    first, kept = run(build, data)
    assert kept, "the random state of the caller has moved"
    torch.manual_seed(2)
    np.random.seed(3)
    torch.rand(7)
    again, kept = run(build, data)
    assert kept and torch.equal(first, again), "the same script gives other weights"


@pytest.mark.parametrize("name", BUILD)
def test_same_weights_and_the_callers_state(name, data, mutants):
    check(BUILD[name], data)
    if name == "hybrid":
        mutants.kill(32, "weights from the caller's generator", lambda build: check(build, data), lambda: HybridFinancialModel(2, 4, 4, 2, seed=None))
        seeds = iter(range(9))
        mutants.kill(32, "another seed in every run", lambda build: check(build, data), lambda: HybridFinancialModel(2, 4, 4, 2, seed=next(seeds)))


def calls(data, folder):
    "Every public call that trains, searches, predicts, writes or reads"
    trainer = ModelTrainer(BUILD["hybrid"](), data=data, device="cpu")
    few = {k: v for k, v in OPTIONS.items() if k not in ("epochs", "learning_rate")}
    yield "lr_find", lambda: trainer.lr_find(steps=9, **few)
    yield "train_model", lambda: trainer.train_model(**OPTIONS, checkpoint=folder / "run", average=.9, micro_batch=5)
    yield "predict", trainer.predict
    yield "save", lambda: trainer.save(folder / "saved")
    yield "load", lambda: ModelTrainer.load(folder / "saved", data)
    yield "Ensemble", lambda: Ensemble(BUILD["hybrid"], seeds=(0, 3), data=data).train_model(**OPTIONS)


def test_no_call_changes_the_callers_state(data, tmp_path, mutants, monkeypatch):
    "Random numbers of torch, numpy and python, threads, determinism and default type are as before"
    def guard(gradients):
        monkeypatch.setattr(loop, "gradients", gradients)
        for name, call in calls(data, tmp_path / str(id(gradients))):
            before = state()
            call()
            assert state() == before, f"{name} has changed the state of its caller"
    guard(loop.gradients)
    mutants.kill(32, "dropout seeds the caller's generator", guard, loop.gradients.__wrapped__)  # without `isolated_rng`


def test_members_differ_and_repeat(data):
    members = [Ensemble(BUILD["hybrid"], seeds=(0, 3), data=data).members for _ in range(2)]
    weights = lambda m: torch.cat([p.detach().flatten() for p in m.model.parameters()])
    for seed in (0, 3):
        assert torch.equal(weights(members[0][seed]), weights(members[1][seed]))
        assert torch.equal(weights(members[0][seed]), weights(ModelTrainer(HybridFinancialModel(2, 4, 4, 2, dropout=.1, seed=seed), data=data)))
    assert not torch.equal(weights(members[0][0]), weights(members[0][3]))


SCRIPT = """
import warnings; warnings.simplefilter("ignore")
import torch; torch.set_num_threads(1); torch.manual_seed({seed})
from hybrid_ssm import HybridFinancialModel, ModelTrainer
model = HybridFinancialModel(state_dim=32, memory_dim=64, input_dim=20, num_heads=4)
trainer = ModelTrainer(model=model, training_start='2010-01-01', training_end='2022-12-31', symbols=['KO'])
trainer.train_model(epochs=1, learning_rate=1e-4, progress=False)
print([p.double().sum().item() for p in model.parameters()])
"""


@pytest.mark.slow
def test_two_fresh_processes():
    said = [subprocess.run([sys.executable, "-c", SCRIPT.format(seed=seed)], capture_output=True, text=True, check=True).stdout for seed in (1, 2)]
    assert said[0] == said[1] and said[0]


def likelihood(out, batch):
    "Minus the mean log-likelihood of all known outcomes: what `judged` computes again"
    law = torch.distributions.StudentT(out.df, out.mean, out.scale)
    total = -law.log_prob(batch.target.nan_to_num())[~batch.target.isnan()].mean()
    return LossParts(total, {"likelihood": total.detach()})


def test_training_on_never_ends_worse(data, mutants):
    "Weights of an earlier training come back where no epoch is better on the same validation rows; untrained ones do not compete"
    def judged(trainer):  # the slow way: the whole validation window, once, by the objective itself
        valid = data.prepare_training_data(42, None, 21, 21).valid
        with torch.no_grad():
            out = trainer.model(torch.from_numpy(valid.x), dt=torch.from_numpy(valid.dt), mask=torch.from_numpy(valid.mask))
        y, z = torch.from_numpy(valid.target), out
        law = torch.distributions.StudentT(z.df, z.mean, z.scale)
        return -law.log_prob(y.nan_to_num())[~y.isnan()].double().mean().item()

    def guard(first):
        trainer = ModelTrainer(BUILD["hybrid"](), data=data, loss=likelihood, device="cpu")
        first(trainer)
        before = judged(trainer)
        trainer.train_model(**OPTIONS | dict(learning_rate=1., schedule="constant"))
        assert judged(trainer) <= before + 1e-9, "a second training has made the model worse"
        return trainer.history

    assert guard(lambda trainer: trainer.train_model(**OPTIONS)).best_epoch == -1
    fresh = ModelTrainer(BUILD["hybrid"](), data=data, loss=likelihood, device="cpu")
    assert fresh.train_model(**OPTIONS | dict(learning_rate=1., schedule="constant")).best_epoch >= 0  # untrained weights do not compete

    def forgets(trainer):  # the planted defect: trained weights that pass for untrained ones
        trainer.train_model(**OPTIONS)
        trainer.model.trained = False
    mutants.kill(32, "trained weights that do not compete", guard, forgets)
