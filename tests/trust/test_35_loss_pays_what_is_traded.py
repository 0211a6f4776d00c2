"""Row 35: the loss pays what the book trades. Its net returns and Sharpe ratio are those of the policy and the backtest."""
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from hybrid_ssm.backtest import run_backtest
from hybrid_ssm.core import ConfigError
from hybrid_ssm.data import Bars
from hybrid_ssm.hybrid import HybridFinancialModel
from hybrid_ssm.loop import gradients
from hybrid_ssm.losses import Batch, JointLoss, TradedBook, traded_sharpe_loss
from hybrid_ssm.metrics import sharpe
from hybrid_ssm.risk import RiskPolicy
from hybrid_ssm.targets import forward_targets

POLICIES = [dict(scaling=scaling) | more for scaling in ("budget", "realised", "none")
            for more in (dict(), dict(buffer=0.1, max_gross=0.8), dict(decorrelate=True, decorrelate_span=60, buffer=0.05, max_weight=0.3))]


def market(seed=0, n=230, symbols=5, given_returns=True, holes=0.02):
    "A market with short and long halts, a late listing, a symbol that falls silent, a day off for all, and rolls"
    rng = np.random.default_rng(seed)
    r = rng.normal(0, 0.006, (n, 2)) @ rng.normal(0, 1, (2, symbols)) + rng.normal(0, 0.01, (n, symbols)) * rng.uniform(0.2, 3, symbols)
    hole = rng.random((n, symbols)) < holes
    hole[:80, 0] = hole[120:145, 1] = hole[n - 40:, 2] = hole[n // 2] = True
    days, names = pd.bdate_range("2001-01-01", periods=n), [f"F{i}" for i in range(symbols)]
    close = pd.DataFrame(100 * np.exp(r.cumsum(0)), days, names).mask(hole)
    excess = close.ffill().pct_change().where(close.notna()) if given_returns else None
    return Bars(close=close, excess=excess, extras={"roll": pd.DataFrame((rng.random((n, symbols)) < 0.02) * 1.0, days, names)})


def signals(bars, seed=1):
    "Positions that wander, none before a symbol is listed"
    walk = np.random.default_rng(seed).normal(size=bars.close.shape).cumsum(0) / 5
    return pd.DataFrame(np.tanh(walk), bars.sessions, bars.symbols).where(bars.observed.cummax())


def windows(bars, positions, starts, length, warm_up=0):
    "All symbols of some dates as a batch, and their positions"
    y, n = torch.tensor(forward_targets(bars, (1,)).scaled), len(bars.symbols)  # (S, n, 1)
    p = torch.tensor(positions.to_numpy())
    cut = lambda x: torch.cat([x[s:s + length].swapaxes(0, 1) for s in starts]).clone()
    target = cut(y)
    target[:, :warm_up] = torch.nan
    start, asset, none = torch.tensor(starts).repeat_interleave(n), torch.arange(n).repeat(len(starts)), torch.zeros(n * len(starts), length)
    scored = ~target[..., 0].isnan().all(1)  # a window without any label is dropped
    return Batch(*(v[scored] for v in (none, none, none, asset, target, none, start))), cut(p)[scored]


def whole(bars, positions):
    return windows(bars, positions, [0], len(bars.sessions))


def build(bars, policy, **terms):
    return TradedBook.from_bars(bars, policy, dtype=torch.float64, **terms)


def compare(build, bars, policy, fill="close", **terms):
    "Largest difference of a net return, and that of the Sharpe ratio; the last decision has no session that would pay it"
    positions = signals(bars)
    weights = RiskPolicy(**policy).weights(positions, bars).iloc[:-1 if fill == "close" else -2]
    wanted = run_backtest(weights, bars, rebalance="given", fill=fill, **terms).net_returns
    batch, p = whole(bars, positions)
    net = build(bars, RiskPolicy(**policy), fill=fill, **terms).net_returns(p, batch)
    got = net[0, :-1].numpy()
    scored = np.isfinite(got)
    assert scored[25:].all() and not wanted[~scored].any()  # from the first volatility on; before it nothing was held
    ratio = -traded_sharpe_loss(net).item() - sharpe(wanted[scored], periods=252).value
    return np.abs(got - wanted.to_numpy())[scored].max(), abs(ratio)


def check(build, bars, policies, **terms):
    "Compare under each policy; the largest differences"
    found = [(0.0, 0.0)]
    for policy in policies:
        found.append(compare(build, bars, policy, **terms))
        apart, ratio = found[-1]
        assert apart < 1e-9 and ratio < 1e-9, f"{policy}: net returns differ by {apart:.1e}, Sharpe ratios by {ratio:.1e}"
    return np.max(found, axis=0)


COSTS = dict(F0=1e-4, F1=3e-4, F2=5e-4, F3=2e-4, F4=9e-4)


def quick(build):
    "One batch of all symbols and sessions, from cash, under every scaling, with bands, limits and rotation"
    return check(build, market(), POLICIES, costs=COSTS)


def test_the_loss_pays_what_the_backtest_pays(tell):
    apart, ratio = quick(build)
    tell(f"{len(POLICIES)} policies: net returns differ by at most {apart:.0e}, Sharpe ratios by {ratio:.0e}")


def test_late_fills_borrow_financing_and_delistings():
    check(build, market(1), POLICIES[1::3], costs=COSTS, fill="next_close")
    stocks = market(2, given_returns=False)
    table = pd.DataFrame({"delisting": [None, None, stocks.sessions[-38], None, None], "delisting_return": [np.nan] * 2 + [-0.4] + [np.nan] * 2}, stocks.symbols)
    stocks = replace(stocks, instruments=table)
    check(build, stocks, POLICIES[1::3], costs=COSTS, borrow=0.02, financing=0.04)
    check(build, replace(stocks, close=stocks.close - 110, instruments=table.assign(allow_negative=True)), [dict(scaling="none", max_gross=0.2)], costs=COSTS)


def changes_only(bars, policy, **terms):
    "Planted: the loss of before, which charges changes of position at today's weight of a position"
    book = build(bars, policy, **terms)

    class Charged:
        def net_returns(self, position, batch):
            change = torch.diff(position.nan_to_num(), dim=1, prepend=position[:, :1] * 0).abs()
            unit = book.sizing.unit.T[batch.asset].nan_to_num() / len(bars.symbols)
            cost = (change * unit * book.terms.cost[batch.asset][:, None]).sum(0)
            return book.net_returns(position, batch, 0.0) - torch.cat([cost, cost[:1] * 0])

    return Charged()


def no_drift(bars, policy, **terms):
    "Planted: a holding keeps its weight whatever the market does"
    book = build(bars, policy, **terms)
    moved = (1 + book.account.earned * 0)
    return replace(book, account=book.account._replace(growth=moved))


def first_volatility(bars, policy, **terms):
    "Planted: every symbol is sized by its first volatility"
    book = build(bars, policy, **terms)
    unit = pd.DataFrame(book.sizing.unit.numpy())
    return replace(book, sizing=book.sizing._replace(unit=torch.tensor((unit * 0 + unit.bfill().iloc[0]).to_numpy())))


def no_band(bars, policy, **terms):
    "Planted: the band is left out"
    return replace(build(bars, policy, **terms), policy=replace(policy, buffer=0.0))


def not_rotated(bars, policy, **terms):
    "Planted: the positions are not rotated"
    book = build(bars, policy, **terms)
    return replace(book, sizing=book.sizing._replace(root=None))


def no_rolls(bars, policy, **terms):
    "Planted: a change of contract costs nothing"
    book = build(bars, policy, **terms)
    return replace(book, account=book.account._replace(roll=book.account.roll * 0))


def sold_in_silence(bars, policy, **terms):
    "Planted: what has no price is sold all the same"
    book = build(bars, policy, **terms)
    return replace(book, account=book.account._replace(priced=book.account.priced | True))


MUTANTS = {"charge |change of position| only": changes_only, "no drift": no_drift, "volatility of today frozen at its first value": first_volatility,
           "band left out": no_band, "decorrelation left out": not_rotated, "rolls are free": no_rolls, "sold while there is no price": sold_in_silence}


@pytest.mark.parametrize("name", MUTANTS)
def test_planted_defects_are_seen(name, mutants):
    mutants.kill(35, name, quick, MUTANTS[name])


def from_records(record):
    "Windows that begin with what was recorded earn what the whole book earns in their sessions"
    bars, starts, length = market(), [90, 118, 150], 60  # the second begins inside a halt
    positions = signals(bars)
    for policy in POLICIES[1:6:2]:
        book = build(bars, RiskPolicy(**policy), costs=COSTS)
        batch, p = whole(bars, positions)
        every = book.net_returns(p, batch)[0]
        record(book, positions.to_numpy())
        for warm_up in (0, 12):
            batch, p = windows(bars, positions, starts, length, warm_up)
            for net, s in zip(book.net_returns(p, batch), starts):
                apart = (net - every[s:s + length + 1])[warm_up:length].abs().max()
                assert apart < 1e-12, f"{policy}, {warm_up} rows of warm-up: a window earns {apart:.1e} more or less than the book"


def test_windows_begin_with_what_was_recorded(mutants):
    from_records(TradedBook.record)
    mutants.kill(35, "not started from recorded holdings", from_records, lambda book, positions: None)

    def only_holdings(book, positions):
        fresh = book.state()
        book.record(positions)
        book.load(book.state() | {name: fresh[name] for name in ("past", "scale", "full", "variance")})

    mutants.kill(35, "the scale starts anew in every window", from_records, only_holdings)


def test_gradients_are_right():
    bars = market(3, 150, 3, holes=0.05)
    positions = signals(bars) * 0.9
    for policy in POLICIES[2::3]:
        book = build(bars, RiskPolicy(**policy), costs=1e-3)
        book.record(positions.to_numpy())
        batch, p = windows(bars, positions, [96, 104], 7, 2)
        assert torch.autograd.gradcheck(lambda x: traded_sharpe_loss(book.net_returns(x, batch)), p.nan_to_num().requires_grad_(), fast_mode=True)


def test_single_precision_and_flat_books_have_a_gradient():
    bars = market()
    for policy in POLICIES[1::2]:
        book = TradedBook.from_bars(bars, RiskPolicy(**policy), costs=COSTS)
        batch, p = windows(bars, signals(bars), [90, 118], 60, 12)
        for size in (1.0, 0.0):
            x = (p.nan_to_num().float() * size).requires_grad_()
            traded_sharpe_loss(book.net_returns(x, batch)).backward()
            assert x.grad.isfinite().all() and (x.grad.any() or not size)


def test_what_a_book_cannot_trade_is_refused():
    bars = market()
    table = pd.DataFrame({"close_utc": [6.0, 16.5, 21.0, 21.0, 21.0]}, bars.symbols)
    with pytest.raises(ConfigError, match="close at different times"):
        build(replace(bars, instruments=table), RiskPolicy(), costs=COSTS)
    with pytest.raises(ConfigError, match="needs a book"):
        batch, p = whole(bars, signals(bars))
        out = type("Out", (), dict.fromkeys(("mean", "scale", "df"), batch.target) | dict(position=p))
        JointLoss(traded=1.0)(out, batch)


@pytest.mark.slow
def test_a_large_book(tell):
    "Twenty symbols over six years, as above"
    bars = market(4, 1500, 20)
    check(build, bars, POLICIES, costs=5e-4)
    tell(f"{len(POLICIES)} policies, 20 symbols, 1,500 sessions: equal to 1e-9")


@pytest.mark.long
def test_a_step_costs_little_more(tell):
    "Seconds of one training step with the portfolio loss and with the traded one; a figure, not a claim"
    bars, length, starts = market(5, 760, 59, holes=0.002), 252, [120, 246, 372, 498]
    policy = RiskPolicy(decorrelate=True, buffer=0.1, max_weight=3.0, max_gross=20.0)
    book = TradedBook.from_bars(bars, policy, costs=5e-4)
    batch, _ = windows(bars, signals(bars), starts, length, 63)
    x = torch.randn(len(batch.start), length, 17, generator=torch.Generator().manual_seed(0))
    target = batch.target.float().expand(-1, -1, 3)
    batch = batch._replace(x=x, mask=torch.ones_like(x, dtype=torch.bool), dt=torch.ones_like(batch.cost), target=target)
    model, seconds = HybridFinancialModel(input_dim=17, state_dim=16, memory_dim=32, num_heads=4), {}
    for name, loss in dict(portfolio=JointLoss(0.1, 0.0, portfolio=1.0), traded=JointLoss(0.1, 0.0, traded=1.0, book=book)).items():
        began = time.perf_counter()
        assert gradients(model, batch, loss, micro_batch=59).total.isfinite()
        seconds[name] = time.perf_counter() - began
    tell(f"59 symbols, 252 sessions, 4 dates: a step takes {seconds['portfolio']:.1f} s with the portfolio loss, {seconds['traded']:.1f} s with the traded one")
