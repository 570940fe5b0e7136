"""The layers of the core beside the dense ones, alone and composed, against torch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from core_networks import run_core, run_torch
from gymnasium import spaces
from torch import Tensor, nn

from optix_fast import HyperparamSet, TorchPPOAgent, _native
from optix_fast.learners.native.networks import UnsupportedError, networks_of, stack_of
from optix_fast.networks import DuelingQNetwork, ObservationEncoder
from optix_fast.networks.encoders import EncodedCritic
from optix_fast.networks.plan import Plan, Value

core: Any = _native.core
pytestmark = pytest.mark.native


class Residual(nn.Module):
    """x + factor·body(x)."""

    def __init__(self, body: nn.Module, factor: float = 1.0) -> None:
        super().__init__()
        self.body, self.factor = body, factor

    def forward(self, x: Tensor) -> Tensor:
        return x + self.factor * self.body(x)

    def native_plan(self, plan: Plan, x: Value) -> Value:
        return plan.add(x, plan(self.body, x), self.factor)


class Gated(nn.Module):
    """body(x)·sigmoid-like gate(x)."""

    def __init__(self, body: nn.Module, gate: nn.Module) -> None:
        super().__init__()
        self.body, self.gate = body, gate

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) * self.gate(x)

    def native_plan(self, plan: Plan, x: Value) -> Value:
        return plan.multiply(plan(self.body, x), plan(self.gate, x))


class SideBySide(nn.Module):
    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([part(x) for part in self.parts], dim=-1)

    def native_plan(self, plan: Plan, x: Value) -> Value:
        return plan.concatenate(*(plan(part, x) for part in self.parts))


class Columns(nn.Module):
    """Half of the columns first … first + n of 7."""

    def __init__(self, first: int, n: int, width: int) -> None:
        super().__init__()
        self.first, self.n, self.width = first, n, width

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * x[:, self.first : self.first + self.n]

    def native_plan(self, plan: Plan, x: Value) -> Value:
        return plan.columns(plan.expect(x, self.width), self.first, self.n, 0.5)


class Twice(nn.Module):
    """x + x and x·x: one operand twice."""

    def forward(self, x: Tensor) -> Tensor:
        return (x + x) * (x + x)

    def native_plan(self, plan: Plan, x: Value) -> Value:
        doubled = plan.add(x, x)
        return plan.multiply(doubled, doubled)


class Indexed(nn.Module):
    """Column 0 as one of 3, from 1 on; column 1 as a row of an embedding; the rest as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 20)

    def forward(self, x: Tensor) -> Tensor:
        hot = nn.functional.one_hot(x[:, 0].long() - 1, 3).to(x.dtype)
        return torch.cat([hot, self.embedding(x[:, 1].long()), x[:, 2:]], dim=-1)

    def native_plan(self, plan: Plan, x: Value) -> Value:
        x = plan.expect(x, 7)
        return plan.concatenate(
            plan.one_hot(x, 0, 3, start=1), plan.embed(self.embedding, x, 1), plan.columns(x, 2, 5)
        )


def residual_block(width: int, norm_first: bool) -> nn.Module:
    body = nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))
    if norm_first:
        return Residual(nn.Sequential(nn.LayerNorm(width), body))
    return nn.Sequential(Residual(body, 0.3), nn.LayerNorm(width))


# Each reads 7 columns.
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "layer norm": lambda: nn.Sequential(nn.Linear(7, 33), nn.LayerNorm(33), nn.Tanh(), nn.Linear(33, 2)),
    "layer norm without affine": lambda: nn.Sequential(
        nn.Linear(7, 16), nn.LayerNorm(16, elementwise_affine=False), nn.ReLU(), nn.Linear(16, 3)
    ),
    "layer norm without bias, behind an activation": lambda: nn.Sequential(
        nn.Linear(7, 20), nn.SiLU(), nn.LayerNorm(20, eps=1e-3, bias=False), nn.Linear(20, 9)
    ),
    "layer norm of the input, and last": lambda: nn.Sequential(
        nn.LayerNorm(7), nn.Linear(7, 5), nn.LayerNorm(5), nn.GELU()
    ),
    "rms norm": lambda: nn.Sequential(nn.Linear(7, 40), nn.RMSNorm(40), nn.ELU(), nn.Linear(40, 1)),
    "rms norm with eps, without affine": lambda: nn.Sequential(
        nn.RMSNorm(7, eps=1e-4, elementwise_affine=False), nn.Linear(7, 18), nn.RMSNorm(18), nn.Linear(18, 2)
    ),
    "residual, norm first": lambda: nn.Sequential(
        nn.Linear(7, 24), residual_block(24, True), residual_block(24, True), nn.Linear(24, 2)
    ),
    "residual, norm last": lambda: nn.Sequential(
        nn.Linear(7, 24), nn.Tanh(), residual_block(24, False), residual_block(24, False), nn.Linear(24, 11)
    ),
    "residual around the input": lambda: nn.Sequential(Residual(nn.Linear(7, 7)), nn.Linear(7, 2)),
    "gate": lambda: nn.Sequential(
        nn.Linear(7, 18), nn.ReLU(),
        Gated(nn.Sequential(nn.Linear(18, 30), nn.SiLU()), nn.Sequential(nn.Linear(18, 30), nn.Tanh())),
        nn.Linear(30, 3),
    ),
    "gate of the value itself": lambda: nn.Sequential(
        nn.Linear(7, 12), Gated(nn.Identity(), nn.Sequential(nn.Linear(12, 12), nn.Tanh())), nn.Linear(12, 2)
    ),
    "side by side": lambda: nn.Sequential(
        nn.Linear(7, 10), nn.Tanh(),
        SideBySide(nn.Linear(10, 3), nn.Sequential(nn.Linear(10, 19), nn.Tanh()), nn.Identity()),
        nn.Linear(32, 2),
    ),
    "side by side at the end": lambda: nn.Sequential(
        nn.Linear(7, 64), nn.Tanh(), SideBySide(nn.Linear(64, 2), nn.Linear(64, 1))
    ),
    "columns": lambda: SideBySide(
        nn.Sequential(Columns(0, 3, 7), nn.Linear(3, 17), nn.Tanh()),
        nn.Sequential(Columns(2, 5, 7), nn.Linear(5, 4)),
        nn.Linear(7, 1),
    ),
    "one operand twice": lambda: nn.Sequential(nn.Linear(7, 6), nn.Tanh(), Twice(), nn.Linear(6, 2)),
    "dueling": lambda: DuelingQNetwork(7, 5, (32, 24), "tanh"),
    "activation after activation": lambda: nn.Sequential(
        nn.Linear(7, 9), nn.Tanh(), nn.ReLU(), nn.Linear(9, 2)
    ),
    "indices": lambda: nn.Sequential(Indexed(), nn.Linear(28, 16), nn.Tanh(), nn.Linear(16, 2)),
}  # fmt: skip


def input_of(name: str, rows: int, dtype: torch.dtype) -> Tensor:
    x = torch.randn(rows, 7, dtype=dtype)
    if name == "indices":
        x[:, 0], x[:, 1] = torch.randint(1, 4, (rows,)), torch.randint(0, 5, (rows,))
    return x


def assert_equal(ours: list[Tensor], theirs: list[Tensor], tolerance: float) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        # Relative to the tensor as a whole: a sum of gradients may cancel in single elements.
        assert float((mine - other).norm()) <= tolerance * max(1.0, float(other.norm()))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("rows", [1, 6, 16, 37])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_outputs_and_gradients_equal_torchs(name: str, rows: int, dtype: torch.dtype) -> None:
    torch.manual_seed(rows)
    net = NETWORKS[name]().to(dtype)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.2 * torch.randn_like(p))  # norms away from w = 1, b = 0
    x = input_of(name, rows, dtype)
    by_output = torch.randn(rows, stack_of(net, "net").outputs, dtype=dtype)
    tolerance = 3e-6 if dtype == torch.float32 else 1e-13
    theirs = run_torch(net, x, by_output)
    for head in (True, False):
        assert_equal(run_core(net, x, by_output, head), theirs, tolerance)


@pytest.mark.parametrize("name", NETWORKS)
def test_single_rows_give_the_same_outputs(name: str) -> None:
    torch.manual_seed(1)
    net = NETWORKS[name]()
    x = input_of(name, 9, torch.float32)
    expected = net(x).detach()
    output = torch.empty_like(expected)
    core.mlp(stack_of(net, "net").described(), True, True, x, output, None, [], None)
    assert_equal([output], [expected], 1e-6)


@pytest.mark.usefixtures("every_simd_path")
@pytest.mark.parametrize("name", NETWORKS)
def test_every_instruction_set_computes_the_same(name: str) -> None:
    torch.manual_seed(2)
    net = NETWORKS[name]()
    x = input_of(name, 21, torch.float32)
    by_output = torch.randn(21, stack_of(net, "net").outputs)
    assert_equal(run_core(net, x, by_output), run_torch(net, x, by_output), 1e-5)


def test_layer_norm_by_hand() -> None:
    """Rows (1, 3) and (2, 2): mean 2, variance 1 and 0; ε = 1."""
    net = nn.LayerNorm(2, eps=1.0)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([2.0, 3.0]))
        net.bias.copy_(torch.tensor([0.5, -0.5]))
    output = run_core(net, torch.tensor([[1.0, 3.0], [2.0, 2.0]]), torch.zeros(2, 2))[0]
    root = 2.0**0.5
    expected = torch.tensor([[0.5 - 2.0 / root, -0.5 + 3.0 / root], [0.5, -0.5]])
    torch.testing.assert_close(output, expected)


def test_the_epsilon_of_an_rms_norm_follows_its_dtype() -> None:
    """x = 1e-6 throughout: beside mean x² = 1e-12, float32's ε of 1.2e-7 is large, that of double small."""
    net = nn.RMSNorm(4)
    for dtype, expected in ((torch.float32, 1e-6 / (1e-12 + 2.0**-23) ** 0.5), (torch.float64, 1.0)):
        net.to(dtype)
        x = torch.full((1, 4), 1e-6, dtype=dtype)
        assert run_core(net, x, torch.zeros(1, 4, dtype=dtype))[0][0, 0].item() == pytest.approx(
            expected, rel=2e-3
        )


def test_constant_rows_leave_a_norm_finite() -> None:
    net = nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 1))
    ours = run_core(net, torch.full((4, 6), 3.0), torch.ones(4, 1))
    assert all(bool(t.isfinite().all()) for t in ours)
    assert_equal(ours, run_torch(net, torch.full((4, 6), 3.0), torch.ones(4, 1)), 1e-5)


@pytest.mark.parametrize("kind", ["one_hot", "embedding"])
@pytest.mark.parametrize("index", [-1.0, 5.0, 0.5, float("nan")])
def test_an_entry_that_is_not_there_is_a_nan(kind: str, index: float) -> None:
    class Looked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            if kind == "embedding":
                self.embedding = nn.Embedding(5, 5)

        def forward(self, x: Tensor) -> Tensor:
            if kind == "embedding":
                return self.embedding(x[:, 0].long())
            return nn.functional.one_hot(x[:, 0].long(), 5).float()

        def native_plan(self, plan: Plan, x: Value) -> Value:
            x = plan.expect(x, 1)
            return plan.embed(self.embedding, x, 0) if kind == "embedding" else plan.one_hot(x, 0, 5)

    stack = stack_of(Looked(), "net")
    for few in (True, False):
        output = torch.zeros(1, 5)
        core.mlp(stack.described(), True, few, torch.tensor([[index]]), output, None, [], None)
        assert bool(output.isnan().any())


# --- recognition --------------------------------------------------------------------------------


def test_a_trunk_with_norms_and_residuals_is_shared() -> None:
    trunk = nn.Sequential(nn.Linear(7, 8), nn.LayerNorm(8), nn.Tanh(), residual_block(8, True))
    networks = networks_of(nn.Sequential(trunk, nn.Linear(8, 3)), nn.Sequential(trunk, nn.Linear(8, 1)))
    assert [len(part.layers) for part in networks] == [6, 1, 1]  # dense, norm, norm, 2 dense, sum


def test_what_is_read_behind_the_split_ends_the_trunk() -> None:
    """The critic's residual reads the first layer, so that the second one cannot be in the trunk."""
    one, two = nn.Linear(7, 8), nn.Linear(8, 8)

    class Critic(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.head = one, two, nn.Linear(8, 1)

        def forward(self, x: Tensor) -> Tensor:
            h = self.one(x)
            return self.head(h + self.two(h))

        def native_plan(self, plan: Plan, x: Value) -> Value:
            h = plan(self.one, x)
            return plan(self.head, plan.add(h, plan(self.two, h)))

    with pytest.raises(UnsupportedError, match="used in more than one place"):
        networks_of(nn.Sequential(one, two, nn.Linear(8, 3)), Critic())


class Wrong(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(7, 7)

    def forward(self, x: Tensor) -> Tensor:
        return x - self.layer(x)

    def native_plan(self, plan: Plan, x: Value) -> Value:
        return plan.add(x, plan(self.layer, x))


class Unused(Wrong):
    def native_plan(self, plan: Plan, x: Value) -> Value:
        plan(self.layer, x)
        return plan(self.layer, x)


class Nothing(Wrong):
    def native_plan(self, plan: Plan, x: Value) -> Value:
        return None  # type: ignore[return-value]


class Broken(Wrong):
    def native_plan(self, plan: Plan, x: Value) -> Value:
        raise RuntimeError("no idea")


class Uneven(Wrong):
    def native_plan(self, plan: Plan, x: Value) -> Value:
        return plan.add(plan(self.layer, x), plan.columns(x, 0, 3))


class Elsewhere(Wrong):
    def native_plan(self, plan: Plan, x: Value) -> Value:
        return plan.one_hot(plan(self.layer, x), 0, 3)


@pytest.mark.parametrize(
    ("net", "reason"),
    [
        (Wrong(), "net: what native_plan declares differs from forward by"),
        (Unused(), "net: its plan computes something that its result does not depend on"),
        (Nothing(), "net: native_plan of Nothing must return what the plan gave it"),
        (Broken(), "net: native_plan of Broken failed: no idea"),
        (Uneven(), "net: add needs two values of one width, got 7 and 3"),
        (Elsewhere(), "net: one_hot reads the network's input only"),
        (nn.Sequential(nn.Linear(4, 6), nn.LayerNorm((2, 3))), "LayerNorm over more than one dimension"),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, nn.Module) else "",
)
def test_plans_that_are_refused(net: nn.Module, reason: str) -> None:
    with pytest.raises(UnsupportedError, match=reason):
        stack_of(net, "net")


def test_a_plan_is_made_again_when_the_module_changes() -> None:
    net = nn.Sequential(nn.Linear(7, 7), Residual(nn.Linear(7, 7), 0.5))
    x, by_output = torch.randn(3, 7), torch.randn(3, 7)
    assert stack_of(net, "net") is stack_of(net, "net")
    net[1].factor = 2.0
    assert_equal(run_core(net, x, by_output), run_torch(net, x, by_output), 1e-5)
    net[1].body = nn.Sequential(nn.Linear(7, 9), nn.Tanh(), nn.Linear(9, 7))
    assert_equal(run_core(net, x, by_output), run_torch(net, x, by_output), 1e-5)
    net[1].body[1].register_forward_hook(lambda *_: None)
    with pytest.raises(UnsupportedError, match="Tanh has a hook"):
        stack_of(net, "net")


def test_a_module_that_is_used_twice_is_computed_twice() -> None:
    act = nn.Tanh()
    net = nn.Sequential(nn.Linear(7, 8), act, nn.Linear(8, 8), act, nn.Linear(8, 2))
    x, by_output = torch.randn(5, 7), torch.randn(5, 2)
    assert_equal(run_core(net, x, by_output), run_torch(net, x, by_output), 1e-6)
    layer = nn.Linear(7, 7)
    twice = nn.Sequential(layer, layer, nn.Linear(7, 3))
    assert len(stack_of(twice, "net").layers) == 3
    with pytest.raises(UnsupportedError, match="used in more than one place"):
        networks_of(twice, nn.Linear(7, 1))


class ReZero(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.alpha, self.body = nn.Parameter(torch.zeros(())), nn.Linear(7, 7)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.alpha * self.body(x)

    def native_plan(self, plan: Plan, x: Value) -> Value:
        return plan.add(x, plan(self.body, x), float(self.alpha.detach()))


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("factor", torch.tensor(3.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x

    def native_plan(self, plan: Plan, x: Value) -> Value:
        return plan.columns(plan.expect(x, 7), 0, 7, float(self.factor))


class Half(Residual):
    """Declares half of what it adds."""

    def native_plan(self, plan: Plan, x: Value) -> Value:
        return plan.add(x, plan(self.body, x), 0.5)


class InPlace(nn.Module):
    """Forward overwrites its input, which the plan does not say."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(7, 7)

    def forward(self, x: Tensor) -> Tensor:
        return x.relu_() + self.layer(x)

    def native_plan(self, plan: Plan, x: Value) -> Value:
        return plan.add(x, plan(self.layer, x))


def with_small_head() -> nn.Module:
    net = nn.Sequential(nn.Linear(7, 8), Half(nn.Linear(8, 8)), nn.Linear(8, 2))
    with torch.no_grad():
        net[2].weight.zero_()
        net[2].bias.zero_()
    return net


@pytest.mark.parametrize(
    ("net", "reason"),
    [
        (ReZero(), "differs from forward"),
        (Scaled(), "differs from forward"),
        (with_small_head(), "differs from forward"),
        (InPlace(), "differs from forward"),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, nn.Module) else "",
)
def test_declarations_that_would_not_stay_true_are_refused(net: nn.Module, reason: str) -> None:
    with pytest.raises(UnsupportedError, match=reason):
        stack_of(net, "net")


def test_parameters_and_buffers_that_forward_does_not_read_are_no_hindrance() -> None:
    class View(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = nn.Linear(7, 3), nn.Linear(7, 1)
            self.register_buffer("count", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            return self.one(x)

        def native_plan(self, plan: Plan, x: Value) -> Value:
            return plan(self.one, x)

    assert [layer.out for layer in stack_of(View(), "net").layers] == [3]


@pytest.mark.parametrize("option", ["padding_idx", "max_norm", "sparse", "scale_grad_by_freq"])
def test_embeddings_with_options_go_to_torch(option: str) -> None:
    net = Indexed()
    assert stack_of(net, "net")
    setattr(net.embedding, option, 1)  # after it was recognised
    with pytest.raises(UnsupportedError, match="an Embedding with"):
        stack_of(net, "net")


def test_a_trunk_shrinks_until_nothing_reads_past_its_end() -> None:
    a, b = nn.Linear(7, 8), nn.Linear(8, 8)

    class Net(nn.Module):
        def __init__(self, joins: bool) -> None:
            super().__init__()
            self.a, self.b, self.joins = a, b, joins
            self.head = nn.Linear(16, 3) if joins else nn.Linear(8, 1)

        def forward(self, x: Tensor) -> Tensor:
            first = torch.tanh(self.a(x))
            second = torch.tanh(self.b(first))
            total = second + first
            return self.head(torch.cat([total, second], dim=-1) if self.joins else total * second)

        def native_plan(self, plan: Plan, x: Value) -> Value:
            first = plan(nn.Tanh(), plan(self.a, x))
            second = plan(nn.Tanh(), plan(self.b, first))
            total = plan.add(second, first)
            joined = plan.concatenate(total, second) if self.joins else plan.multiply(total, second)
            return plan(self.head, joined)

    actor, critic = Net(True), Net(False)
    assert stack_of(actor, "actor") and stack_of(critic, "critic")
    # Of the shared layers a and b only a could be in the trunk, and then b would be computed twice.
    with pytest.raises(UnsupportedError, match="used in more than one place"):
        networks_of(actor, critic)


def test_a_bias_that_appears_is_seen_while_acting() -> None:
    actor, critic = nn.Linear(4, 3, bias=False), nn.Linear(4, 1)
    agents = []
    for backend in ("native", "torch"):
        nets = copy.deepcopy((actor, critic))
        optimizer = torch.optim.Adam([p for net in nets for p in net.parameters()])
        params = HyperparamSet({})
        agent = TorchPPOAgent(*nets, optimizer, params, action_space=spaces.Discrete(3), backend=backend)
        agent.act(np.ones(4, np.float32), deterministic=True)
        agent.actor.bias = nn.Parameter(torch.tensor([0.0, 50.0, 0.0]))
        agents.append(agent)
    assert [agent.act(np.ones(4, np.float32), deterministic=True) for agent in agents] == [1, 1]


def test_a_layer_of_another_width_is_recognised_again() -> None:
    net = nn.Sequential(nn.Linear(4, 2))
    assert stack_of(net, "net").features == 4
    net[0].weight, net[0].in_features = nn.Parameter(torch.randn(2, 6)), 6
    assert stack_of(net, "net").features == 6


def test_a_hook_on_a_module_that_the_plan_passes_by_is_seen() -> None:
    encoder = ObservationEncoder(spaces.Discrete(3))
    critic = EncodedCritic(encoder, nn.Linear(5, 1), 2)
    assert stack_of(critic, "critic")
    encoder.register_forward_hook(lambda *_: None)
    with pytest.raises(UnsupportedError, match="ObservationEncoder has a hook"):
        stack_of(critic, "critic")


def test_what_depends_on_the_mode_of_training_is_looked_at_again() -> None:
    class Noisy(Residual):
        def forward(self, x: Tensor) -> Tensor:
            return x + nn.functional.dropout(self.body(x), 0.5, self.training)

    net = Noisy(nn.Linear(7, 7)).eval()
    assert stack_of(net, "net")
    net.train()
    with pytest.raises(UnsupportedError, match="differs from forward"):
        stack_of(net, "net")
