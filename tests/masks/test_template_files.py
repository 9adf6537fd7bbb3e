"""What a model's folder says about its chats: named templates, dates, templates without an end."""

from __future__ import annotations

import errno
import io
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
from huggingface_hub.utils import filter_repo_objects
from transformers import AutoTokenizer

from lorawright import hub, masks
from lorawright.config.schema import DataSettings
from lorawright.errors import TemplateError
from lorawright.masks import time_limit
from lorawright.types import Conversation, Message, Role

TINY = hub.tokenizer_folder("tiny")
TOOLBOX = (
    "{{ '<|im_start|>toolbox\\n' + (tools | map(attribute='name') | join) + '<|im_end|>\\n' }}"
    "{%- for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
HELLO = [Message(Role.USER, "Hi"), Message(Role.ASSISTANT, "Hello!")]
ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"

Folder = Callable[[dict[str, str]], Path]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Tiny's folder with other files in it."""

    def make(files: dict[str, str]) -> Path:
        made = tmp_path / "model"
        if not made.exists():
            shutil.copytree(TINY, made, ignore=shutil.ignore_patterns("*.safetensors"))
        for name, text in files.items():
            (made / name).parent.mkdir(exist_ok=True)
            (made / name).write_text(text, encoding="utf-8")
        return made

    return make


def test_template_for_tools_in_a_folder_of_its_own(folder: Folder) -> None:
    """As Transformers 5 saves named templates: both render alike, and the hash holds both."""
    made = folder({"additional_chat_templates/tool_use.jinja": TOOLBOX})
    tokenizer, reference = masks.load(made, "odd"), AutoTokenizer.from_pretrained(made)
    tools = [{"name": "find"}]
    text = tokenizer.render(HELLO, tools)
    assert text.startswith("<|im_start|>toolbox\nfind")
    dicts = [message.for_template() for message in HELLO]
    assert text == reference.apply_chat_template(dicts, tools=tools, tokenize=False)
    assert "toolbox" not in tokenizer.render(HELLO, None)
    masks.refuse_other_text(reference, tokenizer)
    before = tokenizer.template_sha256
    folder({"additional_chat_templates/tool_use.jinja": TOOLBOX + " "})
    assert masks.load(made, "odd").template_sha256 != before


def test_named_templates_without_a_default_are_none(folder: Folder) -> None:
    made = folder({"additional_chat_templates/tool_use.jinja": TOOLBOX})
    (made / "chat_template.jinja").unlink()
    with pytest.raises(TemplateError, match="has no chat template"):
        masks.load(made, "odd")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no named pipes")
def test_a_template_that_is_a_pipe_is_not_waited_for(folder: Folder) -> None:
    made = folder({})
    (made / "additional_chat_templates").mkdir()
    os.mkfifo(made / "additional_chat_templates" / "tool_use.jinja")
    assert masks.load(made, "odd").render(HELLO, [{"name": "find"}])


def test_named_templates_are_fetched() -> None:
    name = "additional_chat_templates/tool_use.jinja"
    for patterns in (hub.TOKENIZER_FILES, hub.MODEL_FILES):
        assert list(filter_repo_objects([name], allow_patterns=list(patterns))) == [name]


@pytest.mark.parametrize("has_tools", [False, True])
def test_other_text_than_transformers_renders_is_refused(folder: Folder, has_tools: bool) -> None:
    made = folder({"additional_chat_templates/tool_use.jinja": TOOLBOX})
    reference = AutoTokenizer.from_pretrained(made)
    changed = "tool_use" if has_tools else "default"
    reference.chat_template[changed] = reference.chat_template[changed] + "{{ '!' }}"
    with pytest.raises(TemplateError, match="Transformers renders a chat") as caught:
        masks.refuse_other_text(reference, masks.load(made, "odd"))
    assert ("tools" in caught.value.what) is has_tools and caught.value.hint


def test_stop_tokens_are_those_of_all_configs(folder: Folder) -> None:
    made = folder({"generation_config.json": '{"eos_token_id": [5, 7]}'})
    config = orjson.loads((made / "config.json").read_bytes())
    text = orjson.dumps({**config, "eos_token_id": None, "text_config": {"eos_token_id": 9}})
    folder({"config.json": text.decode()})
    eos = masks.load(TINY, "tiny").control_ids["<|im_end|>"]
    assert masks.load(made, "odd").stop_ids == {5, 7, 9, eos}


@pytest.mark.skipif(sys.platform == "win32", reason="no such timer there")
@pytest.mark.parametrize("where", ["template", "row"])
def test_template_without_an_end_is_ended(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """For every chat, or only for one; the signal's handler is as it was."""
    monkeypatch.setattr(time_limit, "SECONDS", 0.2)
    before = signal.getsignal(signal.SIGVTALRM)
    plain = masks.load(TINY, "tiny").template
    loops = (
        ENDLESS
        if where == "template"
        else f"{{% if messages[0].content == 'x' * 3 %}}{ENDLESS}{{% endif %}}"
    )
    made = folder({"chat_template.jinja": loops + plain})
    row = Conversation((Message(Role.USER, "xxx"), HELLO[1]), None, "rows.jsonl", 8)
    with pytest.raises(TemplateError, match=r"took over 0\.2 s for one chat") as caught:
        list(masks.Encoder(masks.load(made, "odd"), DataSettings()).run([row]))
    assert caught.value.where == ("odd" if where == "template" else "rows.jsonl:8")
    assert caught.value.hint and signal.getsignal(signal.SIGVTALRM) is before


@pytest.mark.skipif(sys.platform == "win32", reason="no such timer there")
def test_endless_template_ends_check_in_one_line(folder: Folder, tmp_path: Path) -> None:
    made = folder({"chat_template.jinja": ENDLESS})
    (tmp_path / "c.yaml").write_text(f"model: {{name: {made}}}\ndata: {{train: x.jsonl}}\n")
    code = (
        "from lorawright.masks import time_limit; time_limit.SECONDS = 0.3; "
        "from lorawright.cli import main; import sys; "
        "sys.argv = ['lorawright', 'check', 'c.yaml']; main()"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 1
    assert "took over 0.3 s for one chat" in ended.stderr.replace("\n", " ")
    assert "Traceback" not in ended.stderr and "unexpected" not in ended.stderr


@pytest.mark.parametrize("greedy", ["{{ 'x' * 10 ** 15 }}", "{{ [0] * 10 ** 17 }}"])
def test_template_that_wants_all_memory_is_refused(greedy: str, folder: Folder) -> None:
    made = folder({"chat_template.jinja": greedy})
    with pytest.raises(TemplateError, match="MemoryError"):
        masks.Encoder(masks.load(made, "m"), DataSettings())


def test_without_a_timer_chats_are_rendered_all_the_same() -> None:
    """Another thread than the main one has no signals."""
    found: list[object] = []
    row = Conversation(tuple(HELLO), None, "rows.jsonl", 1)

    def encode() -> None:
        found.extend(masks.Encoder(masks.load(TINY, "tiny"), DataSettings()).run([row]))

    thread = threading.Thread(target=encode)
    thread.start()
    thread.join()
    assert len(found) == 1


def test_damaged_tokenizer_config(folder: Folder) -> None:
    for text in ("[1]", "{"):
        with pytest.raises(TemplateError, match="tokenizer_config"):
            masks.load(folder({"tokenizer_config.json": text}), "odd")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "[" * 100_000])
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "config.json"])
def test_a_damaged_file_of_the_model_is_one_line(folder: Folder, name: str, text: str) -> None:
    made = folder({name: text})
    if text == "{}" and name != "tokenizer.json":
        masks.load(made, "odd")
        return
    with pytest.raises(TemplateError, match=rf"odd: {name} ") as caught:
        masks.load(made, "odd")
    assert caught.value.hint and len(caught.value.what) < 200


@pytest.mark.parametrize(
    "name", ["tokenizer.json", "tokenizer_config.json", "config.json", "generation_config.json"]
)
def test_a_file_of_the_model_that_may_not_be_read(
    folder: Folder, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, opened = folder({}), io.open

    def refusing(path: object, *rest: object, **named: object) -> object:
        if str(path) == str(made / name):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return opened(path, *rest, **named)  # type: ignore[call-overload]

    monkeypatch.setattr(io, "open", refusing)
    with pytest.raises(TemplateError, match=f"odd: {name} cannot be read: Permission denied"):
        masks.load(made, "odd")
