"""Row 10, layer by layer: however the sessions arrive, every memory and every baseline network gives the same."""
import random

import numpy as np
import pytest
import torch

from hybrid_ssm.attention import CONTROLS, POSITIONS, WindowedAttention
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
from hybrid_ssm.handler import PanelArrays

B, L, F = 2, 96, 8
KINDS = [(positions, control, kv) for positions in POSITIONS for control in (None, *CONTROLS) for kv in (4, 1)]
BASELINES = {
    "lstm": lambda: LSTMBaseline(16, F),
    "transformer": lambda: TransformerBaseline(16, F, window=30),
    "ssm": lambda: SSMBaseline(16, F, state_dim=8),
    "vsn_lstm": lambda: VSNLSTMBaseline(16, F),
    "dlinear": lambda: DLinearBaseline(16, F, window=30, kernel=9),
    "ridge": lambda: RidgeBaseline(F),
}


def test_every_baseline_is_here():
    "A new entry of `MODELS` is guarded too; the hybrid has a file of its own, the trees a test of their own below"
    here = {type(build()).__name__ for build in BASELINES.values()} | {"HybridFinancialModel", "BoostingBaseline"}
    assert here == set(MODELS)


def away(net):
    for p in net.parameters():
        p.data += 0.1 * torch.randn_like(p)
    return net.eval()


def layer(positions="alibi", control=None, kv=4):
    torch.manual_seed(10)
    return away(WindowedAttention(F, 4, (5, 21, 40, 40), kv, positions, control))


def baseline(name):
    torch.manual_seed(10)
    return away(BASELINES[name]())


def trees():
    "Fitted to planted labels that depend on weekly and monthly means"
    rng = np.random.default_rng(10)
    x = rng.normal(size=(12, 80, F)).astype("f4")
    y = np.sign(x[..., :1]) + np.cumsum(x[..., 1:2], 1) / 5 + x[..., 2:3] * x[..., :1]
    tables = PanelArrays(x, np.ones(x.shape, bool), np.ones(80, "f4"), np.repeat(y, 3, -1).astype("f4"),
                         np.zeros(x.shape[:2], "f4"))
    data = tables.cut([0], 80, 0)
    net = BoostingBaseline(F, n_trees=40, min_leaf=10)
    net.fit_windows(data[np.arange(9)], data[np.arange(9, 12)])
    assert net.trees.any(-1).any(-1).sum() > 60, "no tree was grown, so this proves nothing"
    return net


def sessions():
    "Features with holes, sessions without any, uneven time"
    torch.manual_seed(0)
    mask = torch.rand(B, L, F) > 0.2
    mask[0, 30:40], mask[:, :2], mask[1, 50:93] = False, False, False
    return torch.randn(B, L, F).masked_fill(~mask, 0.0), torch.rand(B, L) * 3, mask


def chunkings(number, seed=0):
    "Bar by bar, at once, one and the rest, and random cuts"
    rng = random.Random(seed)
    yield from ([*range(L + 1)], [0, L], [0, 1, L])
    for _ in range(number - 3):
        yield [0, *sorted(rng.sample(range(1, L), rng.randrange(1, 12))), L]


def advance(net, cache, x, dt, mask):
    "Some sessions more: outputs (b, l, numbers) and the next cache"
    if isinstance(net, WindowedAttention):
        return net(x, mask.any(-1), cache)
    if x.shape[1] == 1:
        out, cache = net.step(x[:, 0], cache, dt[:, 0], mask[:, 0])
        out = [part[:, None] for part in out]
    else:
        out, cache = net.prefill(x, cache, dt, mask)
    return torch.cat([part.flatten(2) if part.dim() == 3 else part[..., None] for part in out], -1), cache


def size(cache):
    return sum(map(size, cache)) if isinstance(cache, tuple) else cache.numel()


@torch.no_grad()
def same_in_any_cut(net, advance=advance, number=12):
    "Ratio of norms below 1e-6 for every chunking, and a cache that does not grow; the worst ratio"
    given, worst = sessions(), 0.0
    if isinstance(net, WindowedAttention):
        whole = net(given[0], given[2].any(-1))[0]
    else:
        whole = torch.cat([p.flatten(2) if p.dim() == 3 else p[..., None] for p in net(*given)], -1)
    for cuts in chunkings(number):
        cache, parts = net.init_cache(B), []
        empty = size(cache)
        for i, j in zip(cuts, cuts[1:]):
            out, cache = advance(net, cache, *(x[:, i:j] for x in given))
            parts.append(out)
        assert size(cache) == empty, "the cache grows"
        ratio = (torch.cat(parts, 1).double() - whole.double()).norm() / whole.double().norm()
        assert ratio < 1e-6, f"cut at {cuts}: {ratio:.1e}"
        worst = max(worst, ratio.item())
    return worst


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_attention_in_any_cut(kind):
    same_in_any_cut(layer(*kind), number=7)


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_in_any_cut(name):
    same_in_any_cut(baseline(name))


def test_trees_in_any_cut(tell):
    worst = same_in_any_cut(trees())
    tell(f"boosted trees, a sum of steps: worst ratio of norms {worst:.1e}")
    assert worst < 1e-12, "a mean on the other side of a threshold"


@pytest.mark.slow
def test_layers_in_200_cuts(tell):
    worst = {str(kind): same_in_any_cut(layer(*kind), number=200) for kind in KINDS}
    worst |= {name: same_in_any_cut(baseline(name), number=200) for name in BASELINES}
    name = max(worst, key=worst.get)
    tell(f"{len(worst)} layers x 200 cuts: worst ratio of norms {worst[name]:.1e}, {name}")


def aged_alike(first=100_000):
    "A rotary layer after many sessions answers as after none: the worst ratio"
    net, (x, _, mask) = layer("rotary"), sessions()
    young = net.init_cache(B)
    aged = young._replace(sessions=young.sessions + first)
    ratio = lambda a, b: ((a - b).double().norm() / b.double().norm()).item()
    return ratio(net(x, mask.any(-1), aged)[0], net(x, mask.any(-1), young)[0])


def test_session_100_000_is_as_exact(tell):
    worst = aged_alike()
    tell(f"rotary, session 100,000 against session 0: ratio {worst:.1e}")
    assert worst < 1e-6


def test_mutants(mutants):
    def forgets(part):
        def planted(net, cache, *rest):
            return advance(net, cache._replace(**{part: net.init_cache(B)._asdict()[part]}), *rest)
        return planted

    def uncounted(net, cache, x, dt, mask):
        original, net.project = net.project, lambda u, first=0: type(net).project(net, u)
        try:
            return advance(net, cache, x, dt, mask)
        finally:
            net.project = original

    for part, name in (("keys", "keys"), ("values", "ring"), ("observed", "masks"), ("sessions", "count")):
        mutants.kill(10, f"attention: {name} not carried", lambda f: same_in_any_cut(layer(), f), forgets(part))
    mutants.kill(10, "rotary count not carried", lambda f: same_in_any_cut(layer("rotary"), f), uncounted)
    mutants.kill(10, "shuffled count not carried", lambda f: same_in_any_cut(layer(control="shuffled"), f), forgets("sessions"))
    for name, part in (("lstm", "hidden"), ("lstm", "cell"), ("transformer", "blocks"), ("ssm", "blocks"),
                       ("vsn_lstm", "pool"), ("vsn_lstm", "hidden"), ("vsn_lstm", "cell"), ("dlinear", "rows"),
                       ("ridge", "x"), ("ridge", "seen")):
        mutants.kill(10, f"{name}: {part} not carried", lambda f: same_in_any_cut(baseline(name), f), forgets(part))
    boosted = trees()
    for part in ("x", "seen"):
        mutants.kill(10, f"boosting: {part} not carried", lambda f: same_in_any_cut(boosted, f), forgets(part))
