"""A model's tokenizer and chat template, without torch.

Ids come from the tokenizer's own `tokenizer.json` (Rust), text from its own chat template through
Transformers' renderer (sandboxed Jinja). There is no second template anywhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import jinja2
import tokenizers
from transformers.utils.chat_template_utils import (
    _alias_reasoning_fields,
    _compile_jinja_template,
    _plain_template_data,
    render_jinja_template,
)

from lorawright.config.schema import TemplateSettings
from lorawright.errors import TemplateError
from lorawright.masks import template_files
from lorawright.masks.byte_level_bpe import ByteLevelBpe, newline_ends_word
from lorawright.masks.time_limit import TimeLimit
from lorawright.types import Message, Role, Span

Tools = Sequence[Mapping[str, Any]] | None
DATE_FUNCTION = "strftime_now"
PROBE = "Zebra 7"  # an answer that no template changes
NO_VARIABLES: Mapping[str, Any] = {}


@dataclass(frozen=True, slots=True)
class ChatTokenizer:
    """Renders chats to text and text to ids.

    Attributes:
        name: The model's name, for messages.
        backend: The Rust tokenizer.
        template: The Jinja source used for chats without tools.
        tool_template: The one used with tools; most models have one for both.
        variables: What templates may name: special tokens (`bos_token`…), and what a config sets
            (`enable_thinking`).
        control_ids: Text → id of the special tokens, which text in a chat must not forge.
        added_ids: Text → id of all added tokens, special or not.
        tokenizer_sha256: Of all that the Rust tokenizer holds.
        stop_ids: Tokens at which the model stops, by its own files; empty where they name none.
        generation_stops: Those of them that its generation config lists, in its order.
        reads_pieces_alone: Whether a piece of text has the ids that it has inside a text; false
            where something is put before every text (SentencePiece's dummy prefix).
        newline_ends_word: Whether no word goes on behind a newline, unless with white space.
        bpe: The same ids faster, for byte-level BPE whose ranks are its ids; see `id_reader`.
        unknown_id: What text becomes that the vocabulary cannot write; None where it writes all.
        date: What templates that ask for today's date are told (`strftime_now`).
    """

    name: str
    backend: tokenizers.Tokenizer
    template: str
    tool_template: str
    variables: Mapping[str, Any]
    control_ids: Mapping[str, int]
    added_ids: Mapping[str, int]
    tokenizer_sha256: str
    stop_ids: frozenset[int] = frozenset()
    generation_stops: tuple[int, ...] = ()
    reads_pieces_alone: bool = True
    newline_ends_word: bool = False
    bpe: ByteLevelBpe | None = None
    unknown_id: int | None = None
    date: date = field(default_factory=date.today)

    def render(
        self, messages: Sequence[Message], tools: Tools, *, generation_prompt: bool = False
    ) -> str:
        """The chat as text; `generation_prompt` adds the header an answer starts after.

        Raises:
            jinja2.TemplateError: The template refuses the chat.
        """
        return self.rendering(messages, tools).upto(len(messages), generation_prompt)

    def rendering(
        self,
        messages: Sequence[Message],
        tools: Tools,
        variables: Mapping[str, Any] = NO_VARIABLES,
    ) -> Rendering:
        """A chat whose beginnings are going to be rendered; `variables` are a row's own."""
        return self._rendering([message.for_template() for message in messages], tools, variables)

    def prompt(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Tools,
        variables: Mapping[str, Any] = NO_VARIABLES,
    ) -> str:
        """What a model is asked, from messages as templates take them.

        Raises:
            jinja2.TemplateError: The template refuses the chat.
        """
        return self._rendering(messages, tools, variables).upto(len(messages), True)

    def _rendering(
        self, turns: Sequence[Mapping[str, Any]], tools: Tools, variables: Mapping[str, Any]
    ) -> Rendering:
        # Transformers' own methods would hand on no function: the date is pinned here alone
        told = {**self.variables, DATE_FUNCTION: self.date.strftime, **variables}
        return Rendering(self.tool_template if tools else self.template, turns, tools, told)

    @property
    def told(self) -> dict[str, Any]:
        """What a config tells the template: variables that are no special tokens."""
        return {
            name: value for name, value in self.variables.items() if not name.endswith("_token")
        }

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, nothing added."""
        if self.bpe is None:
            return self.encode_whole(texts)
        found = self.bpe.encode(texts)
        whole = [number for number, ids in enumerate(found) if ids is None]
        if whole:
            encoded = self.encode_whole([texts[number] for number in whole])
            for number, ids in zip(whole, encoded, strict=True):
                found[number] = ids
        return [ids for ids in found if ids is not None]

    def encode_whole(self, texts: Sequence[str]) -> list[list[int]]:
        """The same by the tokenizer itself, which is the reference."""
        if not texts:
            return []
        encodings = self.backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def encode_plain(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text with control tokens read as ordinary text."""
        if not texts:
            return []
        self.backend.encode_special_tokens = True
        try:
            return self.encode_whole(texts)
        finally:
            self.backend.encode_special_tokens = False

    def decode(self, ids: Sequence[int]) -> str:
        return self.backend.decode(list(ids), skip_special_tokens=False)

    @property
    def template_sha256(self) -> str:
        joined = self.template + "\0" + self.tool_template
        return hashlib.sha256(joined.encode()).hexdigest()

    @property
    def template_date(self) -> str | None:
        """The date where the template asks for it: it stands in every chat then."""
        asks = DATE_FUNCTION in self.template + self.tool_template
        return self.date.isoformat() if asks else None


class Rendering:
    """One chat by one template, rendered up to several of its messages.

    Gives what `render` below gives for the same messages, but copies the chat once instead of once
    a render. Templates cannot change what they are given: Transformers compiles them in a sandbox
    that forbids it, so that all renders may share one copy.
    """

    __slots__ = ("_compiled", "_shared", "_turns")

    def __init__(
        self,
        template: str,
        turns: Sequence[Mapping[str, Any]],
        tools: Tools,
        variables: Mapping[str, Any],
    ) -> None:
        self._compiled = _compile_jinja_template(template)
        self._turns = _alias_reasoning_fields([_plain_template_data(dict(turn)) for turn in turns])
        plain_tools = None if tools is None else [_plain_template_data(tool) for tool in tools]
        self._shared = {"tools": plain_tools, "documents": None, **variables}

    def upto(self, num_messages: int, generation_prompt: bool = False) -> str:
        """The first messages as text.

        Raises:
            jinja2.TemplateError: The template refuses them.
        """
        return self._render(self._turns[:num_messages], generation_prompt)

    def before_answer(self, num_messages: int) -> str:
        """What stands before an answer to the first messages, once it is there.

        Raises:
            jinja2.TemplateError: The template refuses them.
        """
        answer = {"role": "assistant", "content": PROBE}
        return self._render([*self._turns[:num_messages], answer]).rpartition(PROBE)[0]

    def _render(self, turns: list[Any], generation_prompt: bool = False) -> str:
        try:
            return str(
                self._compiled.render(
                    self._shared, messages=turns, add_generation_prompt=generation_prompt
                )
            )
        except PYTHON_ERRORS as error:
            raise jinja2.TemplateRuntimeError(f"{type(error).__name__}: {error}") from error


def render(
    template: str,
    messages: Sequence[Message],
    tools: Tools,
    variables: Mapping[str, Any],
    *,
    add_generation_prompt: bool = False,
    with_tags: bool = False,
) -> tuple[str, list[Span]]:
    """A chat by any template; `with_tags` also gives the ranges of its `{% generation %}` tags.

    Raises:
        jinja2.TemplateError: Whatever goes wrong in the template, Python's errors included.
    """
    try:
        texts, spans = render_jinja_template(
            [[message.for_template() for message in messages]],
            tools=None if tools is None else [dict(tool) for tool in tools],
            chat_template=template,
            return_assistant_tokens_mask=with_tags,
            add_generation_prompt=add_generation_prompt,
            **variables,
        )
    except PYTHON_ERRORS as error:
        raise jinja2.TemplateRuntimeError(f"{type(error).__name__}: {error}") from error
    return str(texts[0]), [(int(a), int(b)) for a, b in spans[0]] if with_tags else []


# What an expression in a template can raise besides Jinja's own errors; `'x' * 10**11` the last.
PYTHON_ERRORS = (
    ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError, MemoryError,
)  # fmt: skip


def load(folder: Path, name: str, settings: TemplateSettings | None = None) -> ChatTokenizer:
    """Reads a tokenizer folder.

    Args:
        folder: With tokenizer.json and a chat template.
        name: The model's, for messages.
        settings: What a config says to the template; None: nothing.

    Raises:
        TemplateError: No fast tokenizer, no chat template, or one that is not valid Jinja.
    """
    backend = _backend(folder / "tokenizer.json", name)
    config = template_files.read_json(folder / "tokenizer_config.json", name)
    template, tool_template = template_files.templates(folder, config, name)
    for source in {template, tool_template}:
        _parse(source, name)
    named = template_files.variables(config)
    settings = settings or TemplateSettings()
    added = backend.get_added_tokens_decoder().items()
    return ChatTokenizer(
        name=name,
        backend=backend,
        template=template,
        tool_template=tool_template,
        variables={**named, **settings.variables},
        control_ids={token.content: token_id for token_id, token in added if token.special},
        added_ids={token.content: token_id for token_id, token in added},
        tokenizer_sha256=hashlib.sha256(backend.to_str().encode()).hexdigest(),
        stop_ids=template_files.stop_ids(
            folder, name, backend.token_to_id(named.get("eos_token", ""))
        ),
        generation_stops=template_files.generation_stops(folder, name),
        reads_pieces_alone=_reads_pieces_alone(backend),
        newline_ends_word=newline_ends_word(backend),
        unknown_id=_unknown_id(backend),
        date=date.today() if settings.date == "auto" else settings.date,
    )


def _backend(path: Path, name: str) -> tokenizers.Tokenizer:
    if not path.is_file():
        raise TemplateError(
            "has no tokenizer.json",
            where=name,
            hint="convert it once: `AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)`",
        )
    try:
        backend = tokenizers.Tokenizer.from_buffer(path.read_bytes())
    except OSError as error:
        raise template_files.unreadable(error, path, name) from None
    except Exception as error:
        if type(error) not in (Exception, ValueError):  # the library has no class of its own
            raise
        raise TemplateError(
            f"tokenizer.json is no tokenizer: {error}", where=name, hint="download the model again"
        ) from None
    backend.no_truncation()
    backend.no_padding()
    return backend


def _unknown_id(backend: tokenizers.Tokenizer) -> int | None:
    token = getattr(backend.model, "unk_token", None)
    return None if token is None else backend.token_to_id(token)


def _reads_pieces_alone(backend: tokenizers.Tokenizer) -> bool:
    """Whether texts behind a newline have the ids that they have alone."""
    for text in ("Zebra", "7", "每", "."):
        alone, behind = (
            encoding.ids
            for encoding in backend.encode_batch([text, "\n" + text], add_special_tokens=False)
        )
        if behind[-len(alone) :] != alone:
            return False
    return True


def _parse(template: str, name: str) -> None:
    try:
        with TimeLimit() as limit:
            limit.run(name, lambda: render(template, [Message(Role.USER, "x")], None, {}))
    except jinja2.TemplateSyntaxError as error:
        raise TemplateError(
            f"the chat template is not valid Jinja, line {error.lineno}: {error.message}",
            where=name,
            hint="take the template of the model's original release",
        ) from None
    except jinja2.TemplateError:
        return  # it may refuse this chat; whether it renders real chats is seen row by row
