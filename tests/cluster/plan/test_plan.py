"""`o3rl plan`: arithmetic against numbers worked out by hand, and problems by name."""

import json

import pytest

from cluster.commands import cli
from cluster.plan.estimate import (
    GIB,
    checkpoint_bytes,
    frame_tokens,
    kv_block_bytes,
    kv_room,
    largest,
    plan_of,
    published_bytes,
)
from cluster.plan.node_placement import Node, Unit, misfits, place
from learners.model.architecture import KNOWN, Architecture, config_of
from o3rl.config import FramesConfig, RolloutsConfig, load
from o3rl.config.shipped import find
from o3rl.data.parquet import write_rows
from o3rl.types import Row, Task, Truth
from tests.cluster.commands.test_cli import refused

SEVEN_B = Architecture.of(config_of("Qwen/Qwen2.5-VL-7B-Instruct"))
PSI = 8_292_166_656
PARAMETERS = {
    "Qwen/Qwen2.5-VL-3B-Instruct": 3_754_622_976,
    "Qwen/Qwen2.5-VL-7B-Instruct": PSI,
    "Qwen/Qwen2.5-VL-32B-Instruct": 33_452_718_336,
    "Qwen/Qwen2.5-VL-72B-Instruct": 73_410_777_344,
    "Qwen/Qwen3-VL-2B-Instruct": 2_127_532_032,
    "Qwen/Qwen3-VL-4B-Instruct": 4_437_815_808,
    "Qwen/Qwen3-VL-8B-Instruct": 8_767_123_696,
    "Qwen/Qwen3-VL-32B-Instruct": 33_357_390_064,
}
BIG = Node(64, 8, 80)


def seven_b(*overrides: str):
    return load(find("qwen2_5_vl_7b_8gpu"), ["cluster.address=auto", *overrides])


@pytest.mark.parametrize("name", KNOWN)
def test_known_models_have_their_published_number_of_parameters(name):
    assert Architecture.of(config_of(name)).parameters == PARAMETERS[name]


def test_a_folder_says_its_own_sizes_and_what_is_nowhere_is_told(tmp_path):
    with pytest.raises(ValueError, match="there is no folder"):
        config_of(str(tmp_path / "none"))
    with pytest.raises(ValueError, match=r"config\.json cannot be read"):
        config_of(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ValueError, match="model_type is 'llama'"):
        Architecture.of(config_of(str(tmp_path)))


@pytest.mark.parametrize(
    ("parallel", "gpus", "block"),
    [
        (1, 1, 16 * 57_344),  # a token: 2 · 28 layers · 4 heads · 128 · 2 bytes = 57,344
        (2, 2, 16 * 28_672),
        (8, 8, 16 * 14_336),  # a head is kept twice rather than cut
        (1, 0, 128 * 57_344),
    ],
)
def test_kv_blocks(parallel, gpus, block):
    rollouts = RolloutsConfig(tensor_parallel=parallel, gpus=gpus)
    assert kv_block_bytes(rollouts, SEVEN_B, dtype="bfloat16") == block


def test_room_for_kv_blocks():
    on_gpu = kv_room(RolloutsConfig(memory_share=0.85), SEVEN_B, BIG, dtype="bfloat16")
    assert on_gpu == 68 * GIB - 2 * PSI - 2 * GIB
    on_cpu = kv_room(RolloutsConfig(gpus=0, kv_cache_gib=3), SEVEN_B, BIG, dtype="bfloat16")
    assert on_cpu == 3 * GIB


@pytest.mark.parametrize(
    ("pixels", "tokens"), [(784, 1), (12_544, 16), (20 * 784, 21), (128 * 784, 134)]
)
def test_tokens_of_the_largest_frame(pixels, tokens):
    assert frame_tokens(FramesConfig(pixels=pixels)) == tokens  # within 5 % of the floor's area


def test_bytes_of_weights_and_checkpoints():
    run = seven_b()
    assert published_bytes(run, SEVEN_B) == 2 * PSI
    assert checkpoint_bytes(run, SEVEN_B) == 12 * PSI + 2 * PSI  # ZeRO-3: all have masters
    frozen = seven_b("model.freeze_vision=true")
    text = SEVEN_B.text_parameters
    assert checkpoint_bytes(frozen, SEVEN_B) == 12 * text + 2 * (PSI - text) + 2 * PSI
    assert checkpoint_bytes(seven_b("learning.zero=2"), SEVEN_B) == 12 * PSI + 2 * 2 * PSI


def test_the_largest_pass_holds_whole_groups():
    # 16 frames of 134 tokens and 8 · 768 written: 2,144 + 6,144 = 8,288; two fit into 17,152.
    found = largest(seven_b(), SEVEN_B)
    assert (found.tokens, found.targets, found.patches) == (16_576, 12_288, 2 * 4 * 2_144)


def test_services_fill_nodes_in_order():
    services = place(
        [Unit("rank", 4, 1, 1), Unit("replica", 6, 1, 1), Unit("scorer", 3, 0.1, 0)], BIG, nodes=0
    )
    assert [service.by_node for service in services] == [(4, 0), (4, 2), (3, 0)]
    assert misfits(services, BIG, nodes=0) == []


def test_ten_scorers_share_a_cpu():
    [service] = place([Unit("scorer", 10, 0.1, 0)], Node(1, 0, 0), nodes=1)
    assert service.by_node == (10,)


def test_what_has_no_room_is_told():
    small = Node(2, 1, 80)
    units = [Unit("rank", 3, 1, 1), Unit("replica", 1, 4, 0)]
    services = place(units, small, nodes=2)
    assert [service.by_node for service in services] == [(1, 1), (0, 0)]
    ranks, replica = misfits(services, small, nodes=2)
    assert ranks.startswith("1 of 3 ranks, 1 CPUs and 1 GPUs each, have no room on 2 nodes")
    assert "replica asks for 4 CPUs and 0 GPUs, more than a node has" in replica


TIGHT = {
    "rollouts.max_model_tokens=2500": "frames take up to 2144 tokens",
    "rollouts.tensor_parallel=3": "must divide the model's 28 attention heads",
    "rollouts.gpus=2": "rollouts.gpus is 2; it must be rollouts.tensor_parallel (1)",
    "frames.factor=32": "frames.factor is 32; it must be a multiple of 28",
    "learning.ranks=1": "a learner rank needs",
    "rollouts.memory_share=0.2": "no room for the KV blocks of one sequence",
}


@pytest.mark.parametrize(
    ("name", "node"),
    [
        ("qwen2_5_vl_3b_1gpu", Node(16, 1, 80)),
        ("qwen2_5_vl_7b_8gpu", BIG),
        ("qwen2_5_vl_7b_8gpu_released", BIG),
    ],
)
def test_what_is_shipped_has_no_problem(name, node):
    run = load(find(name), ["cluster.address=auto"])
    assert plan_of(run, Architecture.of(config_of(run.sft.start)), node).problems == ()


@pytest.mark.parametrize(("override", "said"), TIGHT.items(), ids=str)
def test_what_does_not_fit_is_told(override, said):
    assert plan_of(seven_b(), SEVEN_B, BIG).problems == ()
    problems = plan_of(seven_b(override), SEVEN_B, BIG).problems
    assert any(said in problem for problem in problems), problems


def test_a_cold_start_that_has_no_room_is_told():
    wide = seven_b("sft.cpus_per_rank=65")
    assert plan_of(wide, SEVEN_B, BIG, rl_tasks=[Task.MCQ] * 100).problems == ()
    [problem] = plan_of(wide, SEVEN_B, BIG, sft_tasks=[Task.MCQ] * 100).problems
    assert problem.startswith("SFT rank asks for 65 CPUs and 1 GPUs, more than a node has")


def test_a_full_disk_is_told():
    # In each stage 3 checkpoints of 14·Ψ, and three models.
    needed = (6 * 7 + 3) * 2 * PSI
    plan = plan_of(seven_b(), SEVEN_B, BIG, disk_free=needed - 1)
    assert [each for each in plan.problems if "are free" in each]
    assert plan_of(seven_b(), SEVEN_B, BIG, disk_free=needed).problems == ()


@pytest.mark.parametrize(
    ("every", "steps", "kept"), [(10, 25, 2), (10, 99, 3), (10, 9, 0), (0, 99, 0)]
)
def test_checkpoints_at_the_same_time(every, steps, kept):
    run = seven_b(f"sft.checkpoint_every={every}", f"sft.steps={steps}", "loop.steps=1")
    tasks = [Task.MCQ] * 100
    plan = plan_of(run, SEVEN_B, BIG, sft_tasks=tasks, rl_tasks=tasks)
    [amount] = [each for each in plan.amounts if each.name == "all checkpoints"]
    assert amount.bytes == kept * 14 * PSI


def test_steps_are_counted_as_the_run_counts_them():
    run = seven_b("loop.groups=64", "loop.epochs=3", "data.task_weights.mcq=0.5", "sft.batch=7")
    tasks = [Task.MCQ] * 100 + [Task.VISUAL] * 250
    plan = plan_of(run, SEVEN_B, BIG, sft_tasks=tasks, rl_tasks=tasks)
    assert plan.rl is not None
    assert plan.sft is not None
    # 0.5 · 100 + 250 = 300 rows an epoch, 900 in all: 14 whole batches of 64.
    assert (plan.rl.rows, plan.rl.per_epoch, plan.rl.steps) == (350, 300, 14)
    assert (plan.rl.updates, plan.rl.completions) == (14 * 4, 14 * 64 * 8)
    assert plan.sft.steps == 50


def write_data(folder) -> None:
    rows = [Row(f"r{i}", Task.FREE_FORM, "", "What?", "a.mp4", Truth("a")) for i in range(160)]
    for name in ("sft", "rl", "held-out"):
        write_rows(rows, folder / "rows" / name)
    (folder / "data" / "media").mkdir(parents=True)


def test_the_demo_planned(tmp_path, capsys):
    write_data(tmp_path)
    words = ["plan", "tiny_demo", f"folder={tmp_path}", "loop.steps=0", "--json"]
    assert cli.main(words) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["problems"] == []
    assert (plan["kv_blocks"], plan["rl"]["steps"]) == (2048, 10)  # 1 GiB of 128 · 4,096 bytes
    assert {each["unit"]["name"] for each in plan["services"]} == set(plan["process_bytes"])
    assert cli.main(words[:-1]) == 0
    assert "No problem was found." in capsys.readouterr().out


def test_every_problem_is_listed_without_anything_heavy(tmp_path):
    code, error, imported = refused(
        ["plan", "tiny_demo", f"folder={tmp_path}", "--json", "tracking.uri=nowhere",
         "rewards.custom.mine=no_such_module:f", "model.path=/none", "sft.start="]
    )  # fmt: skip
    assert (code, imported, error) == (1, [], "")


def test_problems_of_configuration_and_surroundings(tmp_path, capsys):
    assert cli.main(["plan", "tiny_demo", "--json", "loop.stpes=3", "sft.batch=0"]) == 1
    problems = json.loads(capsys.readouterr().out)["problems"]
    assert len(problems) == 2
    wrong = [f"folder={tmp_path}", "model.path=/none", "rollouts.engine=nowhere_at_all:Engine"]
    assert cli.main(["plan", "tiny_demo", "--json", *wrong]) == 1
    problems = json.loads(capsys.readouterr().out)["problems"]
    starts = ["there is no data set at"] * 3
    starts += ["data.media is", "rollouts.engine is 'nowhere_at_all:Engine'; there is no module"]
    starts += ["model.path: there is no folder"]
    assert len(problems) == len(starts)
    assert all(said.startswith(start) for said, start in zip(problems, starts, strict=True))


def test_weights_wait_in_the_store_or_are_on_their_way_from_gpu_to_gpu():
    """The largest parameter of 7B is the embedding of 152,064 × 3,584 values."""

    def held(*overrides: str) -> dict[tuple[str, str], int]:
        amounts = plan_of(seven_b(*overrides), SEVEN_B, BIG).amounts
        names = ("published weights", "weights on their way")
        return {(each.name, each.where): each.bytes for each in amounts if each.name in names}

    stored = {("published weights", where): 3 * 2 * PSI for where in ("object store",)}
    assert held() == stored
    ends = ("learner rank", "rollout replica")
    buffers = 3 * 2 * 152_064 * 3_584
    assert held("rollouts.transfer=nccl") == {("weights on their way", e): buffers for e in ends}
