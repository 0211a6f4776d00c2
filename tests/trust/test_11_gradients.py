"""Row 11: gradients are right, with respect to everything that goes in, through the readout and through the last state."""
import math
import random

import pytest
import torch

from hybrid_ssm import ssm
from hybrid_ssm.ssm import SelectiveSSM, selective_scan, selective_scan_reference

OPTIONS = "now", "forget", "angle", "mask", "segments"


def shapes(number, seed=11):
    "(length, heads, rows, width, options): one session, whole chunks, padded ones, and many"
    rng = random.Random(seed)
    fixed = [(1, 1, 2, 1, ()), (2, 2, 2, 2, OPTIONS), (8, 1, 2, 2, ("angle",)), (17, 2, 2, 1, ("segments", "mask"))]
    for _ in range(number - len(fixed)):
        names = tuple(name for name in OPTIONS if rng.random() < 0.5)
        fixed.append((rng.choice((3, 7, 9, 16, 19, 33)), rng.choice((1, 2)), rng.choice((2, 4)), rng.choice((1, 2)), names))
    return fixed


def problem(length, head, n, p, names, deep=False):
    "Tensors to differentiate by (u, log_a, B, C, state, then the options that are numbers) and the others"
    g = torch.Generator().manual_seed(length + 10 * n)
    draw = lambda *shape: torch.randn(1, length, *shape, generator=g, dtype=torch.float64)
    decays = lambda k: -(8.0 if deep else 3.0) * torch.rand(1, length, k, generator=g, dtype=torch.float64) - 0.01
    state = torch.randn(1, head, n, p, generator=g, dtype=torch.float64)
    smooth = dict(u=draw(head, p), log_a=decays(head), B=draw(n), C=draw(n), initial_state=state)
    every = dict(now=draw(head, p), forget=decays(n // 2 if "angle" in names else n), angle=draw(n // 2))
    fixed = dict(mask=torch.rand(1, length, generator=g) > 0.25,
                 segments=torch.arange(length)[None].div(5, rounding_mode="floor"))
    smooth |= {name: every[name] for name in names if name in every}
    return {k: x.requires_grad_() for k, x in smooth.items()}, {k: fixed[k] for k in names if k in fixed}


def agrees_with_differences(scan, cases, fast=True):
    "gradcheck in float64, all inputs, both outputs side by side; `fast` along one random direction"
    for *shape, names in cases:
        for deep in (False, True):
            smooth, fixed = problem(*shape, names, deep)
            call = lambda *xs: torch.cat([out.flatten() for out in scan(**dict(zip(smooth, xs)), **fixed)])
            try:
                torch.autograd.gradcheck(call, tuple(smooth.values()), fast_mode=fast, rtol=1e-5, atol=1e-6)
            except RuntimeError as wrong:
                raise AssertionError(f"{shape}, {names}, {'below' if deep else 'above'} the floor: {wrong}") from None


def test_gradcheck():
    agrees_with_differences(selective_scan, shapes(20))


@pytest.mark.slow
def test_gradcheck_in_full():
    agrees_with_differences(selective_scan, shapes(20), fast=False)


def test_gradcheck_of_products(monkeypatch):
    monkeypatch.setattr(ssm, "_LONG", 1)
    agrees_with_differences(selective_scan, [(33, 2, 2, 1, ()), (19, 1, 2, 2, ("forget", "segments"))])


def agrees_with_the_loop(scan):
    "Long enough for groups of chunks: autograd through the chunks against autograd through the plain loop"
    for names in ((), ("now", "forget"), OPTIONS):
        smooth, fixed = problem(300, 2, 4, 3, names)
        grads = []
        for form in (scan, selective_scan_reference):
            y, h = form(**smooth, **fixed)
            weight = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
            loss = (y * weight).sum() + h.square().sum()
            grads.append(torch.autograd.grad(loss, list(smooth.values())))
        for name, mine, true in zip(smooth, *grads):
            off = (mine - true).norm() / true.norm()
            assert off < 1e-10, f"{name} with {names}: {off:.1e}"


@pytest.mark.parametrize("walk", [1, 1 << 30])
def test_long(walk, monkeypatch):
    monkeypatch.setattr(ssm, "_LONG", walk)
    agrees_with_the_loop(selective_scan)


@pytest.mark.parametrize("edge", [0.0, -1e-30, -5.0, -80.0, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_finite_at_the_edges(edge, dtype):
    "Decay exactly one, at the floor, and exactly zero; inputs up to a million"
    for length in (1, 7, 40, 300):
        for scale in (0.0, 1.0, 1e6):
            smooth, _ = problem(length, 2, 4, 3, ("forget",))
            given = {k: (scale * x if k == "u" else torch.full_like(x, edge) if k in ("log_a", "forget") else x)
                     .to(dtype).detach().requires_grad_() for k, x in smooth.items()}
            y, h = selective_scan(**given)
            (y.sum() + h.sum()).backward()
            assert all(x.isfinite().all() for x in (y, h, *(x.grad for x in given.values())))


@pytest.mark.parametrize("rule", ssm.RULES)
def test_layer(rule):
    "gradcheck of the whole layer, bar by bar and at once, with every ability and a hole"
    torch.manual_seed(0)
    layer = SelectiveSSM(4, 2, 2, rule=rule, rotary=True, forget=True).double()
    for p in layer.parameters():
        p.data += 0.3 * torch.randn_like(p)
    u = torch.randn(1, 9, 4, dtype=torch.float64, requires_grad=True)
    dt = torch.rand(1, 9, dtype=torch.float64) + 0.5
    seen = torch.arange(9)[None] % 4 > 0

    def at_once(u, *parameters):
        return layer(u, dt, seen, state=layer.init_state(1))[0]

    def stepped(u):
        state, parts = layer.init_state(1), []
        for t in range(9):
            y, state = layer(u[:, t:t + 1], dt[:, t:t + 1], seen[:, t:t + 1], state=state)
            parts.append(y)
        return torch.cat(parts, 1)

    assert torch.autograd.gradcheck(at_once, (u, *layer.parameters()))
    whole, = torch.autograd.grad(at_once(u).sin().sum(), u)
    piece, = torch.autograd.grad(stepped(u).sin().sum(), u)
    assert (whole - piece).norm() < 1e-10 * whole.norm()


@pytest.mark.slow
def test_compiled_gradients():
    "The compiled layer's gradients are the eager ones"
    torch.manual_seed(0)
    layer, u = SelectiveSSM(16, 8, 4, rule="trapezoid", rotary=True, forget=True), torch.randn(2, 63, 16)
    grads = [torch.autograd.grad(form(u)[0].sin().sum(), list(layer.parameters()))
             for form in (layer, torch.compile(layer, dynamic=False))]
    for mine, true in zip(grads[1], grads[0]):
        assert (mine - true).norm() <= 1e-5 * true.norm() + 1e-7


class _Tilted(torch.autograd.Function):
    "The identity, with a gradient a thousandth too long"
    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, g):
        return 1.001 * g


def test_mutants(mutants):
    guard = lambda scan: agrees_with_differences(scan, [(9, 2, 2, 1, ("forget", "angle"))])

    def last_detached(*args, **more):
        y, h = selective_scan(*args, **more)
        return y, h.detach()

    def without(name):
        return lambda **given: selective_scan(**given | {name: given[name].detach()})

    mutants.kill(11, "detached last state", guard, last_detached)
    for name in ("log_a", "initial_state", "angle", "forget"):
        mutants.kill(11, f"no gradient to {name}", guard, without(name))
    mutants.kill(11, "gradient a thousandth too long", guard, lambda **given: selective_scan(**given | {"B": _Tilted.apply(given["B"])}))
    mutants.kill(11, "no gradient through the carried state", agrees_with_the_loop, detached_carry)


def detached_carry(**given):
    "Truncated by accident: chunks of twenty sessions, the state handed over without its gradient"
    if "segments" in given:
        return selective_scan(**given)
    y, h = [], given.pop("initial_state")
    for i in range(0, given["u"].shape[1], 20):
        part, h = selective_scan(**{k: x[:, i:i + 20] for k, x in given.items()}, initial_state=h.detach() if i else h)
        y.append(part)
    return torch.cat(y, 1), h
