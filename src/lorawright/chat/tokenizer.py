"""A model's tokenizer and chat template, without torch.

Ids come from the tokenizer's own `tokenizer.json` (Rust), text from its own chat template through
Transformers' renderer (sandboxed Jinja). There is no second template anywhere.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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

from lorawright.chat.words import WordEncoder
from lorawright.errors import TemplateError
from lorawright.types import Message, Role, Span

Tools = Sequence[Mapping[str, Any]] | None


@dataclass(frozen=True, slots=True)
class ChatTokenizer:
    """Renders chats to text and text to ids.

    Attributes:
        name: The model's name, for messages.
        backend: The Rust tokenizer.
        template: The Jinja source used for chats without tools.
        tool_template: The one used with tools; most models have one for both.
        variables: Special tokens that templates may name (`bos_token`…).
        control_ids: Text → id of the tokens that text in a chat must not forge.
        tokenizer_sha256: Of all that the Rust tokenizer holds.
        words: The same ids faster, for tokenizers whose words are independent of each other.
    """

    name: str
    backend: tokenizers.Tokenizer
    template: str
    tool_template: str
    variables: Mapping[str, str]
    control_ids: Mapping[str, int]
    tokenizer_sha256: str
    words: WordEncoder | None = None

    def render(
        self, messages: Sequence[Message], tools: Tools, *, generation_prompt: bool = False
    ) -> str:
        """The chat as text; `generation_prompt` adds the header an answer starts after.

        Raises:
            jinja2.TemplateError: The template refuses the chat.
        """
        return self.rendering(messages, tools).upto(len(messages), generation_prompt)

    def rendering(self, messages: Sequence[Message], tools: Tools) -> Rendering:
        """A chat whose beginnings are going to be rendered."""
        template = self.tool_template if tools else self.template
        return Rendering(template, messages, tools, self.variables)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, nothing added.

        Raises:
            TemplateError: Ids put together from words are not the tokenizer's own.
        """
        return self._encode_whole(texts) if self.words is None else self._encode_words(texts)

    def _encode_whole(self, texts: Sequence[str]) -> list[list[int]]:
        encodings = self.backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def _encode_words(self, texts: Sequence[str]) -> list[list[int]]:
        assert self.words is not None
        found = self.words.encode(texts)
        by_words = next((i for i, ids in enumerate(found) if ids is not None and texts[i]), None)
        whole = [i for i, ids in enumerate(found) if ids is None or i == by_words]
        ids_whole = dict(zip(whole, self._encode_whole([texts[i] for i in whole]), strict=True))
        if by_words is not None and ids_whole[by_words] != found[by_words]:
            raise TemplateError(
                f"word by word its tokenizer gives other ids than at once for {texts[by_words]!r}",
                where=self.name,
                hint="this is a fault of lorawright; open an issue with the model's name",
            )
        return [ids_whole[i] if ids is None else ids for i, ids in enumerate(found)]

    def encode_plain(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text with control tokens read as ordinary text."""
        if not texts:
            return []
        self.backend.encode_special_tokens = True
        try:
            return self._encode_whole(texts)
        finally:
            self.backend.encode_special_tokens = False

    def decode(self, ids: Sequence[int]) -> str:
        return self.backend.decode(list(ids), skip_special_tokens=False)

    @property
    def template_sha256(self) -> str:
        joined = self.template + "\0" + self.tool_template
        return hashlib.sha256(joined.encode()).hexdigest()


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
        messages: Sequence[Message],
        tools: Tools,
        variables: Mapping[str, str],
    ) -> None:
        self._compiled = _compile_jinja_template(template)
        self._turns = _alias_reasoning_fields(
            [_plain_template_data(message.for_template()) for message in messages]
        )
        plain_tools = None if tools is None else [_plain_template_data(tool) for tool in tools]
        self._shared = {"tools": plain_tools, "documents": None, **variables}

    def upto(self, num_messages: int, generation_prompt: bool = False) -> str:
        """The first messages as text.

        Raises:
            jinja2.TemplateError: The template refuses them.
        """
        try:
            return str(
                self._compiled.render(
                    self._shared,
                    messages=self._turns[:num_messages],
                    add_generation_prompt=generation_prompt,
                )
            )
        except PYTHON_ERRORS as error:
            raise jinja2.TemplateRuntimeError(f"{type(error).__name__}: {error}") from error


def render(
    template: str,
    messages: Sequence[Message],
    tools: Tools,
    variables: Mapping[str, str],
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


# What an expression in a template can raise besides Jinja's own errors.
PYTHON_ERRORS = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


def load(folder: Path, name: str) -> ChatTokenizer:
    """Reads a tokenizer folder.

    Raises:
        TemplateError: No fast tokenizer, no chat template, or one that is not valid Jinja.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise TemplateError(
            "has no tokenizer.json",
            where=name,
            hint="convert it once: `AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)`",
        )
    backend = tokenizers.Tokenizer.from_file(str(path))
    backend.no_truncation()
    backend.no_padding()
    config = _read_config(folder, name)
    template, tool_template = _templates(folder, config, name)
    return ChatTokenizer(
        name=name,
        backend=backend,
        template=template,
        tool_template=tool_template,
        variables=_variables(config),
        control_ids={
            token.content: token_id
            for token_id, token in backend.get_added_tokens_decoder().items()
            if token.special
        },
        tokenizer_sha256=hashlib.sha256(backend.to_str().encode()).hexdigest(),
        words=WordEncoder.of(backend),
    )


def _read_config(folder: Path, name: str) -> dict[str, Any]:
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TemplateError(
            f"tokenizer_config.json is not valid JSON: {error}",
            where=name,
            hint="download the model again",
        ) from None
    return dict(config)


def _templates(folder: Path, config: Mapping[str, Any], name: str) -> tuple[str, str]:
    """The template for chats without and with tools; a `chat_template.jinja` file wins."""
    path = folder / "chat_template.jinja"
    found: Any = path.read_text(encoding="utf-8") if path.is_file() else config.get("chat_template")
    if isinstance(found, list):
        found = {entry["name"]: entry["template"] for entry in found}
    if isinstance(found, str):
        found = {"default": found}
    if not found or "default" not in found:
        raise TemplateError(
            "has no chat template",
            where=name,
            hint="base models often have none: start from the model's chat version "
            "(…-Instruct), or put its chat_template.jinja into the model's folder",
        )
    pair = (str(found["default"]), str(found.get("tool_use", found["default"])))
    for template in pair:
        _parse(template, name)
    return pair


def _parse(template: str, name: str) -> None:
    try:
        render(template, [Message(Role.USER, "x")], None, {})
    except jinja2.TemplateSyntaxError as error:
        raise TemplateError(
            f"the chat template is not valid Jinja, line {error.lineno}: {error.message}",
            where=name,
            hint="take the template of the model's original release",
        ) from None
    except jinja2.TemplateError:
        return  # it may refuse this chat; whether it renders real chats is seen row by row


def _variables(config: Mapping[str, Any]) -> dict[str, str]:
    """`bos_token` and the like, as Transformers hands them to templates."""
    variables: dict[str, str] = {}
    for key, value in config.items():
        if key.endswith("_token") and value is not None and not isinstance(value, bool):
            variables[key] = value["content"] if isinstance(value, dict) else str(value)
    return variables
