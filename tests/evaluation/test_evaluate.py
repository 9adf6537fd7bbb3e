"""evaluate: figures that other code confirms, answers that stop or not, tool calls, bad input."""

from __future__ import annotations

import json
import math
import shutil
from importlib import import_module, util
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from lorawright import hub
from lorawright.cli import app
from lorawright.config.schema import OverlongPolicy, StrictPolicy, TemplateSettings
from lorawright.errors import DataError, LorawrightError, ModelError, RunFolderError
from lorawright.evaluation import chats as eval_chats
from lorawright.evaluation import harness, scores
from lorawright.evaluation import run as evaluate
from lorawright.evaluation.run import Options
from lorawright.run.folder import RunFolder, read_config
from lorawright.types import Role


@pytest.fixture(scope="module")
def found(finished_run: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("evaluate") / "run"
    shutil.copytree(finished_run.path, path)
    options = Options(num_samples=12, max_new_tokens=48)
    return evaluate.run(RunFolder(path), read_config(finished_run), options)


def test_the_tuned_loss_is_the_trainers(trained_run: RunFolder, found: dict[str, Any]) -> None:
    """Padded rectangles here, packs there: the same mean over the same tokens."""
    last = [line for line in trained_run.read_metrics() if "eval_loss" in line][-1]
    assert found["tuned"]["loss"] == pytest.approx(last["eval_loss"], rel=1e-5)
    assert found["tuned"]["token_accuracy"] == pytest.approx(last["eval_token_accuracy"])
    assert found["tuned"]["num_tokens"] == last["eval_trained_tokens"]
    assert found["tuned"]["perplexity"] == pytest.approx(math.exp(last["eval_loss"]), rel=1e-4)


def test_losses_are_transformers_own(trained_run: RunFolder, found: dict[str, Any]) -> None:
    """Roles and lengths, base and tuned, against one unpadded forward pass a chat."""
    chats = eval_chats.load(read_config(trained_run), None)
    model = AutoModelForCausalLM.from_pretrained(hub.model_folder("tiny"), dtype=torch.float32)
    for name in ("base", "tuned"):
        if name == "tuned":
            model = PeftModel.from_pretrained(model, str(trained_run.adapter))
        by_role: dict[str, list[float]] = {}
        for chat in chats:
            ids = torch.tensor([chat.encoded.ids])
            logits = model(ids).logits[0].detach()
            losses = torch.nn.functional.cross_entropy(logits[:-1], ids[0, 1:], reduction="none")
            for role, (start, end) in chat.turns:
                by_role.setdefault(str(role), []).extend(losses[start - 1 : end - 1].tolist())
        assert found["by_role"].keys() == by_role.keys() == {str(role) for role in Role}
        for role, values in by_role.items():
            figures = found["by_role"][role][name]
            assert figures["num_tokens"] == len(values)
            assert figures["loss"] == pytest.approx(sum(values) / len(values), rel=1e-4)


def test_classes_add_up(found: dict[str, Any]) -> None:
    """Lengths partition the trained tokens; with `train_on: assistant` so does one role."""
    lengths = found["by_length"].values()
    assert sum(one["num_chats"] for one in lengths) == found["data"]["num_chats"] == 8
    for name in ("base", "tuned"):
        whole = found[name]
        assert sum(one[name]["num_tokens"] for one in lengths) == whole["num_tokens"]
        loss = sum(one[name]["loss"] * one[name]["num_tokens"] for one in lengths)
        assert loss / whole["num_tokens"] == pytest.approx(whole["loss"])
        assert found["by_role"]["assistant"][name]["loss"] == pytest.approx(whole["loss"])


def test_answers_are_those_of_one_question_alone(
    trained_run: RunFolder, found: dict[str, Any]
) -> None:
    """Left padding and batches change no answer: each prompt alone, through the template."""
    from lorawright.inference.generate import ChatModel, Sampling

    model = ChatModel.load(trained_run, read_config(trained_run).model, TemplateSettings())
    for sample in found["samples"][::5]:
        pieces = model.answer(sample["prompt"], Sampling(48), tools=sample["tools"])
        alone = "".join(pieces)
        assert sample["tuned"] == alone


def test_tuned_calls_tools_and_base_does_not(found: dict[str, Any]) -> None:
    """The run's whole point, in figures."""
    base, tuned = found["base"], found["tuned"]
    assert tuned["tool_calls"]["num_samples"] == 4
    assert tuned["tool_calls"]["parses"] == 1.0
    assert tuned["tool_calls"]["arguments"] > 0.7 > base["tool_calls"]["arguments"]
    assert tuned["loss"] < 0.5 < base["loss"]
    assert tuned["chrf"] > base["chrf"] and tuned["rouge_l"] > base["rouge_l"]
    call = next(s for s in found["samples"] if s["scores"]["tuned"]["tool_calls"])
    assert '<tool_call>\n{"name": "get_weather"' in call["reference"]
    assert call["tools"][0]["function"]["name"] == "get_weather"
    assert call["prompt"][-1]["role"] == "user"


def test_a_model_that_is_cut_off_did_not_stop(trained_run: RunFolder) -> None:
    options = Options(num_samples=3, max_new_tokens=2, with_base=False)
    short = evaluate.run(trained_run, read_config(trained_run), options)
    assert short["stop"] == {"base": None, "tuned": 0.0}
    assert all(sample["scores"]["tuned"]["num_tokens"] == 2 for sample in short["samples"])
    assert short["base"] is None and short["by_role"]["assistant"]["base"] is None


def test_cut_chats_keep_their_roles(trained_run: RunFolder) -> None:
    """`overlong: cut` leaves ids shorter than the messages; what is left is still by role."""
    config = read_config(trained_run)
    whole = eval_chats.load(config, None)
    limit = max(len(one.encoded.ids) for one in whole) - 5
    settings = {"max_length": limit, "overlong": OverlongPolicy.CUT}
    config = config.model_copy(update={"data": config.data.model_copy(update=settings)})
    chats = eval_chats.load(config, None)
    cut = [new for new, old in zip(chats, whole, strict=True) if new.encoded != old.encoded]
    assert cut and all(one.turns[-1][0] is Role.ASSISTANT for one in cut)
    assert all(one.turns[-1][1] == one.encoded.spans[-1] for one in cut)


def test_questions_respect_the_rows_own_flag(trained_run: RunFolder, tmp_path: Path) -> None:
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello.", "train": False},
        {"role": "user", "content": "And?"},
        {"role": "assistant", "content": "Bye."},
    ]
    path = tmp_path / "flags.jsonl"
    path.write_text(json.dumps({"messages": messages}))
    asked = eval_chats.questions(eval_chats.load(read_config(trained_run), str(path)))
    assert [question.turn for question in asked] == [3]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("plain text", []),
        ('<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>', [("f", {"a": 1})]),
        ('{"name": "f", "parameters": {}}', [("f", {})]),
        ('{"note": "not a call"}', []),
        ('<tool_call>\n{"name": "f", "arguments": {"a": 1}}', None),
        ('<tool_call>{"name": "f"}</tool_call>', None),
        ("<tool_call>[1]</tool_call>", None),
        ('<tool_call>{"name": "f", "arguments": "{}"}</tool_call>', None),
    ],
)
def test_calls_are_read(answer: str, expected: list[tuple[str, Any]] | None) -> None:
    calls = scores.read_calls(answer)
    assert (calls and [(call.name, call.arguments) for call in calls]) == expected


def test_rows_of_one_line_are_told_apart(trained_run: RunFolder, tmp_path: Path) -> None:
    """A json array without line ends; the second row has nothing to train and is left out."""
    made = [
        [{"role": "user", "content": said}, {"role": "assistant", "content": said.upper()}]
        for said in ("one", "two", "three")
    ]
    made[1][1]["train"] = False  # type: ignore[assignment] # a flag among texts
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([{"messages": messages} for messages in made]))
    config = read_config(trained_run)
    policies = config.data.model_copy(update={"untrained": StrictPolicy.DROP})
    chats = eval_chats.load(config.model_copy(update={"data": policies}), str(path))
    assert [chat.encoded.line for chat in chats] == [1, 1]
    assert [chat.conversation.messages[0].content for chat in chats] == ["one", "three"]


def test_calls_are_compared_argument_by_argument() -> None:
    wanted = '<tool_call>{"name": "f", "arguments": {"a": 1, "b": [2]}}</tool_call>'
    near = '<tool_call>{"name": "f", "arguments": {"a": 1, "b": [3], "c": 0}}</tool_call>'
    other = '<tool_call>{"name": "g", "arguments": {"a": 1, "b": [2]}}</tool_call>'

    def calls(answer: str) -> scores.CallScore:
        one = scores.score(answer, wanted, stopped=True, num_tokens=1).tool_calls
        assert one is not None
        return one

    assert calls(wanted) == scores.CallScore(True, True, 2, 2, True)
    assert calls(near) == scores.CallScore(True, True, 2, 1, False)
    assert calls(other) == scores.CallScore(True, False, 2, 0, False)
    assert calls("I do not know.") == scores.CallScore(False, False, 2, 0, False)


def test_chinese_counts_character_by_character() -> None:
    """rouge-score's own tokenizer drops Chinese and would say 0."""
    one = scores.score("桥街12号，很近", "我们在桥街12号", stopped=True, num_tokens=5)
    assert one.rouge_l == pytest.approx(2 * 4 / (6 + 7))
    assert scores.score("一样", "一样", stopped=True, num_tokens=2).chrf == pytest.approx(100)


def run_cli(*arguments: str) -> int:
    return app.run(["evaluate", *arguments])


def test_command_prints_json_and_writes_the_file(
    trained_run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained_run.path, run)
    arguments = ["--samples", "2", "--max-new-tokens", "8", "--no-base"]
    assert run_cli(str(run), *arguments, "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((run / "evaluation.json").read_text())
    assert run_cli(str(run), "--samples", "0") == 0
    assert "stops in time" not in capsys.readouterr().out
    assert run_cli(str(run), *arguments) == 0
    out = capsys.readouterr().out
    assert "loss per token" in out and "–" in out and "stops in time" in out


def test_rows_without_a_figure_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    """No tool was called, no answer asked for."""
    calls = dict.fromkeys(("parses", "name", "arguments", "exact"))
    none = dict.fromkeys(("stop", "exact_match", "chrf", "rouge_l"))
    one = {"loss": 2.0, "perplexity": 7.4, "token_accuracy": 0.5, "tool_calls": calls, **none}
    found = {
        "data": {"name": "x.jsonl", "num_chats": 1, "num_trained_tokens": 3},
        "base": one,
        "tuned": {**one, "loss": 1.0},
        "by_role": {},
        "by_length": {},
        "standard_error": 0.1,
        "answers": None,
        "samples": [],
    }
    import_module("lorawright.cli.evaluate")._print(found)
    shown = capsys.readouterr().out
    assert "token accuracy" in shown and "tool calls" not in shown and "–" not in shown
    assert "a difference below 0.2000 may be chance" in shown


def test_refusals(trained_run: RunFolder, tmp_path: Path) -> None:
    """One line and a hint each: no run, no adapter, no evaluation set, a bad row, another base."""
    config = read_config(trained_run)
    empty = RunFolder(tmp_path / "half")
    empty.path.mkdir()
    shutil.copy(trained_run.config, empty.config)
    with pytest.raises(RunFolderError, match="no adapter and no complete checkpoint"):
        evaluate.run(empty, config)
    without = config.model_copy(update={"data": config.data.model_copy(update={"eval": None})})
    with pytest.raises(DataError, match="has no evaluation set") as caught:
        evaluate.run(trained_run, without)
    assert "--data FILE" in str(caught.value.hint)
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"messages": [{"role": "user", "content": "Hi"}]}\n')
    with pytest.raises(DataError, match=r"bad\.jsonl:1"):
        evaluate.run(trained_run, config, Options(data=str(bad)))
    other = RunFolder(tmp_path / "other")
    shutil.copytree(trained_run.path, other.path)
    facts = json.loads(other.environment.read_text())
    other.environment.write_text(json.dumps({**facts, "base_weights_sample_sha256": "0"}))
    with pytest.raises(ModelError, match="other weights than the base"):
        evaluate.run(other, config)


def test_edited_config_is_an_error_with_a_place(trained_run: RunFolder, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    run.config.write_text(trained_run.config.read_text() + "surprise: 1\n")
    with pytest.raises(RunFolderError, match="is not the config of a run"):
        read_config(run)
    assert run_cli(str(run)) == 1
    assert run_cli(str(tmp_path / "nothing")) == 1


def test_harness_is_asked_for_by_name(
    trained_run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not installed here: one line with what to install, before anything is computed."""
    assert util.find_spec("lm_eval") is None
    assert run_cli(str(trained_run.path), "--lm-eval", "arc_easy") == 2
    error = capsys.readouterr().err
    assert "needs lm-evaluation-harness" in error and "pip install 'lm-eval[hf]'" in error
    command = harness.command(Path("base"), Path("run/adapter"), "arc_easy", Path("out"), "cpu")
    assert "pretrained=base,peft=run/adapter" in command and "--apply_chat_template" in command


HARNESS = """
import pathlib, sys
pathlib.Path(__file__).with_name("arguments").write_text("\\n".join(sys.argv[1:]))
sys.exit(3 if "broken" in sys.argv else 0)
"""


def test_harness_gets_base_and_adapter(
    trained_run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in that notes how it was called; its failure is ours, by name."""
    package = tmp_path / "lm_eval"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(HARNESS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    config = read_config(trained_run)
    options = Options(with_base=False, num_samples=0, lm_eval="gsm8k")
    found = evaluate.run(trained_run, config, options)
    arguments = (package / "arguments").read_text().splitlines()
    base = hub.model_folder("tiny")
    assert f"pretrained={base},peft={trained_run.adapter}" in arguments
    assert arguments[arguments.index("--tasks") + 1] == "gsm8k"
    assert found["lm_eval"] == {"tasks": "gsm8k", "path": str(trained_run.path / "lm-eval")}
    with pytest.raises(LorawrightError, match="ended with code 3"):
        harness.run(base, trained_run.adapter, "broken", tmp_path, "cpu")


def test_the_report_is_renewed_and_a_changed_answer_printed(
    trained_run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    page = trained_run.path / "report.html"
    before = page.read_text("utf-8")
    assert "Answers side by side" not in before
    assert run_cli(str(trained_run.path), "--samples", "4", "--max-new-tokens", "24") == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == f"report: {page}"
    assert "Answers side by side" in page.read_text("utf-8")
    found = json.loads((trained_run.path / "evaluation.json").read_text())
    changed = next(one for one in found["samples"] if one["base"] != one["tuned"])
    assert f"{changed['file']}:{changed['line']}" in out
    counts = found["answers"]
    assert sum(counts.values()) == 4
    assert f"answers: {counts['better']} better, {counts['worse']} worse" in out
    assert "it learned: loss" in out and found["standard_error"] > 0


def test_the_standard_error_is_over_chats(found: dict[str, Any]) -> None:
    """Eight chats of two kinds: what chance explains is less than half of the difference."""
    difference = found["base"]["loss"] - found["tuned"]["loss"]
    assert 0 < found["standard_error"] < difference / 2
