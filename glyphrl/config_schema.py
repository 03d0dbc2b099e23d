"""The sections of a run's YAML file as dataclasses: names, types, defaults. Nothing heavy is imported here.

`glyphrl.config.load_config` fills them; every other module reads them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_type_hints

DEFAULT_PROMPT = "Read the text in the image. Answer as <answer>text</answer>."
IMPORTANT_CHARS = "0123456789$€£¥￥₹₩¢"


@dataclass
class TinyModelConfig:
    """A small model built from scratch instead of a downloaded one (see `glyphrl.trainers.tiny_model`)."""

    family: Literal["qwen2_5_vl", "qwen2_vl"] = "qwen2_5_vl"
    """Architecture to build."""
    hidden_size: int = 128
    """Width of the language model."""
    num_layers: int = 3
    """Decoder layers of the language model."""
    vision_hidden_size: int = 64
    """Width of the vision tower."""
    vision_layers: int = 3
    """Layers of the vision tower."""


@dataclass
class LoraSettings:
    """Low-rank adapters (PEFT). Absent: full fine-tuning."""

    r: int = 16
    """Rank."""
    alpha: int = 32
    """Scale; the update is `alpha / r * B @ A`."""
    dropout: float = 0.0
    """Dropout on the adapter's input."""
    target_modules: str | list[str] = "all-linear"
    """Names of modules, or `all-linear`: those of the language model and of unfrozen vision parts."""
    modules_to_save: list[str] = field(default_factory=list)
    """Modules that are trained in full and saved with the adapter."""


@dataclass
class ModelConfig:
    """Which model is trained, and which of its parts."""

    path: str | None = None
    """Folder or hub id of the base model. Exactly one of `path` and `tiny` is given."""
    tiny: TinyModelConfig | None = None
    """Build a tiny model from scratch (tests, quickstart, dry runs)."""
    revision: str | None = None
    """Revision of a hub model."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the weights; `auto` keeps the checkpoint's (float32 on a CPU)."""
    attn_implementation: str = "sdpa"
    """Attention kernel of transformers."""
    lora: LoraSettings | None = None
    """Train adapters instead of all weights."""
    freeze_vision: bool = True
    """Keep the vision tower as it is."""
    freeze_merger: bool = True
    """Keep the projection from the vision tower to the language model as it is."""
    trust_remote_code: bool = False
    """Run code that comes with a hub model."""


@dataclass
class SplitConfig:
    """How to hold out samples where `data.eval` is not given."""

    eval_fraction: float = 0.1
    """Share of documents (or samples) that are held out."""
    by: str | None = None
    """Column whose values stay together (a document id). None: at random."""
    seed: int = 0
    """Seed of the random choice."""


@dataclass
class DataConfig:
    """Samples: where they are, how they are read, how images are sized."""

    train: str | list[str] | None = None
    """File or folder (any importable format), or several."""
    sft: str | list[str] | None = None
    """Other training data for the SFT stage. None: `train`."""
    grpo: str | list[str] | None = None
    """Other training data for the GRPO stage. None: `train`."""
    eval: str | list[str] | None = None
    """Held-out samples. None: split off `train` by `split`."""
    format: str = "auto"
    """Input format, see `glyphrl data import --help`."""
    split: SplitConfig = field(default_factory=SplitConfig)
    """Used where `eval` is None."""
    prompt: str = DEFAULT_PROMPT
    """Instruction for samples that carry none of their own."""
    system: str | None = None
    """System message for samples that carry none."""
    answer_template: str = "<answer>{solution}</answer>"
    """What SFT teaches: `{solution}`, and any other column that the samples have, such as `{think}`."""
    min_pixels: int = 28 * 28 * 4
    """Smallest image area in pixels; smaller images are enlarged (qwen-vl-utils' rule)."""
    max_pixels: int = 28 * 28 * 1280
    """Largest image area in pixels; larger images are reduced (qwen-vl-utils' rule)."""
    strict: bool = False
    """Refuse the data on the first bad row instead of leaving bad rows out."""
    max_train_samples: int | None = None
    """Use only the first so many training samples."""
    max_eval_samples: int | None = None
    """Use only the first so many held-out samples."""


@dataclass
class RewardSpec:
    """One reward function of the weighted sum."""

    name: str = ""
    """Registered name, or `module:function`."""
    weight: float = 1.0
    """Weight in the sum."""
    args: dict[str, Any] = field(default_factory=dict)
    """Parameters of the function."""
    requires: str | None = None
    """Name of another function of the list that gates this one (see `gate`); a gate never raises a reward."""
    gate: Literal["zero", "multiply"] = "zero"
    """`zero`: counts only where the required one scores 1; `multiply`: times the required one's score."""
    on_error: Literal["stop", "skip"] = "stop"
    """On a completion that it fails on: stop the run, or leave it out there (counted and reported)."""
    isolate: bool | None = None
    """Run it in worker processes that can be killed. None: those that are not built in."""
    completions: Literal["auto", "text", "messages"] = "auto"
    """What it is given: texts, or TRL's message lists; `auto` goes by its annotation and code."""


def default_reward_functions() -> list[RewardSpec]:
    """The rewards of a run that names none: weighted CER, and a little for the right format."""
    return [RewardSpec("weighted_cer", 1.0), RewardSpec("format", 0.2)]


@dataclass
class RewardsConfig:
    """What is rewarded."""

    functions: list[RewardSpec] = field(default_factory=default_reward_functions)
    """Reward functions and their weights."""
    plugins: list[str] = field(default_factory=list)
    """Python files that register rewards; relative paths are relative to the configuration file."""
    answer: Literal["lenient", "strict"] = "lenient"
    """A completion without an answer block scores 0 (`strict`) or is the answer as a whole (`lenient`)."""
    extra_tags: list[str] = field(default_factory=list)
    """Further blocks, e.g. `confidence`, that may stand beside the answer without being a format fault."""
    aggregation: Literal["sum", "normalize_then_sum"] = "sum"
    """`normalize_then_sum`: each function's scores are standardised within the group first."""
    route_by: str | None = None
    """Column that says which functions apply to a sample: a name, a list of names, or null for all."""
    time_limit: float = 30.0
    """Seconds per completion for functions that run in worker processes."""
    workers: int = 1
    """Worker processes of each function that scores completions one by one."""


@dataclass
class StageConfig:
    """A training stage: our switch, and any field of TRL's SFTConfig or GRPOConfig in `args`."""

    enabled: bool = True
    """Leave the stage out with `enabled: false`."""
    args: dict[str, Any] = field(default_factory=dict)
    """Every other key of the section, checked against TRL's fields."""


@dataclass
class GrpoStageConfig(StageConfig):
    """The GRPO stage: a training stage with settings that TRL does not have."""

    max_tokens_per_micro_batch: int | None = None
    """Tokens (prompt once and completions of each group, with padding) of one forward and backward pass at most: a \
    micro-batch is cut into as many passes as that needs, which changes memory but no number. None: one pass."""
    dynamic_sampling: bool = False
    """Replace groups whose rewards are all equal by groups of fresh samples (DAPO)."""
    max_resampling_rounds: int = 3
    """How often fresh groups are drawn for one step at most (dynamic_sampling)."""
    feature_cache_gb: float = 1.0
    """Memory, in GiB, for features of images by a frozen vision tower and merger, kept from step to step."""
    feature_cache_disk_gb: float = 0.0
    """Disk space, in GiB, for the same in `image_features/` of the run folder, kept from epoch to epoch. 0: none."""


@dataclass
class RolloutConfig:
    """Sampling the groups."""

    backend: Literal["auto", "vllm", "transformers"] = "auto"
    """`auto`: vLLM where it is installed, else transformers."""
    gpu_memory_utilization: float = 0.3
    """Share of GPU memory for vLLM."""
    kv_cache_gb: int = 1
    """Key-value cache of vLLM on a CPU, in GiB."""
    chunk_groups: int | None = None
    """Groups that are sampled at a time: while one chunk is sampled, the one before it is scored. None: all at once."""
    max_model_len: int | None = None
    """Longest prompt plus completion in tokens. None: the model's limit, at most 32,768."""
    enforce_eager: bool = False
    """No CUDA graphs (slower, starts faster)."""
    tensor_parallel_size: int = 1
    """GPUs per vLLM engine."""
    engine_args: dict[str, Any] = field(default_factory=dict)
    """Further arguments of `vllm.LLM`."""


@dataclass
class GuardConfig:
    """Alarms of the GRPO stage; `guard: stop` is short for `guard: {action: stop}`."""

    action: Literal["warn", "stop", "off"] = "warn"
    """On an alarm: say it (log, progress line, alarms.jsonl, report), or end the stage too, with the last checkpoint \
    from before the alarm's window as its result."""
    window: int = 20
    """Logged steps that are looked at together; growth compares half a window now with the first half window of the \
    run."""
    similarity_drop: float | None = 0.02
    """Alarm `gaming`: the reward rises over a window while edit similarity falls by this much at least. None: none."""
    length_growth: float | None = 2.0
    """Alarm `length`: the mean length of completions is this many times what it was. None: none."""
    cut_off_growth: float | None = 0.25
    """Alarm `cut_off`: the share of completions cut off at the length limit has grown by this much. None: none."""
    repetition_growth: float | None = 0.2
    """Alarm `repetition`: the share of answers that is repetition has grown by this much. None: none."""
    no_signal: float | None = 0.9
    """Alarm `no_signal`: this share of groups has no spread in its rewards. None: none."""
    degenerate: float | None = 0.3
    """Alarm `degenerate`: this share of the completions in the exact format is empty or the same wrong answer for \
    most samples. None: none."""


@dataclass
class EvalConfig:
    """Held-out evaluation."""

    enabled: bool = True
    """Evaluate the base model and the result of each stage."""
    backend: Literal["auto", "vllm", "transformers"] = "auto"
    """Generation backend."""
    max_new_tokens: int = 256
    """Longest answer in tokens."""
    batch_size: int = 32
    """Samples per batch (transformers backend)."""
    normalization: Literal["none", "nfc", "nfkc"] = "none"
    """Unicode normalisation of reference and answer before they are compared."""
    fold_whitespace: bool = False
    """Treat every run of white space as one space."""
    bootstrap_samples: int = 2000
    """Resamples behind the confidence intervals."""
    seed: int = 0
    """Seed of the bootstrap."""
    worst_cases: int = 50
    """Samples shown in the report."""


@dataclass
class LaunchConfig:
    """Processes of a training stage."""

    processes: int = 1
    """Ranks on this host."""
    deepspeed: str | None = None
    """DeepSpeed configuration file, e.g. configs/deepspeed/zero2.json."""
    cpu: bool = False
    """Train on the CPU although a GPU is there."""
    port: int | None = None
    """Rendezvous port; None: a free one."""


@dataclass
class RunConfig:
    """One run: everything that its YAML file says."""

    output_dir: str = "runs/default"
    """Run folder."""
    seed: int = 0
    """Seed of everything that has none of its own."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    rewards: RewardsConfig = field(default_factory=RewardsConfig)
    sft: StageConfig | None = None
    grpo: GrpoStageConfig | None = None
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    guard: GuardConfig = field(default_factory=GuardConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    launch: LaunchConfig = field(default_factory=LaunchConfig)


def own_fields(kind: type[StageConfig]) -> dict[str, Any]:
    """Names and types of a stage's fields that are ours, not TRL's."""
    types = get_type_hints(kind)
    return {field.name: types[field.name] for field in fields(kind) if field.name != "args"}
