"""The report: whole and half-written runs, hostile text, both languages, a real browser."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from string import Formatter
from typing import Any

import orjson
import pytest
import yaml

from lorawright import report
from lorawright.cli import run as command
from lorawright.report import charts, page
from lorawright.report.summary import summarize
from lorawright.report.words import WORDS, Language, own_language
from lorawright.run import facts
from lorawright.types import Kind

Capture = pytest.CaptureFixture[str]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7*7 }}"


class Tags(HTMLParser):
    """Tags of a page, and all of its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def scores(text: str) -> dict[str, Any]:
    return {"exact_match": False, "chrf": 41.5, "rouge_l": 0.5, "stopped": text == "tuned",
            "num_tokens": 9, "tool_calls": None}  # fmt: skip


def figures(loss: float) -> dict[str, Any]:
    return {"loss": loss, "perplexity": 2.0, "token_accuracy": 0.5, "num_tokens": 90,
            "num_samples": 7, "exact_match": 0.25, "chrf": 40.0, "rouge_l": 0.4, "stop": 0.75,
            "tool_calls": {"num_samples": 1, "parses": 1.0, "name": 1.0, "arguments": 0.0,
                           "exact": 0.0}}  # fmt: skip


def evaluation(text: str = "Hello") -> dict[str, Any]:
    sample = {
        "file": "eval.jsonl", "line": 2, "turn": 1, "tools": None,
        "prompt": [{"role": "user", "content": text},
                   {"role": "assistant", "tool_calls": [{"function": {"name": text}}]}],
        "reference": text, "base": f"base {text}", "tuned": f"tuned {text}",
        "scores": {"base": scores("base"), "tuned": scores("tuned")},
    }  # fmt: skip
    both = {"base": figures(3.0), "tuned": figures(1.5)}
    return {
        "data": {"name": "eval.jsonl", "num_chats": 4, "num_tokens": 300, "num_trained_tokens": 90},
        **both, "by_role": {"assistant": both}, "by_length": {"1-128": {"num_chats": 4, **both}},
        "stop": {"base": 0.5, "tuned": 1.0}, "samples": [sample] * 7, "lm_eval": None,
    }  # fmt: skip


PROOF = {"max_kl": 0.00021, "mean_kl": 1e-6, "top1_agreement": 0.9987}


def write_json(path: Path, content: Any) -> None:
    path.write_bytes(orjson.dumps(content))


def add_everything(run: Path, text: str = "Hello") -> None:
    """What evaluate, merge and export leave behind."""
    write_json(run / "evaluation.json", evaluation(text))
    write_json(run / "merge.json", {"path": "run/merged", "num_bytes": 988097824, **PROOF})
    entry = {"path": "run/x-f16.gguf", "num_bytes": 99, **PROOF}
    write_json(run / "export-gguf.json", {"f16": entry, "q8_0": entry})
    ollama = {"path": "run/ollama", "num_renders": 9, "num_renders_equal": 9, **PROOF}
    write_json(run / "export-ollama.json", ollama)
    nothing = dict.fromkeys(PROOF)
    write_json(run / "export-vllm.json", {"path": "run/adapter", **nothing})


def test_train_writes_a_page_that_needs_nothing(small_run: Path) -> None:
    text = (small_run / "report.html").read_text(encoding="utf-8")
    tags = Tags(text)
    assert "It learned" in tags.text and "<|im_end|>" in tags.text
    loaded = [value or "" for name, value in tags.attributes if name in ("src", "href")]
    assert all(value.startswith(("#", "data:")) for value in loaded)
    assert len(text) < 400_000


def test_words_have_both_languages() -> None:
    def fields(text: str) -> set[str]:
        return {name for _, name, _, _ in Formatter().parse(text) if name}

    for key, (english, chinese) in WORDS.items():
        assert english and chinese, key
        assert fields(english) == fields(chinese), key


def test_every_word_is_used() -> None:
    package = Path(report.__file__).parents[1]
    files = [*(package / "report").glob("*.py"), *(package / "assets" / "report").glob("*.jinja")]
    source = "".join(f.read_text("utf-8") for f in files if f.name != "words.py")
    built = ("state_", "set_", "mem_", "use_", "kind_", "answer_")
    unused = [
        key for key in WORDS
        if not key.startswith(built) and not re.search(rf"\bt\.{key}\b|['\"]{key}['\"]", source)
    ]  # fmt: skip
    assert unused == []


@pytest.mark.parametrize("language", list(Language))
def test_everything_is_shown(own_run: Path, language: Language) -> None:
    add_everything(own_run)
    text = Tags(report.write(own_run, language).read_text("utf-8")).text
    for expected in ("988.1 MB", "2.1e-04", "99.9%", "GGUF Q8_0", "Ollama", "vLLM", "tuned Hello"):
        assert expected in text, expected
    assert WORDS["learned_base"][language is Language.CHINESE][:4] in text


def test_hostile_text_stays_text(own_run: Path) -> None:
    add_everything(own_run, HOSTILE)
    rows = orjson.loads((own_run / "rows.json").read_bytes())
    rows["rows"][0] |= {"file": HOSTILE, "glyphs": [[[1], HOSTILE, True]]}
    write_json(own_run / "rows.json", rows)
    config = own_run / "config.yaml"
    config.write_text(config.read_text().replace("name: tiny", f"name: '{HOSTILE}'"))
    plain = Tags((own_run / "report.html").read_text("utf-8"))
    tags = Tags(report.write(own_run, Language.ENGLISH).read_text("utf-8"))
    assert "img" not in tags.names and tags.names.count("script") == plain.names.count("script")
    assert tags.text.count(HOSTILE) >= 10
    hostile = own_run.rename(own_run.with_name("<img src=x>"))
    other = shutil.copytree(hostile, hostile.parent / "<img src=y>")
    both = report.compare([hostile, other], Language.ENGLISH, hostile.parent / "c.html")
    assert "img" not in Tags(both.read_text("utf-8")).names


def stopped(run: Path) -> None:
    shutil.rmtree(run / "adapter")


def never_saved(run: Path) -> None:
    shutil.rmtree(run / "adapter")
    shutil.rmtree(run / "checkpoints")


def only_config(run: Path) -> None:
    for path in run.iterdir():
        if path.name not in ("config.yaml", "lorawright.json"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def half_a_line(run: Path) -> None:
    metrics = run / "metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes()[:-20])


def not_a_number(run: Path) -> None:
    with open(run / "metrics.jsonl", "ab") as file:
        file.write(b'{"step":99,"loss":null,"grad_norm":null}\n')


def older_version(run: Path) -> None:
    for name in ("plan.json", "rows.json", "result.json"):
        (run / name).unlink()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (stopped, "stopped"),
        (never_saved, "unfinished"),
        (only_config, "unfinished"),
        (half_a_line, "learned"),
        (not_a_number, "learned"),
        (older_version, "learned"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_half_written_runs(own_run: Path, change: Callable[[Path], None], word: str) -> None:
    change(own_run)
    text = Tags(report.write(own_run, Language.ENGLISH).read_text("utf-8")).text
    assert WORDS[word][0][:10] in text


def lines(run: Path, *found: dict[str, Any]) -> None:
    (run / "metrics.jsonl").write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in found))


def test_summary_tells_overfitting_from_learning(own_run: Path) -> None:
    losses = [2.0, 1.0, 1.3]
    lines(own_run, *({"step": n, "eval_loss": x} for n, x in enumerate(losses, 1)))
    summary = summarize(facts.read(own_run))
    assert summary.headline.key == "learned" and summary.outcome.best_step == 2
    assert [remark.key for remark in summary.remarks] == ["overfit"]
    lines(own_run, {"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0})
    assert summarize(facts.read(own_run)).headline.key == "train_only"
    lines(own_run, {"step": 1, "loss": 1.0}, {"step": 2, "loss": 2.0})
    assert summarize(facts.read(own_run)).headline.key == "train_worse"
    lines(own_run, {"step": 1, "eval_loss": 1.0}, {"step": 2, "eval_loss": 2.0})
    assert summarize(facts.read(own_run)).headline.key == "worse"


def test_rejected_rows_are_listed(own_run: Path) -> None:
    row = {"file": "data/a.jsonl", "line": 7, "path": "messages[1]", "message": "is <empty>"}
    (own_run / "rejected.jsonl").write_bytes((orjson.dumps(row) + b"\n") * 250)
    text = Tags(report.write(own_run, Language.ENGLISH).read_text("utf-8")).text
    assert text.count("data/a.jsonl:7") == facts.MOST_REJECTED and "is <empty>" in text
    assert "the first 200 of 250" in text


def test_long_runs_stay_small() -> None:
    points = [(step, float(step % 10)) for step in range(1, 100_001)]
    thinned = charts.thin(points)
    assert len(thinned) <= charts.MOST_POINTS and thinned[-1][0] == 100_000
    smooth = charts.smooth(points)
    assert len(smooth) == len(points) and smooth[-1][1] == pytest.approx(4.5)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(6.80776, "6.808"), (0.0653, "0.06530"), (0, "0"), (12345.6, "12,346"), (1.2e-5, "1.20e-05")],
)
def test_short_numbers(value: float, shown: str) -> None:
    assert page.short(value) == shown


def test_language_of_the_terminal() -> None:
    assert own_language({"LANG": "zh_CN.UTF-8"}) is Language.CHINESE
    assert own_language({"LANG": "zh_CN.UTF-8", "LC_ALL": "C"}) is Language.ENGLISH
    assert own_language({}) is Language.ENGLISH


def test_compare(own_run: Path, tmp_path: Path, capsys: Capture) -> None:
    other = shutil.copytree(own_run, tmp_path / "other" / "run")
    config = other / "config.yaml"
    config.write_text(config.read_text().replace("rank: 8", "rank: 16"))
    out = tmp_path / "both.html"
    assert command(["report", str(own_run), str(other), "-o", str(out), "--json"]) == 0
    assert orjson.loads(capsys.readouterr().out)["path"] == str(out)
    text = Tags(out.read_text("utf-8")).text
    assert "lora.rank" in text and "lora.alpha" not in text
    assert str(own_run) in text and str(other) in text, "equal names are told apart by their paths"


def test_bad_input(own_run: Path, tmp_path: Path, capsys: Capture) -> None:
    assert command(["report", str(own_run), "--lang", "fr"]) == 2
    assert capsys.readouterr().err.startswith("error: --lang: is `fr`, expected en or zh")
    assert command(["report", str(tmp_path / "none")]) == 1
    assert "no such run" in capsys.readouterr().err
    assert command(["report", str(own_run), "-o", str(tmp_path / "no" / "folder.html")]) == 1
    assert "cannot be written" in capsys.readouterr().err
    (own_run / "evaluation.json").write_text("{")
    assert command(["report", str(own_run)]) == 1
    error = capsys.readouterr().err
    assert "evaluation.json: is not valid JSON" in error and "hint:" in error


def test_a_fraction_is_called_the_evaluation_set(own_run: Path) -> None:
    """`data.eval: 0.05` is no name of a file."""
    found = evaluation()
    write_json(own_run / "evaluation.json", found | {"data": found["data"] | {"name": "0.05"}})
    text = Tags(report.write(own_run, Language.CHINESE).read_text("utf-8")).text
    assert "评估集 的 4 段对话" in text and "0.05 的" not in text


def test_answers_that_got_worse_are_marked(own_run: Path) -> None:
    found = evaluation()
    worse, better = (dict(found["samples"][0]) for _ in range(2))
    worse["scores"] = {"base": scores("tuned") | {"exact_match": True}, "tuned": scores("tuned")}
    better["scores"] = {"base": scores("base"), "tuned": scores("tuned") | {"chrf": 90.0}}
    samples = [worse, better, better]
    write_json(own_run / "evaluation.json", found | {"samples": samples})
    tags = Tags(report.write(own_run, Language.ENGLISH).read_text("utf-8"))
    assert "2 better, 1 worse, 0 as good as the base's" in tags.text
    classes = [value for name, value in tags.attributes if name == "class"]
    assert classes.count("tag bad") == 1


def test_nothing_is_shown_as_an_empty_card(own_run: Path) -> None:
    text = report.write(own_run, Language.ENGLISH).read_text("utf-8")
    assert '<div class="figure"><span class="none">' not in text
    assert text.count('<div class="card">') == 4, "answers were not measured"


def test_the_title_says_which_run(own_run: Path) -> None:
    plan = orjson.loads((own_run / "plan.json").read_bytes())
    command = ["lorawright", "train", "/home/x/my config.yaml", "--resume"]
    write_json(own_run / "plan.json", plan | {"resume_command": command})
    config = yaml.safe_load((own_run / "config.yaml").read_text("utf-8"))
    config["model"]["name"] = "/models/Base-1B"
    (own_run / "config.yaml").write_text(yaml.safe_dump(config))
    text = report.write(own_run, Language.ENGLISH).read_text("utf-8")
    day = plan["started"][:10]
    assert f"<title>run · Base-1B · {day} · lorawright</title>" in text
    assert "<span>my config.yaml</span>" in text


def test_words_of_other_modules_pass_one_place(
    own_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = {"file": "a.jsonl", "line": 7, "path": "x", "message": "is empty", "kind": "shape"}
    (own_run / "rejected.jsonl").write_bytes(orjson.dumps(row) + b"\n")
    data = orjson.loads((own_run / "data.json").read_bytes())
    write_json(own_run / "data.json", data | {"num_by_kind": {"duplicate": 51, "order": 2}})
    monkeypatch.setattr(page, "outside", lambda text, language: f"«{text}»")
    text = Tags(report.write(own_run, Language.CHINESE).read_text("utf-8")).text
    assert "«is empty»" in text and "重复 51" in text and "角色顺序 2" in text
    reasons = orjson.loads((own_run / "plan.json").read_bytes())["reasons"]
    assert reasons and text.count("«") == 1 + len(reasons)


def test_every_kind_has_a_word() -> None:
    assert {f"kind_{kind}" for kind in Kind} == {key for key in WORDS if key.startswith("kind_")}


@pytest.mark.parametrize(
    ("losses", "said"),
    [
        ((0.5, 0.4), "Lowest loss on the evaluation set: b (0.4000); next a (0.5000)."),
        ((0.5, 0.499), "No clear difference"),
    ],
)
def test_a_comparison_has_a_verdict(
    own_run: Path, tmp_path: Path, losses: tuple[float, float], said: str
) -> None:
    runs = [shutil.copytree(own_run, tmp_path / name) for name in "ab"]
    for run, loss in zip(runs, losses, strict=True):
        lines(run, {"step": 0, "eval_loss": 2.0}, {"step": 4, "eval_loss": loss})
        text = (run / "config.yaml").read_text()
        (run / "config.yaml").write_text(text.replace("output: ", f"output: {loss}"))
    made = report.compare(runs, Language.ENGLISH, tmp_path / "c.html").read_text("utf-8")
    assert said in Tags(made).text and "training.output" not in made
    assert made.count('<div class="bar">') == 2
    data = orjson.loads((runs[0] / "data.json").read_bytes())
    data["eval"]["num_chats"] += 1
    write_json(runs[0] / "data.json", data)
    other = report.compare(runs, Language.ENGLISH, tmp_path / "c.html").read_text("utf-8")
    assert "not evaluated on the same chats" in other


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: apt-get install chromium")
def test_in_a_browser(own_run: Path, tmp_path: Path) -> None:
    """Both pages draw their curves; the console stays silent, also on hostile text."""
    add_everything(own_run, HOSTILE)
    other = shutil.copytree(own_run, tmp_path / "other")
    one = report.write(own_run, Language.CHINESE)
    both = report.compare([own_run, other], Language.ENGLISH, tmp_path / "both.html")
    for path in (one, both):
        result = subprocess.run(
            [
                str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
                f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--v=0",
                "--virtual-time-budget=3000", "--dump-dom", path.as_uri(),
            ],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert result.stdout.count("<canvas") == 5, result.stderr[-500:]
        assert "CONSOLE" not in result.stderr
