"""On a CUDA device: the hybrid says what it says on the processor, bar by bar too, and learns.

These tests need a GPU (`pytest tests/test_gpu.py -m gpu`); elsewhere they are left out. They need torch only.
"""
import pytest
import torch

from hybrid_ssm.hybrid import COUPLINGS, HybridFinancialModel

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
FEATURES, LENGTH = 6, 300


def model(coupling="mixture", seed=3):
    "A hybrid moved from its initial values, so that every connection carries something"
    net = HybridFinancialModel(state_dim=8, memory_dim=32, input_dim=FEATURES, num_heads=4, coupling=coupling, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for p in net.parameters():
        p.data += 0.05 * torch.randn(p.shape, generator=generator)
    return net.eval()


def inputs(seed=5):
    "Features, elapsed time and a mask of two symbols"
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(2, LENGTH, FEATURES, generator=g)
    return x, torch.rand(2, LENGTH, generator=g) * 3, torch.rand(2, LENGTH, FEATURES, generator=g) > 0.1


def distance(a, b):
    "Relative distance of two outputs"
    pairs = [(getattr(a, n).cpu().double(), getattr(b, n).cpu().double()) for n in ("mean", "scale", "df", "position")]
    return max(((p - q).norm() / q.norm()).item() for p, q in pairs)


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_the_device_agrees_with_the_processor(coupling):
    x, dt, mask = inputs()
    net = model(coupling).double()
    with torch.no_grad():
        here = net(x.double(), dt.double(), mask)
        there = net.cuda()(x.double().cuda(), dt.double().cuda(), mask.cuda())
    assert distance(there, here) < 1e-9


def test_single_precision_agrees():
    x, dt, mask = inputs()
    net = model()
    with torch.no_grad():
        here, there = net(x, dt, mask), net.cuda()(x.cuda(), dt.cuda(), mask.cuda())
    assert distance(there, here) < 1e-3


def test_step_equals_forward_on_the_device():
    x, dt, mask = (t.cuda() for t in inputs())
    net = model().cuda()
    with torch.no_grad():
        whole = net(x, dt, mask)
        cache, worst = net.init_cache(2), 0.0
        for t in range(LENGTH):
            out, cache = net.step(x[:, t], cache, dt=dt[:, t], mask=mask[:, t])
            worst = max(worst, (out.mean - whole.mean[:, t]).abs().max().item())
    assert worst < 1e-3 * whole.mean.abs().max().item()


def test_it_learns_on_the_device():
    x, dt, _ = (t.cuda() for t in inputs())
    net = model().cuda().train()
    target = x[..., :1].expand(-1, -1, 3).contiguous()  # the first feature itself
    optimizer, losses = torch.optim.AdamW(net.parameters(), lr=3e-3), []
    for _ in range(60):
        out = net(x, dt)
        student = torch.distributions.StudentT(out.df, out.mean, out.scale)
        loss = -student.log_prob(target).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(torch.isfinite(p).all() for p in net.parameters())
    assert losses[-1] < losses[0] - 0.3


if __name__ == "__main__":  # where there is no pytest
    for coupling in COUPLINGS:
        test_the_device_agrees_with_the_processor(coupling)
    test_single_precision_agrees()
    test_step_equals_forward_on_the_device()
    test_it_learns_on_the_device()
    print(f"4 tests passed on {torch.cuda.get_device_name()}, torch {torch.__version__}")
