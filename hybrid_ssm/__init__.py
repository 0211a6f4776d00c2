"""A state-space model steered by an attention memory, tested honestly on markets."""
from importlib import import_module as _module

__version__ = "0.1.0"

_HOMES = {  # top-level name -> the module that defines it; loaded on first use (PEP 562)
    "AttentionExplorer": "explore", "Bars": "data", "DataError": "data",
    "Ensemble": "trainer", "Experiment": "experiment", "FinancialDataHandler": "handler",
    "Forecast": "forecast", "JointLoss": "losses",
    "HybridFinancialModel": "hybrid", "ModelTrainer": "trainer", "RegimeExplorer": "explore",
    "RiskPolicy": "risk", "SelectiveSSM": "ssm", "SnapshotStore": "store",
    "compute_features": "features", "load_bars": "sources", "sharpe": "metrics",
    "summarize": "metrics",
}
__all__ = sorted(_HOMES)


def __getattr__(name):
    if name in _HOMES:
        return getattr(_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted({n for n in globals() if n[:1] != "_" or n[:2] == "__"} | set(_HOMES))
