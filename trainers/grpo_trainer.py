"""The GRPO trainer: TRL's loop, checkpoints and optimisers around our rollouts, rewards, log and packed loss."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather
from datasets import Dataset
from trl import GRPOTrainer
from trl.models.utils import disable_gradient_checkpointing

from glyphrl.data.images import image_hash
from glyphrl.data.sample import Sample
from glyphrl.data.table import SampleTable
from glyphrl.rewards.compose import RewardComposer, Scores
from glyphrl.trainers.advantages import Advantages, group_advantages
from glyphrl.trainers.checkpoints import EpochSampler, WholeCheckpoints
from glyphrl.trainers.completions_log import CompletionsLog, LogKey
from glyphrl.trainers.grpo_batch import (
    MicroBatch,
    RunPlace,
    SampledGroup,
    columns_of,
    join_scores,
    log_rows,
    micro_batches,
    none_for_nan,
)
from glyphrl.trainers.grpo_metrics import generation_metrics, loss_metrics, sampler_metrics
from glyphrl.trainers.loss import LossSettings, reduce_loss, sampler_correction, token_loss
from glyphrl.trainers.policy import TokenScores, add_scoring_forward, rope_index_of, score_groups
from glyphrl.trainers.prompts import ImageSizing, banned_token_ids, encode_prompts
from glyphrl.trainers.rollout import RolloutBackend, Sampling


class GroupTrainer(WholeCheckpoints, GRPOTrainer):
    """GRPO on groups that are sampled, scored, logged and trained on as groups.

    What TRL would do once per completion (render, preprocess the image, encode it, read the prompt) happens once per
    group. The loss is TRL's (see `glyphrl.trainers.loss`), and so are the loop, the sampler of the data set, gradient
    accumulation, checkpoints and logging.
    """

    def __init__(
        self,
        *,
        model: Any,
        args: Any,
        processor: Any,
        samples: SampleTable,
        composer: RewardComposer,
        backend: RolloutBackend,
        log: CompletionsLog,
        sizing: ImageSizing,
        system: str | None,
        chunk_groups: int | None = None,
        callbacks: list[Any],
    ) -> None:
        """Prepares training of `model` on `samples`; the arguments are those of a GRPO stage (see `grpo.run`)."""
        super().__init__(
            model=model,
            reward_funcs=[_named(name) for name in composer.names],
            args=args,
            train_dataset=Dataset.from_dict({"index": range(len(samples))}),
            processing_class=processor,
            callbacks=callbacks,
        )
        self.processor = processor
        self.samples = samples
        self.composer = composer
        self.backend = backend
        self.completions_log = log
        self.sizing = sizing
        self.system = system
        self.chunk_groups = chunk_groups
        self.sampling = Sampling(
            args.max_completion_length, args.temperature, args.top_p, args.top_k, args.min_p or 0.0
        )
        self.loss_settings = LossSettings(
            loss_type=args.loss_type,
            epsilon_low=self.epsilon_low,
            epsilon_high=self.epsilon_high,
            delta=args.delta,
            beta=self.beta,
            use_bias_correction_kl=args.use_bias_correction_kl,
            importance_sampling_level=args.importance_sampling_level,
            max_completion_length=args.max_completion_length,
        )
        base = self._base(self.model)
        self.rope_index = rope_index_of(base)
        self.compute_dtype = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else base.dtype
        banned = banned_token_ids(processor.tokenizer)
        add_scoring_forward(base, banned, args.temperature)
        if self.ref_model is not None:
            add_scoring_forward(self.accelerator.unwrap_model(self.ref_model), banned, args.temperature)
        self.synced_step = -1
        self.buffer: list[MicroBatch] = []
        self.logged_at = (-1, 0)
        self.image_hashes: dict[str, str] = {}

    def _base(self, model: Any) -> Any:
        model = self.accelerator.unwrap_model(model)
        return model.get_base_model() if hasattr(model, "peft_config") else model

    def _get_train_sampler(self, dataset: Dataset | None = None) -> EpochSampler:
        return EpochSampler(
            self.train_dataset if dataset is None else dataset,
            mini_repeat_count=self.num_generations,
            batch_size=self.args.generation_batch_size // self.num_generations,
            repeat_count=self.num_iterations * self.args.steps_per_generation,
            shuffle=self.shuffle_dataset,
            seed=self.args.seed,
            epoch=lambda: int(self.state.epoch or 0),
        )

    # -- one generation -------------------------------------------------------------------------------------------

    def _prepare_inputs(self, generation_batch: list[dict[str, Any]]) -> MicroBatch:
        """The next micro-batch; every `steps_per_generation * num_iterations` micro-batches it samples new groups."""
        every = self.args.steps_per_generation * self.num_iterations
        if not self.buffer:  # a resumed run may begin within a generation, whose groups it samples again
            self._step = self.state.global_step * self.args.gradient_accumulation_steps
        if self._step % every == 0 or not self.buffer:
            indices = [row["index"] for row in generation_batch[:: self.num_generations]]
            self.buffer = self._generate_groups(indices)
        return self.buffer[self._step % self.args.steps_per_generation].to(self.accelerator.device)

    def _generate_groups(self, indices: Sequence[int]) -> list[MicroBatch]:
        """Samples, scores and logs the groups of one generation on this rank."""
        groups, scores = self._sample_and_score([self.samples[index] for index in indices])
        advantages, local = self._advantages(scores)
        self._write_log(groups, scores, local)
        metrics = generation_metrics(groups, scores, self.composer.weights, advantages, self.accelerator)
        for name, value in metrics.items():
            self._metrics["train"][name].append(value)
        return self._finish_batches(
            micro_batches(
                groups,
                torch.tensor(local, dtype=torch.float32),
                count=self.args.steps_per_generation,
                rope_index=self.rope_index,
                pad_token_id=self.processor.tokenizer.pad_token_id,
                mask_truncated=self.args.mask_truncated_completions,
            )
        )

    def _sample_and_score(self, samples: Sequence[Sample]) -> tuple[list[SampledGroup], Scores]:
        """Samples chunk after chunk; each is scored in a thread while the next one is sampled."""
        size = self.chunk_groups or len(samples)
        groups: list[SampledGroup] = []
        pending: list[Future[Scores]] = []
        for start in range(0, len(samples), size):
            with self._timed("rollout"):
                chunk = self._sample_groups(samples[start : start + size])
            groups.extend(chunk)
            pending.append(
                self.composer.submit(
                    [text for group in chunk for text in group.texts],
                    columns_of(chunk),
                    sample_ids=[group.prompt.sample.id for group in chunk for _ in group.rollouts],
                )
            )
        with self._timed("score"):  # what is left to wait for
            return groups, join_scores([future.result() for future in pending])

    def _sample_groups(self, samples: Sequence[Sample]) -> list[SampledGroup]:
        """Draws the completions of each sample from the policy as it is now."""
        if self.synced_step != self.state.global_step:
            with self._timed("sync"):
                self.backend.sync(self.accelerator.unwrap_model(self.model))
            self.synced_step = self.state.global_step
        with self._timed("preprocess"):
            prompts = encode_prompts(self.processor, samples, system=self.system, sizing=self.sizing)
        sampled = self.backend.sample(prompts, self.num_generations, self.sampling)
        decode = self.processor.tokenizer.batch_decode
        return [
            SampledGroup(prompt, rollouts, decode([r.token_ids for r in rollouts], skip_special_tokens=True))
            for prompt, rollouts in zip(prompts, sampled, strict=True)
        ]

    def _advantages(self, scores: Scores) -> tuple[Advantages, np.ndarray]:
        """Advantages over all ranks (`scale_rewards: batch` needs them), and this rank's share of them."""
        mine = torch.tensor(scores.reward, device=self.accelerator.device)
        everyone = gather(mine).cpu().numpy()
        advantages = group_advantages(everyone, self.num_generations, self.args.scale_rewards)
        start = self.accelerator.process_index * len(mine)
        return advantages, advantages.values[start : start + len(mine)]

    def _write_log(self, groups: Sequence[SampledGroup], scores: Scores, advantages: np.ndarray) -> None:
        for path in {path for group in groups for path in group.prompt.sample.images}:
            if path not in self.image_hashes:
                self.image_hashes[path] = image_hash(path)
        step = self.state.global_step
        chunk = self.logged_at[1] + 1 if self.logged_at[0] == step else 0
        self.logged_at = (step, chunk)
        place = RunPlace(self.args.run_name, step, self.state.epoch or 0.0, self.accelerator.process_index)
        rows = log_rows(groups, scores, advantages, place, self.composer.spec_hash, self.image_hashes)
        rewards = {name: [none_for_nan(v) for v in values] for name, values in scores.per_function.items()}
        self.completions_log.write(LogKey(step, place.rank, chunk), rows, rewards)

    def _finish_batches(self, batches: list[MicroBatch]) -> list[MicroBatch]:
        """Adds what needs the other ranks or another forward pass."""
        tokens = torch.tensor(
            sum(float(batch.mask.sum()) for batch in batches), device=self.accelerator.device
        )
        tokens = (
            self.accelerator.reduce(tokens, reduction="sum").clamp(min=1.0) / self.accelerator.num_processes
        )
        window = tokens * self.args.gradient_accumulation_steps / self.args.steps_per_generation
        every = self.args.steps_per_generation * self.num_iterations
        on_policy = self.args.gradient_accumulation_steps % every == 0
        for batch in batches:
            batch.window_tokens = float(window)
            if not on_policy:
                batch.old_logps = self._score_without_gradient(self.model, batch).logps
            if self.beta != 0.0:
                batch.ref_logps = self._reference_logps(batch)
        return batches

    def _score_without_gradient(self, model: Any, batch: MicroBatch) -> TokenScores:
        device = self.accelerator.device
        quiet = disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs)
        with torch.no_grad(), quiet, self.accelerator.autocast():
            return score_groups(model, batch.packed.to(device), self.compute_dtype)

    def _reference_logps(self, batch: MicroBatch) -> torch.Tensor:
        """Log-probabilities under the model that the stage started from."""
        if self.ref_model is not None:
            return self._score_without_gradient(self.ref_model, batch).logps
        from trl.trainer.utils import use_adapter

        model = self.accelerator.unwrap_model(self.model)
        with use_adapter(model, adapter_name="ref" if "ref" in model.peft_config else None):
            return self._score_without_gradient(self.model, batch).logps

    # -- one loss -------------------------------------------------------------------------------------------------

    def _compute_loss(self, model: Any, batch: MicroBatch) -> torch.Tensor:
        """The loss of one micro-batch."""
        with self.accelerator.autocast():
            scores = score_groups(model, batch.packed, self.compute_dtype)
        detached = scores.logps.detach()
        old = detached if batch.old_logps is None else batch.old_logps
        ratio = None
        if batch.sampler_logps is not None and self.args.vllm_importance_sampling_correction:
            ratio = sampler_correction(
                old,
                batch.sampler_logps,
                batch.mask,
                mode=self.args.vllm_importance_sampling_mode,
                clip_min=self.args.vllm_importance_sampling_clip_min,
                clip_max=self.args.vllm_importance_sampling_clip_max,
            )
        terms = token_loss(
            scores.logps,
            old,
            batch.advantages,
            batch.mask,
            self.loss_settings,
            ref_logps=batch.ref_logps,
            sampler_ratio=ratio,
        )
        metrics = loss_metrics(terms, scores.entropies, batch.mask, self.accelerator)
        if batch.sampler_logps is not None:
            metrics.update(sampler_metrics(old, batch.sampler_logps, ratio, batch.mask, self.accelerator))
        for name, value in metrics.items():
            self._metrics["train"][name].append(value)
        return reduce_loss(
            terms.loss,
            batch.mask,
            self.loss_settings,
            accumulation_steps=self.current_gradient_accumulation_steps,
            window_tokens=batch.window_tokens,
        )

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        """Adds the seconds of a phase to the step's metrics."""
        start = time.perf_counter()
        yield
        self._metrics["train"][f"time/{phase}"].append(time.perf_counter() - start)


def _named(name: str) -> Any:
    """TRL wants reward functions for their names; ours are called by the composer."""

    def never_called(**columns: Any) -> list[float]:
        raise AssertionError("rewards are computed by the composer")

    never_called.__name__ = name
    return never_called
