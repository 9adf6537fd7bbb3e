"""A run → a GGUF file, and the Modelfile from which Ollama makes a model.

Ollama renders chats by a Go template of its own, not by the GGUF's. So the model's template is
written in Go, and chats are rendered both ways: what differs is counted and reported.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lorawright import hub, masks
from lorawright.config.schema import Config
from lorawright.evaluation import chats as eval_chats
from lorawright.exporters import gguf, ollama_template
from lorawright.exporters.gguf import Options, Progress
from lorawright.exporters.ollama_template import Match
from lorawright.masks import ChatTokenizer
from lorawright.run.files import write_atomically
from lorawright.run.folder import RunFolder
from lorawright.training import failures
from lorawright.types import Conversation, Role

RESULT = "export-ollama.json"
USUAL_CONTEXT = 4096
# Modelfile parameter → key of generation_config.json
PARAMETERS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "repeat_penalty": "repetition_penalty",
}


def run(folder: RunFolder, config: Config, options: Options, progress: Progress) -> dict[str, Any]:
    """Writes GGUF and Modelfile into `ollama` in the run folder, and `export-ollama.json`.

    Raises:
        LorawrightError: See `gguf.make`; also a chat template that cannot be written in Go.
    """
    with failures.results_into(folder, "export"):
        return _run(folder, config, options, progress)


def _run(folder: RunFolder, config: Config, options: Options, progress: Progress) -> dict[str, Any]:
    output = options.output or folder.path / "ollama"
    modelfile = output / "Modelfile"
    gguf.refuse_taken(modelfile, folder, overwrite=options.overwrite)
    settings = config.model
    base = hub.model_folder(settings.name, settings.revision, with_code=settings.trust_remote_code)
    tokenizer = masks.load(base, settings.name, config.template)
    chats = eval_chats.proof_conversations(config, options.data)
    template = ollama_template.make(tokenizer, bare_tools=_bare_tools(chats))
    compared = [
        (one, ollama_template.compare(template, tokenizer, part))
        for one in chats
        for part in _prompts(one)
    ]
    (made,) = gguf.make(folder, config, replace(options, output=output), progress).values()
    system = _shared_system(chats)
    text = _modelfile(Path(made["path"]).name, template, tokenizer, base, config, system)
    with failures.held_output(output, folder, "export"), failures.unwritable(output):
        gguf.note_written(modelfile)
        write_atomically(modelfile, text.encode())
    name = re.sub(r"[^a-z0-9._-]", "-", folder.path.resolve().name.lower())
    counts = Counter(match for _, match in compared)
    found = {
        "path": str(output),
        "modelfile": str(modelfile),
        "gguf": made,
        "system": system,
        "num_renders": len(compared),
        "num_renders_equal": counts[Match.EQUAL],
        "num_renders_equal_json": counts[Match.JSON],
        "differences": sorted({one.where for one, match in compared if match is Match.OTHER}),
        "commands": [f"ollama create {name} -f {modelfile}", f"ollama run {name}"],
        **{key: made[key] for key in ("max_kl", "mean_kl", "top1_agreement", "num_positions")},
    }
    failures.write_result(folder, RESULT, found)
    return found


def _prompts(one: Conversation) -> list[Conversation]:
    """The chat up to each of its answers, and whole."""
    numbers = [n for n, m in enumerate(one.messages) if m.role is Role.ASSISTANT and n]
    return [replace(one, messages=one.messages[:number]) for number in numbers] + [one]


def _bare_tools(chats: Sequence[Conversation]) -> bool:
    """Whether all tools are functions without `{"type": "function"}` around them."""
    tools = [tool for one in chats for tool in one.tools or ()]
    return bool(tools) and all("function" not in tool for tool in tools)


def _shared_system(chats: Sequence[Conversation]) -> str | None:
    """The system prompt that all chats have, if they have one in common."""
    firsts = {
        one.messages[0].content if one.messages[0].role is Role.SYSTEM else None for one in chats
    }
    return firsts.pop() if len(firsts) == 1 else None


def _modelfile(
    gguf_name: str,
    template: str,
    tokenizer: ChatTokenizer,
    base: Path,
    config: Config,
    system: str | None,
) -> str:
    path = base / "generation_config.json"
    generation = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    model = json.loads((base / "config.json").read_text(encoding="utf-8"))
    longest = model.get("max_position_embeddings", USUAL_CONTEXT)
    listed = generation.get("eos_token_id", [])
    end_ids = [listed] if isinstance(listed, int) else listed
    texts = [masks.learn(tokenizer).end, *(tokenizer.decode([number]) for number in end_ids)]
    lines = [f"FROM ./{gguf_name}", f'TEMPLATE """{template}"""']
    if system is not None and '"""' not in system:
        lines.append(f'SYSTEM """{system}"""')
    lines += [f'PARAMETER stop "{text}"' for text in dict.fromkeys(texts)]
    lines.append(f"PARAMETER num_ctx {min(max(USUAL_CONTEXT, config.data.max_length), longest)}")
    lines += [
        f"PARAMETER {name} {generation[key]}"
        for name, key in PARAMETERS.items()
        if generation.get(key) is not None
    ]
    return "\n".join(lines) + "\n"
