"""Mean and variance of magnitudes against drawn ones."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sicnn_app.ivim.magnitudes import LEAST_MEAN, magnitude_variance, mean_magnitude, signal_of_mean


@pytest.mark.parametrize("signal", [0.0, 0.7, 2.0, 6.0, 40.0])
def test_mean_and_variance_are_those_of_drawn_magnitudes(signal):
    real, imaginary = np.random.default_rng(0).standard_normal((2, 400_000))
    drawn = np.hypot(signal + real, imaginary)
    assert mean_magnitude(signal) == pytest.approx(drawn.mean(), abs=0.006)
    assert magnitude_variance(np.array(signal)) == pytest.approx(drawn.var(), abs=0.01)


@given(st.floats(0.0, 1e4))
def test_the_mean_is_inverted(signal):
    assert signal_of_mean(np.array(mean_magnitude(signal))) == pytest.approx(signal, abs=2e-3, rel=1e-4)


@given(st.floats(0.0, LEAST_MEAN))
def test_below_the_mean_of_noise_there_is_no_signal(mean):
    assert signal_of_mean(np.array(mean)) == 0.0
