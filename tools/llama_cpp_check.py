"""Loads exported GGUF files in llama.cpp: ids of texts and greedy answers against Transformers.

npm install --prefix ~/llama node-llama-cpp
python tools/llama_cpp_check.py --node ~/llama/node_modules runs/first
python tools/llama_cpp_check.py --node ~/llama/node_modules --tokenizers models/smollm2
python tools/llama_cpp_check.py --node ~/llama/node_modules --families models/smollm2

For a run: its float32 GGUF is exported into a temporary folder, each text of its evaluation set is
split by both, and each prompt is answered by both; Transformers has base + adapter in float32.
With --adapter-only llama.cpp has the GGUFs of base and adapter in place of the merged one. For a
tokenizer's folder: a small random Llama model with that tokenizer; `--families` makes a small
random model of every architecture with it and compares the answers. Answers may part at a tie: the
table says how far apart the two tokens' logits are there, and above `TIE` the check fails.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors import safe_open
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, LlamaConfig

from lorawright import masks
from lorawright.config import Config
from lorawright.distributed.signals import quiet
from lorawright.evaluation import chats
from lorawright.exporters import gguf, gguf_families, gguf_file, gguf_lora, gguf_tokenizer
from lorawright.exporters.merged_weights import MergedWeights
from lorawright.model import tuned
from lorawright.model.tuned import TunedFiles
from lorawright.run.folder import RunFolder, read_config
from lorawright.types import GgufType, Message, Role

RUNNER = Path(__file__).with_suffix(".mjs")
TIE = 1e-2  # logits, both in float32; no answer of SmolLM2-135M or Qwen2.5-0.5B parted at all
TEXTS = [
    "Hello, world! It's 2024; we've 12345 things, they'll cost $67.89.",
    "  leading, trailing  \n\n\nand\tinner   spaces \r\n here  ",
    "你好，世界！今天是2024年12月31日。こんにちは、カタカナ。안녕하세요 세계",
    "Ünïcödé naïve café Œuvre ŞĞİ ß Ωμέγα Привет мир שלום مرحبا नमस्ते ไทย",
    "def f(x_1, y2):\n    return x_1 ** 2 + y2//3  # 100% sure\n\n\n\tif a!=b: pass",
    "😀👩‍👩‍👧‍👦🏳️‍🌈 ١٢٣ Ⅷ ½ x² 𝟘𝟙 don't DON'T I'D we'Re 'tis",
    "http://example.com/a?b=c&d=%20#e {\"key\": [1, 2.5e-3, null, true]} <tag/> a--b…c",
    "\u00a0\u3000\u2028x\u0085y \u200bz \ufeffw \x00 \x7f",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Job:
    """What llama.cpp is asked.

    Attributes:
        model: The GGUF.
        lora: A GGUF adapter to put on it.
        texts: To be split into ids.
        prompts: To be answered, in ids.
        end: The token that ends an answer.
    """

    model: Path
    texts: Sequence[str]
    prompts: Sequence[Sequence[int]]
    end: int
    lora: Path | None = None
    max_tokens: int = 48


def ask(node: Path, job: Job) -> dict[str, Any]:
    """What llama.cpp says: `ids` of each text, `answers` in ids."""
    with tempfile.TemporaryDirectory() as folder:
        question, found = Path(folder, "job.json"), Path(folder, "result.json")
        question.write_text(
            json.dumps(
                {
                    "model": str(job.model),
                    "lora": None if job.lora is None else str(job.lora),
                    "texts": list(job.texts),
                    "prompts": [list(prompt) for prompt in job.prompts],
                    "max_tokens": job.max_tokens,
                    "end": job.end,
                }
            )
        )
        command = ["node", str(RUNNER), str(node.resolve()), str(question), str(found)]
        subprocess.run(command, check=True)
        result: dict[str, Any] = json.loads(found.read_text())
        return result


@dataclass(frozen=True, slots=True)
class Agreement:
    """How many of both are equal; `gap` is the widest one where answers part, in logits."""

    num_texts: int
    num_texts_equal: int
    num_answers: int = 0
    num_answers_equal: int = 0
    gap: float = 0.0

    @property
    def ok(self) -> bool:
        return self.num_texts == self.num_texts_equal and self.gap < TIE

    def __str__(self) -> str:
        text = f"ids equal for {self.num_texts_equal} of {self.num_texts} texts"
        if self.num_answers:
            text += f"; answers equal for {self.num_answers_equal} of {self.num_answers} prompts"
        if self.num_answers_equal < self.num_answers:
            text += f"; where they part the logits are {self.gap:.2g} apart"
        return text


def check_run(path: Path, node: Path, options: argparse.Namespace, folder: Path) -> Agreement:
    """A run's float32 GGUF, or those of base and adapter, against base + adapter in float32."""
    run = RunFolder(path)
    config = read_config(run)
    files = tuned.find(run, config.model)
    tokenizer = masks.load(files.base, config.model.name)
    file, lora = _export(run, config, files, options.adapter_only, folder)
    questions = chats.spread(chats.questions(chats.load(config, None)), options.prompts)
    prompts = [list(question.prompt_ids) for question in questions]
    num_tokens = AutoConfig.from_pretrained(files.base).vocab_size
    lead = _lead(files.base, tokenizer, num_tokens)
    texts = [
        *(lead + text for text in TEXTS),
        *(tokenizer.decode(row) for row in chats.proof_rows(config, None)),
    ]
    end = masks.learn(tokenizer).end_id
    job = Job(file, texts, prompts, end, lora)
    found = ask(node, job)
    for answer in found["answers"]:
        assert answer[-1:] == [end] or len(answer) == job.max_tokens, "llama.cpp stopped early"
    base = AutoModelForCausalLM.from_pretrained(files.base, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, str(files.adapter)).eval()
    gaps = [
        _gap(model, prompt, answer)
        for prompt, answer in zip(prompts, found["answers"], strict=True)
    ]
    return Agreement(
        len(texts),
        _num_equal(tokenizer, texts, found["ids"]),
        len(prompts),
        sum(gap == 0 for gap in gaps),
        max(gaps, default=0.0),
    )


def _export(
    run: RunFolder, config: Config, files: TunedFiles, adapter_only: bool, folder: Path
) -> tuple[Path, Path | None]:
    """The GGUF of the merged model, or those of base and adapter."""
    if not adapter_only:
        options = gguf.Options((GgufType.F32,), folder)
        return Path(gguf.run(run, config, options, lambda *_: None)["f32"]["path"]), None
    lora = Path(gguf_lora.run(run, config, folder, overwrite=False)["path"])
    settings = AutoConfig.from_pretrained(files.base)
    return _write_plain(files.base, config.model.name, settings, _weights(files.base), folder), lora


def _write_plain(base: Path, name: str, config: Any, weights: MergedWeights, folder: Path) -> Path:
    """A float32 GGUF of weights to which nothing is added."""
    tokenizer = gguf_tokenizer.read(base, name, config.vocab_size)
    layout = gguf_file.lay_out(weights, config, GgufType.F32, name)
    file = folder / "model.gguf"
    gguf_file.write(
        layout, weights, tokenizer.add_to, file, tokenizer.safe_name(name), lambda _: None
    )
    return file


def _gap(model: Any, prompt: Sequence[int], answer: Sequence[int]) -> float:
    """How far the first token of an answer that is not Transformers' choice is behind it."""
    with torch.inference_mode():
        ids = torch.tensor([[*prompt, *answer]])
        logits_TV = model(ids).logits[0, len(prompt) - 1 : -1]
    behind_T = logits_TV.amax(-1) - logits_TV[torch.arange(len(answer)), torch.tensor(answer)]
    parted = behind_T.nonzero()
    return float(behind_T[parted[0]]) if len(parted) else 0.0


def _num_equal(
    tokenizer: masks.ChatTokenizer, texts: Sequence[str], found: Sequence[Sequence[int]]
) -> int:
    num = 0
    for text, ours, theirs in zip(texts, tokenizer.encode(texts), found, strict=True):
        num += ours == theirs
        if ours != theirs:
            print(f"  other ids for {text!r}:\n    {ours}\n    {theirs}")
    return num


def check_tokenizer(base: Path, node: Path, folder: Path) -> Agreement:
    """A tokenizer in the GGUF of a small random Llama model: `TEXTS`, chats of them, runs.

    What llama.cpp gives is compared with the proof's own reading of the file, too.
    """
    tokenizer = masks.load(base, base.name)
    num_tokens = AutoConfig.from_pretrained(base).get_text_config().vocab_size
    config = LlamaConfig(
        vocab_size=num_tokens, hidden_size=32, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=512,
        tie_word_embeddings=True,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    file = _write_plain(base, base.name, config, _weights(folder), folder)
    texts = _texts(tokenizer, _lead(base, tokenizer, num_tokens))
    found = ask(node, Job(file, texts, [], masks.learn(tokenizer).end_id))["ids"]
    ours = gguf_tokenizer.open_file(file)
    for text, ids in zip(texts, found, strict=True):
        if ours(text) != ids:
            print(f"  the proof reads {text!r} as {ours(text)}, llama.cpp as {ids}")
    return Agreement(len(texts), _num_equal(tokenizer, texts, found))


def _lead(base: Path, tokenizer: masks.ChatTokenizer, num_tokens: int) -> str:
    """A control token where only texts behind one are alike, see `gguf_sentencepiece.prefix`."""
    first = tokenizer.backend.encode("x", add_special_tokens=False).tokens[0]
    prefixed = gguf_tokenizer.read(base, base.name, num_tokens).prefixed
    alike = prefixed or not first.startswith("▁")
    return "" if alike else tokenizer.variables["bos_token"]


def _texts(tokenizer: masks.ChatTokenizer, lead: str) -> list[str]:
    runs = [f"x{number * space}y" for space in (" ", "\n", "\t", "=") for number in range(1, 36)]
    chats_ = [
        tokenizer.render([Message(Role.USER, text), Message(Role.ASSISTANT, text)], None)
        for text in TEXTS
    ]
    return [*(lead + text for text in (*TEXTS, *runs)), *chats_]


def check_family(name: str, base: Path, node: Path, folder: Path) -> Agreement:
    """A small random model of an architecture, with another model's tokenizer."""
    torch.manual_seed(0)
    vocab_size = AutoConfig.from_pretrained(base).get_text_config().vocab_size
    model = AutoModelForCausalLM.from_config(family_config(name, vocab_size), dtype=torch.float32)
    with torch.no_grad():  # far from the initial values: norms of 1 and logits near 0 hide errors
        for path, weight in model.named_parameters():
            if weight.ndim == 1:
                weight.add_(torch.randn_like(weight) * 0.3)
            elif "embed" not in path:
                weight.mul_(4)
    model.save_pretrained(folder)
    config = AutoConfig.from_pretrained(folder)
    file = _write_plain(base, name, config, _weights(folder), folder)
    prompts = torch.randint(300, vocab_size, (6, 40)).tolist()
    end = masks.learn(masks.load(base, name)).end_id
    answers = ask(node, Job(file, [], prompts, end))["answers"]
    gaps = [_gap(model.eval(), *pair) for pair in zip(prompts, answers, strict=True)]
    return Agreement(0, 0, len(prompts), sum(gap == 0 for gap in gaps), max(gaps))


def family_config(name: str, vocab_size: int) -> Any:
    """Sizes at which every setting matters: windows shorter than a prompt, several heads."""
    kind, _, stretched = name.partition("+")
    plain = {"rope_type": "default", "rope_theta": 10_000.0}
    sizes: dict[str, Any] = {
        "vocab_size": vocab_size, "hidden_size": 64, "intermediate_size": 96,
        "num_hidden_layers": 8, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 4096, "tie_word_embeddings": True, "pad_token_id": 0,
        "sliding_window": None, "head_dim": 32, "query_pre_attn_scalar": 32,
    }  # fmt: skip
    factors = {"short_factor": [1.0, 1.1, 1.2, 1.3, 1.5, 2.0], "long_factor": [1.0] * 6}
    rope: dict[str, Any] = {
        "": plain,
        "llama3": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                   "high_freq_factor": 4.0, "original_max_position_embeddings": 64},
        "linear": {"rope_type": "linear", "factor": 8.0},
        "longrope": {"rope_type": "longrope", "partial_rotary_factor": 0.75, **factors,
                     "original_max_position_embeddings": 512},
    }[stretched]  # fmt: skip
    rope = {"rope_theta": 10_000.0, **rope}
    if kind.startswith("gemma"):
        sizes["sliding_window"] = 16
    if kind == "gemma3_text":
        rope = {"sliding_attention": plain, "full_attention": {**rope, "rope_theta": 1e6}}
    if kind == "glm4":
        rope = {**rope, "partial_rotary_factor": 0.5}
        sizes["attention_bias"] = True
    if kind == "phi3":  # above the key of the same name in `rope_parameters`
        sizes["original_max_position_embeddings"] = 512
    if kind in ("phi3", "llama", "qwen2"):
        del sizes["head_dim"]
    return CONFIG_MAPPING[kind](**sizes, rope_parameters=rope)


def _weights(folder: Path) -> MergedWeights:
    """A model's own weights, with nothing merged into them."""
    files: dict[str, Path] = {}
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="pt") as opened:
            files |= dict.fromkeys(opened.keys(), file)
    return MergedWeights(files, {}, {}, None, "model.embed_tokens.weight", {}, None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="*", type=Path)
    parser.add_argument("--node", type=Path, required=True, help="the folder node_modules")
    parser.add_argument("--tokenizers", nargs="*", type=Path, default=[])
    parser.add_argument("--families", nargs="*", type=Path, default=[], help="a tokenizer's folder")
    parser.add_argument("--adapter-only", action="store_true")
    parser.add_argument("--prompts", type=int, default=8)
    options = parser.parse_args()
    quiet()
    all_ok = True
    stretched = ["llama+llama3", "gemma3_text+linear", "phi3+longrope"]
    for base in options.families:
        for name in [*gguf_families.FAMILIES, *stretched]:
            with tempfile.TemporaryDirectory() as folder:
                found = check_family(name, base, options.node, Path(folder))
            print(f"{name}: {found}", flush=True)
            all_ok = all_ok and found.ok
    for path in [*options.runs, *options.tokenizers]:
        with tempfile.TemporaryDirectory() as folder:
            found = (
                check_run(path, options.node, options, Path(folder))
                if path in options.runs
                else check_tokenizer(path, options.node, Path(folder))
            )
        print(f"{path}: {found}")
        all_ok = all_ok and found.ok
    sys.exit(not all_ok)


if __name__ == "__main__":
    main()
