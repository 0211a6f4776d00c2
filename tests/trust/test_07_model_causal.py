"""Row 7: the model is causal. Nothing the model says about a session depends on a later one."""
import pytest
import torch

from hybrid_ssm import attention
from hybrid_ssm.hybrid import HybridFinancialModel

COUPLINGS = "mixture", "none"


def model(coupling="mixture", dtype=torch.float64, windows=(3, 9, 30, 30)):
    "A small model, moved away from its tidy start so that every wire carries something"
    torch.manual_seed(7)
    net = HybridFinancialModel(4, 8, 3, 4, horizons=(1, 5), windows=windows, coupling=coupling)
    for p in net.parameters():
        p.data += 0.2 * torch.randn_like(p)
    return net.to(dtype)


def said(net, x):
    "Everything the model says, side by side: (l, numbers)"
    return torch.cat([part.flatten(2) if part.dim() == 3 else part[..., None] for part in net(x[None])], -1)[0]


def jacobian_is_causal(say, sessions=40):
    "All of dy_t/dx_s: exactly zero for s > t, and not zero for s <= t"
    torch.manual_seed(0)
    x = torch.randn(sessions, 3, dtype=torch.float64)
    J = torch.autograd.functional.jacobian(say, x)                # (t, numbers, s, features)
    size = J.abs().amax((1, 3))                                   # (t, s)
    assert size.triu(1).max() == 0, f"a later session leaks in: {size.triu(1).max():.1e}"
    assert (size[torch.ones_like(size).tril() > 0] > 0).all(), "the past is not read, so this proves nothing"


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_jacobian(coupling):
    net = model(coupling)
    jacobian_is_causal(lambda x: said(net, x))


@pytest.mark.parametrize("coupling", COUPLINGS)
@pytest.mark.parametrize("cut", [1, 15, 62, 63, 64, 126, 149])
def test_poison_and_cut(coupling, cut):
    "At fixed length not a bit changes; cut short, only rounding does"
    net = model(coupling, torch.float32, windows=None)
    x = torch.randn(150, 3)
    with torch.no_grad():
        whole, short = said(net, x), said(net, x[:cut])
        for poison in (1e9, -1e9, 0.0):
            bad = x.clone()
            bad[cut:] = poison
            assert torch.equal(said(net, bad)[:cut], whole[:cut])
        shuffled = torch.cat([x[:cut], x[cut:][torch.randperm(150 - cut)]])
        assert torch.equal(said(net, shuffled)[:cut], whole[:cut])
    assert (short - whole[:cut]).norm() <= 1e-6 * whole[:cut].norm()


def test_mutants(mutants, monkeypatch):
    net, honest = model(), attention.lag_bias

    def off_by_one(x):
        with monkeypatch.context() as planted:
            planted.setattr(attention, "lag_bias", lambda age, slope, window: honest(age + 1, slope, window))
            return said(net, x)

    def centred(x):
        return said(net, (x + x.roll(-1, 0)) / 2)

    mutants.kill(7, "attention mask off by one", jacobian_is_causal, off_by_one)
    mutants.kill(7, "features averaged with tomorrow", jacobian_is_causal, centred)
