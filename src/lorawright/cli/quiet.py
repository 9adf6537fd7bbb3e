"""Other libraries' chatter, kept off the terminal; each filter names what it hides and why."""

from __future__ import annotations

import logging as python_logging
import os
import warnings


def quiet() -> None:
    """Called by verbs that load torch, before they do."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # no telemetry
    # deepspeed, where installed, is imported by accelerate and says on stdout what it found
    python_logging.getLogger("DeepSpeed").addFilter(lambda r: r.levelno >= python_logging.ERROR)
    os.environ.setdefault("TQDM_DISABLE", "1")  # Transformers' bars; ours are rich's
    # trl 1.16 asks a model with transformers 5.23's old name for checkpointing; nothing to do here
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
    # bitsandbytes on a CPU says that paging is for GPUs; `resolve` has said so already
    warnings.filterwarnings("ignore", message=".*[Pp]aged.*not supported.*")
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    # bitsandbytes says on a CPU that an optional kernel is not installed; it has its own
    python_logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(python_logging.ERROR)
    import datasets

    datasets.utils.logging.set_verbosity_error()
    datasets.disable_progress_bars()
