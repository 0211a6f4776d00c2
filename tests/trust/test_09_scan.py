"""Row 9: the fast scan is the recurrence, for any length, from decays near one to decays near zero."""
from itertools import product

import numpy as np
import pytest
import torch

from hybrid_ssm.ssm import selective_scan, selective_scan_reference

LENGTHS = 1, 2, 7, 16, 17, 63, 101, 252, 255, 1024
DECAYS = {"near one": (1e-6, 1e-3), "mixed": (1e-4, 4.9), "near zero": (4.0, 5.0), "below the floor": (1e-3, 200.0)}


def inputs(length, seed, decays, b=2, head=2, n=3, p=4):
    "u, log_a, B, C and a state to start from, in float64"
    rng = np.random.default_rng(seed)
    low, high = DECAYS[decays]
    log_a = -low * (high / low) ** rng.random((b, length, head))
    shapes = (b, length, head, p), (b, length, n), (b, length, n), (b, head, n, p)
    u, B, C, h = (rng.normal(size=shape) for shape in shapes)
    return u, log_a, B, C, h


def recurrence(u, log_a, B, C, h):
    "The definition, in numpy, without a line of the package"
    y = []
    for t in range(u.shape[1]):
        h = np.exp(log_a[:, t])[..., None, None] * h + np.einsum("bn,bhp->bhnp", B[:, t], u[:, t])
        y.append(np.einsum("bn,bhnp->bhp", C[:, t], h))
    return np.stack(y, 1), h


LIMITS = {torch.float64: 1e-12, torch.float32: 1e-6}


def is_the_recurrence(scan, lengths=LENGTHS, seeds=range(3), limits=LIMITS):
    "Ratio of norms below 1e-12 in float64 and 1e-6 in float32, readout and last state"
    for length in lengths:
        for seed, decays in product(seeds, DECAYS):
            given = inputs(length, seed, decays)
            truth = recurrence(*given)
            for dtype, limit in limits.items():
                got = scan(*(torch.tensor(x).to(dtype) for x in given))
                for mine, true in zip(got, truth):
                    ratio = np.linalg.norm(mine.double().numpy() - true) / np.linalg.norm(true)
                    assert ratio < limit, f"length {length}, {decays}, {dtype}: {ratio:.1e}"


def test_scan():
    is_the_recurrence(selective_scan)


def test_reference():
    "In float64 only: a thousand roundings in a row cost the plain loop 1.2e-6, more than the chunks"
    is_the_recurrence(selective_scan_reference, limits={torch.float64: 1e-12})


def test_gradients():
    for length in (2, 9, 17):
        given = [torch.tensor(x, requires_grad=True) for x in inputs(length, 0, "mixed", b=1, p=2)]
        assert torch.autograd.gradcheck(selective_scan, given)


def cumprod_divide(u, log_a, B, C, h):
    "The tempting shortcut: divide by the running product, sum, multiply back"
    P = log_a.cumsum(1).exp()[..., None, None]
    written = B[:, :, None, :, None] * u[:, :, :, None]
    states = P * (h[:, None] + (written / P).cumsum(1))
    return (C[:, :, None, None] @ states).squeeze(3), states[:, -1]


def test_mutants(mutants):
    mutants.kill(9, "cumprod-divide shortcut", is_the_recurrence, cumprod_divide)
    mutants.kill(9, "initial state ignored", is_the_recurrence,
                 lambda u, log_a, B, C, h: selective_scan(u, log_a, B, C))
