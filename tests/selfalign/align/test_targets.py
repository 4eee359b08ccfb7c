"""Which numbers alignment predicts: all but grippers, the same on the robot and in stage 1."""

from selfalign.align.targets import aligned_numbers


def test_grippers_and_padding_are_left_out() -> None:
    names = ("joint_1", "gripper_opening", "delta_x")
    assert aligned_numbers(names, 5).tolist() == [True, False, True, False, False]


def test_robot_without_a_gripper_is_aligned_whole() -> None:
    assert aligned_numbers(("a", "b"), 2).all()


def test_grippers_of_robots_with_two_arms_are_left_out_too() -> None:
    """The names that LeRobot's datasets of ALOHA, SO-100 and its pair have."""
    names = ("left_waist", "left_gripper", "right_gripper", "right_gripper.pos", "main_gripper")
    assert aligned_numbers(names, 5).tolist() == [True, False, False, False, False]


def test_case_of_a_name_does_not_count() -> None:
    assert aligned_numbers(("leftGripper", "GRIPPER", "grip"), 3).tolist() == [False, False, True]
