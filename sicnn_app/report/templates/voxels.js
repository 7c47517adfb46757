// Shows one run voxel by voxel. Everything comes from the JSON in the page: nothing is requested.

const run = JSON.parse(document.getElementById("run").textContent);
const fieldOf = new Map(run.fields.map((field, position) => [field.name, { ...field, position }]));
const FLAGS = "flags";
const SVG = "http://www.w3.org/2000/svg";
const byId = (id) => document.getElementById(id);

// ---- Packed numbers, laid out as sicnn_app/report/packing.py says ----

function bytesOf(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

class Slice {
  constructor(text) {
    const bytes = bytesOf(text);
    const pixels = run.rows * run.columns;
    const bits = Math.ceil(pixels / 8);
    this.voxelAt = new Int32Array(pixels).fill(-1);
    this.voxels = 0;
    for (let pixel = 0; pixel < pixels; pixel++) {
      if (bytes[pixel >> 3] & (128 >> (pixel & 7))) this.voxelAt[pixel] = this.voxels++;
    }
    this.underlay = bytes.subarray(bits, bits + pixels);
    this.flags = bytes.subarray(bits + pixels, bits + pixels + this.voxels);
    this.codes = new DataView(bytes.buffer, bits + pixels + this.voxels);
  }

  // NaN where there is no such map or no number.
  value(name, voxel) {
    const field = fieldOf.get(name);
    if (!field || voxel < 0) return NaN;
    const place = (field.position * this.voxels + voxel) * run.code_bytes;
    const code = run.code_bytes === 2 ? this.codes.getUint16(place, true) : this.codes.getUint8(place);
    return code === 0 ? NaN : field.low + (code - 1) * field.step;
  }

  inside(row, column) {
    const within = row >= 0 && row < run.rows && column >= 0 && column < run.columns;
    return within && this.voxelAt[row * run.columns + column] >= 0;
  }
}

const opened = new Map();

// Slices are opened when they are looked at: a phone has no memory for all of a large run.
function openSlice(place) {
  if (!opened.has(place)) {
    if (opened.size > 8) opened.clear();
    opened.set(place, new Slice(run.packed[place]));
  }
  return opened.get(place);
}

// ---- State: what is looked at ----

const state = { view: run.views[0].field, ...run.first };

function move(columns, rows, slices) {
  const within = (value, size) => Math.min(Math.max(value, 0), size - 1);
  state.column = within(state.column + columns, run.columns);
  state.row = within(state.row + rows, run.rows);
  state.slice = within(state.slice + slices, run.slices.length);
  draw();
}

// Indices of the array in the NIfTI file: undoes what Display.picture did.
function arrayIndex() {
  const row = run.flip_down ? run.rows - 1 - state.row : state.row;
  const column = run.flip_across ? run.columns - 1 - state.column : state.column;
  const [first, second] = run.transpose ? [row, column] : [column, row];
  return [first + run.origin[0], second + run.origin[1], run.slices[state.slice]];
}

// ---- Words ----

// Three digits, as in the report, but none finer than the step in which the number is stored.
function inWords(value, step = 0) {
  if (!Number.isFinite(value)) return "n/a";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size < 1e-3 || size >= 1e6) return String(Number(value.toPrecision(3)));
  const stored = step > 0 ? Math.ceil(-Math.log10(step)) : Infinity;
  const decimals = Math.max(0, Math.min(2 - Math.floor(Math.log10(size)), stored));
  return value.toFixed(decimals);
}

function numberOf(slice, voxel, name, factor = 1) {
  const field = fieldOf.get(name);
  return inWords(slice.value(name, voxel) * factor, field ? field.step * factor : 0);
}

function trustWords(slice, voxel) {
  if (voxel < 0) return "Outside the mask: there is nothing to show.";
  if (!run.flags.length) return "";
  const flag = run.flags.find((reason) => reason.code === slice.flags[voxel]);
  return flag ? `Flagged: ${flag.words}.` : "No flag.";
}

// ---- The map ----

function paint(slice) {
  const canvas = byId("pixels");
  canvas.width = run.columns;
  canvas.height = run.rows;
  const context = canvas.getContext("2d");
  const image = context.createImageData(run.columns, run.rows);
  const colour = state.view === FLAGS ? flagColour(slice) : mapColour(slice);
  slice.voxelAt.forEach((voxel, pixel) => {
    const grey = slice.underlay[pixel];
    image.data.set([...((voxel >= 0 && colour(voxel, grey)) || greyOf(voxel, grey)), 255], 4 * pixel);
  });
  context.putImageData(image, 0, 0);
}

function greyOf(voxel, grey) {
  const level = grey * (voxel < 0 ? run.underlay_brightness : run.uncoloured_brightness);
  return [level, level, level];
}

function mapColour(slice) {
  const view = run.views.find((candidate) => candidate.field === state.view);
  const shades = bytesOf(run.shades[view.colours]);
  const last = shades.length / 3 - 1;
  return (voxel) => {
    const value = slice.value(view.field, voxel) * view.factor;
    if (Number.isNaN(value)) return null;
    if (view.needs && slice.value(view.needs, voxel) < run.negligible_f) return null;
    const share = Math.min(Math.max((value - view.low) / (view.high - view.low), 0), 1);
    const shade = 3 * Math.round(share * last);
    return shades.subarray(shade, shade + 3);
  };
}

function flagColour(slice) {
  const colours = new Map(run.flags.map((flag) => [flag.code, rgb(flag.colour)]));
  return (voxel, grey) => colours.get(slice.flags[voxel]) ?? [grey, grey, grey];
}

function rgb(colour) {
  return [1, 3, 5].map((start) => parseInt(colour.slice(start, start + 2), 16));
}

function mark(slice) {
  byId("cross").setAttribute(
    "d", `M0 ${state.row + 0.5}H${run.columns}M${state.column + 0.5} 0V${run.rows}`);
  byId("chosen").setAttribute("x", state.column);
  byId("chosen").setAttribute("y", state.row);
  byId("border").setAttribute("d", byId("outline").checked ? outlineOf(slice) : "");
}

function outlineOf(slice) {
  const edges = [];
  for (let row = 0; row <= run.rows; row++) {
    for (let column = 0; column <= run.columns; column++) {
      const here = slice.inside(row, column);
      if (here !== slice.inside(row - 1, column)) edges.push(`M${column} ${row}h1`);
      if (here !== slice.inside(row, column - 1)) edges.push(`M${column} ${row}v1`);
    }
  }
  return edges.join("");
}

function drawScale() {
  const view = run.views.find((candidate) => candidate.field === state.view);
  byId("scale").hidden = !view;
  byId("legend").hidden = Boolean(view);
  if (!view) return;
  byId("low").textContent = inWords(view.low);
  byId("high").textContent = inWords(view.high);
  byId("unit").textContent = view.unit;
  const bar = byId("bar").getContext("2d");
  const image = bar.createImageData(256, 1);
  const shades = bytesOf(run.shades[view.colours]);
  for (let shade = 0; shade < 256; shade++) {
    image.data.set([...shades.subarray(3 * shade, 3 * shade + 3), 255], 4 * shade);
  }
  bar.putImageData(image, 0, 0);
}

// ---- The voxel ----

// The equation of sicnn_app/ivim/signal.py, with the maps whose names end in `suffix`; null without them.
function predictor(slice, voxel, suffix) {
  const [f, d, dstar, s0] = ["f", "d", "dstar", "s0"].map((label) => slice.value(label + suffix, voxel));
  if (![f, d, dstar, s0].every(Number.isFinite)) return null;
  return (b) => s0 * (f * Math.exp(-b * dstar) + (1 - f) * Math.exp(-b * d));
}

function measuredOf(slice, voxel) {
  const { bvals, relative_to: reference } = run.signals;
  const scale = reference ? slice.value(reference, voxel) : 1;
  return bvals.map((_, position) => slice.value(`signal_${position}`, voxel) * scale);
}

function showNumbers(slice, voxel) {
  const suffixes = ["", "_std", "_lsq"].filter((suffix) => run.views.some((view) => columnOf(view) === suffix));
  byId("numbers").replaceChildren(...run.quantities.map((quantity) => rowOf([
    `${quantity.symbol} (${quantity.unit})`,
    ...suffixes.map((suffix) => {
      const name = quantity.label + suffix;
      return fieldOf.has(name) ? numberOf(slice, voxel, name, quantity.factor) : "";
    }),
  ])));
}

function columnOf(view) {
  return view.field.match(/_std$|_lsq$/)?.[0] ?? "";
}

function showSignals(measured, curves) {
  byId("signals").replaceChildren(...run.signals.bvals.map((b, position) => rowOf([
    String(b),
    inWords(measured[position]),
    inWords(run.signals.sigma[position] ?? NaN),
    ...curves.map((curve) => inWords(curve ? curve(b) : NaN)),
  ])));
}

function rowOf(cells) {
  const row = document.createElement("tr");
  cells.forEach((text, position) => {
    const cell = document.createElement(position ? "td" : "th");
    if (!position) cell.scope = "row";
    cell.textContent = text;
    row.append(cell);
  });
  return row;
}

function say(slice, voxel) {
  const indices = arrayIndex();
  const trust = trustWords(slice, voxel);
  byId("where").textContent = `Voxel ${indices.join(", ")}`;
  byId("trust").textContent = trust;
  const numbers = voxel < 0 ? [] : run.quantities.map((quantity) => {
    const spread = `${quantity.label}_std`;
    const sure = fieldOf.has(spread) ? ` plus or minus ${numberOf(slice, voxel, spread, quantity.factor)}` : "";
    return `${quantity.symbol} ${numberOf(slice, voxel, quantity.label, quantity.factor)}${sure} ${quantity.unit}`;
  });
  byId("said").textContent = [`Voxel ${indices.join(", ")}`, ...numbers, trust].join("; ");
}

// ---- The chart ----

// In units of the view box, which is about as wide as a phone, so that letters are not shrunk there.
const CHART = { left: 56, right: 346, top: 10, bottom: 206, label: 243 };
const CURVE_POINTS = 240;

function shape(name, attributes, text = "") {
  const made = document.createElementNS(SVG, name);
  Object.entries(attributes).forEach(([key, value]) => made.setAttribute(key, value));
  made.textContent = text;
  return made;
}

function ticks(top, count) {
  const rough = top / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
  return Array.from({ length: Math.floor(top / step + 1e-9) + 1 }, (_, position) => position * step);
}

function chart(measured, curves) {
  const { bvals, sigma } = run.signals;
  const last = bvals[bvals.length - 1];
  const reach = bvals.map((b, position) => measured[position] + (sigma[position] ?? 0));
  const starts = curves.filter(Boolean).map((curve) => curve(0));
  const top = 1.06 * Math.max(...[...reach, ...starts].filter(Number.isFinite)) || 1;
  const x = (b) => CHART.left + 6 + (b / last) * (CHART.right - CHART.left - 6);
  const y = (signal) => CHART.bottom - (Math.max(signal, 0) / top) * (CHART.bottom - CHART.top);
  byId("decay").replaceChildren(
    ...axes(x, y, last, top),
    ...curves.flatMap((curve, position) => (curve ? [curveShape(curve, x, y, last, position)] : [])),
    ...bvals.flatMap((b, position) => pointShapes(x(b), measured[position], sigma[position], y)),
  );
}

function axes(x, y, last, top) {
  const middle = (CHART.top + CHART.bottom) / 2;
  return [
    ...ticks(top, 5).flatMap((signal) => [
      shape("path", { class: "rule", d: `M${CHART.left} ${y(signal)}H${CHART.right}` }),
      shape("text", { x: CHART.left - 6, y: y(signal) + 4, "text-anchor": "end" }, String(Number(signal.toPrecision(6)))),
    ]),
    ...ticks(last, 6).map((b) =>
      shape("text", { x: x(b), y: CHART.bottom + 17, "text-anchor": "middle" }, String(b))),
    shape("text", { x: (CHART.left + CHART.right) / 2, y: CHART.label, "text-anchor": "middle" }, "b (s/mm²)"),
    shape("text", { x: 14, y: middle, "text-anchor": "middle", transform: `rotate(-90 14 ${middle})` },
      "signal (image units)"),
  ];
}

function curveShape(curve, x, y, last, position) {
  // Most of the bend lies at low b-values: points are closer there.
  const points = Array.from({ length: CURVE_POINTS + 1 }, (_, step) => last * (step / CURVE_POINTS) ** 2);
  const path = points.map((b) => `${x(b).toFixed(1)} ${y(curve(b)).toFixed(1)}`).join("L");
  return shape("path", { class: `curve ${position ? "lsq" : "own"}`, d: `M${path}` });
}

function pointShapes(across, signal, sigma, y) {
  if (!Number.isFinite(signal)) return [];
  const shapes = [shape("circle", { class: "point", cx: across, cy: y(signal), r: 3.5 })];
  if (sigma) {
    const [low, high] = [y(signal - sigma), y(signal + sigma)];
    const path = `M${across} ${low}V${high}M${across - 3} ${low}h6M${across - 3} ${high}h6`;
    shapes.unshift(shape("path", { class: "whisker", d: path }));
  }
  return shapes;
}

// ---- All of it ----

function draw() {
  const slice = openSlice(state.slice);
  const voxel = slice.voxelAt[state.row * run.columns + state.column];
  const shown = `${run.slices[state.slice] + 1}`;
  byId("slice").value = state.slice + 1;
  byId("slice").setAttribute("aria-valuetext", shown);
  byId("slice-words").textContent = shown;
  paint(slice);
  mark(slice);
  say(slice, voxel);
  showNumbers(slice, voxel);
  if (!run.signals) return;
  const curves = [""].concat(fieldOf.has("f_lsq") ? ["_lsq"] : []).map((suffix) => predictor(slice, voxel, suffix));
  const measured = measuredOf(slice, voxel);
  showSignals(measured, curves);
  chart(measured, curves);
  byId("decay").setAttribute("aria-label",
    `Measured signals of voxel ${arrayIndex().join(", ")} over the b-value with their fits; the numbers stand below.`);
}

function fillControls() {
  const groups = new Map();
  run.views.forEach((view) => {
    if (!groups.has(view.group)) {
      groups.set(view.group, Object.assign(document.createElement("optgroup"), { label: view.group }));
    }
    groups.get(view.group).append(new Option(view.label, view.field));
  });
  byId("view").append(...groups.values());
  if (run.flags.length) byId("view").append(new Option("Flags", FLAGS));
  byId("legend").append(...run.flags.map((flag) => {
    const item = document.createElement("li");
    const swatch = Object.assign(document.createElement("span"), { className: "swatch" });
    swatch.style.background = flag.colour;
    item.append(swatch, flag.words);
    return item;
  }));
  byId("slice").max = run.slices.length;
  byId("slice").disabled = run.slices.length === 1;
  byId("marks").setAttribute("viewBox", `0 0 ${run.columns} ${run.rows}`);
  byId("map").style.setProperty("--ratio", run.columns / (run.rows * run.pixel_height));
  if (run.edges) [byId("left-edge").textContent, , byId("top-edge").textContent] = run.edges;
}

const STEPS = {
  ArrowLeft: [-1, 0, 0], ArrowRight: [1, 0, 0], ArrowUp: [0, -1, 0], ArrowDown: [0, 1, 0],
  PageUp: [0, 0, 1], PageDown: [0, 0, -1],
};

function listen() {
  byId("view").addEventListener("change", (event) => {
    state.view = event.target.value;
    drawScale();
    draw();
  });
  byId("slice").addEventListener("input", (event) => {
    state.slice = Number(event.target.value) - 1;
    draw();
  });
  byId("outline").addEventListener("change", draw);
  byId("map").addEventListener("click", (event) => {
    const box = byId("map").getBoundingClientRect();
    const column = Math.floor(((event.clientX - box.left) / box.width) * run.columns);
    const row = Math.floor(((event.clientY - box.top) / box.height) * run.rows);
    move(column - state.column, row - state.row, 0);
  });
  byId("map").addEventListener("keydown", (event) => {
    if (!(event.key in STEPS) || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    move(...STEPS[event.key]);
  });
}

fillControls();
listen();
drawScale();
draw();
