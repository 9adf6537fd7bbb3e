"""Planned steps → TRL's SFTTrainer over them; the only file that imports trl.

A batch of the data loader is one optimizer step with all its passes; losses are means over trained
tokens, in training by their planned number; a step with a non-finite value is not applied.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import DataLoader, SequentialSampler
from transformers import PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from lorawright.config import trl_fields
from lorawright.config.schema import Config
from lorawright.dataset.store import ChatStore
from lorawright.distributed import group
from lorawright.errors import ConfigError, TrainError
from lorawright.hardware import Device
from lorawright.model import dropout, lora
from lorawright.model.load import evaluation_mode
from lorawright.model.loss import sum_dtype
from lorawright.plan.packing import PassKind
from lorawright.plan.steps import Plan, Step
from lorawright.run.events import EvaluationProgressed, MetricsLogged, StepFinished, Tell
from lorawright.training import sft_fields
from lorawright.training.batches import StepDataset, step_tensors
from lorawright.training.step_metrics import StepRecord, summary


def sft_config(config: Config, device: Device, output: Path, *, evaluates: bool) -> SFTConfig:
    """The resolved config in TRL's terms.

    Args:
        config: Without `auto`.
        device: Where training happens.
        output: Folder of the checkpoints.
        evaluates: Whether there is an evaluation set.

    Raises:
        ConfigError: TRL refuses a value.
    """
    training = config.training
    for name, what, hint in trl_fields.problems(training):
        raise ConfigError(f"`training.trl.{name}` {what}", where="training.trl", hint=hint)
    try:
        return SFTConfig(**sft_fields.planned(config, device, output, evaluates), **training.trl)
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"TRL refuses these settings: {str(error).splitlines()[0][:160]}",
            where="training",
            hint="see `training.optimizer`, `training.schedule` and `training.trl`",
        ) from error


class PlannedTrainer(SFTTrainer):  # type: ignore[misc] # trl is untyped
    """SFTTrainer over a plan.

    Args:
        model: A PEFT model.
        args: From `sft_config`.
        plan: The steps.
        train: The chats they are made of.
        evaluation: The evaluation set, or None.
        eval_plan: Its one round, or None.
        log_entropy: Whether to sum entropies.
        tokenizer: Transformers'; saved with every checkpoint.
        tell: Takes every step, line of metrics and stretch of an evaluation.
        should_stop: Asked after every step and pass of an evaluation, by all ranks alike.
        on_saved: Called with the folder of every checkpoint, its files written.
        autocasts: Whether to compute in bfloat16 by ourselves, see `sft_fields.own_autocast`.
        evaluates_first: Whether an evaluation is due before the first step of this sitting.
    """

    def __init__(
        self,
        *,
        model: Any,
        args: SFTConfig,
        plan: Plan,
        train: ChatStore,
        evaluation: ChatStore | None,
        eval_plan: Plan | None,
        log_entropy: bool,
        tokenizer: Any,
        tell: Tell,
        should_stop: Callable[[], bool],
        on_saved: Callable[[Path], None],
        autocasts: bool = False,
        evaluates_first: bool = False,
    ) -> None:
        self.plan = plan
        self.chats = train
        self.eval_chats, self.eval_plan = evaluation, eval_plan
        self.log_entropy = log_entropy
        self.tell, self.should_stop, self.on_saved = tell, should_stop, on_saved
        self.autocasts = autocasts
        self.evaluates_first = evaluates_first
        self.cut_short = False
        self.implementation = str(model.config._attn_implementation)
        self.records: list[StepRecord] = []
        self.num_skipped = 0  # steps since the last line that float16's scaler left out
        super().__init__(
            model=model,
            args=args,
            data_collator=_only,
            train_dataset=Dataset.from_file(str(train.path)),
            eval_dataset=None if evaluation is None else Dataset.from_file(str(evaluation.path)),
            processing_class=tokenizer,
            callbacks=[_StepGuard(self)],
        )
        self.remove_callback(PrinterCallback)
        lora.to_float32(self.model)  # TRL makes a quantized model's adapter bfloat16
        self.dropout_state = dropout.state_of(self.model)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """All steps, or as many as there are until a signal; see `cut_short`."""
        with suppress(_StoppedBeforeAStep):
            return super().train(*args, **kwargs)

    def get_train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Planned steps in order; the plan has shuffled, and knows this rank's share."""
        steps = StepDataset(self.plan, self.chats, self.args.process_index, self.implementation)
        return DataLoader(steps, batch_size=1, sampler=SequentialSampler(steps), collate_fn=_only)

    def training_step(
        self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """One planned step: forward and backward for each of its passes.

        Returns:
            The step's loss, for logging.
        """
        started = time.perf_counter()
        loss = torch.zeros((), device=self.args.device)
        self._num_hits, self._entropy_sum = 0, 0.0
        for number, tensors in enumerate(inputs["passes"]):
            if self.dropout_state is not None:
                self.dropout_state.begin_pass(inputs["number"], inputs["drawn"][number])
            if inputs["kinds"][number] is PassKind.COLLECT:
                self._collect(model, tensors)
                continue
            last = number == len(inputs["passes"]) - 1
            with group.pass_of_a_step(self.accelerator, model, last=last):
                loss += super().training_step(model, tensors, inputs["num_trained_tokens"])
        if not math.isfinite(loss.item()):
            raise TrainError(
                f"the loss of step {inputs['number'] + 1} is {loss.item()}",
                where=self.addresses(inputs["number"]),
                hint="the step was not applied; lower `training.learning_rate`, or look at these "
                "chats with `lorawright inspect`",
            )
        self.records.append(
            StepRecord(
                inputs["num_tokens"],
                inputs["num_trained_tokens"],
                self._num_hits,
                self._entropy_sum if self.log_entropy else None,
                time.perf_counter() - started,
            )
        )
        return loss

    @torch.no_grad()
    def _collect(self, model: Any, tensors: dict[str, Any]) -> None:
        """Forward only: the attention keeps keys and values for the step's other passes."""
        model.train()
        with self.compute_loss_context_manager():
            model(**self._prepare_inputs(tensors))

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """A pass's share of the step's loss: its sum over the step's number of trained tokens."""
        output = model(**inputs, with_entropy=self.log_entropy)
        self._num_hits += int(output["num_hits"])
        if self.log_entropy:
            self._entropy_sum += float(output["entropy_sum"])
        # DDP averages gradients over processes; the sum over the step is wanted
        loss = output["loss_sum"] * self.accelerator.num_processes / num_items_in_batch
        return (loss, output) if return_outputs else loss

    def addresses(self, step: int) -> str:
        """Where the chats of a step come from."""
        starts = self.plan.starts_C[self.plan.chats(step)].tolist()
        chats = [self.chats[start] for start in starts]
        return ", ".join(f"{chat.file}:{chat.line}" for chat in chats)

    def autocast_smart_context_manager(self, cache_enabled: bool | None = True) -> Any:
        """Around every forward pass; DDP's and a single process's are accelerate's own."""
        if not self.autocasts:
            return nullcontext()
        return torch.autocast(self.args.device.type, torch.bfloat16, cache_enabled=cache_enabled)

    @torch.no_grad()
    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Loss and accuracy as means over all trained tokens of the evaluation set.

        A signal ends it after the pass that runs: nothing is logged, `cut_short` is set, and the
        run is saved, so that resuming it evaluates here.
        """
        assert self.eval_chats is not None and self.eval_plan is not None
        started = time.perf_counter()
        evaluation_mode(self.model_wrapped)
        dtype = sum_dtype(self.args.device)
        sums_K = torch.zeros(2, dtype=dtype, device=self.args.device)
        num_targets = 0
        for step in self.eval_plan.evaluation():
            if not self._evaluate_step(step, sums_K):
                return self._cut_evaluation_short()
            num_targets += step.num_trained_tokens
        loss_sum, num_hits = self.accelerator.reduce(sums_K, "sum").tolist()
        metrics = {
            "eval_loss": loss_sum / num_targets,
            "eval_token_accuracy": num_hits / num_targets,
            "eval_trained_tokens": num_targets,
            "eval_seconds": time.perf_counter() - started,
        }
        self.log(metrics)
        handler: Any = self.callback_handler
        self.control: Any = handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _evaluate_step(self, step: Step, sums_K: torch.Tensor) -> bool:
        """Adds the sums of some chats; whether it came to their end."""
        assert self.eval_chats is not None and self.eval_plan is not None
        num_all = self.eval_chats.num_chats
        num_before = step.number * self.eval_plan.batch_size
        passes = step_tensors(step, self.args.process_index, self.eval_chats, self.implementation)
        for number, tensors in enumerate(passes, start=1):
            with self.compute_loss_context_manager():
                output = self.model_wrapped(**self._prepare_inputs(tensors))
            sums_K[0] += output["loss_sum"]
            sums_K[1] += output["num_hits"]
            num_here = min(self.eval_plan.batch_size, num_all - num_before)
            num_done = num_before + num_here * number // len(passes)
            self.tell(EvaluationProgressed(num_done, num_all))
            if num_done < num_all and self.should_stop():
                return False
        return True

    def _cut_evaluation_short(self) -> dict[str, float]:
        self.cut_short = True
        self.control.should_save = self.control.should_training_stop = True
        self.control.should_evaluate = False  # Transformers asks again at the epoch's end
        return {"eval_loss": math.nan}  # for who compares checkpoints by it: never the best

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds what the steps since the last line amount to."""
        if "loss" in logs:
            logs |= summary(self.records, self._over_ranks)
            self.records.clear()
            if self.num_skipped:
                logs["skipped_steps"] = self.num_skipped
                self.num_skipped = 0
                if not math.isfinite(logs.get("grad_norm", 0.0)):
                    del logs["grad_norm"]  # of a step that was left out
        super().log(logs, start_time)
        self.tell(MetricsLogged({"step": self.state.global_step, **logs}))

    def _over_ranks(self, value: float) -> float:
        """Its sum over all processes."""
        dtype = sum_dtype(self.args.device)
        own = torch.tensor(value, dtype=dtype, device=self.args.device)
        return float(self.accelerator.reduce(own, "sum"))

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted: Transformers' estimate takes padded rectangles for granted."""
        return 0

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Not in checkpoints; TRL writes one into each."""


def _only(items: list[Any]) -> Any:
    """The one item of a batch of one."""
    return items[0]


MOST_SKIPPED = 10  # steps in a row that a loss scaler may take to find its scale


class _StoppedBeforeAStep(Exception):
    """Transformers looks at `should_training_stop` behind a step only."""


@dataclass
class _StepGuard(TrainerCallback):  # type: ignore[misc] # transformers is followed loosely
    """Stops before a bad step is applied, saves when asked to stop, keeps the right epoch.

    float16 gradients are multiplied by a scale; one that overflows is how its scaler finds that
    the scale is too large. The scaler leaves such a step out and halves the scale.
    """

    trainer: PlannedTrainer
    last_saved: int = field(default=-1)
    num_skipped: int = field(default=0)  # in a row
    scale: float = field(default=0.0)  # before the step

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.trainer.evaluates_first:
            self.trainer.evaluate()
        if self.trainer.cut_short or self.trainer.should_stop():
            self.trainer.cut_short = True
            raise _StoppedBeforeAStep

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        scaler = self.trainer.accelerator.scaler
        if scaler is not None:
            self.scale = scaler.get_scale()
            return
        gradients = [p.grad for p in kwargs["model"].parameters() if p.grad is not None]
        # DeepSpeed has stepped, or refused to, inside `backward`
        refused = self.trainer.accelerator.optimizer_step_was_skipped
        if refused or not all(bool(torch.isfinite(gradient).all()) for gradient in gradients):
            raise TrainError(
                f"the gradient of step {state.global_step + 1} is not finite",
                where=self.trainer.addresses(state.global_step),
                hint="the step was not applied; lower `training.learning_rate`",
            )

    def _after_scaler(self, step: int) -> None:
        """Counts what the scaler has left out; a fused optimizer does not tell accelerate."""
        scaler = self.trainer.accelerator.scaler
        if scaler is None:
            return
        scale = scaler.get_scale()
        skipped = scale < self.scale
        self.num_skipped = self.num_skipped + 1 if skipped else 0
        self.trainer.num_skipped += skipped
        if self.num_skipped >= MOST_SKIPPED or scale < 1:
            raise TrainError(
                f"{self.num_skipped} steps in a row are too large for float16, up to step {step}",
                where=self.trainer.addresses(step - 1),
                hint="they were not applied; lower `training.learning_rate`, or write "
                "`model.dtype: float32`",
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._after_scaler(state.global_step)
        state.epoch = state.global_step / self.trainer.plan.steps_per_epoch
        done = self.trainer.records[-1]
        self.trainer.tell(
            StepFinished(state.global_step, done.num_tokens, done.num_trained_tokens, done.seconds)
        )
        if self.trainer.should_stop():
            control.should_save = True
            control.should_training_stop = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.last_saved:
            return
        self.last_saved = state.global_step
        self.trainer.on_saved(Path(args.output_dir) / f"checkpoint-{state.global_step}")
