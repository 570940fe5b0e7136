"""BatchNorm1d, BatchRenorm and Dropout in the core: by hand, and against torch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from core_networks import run_core, run_torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from optix_fast import _native
from optix_fast.learners.native.networks import UnsupportedError, stack_of
from optix_fast.networks import BatchRenorm
from optix_fast.networks.dropout import Masks, mask_of
from optix_fast.networks.plan import Plan, Value
from optix_fast.networks.residual import Residual
from optix_fast.random import RandomStream

core: Any = _native.core
pytestmark = pytest.mark.native
DROPPED = 0.3


class Dropped(nn.Module):
    """Nothing but Dropout, of rows whose width no Linear tells."""

    def __init__(self, width: int, p: float) -> None:
        super().__init__()
        self.width, self.drop = width, nn.Dropout(p)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(x)

    def native_plan(self, plan: Plan, x: Value) -> Value:
        return plan(self.drop, plan.expect(x, self.width))


# Each reads 7 columns.
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "batch norm": lambda: nn.Sequential(nn.Linear(7, 33), nn.BatchNorm1d(33), nn.Tanh(), nn.Linear(33, 2)),
    "batch norm without affine": lambda: nn.Sequential(
        nn.Linear(7, 16), nn.BatchNorm1d(16, affine=False, momentum=0.5), nn.SiLU(), nn.Linear(16, 3)
    ),
    "batch norm of the input, and last": lambda: nn.Sequential(
        nn.BatchNorm1d(7), nn.Linear(7, 5), nn.BatchNorm1d(5, eps=0.1)
    ),
    "batch norm of one column": lambda: nn.Sequential(nn.Linear(7, 1), nn.BatchNorm1d(1), nn.Linear(1, 2)),
    "renorm": lambda: nn.Sequential(
        nn.Linear(7, 21), BatchRenorm(21, 0.3, warmup_steps=2), nn.Tanh(), nn.Linear(21, 2)
    ),
    "renorm between bounds, without affine": lambda: nn.Sequential(
        nn.Linear(7, 40), BatchRenorm(40, 0.3, 1e-5, 0, 1.1, 0.2, affine=False), nn.ReLU(), nn.Linear(40, 2)
    ),
    "renorm around the input": lambda: nn.Sequential(
        Residual(nn.Sequential(BatchRenorm(7, warmup_steps=1), nn.Linear(7, 7))), nn.Linear(7, 2)
    ),
    "dropout": lambda: nn.Sequential(nn.Linear(7, 33), nn.Tanh(), nn.Dropout(DROPPED), nn.Linear(33, 2)),
    "dropout before an activation": lambda: nn.Sequential(
        nn.Linear(7, 18), nn.Dropout(DROPPED), nn.LayerNorm(18), nn.Dropout(0.01), nn.GELU(), nn.Linear(18, 2)
    ),
    "dropout first and last": lambda: nn.Sequential(Dropped(7, 0.5), nn.Linear(7, 11), nn.Dropout(0.1)),
    "dropout of what others read": lambda: nn.Sequential(
        nn.Linear(7, 24), nn.Dropout(DROPPED), Residual(nn.Sequential(nn.Dropout(0.1), nn.Linear(24, 24))),
        nn.Linear(24, 2),
    ),
    "residual blocks": lambda: nn.Sequential(
        nn.Linear(7, 24),
        Residual(nn.Sequential(nn.LayerNorm(24), nn.Linear(24, 24), nn.BatchNorm1d(24), nn.ReLU())),
        Residual(nn.Sequential(nn.BatchNorm1d(24), nn.Dropout(DROPPED), nn.Linear(24, 24), nn.ELU())),
        nn.Linear(24, 2),
    ),
}  # fmt: skip


def assert_close(ours: list[Tensor], theirs: list[Tensor], tolerance: float) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        assert float((mine - other).norm()) <= tolerance * max(1.0, float(other.norm()))


def made(name: str, dtype: torch.dtype = torch.float64, seed: int = 1) -> nn.Module:
    torch.manual_seed(seed)
    net = NETWORKS[name]().to(dtype)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return net


def assert_passes_agree(net: nn.Module, rows: int, tolerance: float, passes: int = 4) -> None:
    """Outputs, gradients and statistics over several passes."""
    theirs, width = copy.deepcopy(net), stack_of(net, "net").outputs
    dtype = next(net.parameters()).dtype
    for k in range(passes):
        x, by_output = 2.0 * torch.randn(rows, 7, dtype=dtype) + k, torch.randn(rows, width, dtype=dtype)
        with Masks(k, [theirs]).in_torch():
            expected = run_torch(theirs, x, by_output)
        head = k % 2 == 0
        assert_close(run_core(net, x, by_output, head, Masks(k, [net])), expected, tolerance)
        assert_close([b.double() for b in net.buffers()], [b.double() for b in theirs.buffers()], tolerance)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("rows", [2, 6, 16, 37])
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_passes_in_float64_equal_torchs(name: str, rows: int, training: bool) -> None:
    assert_passes_agree(made(name).train(training), rows, 1e-9)


@pytest.mark.usefixtures("every_simd_path")
@pytest.mark.parametrize("name", NETWORKS)
def test_every_instruction_set_computes_the_same(name: str) -> None:
    assert_passes_agree(made(name, torch.float32), 21, 2e-5)


@given(
    width=st.integers(1, 70), rows=st.integers(2, 40), p=st.floats(0.01, 0.9), momentum=st.floats(0.0, 1.0),
    warmup=st.integers(0, 3), training=st.booleans(),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_any_shape(width: int, rows: int, p: float, momentum: float, warmup: int, training: bool) -> None:
    torch.manual_seed(width)
    net = nn.Sequential(
        nn.Linear(7, width), nn.BatchNorm1d(width, momentum=momentum), nn.Tanh(), nn.Dropout(p),
        nn.Linear(width, 3), BatchRenorm(3, momentum, warmup_steps=warmup), nn.Linear(3, 9),
    )  # fmt: skip
    assert_passes_agree(net.double().train(training), rows, 1e-9, passes=3)


@pytest.mark.parametrize("name", NETWORKS)
def test_single_rows_are_evaluated(name: str) -> None:
    net, x = made(name, torch.float32), torch.randn(9, 7)
    for _ in range(3):
        net(torch.randn(20, 7) + 1.0)
    described = stack_of(net, "net").described(Masks(0, [net]))
    before = copy.deepcopy(net.state_dict())
    expected = copy.deepcopy(net).eval()(x).detach()
    output = torch.empty_like(expected)
    core.mlp(described, True, True, x, output, None, [], None)
    assert_close([output], [expected], 1e-5)
    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)


# --- by hand -------------------------------------------------------------------------------------------

# Columns (1, 2, 6) and (0, 3, −3): means 3 and 0, biased variances 14/3 and 6, unbiased ones 7 and 9.
ROWS = torch.tensor([[1.0, 0.0], [2.0, 3.0], [6.0, -3.0]], dtype=torch.float64)


def test_a_batch_norm_by_hand() -> None:
    net = nn.BatchNorm1d(2, eps=1.0, momentum=0.25).double()
    with torch.no_grad():
        net.weight.copy_(torch.tensor([2.0, 1.0]))
        net.bias.copy_(torch.tensor([0.0, 0.5]))
    by_output = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    output, by_input, by_weight, by_bias = run_core(net, ROWS, by_output)
    one, other = (17.0 / 3.0) ** 0.5, 7.0**0.5
    expected = [[-4.0 / one, 0.5], [-2.0 / one, 0.5 + 3.0 / other], [6.0 / one, 0.5 - 3.0 / other]]
    torch.testing.assert_close(output, torch.tensor(expected, dtype=torch.float64))
    assert by_weight.tolist() == pytest.approx([-2.0 / one, 0.0])
    assert by_bias.tolist() == [1.0, 0.0]
    # dx = 2/σ·(dZ − 1/3 − x̂·(−2/σ)/3), of x̂·σ = (−2, −1, 3) and σ² = 17/3
    column = [2.0 / one * (g - 1 / 3 + c * 2.0 / 17.0) for g, c in ((1.0, -2.0), (0.0, -1.0), (0.0, 3.0))]
    assert by_input[:, 0].tolist() == pytest.approx(column)
    assert by_input[:, 1].tolist() == [0.0, 0.0, 0.0]
    # A quarter of the way from 0 to the means, and from 1 to the unbiased variances.
    assert net.running_mean.tolist() == [0.75, 0.0]
    assert net.running_var.tolist() == [2.5, 3.0]
    assert int(net.num_batches_tracked) == 1
    net.eval()
    evaluated = run_core(net, ROWS, by_output)
    root = 3.5**0.5
    assert evaluated[0][:, 0].tolist() == pytest.approx([0.5 / root, 2.5 / root, 10.5 / root])
    assert evaluated[1][:, 0].tolist() == pytest.approx([2.0 / root, 0.0, 0.0])
    assert net.running_mean.tolist() == [0.75, 0.0] and int(net.num_batches_tracked) == 1


@pytest.mark.parametrize("backend", ["core", "torch"])
def test_a_renorm_by_hand(backend: str) -> None:
    """After one batch of warm-up, r of column 0 is at its bound and d is not; of column 1 it is the other way
    round."""
    net = BatchRenorm(2, momentum=0.5, eps=1.0, warmup_steps=1, r_max=1.25, d_max=0.25).double()

    def output_of(x: Tensor) -> Tensor:
        return run_core(net, x, torch.zeros_like(x))[0] if backend == "core" else net(x).detach()

    def biased(x: Tensor) -> Tensor:
        return x.square().mean(dim=0) - x.mean(dim=0).square()

    first = output_of(ROWS)
    sigma = (biased(ROWS) + 1.0).sqrt()  # √(17/3), √7
    torch.testing.assert_close(first, (ROWS - ROWS.mean(dim=0)) / sigma)  # r = 1, d = 0
    assert net.running_mean.tolist() == [1.5, 0.0]
    assert net.running_var.tolist() == pytest.approx([17.0 / 6.0, 3.5])  # half-way from 1 to 14/3 and to 6
    x = torch.tensor([[0.0, 4.0], [2.0, 6.0], [4.0, 8.0]], dtype=torch.float64) * torch.tensor([3.0, 1.0])
    # Column 0: mean 6, variance 24, σ = 5, σ̄ = √(23/6): r = 5/1.958 → 1.25, d = 4.5/1.958 → 0.25.
    # Column 1: mean 6, variance 8/3, σ = √(11/3), σ̄ = √4.5: r = 0.9027, d = 6/2.1213 → 0.25.
    second = output_of(x)
    r = (11.0 / 3.0 / 4.5) ** 0.5
    one, other = 6.0 / 5.0 * 1.25, 2.0 / 4.5**0.5
    expected = [[0.25 - one, 0.25 - other], [0.25, 0.25], [0.25 + one, 0.25 + other]]
    torch.testing.assert_close(second, torch.tensor(expected, dtype=torch.float64))
    assert 0.8 < r < 1.0  # inside [1/1.25, 1.25]
    assert net.running_mean.tolist() == [3.75, 3.0]
    assert int(net.num_batches_tracked) == 2
    net.eval()
    mean, var = net.running_mean.clone(), net.running_var.clone()
    torch.testing.assert_close(output_of(x), (x - mean) / (var + 1.0).sqrt())
    assert torch.equal(net.running_var, var) and int(net.num_batches_tracked) == 2


def test_no_gradient_passes_through_a_renorms_correction() -> None:
    """Inside its bounds, x̂·r + d is (x − μ̄)/σ̄. Its gradient by x, without those of r and d, sums to 0 over
    the batch."""
    net = BatchRenorm(2, eps=1.0, warmup_steps=0, r_max=100.0, d_max=100.0).double()
    output, by_input, *_ = run_core(
        net, ROWS, torch.tensor([[1.0, 0.0]] * 2 + [[0.0, 0.0]], dtype=torch.float64)
    )
    torch.testing.assert_close(output, ROWS / 2.0**0.5)
    assert by_input.sum(dim=0).tolist() == pytest.approx([0.0, 0.0], abs=1e-12)
    # r/σ = 1/√2; dx = (dZ − 2/3 − x̂·mean dZ·x̂)/√2, x̂·σ = (−2, −1, 3), σ² = 17/3: mean dZ·x̂ = −1/σ
    expected = [(g - 2 / 3 + c * 3.0 / 17.0) / 2.0**0.5 for g, c in ((1.0, -2.0), (1.0, -1.0), (0.0, 3.0))]
    assert by_input[:, 0].tolist() == pytest.approx(expected)


# --- Dropout -------------------------------------------------------------------------------------------


def test_what_dropout_keeps_is_the_streams() -> None:
    """Elements are kept where the uniforms of the stream at (key, pass·2³²) reach p."""
    net = nn.Dropout(DROPPED)
    model = nn.Sequential(nn.Dropout(0.9), nn.Linear(7, 7), net)
    masks = Masks(2**64 - 1, [model])
    assert masks.key_of(net._parameters) == 0  # seed + 1
    stream = RandomStream(0)
    stream.load_state_dict({"key": 0, "offset": 2**32})
    expected = (stream.uniform((5, 7)) >= np.float32(DROPPED)) / (1.0 - DROPPED)
    assert np.array_equal(mask_of(0, 1, torch.Size((5, 7)), DROPPED).numpy(), expected)
    ones = torch.ones(5, 7)
    with masks.in_torch():
        kept = [net(ones) for _ in range(2)]
    assert np.array_equal(kept[1].numpy(), expected.astype(np.float32))
    assert not torch.equal(*kept)


def test_the_core_draws_the_same_masks() -> None:
    net = Dropped(7, DROPPED)
    for seed in (3, 4):
        (output, _) = run_core(net, torch.ones(33, 7), torch.zeros(33, 7), True, Masks(seed, [net]))
        assert torch.equal(output, mask_of(seed, 0, torch.Size((33, 7)), DROPPED).float())


@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
def test_the_share_that_is_kept(p: float) -> None:
    net, n = Dropped(250, p), 400 * 250
    output = run_core(net, torch.ones(400, 250), torch.zeros(400, 250), True, Masks(11, [net]))[0]
    kept = output[output != 0]
    assert abs(len(kept) - n * (1 - p)) < 4.0 * (n * p * (1 - p)) ** 0.5
    assert kept.unique().tolist() == pytest.approx([1.0 / (1.0 - p)])
    rows, columns = (output != 0).float().mean(dim=1), (output != 0).float().mean(dim=0)
    assert float((rows - (1 - p)).abs().max()) < 5.0 * (p * (1 - p) / 250) ** 0.5
    assert float((columns - (1 - p)).abs().max()) < 5.0 * (p * (1 - p) / 400) ** 0.5


def test_dropout_that_drops_nothing_is_no_layer() -> None:
    net = nn.Sequential(nn.Linear(7, 3), nn.Dropout(0.0), nn.Dropout(0.4).eval())
    assert [layer.kind for layer in stack_of(net, "net").layers] == ["dense"]


def test_torchs_own_forward_is_back_afterwards() -> None:
    net = nn.Sequential(nn.Dropout(0.5), nn.Dropout(0.0))
    with pytest.raises(IndexError), Masks(1, [net]).in_torch():
        net[7](net(torch.ones(3, 3)))
    assert all("forward" not in layer.__dict__ for layer in net)


# --- recognition ---------------------------------------------------------------------------------------


def test_a_layer_is_recognised_again_when_its_mode_or_numbers_change() -> None:
    net = nn.Sequential(nn.Linear(7, 8), nn.BatchNorm1d(8), BatchRenorm(8, warmup_steps=9), nn.Dropout(0.5))
    assert stack_of(net, "net").depends_on_batch
    for change in (
        lambda: net.eval(), lambda: setattr(net[1], "momentum", 0.9), lambda: setattr(net[1], "eps", 0.5),
        lambda: net[1].train(), lambda: setattr(net[2], "warmup_steps", 0), lambda: net[2].train(),
        lambda: setattr(net[2], "r_max", 1.0), lambda: setattr(net[2], "d_max", 0.1), lambda: net[3].train(),
        lambda: setattr(net[2], "momentum", 0.7), lambda: setattr(net[3], "p", 0.25),
    ):  # fmt: skip
        before = stack_of(net, "net")
        assert stack_of(net, "net") is before
        change()
        assert stack_of(net, "net") is not before
        assert_passes_agree(net, 12, 2e-5, passes=2)


class Declared(nn.Module):
    """x + dropout(norm(x)), declared."""

    def __init__(self, p: float = 0.4) -> None:
        super().__init__()
        self.norm, self.drop, self.p = nn.BatchNorm1d(7), nn.Dropout(0.4), p

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return x + (
            self.drop(y) if self.p == self.drop.p else nn.functional.dropout(y, self.p, self.training)
        )

    def native_plan(self, plan: Plan, x: Value) -> Value:
        return plan.add(x, plan(self.drop, plan(self.norm, x)))


def test_a_declaration_with_these_layers_is_compared_in_both_modes() -> None:
    net = Declared()
    before = copy.deepcopy(net.state_dict())
    assert [layer.kind for layer in stack_of(net, "net").layers] == ["batch_norm", "dropout", "sum"]
    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)
    with pytest.raises(UnsupportedError, match="differs from forward"):
        stack_of(Declared(0.3), "net")


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.BatchNorm1d(7, momentum=None), "with momentum=None, is not served"),
        (nn.BatchNorm1d(7, track_running_stats=False), "BatchNorm1d without running statistics"),
        (nn.Dropout(1.0), "Dropout with p = 1.0 is not served"),
        (nn.AlphaDropout(0.1), "AlphaDropout is not served"),
        (nn.BatchNorm1d(6), "widths of its layers do not fit"),
    ],
    ids=str,
)
def test_layers_that_go_to_torch(layer: nn.Module, reason: str) -> None:
    with pytest.raises(UnsupportedError, match=reason):
        stack_of(nn.Sequential(nn.Linear(7, 7), layer), "net")


@pytest.mark.parametrize(
    "tensor", [torch.zeros(6), torch.zeros(7).double(), torch.zeros(14)[::2], None], ids=str
)
def test_statistics_that_are_not_a_layers_go_to_torch(tensor: Tensor | None) -> None:
    net = nn.Sequential(nn.Linear(7, 7), nn.BatchNorm1d(7))
    assert stack_of(net, "net")
    net[1].running_mean = tensor
    with pytest.raises(UnsupportedError, match="the running_mean of a BatchNorm1d is not"):
        stack_of(net, "net")


@pytest.mark.parametrize(
    "arguments", [{"features": 0}, {"momentum": 1.5}, {"eps": 0.0}, {"r_max": 0.5}, {"d_max": -1.0}], ids=str
)
def test_numbers_that_make_no_renorm_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="BatchRenorm needs"):
        BatchRenorm(**{"features": 3, **arguments})


@pytest.mark.parametrize("shape", [(4, 2), (3,), (1, 3)])
def test_batches_that_a_renorm_cannot_take_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="BatchRenorm needs"):
        BatchRenorm(3)(torch.ones(shape))
