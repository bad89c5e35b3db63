"""The rollout engine: vLLM's AsyncLLM, sampling groups under versioned weights. No Ray here.

    start ─► load or adopt ─► sample … sample ─► load ─► sample …

Laws: nothing is sampled before weights were loaded or adopted; each request's seed is a hash of
(run seed, group, sample, attempt), so that a repeat is bitwise the same and a prompt that is tried
again samples afresh; prompt caches never cross versions (a salt per version; the encoder's cache is
emptied where the vision tower is trained). How it comes to weights is `engine_update`'s. Left out:
where frames come from.
"""

import asyncio
import itertools
from collections.abc import Sequence
from functools import partial

import numpy as np
from PIL import Image
from transformers import AutoTokenizer
from vllm import SamplingParams, TokensPrompt
from vllm.exceptions import GracefulHTTPError, VLLMClientError
from vllm.inputs import EngineInput
from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineGenerateError
from vllm.v1.engine.utils import CoreEngineProcManager

from actors.engine.child_processes import Processes
from actors.engine.requests import (
    check_frames,
    group,
    inert_chat,
    parameters,
    question,
    question_parameters,
    request,
)
from actors.engine.seeds import seed_of, seed_of_question
from actors.engine.vllm_arguments import engine_config, engine_environment
from actors.weights.engine_update import UpdatedEngine
from actors.weights.update_stream import EngineBroken
from o3rl.config import ModelConfig, RolloutsConfig, SamplingConfig
from o3rl.media.reader import frames_digest
from o3rl.text.boxes import convention_of
from o3rl.text.control_tokens import control_tokens, inert_row
from o3rl.text.prompts import longest_prompt, messages, rendered
from o3rl.types import Failure, FailureKind, Group, Message, Prompt, ReplySampling

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


class Engine(UpdatedEngine):
    """One vLLM engine in a process of its own."""

    def __init__(self, model: ModelConfig, *, sampling: SamplingConfig, rollouts: RolloutsConfig):
        """Start vLLM and wait for it. Raises what vLLM raises, leaving no process behind."""
        with engine_environment(rollouts):
            llm = Llm.from_vllm_config(
                engine_config(model, rollouts=rollouts, temperature=sampling.temperature)
            )
        super().__init__(llm, model, rollouts)
        self.sampling = sampling
        manager = self._llm.engine_core.resources.engine_manager
        assert isinstance(manager, CoreEngineProcManager)
        self._processes = Processes()
        self._processes.add(process.pid for process in manager.processes if process.pid)
        self._tokenizer = AutoTokenizer.from_pretrained(model.path)
        self._control = control_tokens(self._tokenizer)
        self._forbidden = self._tokenizer.convert_tokens_to_ids(list(PLACEHOLDERS))
        config = self._llm.model_config.hf_config
        self._convention = convention_of(config.model_type)
        vision = config.vision_config
        self._factor = vision.patch_size * vision.spatial_merge_size  # pixels a side of a token
        self._rendering = asyncio.Lock()
        self._numbers = itertools.count()

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
            frames_digest=frames_digest(frames),
            read=partial(self._tokenizer.decode, skip_special_tokens=True),
        )

    async def ask(
        self,
        messages: Sequence[Message],
        images: Sequence[np.ndarray],
        sampling: ReplySampling,
        *,
        seed: int,
    ) -> list[str]:
        """The replies to a chat that refers to `images`, uint8 [H, W, 3], in their order.

        At most `sampling.samples`: one that failed is missing. Text never becomes a control token.
        Raises EngineBroken; ValueError where vLLM does not take the chat, or no reply came.
        """
        chat = inert_chat(messages, self._control, images=len(images))
        tokens = self._tokenizer(rendered(self._tokenizer, chat), add_special_tokens=False)
        asked = question(tokens["input_ids"], images, version=await self._current())
        content = f"{chat}{asked.get('multi_modal_uuids')}"
        settings = [
            question_parameters(
                sampling,
                seed=seed_of_question(seed, content, index),
                forbidden=self._forbidden,
            )
            for index in range(sampling.samples)
        ]
        try:
            outputs = await self._outputs(asked, settings)
        except (VLLMClientError, GracefulHTTPError) as error:
            raise ValueError(f"vLLM does not take it: {error.__cause__ or error}") from error
        come = [each.outputs[0] for each in outputs if isinstance(each, RequestOutput)]
        if not come:
            raise ValueError(f"no reply came, the first: {outputs[0]}")
        read = partial(self._tokenizer.decode, skip_special_tokens=True)
        return [read(each.token_ids) for each in come]

    async def close(self) -> None:
        """End vLLM; no process of it is left when this returns."""
        self._broken = self._broken or "it was closed"
        self._serving.set()
        if self._llm.output_handler is not None:
            self._llm.output_handler.cancel()  # else it reports the end that we make as an error
        await asyncio.to_thread(self._llm.shutdown, CLOSE_SECONDS)
        await asyncio.to_thread(self._processes.kill, KILL_SECONDS)  # it may leave workers
        self._stage.close()

    def _tokens(self, prompt: Prompt) -> list[int]:
        row, style = inert_row(prompt.row, self._control), self.model.prompt_style
        chat = messages(row, prompt.plan, style=style, convention=self._convention)
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


def _cancel(sending: asyncio.Task[list[asyncio.Task[RequestOutput | str]]]) -> None:
    """What was sent for one who has gone."""
    if not sending.cancelled() and sending.exception() is None:
        for drawn in sending.result():
            drawn.cancel()
