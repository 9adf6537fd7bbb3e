"""Config → a script for several machines, ready to submit or to run.

slurm      sbatch script.sh             one `lorawright train` a machine, started by srun
skypilot   sky launch script.yaml       the same, on rented machines
torchrun   NODE_RANK=0 sh script.sh     on each machine by hand, torchrun starts the processes
"""

from __future__ import annotations

import shlex
from enum import StrEnum

from lorawright.config.schema import Config


class Scheduler(StrEnum):
    """What starts a run on several machines."""

    SLURM = "slurm"  # `sbatch`
    SKYPILOT = "skypilot"  # `sky launch`
    TORCHRUN = "torchrun"  # `torchrun` by hand on each machine


def write(
    scheduler: Scheduler, config: Config, path: str, overrides: list[str], num_gpus: int
) -> str:
    """The script's text.

    Args:
        scheduler: For whom.
        config: As loaded; gives the number of machines and the port.
        path: The config's, as the machines will see it.
        overrides: `--set` options to repeat.
        num_gpus: Of each machine.
    """
    given = " ".join(f"--set {shlex.quote(override)}" for override in overrides)
    train = f"lorawright train {shlex.quote(path)}{' ' + given if given else ''}"
    machines, port = config.distributed.num_machines, config.distributed.main_port
    if scheduler is Scheduler.SLURM:
        return _slurm(train, machines, port, num_gpus)
    if scheduler is Scheduler.SKYPILOT:
        return _skypilot(train, machines, port, num_gpus)
    return _torchrun(train, config.training.output, machines, port, num_gpus)


def _machines(machines: int, rank: str, address: str, port: int, num_gpus: int) -> list[str]:
    """What differs from machine to machine, and what is told to all."""
    return [
        f"--set distributed.num_machines={machines}",
        f"--set distributed.num_processes={machines * num_gpus}",
        f'--set distributed.machine_rank="{rank}"',
        f'--set distributed.main_address="{address}"',
        f"--set distributed.main_port={port}",
    ]


def _slurm(train: str, machines: int, port: int, num_gpus: int) -> str:
    settings = _machines(machines, "$SLURM_NODEID", "$MAIN", port, num_gpus)
    each = " \\\n    ".join([f"{train} $AGAIN", *settings])
    return f"""#!/usr/bin/env bash
#SBATCH --job-name=lorawright
#SBATCH --nodes={machines}
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node={num_gpus}
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --signal=TERM@120
#SBATCH --requeue
# Take away the second # of what your cluster asks for:
##SBATCH --time=24:00:00
##SBATCH --partition=gpu
##SBATCH --account=my-project
##SBATCH --cpus-per-task=16
##SBATCH --mem=0
# Two minutes before the time is over each machine gets SIGTERM: the run saves and ends. A requeued
# job goes on from there. The run folder must lie on storage that all machines share.
# What srun starts has the environment of this script: activate yours here.
set -euo pipefail
# source .venv/bin/activate
# module load cuda
export MAIN=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export AGAIN=""
if [ "${{SLURM_RESTART_COUNT:-0}}" -gt 0 ]; then AGAIN="--resume"; fi
srun bash -c {shlex.quote(each)}
"""


def _skypilot(train: str, machines: int, port: int, num_gpus: int) -> str:
    rank, address = "$SKYPILOT_NODE_RANK", '$(echo "$SKYPILOT_NODE_IPS" | head -n 1)'
    lines = _machines(machines, rank, address, port, num_gpus)
    settings = " \\\n      ".join(lines)
    return f"""name: lorawright
num_nodes: {machines}
resources:
  accelerators: A100:{num_gpus}  # any kind; the number is that of each machine
workdir: .
# The run folder must lie on storage that all machines share: mount a bucket or a volume below, and
# let `training.output` lead there.
# file_mounts:
#   /runs:
#     name: my-bucket
#     mode: MOUNT
setup: |
  pip install 'lorawright[deepspeed,quantization]'
run: |
  {train} \\
      {settings}
"""


def _torchrun(train: str, output: str, machines: int, port: int, num_gpus: int) -> str:
    lines = _machines(machines, "$NODE_RANK", "$MAIN", port, num_gpus)
    settings = " \\\n  ".join(lines)
    folder = f"{output}/launch" + ('/machine-"$NODE_RANK"' if machines > 1 else "")
    return f"""#!/usr/bin/env bash
# On each machine: NODE_RANK=0 MAIN=<address of machine 0> sh this-script [--resume]
# The first command reads the chats and settles the run; torchrun then only starts processes.
# The run folder must lie on storage that all machines share.
set -eu
NODE_RANK=${{NODE_RANK:-0}}
MAIN=${{MAIN:-127.0.0.1}}
{train} --prepare-only "$@" \\
  {settings}
torchrun --nnodes {machines} --node-rank "$NODE_RANK" --nproc-per-node {num_gpus} \\
  --master-addr "$MAIN" --master-port {port} \\
  --module lorawright.training.worker {folder}/job.json
"""
