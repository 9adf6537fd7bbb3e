"""Messages or prompt ids → an answer's text, piece by piece, of a run's adapter or of its base.

model = ChatModel.load(run, config.model, config.template)
for piece in model.answer([{"role": "user", "content": "Hi"}]):
    print(piece, end="")
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from queue import Queue
from threading import Event, Thread
from types import MappingProxyType
from typing import Any

import torch
from peft import PeftModel
from transformers import (
    GenerationConfig,
    StoppingCriteria,
    StoppingCriteriaList,
    TextIteratorStreamer,
)

from lorawright import masks
from lorawright.config.schema import ModelSettings, TemplateSettings
from lorawright.model import tuned
from lorawright.model.load import load_tokenizer
from lorawright.run.folder import RunFolder


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen; temperature 0 takes the most likely one."""

    max_new_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """Counts of a finished answer.

    Attributes:
        num_prompt_tokens: What the model has read.
        num_tokens: What it has generated, the end token included.
        stopped: Whether a token that ends answers ended it; else a limit, or the caller.
    """

    num_prompt_tokens: int
    num_tokens: int
    stopped: bool


class ChatModel:
    """A base model with a run's adapter, and a tokenizer; both models can answer.

    Args:
        model: A PEFT model, or a bare base model.
        tokenizer: Transformers'.
        end_ids: Tokens that end an answer, from the chat template and the model's own list.
        template: Renders prompts as they were in training: its variables, its date.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        end_ids: Sequence[int],
        template: masks.ChatTokenizer,
    ) -> None:
        self.template = template
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.end_ids = list(end_ids)

    @classmethod
    def load(cls, run: RunFolder, settings: ModelSettings, template: TemplateSettings) -> ChatModel:
        """The adapter of a finished run, or of its newest checkpoint, on its base.

        Args:
            run: The run folder.
            settings: The base.
            template: What its chat template is told.

        Raises:
            RunFolderError: The run has neither.
            ModelError: The base is gone, or is not the one the adapter was trained on.
        """
        files = tuned.find(run, settings)
        base = files.load_base()
        ours = masks.load(files.base, settings.name, template)
        tokenizer = load_tokenizer(files.base, trust_remote_code=settings.trust_remote_code)
        end_ids = tuned.end_tokens(ours, base)
        return cls(files.add_adapter(base), tokenizer, end_ids, ours)

    def prompt(
        self,
        messages: Sequence[dict[str, Any]],
        tools: Sequence[dict[str, Any]] | None = None,
        variables: Mapping[str, Any] = MappingProxyType({}),
    ) -> Any:
        """Ids and attention mask of a chat, up to where an answer begins.

        Args:
            messages: The chat so far, as the template takes it.
            tools: What the model may call.
            variables: What this chat alone tells the template.

        Raises:
            jinja2.TemplateError: The chat template refuses the messages.
        """
        text = self.template.prompt(messages, tools, variables)
        return self.tokenizer(text, add_special_tokens=False, return_tensors="pt")

    def answer(
        self,
        messages: Sequence[dict[str, Any]],
        sampling: Sampling | None = None,
        *,
        base: bool = False,
        tools: Sequence[dict[str, Any]] | None = None,
    ) -> Generator[str, None, GenerationResult]:
        """Pieces of the answer as they are generated; closing the generator ends it.

        Args:
            messages: The chat so far, as the template takes it.
            sampling: How the next token is chosen; the most likely one by default.
            base: Answer without the adapter.
            tools: What the model may call.
        """
        return self.stream(self.prompt(messages, tools), sampling or Sampling(), base=base)

    def stream(
        self,
        prompt: Any,
        sampling: Sampling,
        *,
        base: bool = False,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Generator[str, None, GenerationResult]:
        """Pieces of the text that follows a prompt.

        Args:
            prompt: From `prompt`.
            sampling: How the next token is chosen.
            base: Answer without the adapter.
            should_stop: Asked after every token; True ends the answer.
        """
        inputs = prompt.to(self.model.device)
        streamer = TextIteratorStreamer(self.tokenizer, skip_prompt=True, skip_special_tokens=True)
        finished: Queue[torch.Tensor | BaseException] = Queue()
        cancelled = Event()

        def generate() -> None:
            try:
                torch.manual_seed(sampling.seed)
                with self._without_adapter() if base else nullcontext():
                    ids_BT = self.model.generate(
                        **inputs,
                        generation_config=self._generation(sampling),
                        stopping_criteria=StoppingCriteriaList(
                            [_StopWhen(lambda: cancelled.is_set() or should_stop())]
                        ),
                        streamer=streamer,
                    )
                finished.put(ids_BT[0])
            except BaseException as error:  # handed to the caller's thread, which raises it
                finished.put(error)
                streamer.end()

        thread = Thread(target=generate, daemon=True)
        thread.start()
        try:
            yield from (piece for piece in streamer if piece)
        finally:
            cancelled.set()
            thread.join()
        result = finished.get()
        if isinstance(result, BaseException):
            raise result
        num_prompt = inputs["input_ids"].shape[1]
        num_tokens = len(result) - num_prompt
        stopped = num_tokens > 0 and int(result[-1]) in self.end_ids
        return GenerationResult(num_prompt, num_tokens, stopped)

    @property
    def context_length(self) -> int | None:
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


class _StopWhen(StoppingCriteria):  # type: ignore[misc] # transformers is followed loosely
    """Ends a generation when a function says so."""

    def __init__(self, should_stop: Callable[[], bool]) -> None:
        self._should_stop = should_stop

    def __call__(self, ids_BT: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        return torch.full((ids_BT.shape[0],), self._should_stop(), device=ids_BT.device)
