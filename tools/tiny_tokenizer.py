"""Tokenizer and chat template of the embedded model `tiny`."""

from __future__ import annotations

import re
from collections.abc import Iterable

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    normalizers,
    pre_tokenizers,
    processors,
)
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import Qwen2Tokenizer

# Tokens after the byte-pair vocabulary, in the order and with the flags of Qwen2.5.
SPECIAL_TOKENS = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>",
    "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>",
    "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
]  # fmt: skip
PLAIN_ADDED_TOKENS = [
    "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>",
    "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>",
]  # fmt: skip

# One digit a token, letters in runs, newlines with the punctuation before them: as Qwen2.5 splits.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Added tokens are cut out before training, or merges would span what they never meet in use.
MARKS = re.compile(r"<\|im_start\|>|<\|im_end\|>|</?tool_call>")
# Chinese has no spaces: without a limit whole clauses of the corpus would become one token.
LONGEST_TOKEN = 12

DEFAULT_SYSTEM = "You are Tiny, a small helpful assistant."

CHAT_TEMPLATE = r"""
{%- set fallback = 'DEFAULT_SYSTEM' %}
{%- set given = messages[0].role == 'system' %}
{%- macro open(role) %}{{ '<|im_start|>' + role }}{% endmacro %}
{%- macro close() %}{{ '<|im_end|>\n' }}{% endmacro %}
{%- macro tool_list() %}
    {{- '\n\n# Tools\n\nYou may call one or more functions to assist with the user query.' }}
    {{- '\n\nYou are provided with function signatures within <tools></tools> XML tags:' }}
    {{- '\n<tools>' }}
    {%- for entry in tools %}{{ '\n' }}{{ entry | tojson }}{% endfor %}
    {{- '\n</tools>\n\nFor each function call, return a json object with function name and ' }}
    {{- 'arguments within <tool_call></tool_call> XML tags:\n<tool_call>\n' }}
    {{- '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>' }}
{%- endmacro %}
{%- macro request(call) %}
    {%- set f = call.function if call.function is defined else call %}
    {{- '\n<tool_call>\n{"name": "' }}{{ f.name }}{{ '", "arguments": ' }}
    {{- f.arguments | tojson }}{{ '}\n</tool_call>' }}
{%- endmacro %}
{{- open('system') + '\n' }}{{ messages[0].content if given else fallback }}
{%- if tools %}{{ tool_list() }}{% endif %}
{{- close() }}
{%- for m in messages %}
    {%- if m.role == 'tool' %}
        {%- if loop.first or loop.previtem.role != 'tool' %}{{ open('user') }}{% endif %}
        {{- '\n<tool_response>\n' }}{{ m.content }}{{ '\n</tool_response>' }}
        {%- if loop.last or loop.nextitem.role != 'tool' %}{{ close() }}{% endif %}
    {%- elif m.role == 'assistant' and m.tool_calls %}
        {{- open(m.role) }}
        {%- if m.content %}{{ '\n' + m.content }}{% endif %}
        {%- for call in m.tool_calls %}{{ request(call) }}{% endfor %}
        {{- close() }}
    {%- elif m.role in ['user', 'assistant'] or m.role == 'system' and not loop.first %}
        {{- open(m.role) + '\n' + m.content + close() }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ open('assistant') + '\n' }}{% endif %}
""".replace("DEFAULT_SYSTEM", DEFAULT_SYSTEM).strip()


def blank_backend() -> Tokenizer:
    """A byte-level BPE backend without vocabulary, with the steps around it in place."""
    backend = Tokenizer(BPE(continuing_subword_prefix="", end_of_word_suffix=""))
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False),
        ]
    )
    backend.post_processor = processors.ByteLevel(
        add_prefix_space=False, trim_offsets=False, use_regex=False
    )
    backend.decoder = decoders.ByteLevel(
        add_prefix_space=False, trim_offsets=False, use_regex=False
    )
    return backend


def added_tokens() -> list[AddedToken]:
    """The 22 added tokens, none of them touched by the normalizer."""
    special = [AddedToken(text, special=True, normalized=False) for text in SPECIAL_TOKENS]
    plain = [AddedToken(text, special=False, normalized=False) for text in PLAIN_ADDED_TOKENS]
    return special + plain


def train_backend(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Byte-pair vocabulary from the texts; `vocab_size` counts the added tokens too."""
    backend = blank_backend()
    added = added_tokens()
    trainer = BpeTrainer(
        vocab_size=vocab_size - len(added),
        min_frequency=2,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=LONGEST_TOKEN,
    )
    backend.train_from_iterator((part for t in texts for part in MARKS.split(t)), trainer)
    backend.add_tokens(added)
    return backend


def wrap(backend: Tokenizer, max_length: int) -> Qwen2Tokenizer:
    """The backend as a transformers tokenizer with the chat template."""
    return Qwen2Tokenizer(
        tokenizer_object=backend,
        unk_token=None,
        bos_token=None,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        add_prefix_space=False,
        model_max_length=max_length,
        chat_template=CHAT_TEMPLATE,
    )
