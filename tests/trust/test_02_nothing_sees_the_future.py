"""Row 2, up to features and labels: what was known before a cut keeps its bits, whatever comes later.

100 cut points x {NaN, 1e9, shuffle} of all later rows x {bars, features, scalers, labels, training data}. (Models and
positions have a test of their own.)
"""
import warnings
from functools import partial

import numpy as np
import pandas as pd
import pytest

from hybrid_ssm.data import Bars, elapsed
from hybrid_ssm.feature_set import DEFAULT_FEATURES, FEATURES, compute_features, feature_names
from hybrid_ssm.features import expanding_scale, fit_scaler, rank_panel, rolling_scale, winsorise
from hybrid_ssm.handler import FinancialDataHandler
from hybrid_ssm.sources import RAW_COLUMNS, RawBars, assemble_bars
from hybrid_ssm.splits import holdout
from hybrid_ssm.synthetic import factor_market
from hybrid_ssm.targets import forward_targets, triple_barrier, volatility

KINDS = ("nan", "huge", "shuffle")
FEW = ("return_21", "rsi_14", "efficiency_63", "volume_shock_63", "market_correlation_63")  # cheap, all families
COLUMNS = ("close", "open", "high", "low", "volume")


def market(sessions, seed=0):
    "Three symbols that move together; one misses sessions, one lists late; with a carry."
    bars, rng = factor_market(sessions, list("ABC"), seed).bars, np.random.default_rng(seed)
    hole = np.zeros((sessions, 3), bool)
    hole[:, 1], hole[:9, 2] = rng.random(sessions) < .05, True
    carry = pd.DataFrame(.02 * rng.normal(size=hole.shape), bars.sessions, bars.symbols)
    frames = {n: getattr(bars, n).mask(hole) for n in COLUMNS}
    return Bars(**frames, extras={"carry": carry.mask(hole)}, instruments=bars.instruments)


def poison(bars, cut, kind, rng):
    "Every table with all rows from `cut` on replaced by nonsense."
    order = cut + rng.permutation(len(bars.sessions) - cut)
    def spoil(frame):
        cells = frame.to_numpy(float, copy=True)
        cells[cut:] = {"nan": np.nan, "huge": 1e9, "shuffle": cells[order]}[kind]
        return pd.DataFrame(cells, frame.index, frame.columns)
    frames = {n: spoil(getattr(bars, n)) for n in COLUMNS}
    return Bars(**frames, extras={k: spoil(v) for k, v in bars.extras.items()}, instruments=bars.instruments)


# ---- stages: bars -> (cut -> {name: what was known before the cut})

def of_bars(bars):
    "Returns, levels, volatility and elapsed time."
    frames = dict(returns=bars.returns, level=bars.level, volatility=volatility(bars))
    return lambda cut: {k: v.to_numpy()[:cut] for k, v in frames.items()} | {"elapsed": elapsed(bars.sessions)[:cut]}


def until_the_cut(panel, cut):
    "The scaler that could have been fitted before the cut."
    return fit_scaler(panel, panel.sessions[cut - 1])


def of_features(names, bars, fit=until_the_cut):
    "Features, the scaler fitted on the past, and the scaled past."
    panel = compute_features(bars, names)
    def before(cut):
        scaler = fit(panel, cut)
        return dict(values=panel.values[:cut], observed=panel.observed[:cut], center=scaler.center,
                    spread=scaler.spread, scaled=scaler.transform(panel).values[:cut])
    return before


def of_scalings(bars, names=FEW[:3]):
    "What scales each session by its own past: rolling, expanding, winsorised, ranked."
    panel = compute_features(bars, names)
    changed = {"rolling": rolling_scale(panel, 63), "expanding": expanding_scale(panel, 63),
               "winsorised": winsorise(panel, least=63), "ranked": rank_panel(panel)}
    return lambda cut: {k: v.values[:cut] for k, v in changed.items()}


def ripe(known_at, *values, cut):
    "What was known before the cut, and when; nothing else."
    known = (known_at >= 0) & (known_at < cut)
    return [np.where(known, v, np.nan)[:cut] for v in (known_at, *values)]


def of_labels(bars, forward=forward_targets, barrier=triple_barrier):
    "Forward returns and triple barriers that were known before the cut."
    f, b = forward(bars), barrier(bars)
    def before(cut):
        names = ("known", "returns", "scaled", "touched", "label", "gain")
        return dict(zip(names, (*ripe(f.known_at, f.returns, f.scaled, cut=cut),
                                *ripe(b.known_at, b.label, b.returns, cut=cut))))
    return before


def of_all(bars):
    "Bars, features, scalers and labels at once."
    stages = [of_bars(bars), of_features(FEW, bars), of_labels(bars)]
    return lambda cut: {k: v for stage in stages for k, v in stage(cut).items()}


def of_training(bars):
    "The sequences of a fold that ends at the cut: what a model would be given."
    def before(cut):
        handler = FinancialDataHandler(bars=bars, features=FEW)
        whole, fold = handler.sessions, holdout(handler.sessions[:cut])
        fold = type(fold)(0, fold.train, fold.valid, fold.test, fold.train_until, fold.valid_until, whole)
        data = handler.prepare_training_data(63, fold=fold)
        return {f"{part} {k}": getattr(getattr(data, part), k) for part in ("train", "valid")
                for k in ("x", "mask", "dt", "target", "cost", "start")}
    return before


def guard(stage, bars, cuts, kinds=KINDS, in_turn=False):
    "Spoil what is later than each cut; the bits before it must stay. Returns how many numbers were compared."
    clean, rng, compared = stage(bars), np.random.default_rng(1), 0
    for i, cut in enumerate(cuts):
        known = clean(cut)
        for kind in [kinds[i % len(kinds)]] if in_turn else kinds:
            now = stage(poison(bars, cut, kind, rng))(cut)
            for name, value in known.items():
                same = value.shape == now[name].shape and value.tobytes() == now[name].tobytes()
                assert same, f"{kind} from row {cut} on changes {name} before it"
                compared += value.size
    return compared


def cuts(bars, count, first=150):
    "Cut points spread over the panel."
    return np.unique(np.linspace(first, len(bars.sessions) - 1, count).astype(int))


def test_a_hundred_cuts(tell):
    bars = market(260)
    points = cuts(bars, 100)
    assert len(points) == 100
    compared = guard(of_all, bars, points)
    tell(f" {len(points)} cuts x {len(KINDS)} poisons: {compared:,} numbers of bars, features, scalers "
          "and labels, 0 changed")


def test_the_default_features():
    bars = market(600)
    assert guard(partial(of_features, DEFAULT_FEATURES), bars, cuts(bars, 4, first=560)) > 0


def test_scaling_session_by_session():
    bars = market(200)
    assert guard(of_scalings, bars, cuts(bars, 10)) > 0


def test_training_data():
    bars = market(260)
    assert guard(of_training, bars, cuts(bars, 6, first=200)) > 0


@pytest.mark.slow
def test_every_feature_at_a_hundred_cuts(tell):
    names = feature_names("all")
    bars = market(max(FEATURES[n].warm_up for n in names) + 110)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a feature without its input is masked, before the cut as after it
        compared = guard(partial(of_features, names), bars, cuts(bars, 100, first=len(bars.sessions) - 101),
                         in_turn=True)
    tell(f" {len(names)} features: {compared:,} numbers, 0 changed")


@pytest.mark.slow
@pytest.mark.parametrize("stage", [of_training, of_scalings], ids=["training", "scaling"])
def test_the_rest_at_a_hundred_cuts(stage):
    bars = market(400)
    guard(stage, bars, cuts(bars, 100, first=200))


# ---- planted defects

def all_rows(panel, cut):
    return fit_scaler(panel, panel.sessions[-1])


def calendar_count(bars):
    "Labels said to be known so many rows of the calendar later."
    clean = forward_targets(bars)
    known = np.arange(len(bars.sessions))[:, None, None] + np.array(clean.horizons)
    return type(clean)(**{**vars(clean), "known_at": np.where(clean.known_at >= 0, known, -1)})


def one_volatility(bars):
    "Labels in units of the volatility of the whole sample."
    clean = forward_targets(bars)
    whole = bars.returns.std().to_numpy()[:, None] * np.sqrt(clean.horizons)
    return type(clean)(**{**vars(clean), "scaled": clean.returns / whole})


def early_barrier(bars):
    "Touches said to be known at the row itself."
    clean = triple_barrier(bars)
    row = np.arange(len(bars.sessions))[:, None]
    return type(clean)(**{**vars(clean), "known_at": np.where(clean.known_at >= 0, row, -1)})


def rank_in_time(bars):
    "Levels ranked among all levels of the sample."
    rank = bars.level.rank(pct=True).to_numpy()
    return lambda cut: {"rank": rank[:cut]}


MUTANTS = {"scaler fitted on all rows": partial(of_features, FEW, fit=all_rows),
           "labels known by calendar count": partial(of_labels, forward=calendar_count),
           "labels in volatilities of the whole sample": partial(of_labels, forward=one_volatility),
           "barriers known at entry": partial(of_labels, barrier=early_barrier),
           "ranks over all time": rank_in_time}


def test_planted_defects(mutants):
    bars = market(260)
    for name, stage in MUTANTS.items():
        mutants.kill(2, name, partial(guard, bars=bars, cuts=cuts(bars, 3)), stage)
        blind = ("shuffle",) if stage is rank_in_time else ()  # a rank does not know the order of later rows
        for kind in [k for k in KINDS[1:] if k not in blind]:  # NaN would do; so must a number that looks like one
            mutants.kill(2, f"{name}, {kind}", partial(guard, bars=bars, cuts=cuts(bars, 3), kinds=(kind,)), stage)


def raw_prices(symbol, place, days):
    "Prices as they were traded; one symbol pays from row 400 on, another splits there."
    rng = np.random.default_rng(place)
    close = 100 * np.exp(np.cumsum(rng.normal(0, .01, len(days))))
    dividend, split = np.zeros(len(days)), np.ones(len(days))
    if place == 0:
        dividend[400::20] = .03 * close[400::20]
    if place == 1:
        split[450] = 2.
    reach = 1 + .01 * rng.random(len(days))
    columns = dict(date=days, open=close, high=close * reach, low=close / reach, close=close, adj_close=np.nan,
                   volume=1e6 * (1 + .3 * rng.random(len(days)) + .1 * place), dividend=dividend, split=split)
    return RawBars(symbol, pd.DataFrame(columns)[list(RAW_COLUMNS)], days[-1])


def guard_adjustment(compute):
    "Adjusted on read for what came later, a panel says of its past what it said when that was today."
    days = pd.bdate_range("2015-01-01", periods=520)
    raw = {s: raw_prices(s, k, days) for k, s in enumerate("ABCD")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no carry; notes on the made-up dividends
        then, later = (compute(assemble_bars(list(raw), raw.get, end=day))[:390] for day in (days[389], days[-1]))
    np.testing.assert_allclose(later, then, rtol=1e-6, atol=1e-6)
    return np.isfinite(then).sum()


def test_what_was_paid_later_changes_no_feature(tell):
    names = tuple(n for n in feature_names("all") if FEATURES[n].warm_up < 380)
    compared = guard_adjustment(lambda bars: compute_features(bars, names, dtype=np.float64).values)
    tell(f"{len(names)} features before later dividends and a split: {compared:,} numbers, none moved by 1e-6")


def test_a_rank_of_adjusted_money_is_found(mutants):
    money = lambda bars: (bars.close * bars.volume).rolling(63).sum().rank(axis=1).to_numpy()
    mutants.kill(2, "symbols ranked by adjusted price times volume", guard_adjustment, money)
