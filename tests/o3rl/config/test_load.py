"""What a wrong configuration says: each case by key, value and rule."""

from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from o3rl.config import Objective, OldLogprobs, Profile, RunConfig, as_yaml, examine, load

CONFIGS = sorted((Path(__file__).parents[3] / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_file_loads_and_opens_with_what_it_is_for(path):
    run = load(path)
    assert run.name
    first = path.read_text().splitlines()[0]
    assert first.startswith("# ")
    assert len(first) > 20


def test_the_defaults_hold_together():
    assert load() == RunConfig()


def test_later_layers_win(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("loop:\n  steps: 3\n  groups: 8\n")
    run = load(path, ["loop.steps=5", "learning.objective=grpo", "rewards.weights.format=0.5"])
    assert (run.loop.steps, run.loop.groups) == (5, 8)
    assert run.learning.objective is Objective.grpo
    assert run.rewards.weights == {"format": 0.5}


@pytest.mark.parametrize("text", ["X #2", "2026_11_30", "007", "12:30", "null", "[a]", "''"])
def test_text_is_what_was_given_and_no_yaml(text):
    run = load(None, [f"folder={text}", f"rewards.custom.mine={text}:f", f"data.media={text}"])
    assert (run.folder, run.data.media) == (text, text)
    assert run.rewards.custom == {"mine": f"{text}:f"}


def test_a_custom_part_may_have_a_weight():
    run = load(None, ["rewards.custom.mine=a:b", "rewards.weights.mine=0.2"])
    assert run.rewards.weights == {"mine": 0.2}


def test_an_empty_file_is_the_defaults(tmp_path):
    (tmp_path / "a.yaml").write_text("")
    assert load(tmp_path / "a.yaml") == RunConfig()


def test_paths_follow_the_folder_and_the_environment(monkeypatch):
    monkeypatch.setenv("O3RL_TEST_MEDIA", "/media")
    run = load(CONFIGS[0], ["folder=runs/x", "data.media=${oc.env:O3RL_TEST_MEDIA}"])
    assert run.model.path == "runs/x/sft/model"
    assert run.data.media == "/media"


def test_task_weights_are_checked_by_name_and_value():
    assert load(None, ["data.task_weights.temporal_spatial=2"]).data.task_weights == {
        "temporal_spatial": 2.0
    }
    with pytest.raises(ValueError, match=r"data.task_weights key is 'mpq'.*mcq, free_form"):
        load(None, ["data.task_weights.mpq=2"])
    with pytest.raises(ValueError, match=r"sft.task_weights.mcq is -1.0; it must be 0 or more"):
        load(None, ["sft.task_weights.mcq=-1"])


@pytest.mark.parametrize("path", [None, *CONFIGS], ids=str)
def test_as_yaml_is_read_back(tmp_path, path):
    run = load(path, ["rewards.weights.format=0.5", "seed=7"])
    (tmp_path / "whole.yaml").write_text(as_yaml(run))
    assert load(tmp_path / "whole.yaml") == run


def test_as_yaml_holds_every_field():
    whole = OmegaConf.to_container(OmegaConf.create(as_yaml(RunConfig())))
    assert isinstance(whole, dict)
    for field in fields(RunConfig):
        value = getattr(RunConfig(), field.name)
        if is_dataclass(value):
            assert set(whole[field.name]) == {each.name for each in fields(value)}


TYPOS = {
    "lop.steps=3": ("lop.steps=3", "not in 'RunConfig'", "'loop'"),
    "loop.stpes=3": ("loop.stpes", "not in 'LoopConfig'", "'steps'"),
    "Loop.steps=3": ("Loop", "not in 'RunConfig'", "'loop'"),
    "loop": ("'loop'", "key=value"),
    "=3": ("''", "not in 'RunConfig'"),
}
TYPES = {
    "loop.steps=abc": ("loop.steps", "'abc'", "Integer"),
    "loop.steps=1.5": ("loop.steps", "'1.5'", "Integer"),
    "loop.steps=null": ("loop.steps", "'None'", "'int'"),
    "loop.steps.x=3": ("loop.steps", "{'x': 3}", "Integer"),
    "loop=3": ("loop is 3", "section"),
    "loop.steps=[1": ("'loop.steps=[1'", "no YAML"),
    "loop.steps=${": ("loop.steps", "'${'"),
    "learning.rate=fast": ("learning.rate", "'fast'", "Float"),
    "learning.objective=ppo": ("learning.objective", "'ppo'", "gspo, gspo_token, grpo, cispo"),
    "learning.schedule=step": ("learning.schedule", "'step'", "constant, linear, cosine"),
    "rewards.profile=mine": ("rewards.profile", "'mine'", "paper, released, strict"),
    "model.freeze_vision=maybe": ("model.freeze_vision", "'maybe'", "bool"),
    "rewards.weights={format: x}": ("rewards.weights.format", "'x'", "Float"),
    "rewards.weights=3": ("rewards.weights", "int", "Dict[str, float]"),
    "learning.waive=wide_clip": ("learning.waive", "=wide_clip", "list"),
    "folder=${nope}": ("folder", "nope", "not found"),
    "folder=${oc.env:O3RL_NOT_SET}": ("folder", "O3RL_NOT_SET", "not found"),
}
RANGES = {
    "name=": ("name is ''", "a name"),
    "folder=": ("folder is ''", "a folder"),
    "seed=-1": ("seed is -1", "[0, 2³²)"),
    "model.path=": ("model.path is ''", "hub name"),
    "model.dtype=float16": ("model.dtype is 'float16'", "float32 or bfloat16"),
    "model.lora_rank=-1": ("model.lora_rank is -1", "0 (off) or more"),
    "data.train=": ("data.train is ''", "data import"),
    "data.validation_rows=0": ("data.validation_rows is 0", "1 or more"),
    "frames.fps=0": ("frames.fps is 0", "more than 0"),
    "frames.min_frames=18": ("frames.min_frames is 18", "frames.max_frames (16)"),
    "frames.max_frames=5": ("frames.max_frames is (4, 5)", "even"),
    "rollouts.resource=spot": ("rollouts.resource is 'spot'", "empty where cluster.address is"),
    "cluster.learner_resource=big": ("cluster.learner_resource is 'big'", "cluster.address"),
    "frames.readers=-1": ("frames.readers is -1", "0 (by the machine) or more"),
    "frames.pixels=100": ("frames.pixels is 100", "28² px"),
    "sampling.group_size=1": ("sampling.group_size is 1", "2 or more: else advantages"),
    "sampling.top_p=0": ("sampling.top_p is 0", "(0, 1]"),
    "rewards.sigma_end=5": ("rewards.sigma_end is 5", "sigma_start = 4"),
    "rewards.sigma_end_at=1.5": ("rewards.sigma_end_at is 1.5", "[0, 1]"),
    "rewards.weights.format=-1": ("rewards.weights is {'format': -1.0}", "0 or more"),
    "rewards.weights.ans_ac=0.5": ("rewards.weights.ans_ac is 0.5", "'ans_acc'", "'format'"),
    "rewards.weights.mine=1": ("rewards.weights.mine is 1.0", "one of ['ans_acc'"),
    "rewards.custom.format=a:b": ("rewards.custom.format is 'a:b'", "format is one"),
    "rewards.custom.mine=module": ("rewards.custom.mine is 'module'", "module:function"),
    "rewards.custom.mine=:f": ("rewards.custom.mine is ':f'", "module:function"),
    "learning.clip_low=0": ("learning.clip_low is 0", "(0, 1)"),
    "learning.clip_high=1": ("learning.clip_high is 1", "(0, 1)"),
    "learning.clip_high=11 learning.objective=cispo": ("learning.clip_high is 11", "(0, 10]"),
    "learning.beta2=1": ("learning.beta2 is 1", "[0, 1)"),
    "learning.eps=0": ("learning.eps is 0", "more than 0"),
    "learning.max_skipped=0": ("learning.max_skipped is 0", "1 or more"),
    "learning.zero=1": ("learning.zero is 1", "2 or 3"),
    "learning.rate=-1": ("learning.rate is -1", "more than 0"),
    "learning.rate=.inf": ("learning.rate is inf", "finite"),
    "learning.rate=.nan": ("learning.rate is nan", "more than 0"),
    "learning.waive=[all]": ("learning.waive is ['all']", "ratio_one", "wide_clip"),
    "rollouts.replicas=0": ("rollouts.replicas is 0", "1 or more"),
    "rollouts.memory_share=1": ("rollouts.memory_share is 1", "(0, 1)"),
    "rollouts.seconds=0": ("rollouts.seconds is 0", "more than 0"),
    "rollouts.transfer=rdma": ("rollouts.transfer", "rdma"),
    "loop.groups=0": ("loop.groups is 0", "1 or more"),
    "loop.min_group=1": ("loop.min_group is 1", "2 or more"),
    "sft.weight_decay=-1": ("sft.weight_decay is -1", "0 or more"),
    "sft.batch=0": ("sft.batch is 0", "1 or more"),
    "cluster.cpus=-2": ("cluster.cpus is -2", "0 (all) or more"),
    "cluster.cpus=2": ("cluster.cpus is 2", "2.1 or more, which learner ranks"),
    "tracking.pages_every=0": ("tracking.pages_every is 0", "1 or more"),
}
BY_TURNS = "rollouts.placement=colocated rollouts.gpus=0.5 cluster.gpus_per_rank=0.5"
COMBINATIONS = {
    "loop.refill_zero_spread=2 loop.max_staleness=0": (
        "loop.refill_zero_spread is 2",
        "0 or 1 with loop.max_staleness=0",
    ),
    "loop.truncated=penalised loop.soft_tokens=769": (
        "loop.soft_tokens is 769",
        "at most sampling.max_tokens (768)",
    ),
    "loop.groups=65": ("loop.groups is 65", "multiple of learning.mini_batches (4)"),
    "learning.ranks=32": ("learning.mini_batches is 4", "learning.ranks = 2"),
    "learning.clip_high=0.5": ("learning.clip_high is 0.5", "below 0.1", "wide_clip"),
    "sampling.top_p=0.95": ("sampling.top_p", "is 0.95", "truncated_sampling"),
    "sampling.top_p=0.9": ("sampling.top_p is 0.9", "truncated_sampling"),
    "sampling.top_p=0.95 learning.old_logprobs=recomputed": (
        "sampling.top_p",
        "another distribution than π_old",
        "truncated_sampling",
    ),
    "learning.old_logprobs=recomputed learning.mini_batches=1": (
        "learning.old_logprobs is 'recomputed'",
        "always 1",
        "ratio_one",
    ),
    "loop.min_group=9": ("loop.min_group is 9", "sampling.group_size (8)"),
    "learning.tokens_per_pass=17151": (
        "learning.tokens_per_pass is 17151",
        "17152 or more, what sampling.max_prompt_tokens",
    ),
    "rollouts.placement=colocated": (
        "rollouts.gpus, cluster.gpus_per_rank is (1.0, 1.0)",
        "parts of one GPU where rollouts.placement is colocated",
    ),
    f"{BY_TURNS}": ("learning.optimizer_offload is False", "true where rollouts.placement"),
    f"{BY_TURNS} learning.optimizer_offload=true": (
        "loop.max_staleness is 1",
        "0 where rollouts.placement is colocated",
    ),
    "rollouts.transfer=ipc": (
        "rollouts.placement is 'separate'",
        "colocated where rollouts.transfer is ipc",
    ),
    "rollouts.transfer=nccl rollouts.gpus=0.5": (
        "rollouts.gpus, cluster.gpus_per_rank is (0.5, 1.0)",
        "1 or more each where rollouts.transfer is nccl",
    ),
    "rollouts.transfer=nccl rollouts.max_replicas=4": (
        "rollouts.max_replicas is 4",
        "0 (the pool stays as it is) where rollouts.transfer is nccl",
    ),
    "rollouts.transfer=nccl learning.publish=changes": (
        "learning.publish is 'changes'",
        "full where rollouts.transfer is nccl",
    ),
    "rollouts.transfer=nccl learning.seconds=600": (
        "learning.seconds is 600",
        "> 630 where rollouts.transfer is nccl",
    ),
    "rollouts.transfer=nccl rollouts.engine=mine:Engine": (
        "rollouts.engine is 'mine:Engine'",
        "vllm where rollouts.transfer is nccl",
    ),
    "rollouts.engine=sglang": ("rollouts.engine is 'sglang'", "vllm or module:Class"),
    f"{BY_TURNS} rollouts.transfer=nccl learning.optimizer_offload=true loop.max_staleness=0": (
        "rollouts.placement is 'colocated'",
        "separate where rollouts.transfer is nccl",
    ),
    f"{BY_TURNS} rollouts.replicas=2": ("rollouts.replicas is 2", "1 where rollouts.placement"),
    "rollouts.max_model_tokens=768": (
        "rollouts.max_model_tokens is 768",
        "sampling.max_tokens (768)",
    ),
}


@pytest.mark.parametrize(
    ("overrides", "said"), (TYPOS | TYPES | RANGES | COMBINATIONS).items(), ids=str
)
def test_a_wrong_override_names_key_value_and_rule(overrides, said):
    with pytest.raises(ValueError, match=r".") as caught:
        load(None, overrides.split(" ") if "{" not in overrides else [overrides])
    message = str(caught.value)
    assert [part for part in said if part not in message] == [], message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("loop:\n  stpes: 3\n", ("a.yaml", "loop.stpes", "'steps'")),
        ("loop: 3\n", ("a.yaml", "loop is 3", "section")),
        ("loop:\n", ("a.yaml", "loop is None", "section")),
        ("loop: [\n", ("a.yaml", "no YAML", "line 2")),
        ("loop:\n  steps: 3\n  steps: 4\n", ("a.yaml", "duplicate key steps")),
        ("- a\n", ("a.yaml", "list", "key: value")),
        ("3\n", ("a.yaml", "int", "key: value")),
        ("loop:\n  steps: x\n", ("a.yaml", "loop.steps", "'x'", "Integer")),
    ],
)
def test_a_wrong_file_is_named(tmp_path, text, said):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"a\.yaml") as caught:
        load(tmp_path / "a.yaml")
    assert [part for part in said if part not in str(caught.value)] == [], caught.value
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe\x00loop")
    with pytest.raises(ValueError, match=r"a\.yaml is no YAML"):
        load(tmp_path / "a.yaml")


def test_a_missing_file_names_the_way_out(tmp_path):
    with pytest.raises(FileNotFoundError, match="o3rl configs"):
        load(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    "overrides",
    [
        ["learning.clip_high=0.5", "learning.waive=[wide_clip]"],
        ["learning.clip_high=0.2", "learning.objective=grpo"],
        ["sampling.top_p=0.95", "learning.waive=[truncated_sampling]"],
        ["sampling.temperature=0.7"],
        ["sampling.temperature=1.2", "learning.old_logprobs=recomputed"],
        [
            "learning.mini_batches=1",
            "learning.old_logprobs=recomputed",
            "learning.waive=[ratio_one]",
        ],
        ["learning.ranks=16"],
    ],
    ids=" ".join,
)
def test_what_is_meant_is_accepted(overrides):
    load(None, overrides)


def test_nothing_behind_the_equals_sign_is_an_empty_text():
    assert load(None, ["cluster.address=auto", "cluster.address="]).cluster.address == ""
    assert load(None, ["tracking.uri=http://h/?a="]).tracking.uri == "http://h/?a="
    with pytest.raises(ValueError, match=r"override 'loop\.steps=': loop\.steps: Value ''"):
        load(None, ["loop.steps="])


@pytest.mark.parametrize(
    ("overrides", "clip"),
    [
        ([], (3e-4, 4e-4)),
        (["learning.objective=grpo"], (0.2, 0.2)),  # not the window of GSPO
        (["learning.objective=grpo", "learning.clip_high=0.28"], (0.2, 0.28)),
        (["learning.objective=cispo"], (1.0, 4.0)),
        (["learning.objective=gspo_token", "learning.clip_low=1e-3"], (1e-3, 4e-4)),
    ],
)
def test_the_clip_window_is_the_objectives_own(overrides, clip):
    assert load(None, overrides).learning.clip == clip


def test_the_published_recipes():
    folder = CONFIGS[0].parent
    ours, released = (
        load(folder / f"qwen2_5_vl_7b_8gpu{suffix}.yaml") for suffix in ("", "_released")
    )
    assert (ours.loop.groups, ours.sampling.group_size, ours.learning.mini_batches) == (64, 8, 4)
    assert ours.learning.clip == (3e-4, 4e-4)
    assert ours.learning.old_logprobs is OldLogprobs.recomputed
    assert (released.loop.groups, released.sampling.group_size) == (8, 4)
    assert (released.learning.kl, released.sampling.top_p) == (0.04, 0.95)
    assert released.rewards.profile is Profile.released
    for run in (ours, released):
        assert (run.learning.rate, run.learning.zero, run.sampling.max_tokens) == (1e-6, 3, 768)
        assert run.loop.groups // run.learning.mini_batches >= run.learning.ranks


EVERYTHING = {
    "loop.stpes=3": "override 'loop.stpes=3': loop.stpes: Key 'stpes' not in 'LoopConfig'",
    "learning.rate=fast": "override 'learning.rate=fast': learning.rate: Value 'fast'",
    "frames.fps=-1": "frames.fps is -1.0; it must be more than 0",
    "rewards.weights.foo=2": "rewards.weights.foo is 2.0; it must be the weight of one of",
    "learning.mini_batches=0": "learning.mini_batches is 0; it must be 1 or more",
    "sft.batch=0": "sft.batch is 0; it must be 1 or more",
}


def test_all_that_is_wrong_is_told_at_once(tmp_path):
    (tmp_path / "a.yaml").write_text("loop:\n  steps: many\n  groups: 0\n")
    run, problems = examine(tmp_path / "a.yaml", list(EVERYTHING))
    assert run is None
    said = [
        f"{tmp_path / 'a.yaml'}: loop.steps: Value 'many'",
        *EVERYTHING.values(),
        "loop.groups is 0; it must be 1 or more",
    ]
    missing = [part for part in said if not any(each.startswith(part) for each in problems)]
    assert missing == []
    assert len(problems) == len(said)


def test_combinations_are_looked_at_together_when_each_value_is_right(tmp_path):
    (tmp_path / "a.yaml").write_text("learning:\n  clip_high: 0.5\n")
    run, problems = examine(tmp_path / "a.yaml", ["loop.min_group=9", "loop.groups=62"])
    assert run is None
    assert [problem.split(" is ")[0] for problem in problems] == [
        "loop.groups",
        "learning.clip_high",
        "loop.min_group",
    ]
    with pytest.raises(ValueError, match=r"^loop\.groups is 62"):  # and `load` still raises
        load(tmp_path / "a.yaml", ["loop.groups=62"])


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_with_nothing_wrong_it_is_the_run_that_load_gives(path):
    assert examine(path, ["seed=3"]) == (load(path, ["seed=3"]), ())
