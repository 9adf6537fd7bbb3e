"""Chats that are several sequences: trained answer by answer as inference sees them.

The template is of Qwen3's kind: the newest answers keep their reasoning, earlier ones lose it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import orjson
import pytest
import torch
from helpers import write_jsonl
from peft import get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from lorawright import hub
from lorawright.cli import run as command
from lorawright.config import Config
from lorawright.config.schema import OverlongPolicy
from lorawright.evaluation import run as evaluation
from lorawright.inference.generate import ChatModel
from lorawright.model import lora
from lorawright.plan import run_plan, workload
from lorawright.run.events import silent
from lorawright.run.folder import RunFolder, dump_config, read_config
from lorawright.training import claim, train
from lorawright.training.train import Start

THINKING = """\
{%- set last = namespace(user=0) %}
{%- for m in messages if m.role == 'user' %}{% set last.user = loop.index0 %}{% endfor %}
{%- set seen = namespace(users=-1) %}
{%- for m in messages %}
{%- if m.role == 'user' %}{% set seen.users = seen.users + 1 %}{% endif %}
{{- '<|im_start|>' + m.role + '\\n' }}
{%- if m.role == 'assistant' and seen.users >= last.user %}
{{- '<think>\\n' + (m.reasoning_content or '') + '\\n</think>\\n\\n' }}
{%- endif %}
{{- m.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}
{%- endif %}{% endif %}"""


def thinking_rows(num_rows: int) -> list[dict[str, Any]]:
    made = []
    for number in range(num_rows):
        messages: list[dict[str, Any]] = [{"role": "system", "content": "You count."}]
        for turn in range(1 + number % 3):
            answer: dict[str, Any] = {"role": "assistant", "content": f"It is {number + turn}."}
            if number % 4:
                answer["reasoning_content"] = f"I add {number} and {turn}, which is not hard."
            messages += [{"role": "user", "content": f"What is {number} plus {turn}?"}, answer]
        made.append({"messages": messages})
    return made


@pytest.fixture
def config(make_config: Callable[..., Config], tmp_path: Path) -> Config:
    """Eight chats, 15 answers; float32, no dropout, plain AdamW."""
    base = tmp_path / "base"
    shutil.copytree(hub.model_folder("tiny"), base)
    (base / "chat_template.jinja").write_text(THINKING, encoding="utf-8")
    made = make_config(
        8, 3, batch_size=4, logging_steps=1, schedule="constant", warmup_ratio=0.0,
        weight_decay=0.0, optimizer="adamw_torch", epochs=2,
    )  # fmt: skip
    write_jsonl(tmp_path / "train.jsonl", thinking_rows(8))
    write_jsonl(tmp_path / "eval.jsonl", thinking_rows(11)[8:])
    model = made.model.model_copy(update={"name": str(base)})
    return made.model_copy(update={"model": model})


def with_(config: Config, section: str, **values: Any) -> Config:
    return config.model_copy(update={section: getattr(config, section).model_copy(update=values)})


def plain_losses(config: Config) -> list[float]:
    """By Transformers and PEFT alone: every answer a row of its own behind its own prompt."""
    base = config.model.name
    tokenizer = AutoTokenizer.from_pretrained(base)
    made = orjson.loads(b"[" + b",".join(Path(config.data.train).read_bytes().splitlines()) + b"]")
    found = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    torch.manual_seed(config.training.seed)
    wrapped = get_peft_model(found, lora.lora_config(config.lora)).train()
    trained = [p for p in wrapped.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config.training.learning_rate, weight_decay=0.0)
    steps = run_plan.make(config, silent).steps
    losses = []
    for number in range(len(steps)):
        rows = [row for chat in steps.chats(number) for row in expanded(made[chat], tokenizer)]
        count = sum(len(ids) - start for ids, start in rows)
        total = 0.0
        for ids, start in rows:
            ids_T = torch.tensor(ids)
            logits_TV = wrapped(input_ids=ids_T[None], use_cache=False).logits[0]
            loss = torch.nn.functional.cross_entropy(
                logits_TV[start - 1 : -1], ids_T[start:], reduction="sum"
            )
            (loss / count).backward()
            total += float(loss.detach()) / count
        torch.nn.utils.clip_grad_norm_(trained, config.training.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total)
    return losses


def expanded(row: dict[str, Any], tokenizer: Any) -> list[tuple[list[int], int]]:
    """(ids, where the answer begins) of each answer."""
    found = []
    for number, message in enumerate(row["messages"]):
        if message["role"] != "assistant":
            continue
        prompt, whole = (
            tokenizer.apply_chat_template(
                row["messages"][: number + more], add_generation_prompt=not more, return_dict=False
            )
            for more in (0, 1)
        )
        end = max(at for at, token in enumerate(whole) if token == tokenizer.eos_token_id)
        assert whole[: len(prompt)] == prompt
        found.append((whole[: end + 1], len(prompt)))
    return found


LAYOUTS = {
    "shared, one pass": {"tokens_per_pass": 4096},
    "shared, several passes": {"tokens_per_pass": 150},
    "not shared": {"tokens_per_pass": 4096, "share_prefixes": False},
    "one sequence a pass": {"tokens_per_pass": 1, "share_prefixes": False},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_steps_are_those_of_every_answer_behind_its_own_prompt(config: Config, layout: str) -> None:
    folder = train.run(with_(config, "training", **LAYOUTS[layout])).folder
    got = [line["loss"] for line in folder.read_metrics() if "loss" in line]
    assert got == pytest.approx(plain_losses(config), abs=5e-6)
    assert len(got) == 4
    certificate = json.loads((folder.path / "certificate.json").read_bytes())
    assert (certificate["num_rows"], certificate["num_sequences"]) == (11, 11 + 10)
    assert certificate["num_spans"] == 21 and certificate["last_tokens"] == {"<|im_end|>": 21}


def test_common_beginnings_of_a_chat_are_computed_once(config: Config) -> None:
    plan = run_plan.make(with_(config, "training", tokens_per_pass=4096), silent)
    totals = workload.totals(plan.steps)
    assert len(plan.chats.train) == 15 and plan.chats.train.num_chats == 8
    assert plan.steps.steps_per_epoch == 2  # a batch counts chats
    assert totals.num_computed_tokens < 0.8 * totals.num_tokens


def test_ejected_script_trains_the_same_sequences(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = train.run(config).folder
    shutil.copy(folder.config, "c.yaml")
    assert command(["eject", "c.yaml", "--json", "-o", "trl"]) == 0, capsys.readouterr().err
    done = orjson.loads(capsys.readouterr().out)
    assert done["data"] == "sequences" and "is 2 sequences" in done["reason"]
    result = subprocess.run(
        [sys.executable, "train.py"], cwd="trl", capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    state = json.loads(Path("trl/output/checkpoint-4/trainer_state.json").read_text())
    theirs = [line["loss"] for line in state["log_history"] if "loss" in line]
    ours = [line["loss"] for line in folder.read_metrics() if "loss" in line]
    assert theirs == pytest.approx(ours, rel=5e-6)


def test_variables_reach_every_render(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """With `enable_thinking: false` the prompt gives the empty block: it is never trained."""
    monkeypatch.chdir(tmp_path)
    for name in ("train.jsonl", "eval.jsonl"):
        some = thinking_rows(13)[::4]  # those without reasoning
        for row in some:
            row["messages"][0]["content"] += name
        write_jsonl(tmp_path / name, some)
    told = with_(config, "template", variables={"enable_thinking": False})
    shutil.copy(train.run(told).folder.config, "c.yaml")
    capsys.readouterr()
    assert command(["inspect", "c.yaml", "--json", "-n", "1"]) == 0
    shown = orjson.loads(capsys.readouterr().out)
    tokenizer = AutoTokenizer.from_pretrained(config.model.name)
    trained = tokenizer.decode(
        [i for i, t in zip(shown["ids"], shown["trained"], strict=True) if t]
    )
    assert trained == "It is 0.<|im_end|>"
    assert "</think>\n\n" + trained in shown["text"]
    run = RunFolder(Path("run"))
    model = ChatModel.load(run, read_config(run).model, read_config(run).template)
    ids = model.prompt([{"role": "user", "content": "Hi"}])["input_ids"][0].tolist()
    assert tokenizer.decode(ids).endswith("<think>\n\n</think>\n\n")
    found = evaluation.run(run, read_config(run))
    assert found["data"]["num_chats"] == 4 and found["data"]["num_sequences"] >= 4
    assert all("think" not in sample["reference"] for sample in found["samples"])


def test_a_template_that_is_told_something_is_ejected_as_ids(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """The script's own rendering would not be told it."""
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "train.jsonl", thinking_rows(1))
    alone = with_(
        with_(config, "template", variables={"enable_thinking": False}), "data", eval=None
    )
    Path("c.yaml").write_text(dump_config(alone, {}), encoding="utf-8")
    assert command(["eject", "c.yaml", "--json", "-o", "trl"]) == 0, capsys.readouterr().err
    done = orjson.loads(capsys.readouterr().out)
    assert done["data"] == "ids" and "is told enable_thinking" in done["reason"]


def test_the_date_of_the_first_start_is_kept(config: Config) -> None:
    """A template that writes today's date: a resumed run's chats name the same day."""
    path = Path(config.model.name) / "chat_template.jinja"
    dated = "{{ '<|im_start|>system\\n' + strftime_now('%Y-%m-%d') + '<|im_end|>\\n' }}" + THINKING
    path.write_text(dated, encoding="utf-8")
    first = with_(config, "template", date=date(2020, 2, 29))
    folder = train.run(with_(first, "training", max_steps=1, save_steps=1)).folder
    kept = claim.with_date(config, Start.RESUME)
    assert kept.template.date == date(2020, 2, 29)
    assert claim.with_date(config, Start.NEW).template.date == "auto"
    again = run_plan.make(kept, silent)
    certificate = json.loads(folder.certificate.read_bytes())
    assert again.chats.certificate["data_sha256"] == certificate["data_sha256"]
    assert certificate["template_date"] == "2020-02-29"
    model = ChatModel.load(folder, read_config(folder).model, read_config(folder).template)
    asked = model.prompt([{"role": "user", "content": "Hi"}])["input_ids"][0]
    assert "2020-02-29" in model.tokenizer.decode(asked)
    today = run_plan.make(config, silent)
    assert today.config.template.date == date.today()
    assert today.chats.certificate["data_sha256"] != certificate["data_sha256"]


def test_reasoning_may_be_read_and_not_trained(config: Config) -> None:
    plan = run_plan.make(with_(config, "data", train_reasoning=False), silent)
    tokenizer = plan.tokenizer
    texts = [
        tokenizer.decode(one.ids[start:end]) for one in plan.chats.train for start, end in one.spans
    ]
    assert len(texts) == 15 and all("which is not hard" not in text for text in texts)
    assert "It is 1.<|im_end|>" in texts  # of a chat with reasoning, which stands before it
    assert any("which is not hard" in tokenizer.decode(one.ids) for one in plan.chats.train)
    whole = run_plan.make(config, silent)
    assert [one.ids for one in whole.chats.train] == [one.ids for one in plan.chats.train]


def test_too_long_sequences_are_cut_one_by_one(config: Config) -> None:
    lengths = run_plan.make(config, silent).chats.train.num_tokens_N
    limit = int(max(lengths)) - 1
    num_long = int((lengths > limit).sum())
    cutting = with_(config, "data", overlong=OverlongPolicy.CUT, max_length=limit)
    kept = run_plan.make(cutting, silent).chats
    assert len(kept.train) == 15 - num_long and kept.train.num_chats == 8
    dropping = with_(config, "data", overlong=OverlongPolicy.DROP, max_length=limit)
    dropped = run_plan.make(dropping, silent).chats
    assert dropped.train.num_chats == 8 - num_long and len(dropped.rejected) == num_long
