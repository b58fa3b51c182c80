"""Agreement with pyproximal and skglm, up to the stated rescaling."""

from __future__ import annotations

import numpy as np
import pyproximal
import pytest
import torch
from skglm.utils import prox_funcs

from rvsm.penalties import L1, MCP, SCAD, LHalf, LogSum, LTwoThirds, Penalty, TransformedL1

X = np.linspace(-5, 5, 1000)  # even, so that no point sits on a tie


def ours(penalty: Penalty, mu: float) -> np.ndarray:
    return penalty.prox(torch.tensor(X), mu).numpy()


def of_skglm(name: str, *parameters: float) -> np.ndarray:
    """Its scalar maps as plain Python: to compile them takes longer than to run them."""
    function = getattr(prox_funcs, name)
    return np.array([getattr(function, "py_func", function)(x, *parameters) for x in X])


@pytest.mark.parametrize("a", [0.1, 1.0, 4.0])
@pytest.mark.parametrize("mu", [0.01, 0.2, 1.0])
def test_transformed_l1_is_geman_of_pyproximal(a, mu):
    geman = pyproximal.Geman(sigma=a + 1, gamma=a)
    penalty = TransformedL1(a=a)
    assert penalty.value(torch.tensor(X)).item() == pytest.approx(geman(X))
    np.testing.assert_allclose(ours(penalty, mu), geman.prox(X, mu), atol=1e-7)


def test_l1_is_that_of_pyproximal():
    # Its L0 is no cross-check: pyproximal 0.13 cuts at mu, where the map cuts at sqrt(2 mu).
    np.testing.assert_allclose(ours(L1(), 0.3), pyproximal.L1(sigma=1.0).prox(X, 0.3), atol=1e-12)


@pytest.mark.parametrize("eps", [0.05, 0.5, 2.0])
@pytest.mark.parametrize("mu", [0.02, 0.4, 1.5])
def test_log_sum_is_that_of_both(eps, mu):
    gamma = 1 / eps
    log = pyproximal.Log(sigma=eps * np.log(gamma + 1), gamma=gamma)
    penalty = LogSum(eps=eps)
    assert penalty.value(torch.tensor(X)).item() == pytest.approx(log(X))
    np.testing.assert_allclose(ours(penalty, mu), log.prox(X, mu), atol=1e-9)


@pytest.mark.parametrize("mu", [0.1, 0.7, 1.3])
@pytest.mark.parametrize("a", [2.5, 3.7])
def test_scad_with_its_knee_at_mu_is_that_of_pyproximal(mu, a):
    scad = pyproximal.SCAD(sigma=mu, a=a)
    penalty = SCAD(a=a, knee=mu)
    assert mu * penalty.value(torch.tensor(X)).item() == pytest.approx(scad(X))
    np.testing.assert_allclose(ours(penalty, mu), scad.prox(X, 1.0), atol=1e-12)


@pytest.mark.parametrize(("step", "alpha", "gamma"), [(1.0, 0.5, 3.0), (0.4, 1.0, 1.5)])
def test_mcp_is_that_of_skglm(step, alpha, gamma):
    # Where its step is below its gamma, which is mu < gamma here; beyond it gives no minimiser.
    expected = of_skglm("prox_MCP", step, alpha, gamma)
    np.testing.assert_allclose(ours(MCP(gamma=gamma * alpha), step * alpha), expected, atol=1e-12)


@pytest.mark.parametrize("mu", [0.02, 0.4, 1.5])
@pytest.mark.parametrize(
    ("penalty", "name"), [(LHalf(), "prox_05"), (LTwoThirds(), "prox_2_3")], ids=str
)
def test_closed_lp_is_that_of_skglm(penalty, name, mu):
    np.testing.assert_allclose(ours(penalty, mu), of_skglm(name, mu), atol=1e-9)


@pytest.mark.parametrize("eps", [0.3, 2.0])
def test_log_sum_is_that_of_skglm(eps):
    penalty, mu = LogSum(eps=eps), 0.5
    point = np.array([-2.0, 0.1, 1.7])
    maps = [prox_funcs.prox_log_sum(x, mu * eps, eps) for x in point]
    np.testing.assert_allclose(penalty.prox(torch.tensor(point), mu), maps, atol=1e-7)
