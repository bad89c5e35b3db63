"""What SFT teaches to write is what the rewards read: full marks in either family's boxes."""

import pytest

from o3rl.config import RewardsConfig
from o3rl.text.boxes import ABSOLUTE, RELATIVE_1000
from o3rl.text.prompts import target
from o3rl.types import FramePlan, KeyFrame, Row, Task, Truth
from rewards.scorer import Scorer

BOX = (0.12, 0.25, 0.4, 0.875)
PLAN = FramePlan((0, 5), (0.0, 2.5), (420, 224), 5.0)


@pytest.mark.parametrize("convention", [ABSOLUTE, RELATIVE_1000])
@pytest.mark.parametrize("task", [Task.TEMPORAL_SPATIAL, Task.VISUAL])
def test_the_target_of_a_row_earns_its_reward(convention, task):
    written = "[0.12,0.25,0.4,0.875]"
    if task is Task.VISUAL:
        # In the file the answer is in pixels of the original image, 800 × 400.
        truth = Truth("<obj>red car</obj><box>[96,100,320,350]</box>", box=BOX)
        said = f"The <obj>red car</obj><box>{written}</box> stands."
    else:
        truth = Truth("a car", key_frames=(KeyFrame(2.5, (("red car", (BOX,)),)),))
        said = f"The <obj>red car</obj><box>{written}</box>at<t>2.5</t>s stands."
    row = Row("r", task, "", "Where?", "v", truth, (800, 400), said)
    text = target(row, PLAN, convention=convention)
    reward = Scorer(RewardsConfig()).score(
        task, text, truth=truth, progress=1.0, frame_size=PLAN.size, convention=convention
    )
    assert reward.parts["format"] == 1
    assert reward.parts["thk_spatial"] > 0.97  # but for rounding to whole pixels
    assert reward.parts["ans_viou" if task is Task.VISUAL else "ans_acc"] > 0.97
    other = RELATIVE_1000 if convention is ABSOLUTE else ABSOLUTE
    misread = Scorer(RewardsConfig()).score(
        task, text, truth=truth, progress=1.0, frame_size=PLAN.size, convention=other
    )
    assert misread.parts["thk_spatial"] < 0.5
