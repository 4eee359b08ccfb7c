"""Which numbers alignment predicts: all but grippers, the same on the robot and in stage 1."""

from selfalign.align.targets import aligned_numbers


def test_grippers_and_padding_are_left_out() -> None:
    names = ("joint_1", "gripper_opening", "delta_x")
    assert aligned_numbers(names, 5).tolist() == [True, False, True, False, False]


def test_robot_without_a_gripper_is_aligned_whole() -> None:
    assert aligned_numbers(("a", "b"), 2).all()
