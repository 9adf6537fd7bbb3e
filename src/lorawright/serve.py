"""An OpenAI-compatible endpoint for one run, through Transformers' own server, on loopback.

`transformers serve` loads any model that a request names, and knows no adapters. Its parts are used
here with a manager that holds one model, base and adapter as they were trained, and gives it out
under whatever name is asked for.
"""

from __future__ import annotations

import socket
from importlib.util import find_spec
from typing import Any

from lorawright.errors import ConfigError, LorawrightError
from lorawright.talk import Talker

HOST = "127.0.0.1"  # for a quick try from this machine; not hardened for anything wider
PACKAGES = ("fastapi", "uvicorn", "openai")


def application(talker: Talker, name: str) -> Any:
    """The FastAPI application.

    Args:
        talker: Answers with its adapter.
        name: What `/v1/models` lists.

    Raises:
        ConfigError: A package of `lorawright[serve]` is missing.
    """
    missing = [package for package in PACKAGES if find_spec(package) is None]
    if missing:
        raise ConfigError(
            f"needs {', '.join(missing)}, which is not installed",
            where="--serve",
            hint="pip install 'lorawright[serve]'",
        )
    from transformers.cli.serving.chat_completion import ChatCompletionHandler
    from transformers.cli.serving.completion import CompletionHandler
    from transformers.cli.serving.response import ResponseHandler
    from transformers.cli.serving.server import build_server
    from transformers.cli.serving.systemone import SystemOneHandler
    from transformers.cli.serving.transcription import TranscriptionHandler
    from transformers.cli.serving.utils import GenerationState

    talker.model.generation_config.eos_token_id = talker.end_ids
    manager, state = _manager(talker, name), GenerationState()
    return build_server(
        manager,
        ChatCompletionHandler(manager, state),
        completion_handler=CompletionHandler(manager, state),
        response_handler=ResponseHandler(manager, state),
        transcription_handler=TranscriptionHandler(manager, state),
        systemone_handler=SystemOneHandler(manager, state),
        generation_state=state,
    )


def _manager(talker: Talker, name: str) -> Any:
    """Transformers' model manager, holding one model and loading none."""
    from transformers.cli.serving.model_manager import ModelManager

    class OneModel(ModelManager):  # type: ignore[misc] # transformers is followed loosely
        """Gives out the run's model under any name."""

        def load_model_and_processor(self, *_: Any, **__: Any) -> tuple[Any, Any]:
            return talker.model, talker.tokenizer

        @staticmethod
        def get_gen_models(cache_dir: str | None = None) -> list[dict[str, Any]]:
            return [{"id": name, "object": "model", "created": 0, "owned_by": "lorawright"}]

    return OneModel()


def serve(talker: Talker, name: str, port: int) -> None:
    """Answers requests until Ctrl-C.

    Raises:
        LorawrightError: The port is taken.
    """
    app = application(talker, name)
    import uvicorn

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise LorawrightError(
                f"cannot be used: {error.strerror}", where=f"{HOST}:{port}", hint="`--port N`"
            ) from None
    uvicorn.run(app, host=HOST, port=port, log_level="warning")
