// The fit of one decay, as sicnn_app/lsq does it for maps: bi-exponential, least squares, within the same bounds.

const GRID = 24; // values of D, and of D*, from which the search starts
const STARTS = 4; // of the best of them, one in each band of D*
const NEIGHBOURS = [-1, -0.5, -0.2, 0, 0.2, 0.5, 1];
const FINEST = 1e-7; // step, as a share of the interval of D and of the logarithm of D*, at which the search ends

// Weights as in sicnn_app/lsq/misfit.py, where a voxel is all of its region: inverse variances, of the noise and of what
// the fit is off by. Without noise all b-values count alike.
const [NOT_IN_MISFIT, ROUNDS] = [0.5, 3];

// `sigma` is the noise of the signals of one voxel, in their unit, `volumes` those averaged per b-value.
function fitWeighed(bvals, signals, sigma, volumes, bounds) {
  let weights = bvals.map(() => 1);
  if (sigma.every((noise) => noise > 0)) {
    const pooled = sigma.reduce((sum, noise, position) => sum + noise * noise * volumes[position], 0) / sigma.length;
    for (let round = 0; round < ROUNDS; round++) {
      const fit = fitBiexponential(bvals, signals, weights, bounds);
      if (!fit) return null;
      const raw = bvals.map((b, position) => {
        const predicted = fit.s0 * (fit.f * Math.exp(-b * fit.dstar) + (1 - fit.f) * Math.exp(-b * fit.d));
        return 1 / (NOT_IN_MISFIT * pooled / volumes[position] + (signals[position] - predicted) ** 2);
      });
      const mean = raw.reduce((sum, weight) => sum + weight) / raw.length;
      weights = raw.map((weight) => weight / mean);
    }
  }
  return fitBiexponential(bvals, signals, weights, bounds);
}

// F, D, D* and S0 in the units of the maps; null without a signal at the lowest b-value.
// `weights` are those of the squared residuals, `bounds` the intervals of f, d, dstar, and of s0 relative to that signal.
function fitBiexponential(bvals, signals, weights, bounds) {
  const level = signals[bvals.indexOf(Math.min(...bvals))];
  if (!(level > 0) || !signals.every(Number.isFinite)) return null;
  const relative = signals.map((signal) => signal / level);
  const at = (share, ratio) => best(bvals, relative, weights, bounds, share, ratio);
  const steps = Array.from({ length: GRID }, (_, step) => step / (GRID - 1));
  const bands = Array.from({ length: STARTS }, (_, band) => steps.slice(band * GRID / STARTS, (band + 1) * GRID / STARTS));
  const found = bands.map((band) => {
    const points = band.flatMap((ratio) => steps.map((share) => at(share, ratio)));
    return descend(points.reduce(lower), at);
  });
  const { f, d, dstar, s0 } = found.reduce(lower);
  return { f, d, dstar, s0: s0 * level };
}

function lower(one, other) {
  return other.cost < one.cost ? other : one;
}

// Moves to the best neighbour as long as there is one, then looks closer.
function descend(start, at) {
  let here = start;
  for (let step = 1 / (GRID - 1); step > FINEST;) {
    const around = NEIGHBOURS.flatMap((across) => NEIGHBOURS.map((along) =>
      at(here.share + across * step, here.ratio + along * step)));
    const next = around.reduce(lower, here);
    if (!(next.cost < here.cost)) step /= 2;
    here = next;
  }
  return here;
}

// Given both exponents the model is linear in S0 F and S0 (1 - F). `share` and `ratio` (0..1) are the places of D in its
// interval and of the logarithm of D* in its own.
function best(bvals, signals, weights, bounds, share, ratio) {
  const within = (value) => Math.min(Math.max(value, 0), 1);
  const shareInside = within(share), ratioInside = within(ratio);
  const d = bounds.d[0] + shareInside * (bounds.d[1] - bounds.d[0]);
  const dstar = bounds.dstar[0] * (bounds.dstar[1] / bounds.dstar[0]) ** ratioInside;
  let bloodBlood = 0, cross = 0, tissueTissue = 0, bloodSignal = 0, tissueSignal = 0, signalSignal = 0;
  for (let position = 0; position < bvals.length; position++) {
    const b = bvals[position], weight = weights[position], signal = signals[position];
    const blood = Math.exp(-b * dstar), tissue = Math.exp(-b * d);
    bloodBlood += weight * blood * blood;
    cross += weight * blood * tissue;
    tissueTissue += weight * tissue * tissue;
    bloodSignal += weight * blood * signal;
    tissueSignal += weight * tissue * signal;
    signalSignal += weight * signal * signal;
  }
  const ofF = (wanted) => {
    const f = Math.min(Math.max(wanted, bounds.f[0]), bounds.f[1]);
    const mix = f * f * bloodBlood + 2 * f * (1 - f) * cross + (1 - f) * (1 - f) * tissueTissue;
    const mixSignal = f * bloodSignal + (1 - f) * tissueSignal;
    const s0 = Math.min(Math.max(mixSignal / mix, bounds.s0[0]), bounds.s0[1]);
    return { f, d, dstar, s0, share: shareInside, ratio: ratioInside, cost: signalSignal + s0 * (s0 * mix - 2 * mixSignal) };
  };
  const determinant = Math.max(bloodBlood * tissueTissue - cross * cross, 1e-12);
  const ofBlood = (tissueTissue * bloodSignal - cross * tissueSignal) / determinant;
  const ofTissue = (bloodBlood * tissueSignal - cross * bloodSignal) / determinant;
  const total = ofBlood + ofTissue, free = ofBlood / total;
  if (free >= bounds.f[0] && free <= bounds.f[1] && total >= bounds.s0[0] && total <= bounds.s0[1]) return ofF(free);
  const s0AtBound = bounds.s0.map((s0) => (bloodSignal - tissueSignal - s0 * (cross - tissueTissue)) /
    (s0 * (bloodBlood - 2 * cross + tissueTissue) || 1e-12));
  // Where the best point lies outside the bounds it is one of those on an edge: of F, or of S0 with the best F there.
  return [...(Number.isFinite(free) ? [free] : []), ...bounds.f, ...s0AtBound].map(ofF).reduce(lower);
}
