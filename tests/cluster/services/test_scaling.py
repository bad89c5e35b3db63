"""The number of replicas follows who waits for whom, and does not swing."""

from cluster.services.autoscaler import REFUSED, ScalePolicy


def follow(policy: ScalePolicy, replicas: int, steps: list[tuple[float, float]]) -> list[int]:
    """The numbers after each step of (waited, idle)."""
    found = []
    for waited, idle in steps:
        replicas = policy.want(replicas, waited=waited, idle=idle)
        found.append(replicas)
    return found


def test_it_grows_after_steps_in_a_row_in_which_the_learner_waited():
    policy = ScalePolicy(1, 3, steps=2)
    assert follow(policy, 1, [(0.5, 0)] * 6) == [1, 2, 2, 3, 3, 3]


def test_one_step_that_disagrees_begins_the_count_anew():
    policy = ScalePolicy(1, 3, steps=2)
    assert follow(policy, 1, [(0.5, 0), (0.1, 0), (0.5, 0), (0.5, 0)]) == [1, 1, 1, 2]


def test_it_shrinks_only_where_the_others_can_do_the_work():
    assert follow(ScalePolicy(1, 4, steps=1), 4, [(0.0, 0.2)]) == [4]  # 3.2 of 4 are busy
    assert follow(ScalePolicy(1, 4, steps=1), 4, [(0.0, 0.4)]) == [3]  # 2.4 of 4
    assert follow(ScalePolicy(1, 4, steps=1), 4, [(0.1, 0.4)]) == [4]  # but the learner waited
    assert follow(ScalePolicy(2, 4, steps=1), 2, [(0.0, 0.9)]) == [2]


def test_it_settles():
    """The learner takes 1 s a step, one replica 3.5 s; four of them wait a little."""
    policy, replicas, seen = ScalePolicy(1, 8, steps=2), 1, []
    for _ in range(40):
        rollout = 3.5 / replicas
        step = max(1.0, rollout)
        replicas = policy.want(
            replicas, waited=(step - 1.0) / step, idle=max(0.0, (step - rollout) / step)
        )
        seen.append(replicas)
    assert seen[-1] in (3, 4)
    assert len(set(seen[12:])) == 1


def test_what_found_no_room_is_not_asked_for_at_every_step():
    policy = ScalePolicy(1, 2, steps=2)
    assert follow(policy, 1, [(0.9, 0)] * 2) == [1, 2]
    policy.refused()
    assert follow(policy, 1, [(0.9, 0)] * (2 * REFUSED)) == [1] * (2 * REFUSED)
    assert follow(policy, 1, [(0.9, 0)] * 2) == [1, 2]


def test_it_goes_back_between_its_bounds():
    assert ScalePolicy(2, 4, steps=3).want(1, waited=0.0, idle=1.0) == 2
    assert ScalePolicy(2, 4, steps=3).want(6, waited=0.9, idle=0.0) == 4
