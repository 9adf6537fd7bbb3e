"""export: GGUF files read by two libraries, a Go template that renders the same, vLLM's rules."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf as gguf_library
import jinja2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, AutoTokenizer

from lorawright import hub, masks
from lorawright.cli import app
from lorawright.cli.export import PRINTERS
from lorawright.config import Config
from lorawright.errors import ModelError, RunFolderError
from lorawright.exporters import (
    gguf,
    gguf_file,
    go_template,
    merge,
    ollama,
    ollama_template,
    proof,
    vllm,
)
from lorawright.exporters.ollama_template import Match
from lorawright.masks import ChatTokenizer
from lorawright.run import owned
from lorawright.run.folder import RunFolder, read_config
from lorawright.training import train
from lorawright.types import Conversation, ExportTarget, GgufType, Message, Role, ToolCall

TINY = hub.model_folder("tiny")
TOKENIZER = masks.load(TINY, "tiny")
MakeConfig = Callable[..., Config]
SILENT: gguf.Progress = lambda what, num_done, num_all: None  # noqa: E731


def export(run: RunFolder, output: Path, *types: GgufType, **options: Any) -> dict[str, Any]:
    return gguf.run(run, read_config(run), gguf.Options(types, output, **options), SILENT)


@pytest.fixture(scope="module")
def run(finished_run: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A copy to write results into."""
    path = tmp_path_factory.mktemp("export") / "run"
    shutil.copytree(finished_run.path, path)
    return RunFolder(path)


TYPES = [
    GgufType.F32, GgufType.F16, GgufType.BF16, GgufType.Q8_0, GgufType.Q5_1, GgufType.Q4_0,
]  # fmt: skip


@pytest.fixture(scope="module")
def files(run: RunFolder) -> dict[str, Any]:
    return export(run, run.path / "gguf", *TYPES)


def test_every_type_says_what_base_and_adapter_say(files: dict[str, Any]) -> None:
    """The fewer bits, the further; and each far below its bound."""
    order = ["f32", "f16", "bf16", "q8_0", "q5_1", "q4_0"]
    distances = [files[name]["mean_kl"] for name in order]
    assert distances == sorted(distances)
    assert distances[0] < 1e-9 and distances[1] < 1e-6 and distances[3] < 1e-3
    assert files["f16"]["top1_agreement"] > 0.999 and files["q8_0"]["top1_agreement"] > 0.97
    sizes = [files[name]["num_bytes"] for name in ("f32", "f16", "q8_0", "q4_0")]
    assert sizes == sorted(sizes, reverse=True)
    for name, found in files.items():
        assert found["mean_kl"] < proof.MOST_MEAN_KL_GGUF[GgufType(name)] / 3


def test_types_of_tensors(files: dict[str, Any]) -> None:
    """Matrices as asked, norms and biases in float32, the embedding in 8 bits at least."""
    assert files["f16"]["tensor_types"] == {"F16": 43, "F32": 31}
    assert files["q8_0"]["tensor_types"] == {"Q8_0": 43, "F32": 31}
    assert files["q4_0"]["tensor_types"] == {"Q8_0": 1, "Q4_0": 42, "F32": 31}


def test_file_holds_the_merged_weights(run: RunFolder, files: dict[str, Any]) -> None:
    """In float32, by llama.cpp's names, the very sums; no head, since it is the embedding's."""
    parts = proof.open_parts(run, read_config(run))
    reader = gguf_library.GGUFReader(files["f32"]["path"])
    tensors = {tensor.name: torch.tensor(tensor.data) for tensor in reader.tensors}
    assert "output.weight" not in tensors and "token_embd.weight" in tensors
    for theirs, ours in {
        "token_embd.weight": "model.embed_tokens.weight",
        "blk.2.attn_q.weight": "model.layers.2.self_attn.q_proj.weight",
        "blk.2.attn_q.bias": "model.layers.2.self_attn.q_proj.bias",
        "blk.5.ffn_down.weight": "model.layers.5.mlp.down_proj.weight",
        "output_norm.weight": "model.norm.weight",
    }.items():
        expected = parts.weights.tensor(ours).float()
        assert torch.equal(tensors[theirs].reshape(expected.shape), expected), theirs


def test_metadata_and_template(files: dict[str, Any]) -> None:
    """The end of an answer is the template's; the template is the model's, plain Jinja."""
    reader = gguf_library.GGUFReader(files["q8_0"]["path"])
    found = {key: field.contents() for key, field in reader.fields.items()}
    end = TOKENIZER.control_ids["<|im_end|>"]
    assert found["tokenizer.ggml.eos_token_id"] == found["tokenizer.ggml.eot_token_id"] == end
    assert found["tokenizer.ggml.pre"] == "qwen2" and found["tokenizer.ggml.model"] == "gpt2"
    assert found["tokenizer.ggml.tokens"][end] == "<|im_end|>"
    assert found["tokenizer.ggml.token_type"][end] == gguf_library.TokenType.CONTROL
    assert found["tokenizer.ggml.add_bos_token"] is False
    assert found["general.file_type"] == gguf_library.LlamaFileType.MOSTLY_Q8_0
    template = found["tokenizer.chat_template"]
    assert template == (TINY / "chat_template.jinja").read_text(encoding="utf-8")
    jinja2.Environment().parse(template)


def test_transformers_answers_from_the_file(run: RunFolder, files: dict[str, Any]) -> None:
    """Tokenizer, template and end token of the file alone are enough for a whole answer."""
    path = Path(files["f16"]["path"])
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name)
    messages = [{"role": "user", "content": "Weather in Oslo for 2 days?"}]
    inputs = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    ids = model.generate(**inputs, max_new_tokens=48)
    assert tokenizer.decode(ids[0]).endswith("<|im_end|>")


def small_model(kind: str, folder: Path) -> None:
    """A random model of another architecture with the tiny one's tokenizer."""
    sizes: dict[str, Any] = {
        "vocab_size": 2304, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
        "tie_word_embeddings": False, "eos_token_id": 2284, "bos_token_id": None,
    }  # fmt: skip
    torch.manual_seed(0)
    if kind != "llama":
        sizes["head_dim"] = 128
    if kind == "gemma3_text":
        sizes |= {"query_pre_attn_scalar": 128, "sliding_window": 16, "tie_word_embeddings": True}
    if kind == "mistral":
        sizes["sliding_window"] = None
    AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**sizes)).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(TINY / name, folder / name)


@pytest.mark.parametrize("kind", ["llama", "qwen3", "mistral", "gemma3_text"])
def test_other_architectures(make_config: MakeConfig, tmp_path: Path, kind: str) -> None:
    """Llama's halves are permuted, Qwen3's head size is not hidden / heads; heads are untied."""
    base = tmp_path / "base"
    small_model(kind, base)
    config = make_config(num_rows=4, num_eval=2, learning_rate=1e-2, schedule="constant")
    model = config.model.model_copy(update={"name": str(base)})
    folder = train.run(config.model_copy(update={"model": model})).folder
    found = export(folder, tmp_path / "gguf", GgufType.F32)["f32"]
    assert found["architecture"] == kind and found["mean_kl"] < 1e-8
    names = [t.name for t in gguf_library.GGUFReader(found["path"]).tensors]
    assert ("output.weight" in names) == (kind != "gemma3_text")


def test_what_cannot_be_converted_is_refused(run: RunFolder, tmp_path: Path) -> None:
    weights = proof.open_parts(run, read_config(run)).weights
    config = AutoConfig.from_pretrained(TINY)

    def refused(match: str, **changes: Any) -> None:
        changed = AutoConfig.from_pretrained(TINY)
        for key, value in changes.items():
            setattr(changed, key, value)
        with pytest.raises(ModelError, match=match) as caught:
            gguf_file.lay_out(weights, changed, GgufType.F16, "base")
        assert "convert_hf_to_gguf.py" in str(caught.value.hint)

    refused("attends through sliding windows", use_sliding_window=True)
    stretched = {**config.rope_parameters, "rope_type": "yarn", "factor": 4.0}
    refused("stretches its positions by yarn", rope_parameters=stretched)
    weights.files["model.layers.0.other.weight"] = TINY / "model.safetensors"
    refused("has no name in the GGUF of qwen2")
    odd = tmp_path / "odd"
    shutil.copytree(TINY, odd)
    content = json.loads((odd / "tokenizer.json").read_text())
    content["pre_tokenizer"] = {"type": "Whitespace"}
    (odd / "tokenizer.json").write_text(json.dumps(content))
    from lorawright.exporters import gguf_tokenizer

    with pytest.raises(ModelError, match="its tokenizer is not one that this converts"):
        gguf_tokenizer.read(odd, "odd", 2304)
    with pytest.raises(ModelError, match="its embedding 100 rows"):
        gguf_tokenizer.read(TINY, "tiny", 100)


def test_padding_of_the_vocabulary(tmp_path: Path) -> None:
    """Qwen2.5 has more rows than tokens; each row needs a token in a GGUF."""
    from lorawright.exporters import gguf_tokenizer

    found = gguf_tokenizer.read(TINY, "tiny", 2310)
    assert found.tokens[-1] == "[PAD2309]" and len(set(found.tokens)) == 2310
    assert found.types[-6:] == [gguf_library.TokenType.UNUSED] * 6


def test_a_damaged_file_is_noticed(run: RunFolder, files: dict[str, Any], tmp_path: Path) -> None:
    parts = proof.open_parts(run, read_config(run))
    config = AutoConfig.from_pretrained(TINY)
    layout = gguf_file.lay_out(parts.weights, config, GgufType.F16, "tiny")
    reader = gguf_library.GGUFReader(files["f16"]["path"])
    offset = reader.tensors[7].data_offset
    damaged = tmp_path / "damaged.gguf"
    content = bytearray(Path(files["f16"]["path"]).read_bytes())
    from hashlib import sha256

    digests = {t.name: sha256(t.data.tobytes()).hexdigest() for t in reader.tensors}
    gguf_file.verify(Path(files["f16"]["path"]), layout, digests, {})
    content[offset] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(ModelError, match=f"read back, {reader.tensors[7].name} has other values"):
        gguf_file.verify(damaged, layout, digests, {})
    with pytest.raises(ModelError, match=r"tokenizer\.ggml\.pre has another value"):
        gguf_file.verify(
            Path(files["f16"]["path"]), layout, digests, {"tokenizer.ggml.pre": "llama-bpe"}
        )


def test_values_beyond_float16_are_refused(run: RunFolder, tmp_path: Path) -> None:
    entry = gguf_file.Entry("x", "x", gguf_library.GGMLQuantizationType.F16, (2, 32))
    with pytest.raises(ModelError, match="not finite in F16"):
        gguf_file._convert(
            entry, np.full((2, 32), 1e6, np.float32), AutoConfig.from_pretrained(TINY)
        )


def test_nothing_is_left_behind(
    run: RunFolder, files: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above the bound, with a file that is there, with a full disk."""
    with pytest.raises(ModelError, match="predicts otherwise"):
        export(run, tmp_path, GgufType.Q4_0, max_mean_kl=1e-9)
    assert not list(tmp_path.iterdir())
    with pytest.raises(RunFolderError, match="is there already"):
        export(run, run.path / "gguf", GgufType.Q4_0)
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(RunFolderError, match=r"10 bytes free"):
        export(run, tmp_path, GgufType.F16)
    assert not list(tmp_path.iterdir())


# ── Ollama ──────────────────────────────────────────────────────────────────────────────────────

TOOL = {
    "type": "function",
    "function": {
        "name": "find_book",
        "description": "Find a book.",
        "parameters": {
            "type": "object",
            "properties": {"title": {"type": "string"}, "year": {"type": "integer"}},
            "required": ["title"],
        },
    },
}


def system(text: str) -> Message:
    return Message(Role.SYSTEM, text)


def user(text: str) -> Message:
    return Message(Role.USER, text)


def answer(text: str | None, *calls: ToolCall) -> Message:
    return Message(Role.ASSISTANT, text, calls)


def result(text: str) -> Message:
    return Message(Role.TOOL, text)


def call(**arguments: Any) -> ToolCall:
    return ToolCall("find_book", arguments)


CASES = {
    "one question": [user("Hi")],
    "system": [system("Be brief."), user("Hi"), answer("Yo"), user("Again")],
    "default system": [user("Hi"), answer("Hello.\n\nThere."), user("你好！")],
    "last answer open": [user("Hi"), answer("Hel")],
    "answer starts with a newline": [user("Hi"), answer("\nHello"), user("Go on")],
    "later system": [user("Hi"), answer("Yo"), system("Now French."), user("Hi")],
    "empty system": [system(""), user("Hi")],
    "braces": [user("{{ .Content }} {% if x %} {"), answer("}}"), user("{{")],
    "call": [user("Find"), answer(None, call(title="Emma"))],
    "call and result": [user("Find"), answer(None, call(title="Emma")), result("none")],
    "content with call": [user("Find"), answer("Let me see.", call(title="傲慢")), result("1")],
    "two calls": [
        user("Find"), answer(None, call(title="A"), call(title="B")), result("1"), result("2"),
        answer("Two."), user("Thanks"),
    ],
    "no arguments": [user("Find"), answer(None, call()), result("x"), answer("ok"), user("y")],
}  # fmt: skip


@pytest.mark.parametrize("with_tools", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_go_template_renders_the_models_own_text(name: str, with_tools: bool) -> None:
    """Byte by byte; a list of tools differs in the spelling of its JSON alone."""
    template = ollama_template.make(TOKENIZER)
    tools = (TOOL,) if with_tools else None
    conversation = Conversation(tuple(CASES[name]), tools, "rows.jsonl", 1)
    match = ollama_template.compare(template, TOKENIZER, conversation)
    assert match is (Match.JSON if with_tools else Match.EQUAL)


def test_bare_tools_stay_bare() -> None:
    """Some data sets list functions alone; a model trained on them is asked in the same way."""
    bare = (TOOL["function"],)
    conversation = Conversation((user("Hi"),), bare, "rows.jsonl", 1)
    assert ollama._bare_tools([conversation])
    assert not ollama._bare_tools([replace(conversation, tools=(TOOL,))])
    template = ollama_template.make(TOKENIZER, bare_tools=True)
    assert ollama_template.compare(template, TOKENIZER, conversation) is Match.JSON
    usual = ollama_template.make(TOKENIZER)
    assert ollama_template.compare(usual, TOKENIZER, conversation) is Match.OTHER


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"title": "A", "year": 1}, Match.EQUAL),
        ({"year": 1, "title": "A"}, Match.JSON),  # Go sorts
        ({"title": "a < b & c"}, Match.JSON),  # Go escapes
        ({"title": {"a": [1, 2.5, None, True]}}, Match.JSON),  # and writes no blanks inside
    ],
)
def test_table_of_what_go_spells_otherwise(arguments: dict[str, Any], match: Match) -> None:
    """The table in the guide."""
    messages = (user("Find"), answer(None, call(**arguments)), result("x"))
    conversation = Conversation(messages, None, "rows.jsonl", 1)
    template = ollama_template.make(TOKENIZER)
    assert ollama_template.compare(template, TOKENIZER, conversation) is match


def test_neighbours_of_one_role_are_joined_by_ollama() -> None:
    """The one difference that is not JSON's: said, not hidden."""
    conversation = Conversation((user("Hi"), user("There")), None, "rows.jsonl", 1)
    template = ollama_template.make(TOKENIZER)
    assert ollama_template.compare(template, TOKENIZER, conversation) is Match.OTHER


def with_template(source: str) -> ChatTokenizer:
    return replace(TOKENIZER, template=source, tool_template=source)


PLAIN = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def test_templates_of_other_models() -> None:
    """Without tools: calls cannot be read off, so it is refused; nothing is guessed."""
    with pytest.raises(ModelError, match="cannot be written in Go") as caught:
        ollama_template.make(with_template(PLAIN))
    assert "--jinja" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ range .L }}{{ . }},{{ end }}", "1,2,"),
        ("{{ range $k, $v := .M }}{{ $k }}={{ $v }};{{ end }}", "a=2;b=1;"),
        ("{{ range .N }}x{{ else }}none{{ end }}", "none"),
        ("a {{- if eq .S \"x\" \"s\" }} yes{{ else }} no{{ end -}} \n b", "a yesb"),
        ("{{ if and .S (not .N) }}1{{ else if .N }}2{{ else }}3{{ end }}", "1"),
        ("{{ $x := 1 }}{{ range .L }}{{ $x = . }}{{ end }}{{ $x }}", "2"),
        ("{{ $x := 1 }}{{ range .L }}{{ $x := . }}{{ end }}{{ $x }}", "1"),
        ("{{ json .M }}|{{ .M }}", '{"a":2,"b":1}|{"a":2,"b":1}'),
        ("{{ json \"<é>\" }}", '"\\u003cé\\u003e"'),
        ("{{ len (slice .L 1) }}{{ ne .S \"q\" }}{{ \"{{\" }}", "1true{{"),
        ("{{ .D.E }}{{ $.D.E }}{{ or .N .S }}", "deepdeeps"),
    ],
)  # fmt: skip
def test_go_templates(source: str, expected: str) -> None:
    """By the rules of Go's text/template, on values of every kind that Ollama hands over."""
    data = {"L": [1, 2], "M": {"b": 1, "a": 2}, "N": [], "S": "s", "D": {"E": "deep"}}
    assert go_template.render(source, data) == expected


@pytest.mark.parametrize(
    "source",
    ["{{ if .A }}", "{{ end }}", "{{ .B }}", "{{ $x }}", "{{ f .A }}", "{{ .A | print }}",
     "{{ (len .A }}", "{{ range .A }}{{ else if .A }}{{ else }}"],
)  # fmt: skip
def test_go_templates_that_are_wrong(source: str) -> None:
    with pytest.raises(go_template.GoTemplateError):
        go_template.render(source, {"A": [1]})


def test_ollama_folder(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["export", str(run.path), "--to", "ollama", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads((run.path / ollama.RESULT).read_text())
    assert found["num_renders"] == found["num_renders_equal"] + found["num_renders_equal_json"]
    assert found["num_renders_equal"] > 5 and found["differences"] == []
    assert found["gguf"]["type"] == "q8_0" and found["system"] is None
    text = Path(found["modelfile"]).read_text(encoding="utf-8")
    assert text.startswith("FROM ./run-q8_0.gguf\n") and "generation %" not in text
    assert 'PARAMETER stop "<|im_end|>"' in text and "PARAMETER num_ctx 2048" in text
    template = text.partition('TEMPLATE """')[2].partition('"""')[0]
    assert template == ollama_template.make(TOKENIZER)
    assert (Path(found["path"]) / "run-q8_0.gguf").is_file()
    assert app.run(["export", str(run.path), "--to", "ollama"]) == 1
    assert "Modelfile: is there already" in capsys.readouterr().err
    PRINTERS[ExportTarget.OLLAMA](found)
    assert "rendered alike" in capsys.readouterr().out


def test_shared_system_prompt_goes_into_the_modelfile() -> None:
    same = [Conversation((system("Be Mira."), user(str(n))), None, "r", n) for n in range(3)]
    assert ollama._shared_system(same) == "Be Mira."
    other = Conversation((user("x"),), None, "r", 9)
    assert ollama._shared_system([*same, other]) is None
    config = Config.model_validate({"model": {"name": "tiny"}})
    text = ollama._modelfile("m.gguf", "T", TOKENIZER, TINY, config, "Be Mira.")
    assert 'SYSTEM """Be Mira."""\n' in text


# ── vLLM ────────────────────────────────────────────────────────────────────────────────────────


def test_vllm_takes_the_adapter(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["export", str(run.path), "--to", "vllm", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] and all(one["ok"] for one in found["checks"])
    assert "--enable-lora --max-lora-rank 8 --lora-modules" in found["commands"]["adapter"]
    assert found["commands"]["merged"] is None and found["mean_kl"] is None
    merge.run(run, read_config(run))
    assert app.run(["export", str(run.path), "--to", "vllm"]) == 0
    out = capsys.readouterr().out
    assert f"vllm serve {run.path / 'merged'}" in out and "ok  no DoRA" in out


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"use_dora": True}, "no DoRA"),
        ({"bias": "all"}, "no bias"),
        ({"r": 1024}, "rank at most 512"),
        ({"rank_pattern": {"q_proj": 600}}, "rank at most 512"),
        ({"modules_to_save": ["lm_head"]}, "no modules_to_save"),
    ],
)
def test_vllm_refusals(
    trained_run: RunFolder, tmp_path: Path, changes: dict[str, Any], rule: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Each broken rule is named; the way out is the merged folder."""
    path = tmp_path / "run"
    shutil.copytree(trained_run.path, path)
    (path / "adapter" / owned.MARKER).unlink()  # as of a version that noted no digests
    file = path / "adapter" / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    assert [one.rule for one in vllm.check(path / "adapter") if not one.ok] == [rule]
    assert app.run(["export", str(path), "--to", "vllm"]) == 1
    error = capsys.readouterr().err
    assert f"vLLM does not take this adapter: {rule}" in error and "lorawright merge RUN" in error


def test_vllm_knows_no_adapted_embedding(trained_run: RunFolder, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    adapter = tmp_path / "adapter"
    shutil.copytree(trained_run.adapter, adapter)
    path = adapter / "adapter_model.safetensors"
    extra = {"base_model.model.model.embed_tokens.lora_embedding_A": torch.zeros(2, 2)}
    save_file(load_file(path) | extra, path)
    (broken,) = (one for one in vllm.check(adapter) if not one.ok)
    assert broken.found == "embed_tokens"


@pytest.mark.parametrize(
    ("architecture", "modules", "broken"),
    [
        ("Phi3ForCausalLM", ["qkv_proj", "gate_up_proj", "down_proj"], []),
        ("Starcoder2ForCausalLM", ["q_proj", "c_fc", "c_proj"], []),
        ("Lfm2ForCausalLM", ["w1", "w2", "w3", "in_proj", "out_proj"], []),
        (
            "Glm4ForCausalLM",
            ["gate_up_proj"],
            ["only projections of attention and MLP are adapted"],
        ),
        ("LlamaForCausalLM", ["qkv_proj"], ["only projections of attention and MLP are adapted"]),
        ("Qwen3MoeForCausalLM", ["experts"], ["only projections of attention and MLP are adapted"]),
        ("OlmoeForCausalLM", ["q_proj"], ["vLLM serves adapters of this architecture"]),
    ],
)
def test_names_that_vllm_takes(
    trained_run: RunFolder, tmp_path: Path, architecture: str, modules: list[str], broken: list[str]
) -> None:
    from safetensors.torch import save_file

    adapter = tmp_path / "adapter"
    shutil.copytree(trained_run.adapter, adapter)
    name = "base_model.model.model.layers.0.block.{}.lora_A.weight"
    save_file(
        {name.format(one): torch.zeros(2, 2) for one in modules},
        adapter / "adapter_model.safetensors",
    )
    assert [one.rule for one in vllm.check(adapter, architecture) if not one.ok] == broken


def test_no_export_holds_generation_tags(trained_run: RunFolder, tmp_path: Path) -> None:
    """A base whose template has them: GGUF, Ollama and vLLM get plain Jinja, or Go."""
    from lorawright.exporters import gguf_tokenizer

    base = tmp_path / "base"
    shutil.copytree(TINY, base)
    path = base / "chat_template.jinja"
    source = path.read_text().replace(
        "{{- open(m.role) + '\\n' + m.content + close() }}",
        "{{- open(m.role) + '\\n' }}{% generation %}{{ m.content + close() }}{% endgeneration %}",
    )
    assert source != path.read_text()
    path.write_text(source)
    tokenizer = masks.load(base, "tagged")
    assert "generation" not in ollama_template.make(tokenizer)
    config = read_config(trained_run)
    model = config.model.model_copy(update={"name": str(base)})
    found = vllm.run(trained_run, config.model_copy(update={"model": model}))
    option = found["commands"]["adapter"].partition("--chat-template ")[2]
    for template in (gguf_tokenizer.read(base, "tagged", 2304).template, Path(option).read_text()):
        assert isinstance(template, str) and "generation %" not in template
        jinja2.Environment().parse(template)


def test_ranks_between_those_of_vllm(trained_run: RunFolder) -> None:
    command = vllm._serve_adapter("base", trained_run.adapter, "x", 12)
    assert "--max-lora-rank 16" in command


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "vllm", "--type", "f16"], "a type of GGUF has no use with vLLM"),
        (["--to", "ollama", "--type", "f16", "--type", "q8_0"], "one Modelfile names one file"),
        (["--to", "onnx"], "is not one of"),
        ([], "Missing option"),
    ],
)
def test_command_line(
    run: RunFolder, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.run(["export", str(run.path), *arguments]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_gguf_command(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["export", str(run.path), "--to", "gguf", "--type", "q5_0", "--overwrite"]
    assert app.run([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["q5_0"]["top1_agreement"] > 0.9
    PRINTERS[ExportTarget.GGUF](found)
    assert "against base + adapter: KL mean" in capsys.readouterr().out
    kept = json.loads((run.path / gguf.RESULT).read_text())
    assert "q5_0" in kept
