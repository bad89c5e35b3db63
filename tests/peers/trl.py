"""Whole steps, ours with vLLM against TRL's GRPOTrainer: `python -m tests.peers.trl`.

One group a step on the same cores: sample G completions of exactly C tokens for a prompt of P, a
reward that costs nothing, one update of all weights, and for us the new weights handed to vLLM.
The same random policy, pictures and dtype, checkpointing on both sides. One after the other; the
first step of each is not counted. Ours runs its parts in turn, without the overlap of a real run.
OMP_NUM_THREADS sets the threads of all of them; by default there are as many as cores.
"""

import argparse
import asyncio
import multiprocessing
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import TYPE_CHECKING, Any

from cluster.bench.report import only_the_report, table, tell
from o3rl.config.shipped import model_path
from tests.by_hand import command

if TYPE_CHECKING:
    from cluster.bench.random_models import Shape

SECONDS = 4 * 3600.0  # limit for TRL's side
COLUMNS = ("", "step s", "samples/s", "learning s", "learned/s")


@dataclass(frozen=True, slots=True)
class StepSeconds:
    """Of a whole step of RL, and of that what was learning."""

    whole: float
    learn: float


def run(options: argparse.Namespace) -> int:
    """Measure, then a table or JSON. Raises ValueError where TRL is not installed."""
    if find_spec("trl") is None:
        raise ValueError("trl is not installed; to compare with it: pip install 'o3rl[peers]'")
    if options.repeats < 1:
        raise ValueError(f"--repeats is {options.repeats}; it must be 1 or more")
    from cluster.bench.fixtures import build_folder
    from cluster.bench.random_models import Shape

    shape = Shape.parse(options.shape)
    micro_batch = options.micro_batch or shape.group
    if shape.group % micro_batch:
        raise ValueError(f"--micro-batch is {micro_batch}; it must divide G ({shape.group})")
    with TemporaryDirectory() as made, only_the_report():
        tiny = options.model == "tiny"
        folder = Path(model_path("tiny")) if tiny else build_folder(Path(made), options.model)
        theirs = {"repeats": options.repeats, "micro_batch": micro_batch}
        trl = _alone(_theirs, folder, shape, out=Path(made), **theirs)
        ours = asyncio.run(_ours(folder, shape, repeats=options.repeats))
    found = report(shape, ours, trl) | {"model": options.model, "micro_batch": micro_batch}
    title = (
        f"{options.model}, (P, C, G) = ({shape.prompt}, {shape.completion}, {shape.group}): a step "
        f"{found['speedup']:.2f} times as fast, learning {found['learner_speedup']:.2f}"
    )
    return tell(found, [table(title, COLUMNS, _rows(found))], as_json=options.json)


def report(shape: "Shape", ours: list[StepSeconds], trl: list[StepSeconds]) -> dict[str, Any]:
    """Samples a second by side, of whole steps and of learning alone, and both ratios."""
    sides = {"ours": ours, "trl": trl}
    whole = {name: median(step.whole for step in steps) for name, steps in sides.items()}
    learn = {name: median(step.learn for step in steps) for name, steps in sides.items()}
    return {
        "P": shape.prompt,
        "C": shape.completion,
        "G": shape.group,
        "samples_per_second": {name: shape.group / each for name, each in whole.items()},
        "learned_per_second": {name: shape.group / each for name, each in learn.items()},
        "speedup": whole["trl"] / whole["ours"],
        "learner_speedup": learn["trl"] / learn["ours"],
        "seconds": {name: [asdict(step) for step in steps] for name, steps in sides.items()},
    }


def _rows(found: dict[str, Any]) -> list[tuple[str, ...]]:
    """One a side: medians of the seconds, and samples a second."""
    return [
        (
            side,
            f"{median(step['whole'] for step in steps):.2f}",
            f"{found['samples_per_second'][side]:.2f}",
            f"{median(step['learn'] for step in steps):.2f}",
            f"{found['learned_per_second'][side]:.2f}",
        )
        for side, steps in found["seconds"].items()
    ]


def _alone(work: Any, *arguments: Any, **keywords: Any) -> Any:
    """`work` in a process of its own, which is ended with it."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply_async(work, arguments, keywords).get(SECONDS)


def _theirs(folder: Path, shape: "Shape", **settings: Any) -> list[StepSeconds]:
    from tests.peers.trl_trainer import trl_steps

    return trl_steps(folder, shape, **settings)


async def _ours(folder: Path, shape: "Shape", *, repeats: int) -> list[StepSeconds]:
    """Seconds of `repeats` steps, after one that is not counted."""
    import torch

    from actors.engine.engine import Engine
    from cluster.bench.fixtures import alone, build_prompts, policy_of, scored_group
    from learners.rank.worker import RankWorker
    from o3rl.config import LearningConfig, RolloutsConfig, SamplingConfig, Schedule
    from o3rl.types import Group, Version
    from o3rl.weights.versions import MemoryWeights

    prompts = build_prompts(folder, shape.prompt, repeats + 1)
    frames = {prompt.media_key: shown for prompt, shown in prompts}
    model = policy_of(folder)
    tokens = shape.prompt + shape.completion
    rollouts = RolloutsConfig(
        gpus=0, cpus=torch.get_num_threads(), max_model_tokens=tokens, max_batched_tokens=tokens
    )
    sampling = SamplingConfig(
        group_size=shape.group, max_tokens=shape.completion, max_prompt_tokens=shape.prompt
    )
    learning = LearningConfig(rate=1e-6, schedule=Schedule.constant, mini_batches=1)
    worker = RankWorker(alone(model, learning), frames.__getitem__)
    weights, steps = MemoryWeights(), []
    engine = Engine(model, sampling=sampling, rollouts=rollouts)
    try:
        engine.forbid_end()
        await engine.warm_up()
        await engine.adopt(Version(0, 0))
        for number, (prompt, shown) in enumerate(prompts):
            started = perf_counter()
            group = await engine.generate(prompt, shown, seed=number)
            assert isinstance(group, Group), group
            assert {len(r.tokens_T) for r in group.rollouts_G} == {shape.completion}
            batch, sampled = [scored_group(group)], perf_counter()
            worker.update([batch], version=engine.version)
            learned = perf_counter()
            worker.publish(Version(0, number + 1), weights)
            await engine.load(weights)
            steps.append(StepSeconds(perf_counter() - started, learned - sampled))
    finally:
        await engine.close()
        worker.close()
    return steps[1:]


if __name__ == "__main__":
    parser = argparse.ArgumentParser("python -m tests.peers.trl", description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="steps of each side (default 5)")
    words = "PxCxG: tokens of prompt, of each completion, group (default %(default)s)"
    parser.add_argument("--shape", default="2400x256x8", help=words)
    words = "random 1m or 80m, or tiny, the shipped one (default %(default)s)"
    parser.add_argument("--model", default="80m", help=words)
    words = "completions that TRL runs at once (default: the group)"
    parser.add_argument("--micro-batch", type=int, help=words)
    command(run, parser)
