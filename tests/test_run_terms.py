"The book in the loss pays what the run pays; tasks of one process share no weights; what fails late is refused early"
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn

import hybrid_ssm.run as running
import hybrid_ssm.trainer as training
from hybrid_ssm.calendars import align
from hybrid_ssm.config import parse_config
from hybrid_ssm.core import ConfigError
from hybrid_ssm.handler import FinancialDataHandler
from hybrid_ssm.losses import JointLoss
from hybrid_ssm.market_regime import SLOW_SPAN, RegimeHandler, RegimeLoss
from hybrid_ssm.risk import RiskPolicy
from hybrid_ssm.synthetic import factor_market
from hybrid_ssm.targets import forward_targets
from hybrid_ssm.trainer import ModelTrainer, TradeTerms, TrainOptions

TEXT = """
[folds]
test_start = "{start}"
test_end = "{end}"
[features]
names = ["return_1", "return_5"]
[models]
names = ["lstm"]
memory_dim = 4
n_layers = 1
[train]
epochs = 1
seeds = [0]
window = 42
warm_up = 10
stride = 42
calibrate = false
"""
OPTIONS = TrainOptions(window=42, warm_up=10, stride=42, progress=False)


@pytest.fixture(scope="module")
def data():
    bars = factor_market(420, list("ABCI"), 3).bars
    universe = bars.select(list("ABC"))
    handler = FinancialDataHandler(bars=universe, features=["return_1", "return_5"], costs=0.0005)
    return running.ExperimentData(universe, align(bars.select(["I"]), universe), handler)


def config(data, more=""):
    days = data.sessions
    return parse_config(TEXT.format(start=f"{days[360]:%Y-%m-%d}", end=f"{days[-1]:%Y-%m-%d}") + more)


def prepared(trainer):
    "The objective as a training sees it"
    rows = training._training_data(trainer.data, None, OPTIONS, None, None)
    return training.joint_part(training._bind_book(trainer, training._with_periods(trainer.loss, rows, trainer.data), rows))


TERMS = '[loss]\ntraded = 1.0\n[costs]\nbps = 5.0\nfill = "next_close"\nborrow = 0.02\nfinancing = 0.04\ndelisting_return = -0.3\n'


def test_the_loss_trades_the_book_of_the_run(data, mutants):
    def guard(make):
        book = prepared(make(config(data, TERMS), data, running.Task(0, "lstm", 0))).book
        usual = prepared(make(config(data, '[loss]\ntraded = 1.0\n[costs]\nbps = 5.0\n'), data, running.Task(0, "lstm", 0))).book
        assert book.late and not usual.late
        differs = lambda name: any(torch.as_tensor(a).ne(torch.as_tensor(b)).any() for a, b in [(getattr(book.terms, name), getattr(usual.terms, name))])
        assert differs("borrow") and differs("financing")

    def usual_terms(*args):
        trainer = running.make_trainer(*args)
        trainer.terms = TradeTerms()
        return trainer

    guard(running.make_trainer)
    mutants.kill(35, "the loss trades usual terms", guard, usual_terms)


def test_terms_are_part_of_a_training(data):
    one, other = (config(data, f"[loss]\ntraded = 1.0\n[costs]\nborrow = {b}\n") for b in (0.01, 0.02))
    assert running.training_key(one, "lstm") != running.training_key(other, "lstm")
    trainer = running.make_trainer(one, data, running.Task(0, "lstm", 0))
    assert trainer.record().terms["TradeTerms"]["borrow"] == 0.01
    rows = training._training_data(trainer.data, None, OPTIONS, None, None)
    assert training._describe_given(trainer, rows)["terms"] == trainer.record().terms
    trainer.terms = TradeTerms()
    assert "terms" not in training._describe_given(trainer, rows)  # checkpoints of the usual terms stay usable


class Weighed(nn.Module):
    "An objective with a weight of its own"
    def __init__(self):
        super().__init__()
        self.weight, self.joint = nn.Parameter(torch.zeros(())), JointLoss()

    def forward(self, out, batch):
        parts = self.joint(out, batch)
        return parts._replace(total=parts.total * (-self.weight).exp() + self.weight)


def test_tasks_share_no_objective(data, mutants, monkeypatch):
    plain = config(data)
    own = Weighed()
    monkeypatch.setattr(running.Config, "objective", property(lambda self: own))

    def guard(copied):
        monkeypatch.setattr(running.copy, "deepcopy", copied)
        weights = []
        for _ in range(2):
            trainer = running.make_trainer(plain, data, running.Task(0, "lstm", 0))
            trainer.train_model(2, 1e-2, options=OPTIONS)
            weights.append(torch.cat([p.detach().flatten() for p in trainer.model.parameters()]))
        assert torch.equal(*weights), "the second training of the same task differs"

    real = running.copy.deepcopy
    guard(real)
    mutants.kill(32, "all tasks of a process share an objective", guard, lambda thing, *rest: thing if thing is own else real(thing, *rest))


LAW = 'risk.signal = "law"\n'
REFUSED = {
    '[candidates.a]\nmodel = "tsmom"\nrisk.signal = "law"\n': "rule 'a'",
    f'[candidates.a]\nmodel = "lstm"\n{LAW}risk.horizon = 3\n': "risk.horizon is 3",
    f'[candidates.a]\nmodel = "lstm"\n{LAW}loss.traded = 1.0\n': "risk.signal = 'law'",
    '[candidates.a]\nmodel = "lstm"\nloss.traded = 1.0\ntrain.by_date = false\n': "train.by_date = false",
    '[candidates.a]\nmodel = "lstm"\nloss.traded = 1.0\n[costs]\nfill = "next_open"\n': "next_open",
}


@pytest.mark.parametrize("more", REFUSED)
def test_what_fails_late_is_refused_early(data, more):
    found = config(data, "")
    text = TEXT.format(start="2001", end="2002").replace('["lstm"]', '["lstm", "a"]' if "candidates" in more else '["lstm"]') + more
    running.check_models(found)
    with pytest.raises(ConfigError, match=REFUSED[more]):
        running.check_models(parse_config(text))


def test_a_law_of_networks_is_accepted():
    running.check_models(parse_config(TEXT.format(start="2001", end="2002") + '[risk]\nsignal = "law"\n'))  # rules beside it trade positions
    running.check_models(parse_config(TEXT.format(start="2001", end="2002").replace('["lstm"]', '["lstm", "a"]') + f'[candidates.a]\nmodel = "lstm"\n{LAW}risk.horizon = 5\n'))
    running.check_models(parse_config(TEXT.format(start="2001", end="2002").replace('["lstm"]', '["ridge"]') + '[loss]\ntraded = 1.0\n[costs]\nfill = "next_open"\n'))  # ridge has no objective


@dataclass(frozen=True)
class Around:
    joint: object

    def __call__(self, out, batch):
        return self.joint(out, batch)


def test_a_wrapped_objective_gets_its_book_and_periods(data):
    from hybrid_ssm.hybrid import HybridFinancialModel
    model = HybridFinancialModel(4, 8, 2, 2, n_regimes=3)
    weekly = FinancialDataHandler(bars=replace(data.universe, periods=52), features=["return_1", "return_5"])
    for wrap in (Around, lambda joint: RegimeLoss(joint=joint)):
        trainer = ModelTrainer(model, data=weekly, loss=wrap(JointLoss(traded=1.0)), policy=RiskPolicy())
        part = prepared(trainer)
        assert part.book is not None and part.periods == 52
        assert training._wants_dates(trainer.loss, OPTIONS)
        with pytest.raises(training.TrainerError, match="policy=RiskPolicy"):
            ModelTrainer(model, data=weekly, loss=wrap(JointLoss(traded=1.0))).train_model(1)
    trainer.train_model(1, options=OPTIONS)
    assert np.isfinite(trainer.history.frame["valid"]).all()


def test_a_run_reads_a_wrapped_objective(data, monkeypatch):
    monkeypatch.setattr(running.Config, "objective", property(lambda self: Around(JointLoss(traded=1.0, index=0.1))))
    trainer = running.make_trainer(config(data), data, running.Task(0, "lstm", 0))
    assert trainer.policy is not None and trainer.index is not None


def test_other_bars_keep_the_kind_of_handler(data, mutants):
    def guard(kind):
        own = RegimeHandler(bars=data.universe, features=["return_1"], costs=0.001)
        other = kind.on(own, data.universe.upto(data.sessions[-5]))
        assert isinstance(other, RegimeHandler) and other.costs == 0.001
        wanted = forward_targets(other.bars, other.horizons, span=SLOW_SPAN).scaled
        np.testing.assert_array_equal(other.targets.scaled, wanted)

    class Plain:
        @staticmethod
        def on(own, bars):
            return FinancialDataHandler(bars=bars, features=own.features, costs=own.costs)

    guard(FinancialDataHandler)
    mutants.kill("regimes", "other bars get a plain handler", guard, Plain)


def test_a_forecast_with_a_prior_reads_no_later_bars(data, tmp_path, monkeypatch):
    days = data.sessions
    text = TEXT.format(start=f"{days[360]:%Y-%m-%d}", end=f"{days[390]:%Y-%m-%d}")
    plain = parse_config(text.replace("n_layers = 1", 'n_layers = 1\nprior = "tsmom"'))
    fold = running._folds(plain, days)[0]
    read = []
    trained = running.ModelTrainer.predict
    monkeypatch.setattr(running.ModelTrainer, "predict", lambda self, *a, **k: (read.append(k.get("bars")), trained(self, *a, **k))[1])
    running.run_task(running.Task(0, "lstm", 0), plain, data, fold, tmp_path, progress=False)
    assert read[0] is not None and read[0].sessions[-1] == days[fold.test[-1]] < days[-1]


def test_rows_that_are_trained_alike_are_found_once(monkeypatch):
    names = [f"c{i}" for i in range(6)]
    text = TEXT.format(start="2001", end="2002").replace('["lstm"]', str(names).replace("'", '"'))
    many = parse_config(text + "".join(f'[candidates.{n}]\nmodel = "lstm"\nrisk.buffer = 0.{i + 1}\n' for i, n in enumerate(names)))
    keys = []
    real = running.training_key
    monkeypatch.setattr(running, "training_key", lambda *args: (keys.append(args), real(*args))[1])
    assert len(running.all_tasks(many, range(3))) == 3 and len(keys) == 6
