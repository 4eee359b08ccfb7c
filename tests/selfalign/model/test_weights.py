"""FastWeights: shapes, names, batches."""

import pytest
import torch

from selfalign.model.weights import FastWeights
from tests.fakes.models import random_numbers


def make(*lead: int) -> FastWeights:
    return FastWeights(
        random_numbers(*lead, 2, 3, 4, 4), random_numbers(*lead, 2, 3, 1, 4, seed=1), (1, 5)
    )


def test_names_survive_a_round_trip() -> None:
    w = make()
    assert list(w.named()) == ["ttt.1.W1", "ttt.1.b1", "ttt.5.W1", "ttt.5.b1"]
    assert w.shapes()["ttt.5.b1"] == (3, 1, 4)
    back = FastWeights.from_named(w.named())
    assert back.layers == (1, 5)
    assert torch.equal(back.W1, w.W1)
    assert torch.equal(back.b1, w.b1)


def test_layers_are_ordered_by_number_not_by_text() -> None:
    w = FastWeights(random_numbers(2, 1, 2, 2), random_numbers(2, 1, 1, 2), (2, 10))
    assert FastWeights.from_named(w.named()).layers == (2, 10)


def test_batch_has_no_single_set_of_names() -> None:
    with pytest.raises(ValueError, match="a batch of 3 W"):
        make(3).named()


def test_stack_and_select_are_inverse() -> None:
    parts = [make(), make().map(torch.neg)]
    batch = FastWeights.stack(parts)
    assert batch.groups == 2
    assert torch.equal(batch.select(torch.tensor(1)).W1, parts[1].W1)
    assert batch.select(torch.tensor([1, 1, 0])).groups == 3


def test_norm_is_that_of_all_numbers() -> None:
    w = make()
    every = torch.cat([w.W1.flatten(), w.b1.flatten()])
    torch.testing.assert_close(w.norm(), every.norm())
    assert FastWeights.stack([w, w]).norm().shape == (2,)


def test_detached_copy_shares_nothing() -> None:
    w = make()
    copy = w.detach()
    copy.W1.zero_()
    assert w.W1.any()


@pytest.mark.parametrize(
    ("W1", "b1"),
    [
        ((2, 3, 4, 5), (2, 3, 1, 4)),
        ((3, 3, 4, 4), (3, 3, 1, 4)),
        ((2, 3, 4, 4), (2, 3, 4)),
        ((7, 2, 3, 4, 4), (2, 3, 1, 4)),
        ((7, 7, 2, 3, 4, 4), (7, 7, 2, 3, 1, 4)),
    ],
)
def test_wrong_shapes_are_refused(W1: tuple[int, ...], b1: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="must be"):
        FastWeights(torch.zeros(W1), torch.zeros(b1), (1, 5))
