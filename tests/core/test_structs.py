from __future__ import annotations

import re

import pytest
import torch

from mamlrl.structs import MetaParams, check_shapes, flatten, on_device, stack, unflatten


def meta(order=("weight", "bias", "scalar")) -> MetaParams:
    init = {"weight": torch.arange(6.0).view(2, 3), "bias": torch.tensor([10.0, 11.0]), "scalar": torch.tensor(20.0)}
    sizes = {"bias": torch.tensor([0.1, 0.2]), "weight": torch.tensor(0.3)}
    return MetaParams({name: init[name] for name in order}, (sizes, {"weight": torch.tensor(0.4)}))


def test_flatten_lists_leaves_and_then_step_sizes():
    expected = torch.tensor([0, 1, 2, 3, 4, 5, 10, 11, 20, 0.1, 0.2, 0.3, 0.4])
    torch.testing.assert_close(flatten(meta(), meta()), expected)


def test_flatten_goes_by_name_and_unflatten_undoes_it():
    one, other = meta(), meta(("scalar", "bias", "weight"))
    assert torch.equal(flatten(one, one), flatten(other, one))
    assert not torch.equal(flatten(one, one), flatten(one, other))
    for like in (one, other):
        again = unflatten(flatten(one, like), like)
        assert list(again.init) == list(like.init) and len(again.step_sizes) == 2
        assert all(torch.equal(again.init[name], leaf) for name, leaf in one.init.items())
        for mine, theirs in zip(again.step_sizes, one.step_sizes, strict=True):
            assert list(mine) == list(theirs) and all(torch.equal(mine[name], theirs[name]) for name in theirs)


def without(params, name):
    return {key: leaf for key, leaf in params.items() if key != name}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda m: m._replace(init=without(m.init, "bias")), "the parameters have shapes .* must be .*'bias': \\[2\\]"),
        (lambda m: m._replace(init={**m.init, "extra": torch.zeros(2)}), "'extra'"),
        (lambda m: m._replace(init={**m.init, "bias": torch.zeros(3)}), "'bias': \\[3\\].*'bias': \\[2\\]"),
        (lambda m: m._replace(init={**m.init, "weight": torch.zeros(3, 2)}), "'weight': \\[3, 2\\]"),
        (lambda m: m._replace(step_sizes=()), "there are 0 entries of step sizes; there must be 2"),
        (lambda m: m._replace(step_sizes=({}, *m.step_sizes[1:])), "the parameters have shapes {}"),
    ],
)
def test_flatten_refuses_other_names_and_shapes(wrong, message):
    with pytest.raises(ValueError, match=message):
        flatten(wrong(meta()), meta())


def test_the_last_entry_of_step_sizes_serves_all_later_steps():
    both = meta()
    assert [both.entry_of(step) for step in range(4)] == [0, 1, 1, 1]
    assert both.step_sizes_of(5) is both.step_sizes[1]
    assert both._replace(step_sizes=both.step_sizes[:1]).step_sizes_of(3) is both.step_sizes[0]


def test_stack_expands_shared_leaves_and_keeps_the_networks_order():
    shapes = {"scalar": (), "weight": (2, 3), "bias": (2,)}
    params = {**meta().init, "bias": torch.ones(4, 2)}
    stacked = stack(params, 4, shapes)
    assert list(stacked) == list(shapes)
    assert [list(leaf.shape) for leaf in stacked.values()] == [[4], [4, 2, 3], [4, 2]]
    assert stacked["bias"] is params["bias"]
    assert all(torch.equal(stacked["weight"][task], params["weight"]) for task in range(4))


def test_on_device_takes_step_sizes_along_and_no_gradients():
    before = meta()
    before.init["bias"].requires_grad_()
    after = on_device(before, "meta")
    leaves = [*after.init.values(), *(leaf for sizes in after.step_sizes for leaf in sizes.values())]
    assert len(leaves) == 6 and all(leaf.device.type == "meta" and not leaf.requires_grad for leaf in leaves)


@pytest.mark.parametrize(
    ("shapes", "known", "message"),
    [
        ([((2, 3), "MB"), ((2, 3, 4), "MBT")], {}, None),
        ([((2, 3), "MBT")], {}, "a has shape [2, 3]; it must be [M, B, T]"),
        ([((2, 3), "MB"), ((2, 4), "MB")], {}, "b has shape [2, 4]; it must be [M, B] with M = 2, B = 3"),
        ([((2, 3), "MB"), ((1, 3), "MB")], {}, "b has shape [1, 3]; it must be [M, B] with M = 2, B = 3"),
        ([((2, 3), "MB"), ((2,), "MB")], {}, "b has shape [2]; it must be [M, B] with M = 2, B = 3"),
        ([((2, 3, 5), "MBO")], {"O": 4}, "a has shape [2, 3, 5]; it must be [M, B, O] with O = 4"),
        ([((2, 3, 4), "MBO")], {"O": 4, "A": 1}, None),
        ([((), "M")], {}, "a has shape []; it must be [M]"),
    ],
)
def test_check_shapes(shapes, known, message):
    tensors = [(name, torch.zeros(shape), letters) for name, (shape, letters) in zip("ab", shapes, strict=False)]
    if message is None:
        check_shapes(*tensors, **known)
    else:
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            check_shapes(*tensors, **known)
