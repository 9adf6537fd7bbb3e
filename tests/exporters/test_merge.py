"""merge: PEFT's own sums shard by shard, every kind of adapter, proof, and refusals before harm."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from lorawright import hub, masks
from lorawright.cli import app
from lorawright.config import Config
from lorawright.errors import ConfigError, DataError, ModelError, RunFolderError, TrainError
from lorawright.exporters import gguf, merge, merged_weights, vllm
from lorawright.exporters.merge import Options
from lorawright.run import owned
from lorawright.run.folder import RunFolder, read_config
from lorawright.training import failures, train

MakeConfig = Callable[..., Config]


def merged_by_peft(base: Path, adapter: Path) -> dict[str, torch.Tensor]:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    whole = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    return {name: tensor.detach() for name, tensor in whole.state_dict().items()}


def small_run(make: MakeConfig, base: Path | None = None, **lora: Any) -> RunFolder:
    """Two steps at a high rate: an adapter that changes what the model says."""
    config = make(num_rows=8, num_eval=3, batch_size=4, learning_rate=2e-2, schedule="constant")
    model = {"name": str(base)} if base else {}
    quantization = lora.pop("quantization", "none")
    settings = config.model_dump()
    settings["model"] |= {**model, "quantization": quantization}
    settings["lora"] |= lora
    return train.run(Config.model_validate(settings)).folder


def test_merged_weights_are_pefts_rounded_once(trained_run: RunFolder, tmp_path: Path) -> None:
    """Bit by bit; what no adapter touches stays as it is in the base."""
    out = tmp_path / "merged"
    found = merge.run(trained_run, read_config(trained_run), Options(out))
    base = load_file(hub.model_folder("tiny") / "model.safetensors")
    merged = load_file(out / "model.safetensors")
    expected = merged_by_peft(hub.model_folder("tiny"), trained_run.adapter)
    assert merged.keys() == base.keys()
    for name, tensor in merged.items():
        assert tensor.dtype == base[name].dtype == torch.bfloat16
        assert torch.equal(tensor, expected[name].bfloat16()), name
    num_changed = sum(not torch.equal(merged[name], base[name]) for name in base)
    assert found["num_merged"] == num_changed == 42 and found["num_tensors"] == len(base)
    assert 0 < found["mean_kl"] < 1e-4 and found["top1_agreement"] > 0.99
    assert found["num_bytes"] == (out / "model.safetensors").stat().st_size


def test_merged_folder_needs_no_peft(trained_run: RunFolder, tmp_path: Path) -> None:
    """Plain Transformers gives the answer of base + adapter; the template is the base's."""
    out = tmp_path / "merged"
    merge.run(trained_run, read_config(trained_run), Options(out))
    model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(out)
    messages = [{"role": "user", "content": "Weather in Rome for 2 days?"}]
    inputs = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    answers = []
    base = AutoModelForCausalLM.from_pretrained(hub.model_folder("tiny"), dtype=torch.float32)
    for one in (model, PeftModel.from_pretrained(base, str(trained_run.adapter))):
        ids = one.generate(**inputs, max_new_tokens=24)
        answers.append(tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :]))
    assert answers[0] == answers[1] and answers[0].endswith("<|im_end|>")
    template = (hub.model_folder("tiny") / "chat_template.jinja").read_bytes()
    assert (out / "chat_template.jinja").read_bytes() == template


@pytest.mark.parametrize(
    "lora",
    [
        {"use_dora": True},
        {"use_rslora": True, "rank": 4},
        {"bias": "all"},
        {"target_modules": ["q_proj", "down_proj"]},
        {"target_modules": r".*layers\.[12]\..*(k_proj|up_proj)"},
    ],
    ids=["dora", "rslora", "bias", "some modules", "expression"],
)
def test_every_kind_of_adapter(make_config: MakeConfig, lora: dict[str, Any]) -> None:
    folder = small_run(make_config, **lora)
    found = merge.run(folder, read_config(folder))
    merged = load_file(Path(found["path"]) / "model.safetensors")
    expected = merged_by_peft(hub.model_folder("tiny"), folder.adapter)
    for name, tensor in merged.items():
        # DoRA divides by a norm whose summation order differs
        assert torch.allclose(tensor.float(), expected[name], rtol=1e-2, atol=1e-5), name
    base = load_file(hub.model_folder("tiny") / "model.safetensors")
    num_changed = sum(not torch.equal(merged[name], base[name]) for name in base)
    assert num_changed == found["num_merged"] > 0


@pytest.mark.filterwarnings("ignore:.*(tie_word_embeddings|save_embedding_layers)")  # PEFT's advice
def test_adapted_embedding_is_untied_from_the_head(make_config: MakeConfig) -> None:
    """Base + adapter changes the embedding alone; so the merged model has a head of its own."""
    folder = small_run(make_config, target_modules=["embed_tokens", "q_proj"])
    found = merge.run(folder, read_config(folder))
    out = Path(found["path"])
    merged = load_file(out / "model.safetensors")
    base = load_file(hub.model_folder("tiny") / "model.safetensors")
    assert torch.equal(merged["lm_head.weight"], base["model.embed_tokens.weight"])
    assert not torch.equal(merged["model.embed_tokens.weight"], base["model.embed_tokens.weight"])
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is False
    assert found["mean_kl"] < 1e-3


@pytest.mark.filterwarnings("ignore::FutureWarning")  # bitsandbytes, of torch's own names
def test_qlora_is_merged_into_the_unquantized_base(make_config: MakeConfig) -> None:
    """Two proofs: against what is merged, and against what was trained."""
    folder = small_run(make_config, quantization="nf4")
    found = merge.run(folder, read_config(folder))
    merged = load_file(Path(found["path"]) / "model.safetensors")
    expected = merged_by_peft(hub.model_folder("tiny"), folder.adapter)
    assert all(torch.equal(t, expected[name].bfloat16()) for name, t in merged.items())
    assert found["mean_kl"] < 1e-3 < found["as_trained"]["mean_kl"]


def test_end_of_a_base_models_template_becomes_a_stop_token(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    """Its generation config lists another; what is handed over stops at both."""
    base = tmp_path / "base"
    shutil.copytree(hub.model_folder("tiny"), base)
    edit(base / "generation_config.json", eos_token_id=2282)
    edit(base / "config.json", eos_token_id=2282)
    edit(base / "tokenizer_config.json", eos_token="<|endoftext|>")
    run = small_run(make_config, base)
    certificate = json.loads(run.certificate.read_text())
    assert certificate["new_stop_token"] == "<|im_end|>"
    assert list(certificate["last_tokens"]) == ["<|im_end|>"]
    merge.run(run, read_config(run))
    before = json.loads((base / "generation_config.json").read_text())
    for folder in (run.adapter, run.path / "merged"):
        settings = json.loads((folder / "generation_config.json").read_text())
        assert settings == {**before, "eos_token_id": [2282, 2284]}
    model = AutoModelForCausalLM.from_pretrained(run.path / "merged")
    assert model.generation_config.eos_token_id == [2282, 2284]
    command = vllm.run(run, read_config(run))["commands"]["adapter"]
    assert command.endswith(f" --generation-config {run.path / 'vllm'}")
    assert (run.path / "vllm" / "generation_config.json").is_file()
    card = (run.adapter / "README.md").read_text(encoding="utf-8")
    assert "Answers end with `<|im_end|>`" in card
    assert "generation_config=GenerationConfig.from_pretrained(" in card


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_shards(make_config: MakeConfig, tmp_path: Path) -> None:
    """A base in many files becomes a model in other many files, with an index."""
    base = tmp_path / "base"
    model = AutoModelForCausalLM.from_pretrained(hub.model_folder("tiny"))
    model.save_pretrained(base, max_shard_size="700KB")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(hub.model_folder("tiny") / name, base / name)
    assert len(list(base.glob("*.safetensors"))) > 3
    folder = small_run(make_config, base)
    found = merge.run(folder, read_config(folder), Options(shard_bytes=1_000_000))
    out = Path(found["path"])
    assert len(found["shards"]) > 2
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == set(found["shards"])
    expected = merged_by_peft(base, folder.adapter)
    for shard in found["shards"]:
        assert (out / shard).stat().st_size < 1_100_000
        for name, tensor in load_file(out / shard).items():
            assert index["weight_map"][name] == shard
            assert torch.equal(tensor, expected[name].bfloat16())
    AutoModelForCausalLM.from_pretrained(out)


def broken(run: RunFolder, path: Path, change: Callable[[Path], None]) -> RunFolder:
    """A copy of a run with a changed adapter, as of a version that noted no digests."""
    shutil.copytree(run.path, path)
    (path / "adapter" / owned.MARKER).unlink()
    change(path / "adapter")
    return RunFolder(path)


def poison(adapter: Path) -> None:
    path = adapter / "adapter_model.safetensors"
    weights = load_file(path)
    weights[sorted(weights)[3]][0, 0] = float("nan")
    save_file(weights, path)


def test_values_that_are_not_finite_are_refused(trained_run: RunFolder, tmp_path: Path) -> None:
    run = broken(trained_run, tmp_path / "run", poison)
    with pytest.raises(ModelError, match="holds values that are not finite"):
        merge.run(run, read_config(run))
    assert not (run.path / "merged").exists() and not (run.path / "merged.tmp").exists()


def test_sums_beyond_the_dtype_are_refused(trained_run: RunFolder, tmp_path: Path) -> None:
    def overflow(adapter: Path) -> None:
        path = adapter / "adapter_model.safetensors"
        save_file({n: torch.full_like(t, 1e25) for n, t in load_file(path).items()}, path)

    run = broken(trained_run, tmp_path / "run", overflow)
    with pytest.raises(ModelError, match="not finite"):
        merge.run(run, read_config(run))
    assert not (run.path / "merged").exists() and not (run.path / "merged.tmp").exists()


def test_another_base_is_refused(trained_run: RunFolder, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(hub.model_folder("tiny"), base)
    weights = load_file(base / "model.safetensors")
    save_file({name: tensor * 1.1 for name, tensor in weights.items()}, base / "model.safetensors")
    config = read_config(trained_run)
    moved = config.model_copy(update={"model": config.model.model_copy(update={"name": str(base)})})
    with pytest.raises(ModelError, match="other weights than the base"):
        merge.run(trained_run, moved, Options(tmp_path / "out"))


@pytest.mark.parametrize("text", ["{", "[]", '{"peft_type": 5}'])
def test_a_damaged_config_of_an_adapter_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "adapter_config.json").write_text(text, encoding="utf-8")
    with pytest.raises(ModelError, match="is no adapter's config") as caught:
        merged_weights.plan(hub.model_folder("tiny"), tmp_path)
    assert caught.value.where.endswith("adapter_config.json") and caught.value.hint


def test_misfits_are_refused(trained_run: RunFolder, tmp_path: Path) -> None:
    def wider(adapter: Path) -> None:
        path = adapter / "adapter_model.safetensors"
        weights = load_file(path)
        name = sorted(name for name in weights if "q_proj.lora_B" in name)[0]
        save_file({**weights, name: torch.zeros(7, 8)}, path)

    run = broken(trained_run, tmp_path / "wider", wider)
    with pytest.raises(ModelError, match="does not fit"):
        merge.run(run, read_config(run))

    def saves_modules(adapter: Path) -> None:
        path = adapter / "adapter_config.json"
        settings = json.loads(path.read_text())
        path.write_text(json.dumps({**settings, "modules_to_save": ["lm_head"]}))

    run = broken(trained_run, tmp_path / "saves", saves_modules)
    with pytest.raises(ModelError, match="not a plain LoRA adapter: modules_to_save"):
        merge.run(run, read_config(run))
    run = broken(trained_run, tmp_path / "gone", lambda a: (a / merged_weights.ADAPTER).unlink())
    with pytest.raises(ModelError, match="has no adapter_model"):
        merge.run(run, read_config(run))


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def test_full_disk_is_seen_before_anything_is_written(
    trained_run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9, 10**6))
    with pytest.raises(RunFolderError, match=r"1\.0 MB free, 70\.1 MB are needed") as caught:
        merge.run(trained_run, read_config(trained_run), Options(tmp_path / "deep" / "out"))
    assert caught.value.where == str(tmp_path) and "--output" in str(caught.value.hint)
    assert not list(tmp_path.iterdir())


def test_above_the_bound_nothing_is_kept(trained_run: RunFolder, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ModelError, match="predicts otherwise than base"):
        merge.run(trained_run, read_config(trained_run), Options(out, max_mean_kl=1e-9))
    assert not list(tmp_path.iterdir())


def test_taken_folder_is_refused(trained_run: RunFolder, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    with pytest.raises(RunFolderError, match="is there already"):
        merge.run(trained_run, read_config(trained_run), Options(out))
    with pytest.raises(RunFolderError, match="holds other things than a model"):
        merge.run(trained_run, read_config(trained_run), Options(out, overwrite=True))
    assert (out / "mine.txt").read_text() == "keep"


@pytest.mark.parametrize("earlier", [False, True], ids=["marked", "of a version without markers"])
def test_overwriting_leaves_what_is_not_ours(
    trained_run: RunFolder, tmp_path: Path, earlier: bool
) -> None:
    """Our own model gives way; files beside it are in the new folder."""
    out = tmp_path / "out"
    config = read_config(trained_run)
    merge.run(trained_run, config, Options(out))
    (out / "mine").mkdir()
    (out / "mine" / "notes.txt").write_text("keep")
    (out / "model-q4.gguf").write_bytes(b"made from it")
    (out / "model.safetensors").write_bytes(b"old")
    if earlier:
        (out / owned.MARKER).unlink()
    merge.run(trained_run, config, Options(out, overwrite=True))
    assert (out / "mine" / "notes.txt").read_text() == "keep"
    assert (out / "model-q4.gguf").read_bytes() == b"made from it"
    assert (out / "model.safetensors").stat().st_size > 1e6
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("place", ["run", "data", "base", "adapter"])
def test_places_that_are_refused(
    trained_run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    config = read_config(trained_run)
    folder = {
        "run": trained_run.path,
        "data": Path(config.data.train).parent,
        "base": hub.model_folder("tiny"),
        "adapter": trained_run.adapter,
    }[place]
    link = tmp_path / "link"
    link.symlink_to(folder)
    for output in (folder, link):
        with pytest.raises((ConfigError, RunFolderError), match=r"is `|holds"):
            merge.run(trained_run, config, Options(output, overwrite=True))


@pytest.mark.parametrize("left", ["work", "aside", "both", "half"])
def test_after_a_kill_the_target_is_the_old_one_or_the_new_one(
    trained_run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: str
) -> None:
    """What `kill -9` leaves at each moment is taken by the next merge; a backup is not."""
    out, work, aside = (tmp_path / name for name in ("out", "out.tmp", "out.old"))
    config = read_config(trained_run)
    if left in ("work", "half"):
        work.mkdir()
        if left == "work":
            owned.mark(work, owned.Marker(owned.Kind.MODEL, finished=False))
            (work / "model.safetensors").write_bytes(b"half")
    else:
        merge.run(trained_run, config, Options(out))
        found = owned.read(out)
        assert found is not None
        shutil.copytree(out, aside)
        owned.mark(aside, replace(found, finished=False))
        if left == "aside":
            shutil.rmtree(out)
    merge.run(trained_run, config, Options(out, overwrite=left in ("aside", "both")))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (out / "model.safetensors").stat().st_size > 1e6


@pytest.mark.parametrize("name", ["out.tmp", "out.old"])
def test_a_folder_of_the_users_is_in_the_way_and_stays(
    trained_run: RunFolder, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "model.safetensors").write_bytes(b"a backup")
    with pytest.raises(RunFolderError, match="is in the way"):
        merge.run(trained_run, read_config(trained_run), Options(tmp_path / "out"))
    assert (tmp_path / name / "model.safetensors").read_bytes() == b"a backup"


@pytest.mark.parametrize(
    "error, said",
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "the disk is full"),
        (OSError(errno.EROFS, "Read-only file system"), "cannot be written: Read-only"),
    ],
)
def test_a_disk_that_takes_no_more(
    trained_run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    error: Exception, said: str,
) -> None:  # fmt: skip
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(merge, "save_file", fail)
    with pytest.raises((TrainError, RunFolderError), match=said) as caught:
        merge.run(trained_run, read_config(trained_run), Options(tmp_path / "deep" / "out"))
    assert caught.value.where == str(tmp_path / "deep" / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("verb", ["merge", "gguf"])
def test_one_process_writes_into_an_output(
    trained_run: RunFolder, tmp_path: Path, verb: str
) -> None:
    """Two runs with one `--output`: the second is refused, and nothing of the first is touched."""
    out, config = tmp_path / "deep" / "out", read_config(trained_run)
    other = RunFolder(trained_run.path.parent / "other")
    with (
        failures.held_output(out, other, "merge"),
        pytest.raises(RunFolderError, match="in use by `lorawright merge`, process") as caught,
    ):
        if verb == "merge":
            merge.run(trained_run, config, Options(out))
        else:
            gguf.run(trained_run, config, gguf.Options(output=out), lambda *_: None)
    assert caught.value.where == str(out)
    assert not list(tmp_path.iterdir())


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "pytorch_model.bin").write_bytes(b"\x80")
    with pytest.raises(ModelError, match="safetensors are needed") as caught:
        hub.model_folder(str(folder))
    assert "save_pretrained" in str(caught.value.hint)
    assert hub.tokenizer_folder(str(folder)) == folder


def test_proof_without_an_evaluation_set(trained_run: RunFolder, tmp_path: Path) -> None:
    """Training chats do; data that is gone is said, with the way out."""
    config = read_config(trained_run)
    without = config.model_copy(update={"data": config.data.model_copy(update={"eval": None})})
    found = merge.run(trained_run, without, Options(tmp_path / "a"))
    assert found["num_chats"] > 8 and found["num_positions"] <= 4096
    gone = without.data.model_copy(update={"train": str(tmp_path / "gone.jsonl")})
    with pytest.raises(DataError, match=r"gone\.jsonl"):
        merge.run(trained_run, without.model_copy(update={"data": gone}), Options(tmp_path / "b"))


def test_command(
    trained_run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained_run.path, run)
    assert app.run(["merge", str(run), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed.keys() >= {"max_kl", "mean_kl", "top1_agreement", "path"}
    assert printed == json.loads((run / "merge.json").read_text())
    assert app.run(["merge", str(run)]) == 1
    assert "hint: replace it with --overwrite" in capsys.readouterr().err
    (run / "merged" / "model.safetensors").write_bytes(b"old")
    shutil.rmtree(run / "adapter")  # as in a run that was stopped
    assert app.run(["merge", str(run), "--overwrite"]) == 0
    captured = capsys.readouterr()
    assert "against base + adapter: KL mean" in captured.out
    assert "the run is not finished" in captured.err and "checkpoint-" in captured.err
    assert (run / "merged" / "model.safetensors").stat().st_size > 1e6


TAGGED = (
    "{%- for m in messages -%}\n  {%- if m.role == 'assistant' -%}<a>{% generation -%}  \n"
    " {{ m.content }}</a>\n  {%- endgeneration %}\n{%- else -%}{{ m.content }}{%- endif -%}"
    "{%- endfor -%}"
)


def test_generation_tags_leave_the_template_but_not_its_text(tmp_path: Path) -> None:
    """Plain jinja2 reads what is handed on, and renders what Transformers renders."""
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    with pytest.raises(jinja2.TemplateSyntaxError):
        environment.parse(TAGGED)
    got = environment.from_string(masks.plain(TAGGED)).render(messages=messages)
    tokenizer = AutoTokenizer.from_pretrained(hub.model_folder("tiny"))
    expected = tokenizer.apply_chat_template(messages, chat_template=TAGGED, tokenize=False)
    assert got == expected == "Hi<a>Yo</a>"
    (tmp_path / "chat_template.jinja").write_text(TAGGED)
    config = {"chat_template": [{"name": "default", "template": TAGGED}], "other": "图"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    masks.remove_tags(tmp_path)
    assert all("generation" not in path.read_text() for path in tmp_path.iterdir())
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["other"] == "图"


def test_merged_base_holds_no_tags(trained_run: RunFolder, tmp_path: Path) -> None:
    """A base that comes with tags, as some do, is handed on without."""
    base = tmp_path / "base"
    shutil.copytree(hub.model_folder("tiny"), base)
    template = (base / "chat_template.jinja").read_text()
    before, _, after = template.rpartition("{%- if add_generation_prompt %}")
    tags = "{% generation %}{% endgeneration %}"
    (base / "chat_template.jinja").write_text(
        f"{before}{tags}{{%- if add_generation_prompt %}}{after}"
    )
    config = read_config(trained_run)
    model = config.model.model_copy(update={"name": str(base)})
    out = tmp_path / "out"
    merge.run(trained_run, config.model_copy(update={"model": model}), Options(out))
    handed_on = (out / "chat_template.jinja").read_text()
    assert "generation %" not in handed_on
    jinja2.Environment().parse(handed_on)
    with safe_open(out / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
