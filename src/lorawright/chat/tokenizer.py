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
from transformers.utils.chat_template_utils import render_jinja_template

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
    """

    name: str
    backend: tokenizers.Tokenizer
    template: str
    tool_template: str
    variables: Mapping[str, str]
    control_ids: Mapping[str, int]

    def render(
        self, messages: Sequence[Message], tools: Tools, *, generation_prompt: bool = False
    ) -> str:
        """The chat as text; `generation_prompt` adds the header an answer starts after.

        Raises:
            jinja2.TemplateError: The template refuses the chat.
        """
        text, _ = render(
            self.tool_template if tools else self.template,
            messages,
            tools,
            self.variables,
            add_generation_prompt=generation_prompt,
        )
        return text

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, nothing added; both cores are used."""
        encodings = self.backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def encode_plain(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text with control tokens read as ordinary text."""
        if not texts:
            return []
        self.backend.encode_special_tokens = True
        try:
            return self.encode(texts)
        finally:
            self.backend.encode_special_tokens = False

    def decode(self, ids: Sequence[int]) -> str:
        return self.backend.decode(list(ids), skip_special_tokens=False)

    @property
    def template_sha256(self) -> str:
        joined = self.template + "\0" + self.tool_template
        return hashlib.sha256(joined.encode()).hexdigest()

    @property
    def tokenizer_sha256(self) -> str:
        return hashlib.sha256(self.backend.to_str().encode()).hexdigest()


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
