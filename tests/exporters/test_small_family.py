"""An architecture at small size: trained in every layout, merged, converted, or refused."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest
from transformers import CONFIG_MAPPING

from lorawright import hub
from lorawright.cli import model_report
from lorawright.cli import run as command
from lorawright.errors import ModelError
from lorawright.exporters import small_family
from lorawright.masks import cases

sys.path.append(str(Path(__file__).parents[2] / "tools"))
import families


def config_of(folder: Path, name: str, **more: Any) -> Path:
    CONFIG_MAPPING[name](**more).save_pretrained(folder)
    return folder


def test_family_that_packs_merges_and_converts(tmp_path: Path) -> None:
    """With the sizes of the real one: seven billion parameters become a few thousand."""
    found = small_family.check(config_of(tmp_path / "model", "gemma2"), tmp_path)
    assert found.problem is None and found.shares and found.is_exact
    assert found.merged is not None and found.merged.mean_kl is not None
    assert found.converted is not None and found.converted.mean_kl is not None
    assert max(found.merged.mean_kl, found.converted.mean_kl) < 1e-9


def test_family_with_state_is_trained_chat_by_chat(tmp_path: Path) -> None:
    found = small_family.check(config_of(tmp_path / "model", "qwen3_next"), tmp_path)
    assert found.is_exact and not found.shares
    assert found.converted is not None and "qwen3_next" in (found.converted.problem or "")


def test_family_that_nobody_knows(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(orjson.dumps({"model_type": "zebra"}))
    with pytest.raises(ModelError, match="`zebra`, which Transformers does not know"):
        small_family.check(tmp_path, tmp_path)


def test_small_sizes_keep_each_kind_of_layer() -> None:
    kinds = ["sliding_attention"] * 5 + ["full_attention"]
    made = small_family.small({"layer_types": kinds * 5, "hidden_size": 4096, "x": None})
    assert made == {"layer_types": kinds, "num_hidden_layers": 6, "hidden_size": 32}


def test_doctor_of_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["doctor", "--model", "tiny", "--json"]) == 0
    found = orjson.loads(capsys.readouterr().out)
    assert tuple(cases.CASES) == model_report.CASE_NAMES
    verdicts = {case["chat"]: case["num_sequences"] for case in found["cases"]}
    assert verdicts["three turns"] == 1 and verdicts["white space"] == 2
    assert verdicts["reasoning"] == 0
    assert found["architecture"]["exact"] and found["architecture"]["merge"]["problem"] is None
    assert command(["doctor", "--model", "tiny"]) == 0
    shown = capsys.readouterr().out
    assert "trained as one sequence" in shown and "refused: messages[1].reasoning" in shown


def test_doctor_of_a_template_that_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(hub.model_folder("tiny"), folder)
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}", encoding="utf-8")
    assert command(["doctor", "--model", str(folder), "--json"]) == 0
    found = orjson.loads(capsys.readouterr().out)
    assert "cannot be proven" in found["template"]["problem"] and found["template"]["hint"]


def test_page_of_families(tmp_path: Path) -> None:
    """Both languages have the same rows; the docs' own pages are of this make."""
    rows = [families.check_template(hub.tokenizer_folder("tiny"))]
    broken = tmp_path / "broken"
    shutil.copytree(hub.tokenizer_folder("tiny"), broken)
    (broken / "chat_template.jinja").write_text("{{ messages[0].content }}", encoding="utf-8")
    rows.append(families.check_template(broken))
    proofs = [small_family.FamilyProof("zebra", problem="cannot be made small: no")]
    english, chinese = (families.page(rows, proofs, language) for language in (0, 1))
    assert english.count("|---") == chinese.count("|---")
    assert "| tiny | 1 | 1 | 1 | 2 |" in english and "- broken: refused: " in english
    assert "| tiny | 1 | 1 | 1 | 2 |" in chinese and "拒绝" in chinese
    for name in ("families.md", "families.zh-CN.md"):
        text = (Path(__file__).parents[2] / "docs" / name).read_text(encoding="utf-8")
        assert text.startswith(families.GENERATED) and "| qwen3 | 1 | 1 | 3 |" in text
