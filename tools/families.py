"""Check chat templates and architectures of model families; write the tables of the docs.

python tools/families.py --templates DIR…            folders with tokenizer and chat template
python tools/families.py --architectures TYPE…       Transformers' model types; `all`: those below
python tools/families.py … --docs docs               families.md and families.zh-CN.md from both

A folder is a model's, or one with its tokenizer.json, tokenizer_config.json, chat_template.jinja,
config.json and generation_config.json. An architecture is made small from the defaults of its
config class, trained in every layout against plain Transformers and PEFT, merged and converted.
`lorawright doctor --model X` does both for one model.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from transformers import CONFIG_MAPPING

from lorawright import masks
from lorawright.errors import LorawrightError, TemplateError
from lorawright.exporters import small_family
from lorawright.exporters.small_family import FamilyProof, Handed
from lorawright.i18n.catalogue import Language, translate
from lorawright.masks import cases
from lorawright.masks.cases import CaseResult

ARCHITECTURES = [
    "qwen2", "qwen3", "qwen2_moe", "qwen3_moe", "qwen3_next", "qwen3_5_text", "llama",
    "llama4_text", "mistral", "ministral3", "mixtral", "gemma", "gemma2", "gemma3_text",
    "gemma4_text", "phi", "phi3", "phimoe", "glm", "glm4", "glm4_moe", "gpt_oss", "deepseek_v2",
    "deepseek_v3", "smollm3", "olmo2", "olmo3", "olmoe", "granite", "granitemoe",
    "granitemoehybrid", "cohere", "cohere2", "lfm2", "nemotron", "nemotron_h", "falcon_h1",
    "apertus", "seed_oss", "ernie4_5", "ernie4_5_moe", "hunyuan_v1_dense", "exaone4", "helium",
    "arcee", "minimax", "starcoder2", "stablelm", "gpt_neox", "gpt2", "bloom", "jamba", "bamba",
    "mamba2", "recurrent_gemma",
]  # fmt: skip
GENERATED = "<!-- Written by tools/families.py; do not edit. -->\n\n"


@dataclass(frozen=True)
class TemplateRow:
    """A folder's cases, or why its template is refused as a whole."""

    name: str
    cases: tuple[CaseResult, ...]
    problem: str | None = None


def check_template(folder: Path) -> TemplateRow:
    try:
        return TemplateRow(folder.name, tuple(cases.check(masks.load(folder, folder.name))))
    except TemplateError as error:
        return TemplateRow(folder.name, (), error.what)


def check_architecture(name: str) -> FamilyProof:
    with tempfile.TemporaryDirectory() as made:
        model = Path(made) / "model"
        CONFIG_MAPPING[name]().save_pretrained(model)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return small_family.check(model, Path(made))


WORDS: dict[str, tuple[str, str]] = {
    "title": ("# Families of models", "# 模型家族"),
    "intro": (
        "What `lorawright doctor --model X` finds, for the chat templates and architectures that "
        "were tried. A family that is not here is not refused: the same checks run on every row "
        "and on every loaded model.",
        "下面是 `lorawright doctor --model X` 对试过的对话模板和架构的结果。"
        "不在表里的家族并不会被拒绝：同样的检查会在每一行数据和每个加载的模型上进行。",
    ),
    "templates": ("## Chat templates", "## 对话模板"),
    "template_legend": (
        "A number is how many sequences a chat of this kind is trained as (see "
        "[masks](concepts/masks.md)); a letter is why it is refused.",
        "数字是这类对话被训练成几条序列（见[掩码](concepts/masks.md)）；字母是被拒绝的原因。",
    ),
    "architectures": ("## Architectures", "## 架构"),
    "architecture_legend": (
        "Small random models of each type, two steps in float32, as `auto` lays them out and one "
        "chat a pass, against Transformers and PEFT alone: the largest difference of a step's "
        "loss. Merged and converted models against base and adapter: mean KL in nats a token. A "
        "type without a conversion to GGUF here has the merge, and llama.cpp's own converter.",
        "每种类型的小随机模型，float32 训练两步，分别按 `auto` 的排布和一次前向一个对话，与单独用 "
        "Transformers 和 PEFT 对比：每步损失的最大差。合并与转换后的模型与基座加适配器对比："
        "每个 token 的平均 KL（奈特）。"
        "这里不能转换成 GGUF 的类型，可以先合并，再用 llama.cpp 自己的转换器。",
    ),
    "type": ("type", "类型"),
    "packing": ("chats in a pass", "一次前向的对话"),
    "loss": ("loss, difference", "损失之差"),
    "merge": ("merge", "合并"),
    "several": ("several, beginnings shared", "多个，共用开头"),
    "one": ("one", "一个"),
    "refused": ("refused", "拒绝"),
    "family": ("template", "模板"),
}
REASONS: tuple[tuple[str, str, str, str], ...] = (
    (
        "is dropped by",
        "d",
        "the template drops something of the row",
        "模板丢掉了这一行的某些内容",
    ),
    (
        "refuses this chat",
        "t",
        "the template itself refuses the chat",
        "模板自己拒绝这个对话",
    ),
    (
        "otherwise than the prompt",
        "p",
        "the answer does not go on where its prompt ends: give it with reasoning, or without, as "
        "the template's mode wants",
        "回答没有接在提示之后：按模板的模式带上或去掉思考过程",
    ),
    ("is ended by", "s", "no stop token ends the answer", "没有停止 token 结束回答"),
)


def letter(problem: str) -> str:
    return next((short for text, short, *_ in REASONS if text in problem), "x")


def page(templates: list[TemplateRow], proofs: list[FamilyProof], language: int) -> str:
    """Markdown; language 0 is English, 1 Chinese."""
    words = {name: pair[language] for name, pair in WORDS.items()}
    parts = [GENERATED + words["title"], words["intro"]]
    if templates:
        parts += [words["templates"], words["template_legend"]]
        parts += [_template_table(templates, language), _legend(templates, language)]
        parts += [_whole(templates, language)]
    if proofs:
        parts += [words["architectures"], words["architecture_legend"]]
        parts += [_architecture_table(proofs, language)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _template_table(rows: list[TemplateRow], language: int) -> str:
    names = [said(name, language) for name in cases.CASES]
    heads = [f"`{name}`" if "<" in name else name for name in names]
    lines = [f"| {WORDS['family'][language]} | " + " | ".join(heads) + " |"]
    lines.append("|---" * (len(heads) + 1) + "|")
    for row in rows:
        if row.problem is None:
            cells = [
                str(one.num_sequences) if one.problem is None else letter(one.problem.message)
                for one in row.cases
            ]
            lines.append(f"| {row.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _legend(rows: list[TemplateRow], language: int) -> str:
    used = {
        letter(one.problem.message) for row in rows for one in row.cases if one.problem is not None
    }
    known = [(short, (english, chinese)) for _, short, english, chinese in REASONS if short in used]
    return "\n".join(f"- {short}: {texts[language]}" for short, texts in known)


def _whole(rows: list[TemplateRow], language: int) -> str:
    refused = [row for row in rows if row.problem is not None]
    return "\n".join(
        f"- {row.name}: {WORDS['refused'][language]}: {said(row.problem or '', language)}"
        for row in refused
    )


def said(text: str, language: int) -> str:
    return translate(text, (Language.ENGLISH, Language.CHINESE)[language])


def _architecture_table(proofs: list[FamilyProof], language: int) -> str:
    words = {name: pair[language] for name, pair in WORDS.items()}
    lines = [
        f"| {words['type']} | {words['packing']} | {words['loss']} | {words['merge']} | GGUF |",
        "|---|---|---|---|---|",
    ]
    for one in proofs:
        if one.problem is not None:
            lines.append(
                f"| `{one.model_type}` | | {words['refused']}: {said(one.problem, language)} | | |"
            )
            continue
        packing = words["several"] if one.shares else words["one"]
        cells = [
            f"{one.difference:.0e}",
            _cell(one.merged, language),
            _cell(one.converted, language),
        ]
        lines.append(f"| `{one.model_type}` | {packing} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(handed: Handed | None, language: int) -> str:
    if handed is not None and handed.mean_kl is not None:
        return f"{handed.mean_kl:.0e}"
    why = "" if handed is None or handed.problem is None else handed.problem
    refused = WORDS["refused"][language]
    return refused if not why or "known are" in why else f"{refused}: {said(why, language)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--templates", nargs="*", type=Path, default=[], metavar="DIR")
    parser.add_argument("--architectures", nargs="*", default=[], metavar="TYPE")
    parser.add_argument("--docs", type=Path, help="where families.md goes; else: printed")
    given = parser.parse_args()
    wanted = ARCHITECTURES if given.architectures == ["all"] else given.architectures
    templates = [check_template(folder) for folder in given.templates]
    proofs = []
    for name in wanted:
        try:
            proofs.append(check_architecture(name))
        except LorawrightError as error:
            proofs.append(FamilyProof(name, problem=error.what))
        print(proofs[-1], file=sys.stderr)
    if given.docs is None:
        print(page(templates, proofs, 0))
        return
    for language, name in enumerate(("families.md", "families.zh-CN.md")):
        (given.docs / name).write_text(page(templates, proofs, language), encoding="utf-8")


if __name__ == "__main__":
    main()
