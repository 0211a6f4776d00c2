"""A state-space model steered by an attention memory, tested honestly on markets."""
from importlib import import_module as _import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

__all__ = [
    "AttentionExplorer",
    "Bars",
    "Ensemble",
    "Experiment",
    "FinancialDataHandler",
    "HybridFinancialModel",
    "ModelTrainer",
    "RegimeExplorer",
    "RiskPolicy",
    "league_table",
    "load_bars",
    "run_backtest",
    "sharpe",
    "walk_forward",
]

if TYPE_CHECKING:  # what a type checker and an editor see
    from hybrid_ssm.backtest import run_backtest
    from hybrid_ssm.data import Bars
    from hybrid_ssm.experiment import Experiment
    from hybrid_ssm.explore import AttentionExplorer, RegimeExplorer
    from hybrid_ssm.handler import FinancialDataHandler
    from hybrid_ssm.hybrid import HybridFinancialModel
    from hybrid_ssm.metrics import league_table, sharpe
    from hybrid_ssm.risk import RiskPolicy
    from hybrid_ssm.sources import load_bars
    from hybrid_ssm.splits import walk_forward
    from hybrid_ssm.trainer import Ensemble, ModelTrainer
    from hybrid_ssm.data import DataError as DataError
    from hybrid_ssm.forecast import Forecast as Forecast
    from hybrid_ssm.losses import JointLoss as JointLoss
    from hybrid_ssm.ssm import SelectiveSSM as SelectiveSSM
    from hybrid_ssm.store import SnapshotStore as SnapshotStore
    from hybrid_ssm.feature_set import compute_features as compute_features
    from hybrid_ssm.metrics import summarize as summarize
else:  # at run time a name is loaded on its first use (PEP 562), so that importing the package is quick
    _MODULES = {
        "AttentionExplorer": "explore",
        "Bars": "data",
        "Ensemble": "trainer",
        "Experiment": "experiment",
        "FinancialDataHandler": "handler",
        "HybridFinancialModel": "hybrid",
        "ModelTrainer": "trainer",
        "RegimeExplorer": "explore",
        "RiskPolicy": "risk",
        "league_table": "metrics",
        "load_bars": "sources",
        "run_backtest": "backtest",
        "sharpe": "metrics",
        "walk_forward": "splits",
    }
    _MODULES |= {  # reached from here as well, documented in their modules
        "DataError": "data",
        "Forecast": "forecast",
        "JointLoss": "losses",
        "SelectiveSSM": "ssm",
        "SnapshotStore": "store",
        "compute_features": "feature_set",
        "summarize": "metrics",
    }

    def __getattr__(name):
        if name in _MODULES:
            return getattr(_import_module(f".{_MODULES[name]}", __name__), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__():
        hidden = ("TYPE_CHECKING",)
        own = {n for n in globals() if (n[:1] != "_" or n[:2] == "__") and n not in hidden}
        return sorted(own | set(__all__))
