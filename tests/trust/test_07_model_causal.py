"""Row 7: the model is causal. No output for a session depends on a later one."""
import pytest
import torch

from hybrid_ssm import attention
from hybrid_ssm.attention import CONTROLS
from hybrid_ssm.hybrid import COUPLINGS, HybridFinancialModel

FORMS = [dict(coupling=coupling) for coupling in COUPLINGS + CONTROLS] + [
    dict(rule="trapezoid", rotary=True, forget=True), dict(rule="hold", kv_heads=2, positions="rotary")]


def name(form):
    "The name of a form in the report"
    return " ".join(f"{key}={value}" for key, value in form.items())


def model(dtype=torch.float64, windows=(3, 9, 30, 30), **form):
    "A small model, moved away from its initial values so that every connection carries something"
    torch.manual_seed(7)
    net = HybridFinancialModel(4, 8, 3, 4, horizons=(1, 5), windows=windows, **form)
    for p in net.parameters():
        p.data += 0.2 * torch.randn_like(p)
    return net.to(dtype)


def output(net, x):
    "All outputs of the model, side by side: (b, l, numbers)"
    return torch.cat([part if part.dim() == 3 else part[..., None] for part in net(x)], -1)


def jacobian(run, x):
    "Size of dy_t/dx_s (t, s): each session asks its own copy of the sequence, all copies in one batch"
    copies = x.expand(len(x), *x.shape).clone().requires_grad_()
    own = run(copies).diagonal()                                  # (numbers, t)
    rows = [torch.autograd.grad(y.sum(), copies, retain_graph=True)[0] for y in own]
    return torch.stack(rows).abs().amax((0, 3))


def jacobian_is_causal(run, sessions=40):
    "All of dy_t/dx_s: exactly zero for s > t, and not zero for s <= t"
    torch.manual_seed(0)
    size = jacobian(run, torch.randn(sessions, 3, dtype=torch.float64))
    assert size.triu(1).max() == 0, f"a later session leaks in: {size.triu(1).max():.1e}"
    assert (size[torch.ones_like(size).tril() > 0] > 0).all(), "the past is not read, so this proves nothing"


@pytest.mark.parametrize("form", FORMS, ids=name)
def test_jacobian(form):
    net = model(**form)
    jacobian_is_causal(lambda x: output(net, x))


@pytest.mark.parametrize("form", FORMS, ids=name)
@pytest.mark.parametrize("cut", [1, 15, 62, 63, 64, 126, 149])
def test_poison_and_cut(form, cut):
    "At fixed length not a bit changes; cut short, only rounding does"
    net = model(torch.float32, windows=None, **form)
    x = torch.randn(1, 150, 3)
    with torch.no_grad():
        whole, short = output(net, x), output(net, x[:, :cut])
        for poison in (1e9, -1e9, 0.0):
            bad = x.clone()
            bad[:, cut:] = poison
            assert torch.equal(output(net, bad)[:, :cut], whole[:, :cut])
        shuffled = torch.cat([x[:, :cut], x[:, cut:][:, torch.randperm(150 - cut)]], 1)
        assert torch.equal(output(net, shuffled)[:, :cut], whole[:, :cut])
    assert (short - whole[:, :cut]).norm() <= 1e-6 * whole[:, :cut].norm()


def test_mutants(mutants, monkeypatch):
    net, loop, original = model(), model(coupling="fixed_point"), attention.lag_bias

    def off_by_one(x, net=net):
        with monkeypatch.context() as planted:
            planted.setattr(attention, "lag_bias", lambda age, slope, window: original(age + 1, slope, window))
            return output(net, x)

    def centred(x):
        return output(net, (x + x.roll(-1, 1)) / 2)

    mutants.kill(7, "attention mask off by one", jacobian_is_causal, off_by_one)
    mutants.kill(7, "mask off by one, inside a fixed point", jacobian_is_causal, lambda x: off_by_one(x, loop))
    mutants.kill(7, "features averaged with tomorrow", jacobian_is_causal, centred)
