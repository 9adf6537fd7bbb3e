"""Every text that people see has its Chinese; addresses, numbers and JSON stay what they are."""

from __future__ import annotations

import ast
import re
import time
from collections import Counter
from importlib.resources import files
from pathlib import Path

import build_catalogue
import pytest
import yaml
from helpers import rows, write_jsonl
from hypothesis import given, settings
from hypothesis import strategies as st

from lorawright.cli import run
from lorawright.cli.recipes import list_recipes
from lorawright.errors import ConfigError
from lorawright.i18n import catalogue
from lorawright.i18n.catalogue import HOLE, Language, translate, translate_comments

Capture = pytest.CaptureFixture[str]
KNOWN = catalogue.read_catalogue(
    (files("lorawright.i18n") / "locale" / "zh" / "lorawright.po").read_text(encoding="utf-8")
)
WITH_HOLES = sorted(text for text in KNOWN if HOLE.search(text))
CHINESE = re.compile(r"[\u4e00-\u9fff]")
NUMBER = re.compile(r"\d+(?:\.\d+)?")


def test_every_message_is_in_the_catalogue() -> None:
    """If this fails: make catalogue, and fill in what it prints."""
    messages = build_catalogue.Collector().run()
    assert set(messages) == set(KNOWN)
    assert build_catalogue.missing(messages, KNOWN) == []


def test_extraction_follows_variables_parameters_and_returns() -> None:
    for text in (
        "has {0} tokens, the limit is {1}",  # an argument of a function that makes a Problem
        "raise `data.max_length`, or choose `data.overlong: drop` or `cut`",  # a constant
        "is a number ({0})",  # what a function returns, inside another message
        "the model's sizes are unknown",  # reasons[key] = …
        "Print JSON on stdout, for programs.",  # an option's help
        "every linear layer but the output head",  # a comment of a recipe
    ):
        assert text in KNOWN


def test_translations_keep_holes_values_and_numbers() -> None:
    for english, chinese in KNOWN.items():
        assert Counter(HOLE.findall(chinese)) == Counter(HOLE.findall(english)), english
        values = [Counter(re.findall("`[^`]*`", text)) for text in (english, chinese)]
        assert values[0] == values[1], english
        numbers = [Counter(NUMBER.findall(HOLE.sub("", text))) for text in (english, chinese)]
        assert numbers[0] == numbers[1], english


VALUES = st.one_of(
    st.integers(0, 10**9).map(str),
    st.floats(0, 1e6, allow_nan=False).map(lambda value: f"{value:.4f}"),
    st.from_regex(r"[a-z]{1,8}(/[a-z0-9_.]{1,8}){0,3}\.jsonl:[0-9]{1,4}", fullmatch=True),
    st.from_regex(r"messages\[[0-9]\]\.[a-z]{1,9}", fullmatch=True),
    st.text("ab01[]<>|\\你好🙂_", min_size=1, max_size=12),
)


@given(st.sampled_from(WITH_HOLES), st.lists(VALUES, min_size=8, max_size=8))
@settings(max_examples=300, deadline=None)
def test_values_come_through_unchanged(message: str, values: list[str]) -> None:
    text = HOLE.sub(lambda hole: values[int(hole.group(1))], message)
    shown = translate(text, Language.CHINESE)
    for number in HOLE.findall(message):
        assert values[int(number)] in shown
    assert Counter(NUMBER.findall(shown)) == Counter(NUMBER.findall(text))


def test_a_value_is_translated_only_where_it_is_a_message() -> None:
    zh = Language.CHINESE
    assert translate("is a number (3), expected text", zh) == "是数字（3），应为文本"
    assert translate("`a.b` is `q, v`, expected text", zh) == "`a.b` 是 `q, v`，应为文本"
    assert translate("`a.b` is not taken", zh) == "`a.b` 不是可用的字段"
    assert translate("did you mean `has no rows`?", zh) == "是否想写 `has no rows`？"
    assert translate("written: rows of data.html", zh) == "已写入：rows of data.html"
    assert translate("nobody wrote this sentence", zh) == "nobody wrote this sentence"
    assert translate("is a number (3), expected text", Language.ENGLISH).startswith("is a number")


def test_language_of_the_terminal_and_of_the_switch() -> None:
    assert catalogue.language({"LANG": "zh_CN.UTF-8"}) is Language.CHINESE
    assert catalogue.language({"LANG": "zh_CN.UTF-8", "LC_ALL": "C"}) is Language.ENGLISH
    assert catalogue.language({"LANG": "C", "LORAWRIGHT_LANG": "zh"}) is Language.CHINESE
    with pytest.raises(ConfigError, match="is `fr`, expected en or zh"):
        catalogue.parse_language("fr", "--lang")


@pytest.fixture
def bad_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    chats = rows(4)
    chats[1]["messages"][0]["content"] = 3
    chats[2]["messages"][1]["content"] = ""
    write_jsonl(tmp_path / "data" / "train.jsonl", chats)
    config = tmp_path / "c.yaml"
    config.write_text("model: {name: tiny}\ndata: {train: data/train.jsonl}\n")
    return config


def said(arguments: list[str], language: str, capsys: Capture) -> tuple[int, str, str]:
    capsys.readouterr()
    code = run([*arguments, "--lang", language])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_check_says_the_same_in_both(bad_data: Path, capsys: Capture) -> None:
    code, _, english = said(["check", str(bad_data)], "en", capsys)
    again, _, chinese = said(["check", str(bad_data)], "zh", capsys)
    assert code == again == 1
    assert "是数字（3），应为文本" in chinese and "回答为空" in chinese and "建议" in chinese
    address = re.compile(r"\S+\.jsonl:\d+: messages\[\d\]\.content")
    assert address.findall(english) == address.findall(chinese) != []


def test_json_is_equal_in_both(bad_data: Path, capsys: Capture) -> None:
    english = said(["check", str(bad_data), "--json"], "en", capsys)
    assert english == said(["check", str(bad_data), "--json"], "zh", capsys)
    assert CHINESE.search(said(["doctor", "--json"], "zh", capsys)[1]) is None


def test_config_problems_in_chinese(bad_data: Path, capsys: Capture) -> None:
    arguments = ["check", str(bad_data), "--set", "training.sede=1", "--set", "lora.rank=x"]
    code, _, error = said(arguments, "zh", capsys)
    assert code == 2
    assert "未知的键 `training.sede`" in error and "`training.seed`" in error
    assert "`lora.rank` 值为 `x`，应为整数" in error
    assert "两个矩阵的内部维度；默认值为 `8`" in error


@pytest.mark.parametrize(
    ("arguments", "where", "what"),
    [
        (["train", "--foo", "c.yaml"], "lorawright train: ", "没有选项 --foo"),
        (["train"], "lorawright train: ", "缺少参数 'CONFIG'"),
        (["trian"], "lorawright: ", "没有命令 'trian'"),
        (["inspect", "c.yaml", "-n", "x"], "lorawright inspect: ", "的值无效：应为整数"),
    ],
)
def test_faults_of_the_command_line(
    arguments: list[str], where: str, what: str, capsys: Capture
) -> None:
    """In the form of all errors; exit code 2."""
    code, _, error = said(arguments, "zh", capsys)
    assert code == 2 and error.startswith(f"错误: {where}") and what in error
    code, _, error = said(arguments, "en", capsys)
    assert code == 2 and error.startswith(f"error: {where}") and "\nhint: " in error


def test_language_is_chosen_anywhere_and_put_back(capsys: Capture) -> None:
    assert run(["--lang=zh", "--help"]) == 0 and "用法：" in capsys.readouterr().out
    assert run(["train", "--lang", "zh", "--help"]) == 0 and "选项" in capsys.readouterr().out
    assert run(["--help"]) == 0 and "Usage: " in capsys.readouterr().out
    assert run(["--lang", "fr", "--help"]) == 2 and "--lang: is `fr`" in capsys.readouterr().err
    assert run(["--help", "--lang"]) == 2


def test_an_unknown_switch_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setenv("LORAWRIGHT_LANG", "klingon")
    assert run(["--help"]) == 2
    assert "LORAWRIGHT_LANG: is `klingon`, expected en or zh" in capsys.readouterr().err


def test_help_is_chinese_throughout(capsys: Capture) -> None:
    from lorawright.cli.app import VERBS

    for verb in VERBS:
        _, shown, _ = said([verb.__name__.replace("_", "-"), "--help"], "zh", capsys)
        for line in re.split(r"\n(?=  -|\S)", shown):
            if line.startswith("  -"):
                assert CHINESE.search(line), line


def test_comments_of_configs() -> None:
    for recipe in list_recipes():
        chinese = translate_comments(recipe.text, Language.CHINESE)
        assert yaml.safe_load(chinese) == yaml.safe_load(recipe.text)
        assert translate_comments(recipe.text, Language.ENGLISH) == recipe.text
        for comment in re.findall(r"#\s+(?!  lorawright)(.*)$", chinese, re.MULTILINE):
            assert CHINESE.search(comment) or comment.startswith("lorawright "), comment


def test_init_in_chinese(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["init", "en", "--model", "tiny"]) == 0
    assert run(["init", "zh", "--model", "tiny", "--lang", "zh"]) == 0
    english, chinese = (Path(name, "config.yaml").read_text("utf-8") for name in ("en", "zh"))
    assert yaml.safe_load(english) == yaml.safe_load(chinese)
    assert "# 你的运行" in chinese and not CHINESE.search(english)


def test_a_catalogue_costs_little() -> None:
    """Help is to be there at once, in any language."""
    catalogue._catalogue.cache_clear()
    started = time.process_time()
    translate("has 5 tokens, the limit is 4", Language.CHINESE)
    assert time.process_time() - started < 0.1


# English that no catalogue holds: for programs, for other programs' files, or ours alone.
NOT_FOR_READERS = {
    "run/card.py": "the example of the card is code",
    "masks/generation_tags.py": "Jinja",
    "masks/byte_level_bpe.py": "a text that is tokenized",
    "distributed/exit_record.py": "words of libraries, to be found in their errors",
    "model/dropout.py": "an invariant",
    "exporters/ollama_template.py": "Go templates",
    "hardware.py": "code of another process",
    "distributed/scripts.py": "scripts, English in any language",
    "masks/page.py": "has its own table of both languages",
    "training/failures.py": "words of libraries, to be found in their errors",
    "plan/steps.py": "an invariant",
    "cli/init.py": "example chats",
    "exporters/small_family.py": "chats that a small model is trained on",
    "cli/quickstart.py": "a config, whose comments are in the catalogue one by one",
    "report/page.py": "code to copy",
    "report/words.py": "has its own table of both languages",
    "run/folder.py": "the comment of a run's config.yaml, a file for programs",
    "inference/app.py": "answers over HTTP, as OpenAI's are: English",
    "inference/chat_request.py": "answers over HTTP, as OpenAI's are: English",
    "inference/request_queue.py": "answers over HTTP, as OpenAI's are: English",
}
ALLOWED = re.compile(  # a command, an invariant, words of orjson
    r"pip install .*|`choose` asks for it|end of data"
)
SENTENCE = re.compile(r"(?<![\w./-])[a-z]{2,} [a-z]+,? [a-z]{2,}(?![\w./-])")


def english_of(path: Path) -> list[str]:
    """Texts of a module that read like English, docstrings left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    texts = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in alone
    ]
    return [text for text in texts if SENTENCE.search(re.sub("`[^`]*`", " ", text))]


def test_no_english_is_in_no_catalogue() -> None:
    """If this fails: the tool does not see that the text is shown; see SINKS and ROOTS in it."""
    known = "\n".join(KNOWN)
    unknown: dict[str, list[str]] = {}
    for path in sorted(build_catalogue.PACKAGE.rglob("*.py")):
        texts = [text for text in english_of(path) if not ALLOWED.fullmatch(text)]
        lost = [text for text in texts if text not in known]
        if lost:
            unknown[path.relative_to(build_catalogue.PACKAGE).as_posix()] = lost
    assert {name: lost for name, lost in unknown.items() if name not in NOT_FOR_READERS} == {}
    assert set(NOT_FOR_READERS) <= set(unknown), "an exception that is needed no more"


def test_no_message_has_two_values_that_cannot_be_told_apart() -> None:
    """Of two holes side by side the first would be empty and the second everything."""
    touching = {text for text in KNOWN if re.search(r"\{\d+\}\{\d+\}", text)}
    assert {text.split()[0] for text in touching} == {"passes", "prefixes", "tokens"}, (
        "only what `plan` has translated before"
    )
