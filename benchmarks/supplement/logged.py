"""Numbers from the experimental logs of the SI-CNN supplement (section D), as they stand there.

RMSE of F as a fraction, of D and D* in mm^2/s. Their phantom, b-values and definition of SNR are not given.
"""

from __future__ import annotations

from typing import NamedTuple


class LoggedErrors(NamedTuple):
    """RMSE of F, D and D* at one SNR, with the settings in the notation of the logs."""

    snr: float
    f: float
    d: float
    dstar: float
    settings: str


class LoggedStop(NamedTuple):
    """One value of lambda at SNR 8: minutes of two trainings, loss against the noisy signals, RMSEs."""

    lambda_: float
    minutes: tuple[float, float]
    noisy_loss: float
    f: float
    d: float
    dstar: float


_LAST = "around 0.03, fitting_max 0.02, lamuda 0.01, batch 25, delta 0.05"

SIMULATION = (
    LoggedErrors(12, 0.0485508106648922, 0.00044553776388056576, 0.04398658126592636, _LAST),
    LoggedErrors(15, 0.038111, 0.000351, 0.036368, _LAST),
    LoggedErrors(25, 0.024040494114160538, 0.00018500156875234097, 0.026606647297739983, _LAST),
    LoggedErrors(33, 0.019424, 0.000130, 0.021947, _LAST),
    LoggedErrors(50, 0.012880, 0.000077, 0.016127, _LAST),
    LoggedErrors(75, 0.009439, 0.000052, 0.012861, _LAST),
    LoggedErrors(100, 0.007904388941824436, 4.495037137530744e-05, 0.011166084557771683, _LAST),
)
"""31 May 2025, "keep trying for better result"."""

TRUE_EXPERIMENT = (
    LoggedErrors(12, 0.065930, 0.000441, 0.036248, "batch 5, delta 0.05, lamuda 0.01"),
    LoggedErrors(
        12,
        0.06088801845908165,
        0.00040284631540998816,
        0.03552285581827164,
        "batch 5, delta 0.05, lamuda 0.01, second column",
    ),
    LoggedErrors(33, 0.043301, 0.000200, 0.025823, "batch 5, delta 0.05, lamuda 0.01"),
    LoggedErrors(33, 0.041317, 0.000177, 0.020673, "around_diff 0.02, fitting_max 0.03: result better"),
)
"""3 June 2025, "true experiment"."""

STOPPING = (
    LoggedStop(0.5, (7, 10), 0.031245, 0.123295, 0.001034, 0.082674),
    LoggedStop(0.1, (19, 17), 0.021232, 0.074345, 0.000723, 0.056163),
    LoggedStop(0.05, (27, 27), 0.020923, 0.076196, 0.000749, 0.056033),
    LoggedStop(0.01, (43, 46), 0.020934, 0.077988, 0.000648, 0.057689),
    LoggedStop(0.001, (118, 134), 0.020476, 0.075563, 0.000744, 0.058039),
)
"""11 April 2025, "sicnnaround simulation snr 8"."""

STOPPING_SNR = 8.0
