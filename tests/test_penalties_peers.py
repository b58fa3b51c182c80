"""Agreement with other libraries, up to the stated rescaling."""

@pytest.mark.parametrize("a", [0.1, 1.0, 4.0])
@pytest.mark.parametrize("mu", [0.01, 0.2, 1.0])
def test_transformed_l1_is_geman_of_pyproximal(a, mu):
    x = np.linspace(-5, 5, 1000)  # even, so that no point sits on a tie
    geman = pyproximal.Geman(sigma=a + 1, gamma=a)
    penalty = TransformedL1(a=a)
    assert penalty.value(torch.tensor(x)).item() == pytest.approx(geman(x))
    ours = penalty.prox(torch.tensor(x), mu).numpy()
    np.testing.assert_allclose(ours, geman.prox(x, mu), atol=1e-7)


def test_l1_is_that_of_pyproximal():
    # Its L0 is no cross-check: pyproximal 0.13 cuts at mu, where the map cuts at sqrt(2 mu).
    x = np.linspace(-5, 5, 1000)
    ours = L1().prox(torch.tensor(x), 0.3).numpy()
    np.testing.assert_allclose(ours, pyproximal.L1(sigma=1.0).prox(x, 0.3), atol=1e-12)


