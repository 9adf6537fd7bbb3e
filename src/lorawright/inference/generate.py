"""Talking to a run: base and adapter in one model, answers as they are generated.

talker = Talker.load(run_folder)
for piece in talker.answer([{"role": "user", "content": "Hi"}]): ...
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from threading import Event, Thread
from typing import Any

import torch
from peft import PeftModel
from safetensors import SafetensorError
from transformers import (
    GenerationConfig,
    StoppingCriteria,
    StoppingCriteriaList,
    TextIteratorStreamer,
)

from lorawright import hardware, hub, masks
from lorawright.config.schema import Dtype, ModelSettings
from lorawright.errors import ModelError, RunFolderError
from lorawright.hardware import Device, Hardware
from lorawright.model import load as model
from lorawright.run import checkpoint
from lorawright.run.folder import RunFolder


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen; temperature 0 takes the most likely one."""

    max_new_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Ending:
    """How an answer ended; `stopped`: by a token that ends answers, not by a limit."""

    num_prompt_tokens: int
    num_tokens: int
    stopped: bool


class Talker:
    """A base model with a run's adapter; both can answer.

    Args:
        model: A PEFT model, or a bare base model.
        tokenizer: Transformers'.
        end_ids: Tokens that end an answer, from the chat template and the model's own list.
    """

    def __init__(self, model: Any, tokenizer: Any, end_ids: Sequence[int]) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.end_ids = list(end_ids)

    @classmethod
    def load(cls, run: RunFolder, settings: ModelSettings) -> Talker:
        """The adapter of a finished run, or of its newest checkpoint, on its base.

        Raises:
            RunFolderError: The run has neither.
            ModelError: The base is gone, or is not the one the adapter was trained on.
        """
        adapter = adapter_folder(run)
        folder = hub.model_folder(
            settings.name, settings.revision, with_code=settings.trust_remote_code
        )
        refuse_other_base(run, settings.name, folder)
        facts = hardware.detect()
        settings = with_dtype(settings, facts)
        base = model.load_base(settings, folder, facts.device, training=False)
        tuned = with_adapter(base, adapter, settings.name)
        tokenizer = model.load_tokenizer(folder, trust_remote_code=settings.trust_remote_code)
        return cls(tuned, tokenizer, end_tokens(folder, settings.name, base))

    def prompt(
        self, messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]] | None = None
    ) -> Any:
        """What the model reads: ids and attention mask of a chat, up to where an answer begins.

        Raises:
            jinja2.TemplateError: The chat template refuses the messages.
        """
        return self.tokenizer.apply_chat_template(
            list(messages), tools=tools, add_generation_prompt=True, return_tensors="pt",
            return_dict=True,
        )  # fmt: skip

    def answer(
        self,
        messages: Sequence[dict[str, Any]],
        sampling: Sampling | None = None,
        *,
        base: bool = False,
        tools: Sequence[dict[str, Any]] | None = None,
    ) -> Generator[str, None, Ending]:
        """Pieces of the answer as they come; a caller that stops listening stops it.

        Args:
            messages: The chat so far, as the template takes it.
            sampling: How; the most likely token each time by default.
            base: Answer without the adapter.
            tools: What the model may call.
        """
        return self.continue_prompt(self.prompt(messages, tools), sampling or Sampling(), base=base)

    def continue_prompt(
        self,
        prompt: Any,
        sampling: Sampling,
        *,
        base: bool = False,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Generator[str, None, Ending]:
        """The same for a chat that `prompt` has made ids of; `should_stop` is asked every token."""
        inputs = prompt.to(self.model.device)
        streamer = TextIteratorStreamer(self.tokenizer, skip_prompt=True, skip_special_tokens=True)
        made: Queue[torch.Tensor | BaseException] = Queue()
        unwanted = Event()

        def generate() -> None:
            try:
                torch.manual_seed(sampling.seed)
                with self._without_adapter() if base else nullcontext():
                    ids_BT = self.model.generate(
                        **inputs,
                        generation_config=self._generation(sampling),
                        stopping_criteria=StoppingCriteriaList(
                            [_Unwanted(lambda: unwanted.is_set() or should_stop())]
                        ),
                        streamer=streamer,
                    )
                made.put(ids_BT[0])
            except BaseException as error:  # handed to the caller's thread, which raises it
                made.put(error)
                streamer.end()

        thread = Thread(target=generate, daemon=True)
        thread.start()
        try:
            yield from (piece for piece in streamer if piece)
        finally:
            unwanted.set()
            thread.join()
        result = made.get()
        if isinstance(result, BaseException):
            raise result
        num_prompt = inputs["input_ids"].shape[1]
        num_tokens = len(result) - num_prompt
        stopped = num_tokens > 0 and int(result[-1]) in self.end_ids
        return Ending(num_prompt, num_tokens, stopped)

    @property
    def longest_tokens(self) -> int | None:
        """Tokens that the model was made for, prompt and answer together; None if it says not."""
        longest = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return None if longest is None else int(longest)

    def _without_adapter(self) -> AbstractContextManager[Any]:
        if not isinstance(self.model, PeftModel):
            return nullcontext()
        context: AbstractContextManager[Any] = self.model.disable_adapter()
        return context

    def _generation(self, sampling: Sampling) -> GenerationConfig:
        sampled, pad_id = sampling.temperature > 0, self.tokenizer.pad_token_id
        return GenerationConfig(
            max_new_tokens=sampling.max_new_tokens,
            do_sample=sampled,
            temperature=sampling.temperature if sampled else None,
            top_p=sampling.top_p if sampled else None,
            top_k=None,
            eos_token_id=self.end_ids,
            pad_token_id=self.end_ids[0] if pad_id is None else pad_id,
        )


class _Unwanted(StoppingCriteria):  # type: ignore[misc] # transformers is followed loosely
    """Ends a generation that nobody listens to any more."""

    def __init__(self, should_stop: Callable[[], bool]) -> None:
        self._should_stop = should_stop

    def __call__(self, ids_BT: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        return torch.full((ids_BT.shape[0],), self._should_stop(), device=ids_BT.device)


def with_dtype(settings: ModelSettings, facts: Hardware) -> ModelSettings:
    """Settings without `auto`; a run's config has none, an edited one may."""
    if settings.dtype is not Dtype.AUTO:
        return settings
    without = Dtype.FLOAT16 if facts.device is Device.CUDA else Dtype.FLOAT32
    dtype = Dtype.BFLOAT16 if facts.bfloat16 else without
    return settings.model_copy(update={"dtype": dtype})


def with_adapter(base: Any, adapter: Path, name: str) -> PeftModel:
    """The base, wrapped with an adapter.

    Raises:
        ModelError: They do not fit each other.
    """
    try:
        return PeftModel.from_pretrained(base, str(adapter))
    except (RuntimeError, ValueError, OSError, SafetensorError) as error:
        raise ModelError(
            f"does not fit {name}: {str(error).splitlines()[0][:200]}",
            where=str(adapter),
            hint="the adapter belongs to another base, or files are missing; see "
            "base_model_name_or_path in its adapter_config.json",
        ) from None


def refuse_other_base(run: RunFolder, name: str, folder: Path) -> None:
    """The base may have moved; it may not have changed."""
    trained_on = run.base_weights()
    if trained_on is not None and trained_on != hub.weights_digest(folder):
        raise ModelError(
            "holds other weights than the base that this adapter was trained on",
            where=name,
            hint=f"put back the model that {run.path} was trained with, or train anew",
        )


def adapter_folder(run: RunFolder) -> Path:
    """The finished adapter, or that of the newest complete checkpoint; their files verified.

    Raises:
        RunFolderError: The run has neither.
        ModelError: A file of the adapter has changed since it was written.
    """
    finished = run.finished_adapter()
    if finished is not None:
        return finished
    latest = checkpoint.latest(run.checkpoints)
    if latest is None:
        raise RunFolderError(
            "has no adapter and no complete checkpoint",
            where=str(run.path),
            hint="`lorawright train CONFIG --resume` goes on with it",
        )
    return latest


def end_tokens(folder: Path, name: str, base: Any) -> list[int]:
    """The template's turn end first, then what the model's generation config lists."""
    marks = masks.learn(masks.load(folder, name))
    listed = base.generation_config.eos_token_id
    others = listed if isinstance(listed, list) else [] if listed is None else [listed]
    return list(dict.fromkeys([marks.end_id, *others]))
