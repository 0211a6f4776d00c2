"""Row 7, layer by layer: every kind of attention memory and every baseline network is causal."""
import numpy as np
import pytest
import torch

from hybrid_ssm import attention
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

WINDOWS, L = (3, 9, 30, 30), 36
KINDS = [(positions, control, kv) for positions in POSITIONS for control in (None, *CONTROLS) for kv in (4, 2)]
BASELINES = {
    "lstm": lambda: LSTMBaseline(8, 3, horizons=(1, 5)),
    "transformer": lambda: TransformerBaseline(8, 3, window=20, horizons=(1, 5)),
    "ssm": lambda: SSMBaseline(8, 3, state_dim=4, horizons=(1, 5)),
    "vsn_lstm": lambda: VSNLSTMBaseline(8, 3, horizons=(1, 5)),
    "dlinear": lambda: DLinearBaseline(8, 3, window=20, kernel=7, horizons=(1, 5)),
    "ridge": lambda: RidgeBaseline(3, horizons=(1, 5)),
}
LOOK_BACK = {"dlinear": 20, "ridge": 21}  # sessions; the others look back over all


def test_every_baseline_is_here():
    "A new entry of `MODELS` is guarded too; the hybrid has a file of its own, the trees a test of their own below"
    here = {type(build()).__name__ for build in BASELINES.values()} | {"HybridFinancialModel", "BoostingBaseline"}
    assert here == set(MODELS)


def away(net, dtype=torch.float64):
    "Moved from its initial values, so that every connection carries something"
    for p in net.parameters():
        p.data += 0.2 * torch.randn_like(p)
    return net.to(dtype)


def layer(positions="alibi", control=None, kv=4, windows=WINDOWS, dtype=torch.float64):
    torch.manual_seed(7)
    return away(WindowedAttention(8, 4, windows, kv, positions, control), dtype)


def baseline(name, dtype=torch.float64):
    torch.manual_seed(7)
    return away(BASELINES[name](), dtype)


def fitted_trees():
    "Trees have no gradients and no weights to perturb, so they are fitted to planted labels"
    rng = np.random.default_rng(7)
    x = rng.normal(size=(12, 80, 3)).astype("f4")
    month = np.stack([np.stack([row[max(0, t - 20):t + 1].mean(0) for t in range(80)]) for row in x])
    y = np.sign(x[..., :1]) + 3 * month[..., 1:2] + x[..., 2:] * x[..., :1]
    tables = PanelArrays(x, np.ones(x.shape, bool), np.ones(80, "f4"), np.repeat(y, 2, -1).astype("f4"),
                         np.zeros(x.shape[:2], "f4"))
    data = tables.cut([0], 80, 0)
    net = BoostingBaseline(3, n_trees=25, min_leaf=10, horizons=(1, 5))
    net.fit_windows(data[np.arange(9)], data[np.arange(9, 12)])
    assert net.trees.any(-1).any(-1).sum() > 40, "no tree was grown, so this proves nothing"
    return net


def output(net, x):
    "All outputs of the network for one sequence, side by side: (l, numbers)"
    if isinstance(net, WindowedAttention):
        return net(x[None])[0][0]
    return torch.cat([part.flatten(2) if part.dim() == 3 else part[..., None] for part in net(x[None])], -1)[0]


def reach(run, width, sessions=L):
    "Largest |dy_t/dx_s| of each pair of sessions: (t, s)"
    torch.manual_seed(0)
    x = torch.randn(sessions, width, dtype=torch.float64)
    return torch.autograd.functional.jacobian(run, x, vectorize=True).abs().amax((1, 3))


def jacobian_is_causal(run, width=8, window=L):
    "Exactly zero for later sessions and beyond the window, and not zero within"
    size, lag = reach(run, width), torch.arange(L)[:, None] - torch.arange(L)
    assert size[lag < 0].max() == 0, f"a later session leaks in: {size[lag < 0].max():.1e}"
    if window < L:
        assert size[lag >= window].max() == 0, "a session beyond the window is read"
    assert (size[(lag >= 0) & (lag < window)] > 0).all(), "the past is not read, so this proves nothing"


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_jacobian_of_attention(kind):
    net = layer(*kind)
    jacobian_is_causal(lambda x: output(net, x), window=1 if kind[1] == "no_memory" else 30)


@pytest.mark.parametrize("name", BASELINES)
def test_jacobian_of_baselines(name):
    net = baseline(name)
    jacobian_is_causal(lambda x: output(net, x), width=3, window=LOOK_BACK.get(name, L))


def bits_stay(net, width, cuts, sessions=150):
    "Poisoned or shuffled from a cut on, at fixed length, not a bit before it changes"
    torch.manual_seed(1)
    x = torch.randn(sessions, width)
    with torch.no_grad():
        whole = output(net, x)
        for cut in cuts:
            later = [torch.full_like(x[cut:], poison) for poison in (1e9, -1e9)]
            for tail in (*later, x[cut:][torch.randperm(sessions - cut)]):
                assert torch.equal(output(net, torch.cat([x[:cut], tail]))[:cut], whole[:cut]), f"cut {cut}"


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_poison_attention(kind):
    bits_stay(layer(*kind, windows=None, dtype=torch.float32), 8, (1, 62, 63, 64, 126, 149))


@pytest.mark.parametrize("name", BASELINES)
def test_poison_baselines(name):
    bits_stay(baseline(name, torch.float32), 3, (1, 63, 64, 126, 149))


def test_poison_trees():
    bits_stay(fitted_trees(), 3, (1, 63, 64, 126, 149))


def weights_stay_inside(maps):
    "Maps of one layer without masks: no weight on tomorrow or beyond the window, rows that sum to one"
    lag = torch.arange(maps.shape[-1])[:, None] - torch.arange(maps.shape[-1])
    for A, window in zip(maps, WINDOWS):
        assert A[(lag < 0) | (lag >= window)].abs().max() == 0
        assert (A.sum(-1) - 1).abs().max() < 1e-12


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind[1] != "no_memory"], ids=str)
def test_weights_stay_inside(kind):
    weights_stay_inside(layer(*kind).maps(torch.randn(1, 50, 8, dtype=torch.float64))[0])


def test_mutants(mutants, monkeypatch):
    original, moved = attention.lag_bias, attention._shuffle_weights

    def plant(name, value, net):
        def run(x):
            with monkeypatch.context() as planted:
                planted.setattr(attention, name, value)
                return output(net, x)
        return run

    def off_by_one(age, slope, window):
        return original(age + 1, slope, window)

    def to_tomorrow(A, *rest):
        return moved(A, *rest).roll(1, -1)

    def too_long(age, slope, window):
        return original(age, slope, window + 1)

    within = lambda run: jacobian_is_causal(run, window=30)
    for kind in (("alibi", None), ("rotary", None), ("alibi", "frozen"), ("rotary", "shuffled")):
        mutants.kill(7, f"mask off by one, {kind}", within, plant("lag_bias", off_by_one, layer(*kind)))
    mutants.kill(7, "window one session too long", within, plant("lag_bias", too_long, layer()))
    mutants.kill(7, "shuffle that reaches outside the causal window", within,
                 plant("_shuffle_weights", to_tomorrow, layer(control="shuffled")))
    maps = layer(control="shuffled").maps(torch.randn(1, 50, 8, dtype=torch.float64))[0]
    mutants.kill(7, "shuffled weights left of the window", weights_stay_inside, maps.roll(-1, -1))
    mutants.kill(7, "Transformer, mask off by one", lambda run: jacobian_is_causal(run, width=3),
                 plant("lag_bias", off_by_one, baseline("transformer")))
    for name in BASELINES:
        net = baseline(name)
        window = LOOK_BACK.get(name, L)
        within_its_own = lambda run, window=window: jacobian_is_causal(run, width=3, window=window)
        mutants.kill(7, f"{name}: features averaged with tomorrow", within_its_own,
                     lambda x, net=net: output(net, (x + x.roll(-1, 0)) / 2))
    peeking, read = fitted_trees(), fitted_trees().read
    peeking.read = lambda x, mask, cache=None: read((x + x.roll(-1, 1)) / 2, mask, cache)
    mutants.kill(7, "boosting: features averaged with tomorrow", lambda net: bits_stay(net, 3, (63,)), peeking)
    longer = away(DLinearBaseline(8, 3, window=21, kernel=7, horizons=(1, 5)))
    mutants.kill(7, "dlinear: window one session too long", lambda net: jacobian_is_causal(lambda x: output(net, x), 3, 20), longer)
