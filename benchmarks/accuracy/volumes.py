"""How often a volume is called bad: good volumes (false alarms) and volumes that were spoilt.

    python -m benchmarks.accuracy.volumes [--seeds 3] [--snr 5 10 20 50 100]

Clean phantoms of the abdomen and the brain, SNR 5 to 100, one to six volumes per b-value; the brain with
fibres, in a quarter of the white matter two that cross, and 3 to 64 directions, with and without the table
of directions. Then the same with one defect each: how often it is found in the volume, and how many other
volumes are blamed. A minute.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from benchmarks.common.cells import parser_of
from sicnn_app.ivim.series import DwiSeries
from sicnn_app.phantoms.acquire import Protocol, noise_sigma
from sicnn_app.phantoms.phantom import Phantom, make_phantom
from sicnn_app.preprocess.judgement import judge

SCHEMES = {
    "abdomen": (0, 10, 20, 30, 40, 50, 75, 100, 150, 250, 400, 600),
    "brain": (0, 10, 20, 40, 80, 110, 140, 200, 300, 500, 700, 900),
}
SHELLS = {"abdomen": (0, 50, 200, 400, 800), "brain": (0, 50, 200, 500, 1000)}
WHITE_MATTER = 1


def acquired(
    phantom: Phantom, bvals: np.ndarray, bvecs: np.ndarray, snr: float, rng: np.random.Generator
) -> np.ndarray:
    """Rician volumes; white matter of the brain has fibres whose direction turns with the place."""
    b = bvals
    slow = np.exp(-b * phantom.d[..., None])
    if phantom.preset == "brain":
        fibre = phantom.labels == WHITE_MATTER
        x, y, z = np.indices(phantom.labels.shape)
        angle = 0.15 * x[fibre] + 0.1 * y[fibre]
        axes = np.stack([np.cos(angle), np.sin(angle), 0.3 * np.sin(0.4 * z[fibre])], axis=-1)
        axes /= np.linalg.norm(axes, axis=-1, keepdims=True)
        crossing = np.stack([-axes[:, 1], axes[:, 0], axes[:, 2]], axis=-1)
        along, across = 1.7e-3, 0.3e-3
        one, two = (
            np.exp(-b * (across + (along - across) * (direction @ bvecs.T) ** 2))
            for direction in (axes, crossing)
        )
        # Two fibres in the stripes of every fourth voxel column.
        mixed = np.where(((x[fibre] // 8) % 4 == 0)[:, None], 0.5, 0.0)
        slow[fibre] = (1 - mixed) * one + mixed * two
    f, s0 = phantom.f[..., None], phantom.s0[..., None]
    clean = s0 * (f * np.exp(-b * phantom.dstar[..., None]) + (1 - f) * slow)
    noise = noise_sigma(phantom, snr) * rng.standard_normal((2, *clean.shape))
    return np.hypot(clean + noise[0], noise[1]).astype(np.float32)


def protocols(preset: str) -> dict[str, tuple[Protocol, bool]]:
    """Name of a scheme to the protocol, and whether the table states directions."""
    low, shells = SCHEMES[preset], SHELLS[preset]
    chosen = {
        "1 volume": (Protocol(low), False),
        "4 b-values": (Protocol((0, 20, 200, 800)), False),
        "3 directions": (Protocol(low, directions=3), True),
        "3 directions, not stated": (Protocol(low, directions=3), False),
        "6 repeats": (Protocol(low[::2], repeats=6, b0_repeats=6), False),
        "6 directions": (Protocol(shells, directions=6, b0_repeats=3), True),
        "6 directions, not stated": (Protocol(shells, directions=6, b0_repeats=3), False),
    }
    if preset == "brain":
        chosen["16 directions"] = Protocol(shells, directions=16, b0_repeats=4), True
        chosen["64 directions"] = Protocol((0, 200, 1000), directions=64, b0_repeats=6), True
        chosen["64 directions, not stated"] = Protocol((0, 50, 200, 1000), directions=64, b0_repeats=6), False
    return chosen


def _dropout(data: np.ndarray, i: int, rng: np.random.Generator) -> None:
    lost = np.zeros(data.shape[:3], dtype=bool)
    lost[data.shape[0] // 2 :, data.shape[1] // 2 :] = True
    data[lost, i] *= 0.4


def _derived(data: np.ndarray, i: int, rng: np.random.Generator) -> None:
    with np.errstate(divide="ignore", invalid="ignore"):
        adc = np.log(data[..., 0] / data[..., -1 if i != data.shape[3] - 1 else -2])
    data[..., i] = np.clip(np.nan_to_num(1000 * adc), 0, 4095)


def _spike(data: np.ndarray, i: int, rng: np.random.Generator) -> None:
    x, y = np.indices(data.shape[:2])
    stripes = np.sin(1.9 * x + 1.1 * y)[..., None]
    data[..., i] = np.abs(data[..., i] + 0.5 * data[..., 0].max() * stripes)


def _gain(data: np.ndarray, i: int, rng: np.random.Generator) -> None:
    data[..., i] *= 1.5


DEFECTS: dict[str, Callable[[np.ndarray, int, np.random.Generator], None]] = {
    "a quarter lost 60 %": _dropout,
    "ADC map": _derived,
    "spike": _spike,
    "1.5 times as bright": _gain,
}


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--snr", type=float, nargs="+", default=(5, 10, 20, 50, 100))
    options = parser.parse_args()
    rng = np.random.default_rng(1)
    print("| preset | scheme | SNR | volumes | called bad | contradictions |")
    print("|---|---|---|---|---|---|")
    total, alarms, tables = 0, 0, 0
    spoilt = {name: [0, 0, 0, 0] for name in DEFECTS}
    for preset in SCHEMES:
        for name, (protocol, stated) in protocols(preset).items():
            bvals, bvecs = protocol.gradient_table()
            for snr in options.snr:
                count = bad = contradictions = 0
                for seed in range(options.seeds):
                    shape = [(48, 40, 4), (64, 64, 1), (32, 40, 8)][seed % 3]
                    phantom = make_phantom(preset, shape=shape, seed=100 + seed)
                    data = acquired(phantom, bvals, bvecs, snr, rng)
                    given = bvecs if stated else None
                    judged = judge(
                        DwiSeries(data, bvals, given, phantom.affine),
                        anatomy="brain" if preset == "brain" else "body",
                    )
                    count += bvals.size
                    bad += sum(volume.in_question for volume in judged.volumes)
                    contradictions += len(judged.contradictions)
                    for defect, spoil in DEFECTS.items():
                        changed = data.copy()
                        i = int(rng.integers(bvals.size))
                        spoil(changed, i, rng)
                        volumes = judge(
                            DwiSeries(changed, bvals, given, phantom.affine),
                            anatomy="brain" if preset == "brain" else "body",
                        ).volumes
                        spoilt[defect][0] += 1
                        spoilt[defect][1] += volumes[i].in_question
                        spoilt[defect][2] += sum(one.in_question for one in volumes) - volumes[i].in_question
                        spoilt[defect][3] += bvals.size - 1
                print(f"| {preset} | {name} | {snr:g} | {count} | {bad} | {contradictions} |", flush=True)
                total, alarms, tables = total + count, alarms + bad, tables + contradictions
    print(f"\n{alarms} of {total} good volumes called bad ({alarms / total:.2%}); {tables} contradictions\n")
    print("| defect | found | others blamed |\n|---|---|---|")
    for defect, (tried, found, blamed, others) in spoilt.items():
        print(f"| {defect} | {found} of {tried} | {blamed} of {others} ({blamed / others:.2%}) |")


if __name__ == "__main__":
    main()
