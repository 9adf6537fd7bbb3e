"""YAML as a config: odd keys, two readings, no end, secrets; each one line with an address."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lorawright.cli import run
from lorawright.config import Config, load_leniently
from lorawright.errors import ConfigError
from lorawright.types import Problem

SECRET = "hf_" + "a1B2" * 8


def found(folder: Path, text: str, *overrides: str) -> list[Problem]:
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return list(load_leniently(path, overrides).problems)


@pytest.mark.parametrize(
    ("text", "path", "word"),
    [
        ("1: 2\n", "1", "a number"),
        ("~: 2\n", "~", "nothing"),
        ("2024-01-01: 2\n", "2024-01-01", "a date"),
        ("yes: 2\n", "yes", "true or false"),
        ("training: {trl: {1: 2}}\n", "training.trl.1", "a number"),
        ("? [a, b]\n: 2\n", "", "a list"),
        ('"a\\0b": 1\n', "", "control character"),
    ],
)
def test_keys_that_are_no_text(tmp_path: Path, text: str, path: str, word: str) -> None:
    problems = found(tmp_path, text + "lora: {rank: x}\n")
    assert [p.path for p in problems] == [path, "lora.rank"]  # and the rest is read on
    assert word in problems[0].message and problems[0].line == 1


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        ("010", "write 8,"),
        ("-0_17", "write -15,"),
        ("1:30", "as decimal"),
        ("1:30.5", "as decimal"),
        ("9" * 5000, "at most 30"),
        ("0x" + "f" * 5000, "at most 30"),
        ('"a\\0b"', "take it out"),
        ('"\\ud800"', "take it out"),
        ("!!python/object/apply:os.system [ls]", None),
        ("!!binary aGk=", "without a tag"),
        ("1" + "_" * 200_000, "at most 30"),
    ],
)
def test_values_with_two_readings(tmp_path: Path, value: str, hint: str | None) -> None:
    """In the file and in `--set` alike."""
    problems = found(tmp_path, f"training:\n  epochs: {value}\n")
    assert [(p.path, p.line) for p in problems][:1] == [("training.epochs", 2)]
    assert len(problems[0].message) < 300
    if hint:
        assert hint in problems[0].hint
        (problem,) = found(tmp_path, "training: {}\n", f"training.epochs={value}")
        assert hint in problem.hint and problem.where == "--set training.epochs"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("model: &m {name: *m}", "refers to itself"),
        ("a: &a\n  <<: *a\n", "refers to itself"),
        ("a: " + "[" * 1500 + "]" * 1500, "nested deeper"),
        ("a: " + "[" * 100_000, "nested deeper"),
        (
            "a0: &a0 1\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 2000)),
            "nested deeper",
        ),
        ("a: " + "[" * 40 + "]" * 40, "nested deeper"),
        ("a: 1\nb: \0", "control character 0x00"),
        (
            "a: &a [1,1,1,1,1,1,1,1,1]\n"
            + "".join(
                f"{n}: &{n} [{','.join([f'*{before}'] * 9)}]\n"
                for before, n in zip("abcdefghij", "bcdefghijk", strict=True)
            ),
            "more than 100,000 values",
        ),
        ("#" * 1_000_001, "1,000,001 bytes or more"),
    ],
)
def test_no_end(tmp_path: Path, text: str, what: str) -> None:
    with pytest.raises(ConfigError, match=what) as caught:
        found(tmp_path, text)
    assert str(tmp_path) in str(caught.value.where)


def test_merged_keys_are_read(tmp_path: Path) -> None:
    text = "model: &base {name: tiny, dtype: float32}\ndata: {train: x}\nlora: {rank: 4}\n"
    (tmp_path / "c.yaml").write_text(text.replace("model: &base", "model: &base "))
    (tmp_path / "d.yaml").write_text("lora: {<<: {rank: 4, alpha: 9}, alpha: 1}\n")
    assert load_leniently(tmp_path / "c.yaml").problems == ()
    lora = load_leniently(tmp_path / "d.yaml").config.lora
    assert (lora.rank, lora.alpha) == (4, 1)


def test_dates_are_text(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("training: {output: 2024-01-01}\n")
    assert load_leniently(tmp_path / "c.yaml").config.training.output.endswith("2024-01-01")


def test_no_regular_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A FIFO would wait for ever."""
    os.mkfifo(tmp_path / "pipe.yaml")
    for path, what in (
        (str(tmp_path / "pipe.yaml"), "no regular file"),
        ("/dev/null", "no regular file"),
        (str(tmp_path), "is a folder"),
        (str(tmp_path / ("n" * 300)), "cannot be read"),
        (str(tmp_path / "none.yaml"), "no such config"),
    ):
        assert run(["check", path]) == 2
        assert what in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_unreadable(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("")
    path.chmod(0)
    with pytest.raises(ConfigError, match="cannot be read: Permission denied"):
        load_leniently(path)


SECRETS = [
    "training:\n  trl: {hub_token: abc}\n",
    f"training:\n  trl: {{run_name: {SECRET}}}\n",
    f"training:\n  trl: {{lr_scheduler_kwargs: {{a: [1, {SECRET}]}}}}\n",
    f"model:\n  name: https://me:{SECRET}@example.com/x\n",
    f"lora:\n  {SECRET}: 1\n",
    f"{SECRET}: 1\n",
    "wandb:\n  api_key: abc\n",
    "training:\n  WANDB-API-KEY: abc\n",
    "data:\n  train: sk-proj-" + "a1B2" * 8 + "\n",
    f"data:\n  train: [a, {SECRET}]\n",
]


@pytest.mark.parametrize("text", SECRETS)
def test_secrets_are_refused_and_not_shown(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    problems = found(tmp_path, text)
    assert any("secret" in problem.message for problem in problems)
    assert run(["train", str(tmp_path / "config.yaml")]) == 2
    out = "".join(capsys.readouterr()) + str(problems)
    assert SECRET not in out and "a1B2" not in out and "abc" not in out
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]  # nothing written


@pytest.mark.parametrize(
    "override",
    [
        "training.trl.hub_token=abcdef",
        f"training.trl.run_name={SECRET}",
        f"training.epochs={SECRET}",
        f"training.trl={{hub_token: {SECRET}}}",
        SECRET,
    ],
)
def test_secrets_in_set_are_not_shown(
    tmp_path: Path, override: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").write_text("model: {name: tiny}\n")
    assert run(["train", str(tmp_path / "config.yaml"), "--set", override]) == 2
    out = "".join(capsys.readouterr())
    assert "--set" in out and "a1B2" not in out and "abcdef" not in out


def test_no_setting_is_taken_for_a_secret(tmp_path: Path) -> None:
    """Our own keys, names of tokens in templates, and usual names of folders."""
    from lorawright.config import secrets

    for section, values in Config().model_dump(mode="json").items():
        assert list(secrets.find({section: values})) == []
    for name in ("pad_token", "eos_token", "tokens_per_pass", "sk-learn-classification-of-all"):
        assert list(secrets.find({name: name})) == []


@pytest.mark.parametrize("depth", [9, 3000])
def test_set_has_few_levels(tmp_path: Path, depth: int) -> None:
    (problem,) = found(tmp_path, "lora: {}", "training.trl." + ".".join("x" * depth) + "=1")
    assert "levels" in problem.message


def test_problems_of_yaml_and_settings_come_together(tmp_path: Path) -> None:
    text = "training:\n  epochs: 010\n  seed: 1\n  seed: 2\n1: 2\nlora: {rank: x}\n"
    paths = {(p.path, p.line) for p in found(tmp_path, text)}
    assert paths == {("training.epochs", 2), ("training.seed", 4), ("1", 5), ("lora.rank", 6)}
