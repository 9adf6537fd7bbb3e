"""The conversation of `lorawright chat`: a history, and commands that start with a slash."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from lorawright.cli import console

if TYPE_CHECKING:
    from lorawright.inference.generate import ChatModel, Sampling

HELP = """\
/retry        answer the last question again (another sample, if temperature is above 0)
/base         base or tuned: flip, and answer the last question again on the same history
/system TEXT  set the system prompt, and begin a new chat; without TEXT: none
/new          begin a new chat
/help         this
exit, quit, an empty line or Ctrl-D ends; Ctrl-C ends an answer"""

ENDS = ("exit", "quit", "/exit", "/quit", "/bye", "exit()", "quit()", "/q", ":q")


@dataclass
class ChatSession:
    """A chat that goes on.

    Attributes:
        model: Who answers.
        sampling: How.
        base: Whether the base answers.
        system: The system prompt, or None.
        history: User and assistant messages so far.
    """

    model: ChatModel
    sampling: Sampling
    base: bool = False
    system: str | None = None
    history: list[dict[str, str]] = field(default_factory=list)

    def run(self) -> None:
        """Reads lines until an empty one."""
        console.note("/help lists commands; `exit` or an empty line ends")
        while True:
            try:
                text = console.err().input(console.lead("bold cyan", "you", "")).strip()
            except (EOFError, KeyboardInterrupt):
                return
            if not text or text.lower() in ENDS:
                return
            if text.startswith("/"):
                self.command(text)
            else:
                self.ask(text)

    def command(self, text: str) -> None:
        """Carries out a line that starts with a slash."""
        name, _, rest = text.partition(" ")
        if name == "/retry":
            self.sampling = replace(self.sampling, seed=self.sampling.seed + 1)
            self.again()
        elif name == "/base":
            self.base = not self.base
            console.note(f"now answering: {self.who}")
            if self.history:
                self.again()
        elif name == "/system":
            self.system = rest.strip() or None
            self.history = []
            console.note("a new chat; the system prompt is " + (self.system or "the template's"))
        elif name == "/new":
            self.history = []
            console.note("a new chat")
        elif name == "/help":
            console.note(HELP)
        else:
            console.note(f"{name} is no command; /help lists them")

    @property
    def who(self) -> str:
        return "base" if self.base else "tuned"

    def ask(self, text: str) -> None:
        """A question, and its answer."""
        self.history.append({"role": "user", "content": text})
        self.answer()

    def again(self) -> None:
        """The last question once more; its answer is replaced."""
        if not self.history:
            console.note("nothing has been asked yet")
            return
        if self.history[-1]["role"] == "assistant":
            self.history.pop()
        self.answer()

    def answer(self) -> None:
        """Streams an answer to stdout; Ctrl-C ends it and keeps what there is."""
        console.err().print(console.lead("bold green", self.who, ""), end="")
        pieces: list[str] = []
        stream = self.model.answer(self.messages(), self.sampling, base=self.base)
        try:
            for piece in stream:
                pieces.append(piece)
                sys.stdout.write(piece)
                sys.stdout.flush()
        except KeyboardInterrupt:
            stream.close()
            sys.stdout.write(" …")
        sys.stdout.write("\n")
        self.history.append({"role": "assistant", "content": "".join(pieces)})

    def messages(self) -> list[dict[str, str]]:
        first = [] if self.system is None else [{"role": "system", "content": self.system}]
        return [*first, *self.history]
