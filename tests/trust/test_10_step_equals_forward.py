"""Row 10: step == forward. However the sessions arrive, the outputs are the same and the cache does not grow.

The same for the position of a trained model of every kind that corrects a classical rule: bar by bar, with the rule read from
the bars up to each session, it is what `predict` gives from the whole history.
"""
import random

import numpy as np
import pandas as pd
import pytest
import torch

from hybrid_ssm.attention import CONTROLS
from hybrid_ssm.baselines import (
    MODELS,
    DLinearBaseline,
    LSTMBaseline,
    SSMBaseline,
    TransformerBaseline,
    VSNLSTMBaseline,
)
from hybrid_ssm.data import Bars
from hybrid_ssm.handler import FinancialDataHandler, input_arrays
from hybrid_ssm.hybrid import COUPLINGS, HybridFinancialModel, ModelOutput
from hybrid_ssm.synthetic import factor_market
from hybrid_ssm.trainer import ModelTrainer, takes_prior

B, L, F = 2, 96, 4
FORMS = [dict(coupling=coupling) for coupling in COUPLINGS + CONTROLS] + [
    dict(rule="trapezoid", rotary=True, forget=True), dict(rule="hold", kv_heads=2, positions="rotary")]


def name(form):
    "The name of a form in the report"
    return " ".join(f"{key}={value}" for key, value in form.items())


def model(**form):
    "A small model in float32, away from its initial values"
    torch.manual_seed(10)
    net = HybridFinancialModel(8, 16, F, 4, n_assets=3, windows=(5, 21, 40, 40), **form)
    for p in net.parameters():
        p.data += 0.1 * torch.randn_like(p)
    return net.eval()


def sessions():
    "Features with holes, sessions without any, uneven time, an asset and a prior each"
    torch.manual_seed(0)
    mask = torch.rand(B, L, F) > 0.2
    mask[0, 30:40], mask[:, :2] = False, False
    x = torch.randn(B, L, F).masked_fill(~mask, 0.0)
    return x, torch.rand(B, L) * 3, mask, torch.tensor([0, 2]), torch.rand(B, L) * 2 - 1


def chunkings(number, seed=0):
    "Bar by bar, at once, and random cuts"
    rng = random.Random(seed)
    yield list(range(L + 1))
    yield [0, L]
    for _ in range(number - 2):
        yield [0, *sorted(rng.sample(range(1, L), rng.randrange(1, 12))), L]


def advance(net, x, cache, dt, mask, asset, prior):
    "Some sessions more: by `step` if it is one, else by `prefill`"
    if x.shape[1] > 1:
        return net.prefill(x, cache, dt, mask, asset, prior)
    out, cache = net.step(x[:, 0], cache, dt[:, 0], mask[:, 0], asset, prior[:, 0])
    return ModelOutput(*(part[:, None] for part in out)), cache


def size(cache):
    return sum(map(size, cache)) if isinstance(cache, tuple) else cache.numel()


@torch.no_grad()
def same_in_any_cut(advance, number=25, **form):
    "Ratio of norms below 1e-6 for every output and every chunking; a cache that does not grow"
    net, (x, dt, mask, asset, prior) = model(**form), sessions()
    whole, furthest = net(x, dt, mask, asset, prior), 0.0
    for cuts in chunkings(number):
        cache, parts = net.init_cache(B), []
        empty = size(cache)
        for i, j in zip(cuts, cuts[1:]):
            out, cache = advance(net, x[:, i:j], cache, dt[:, i:j], mask[:, i:j], asset, prior[:, i:j])
            parts.append(out)
        assert size(cache) == empty, "the cache grows"
        for name, mine, true in zip(whole._fields, map(torch.cat, zip(*parts), [1] * 5), whole):
            ratio = (mine.double() - true.double()).norm() / true.double().norm()
            assert ratio < 1e-6, f"{name}, cut at {cuts}: {ratio:.1e}"
            furthest = max(furthest, ratio.item())
    return furthest


@pytest.mark.parametrize("form", FORMS, ids=name)
def test_step_equals_forward(form, tell):
    number = 25 if form == FORMS[0] else 6
    tell(f"{number} chunkings, furthest {same_in_any_cut(advance, number, **form):.0e}")


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS, ids=name)
def test_step_equals_forward_200(form, tell):
    tell(f"200 chunkings, furthest {same_in_any_cut(advance, 200, **form):.0e}")


def forgets(part):
    "A model that loses one part of what it should carry"
    def planted(net, x, cache, *rest):
        fresh = net.init_cache(B)
        if part == "pool":
            cache = cache._replace(pool=fresh.pool)
        else:
            blocks = (now._replace(**{part: new._asdict()[part]}) for now, new in zip(cache.blocks, fresh.blocks))
            cache = cache._replace(blocks=tuple(blocks))
        return advance(net, x, cache, *rest)
    return planted


def test_mutants(mutants):
    for part, name in (("ssm", "state not carried"), ("attention", "ring not carried"), ("pool", "means not carried")):
        mutants.kill(10, name, same_in_any_cut, forgets(part))


CORRECTING = {"hybrid": lambda: HybridFinancialModel(2, 4, 2, 2), "lstm": lambda: LSTMBaseline(4, 2), "vsn_lstm": lambda: VSNLSTMBaseline(4, 2),
              "transformer": lambda: TransformerBaseline(4, 2, num_heads=2), "ssm": lambda: SSMBaseline(4, 2, num_heads=2), "dlinear": lambda: DLinearBaseline(4, 2)}


@pytest.fixture(scope="module")
def data():
    "Two symbols with carry, 130 sessions"
    bars, rng = factor_market(130, list("AB"), 0).bars, np.random.default_rng(0)
    carry = pd.DataFrame(rng.normal(0, .05, (130, 2)), bars.sessions, bars.symbols)
    return FinancialDataHandler(bars=Bars(close=bars.close, instruments=bars.instruments, extras=dict(carry=carry)),
                                features=("return_5", "return_21"))


def test_every_model_that_takes_a_prior_is_here():
    assert {type(build()).__name__ for build in CORRECTING.values()} == {k for k, kind in MODELS.items() if takes_prior(kind)}


@torch.no_grad()
def live_positions(trainer, known, last=12):
    "Positions of the last sessions bar by bar; `known(t)` are the bars whose rule counts in session t"
    arrays, n, out = input_arrays(trainer.data.panel, trainer.scaler), 2, []
    x, mask, dt = (torch.tensor(v) for v in (arrays.x, arrays.mask, arrays.dt))
    cache, net = trainer.model.init_cache(n), trainer.model.eval()
    for t in range(len(dt)):
        rule = torch.zeros(n)
        if t >= len(dt) - last:
            rule = torch.tensor(trainer.prior_positions(known(t)).iloc[-1].to_numpy(np.float32))
        now, cache = net.step(x[:, t], cache, dt=dt[t].expand(n), mask=mask[:, t], prior=rule)
        out.append(now.position)
    return torch.stack(out[-last:]).numpy()


@pytest.mark.parametrize("name", CORRECTING)
def test_live_correction(name, data, tell, mutants):
    trainer = ModelTrainer(CORRECTING[name](), data=data, device="cpu", prior="carry")
    trainer.train_model(1, 3e-2, window=40, warm_up=10, stride=20, progress=False)
    batch = trainer.predict().position.iloc[-12:].to_numpy()
    assert not np.allclose(batch, trainer.prior_positions().iloc[-12:].to_numpy())  # it has learnt a correction
    upto = lambda t: data.bars.upto(data.sessions[t])

    def guard(known):
        far = np.abs(live_positions(trainer, known) - batch).max()
        assert far < 1e-6
        return far
    tell(f"{name}: furthest {guard(upto):.0e}")
    mutants.kill(10, f"{name} corrects yesterday's rule", guard, lambda t: upto(t - 1))
