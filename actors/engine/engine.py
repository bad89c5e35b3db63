"""The rollout engine: vLLM's AsyncLLM, sampling groups under versioned weights. No Ray here.

                    ┌────────── serving ──────────┐
    start ─► load or adopt ─► sample … sample ─► load: fetch and check while serving,
                                                 then pause (keep) ─► update ─► resume

Laws: nothing is sampled before weights were loaded or adopted; each request's seed is a hash of
(run seed, group, sample, attempt), so that a repeat is bitwise the same and a prompt that is tried
again samples afresh; prompt caches never cross versions (a salt per version; the encoder's cache is
emptied where the vision tower is trained); an error inside an update ends the engine. Left out:
where weights and frames come from.
"""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import numpy as np
from PIL import Image
from transformers import AutoTokenizer
from vllm import SamplingParams, TokensPrompt
from vllm.distributed.weight_transfer.base import (
    WeightTransferInitRequest,
    WeightTransferUpdateRequest,
)
from vllm.exceptions import GracefulHTTPError, VLLMClientError
from vllm.inputs import EngineInput
from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError
from vllm.v1.engine.utils import CoreEngineProcManager

from actors.engine.child_processes import Processes
from actors.engine.requests import check_frames, group, parameters, request, updates
from actors.engine.seeds import seed_of
from actors.engine.vllm_arguments import engine_config, engine_environment
from actors.weights.node_cache import Stage
from actors.weights.update_stream import Delivery, EngineBroken, Loaded
from o3rl.config import ModelConfig, RolloutsConfig, SamplingConfig, Spanning
from o3rl.media.reader import digest
from o3rl.text.boxes import convention_of
from o3rl.text.prompts import longest_prompt, messages, rendered
from o3rl.types import Failure, FailureKind, Group, Prompt, Version
from o3rl.weights.manifest import WeightSource

PLACEHOLDERS = ("<|image_pad|>", "<|video_pad|>")  # the policy must not write them
ONE_IMAGE = ("<|vision_start|>", "<|image_pad|>", "<|vision_end|>")
KILL_SECONDS = 10.0
CLOSE_SECONDS = 3.0  # that vLLM has to tidy up; its processes hold nothing worth waiting for


class Llm(AsyncLLM):
    """Is ended once: `__del__` would do so again at exit, when the modules it needs are gone."""

    ended = False

    def shutdown(self, timeout: float | None = None) -> None:
        """End the engine process, the first time."""
        if not self.ended:
            self.ended = True
            super().shutdown(timeout)


class Engine:
    """One vLLM engine in a process of its own."""

    def __init__(self, model: ModelConfig, *, sampling: SamplingConfig, rollouts: RolloutsConfig):
        """Start vLLM and wait for it. Raises what vLLM raises, leaving no process behind."""
        self.sampling, self.rollouts, self.model = sampling, rollouts, model
        self.version: Version | None = None  # None: no weights were loaded or adopted yet
        with engine_environment(rollouts):
            self._llm = Llm.from_vllm_config(
                engine_config(model, rollouts=rollouts, temperature=sampling.temperature)
            )
        manager = self._llm.engine_core.resources.engine_manager
        assert isinstance(manager, CoreEngineProcManager)
        self._processes = Processes()
        self._processes.add(process.pid for process in manager.processes if process.pid)
        self._tokenizer = AutoTokenizer.from_pretrained(model.path)
        self._forbidden = self._tokenizer.convert_tokens_to_ids(list(PLACEHOLDERS))
        config = self._llm.model_config.hf_config
        self._convention = convention_of(config.model_type)
        vision = config.vision_config
        self._factor = vision.patch_size * vision.spatial_merge_size  # pixels a side of a token
        self._serving = asyncio.Event()
        self._update = asyncio.Lock()
        self._rendering = asyncio.Lock()
        self._numbers = itertools.count()
        self._broken = ""
        self._asleep = False
        self._stage = Stage(seconds=rollouts.load_seconds)

    @property
    def running(self) -> int:
        """Samples that vLLM has not finished."""
        return self._llm.get_num_unfinished_requests()

    async def ping(self) -> None:
        """Returns once vLLM's engine and worker processes have answered, between two passes."""
        await self._llm.collective_rpc("o3rl_pid")

    async def warm_up(self) -> None:
        """One short request with an image, so that the first real one is not the slow one."""
        self._processes.add(await self._llm.collective_rpc("o3rl_pid"))
        shown = TokensPrompt(
            prompt_token_ids=self._tokenizer.convert_tokens_to_ids(list(ONE_IMAGE)),
            multi_modal_data={"image": [Image.new("RGB", (4 * self._factor, 4 * self._factor))]},
            multi_modal_uuids={"image": ["warm-up"]},
        )
        settings = SamplingParams(max_tokens=2, output_kind=RequestOutputKind.FINAL_ONLY)
        [output] = await self._outputs(shown, [settings])
        if isinstance(output, str):
            raise EngineBroken(f"the first request failed: {output}")

    def forbid_end(self) -> None:
        """Every completion is to have `sampling.max_tokens`, to measure equal lengths."""
        self._forbidden = [*self._forbidden, self._tokenizer.eos_token_id]

    async def adopt(self, version: Version) -> None:
        """Serve the weights of `model.path`, that vLLM started with, under this version."""
        if self.version is not None:
            raise ValueError(f"the engine holds version {self.version}; only a new one can adopt")
        await self._llm.update_weight_version(str(version))
        self.version = version
        self._serving.set()

    async def generate(self, prompt: Prompt, frames: np.ndarray, *, seed: int) -> Group | Failure:
        """A group for training: `sampling.group_size` rollouts at `sampling.temperature`."""
        n, temperature = self.sampling.group_size, self.sampling.temperature
        return await self.sample(prompt, frames, seed=seed, temperature=temperature, n=n)

    async def sample(
        self, prompt: Prompt, frames: np.ndarray, *, seed: int, temperature: float, n: int
    ) -> Group | Failure:
        """`n` rollouts at `temperature` (0: greedy); `frames` is uint8 [F, H, W, 3] as planned.

        Log-probabilities are of the untempered, unmasked distribution. A sample that fails is a
        Failure beside the rollouts; a prompt that cannot be run is a Failure, final if it is too
        long. Raises EngineBroken, and ValueError if the frames are not those of the plan.
        """
        check_frames(prompt, frames)
        tokens = self._tokens(prompt)
        length = len(tokens) - len(frames) + prompt.plan.tokens(self._factor)
        room = longest_prompt(self.sampling, self.rollouts)
        if length > room:
            reason = f"prompt has {length} tokens; sampling and rollouts allow {room}"
            return Failure(prompt.group, None, reason, FailureKind.PROMPT)
        version = await self._current()
        asked = request(prompt, tokens, frames, version=version)
        settings = [
            parameters(
                temperature=temperature,
                top_p=self.sampling.top_p,
                max_tokens=self.sampling.max_tokens,
                seed=seed_of(seed, prompt, index),
                forbidden=self._forbidden,
            )
            for index in range(n)
        ]
        try:
            outputs = await self._outputs(asked, settings)
        except (VLLMClientError, GracefulHTTPError) as error:  # vLLM does not take the prompt
            reason = f"{type(error).__name__}: {error.__cause__ or error}"
            return Failure(prompt.group, None, reason, FailureKind.SERVICE)
        return group(
            prompt,
            outputs,
            length=length,
            started=version,
            frames_digest=digest(frames),
            read=partial(self._tokenizer.decode, skip_special_tokens=True),
        )

    async def load(self, source: WeightSource, version: Version | None = None) -> Loaded:
        """Take `version` (None: the newest) from `source` and serve it.

        Raises ValueError naming the tensor if the manifest does not cover the model or bytes differ
        from it, LookupError if the source lacks the version: the engine then serves what it served.
        Raises EngineBroken if the update itself fails.
        """
        async with self._update:
            self._refuse_broken()
            began = time.monotonic()
            manifest = await asyncio.to_thread(source.manifest, version)
            await self._check_names(manifest.version, manifest.names)
            with ExitStack() as stack:
                files = self._stage.files(source, manifest)
                staged = await asyncio.to_thread(stack.enter_context, files)
                fetched = time.monotonic()
                report = await self._replace(manifest.version, updates(manifest, staged.paths))
            return Loaded(
                version=manifest.version,
                digest=manifest.digest,
                tensors=report["tensors"],
                parameters=report["parameters"],
                size=report["bytes"],
                fetched=staged.fetched,
                seconds_fetch=fetched - began,
                seconds_stalled=time.monotonic() - fetched,
            )

    async def link(self, init: Mapping[str, Any]) -> None:
        """Connect to who sends weights straight to this GPU, as vLLM's back end wants it.

        Raises EngineBroken where that fails: its workers may wait for the other side for ever.
        """
        try:
            async with asyncio.timeout(self.rollouts.load_seconds):
                request = WeightTransferInitRequest(dict(init))
                await self._llm.init_weight_transfer_engine(request)
        except (Exception, asyncio.CancelledError) as error:
            self._broken = f"it cannot connect to the learner: {error or repr(error)}"
            raise EngineBroken(self._broken) from error

    async def take(self, delivery: Delivery) -> Loaded:
        """Take a version that is sent straight to this GPU, and serve it. Errors as in `load`."""
        async with self._update:
            self._refuse_broken()
            await self._check_names(delivery.version, delivery.names)
            began = time.monotonic()
            report = await self._replace(delivery.version, delivery.updates())
            return Loaded(
                version=delivery.version,
                digest=delivery.digest,
                tensors=report["tensors"],
                parameters=report["parameters"],
                size=report["bytes"],
                fetched=report["bytes"],
                seconds_fetch=0.0,
                seconds_stalled=time.monotonic() - began,
            )

    async def sleep(self) -> None:
        """Give the GPU's memory to others until the next `load`: weights wait in the machine's.

        Raises ValueError while something is being sampled, EngineBroken if vLLM does not sleep.
        """
        async with self._update:
            self._refuse_broken()
            if self.running:
                raise ValueError(f"{self.running} samples are being drawn; the engine cannot sleep")
            self._serving.clear()
            try:
                async with asyncio.timeout(self.rollouts.load_seconds):
                    await self._llm.sleep(level=1)
            except (Exception, asyncio.CancelledError) as error:
                self._broken = f"it did not go to sleep: {error or repr(error)}"
                self._serving.set()
                raise EngineBroken(self._broken) from error
            self._asleep = True

    async def checksums(self) -> list[dict[str, str]]:
        """vLLM's digests of its own (fused, repacked) parameters, one table per worker."""
        return await self._llm.compute_weight_checksums()

    async def close(self) -> None:
        """End vLLM; no process of it is left when this returns."""
        self._broken = self._broken or "it was closed"
        self._serving.set()
        if self._llm.output_handler is not None:
            self._llm.output_handler.cancel()  # else it reports the end that we make as an error
        await asyncio.to_thread(self._llm.shutdown, CLOSE_SECONDS)
        await asyncio.to_thread(self._processes.kill, KILL_SECONDS)  # it may leave workers
        self._stage.close()

    async def _replace(
        self, version: Version, updates: AsyncIterator[Mapping[str, Any]]
    ) -> dict[str, int]:
        """Pause, take update by update, resume; running requests fare as `rollouts.spanning`."""
        llm, limit, spanning = self._llm, self.rollouts.load_seconds, self.rollouts.spanning
        self._serving.clear()
        try:
            async with asyncio.timeout(limit):
                mode = "abort" if spanning is Spanning.abort else "keep"
                await llm.pause_generation(mode=mode, clear_cache=False)
                if self._asleep:
                    await llm.wake_up(["weights"])
                await llm.start_weight_update()
                async for update in updates:
                    await llm.update_weights(WeightTransferUpdateRequest(dict(update)))
                await llm.finish_weight_update(str(version))
                [report, *_] = await llm.collective_rpc("o3rl_transfer_report")
                if self._asleep:  # not before: the update takes room of its own
                    await llm.wake_up(["kv_cache"])
                    self._asleep = False
                if not self.model.freeze_vision:
                    await llm.reset_encoder_cache()  # it holds images seen by the old tower
                if spanning is Spanning.recompute:
                    await self._forget_prefixes()
                await llm.resume_generation()
        except (Exception, asyncio.CancelledError) as error:
            self._broken = f"update to version {version} failed: {error or repr(error)}"
            self._serving.set()
            raise EngineBroken(self._broken) from error
        self.version = version
        self._serving.set()
        return report

    async def _forget_prefixes(self) -> None:
        """Running requests give up their caches; each is made anew when it goes on."""
        if not await self._llm.reset_prefix_cache(reset_running_requests=True):
            raise RuntimeError("vLLM kept its caches, though it was to make them anew")

    async def _check_names(self, version: Version, names: Sequence[str]) -> None:
        with self._whole():
            problems = await self._llm.collective_rpc("o3rl_name_problems", args=(list(names),))
        if problems[0]:
            raise ValueError(f"weights of version {version}: {problems[0]}")

    async def _current(self) -> Version:
        """The version that serves; waits for an update to end."""
        self._refuse_broken()
        if self.version is None and not self._update.locked():
            raise ValueError("no weights were loaded or adopted; nothing can be sampled yet")
        limit = self.rollouts.load_seconds
        try:
            async with asyncio.timeout(limit):
                await self._serving.wait()
        except TimeoutError as error:
            raise TimeoutError(f"the engine was still updating weights after {limit} s") from error
        self._refuse_broken()
        assert self.version is not None
        return self.version

    def _refuse_broken(self) -> None:
        if not self._broken and self._llm.errored:
            self._broken = "vLLM's engine process ended"
        if self._broken:
            raise EngineBroken(f"the rollout engine cannot serve: {self._broken}")

    def _tokens(self, prompt: Prompt) -> list[int]:
        chat = messages(
            prompt.row, prompt.plan, style=self.model.prompt_style, convention=self._convention
        )
        text = rendered(self._tokenizer, chat)
        return self._tokenizer(text, add_special_tokens=False)["input_ids"]

    async def _outputs(
        self, asked: TokensPrompt, settings: Sequence[SamplingParams]
    ) -> list[RequestOutput | str]:
        """One output, or why there is none, for each of the settings."""
        await self._rendering.acquire()
        sending = asyncio.create_task(self._sent(asked, settings))
        try:
            drawn = await asyncio.shield(sending)
        except asyncio.CancelledError:
            sending.add_done_callback(_cancel)
            raise
        return await asyncio.gather(*drawn)

    async def _sent(
        self, asked: TokensPrompt, settings: Sequence[SamplingParams]
    ) -> list[asyncio.Task[RequestOutput | str]]:
        """A prompt on its way, rendered twice at most: the second time without its images.

        What was rendered is sent on in any case, and before the next prompt is rendered: else the
        image caches of front end and engine would disagree on what the engine has.
        """
        try:
            ready = [await self._rendered(asked) for _ in settings[:2]]
            return [
                asyncio.create_task(self._output(ready[min(index, 1)], each))
                for index, each in enumerate(settings)
            ]
        finally:
            self._rendering.release()

    async def _rendered(self, asked: TokensPrompt) -> EngineInput:
        with self._whole():
            [ready] = await self._llm.renderer.render_cmpl_async([asked])
        return ready

    async def _output(self, ready: EngineInput, settings: SamplingParams) -> RequestOutput | str:
        try:
            with self._whole():
                stream = self._llm.generate(ready, settings, str(next(self._numbers)))
                [output] = [output async for output in stream]
        except (EngineGenerateError, VLLMClientError, GracefulHTTPError) as error:
            return f"{type(error).__name__}: {error.__cause__ or error}"
        return output

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """EngineBroken where vLLM finds its engine's process ended meanwhile."""
        try:
            yield
        except EngineDeadError as error:
            self._broken = "vLLM's engine process ended"
            raise EngineBroken(self._broken) from error


def _cancel(sending: asyncio.Task[list[asyncio.Task[RequestOutput | str]]]) -> None:
    """What was sent for one who has gone."""
    if not sending.cancelled() and sending.exception() is None:
        for drawn in sending.result():
            drawn.cancel()
