"""Talking to a run: base and adapter in one model, answers as they are generated.

talker = Talker.load(run_folder)
for piece in talker.answer([{"role": "user", "content": "Hi"}]): ...
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from queue import Queue
from threading import Event, Thread
from typing import Any

import torch
from peft import PeftModel
from transformers import (
    GenerationConfig,
    StoppingCriteria,
    StoppingCriteriaList,
    TextIteratorStreamer,
)

from lorawright.config.schema import ModelSettings
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
        files = tuned.find(run, settings)
        base = files.load_base()
        end_ids = tuned.end_tokens(files.base, settings.name, base)
        tokenizer = load_tokenizer(files.base, trust_remote_code=settings.trust_remote_code)
        return cls(files.add_adapter(base), tokenizer, end_ids)

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
