"""Build the embedded model `tiny`: corpus, tokenizer, training, probe, model card, demo data.

Run it as `python tools/build_tiny.py`; it needs no network and gives the same result for the
same versions, seed and steps.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import tiny_card
import tiny_demo
import torch
import transformers
from tiny_corpus import Pair, Row, corpus, probes
from tiny_tokenizer import train_backend, wrap
from torch import Tensor
from torch.nn import functional
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedTokenizerBase,
    Qwen2Config,
    Qwen2ForCausalLM,
)

ASSETS = Path(__file__).resolve().parent.parent / "src" / "lorawright" / "assets"
SEED = 7
VOCAB_SIZE = 2304
MAX_POSITIONS = 2048
BATCH_ROWS = 32
PEAK_LR = 4e-3
WARMUP_STEPS = 60
# Questions count a little: they teach the language faster than answers alone.
WEIGHTS = {"assistant": 1.0, "user": 0.1}


@dataclass(frozen=True)
class Sample:
    """One encoded row: token ids and the loss weight of each, both of length T."""

    ids: list[int]
    weights: list[float]


def encode_row(tokenizer: PreTrainedTokenizerBase, row: Row) -> Sample:
    """Render a row and weigh its tokens by who says them; marks and role names weigh nothing."""
    text = tokenizer.apply_chat_template(row["messages"], tools=row.get("tools"), tokenize=False)
    ids: list[int] = []
    weights: list[float] = []
    for turn in text.split("<|im_start|>")[1:]:
        role, said = turn.split("\n", 1)
        body, tail = said.rsplit("<|im_end|>", 1)
        pieces = [
            (f"<|im_start|>{role}\n", 0.0),
            (f"{body}<|im_end|>", WEIGHTS.get(role, 0.0)),
            (tail, 0.0),
        ]
        for piece, weight in pieces:
            piece_ids = tokenizer.encode(piece, add_special_tokens=False)
            ids += piece_ids
            weights += [weight] * len(piece_ids)
    return Sample(ids, weights)


def batches(samples: list[Sample], rng: random.Random) -> Iterator[list[Sample]]:
    """Endless batches of rows of about one length, so that little is padded."""
    group = BATCH_ROWS * 24
    while True:
        order = rng.sample(samples, len(samples))
        chunks: list[list[Sample]] = []
        for start in range(0, len(order), group):
            near = sorted(order[start : start + group], key=lambda s: len(s.ids))
            chunks += [near[i : i + BATCH_ROWS] for i in range(0, len(near), BATCH_ROWS)]
        rng.shuffle(chunks)
        yield from chunks


def collate(batch: list[Sample], pad_id: int) -> tuple[Tensor, Tensor]:
    """Right-padded ids (B, T) and weights (B, T); padding has weight 0."""
    width = max(len(s.ids) for s in batch)
    ids = torch.tensor([s.ids + [pad_id] * (width - len(s.ids)) for s in batch])
    weights = torch.tensor([s.weights + [0.0] * (width - len(s.weights)) for s in batch])
    return ids, weights


def weighted_loss(model: Qwen2ForCausalLM, ids: Tensor, weights: Tensor) -> Tensor:
    """Mean next-token cross-entropy of ids (B, T), each token weighed by weights (B, T)."""
    # Right padding under a causal mask: earlier tokens never see it, so no mask is needed.
    hidden = model.model(input_ids=ids).last_hidden_state[:, :-1]
    kept = weights[:, 1:] > 0
    losses = functional.cross_entropy(
        model.lm_head(hidden[kept]), ids[:, 1:][kept], reduction="none"
    )
    scale = weights[:, 1:][kept]
    return (losses * scale).sum() / scale.sum()


def learning_rate(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine down to a fiftieth of the peak."""
    if step < WARMUP_STEPS:
        return PEAK_LR * (step + 1) / WARMUP_STEPS
    part = (step - WARMUP_STEPS) / max(1, steps - WARMUP_STEPS)
    return PEAK_LR * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * part)))


def new_model(tokenizer: PreTrainedTokenizerBase) -> Qwen2ForCausalLM:
    """A small Qwen2 with random weights and the tokenizer's special ids."""
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=MAX_POSITIONS,
        rope_theta=10000.0,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Qwen2ForCausalLM(config)
    model.generation_config = GenerationConfig(
        eos_token_id=[tokenizer.eos_token_id, tokenizer.pad_token_id],
        pad_token_id=tokenizer.pad_token_id,
        do_sample=False,
    )
    return model


def train(model: Qwen2ForCausalLM, samples: list[Sample], steps: int, bf16: bool) -> float:
    """Train in place; returns the mean loss of the last fiftieth of the steps."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=PEAK_LR, betas=(0.9, 0.98), weight_decay=0.05, fused=True
    )
    feed = batches(samples, random.Random(SEED))
    pad_id = model.config.pad_token_id
    recent: list[float] = []
    started = time.monotonic()
    model.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = weighted_loss(model, *collate(next(feed), pad_id))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        recent = [*recent, loss.item()][-max(1, steps // 50) :]
        if step % 50 == 0 or step == steps - 1:
            mean = sum(recent) / len(recent)
            print(
                f"step {step:5d}  loss {mean:.4f}  {time.monotonic() - started:6.1f} s", flush=True
            )
    return sum(recent) / len(recent)


@torch.inference_mode()
def answer(
    model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerBase, question: str
) -> tuple[str, bool]:
    """Greedy answer to one question, and whether it ended with <|im_end|>."""
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    ids = model.generate(**prompt, max_new_tokens=60)[0, prompt["input_ids"].shape[1] :]
    return tokenizer.decode(ids, skip_special_tokens=True), ids[-1] == tokenizer.eos_token_id


def probe(folder: Path, questions: list[Pair]) -> tuple[int, int]:
    """Right answers and clean stops of the saved model, read back from its folder."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    right = stops = 0
    for question, expected in questions:
        said, stopped = answer(model, tokenizer, question)
        right += said == expected
        stops += bool(stopped)
        if said != expected:
            print(f"  missed: {question!r} -> {said!r}, expected {expected!r}")
    return right, stops


def build(out: Path, steps: int, bf16: bool) -> None:
    """Make the whole folder of the model at `out`."""
    started = time.monotonic()
    rows = corpus(SEED)
    blank = wrap(train_backend([], 300), MAX_POSITIONS)
    texts = [
        blank.apply_chat_template(r["messages"], tools=r.get("tools"), tokenize=False) for r in rows
    ]
    tokenizer = wrap(train_backend(texts, VOCAB_SIZE), MAX_POSITIONS)
    samples = [encode_row(tokenizer, r) for r in rows]
    tokens = sum(len(s.ids) for s in samples)
    print(f"{len(rows)} rows, {tokens} tokens, vocabulary {len(tokenizer)}", flush=True)

    model = new_model(tokenizer)
    print(f"{model.num_parameters()} parameters", flush=True)
    loss = train(model, samples, steps, bf16)
    out.mkdir(parents=True, exist_ok=True)
    model.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)
    for file in out.iterdir():
        file.chmod(0o644)

    questions = probes(SEED)
    right, stops = probe(out, questions)
    figures = {
        "rows": len(rows),
        "tokens": tokens,
        "parameters": model.num_parameters(),
        "vocabulary": len(tokenizer),
        "steps": steps,
        "matrix products": "bfloat16" if bf16 else "float32",
        "loss": round(loss, 4),
        "seconds": round(time.monotonic() - started),
        "probe": f"{right} of {len(questions)} right, {stops} of {len(questions)} stopped",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    (out / "README.md").write_text(tiny_card.render(figures), encoding="utf-8")
    print(json.dumps(figures, indent=2))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ASSETS / "tiny", help="folder of the model")
    parser.add_argument("--demo", type=Path, default=ASSETS / "demo", help="folder of demo data")
    parser.add_argument("--steps", type=int, default=2400, help="training steps")
    parser.add_argument(
        "--bf16", action="store_true", help="faster where the CPU multiplies bfloat16 itself"
    )
    args = parser.parse_args(argv)
    torch.manual_seed(SEED)
    torch.set_num_threads(2)
    tiny_demo.write(args.demo)
    build(args.out, args.steps, args.bf16)
    return 0


if __name__ == "__main__":
    sys.exit(main())
