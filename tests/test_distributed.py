"""Two processes train what one trains: the objective is of the whole batch, so the result does not depend on who computed which part."""
import os
import socket
import subprocess
import sys

import pytest
from safetensors.torch import load_file

pytest.importorskip("accelerate")

SCRIPT = """
import sys, warnings; warnings.simplefilter("ignore")
import torch; torch.set_num_threads(1)
from hybrid_ssm.handler import FinancialDataHandler
from hybrid_ssm.hybrid import HybridFinancialModel
from hybrid_ssm.losses import JointLoss
from hybrid_ssm.risk import RiskPolicy
from hybrid_ssm.synthetic import planted_signal
from hybrid_ssm.trainer import ModelTrainer
import os
data = FinancialDataHandler(bars=planted_signal(260, 3, seed=1).bars, features=("return_5", "return_21"))
rank = int(os.environ.get("RANK", 0))   # the second process starts elsewhere: the first one's weights count
model = HybridFinancialModel(state_dim=2, memory_dim=4, input_dim=2, num_heads=2, n_layers=1, seed=rank).double()   # Adam turns the rounding of a tiny gradient into a step
trainer = ModelTrainer(model, data=data, device="cpu", loss=JointLoss(likelihood=.2, sharpe=1., traded=.5), policy=RiskPolicy(),
                       prior="long_only")
trainer.train_model(2, 1e-2, window=40, warm_up=10, stride=20, batch_size=7, progress=False, checkpoint=sys.argv[1],
                    memory_map=sys.argv[1] + "-tables")   # both write it
"""


def start(folder, *launcher):
    "Train in a process of its own, or in several"
    env = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run([sys.executable, *launcher, "-c" if not launcher else str(folder.parent / "script.py"),
                           *([SCRIPT] if not launcher else []), str(folder)], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    return load_file(next((folder / "best").glob("weights-*")))


def free_port():
    "A port of this machine that nobody uses"
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def test_two_processes_train_what_one_trains(tmp_path, tell):
    (tmp_path / "script.py").write_text(SCRIPT)
    alone = start(tmp_path / "one")
    launcher = ("-m", "torch.distributed.run", "--nproc_per_node=2", "--master_addr=127.0.0.1", f"--master_port={free_port()}")
    shared = start(tmp_path / "two", *launcher)
    assert alone.keys() == shared.keys()
    far = max((alone[k] - shared[k]).abs().max().item() for k in alone)
    assert far < 1e-5
    averaged = SCRIPT.replace("import os\n", "import os\nfrom hybrid_ssm import loop\nloop._gather = lambda parts, accelerator: parts\n"
                              "loop._own_rows = lambda tensor, accelerator: slice(None)\n", 1)
    (tmp_path / "script.py").write_text(averaged)   # planted: every process differentiates the objective of its own share
    usual = start(tmp_path / "usual", *launcher[:-1], f"--master_port={free_port()}")
    assert max((alone[k] - usual[k]).abs().max().item() for k in alone) > 1e-4
    assert len((tmp_path / "two" / "history.csv").read_text().splitlines()) == 3   # one process writes
    tell(f"largest difference of a weight after two epochs: {far:.1e}")
