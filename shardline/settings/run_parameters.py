"""The parameters of a run, each declared once: its type, limits, default, and how the trigger form shows it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from shardline.settings import presets
from shardline.settings.parameters import Parameters, PlainName, Texts

BUILT_IN_NETWORKS = ("mlp", "gpt")
DEFAULT_MODEL = "mnist-mlp"
"""What versions of **mlp** are called; those of another network, like that."""

_IDENTIFIER = "[A-Za-z_][A-Za-z0-9_]*"
_NETWORK = rf"^({'|'.join(BUILT_IN_NETWORKS)}|{_IDENTIFIER}(\.{_IDENTIFIER})*:{_IDENTIFIER})$"


_READABLE = "SHARDLINE_HOME or below SHARDLINE_ALLOWED_ROOTS"
"""Where paths may lead (`shardline.run.allowed_roots`)."""


class RunParameters(Parameters):
    """Everything that a user chooses for one run of the pipeline; `RunConfig` (`run_config`) checks that it fits."""

    preset: Literal["none", "quick", "tutorial", "ascend"] = Field(
        "none",
        title="Preset",
        description=presets.description(),
        json_schema_extra={"values_display": {name: preset.label for name, preset in presets.PRESETS.items()}},
    )
    network: str = Field(
        "mlp",
        title="Network",
        description="**mlp**: a classifier of digits. **gpt**: a language model of bytes. "
        "**package.module:factory**: a network of your own.",
        pattern=_NETWORK,
        examples=list(BUILT_IN_NETWORKS),
    )
    data_source: Literal["embedded", "directory", "mnist", "text"] = Field(
        "embedded",
        title="Data source",
        description="**embedded**: what comes with the installation: 5,000 MNIST digits, or the source code of "
        "Python's standard library for a language model. **directory**: IDX files (raw or .gz) in *Data directory*, "
        "below. **mnist**: the 70,000 digits of MNIST, downloaded from *Mirrors*. **text**: *Text file*, below.",
        json_schema_extra={
            "values_display": {
                "embedded": "Embedded: comes with the installation",
                "directory": "Directory of IDX files",
                "mnist": "MNIST, downloaded",
                "text": "Text file",
            }
        },
    )
    world_size: int = Field(
        8,
        ge=1,
        le=4096,
        title="Cards (ranks)",
        description="How many ranks mpirun starts. **mlp**: 1, or a multiple of 4. **gpt**: 1, or a multiple of "
        "*Tensor parallel*; *Batch size* a multiple of the quotient.",
    )
    epochs: int = Field(5, ge=1, le=100_000, title="Epochs", description="How often training goes through the data.")
    batch_size: int = Field(
        32, ge=1, le=1_048_576, title="Batch size", description="Samples a step, over all ranks together."
    )
    learning_rate: float = Field(0.001, gt=0, le=10, title="Learning rate")

    data_directory: str | None = Field(
        None,
        title="Data directory",
        description="For the source **directory**: a folder with the four IDX files of MNIST or Fashion-MNIST, in "
        f"{_READABLE}.",
        json_schema_extra={"section": "Data"},
    )
    text_file: str | None = Field(
        None,
        title="Text file",
        description=f"For the source **text**: a file in {_READABLE}, each byte of which is a token. Its last tenth is "
        "held out.",
        json_schema_extra={"section": "Data"},
    )
    mirrors: Texts = Field(
        (
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
        title="Mirrors",
        description="For the source **mnist**: where to download from, in this order.",
        json_schema_extra={"section": "Data"},
    )
    corpus_size: int = Field(
        150_000,
        ge=10_000,
        title="Corpus size",
        description="For the **embedded** text: bytes of Python's standard library to train on. Of other files, a "
        "tenth of that is held out.",
        json_schema_extra={"section": "Data"},
    )

    layers: int = Field(
        2,
        ge=1,
        le=1_000,
        title="Layers",
        description="For **gpt**: how many transformer blocks. Each takes a rank about 2 s of processor time and 70 MB "
        "of memory to compile, besides its parameters.",
        json_schema_extra={"section": "Network"},
    )
    hidden_size: int = Field(
        64,
        ge=1,
        le=65_536,
        title="Hidden size",
        description="For **gpt**: numbers that stand for a token between blocks. A multiple of *Heads*.",
        json_schema_extra={"section": "Network"},
    )
    heads: int = Field(
        4,
        ge=1,
        le=1_024,
        title="Heads",
        description="For **gpt**: attention heads. A multiple of *Tensor parallel*.",
        json_schema_extra={"section": "Network"},
    )
    sequence_length: int = Field(
        64,
        ge=1,
        le=65_536,
        title="Sequence length",
        description="For **gpt**: tokens that the network sees at once.",
        json_schema_extra={"section": "Network"},
    )
    tensor_parallel: int = Field(
        4,
        ge=1,
        le=4_096,
        title="Tensor parallel",
        description="For **gpt**: how many ranks share each layer. The batch is shared out over *Cards* / "
        "*Tensor parallel* of such groups. On one card 1.",
        json_schema_extra={"section": "Network"},
    )
    pipeline_stages: int = Field(
        1,
        ge=1,
        title="Pipeline stages",
        description="On **GPU** and **Ascend**: into how many stages the network's layers are parted; *Cards* / "
        "*Pipeline stages* ranks share each. On the **CPU** only 1.",
        json_schema_extra={"section": "Network"},
    )
    micro_batches: int | None = Field(
        None,
        ge=1,
        examples=[4, 8],
        title="Micro-batches",
        description="With *Pipeline stages*: into how many parts a batch is cut, which follow each other through the "
        "stages. At least as many as stages. Empty: as many.",
        json_schema_extra={"section": "Network"},
    )
    precision: Literal["float32", "float16", "bfloat16"] = Field(
        "float32",
        title="Precision",
        description="Of matrix multiplications; parameters, sums and optimizer states stay float32. A CPU cannot do "
        "**bfloat16**.",
        json_schema_extra={"section": "Network"},
    )

    optimizer: Literal["SGD", "Momentum", "Adam", "AdamW"] = Field(
        "Adam",
        title="Optimizer",
        json_schema_extra={"section": "Optimizer"},
    )
    momentum: float = Field(
        0.9,
        ge=0,
        lt=1,
        title="Momentum",
        description="For the optimizer **Momentum** only.",
        json_schema_extra={"section": "Optimizer"},
    )
    weight_decay: float = Field(
        0.01,
        ge=0,
        le=1,
        title="Weight decay",
        description="For the optimizer **AdamW** only; biases and LayerNorm's parameters are exempt.",
        json_schema_extra={"section": "Optimizer"},
    )
    warmup_steps: int = Field(
        0,
        ge=0,
        title="Warm-up steps",
        description="Over so many steps the learning rate rises evenly to its full value.",
        json_schema_extra={"section": "Optimizer"},
    )
    schedule: Literal["constant", "cosine"] = Field(
        "constant",
        title="Schedule",
        description="The learning rate after the warm-up. **cosine**: down to 0 at the last step.",
        json_schema_extra={"section": "Optimizer"},
    )
    clip_norm: float | None = Field(
        None,
        gt=0,
        examples=[1.0],
        title="Gradient clipping",
        description="The greatest global norm that the gradients may have; larger ones are scaled down. Empty: any.",
        json_schema_extra={"section": "Optimizer"},
    )
    enable_parallel_optimizer: bool = Field(
        False,
        title="Optimizer sharding",
        description="**enable_parallel_optimizer**: ranks that would hold equal slices of a parameter share it out, "
        "and its optimizer states.",
        json_schema_extra={"section": "Optimizer"},
    )

    seed: int = Field(1, ge=0, le=2**31 - 1, title="Seed", json_schema_extra={"section": "Training"})
    start_from: Literal["scratch", "current"] = Field(
        "scratch",
        title="Start from",
        description="**current**: the weights of the model store's current version; optimizer states start anew.",
        json_schema_extra={
            "section": "Training",
            "values_display": {"scratch": "Scratch", "current": "The current model's weights"},
        },
    )
    start_file: str | None = Field(
        None,
        title="Start from a file",
        description="The path of an integrated checkpoint (.ckpt or .safetensors, or the index or folder of several "
        f"files), such as a merged model, in {_READABLE}, whose weights to start from; optimizer states start anew.",
        json_schema_extra={"section": "Training"},
    )
    resume_from: str | None = Field(
        None,
        title="Resume from",
        description="A run of the same DAG, by its id, or the path of any run directory in "
        f"{_READABLE}: goes on from its newest shard set, "
        "on any number of cards, with its optimizer states and its place in the data.",
        json_schema_extra={"section": "Training"},
    )
    loss_spike_factor: float | None = Field(
        None,
        gt=1,
        examples=[10],
        title="Loss spike factor",
        description="Training fails at a loss of more than so many times the median of the last 50 steps. Empty: only "
        "where loss or gradient are not finite.",
        json_schema_extra={"section": "Training"},
    )
    validate_every_steps: int | None = Field(
        None,
        ge=1,
        examples=[100],
        title="Steps between validations",
        description="The loss on up to 512 held-out samples every so many steps: a second curve. Costs a pass forward "
        "each time, and changes no weight. Empty: none.",
        json_schema_extra={"section": "Training"},
    )

    device_target: Literal["CPU", "GPU", "Ascend"] = Field(
        "CPU",
        title="Device",
        json_schema_extra={
            "section": "Launch",
            "values_display": {"CPU": "CPU", "GPU": "NVIDIA GPU", "Ascend": "Ascend NPU"},
        },
    )
    hostfile: str | None = Field(
        None,
        title="Hostfile",
        description="Several hosts: the path of Open MPI's hostfile, a line `HOST slots=N` for each, in "
        f"{_READABLE}; or `$PBS_NODEFILE`, or `slurm`. Empty: this host.",
        json_schema_extra={"section": "Launch"},
    )
    hang_timeout: int | None = Field(
        None,
        ge=1,
        examples=[1800],
        title="Hang timeout",
        description="Seconds without a step or a log line of any rank, after which the task fails and says where each "
        "rank stands; before the first step, while a network is compiled, half an hour at least. Empty: never.",
        json_schema_extra={"section": "Launch"},
    )
    termination_grace: int = Field(
        30,
        ge=0,
        le=86_400,
        title="Termination grace",
        description="Seconds that a training which is cleared, stopped or timed out gets to save a shard set and "
        "leave. Then it is killed.",
        json_schema_extra={"section": "Launch"},
    )

    save_checkpoint_steps: int = Field(
        100,
        ge=1,
        title="Steps between checkpoints",
        description="The last step is always saved.",
        json_schema_extra={"section": "Checkpoints"},
    )
    keep_checkpoint_max: int = Field(3, ge=1, title="Checkpoints to keep", json_schema_extra={"section": "Checkpoints"})
    checkpoint_format: Literal["ckpt", "safetensors"] = Field(
        "ckpt", title="Slice format", json_schema_extra={"section": "Checkpoints"}
    )
    integrated_save: bool = Field(
        False,
        title="Integrated save",
        description="Every rank saves the whole model instead of its slices; merging then verifies and publishes it.",
        json_schema_extra={"section": "Checkpoints"},
    )
    remove_redundancy: bool = Field(
        False,
        title="Remove redundancy",
        description="Of the ranks that hold the same slice, only one saves it.",
        json_schema_extra={"section": "Checkpoints"},
    )
    save_behind: bool = Field(
        False,
        title="Save behind training",
        description="Training stands still only while what is saved is copied; it is written while training goes on. "
        "Takes the copy's memory on every rank's host.",
        json_schema_extra={"section": "Checkpoints"},
    )
    strategy_save_file: PlainName = Field(
        "src_strategy.ckpt",
        title="Strategy file",
        description="**save_file** of **strategy_ckpt_config**: the file's name in the run directory.",
        json_schema_extra={"section": "Checkpoints"},
    )
    strategy_load_file: str | None = Field(
        None,
        title="Strategy file to load",
        description="**load_file** of **strategy_ckpt_config**: operators are sharded as this file, in "
        f"{_READABLE}, says.",
        json_schema_extra={"section": "Checkpoints"},
    )
    strategy_only_trainable_params: bool = Field(
        False,
        title="Strategy of trainable parameters only",
        description="**only_trainable_params** of **strategy_ckpt_config**. Set: the merged model holds "
        "the weights alone, without optimizer states.",
        json_schema_extra={"section": "Checkpoints"},
    )

    checkpoint_step: int | None = Field(
        None,
        ge=1,
        examples=[100],
        title="Step to merge",
        description="Empty: the newest complete shard set.",
        json_schema_extra={"section": "Merging"},
    )
    merged_format: Literal["ckpt", "safetensors"] = Field(
        "ckpt", title="Merged format", json_schema_extra={"section": "Merging"}
    )

    min_accuracy: float = Field(
        0.9,
        ge=0,
        le=1,
        title="Minimum accuracy",
        description="Validation fails below it, and nothing is promoted.",
        json_schema_extra={"section": "Validation"},
    )
    max_perplexity: float = Field(
        15.0,
        gt=1,
        title="Maximum perplexity",
        description="For language models: validation fails above it, and nothing is promoted.",
        json_schema_extra={"section": "Validation"},
    )
    logits_tolerance: float | None = Field(
        None,
        gt=0,
        le=1,
        title="Logits tolerance",
        description="How far the merged model's logits may lie from the ranks', relative to the greatest. Empty: as "
        "far as rounding drives them apart in this network, precision and device.",
        json_schema_extra={"section": "Validation"},
    )
    sample_prompt: str = Field(
        "def ",
        min_length=1,
        title="Prompt",
        description="For language models: the text that the generated sample begins with.",
        json_schema_extra={"section": "Validation"},
    )
    sample_length: int = Field(
        300,
        ge=0,
        le=10_000,
        title="Sample length",
        description="For language models: how many tokens are generated.",
        json_schema_extra={"section": "Validation"},
    )
    sample_temperature: float = Field(
        0.8,
        ge=0,
        le=10,
        title="Temperature",
        description="For language models: 0 always generates the likeliest token, 1 follows the probabilities.",
        json_schema_extra={"section": "Validation"},
    )

    model_name: PlainName = Field(
        DEFAULT_MODEL,
        title="Model name",
        description="The folder of the model store that promotion adds a version to.",
        json_schema_extra={"section": "Promotion"},
    )
    champion_margin: float | None = Field(
        None,
        ge=0,
        examples=[0, 0.01],
        title="Champion margin",
        description="By how much the model may be worse than the current one, on the same data, in units of the metric "
        "(accuracy: a share, perplexity: bytes). Where it is worse by more, it is not promoted. Empty: not compared.",
        json_schema_extra={"section": "Promotion"},
    )
    approval: bool = Field(
        False,
        title="Approval",
        description="Wait after validation until a person approves the model. Rejected, it is not promoted.",
        json_schema_extra={"section": "Promotion"},
    )
    upload_to: str | None = Field(
        None,
        title="Upload to",
        description="A folder of an object storage that the promoted version is copied to, as "
        "`s3://CONNECTION@BUCKET/FOLDER`, with a connection of Airflow's; its files go below *Model name* and the "
        "version's number. Empty: nowhere.",
        json_schema_extra={"section": "Promotion"},
    )
    hugging_face_export: str | None = Field(
        None,
        title="Hugging Face export",
        description="The promoted version as a folder that `transformers` loads too: **built-in** for **gpt**; for "
        f"others the path of a mapping file, in {_READABLE}. Empty: none.",
        json_schema_extra={"section": "Promotion"},
    )
