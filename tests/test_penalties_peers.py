"""Agreement with pyproximal and skglm, up to the stated rescaling."""

from __future__ import annotations

import numpy as np
import pyproximal
import pytest
import torch
from skglm.penalties import BlockMCPenalty, BlockSCAD, L1_plus_L2
from skglm.utils import prox_funcs

from rvsm.groups import InputChannels, SparseGroup
from rvsm.penalties import (
    L0,
    L1,
    MCP,
    SCAD,
    Elastic,
    LHalf,
    LogSum,
    LTwoThirds,
    Penalty,
    TransformedL1,
)

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


def test_l0_is_that_of_pyproximal():
    # Its L0 cuts at its argument, where the map of mu l0 cuts at sqrt(2 mu).
    for mu in (0.1, 0.7, 2.0):
        cut = pyproximal.L0(sigma=np.sqrt(2 * mu)).prox(X.copy(), 1.0)
        np.testing.assert_array_equal(ours(L0(), mu), cut)


def test_l1_is_that_of_both():
    np.testing.assert_allclose(ours(L1(), 0.3), of_skglm("ST", 0.3), atol=1e-12)
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


@pytest.mark.parametrize(("step", "alpha", "gamma"), [(1.0, 0.5, 3.7), (0.4, 1.0, 2.5)])
def test_scad_is_that_of_skglm(step, alpha, gamma):
    expected = of_skglm("prox_SCAD", step, alpha, gamma)
    penalty = SCAD(a=gamma, knee=alpha)
    np.testing.assert_allclose(ours(penalty, step * alpha), expected, atol=1e-9)
    value = prox_funcs.value_SCAD.py_func(X, alpha, gamma)
    assert alpha * penalty.value(torch.tensor(X)).item() == pytest.approx(value)


@pytest.mark.parametrize("mu", [0.2, 1.0])
def test_elastic_net_is_that_of_skglm(mu):
    # L1_plus_L2(alpha, l1_ratio): alpha l1_ratio |x| + alpha (1 - l1_ratio) x^2 / 2.
    penalty = L1_plus_L2(1.0, 0.6)
    expected = np.array([penalty.prox_1d(x, mu, 0) for x in X])
    elastic = Elastic(L1(), ridge=0.4 / 0.6)
    np.testing.assert_allclose(ours(elastic, 0.6 * mu), expected, atol=1e-12)
    assert 0.6 * elastic.value(torch.tensor(X)).item() == pytest.approx(penalty.value(X))


COLUMNS = np.random.default_rng(0).normal(size=(3, 200))


def of_columns(penalty: Penalty, mu: float) -> np.ndarray:
    return InputChannels().prox(penalty, torch.tensor(COLUMNS), mu).numpy()


@pytest.mark.parametrize("mu", [0.3, 1.5])
def test_group_lasso_is_that_of_both(mu):
    found = of_columns(L1(), mu)
    theirs = pyproximal.L21(ndim=3, sigma=1.0).prox(COLUMNS.ravel(), mu).reshape(COLUMNS.shape)
    np.testing.assert_allclose(found, theirs, atol=1e-12)
    blocks = [prox_funcs.BST.py_func(column, mu) for column in COLUMNS.T]
    np.testing.assert_allclose(found.T, blocks, atol=1e-12)


@pytest.mark.parametrize("mu", [0.3, 1.5])
def test_group_lhalf_is_that_of_skglm(mu):
    theirs = [prox_funcs.prox_block_2_05(column, mu) for column in COLUMNS.T]
    np.testing.assert_allclose(of_columns(LHalf(), mu).T, theirs, atol=1e-9)


@pytest.mark.parametrize("mu", [0.3, 0.8])
def test_group_mcp_is_that_of_skglm(mu):
    penalty = BlockMCPenalty(1.0, 3.0)
    theirs = [penalty.prox_1feat(column, mu, 0) for column in COLUMNS.T]
    np.testing.assert_allclose(of_columns(MCP(gamma=3.0), mu).T, theirs, atol=1e-12)


@pytest.mark.parametrize("mu", [0.3, 0.8])
def test_group_scad_is_that_of_skglm(mu):
    penalty = BlockSCAD(1.0, 3.7)
    theirs = [penalty.prox_1feat(column, mu, 0) for column in COLUMNS.T]
    np.testing.assert_allclose(of_columns(SCAD(a=3.7, knee=1.0), mu).T, theirs, atol=1e-9)


@pytest.mark.parametrize("mu", [0.2, 0.6])
def test_sparse_group_lasso_is_that_of_pyproximal(mu):
    with np.errstate(divide="ignore"):  # it divides by the norms of dead columns
        theirs = pyproximal.L21_plus_L1(sigma=1.0, rho=0.4).prox(COLUMNS, mu)
    penalty = SparseGroup(L1(), InputChannels(), 0.6 / 0.4)
    found = penalty.prox(torch.tensor(COLUMNS), 0.4 * mu).numpy()
    np.testing.assert_allclose(found, theirs, atol=1e-12)


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
