"""The config tree: every key, its type, its default and the sentence that explains it.

Reference pages, recipes and `--help` are made from these fields, so a description is written once.
No torch here: `lorawright check` answers at once.
"""

from __future__ import annotations

import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, JsonValue

from lorawright.config import values


class Section(BaseModel):
    """Base of all sections: closed, frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


Auto = Literal["auto"]
NumSteps = Annotated[int, Field(gt=0, le=100_000_000, strict=True)]
NumTokens = Annotated[int, Field(gt=0, le=10_000_000, strict=True)]
Seed = Annotated[int, Field(ge=0, lt=2**32, strict=True)]
Text = Annotated[str, Field(min_length=1, max_length=255)]
Variable = Annotated[
    str, Field(max_length=64, pattern=r"^[A-Za-z_]\w*$"), AfterValidator(values.variable)
]
"""A name that a chat template may read and that is not given to it already."""
Place = Annotated[str, Field(min_length=1, max_length=2048), AfterValidator(values.place)]
"""A path, or a name on the hub."""


class Dtype(StrEnum):
    """Number format of the base model's weights and of its computation."""

    AUTO = "auto"  # bfloat16 if the hardware computes in it, else float16 on a GPU, float32
    BFLOAT16 = "bfloat16"  # 8 bits of exponent, 7 of mantissa
    FLOAT16 = "float16"  # 5 and 10; trained with a loss scaler
    FLOAT32 = "float32"  # 8 and 23


class Quantization(StrEnum):
    """How the frozen base is held in memory (QLoRA, through bitsandbytes)."""

    NONE = "none"  # in its dtype
    NF4 = "nf4"  # 4 bits a weight, NormalFloat, double quantization
    INT8 = "int8"  # 8 bits a weight, LLM.int8


class Format(StrEnum):
    """How a row of data spells a chat."""

    AUTO = "auto"  # recognized by its keys
    MESSAGES = "messages"  # `messages` with `role` and `content`
    PROMPT_COMPLETION = "prompt_completion"  # `prompt` and `completion`, texts or lists of messages
    ALPACA = "alpaca"  # `instruction`, `input`, `output`, also `system` and `history`
    SHAREGPT = "sharegpt"  # `conversations` with `from` and `value`


class TrainOn(StrEnum):
    """Which tokens of a chat are trained."""

    ASSISTANT = "assistant"  # every answer, through the token that ends it
    LAST_ASSISTANT = "last_assistant"  # the last answer only
    ALL = "all"  # everything but messages with `train: false`


class RowPolicy(StrEnum):
    """What happens to a row with this problem: stop, leave it out, or keep it and say so."""

    ERROR = "error"  # the run does not start
    DROP = "drop"  # left out and counted
    KEEP = "keep"  # trained, with a warning


class StrictPolicy(StrEnum):
    """For problems that no row can be kept with."""

    ERROR = "error"  # the run does not start
    DROP = "drop"  # left out and counted


class OverlongPolicy(StrEnum):
    """What becomes of a chat longer than `max_length`."""

    ERROR = "error"  # the run does not start
    DROP = "drop"  # left out and counted
    CUT = "cut"  # cut behind the last answer that fits whole


class SpecialTokensPolicy(StrEnum):
    """What becomes of a text that spells a control token."""

    ERROR = "error"  # the run does not start
    ESCAPE = "escape"  # tokenized as plain text


class SwallowedPolicy(StrEnum):
    """What happens to a row of which the chat template drops something."""

    ERROR = "error"  # the run does not start
    WARN = "warn"  # trained without it


class Strategy(StrEnum):
    """How processes divide the work."""

    AUTO = "auto"  # by the number of processes and the estimate of memory
    NONE = "none"  # one process
    DDP = "ddp"  # the whole model in each; gradients are averaged
    ZERO1 = "zero1"  # DeepSpeed: optimizer states divided
    ZERO2 = "zero2"  # and gradients
    ZERO3 = "zero3"  # and weights
    FSDP2 = "fsdp2"  # PyTorch: weights, gradients and states divided


class ModelSettings(Section):
    """Which model is fine-tuned, and in which numbers it is held."""

    name: Place = Field(
        "Qwen/Qwen2.5-0.5B-Instruct",
        description=("A hub id, a folder, or `tiny`: the model inside the package"),
    )
    revision: Text | None = Field(None, description="Branch, tag or commit of a hub id")
    dtype: Dtype = Field(
        Dtype.AUTO,
        description=(
            "Numbers the base is held in; `auto`: bfloat16 where the hardware has it, else float32"
        ),
    )
    quantization: Quantization = Field(
        Quantization.NONE, description=("`nf4` or `int8`: QLoRA through bitsandbytes")
    )
    trust_remote_code: bool = Field(
        False,
        description=(
            "Run Python code that comes with the model; leave off unless you have read it"
        ),
    )


class TemplateSettings(Section):
    """The chat template is always the tokenizer's own; this is what it is told, and a check."""

    variables: dict[Variable, JsonValue] = Field(
        {},
        description=(
            "What the template is told in training, evaluation and chat, such as `{enable_thinking:"
            " false}`; a row's own `chat_template_kwargs` win"
        ),
    )
    date: Auto | datetime.date = Field(
        "auto",
        description="What templates take for today; `auto`: the day of the run's first start",
    )
    generation_tags: Place | None = Field(
        None,
        description=(
            "A Jinja file with `{% generation %}` tags: a third derivation of every mask, checked "
            "against the model's own template"
        ),
    )


class DataSettings(Section):
    """Where the chats are, what of them is trained, and what happens to rows that do not fit."""

    train: Place = Field(
        "data/train", description="A file, a folder or a hub id; jsonl, json, csv, parquet, arrow"
    )
    eval: Place | Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)] | None = Field(
        None, description=("The same, or a fraction of train (0.05), or null: no evaluation")
    )
    format: Format = Field(Format.AUTO, description="`auto` names what it found")
    train_on: TrainOn = Field(
        TrainOn.ASSISTANT,
        description="Whose tokens are trained; a message's own `train: false` wins",
    )
    train_reasoning: bool = Field(
        True, description="Whether reasoning is trained; `false`: read, and what follows is trained"
    )
    max_length: NumTokens = Field(4096, description="Longest chat, in tokens")
    overlong: OverlongPolicy = Field(
        OverlongPolicy.ERROR,
        description=(
            "Chats longer than max_length; `cut` ends them after a whole answer, never inside one"
        ),
    )
    special_tokens_in_text: SpecialTokensPolicy = Field(
        SpecialTokensPolicy.ERROR,
        description=(
            "Text that spells a control token such as <|im_end|>; `escape` encodes it as plain text"
        ),
    )
    invalid: StrictPolicy = Field(
        StrictPolicy.ERROR, description=("Rows that cannot be read as a chat")
    )
    empty_answers: RowPolicy = Field(RowPolicy.ERROR, description="Trained turns without content")
    untrained: StrictPolicy = Field(StrictPolicy.ERROR, description="Rows without a trained token")
    swallowed: SwallowedPolicy = Field(
        SwallowedPolicy.ERROR,
        description=(
            "Rows of which the model's chat template drops something: a tool call, reasoning, "
            "tools; `warn` trains what is left"
        ),
    )
    duplicates: RowPolicy = Field(RowPolicy.KEEP, description="Rows that stand twice in a set")
    leaked: RowPolicy = Field(
        RowPolicy.ERROR,
        description=(
            "Evaluation rows that are in the training set too; `drop` takes them out of the "
            "evaluation set"
        ),
    )
    seed: Seed = Field(42, description="Order of the chats, and the split by a fraction")


class LoraSettings(Section):
    """The adapter, in PEFT's terms."""

    rank: Annotated[int, Field(gt=0, le=16384, strict=True)] = Field(
        8, description="Inner dimension of the two matrices"
    )
    alpha: Annotated[int, Field(gt=0, le=1_000_000, strict=True)] = Field(
        16, description="The update is scaled by alpha / rank"
    )
    dropout: float = Field(
        0.05, ge=0, lt=1, allow_inf_nan=False, description="Dropout on the adapter's input"
    )
    bias: Literal["none", "all", "lora_only"] = Field("none", description="Biases trained along")
    target_modules: Annotated[str | list[str], AfterValidator(values.target_modules)] = Field(
        "all-linear",
        description=(
            "`all-linear` (all but the output head), a list of names, or a regular expression"
        ),
    )
    target_parameters: Annotated[list[Text] | None, AfterValidator(values.target_parameters)] = (
        Field(
            None,
            description=(
                "Weights outside of linear layers that are adapted too, by name: a mixture's "
                "experts, `[mlp.experts.gate_up_proj, mlp.experts.down_proj]`; needs "
                "`lora.dropout: 0`"
            ),
        )
    )
    use_rslora: bool = Field(False, description="Scale by alpha / sqrt(rank) instead")
    use_dora: bool = Field(False, description="Learn magnitude and direction apart (DoRA)")


class TrainingSettings(Section):
    """How it is trained, and what is written down on the way."""

    output: Place = Field("runs/qwen2.5-0.5b", description="The run folder")
    epochs: Annotated[int, BeforeValidator(values.whole), Field(gt=0, le=10_000, strict=True)] = (
        Field(3, description="Passes over the training set")
    )
    max_steps: NumSteps | None = Field(None, description="Stop after so many optimizer steps")
    batch_size: Annotated[int, Field(gt=0, le=1_000_000, strict=True)] = Field(
        8, description=("Chats per optimizer step, over all processes together")
    )
    tokens_per_pass: NumTokens | Auto = Field(
        "auto", description=("How much one forward pass may hold; memory only, never the result")
    )
    share_prefixes: bool = Field(
        True,
        description=(
            "What chats of a step begin with in common is computed once; equal steps at "
            "`lora.dropout` 0, one dropout draw for all its chats above"
        ),
    )
    group_prefixes: bool = Field(
        False,
        description=(
            "Chats that begin alike go into the same steps, which saves more; changes the order"
        ),
    )
    learning_rate: float = Field(
        2.0e-5, gt=0, le=10, allow_inf_nan=False, description="Peak learning rate"
    )
    schedule: Literal[
        "cosine",
        "linear",
        "constant",
        "constant_with_warmup",
        "polynomial",
        "inverse_sqrt",
        "cosine_with_restarts",
        "cosine_with_min_lr",
        "cosine_warmup_with_min_lr",
        "warmup_stable_decay",
    ] = Field(
        "cosine",
        description=(
            "How the learning rate falls; arguments, such as `min_lr_rate`, stand in "
            "`training.trl.lr_scheduler_kwargs`"
        ),
    )
    warmup_ratio: float = Field(
        0.03,
        ge=0,
        lt=1,
        allow_inf_nan=False,
        description=(
            "Share of the steps that warm up, rounded up; they begin at 0, so that the first step "
            "changes nothing"
        ),
    )
    weight_decay: float = Field(
        0.0,
        ge=0,
        le=100,
        allow_inf_nan=False,
        description="AdamW's decay of the adapter's weights",
    )
    max_grad_norm: float = Field(
        1.0,
        ge=0,
        le=1_000_000,
        allow_inf_nan=False,
        description="Gradient norm is clipped to this; 0: never",
    )
    optimizer: Text = Field(
        "auto",
        description=(
            "`auto`: paged_adamw_8bit on CUDA, adamw_torch_fused elsewhere; or any name that "
            "Transformers knows"
        ),
    )
    gradient_checkpointing: bool | Auto = Field(
        "auto",
        description=(
            "Recompute activations to save memory; `auto`: when the estimate says memory needs it"
        ),
    )
    logging_steps: NumSteps = Field(1, description="Steps between lines of metrics.jsonl")
    log_entropy: bool = Field(
        False, description="Also log the mean entropy of the predictions; costs another softmax"
    )
    eval_steps: NumSteps = Field(50, description="Steps between evaluations")
    save_steps: NumSteps = Field(50, description="Steps between checkpoints")
    keep_checkpoints: NumSteps = Field(3, description="Newest checkpoints that are kept")
    trackers: list[Literal["tensorboard", "wandb", "trackio", "swanlab", "mlflow"]] = Field(
        ["tensorboard"], description="Where curves go, besides metrics.jsonl"
    )
    seed: Seed = Field(42, description="Adapter's start, dropout")
    trl: dict[str, Any] = Field(
        default_factory=dict,
        description=(
            "Further fields of TRL's SFTConfig, by their names: adam_beta1, adam_beta2, "
            "adam_epsilon, optim_args, lr_scheduler_kwargs, logging_first_step, eval_delay, "
            "run_name, project, torch_empty_cache_steps"
        ),
    )


class DistributedSettings(Section):
    """Processes and machines; the steps stay the same."""

    strategy: Strategy = Field(
        Strategy.AUTO,
        description=(
            "How the work is divided; `auto`: none for one process, ddp where the model fits, "
            "else zero1 or zero3"
        ),
    )
    num_processes: Annotated[int, Field(gt=0, le=100_000, strict=True)] | Auto = Field(
        "auto", description=("Processes over all machines; `auto`: the visible GPUs, else 1")
    )
    num_machines: Annotated[int, Field(gt=0, le=10_000, strict=True)] = Field(
        1, description="Machines"
    )
    machine_rank: Annotated[int, Field(ge=0, lt=10_000, strict=True)] = Field(
        0, description="This machine's number, from 0"
    )
    main_address: Text = Field("127.0.0.1", description="Address of machine 0")
    main_port: Annotated[int, Field(gt=0, lt=65536, strict=True)] = Field(
        29500, description="Free port on machine 0; one machine alone finds its own"
    )
    offload_optimizer: bool = Field(False, description="ZeRO: optimizer states in the CPU's memory")
    offload_parameters: bool = Field(False, description="ZeRO-3: weights in the CPU's memory")
    timeout_seconds: Annotated[int, Field(gt=0, le=2_592_000, strict=True)] = Field(
        600, description="A process that gives no sign for so long ends the run"
    )


class Config(Section):
    """One run, whole."""

    model: ModelSettings = ModelSettings()
    template: TemplateSettings = TemplateSettings()
    data: DataSettings = DataSettings()
    lora: LoraSettings = LoraSettings()
    training: TrainingSettings = TrainingSettings()
    distributed: DistributedSettings = DistributedSettings()
