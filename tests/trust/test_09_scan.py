"""Row 9: the fast scan is the recurrence, for any length and every option, from decays near one to decays near zero."""
from itertools import product

import numpy as np
import pytest
import torch

from hybrid_ssm import ssm
from hybrid_ssm.ssm import selective_scan, selective_scan_reference

LENGTHS = 1, 2, 7, 16, 17, 63, 101, 252, 255, 1024
DECAYS = {"near one": (1e-6, 1e-3), "mixed": (1e-4, 4.9), "near zero": (4.0, 5.0), "below the floor": (1e-3, 200.0)}
OPTIONS = "now", "forget", "angle", "mask", "segments"
EVERY = ((), *((name,) for name in OPTIONS), OPTIONS)
LIMITS = {torch.float64: 1e-12, torch.float32: 1e-6}


def inputs(length, seed, decays, b=2, head=2, n=4, p=4):
    "u, log_a, B, C and a state to start from, in float64"
    rng = np.random.default_rng(seed)
    low, high = DECAYS[decays]
    log_a = -low * (high / low) ** rng.random((b, length, head))
    shapes = (b, length, head, p), (b, length, n), (b, length, n), (b, head, n, p)
    u, B, C, h = (rng.normal(size=shape) for shape in shapes)
    return u, log_a, B, C, h


def extras(names, length, seed, decays, b=2, head=2, n=4, p=4):
    """The options of these names: gates as deep as the decays, turns, holes, packed sequences of odd lengths.

    Angles are numbers that float32 holds: a rounded one is another frequency, which no scan can make good.
    """
    rng = np.random.default_rng(seed + 1000)
    low, high = DECAYS[decays]
    rows = n // 2 if "angle" in names else n
    every = dict(now=rng.normal(size=(b, length, head, p)),
                 forget=-low * (high / low) ** rng.random((b, length, rows)),
                 angle=rng.uniform(-1.6, 1.6, size=(b, length, n // 2)).astype(np.float32).astype(float),
                 mask=rng.random((b, length)) > 0.2,
                 segments=(rng.random((b, length)) < 0.1).cumsum(1) % 3)
    return {name: every[name] for name in names}


def recurrence(u, log_a, B, C, h, now=None, forget=None, angle=None, mask=None, segments=None):
    "The definition, in numpy, one sequence and one session after the other, without a line of the package"
    batch, length, head, p = u.shape
    half, y, states = B.shape[-1] // 2, np.zeros_like(u), []
    for i in range(batch):
        state, before = h[i].copy(), None                          # (head, n, p)
        for t in range(length):
            if mask is not None and not mask[i, t]:
                continue
            if segments is not None:
                if before is not None and segments[i, t] != before:
                    state = np.zeros_like(state)
                before = segments[i, t]
            state = np.exp(log_a[i, t])[:, None, None] * state
            if forget is not None:
                gate = forget[i, t] if angle is None else np.tile(forget[i, t], 2)
                state = np.exp(gate)[None, :, None] * state
            if angle is not None:
                spun = (state[:, :half] + 1j * state[:, half:]) * np.exp(1j * angle[i, t])[None, :, None]
                state = np.concatenate([spun.real, spun.imag], 1)
            seen = u if now is None else now
            y[i, t] = np.einsum("n,hnp->hp", C[i, t], state) + C[i, t] @ B[i, t] * seen[i, t]
            state = state + np.einsum("n,hp->hnp", B[i, t], u[i, t])
        states.append(state)
    return y, np.stack(states)


def ratio(mine, true):
    "Norm of the difference over the norm of the truth"
    return np.linalg.norm(mine.double().numpy() - true) / max(np.linalg.norm(true), 1e-300)


def typed(x, dtype):
    "A tensor; what is a number gets the type"
    x = torch.from_numpy(x)
    return x.to(dtype) if x.is_floating_point() else x


def is_the_recurrence(scan, lengths=LENGTHS, seeds=range(3), limits=LIMITS, options=((),), decays=DECAYS):
    "Ratio of norms below 1e-12 in float64 and 1e-6 in float32, readout and last state; the worst of each"
    worst = dict.fromkeys(limits, 0.0)
    for length, seed, decay, names in product(lengths, seeds, decays, options):
        given, more = inputs(length, seed, decay), extras(names, length, seed, decay)
        truth = recurrence(*given, **more)
        for dtype, limit in limits.items():
            got = scan(*(typed(x, dtype) for x in given), **{k: typed(x, dtype) for k, x in more.items()})
            off = max(map(ratio, got, truth))
            assert off < limit, f"length {length}, {decay}, {names}, {dtype}: {off:.1e}"
            worst[dtype] = max(worst[dtype], off)
    return ", ".join(f"{str(dtype)[6:]} {off:.0e}" for dtype, off in worst.items())


def test_scan(tell):
    tell(is_the_recurrence(selective_scan, LENGTHS[:-1]))


def test_scan_with_options(tell):
    tell(is_the_recurrence(selective_scan, (1, 2, 17, 63, 101), seeds=[0], options=EVERY[1:]))


@pytest.mark.slow
@pytest.mark.parametrize("names", EVERY, ids=lambda names: "+".join(names) or "plain")
def test_scan_in_full(names, tell):
    tell(is_the_recurrence(selective_scan, options=[names]))


def test_reference():
    "In float64 only: a thousand roundings in a row cost the plain loop 1.2e-6, more than the chunks"
    double = {torch.float64: 1e-12}
    is_the_recurrence(selective_scan_reference, (1, 2, 63), [0], double, EVERY)


@pytest.mark.parametrize("walk", ["loop", "products"])
def test_both_walks_over_chunks(walk, monkeypatch):
    "The loop from chunk to chunk and the products over groups of chunks, whatever the length would choose"
    monkeypatch.setattr(ssm, "_LONG", 1 if walk == "products" else 1 << 30)
    is_the_recurrence(selective_scan, (2, 63, 300), [0], options=((), ("forget", "segments"), OPTIONS))


@pytest.mark.parametrize("dtype, limit", [(torch.bfloat16, 6e-3), (torch.float16, 8e-4)])
def test_half_types(dtype, limit, tell):
    "Rounding of what comes in and goes out, and no more: the bound does not grow with the length"
    worst = 0.0
    for length, seed in product((17, 252, 1024), range(3)):
        u, log_a, B, C, h = inputs(length, seed, "mixed")
        truth = recurrence(u, log_a, B, C, h)
        half = [typed(x, dtype) for x in (u, B, C)]
        y, last = selective_scan(half[0], typed(log_a, torch.float32), *half[1:], typed(h, torch.float32))
        assert (y.dtype, last.dtype) == (dtype, torch.float32)
        worst = max(worst, ratio(y, truth[0]), ratio(last, truth[1]))
    assert worst < limit, f"{worst:.1e}"
    tell(f"ratio to float64 {worst:.1e}, bound {limit}")


def nothing_leaks(scan):
    "A sequence of twelve digits is packed before others: not a bit of what follows may change"
    u, log_a, B, C, h = (typed(x, torch.float32) for x in inputs(101, 0, "mixed"))
    number = torch.arange(101).ge(37).long().expand(2, 101)
    loud = torch.cat([1e12 * u[:, :37], u[:, 37:]], 1)
    y, last = scan(u, log_a, B, C, h, segments=number)
    y_loud, last_loud = scan(loud, log_a, B, C, h, segments=number)
    assert torch.equal(y[:, 37:], y_loud[:, 37:]) and torch.equal(last, last_loud)


def test_segments_do_not_leak():
    nothing_leaks(selective_scan)


def padding_is_inert(scan):
    "What stands in a padded row, even NaN, changes nothing; its readout is zero"
    given = [typed(x, torch.float64) for x in inputs(63, 0, "mixed")]
    mask = torch.from_numpy(extras(("mask",), 63, 0, "mixed")["mask"])
    spoil = lambda x: x.masked_fill(~mask.view(*mask.shape, *[1] * (x.dim() - 2)), float("nan"))
    y, last = scan(*given, mask=mask)
    y_spoiled, last_spoiled = scan(*map(spoil, given[:4]), given[4], mask=mask)
    assert torch.equal(y, y_spoiled) and torch.equal(last, last_spoiled)
    assert not y[~mask].any()


def test_padding():
    padding_is_inert(selective_scan)


@pytest.mark.parametrize("walk", ["loop", "products"])
def test_causal_to_the_bit(walk, monkeypatch):
    "At fixed length, poison later on changes nothing before, in either form and with every option"
    monkeypatch.setattr(ssm, "_LONG", 1 if walk == "products" else 1 << 30)
    for names, decay, cut in product(((), OPTIONS, ("forget", "now")), ("mixed", "below the floor"), (1, 77, 256)):
        given = [typed(x, torch.float32) for x in inputs(300, 0, decay)]
        more = {k: typed(x, torch.float32) for k, x in extras(names, 300, 0, decay).items()}
        poisoned = [torch.cat([x[:, :cut], bad], 1) for x, bad in
                    zip(given, (1e6 + 0 * given[0][:, cut:], given[1][:, cut:].flip(1), *(1e3 * x[:, cut:] for x in given[2:4])))]
        y, bad = selective_scan(*given, **more)[0], selective_scan(*poisoned, given[4], **more)[0]
        assert torch.equal(y[:, :cut], bad[:, :cut])
        assert not torch.equal(y[:, cut:], bad[:, cut:]), "the poison changed nothing, so this proves nothing"


@pytest.mark.slow
@pytest.mark.parametrize("names", [(), ("now",), ("forget",), ("forget", "angle", "mask", "segments")])
def test_compiled(names):
    "Compiled, with its checks skipped, the scan gives the same (decays above the floor)"
    compiled = torch.compile(selective_scan, dynamic=False)
    for decay in ("near one", "mixed"):
        given = [typed(x, torch.float32) for x in inputs(63, 0, decay)]
        more = {k: typed(x, torch.float32) for k, x in extras(names, 63, 0, decay).items()}
        for mine, true in zip(compiled(*given, **more), recurrence(*inputs(63, 0, decay), **extras(names, 63, 0, decay))):
            assert ratio(mine, true) < 1e-6


def cumprod_divide(u, log_a, B, C, h):
    "The tempting shortcut: divide by the running product, sum, multiply back"
    P = log_a.cumsum(1).exp()[..., None, None]
    written = B[:, :, None, :, None] * u[:, :, :, None]
    states = P * (h[:, None] + (written / P).cumsum(1))
    return (C[:, :, None, None] @ states).squeeze(3), states[:, -1]


def tiny_decay_at_cuts(u, log_a, B, C, h, segments):
    "A reset by the strongest decay that the floor allows: e^-5 of the state passes"
    cut = torch.nn.functional.pad(segments.diff(dim=1) != 0, (1, 0))
    return selective_scan(u, log_a.masked_fill(cut[..., None], ssm.LOG_DECAY_FLOOR), B, C, h)


def test_mutants(mutants, monkeypatch):
    def planted(name, wrong, guard, scan=selective_scan):
        def broken(*args, **more):
            with monkeypatch.context() as patch:
                patch.setattr(ssm, name, wrong)
                return scan(*args, **more)
        return lambda label: mutants.kill(9, label, guard, broken)

    def check(*names, lengths=(63,)):
        double = {torch.float64: 1e-12}
        return lambda scan: is_the_recurrence(scan, lengths, [0], double, [names], ["near one", "mixed"])

    carry, decay, turn = ssm._carry, ssm._chunk_decay, ssm._turn_pairs
    mutants.kill(9, "cumprod-divide shortcut", is_the_recurrence, cumprod_divide)
    mutants.kill(9, "initial state ignored", is_the_recurrence,
                 lambda u, log_a, B, C, h: selective_scan(u, log_a, B, C))
    mutants.kill(9, "a reset leaks e^-5", nothing_leaks, tiny_decay_at_cuts)
    mutants.kill(9, "segments ignored", check("segments"),
                 lambda *args, segments: selective_scan(*args))
    mutants.kill(9, "the own readout sees what later ones see", check("now"), lambda *args, now: selective_scan(*args))
    mutants.kill(9, "padding multiplied by zero", padding_is_inert, lambda u, log_a, B, C, h, mask: selective_scan(
        u * mask[..., None, None], log_a.masked_fill(~mask[..., None], 0.), B * mask[..., None], C * mask[..., None], h))
    planted("_carry", lambda h, x, w: carry(h, x._replace(angle=None), w), check("angle"))("the angle is not carried over chunks")
    planted("_chunk_decay", lambda x: decay(x._replace(forget=None)), check("forget"))("the gate is not carried over chunks")
    planted("_chunk_decay", lambda x: decay(x._replace(reset=None)), check("segments"))("a reset does not empty the carried state")
    planted("_turn_pairs", lambda x, angle: turn(x, -angle), check("angle"))("turned the wrong way")
    planted("_mask_resets", lambda reset, *rest: rest, check("segments"))("a reset does not part the sessions of a chunk")
