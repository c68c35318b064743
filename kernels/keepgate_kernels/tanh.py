"""The coefficients of tanh, for every backend.

x P(x^2) / Q(x^2) on [-8, 8], fitted by `kernels/tools/fit_tanh.py` for the least relative error: 7e-9 before
rounding, 3.1e-7 in float32. Beyond the clamp it is constant, 2.3e-7 from 1.
"""

from __future__ import annotations

CLAMP = 8.0
P = (1.0, 0.13444554805755615, 0.0035716656129807234, 2.1895784811931662e-05, 1.5232007655185953e-08)
Q = (1.0, 0.4677788317203522, 0.026164699345827103, 0.00034114028676413, 8.523089718437404e-07)
P_OF_HALF = tuple(coefficient / 2 / 4**power for power, coefficient in enumerate(P))
Q_OF_HALF = tuple(coefficient / 4**power for power, coefficient in enumerate(Q))
"""For the logistic function, (1 + tanh(x / 2)) / 2: the halves are in the coefficients."""
