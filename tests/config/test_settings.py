"""The config: strict, total, all errors at once, each with its line and what to write."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from lorawright.cli.recipes import list_recipes
from lorawright.config import Config, ConfigProblems, load, load_leniently
from lorawright.config.other_tools import EXPLAINED, RENAMED
from lorawright.errors import ConfigError
from lorawright.run.folder import dump_config


def write(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def problems(folder: Path, text: str, *overrides: str) -> list[tuple[str, str, str]]:
    loaded = load_leniently(write(folder, text), overrides)
    return [(p.path, p.message, p.hint) for p in loaded.problems]


def test_all_errors_in_one_pass_with_lines(tmp_path: Path) -> None:
    text = "model:\n  nmae: x\n  dtype: bf16\nlora: {rank: x}\ntraining:\n  epochs: 0\nmodle: {}\n"
    loaded = load_leniently(write(tmp_path, text))
    found = {(p.path, p.line) for p in loaded.problems}
    assert found == {
        ("model.nmae", 2), ("model.dtype", 3), ("lora.rank", 4), ("training.epochs", 6),
        ("modle", 7),
    }  # fmt: skip
    with pytest.raises(ConfigProblems, match=r"and 4 more"):
        load(tmp_path / "config.yaml")


def test_unknown_key_names_the_nearest(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, "training: {learning_rat: 1}")
    assert found[2] == "did you mean `training.learning_rate`?"


def test_key_of_another_section(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, "data: {epochs: 1}")
    assert found[2] == "did you mean `training.epochs`?"


@pytest.mark.parametrize("name", [*RENAMED, *EXPLAINED])
def test_foreign_names_are_answered(tmp_path: Path, name: str) -> None:
    """At the top level and in every section where the name is not our own."""
    for text, section in ((f"{name}: 1", None), (f"training: {{{name}: 1}}", "training")):
        if section and name in Config.model_fields[section].annotation.model_fields:  # type: ignore[union-attr]
            continue
        found = problems(tmp_path, text)
        if name in Config.model_fields and section is None:
            continue
        assert any(
            hint.startswith(("write `", "not needed", "not there yet")) for _, _, hint in found
        ), found


@pytest.mark.parametrize("target", sorted(set(RENAMED.values())))
def test_foreign_names_lead_to_real_keys(target: str) -> None:
    section, name = target.split(":")[0].split(".")
    assert name in Config.model_fields[section].annotation.model_fields  # type: ignore[union-attr]


def test_overrides_win_and_are_checked(tmp_path: Path) -> None:
    path = write(tmp_path, "training: {epochs: 3}")
    config = load(path, ["training.epochs=1", "training.learning_rate=2e-5", "lora.rank=4"]).config
    assert (config.training.epochs, config.training.learning_rate, config.lora.rank) == (1, 2e-5, 4)
    (found,) = problems(tmp_path, "training: {}", "training.sede=1")
    assert found[2] == "did you mean `training.seed`?"
    (found,) = problems(tmp_path, "training: {}", "training.seed")
    assert "KEY=VALUE" in found[1]


def test_scientific_numbers_without_a_point(tmp_path: Path) -> None:
    """YAML reads 2e-5 as text; a config that says so means a number."""
    assert load(write(tmp_path, "training: {learning_rate: 2e-5}")).config.training.learning_rate


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("a: [", "not valid YAML"),
        ("- 1", "holds list"),
        ("model: {}\nmodel: {}", "stands twice"),
        ("data: {train: a, train: b}", "stands twice"),
    ],
)
def test_no_yaml_no_config(tmp_path: Path, text: str, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        load(write(tmp_path, text))


def test_missing_folder_not_utf8(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(ConfigError):
            load(path)
    bad = tmp_path / "bad.yaml"
    bad.write_bytes(b"model: \xff")
    with pytest.raises(ConfigError, match="UTF-8"):
        load(bad)


def test_defaults_are_the_tutorials() -> None:
    config = Config()
    training, lora = config.training, config.lora
    assert (lora.rank, lora.alpha, lora.dropout, lora.bias) == (8, 16, 0.05, "none")
    assert lora.target_modules == "all-linear"
    assert (training.batch_size, training.learning_rate, training.epochs) == (8, 2e-5, 3)
    assert (training.schedule, training.warmup_ratio) == ("cosine", 0.03)
    assert (training.eval_steps, training.save_steps, training.logging_steps) == (50, 50, 1)
    assert config.data.max_length == 4096 and training.trackers == ["tensorboard"]


def test_dumped_config_loads_again(tmp_path: Path) -> None:
    """Reasons are comments; the values stay."""
    config = Config.model_validate(
        {"training": {"optimizer": "adamw_torch"}, "data": {"eval": 0.1}}
    )
    text = dump_config(config, {"training.optimizer": "a reason: with a colon # and a hash"})
    assert "# derived: a reason" in text
    assert Config.model_validate(yaml.safe_load(text)) == config


@pytest.mark.parametrize("recipe", list(list_recipes()), ids=lambda recipe: recipe.name)
def test_recipes_parse(tmp_path: Path, recipe) -> None:  # type: ignore[no-untyped-def]
    assert recipe.summary and load(write(tmp_path, recipe.text)).problems == ()


def test_a_key_that_is_gone_is_refused_with_a_hint(tmp_path: Path) -> None:
    """In a config; an old run's own is read as ever."""
    path = tmp_path / "c.yaml"
    path.write_text("model: {name: tiny}\ntraining: {compile: true}\n")
    (problem,) = load_leniently(path).problems
    assert "unknown key `training.compile`" in problem.message and "not needed" in problem.hint
