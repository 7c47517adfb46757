// Shows one run voxel by voxel. Everything comes from the page itself: nothing is requested.

const run = JSON.parse(document.getElementById("run").textContent);
const fieldOf = new Map(run.fields.map((field, position) => [field.name, { ...field, position }]));
const [FLAGS, REGIONS] = ["flags", "regions"];
const byId = (id) => document.getElementById(id);

// ---- Packed numbers, laid out as sicnn_app/report/packing.py says ----

async function unpacked(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

// IEEE 754 binary16, by its bits.
const HALF = Float32Array.from({ length: 65536 }, (_, bits) => {
  const [exponent, fraction] = [(bits >> 10) & 31, bits & 1023];
  const size = exponent === 31 ? (fraction ? NaN : Infinity)
    : exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : fraction * 2 ** -24;
  return bits & 32768 ? -size : size;
});

class Voxels {
  constructor(buffer) {
    const bytes = new Uint8Array(buffer);
    const places = run.shape.reduce((one, other) => one * other);
    const bits = Math.ceil(places / 8);
    this.at = new Int32Array(places).fill(-1);
    this.count = 0;
    for (let place = 0; place < places; place++) {
      if (bytes[place >> 3] & (128 >> (place & 7))) this.at[place] = this.count++;
    }
    this.underlay = bytes.subarray(bits, bits + places);
    const codes = bits + places;
    this.flags = bytes.subarray(codes, codes + this.count);
    const [low, high] = [1, 2].map((part) => bytes.subarray(codes + part * this.count, codes + (part + 1) * this.count));
    this.regions = Uint16Array.from(low, (byte, voxel) => byte | (high[voxel] << 8));
    this.halves = bytes.subarray(codes + 3 * this.count);
  }

  // NaN where there is no such map or no number.
  value(name, voxel) {
    const field = fieldOf.get(name);
    if (!field || voxel < 0) return NaN;
    const place = 2 * field.position * this.count + voxel;
    return HALF[this.halves[place] | (this.halves[place + this.count] << 8)] * field.unit;
  }
}

// ---- State: what is looked at. Places are those of the box, whose first axis runs fastest ----

const state = { at: [0, 0, 0], pins: [], region: null, before: [], plane: 2, windows: new Map(), shown: [], axis: "linear" };
const MOST_PINS = 6, MOST_STEPS_BACK = 20;
const [OWN, LSQ, REGION] = ["own", "lsq", "region"].map((name) => `--${name}`);
const REGION_PEN = [25, 227, 255]; // bright, which no colour map is all over
const PIN_COLOURS = ["#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#a0522d", "#8a8a8a"];
let voxels;

const placeOf = ([x, y, z]) => x + run.shape[0] * (y + run.shape[1] * z);
const voxelAt = (at) => voxels.at[placeOf(at)];

// Indices of the array in the NIfTI file, and back: undoes what Turned.box did.
function fileIndex(at) {
  return run.axes.map((axis, own) =>
    (run.flipped[own] ? run.shape[axis] - 1 - at[axis] : at[axis]) + run.origin[own]);
}

function boxIndex(index) {
  const at = [0, 0, 0];
  run.axes.forEach((axis, own) => {
    const inside = index[own] - run.origin[own];
    at[axis] = run.flipped[own] ? run.shape[axis] - 1 - inside : inside;
  });
  return at.map((place, axis) => Math.min(Math.max(place, 0), run.shape[axis] - 1));
}

const sameAs = (one) => (other) => one.every((place, axis) => place === other[axis]);

// ---- Words ----

// Three digits, as in the report.
function inWords(value) {
  if (!Number.isFinite(value)) return "n/a";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size < 1e-3 || size >= 1e6) return String(Number(value.toPrecision(3)));
  return value.toFixed(Math.max(0, 2 - Math.floor(Math.log10(size))));
}

const numberOf = (voxel, name, factor = 1) => inWords(voxels.value(name, voxel) * factor);
const indexWords = (at) => fileIndex(at).join(", ");

function trustWords(voxel) {
  if (voxel < 0) return "Outside the mask: there is nothing to show.";
  if (!run.flags.length) return "";
  const flag = run.flags.find((reason) => reason.code === voxels.flags[voxel]);
  return flag ? `Flagged: ${flag.words}.` : "No flag.";
}

const regionWords = (voxel) => run.regions.find(({ code }) => voxel >= 0 && code === voxels.regions[voxel])?.words;

function make(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  Object.entries(attributes).forEach(([key, value]) => made.setAttribute(key, value));
  made.append(...children);
  return made;
}

function rowOf(cells) {
  return make("tr", {}, ...cells.map((cell, position) => make(position ? "td" : "th", position ? {} : { scope: "row" }, cell)));
}

function swatch(colour, ...words) {
  const square = make("span", { class: "swatch" });
  square.style.background = colour;
  return make("li", {}, square, ...words);
}

// ---- The maps, each in a viewer of its own: niivue ----

// A picture has 256 shades: greys of the image below, then those of the map. Between them the viewer may mix.
const [LAST_GREY, FIRST_SHADE, LAST_SHADE] = [126, 129, 255];
const CATEGORY = 8; // shades of each of the categories, of which the middle one is used
const LINE = "lines", MOST_CATEGORIES = 12;
const panels = new Map();
const allViews = [
  ...run.views,
  ...(run.flags.length ? [{ field: FLAGS, label: "Flags", categories: run.flags }] : []),
  ...(run.regions.length ? [{ field: REGIONS, label: run.regions_kind, categories: run.regions }] : []),
];
const viewOf = (field) => allViews.find((view) => view.field === field);
const rgb = (colour) => [1, 3, 5].map((start) => parseInt(colour.slice(start, start + 2), 16));
const windowOf = (view) => state.windows.get(view.field) ?? [view.low, view.high];

async function loadViewer() {
  const program = document.createElement("script");
  program.textContent = new TextDecoder().decode(await unpacked(byId("viewer").textContent));
  document.head.append(program);
  allViews.forEach((view) => addColours(view.field, (shade) => {
    if (shade < FIRST_SHADE) return Array(3).fill(255 * Math.min(shade / LAST_GREY, 1));
    return view.categories ? categoryColour(view.categories, shade) : mapColour(view, (shade - FIRST_SHADE) / (LAST_SHADE - FIRST_SHADE));
  }));
  const lineColours = [...run.regions.slice(0, MOST_CATEGORIES), { colour: "#ffffff" }];
  addColours(LINE, (shade) => categoryColour(lineColours, shade), (shade) => (shade ? 255 : 0));
}

function mapColour(view, share) {
  const shades = shadesOf(view), at = 3 * Math.round(share * (shades.length / 3 - 1));
  return shades.subarray(at, at + 3);
}

const shadesOf = (view) => Uint8Array.from(atob(run.shades[view.colours]), (letter) => letter.charCodeAt(0));
const shadeOf = (category) => FIRST_SHADE + CATEGORY * (category + 0.5);
const categoryColour = (categories, shade) =>
  rgb(categories[Math.min(Math.max(Math.floor((shade - FIRST_SHADE) / CATEGORY), 0), categories.length - 1)].colour);
// More categories than these share colours.
const orderOf = (categories) => new Map(categories.map(({ code }, position) => [code, position % MOST_CATEGORIES]));

function addColours(name, colourOf, alphaOf = () => 255) {
  const shades = Array.from({ length: 256 }, (_, shade) => shade);
  const [R, G, B] = [0, 1, 2].map((part) => shades.map((shade) => colourOf(shade)[part]));
  niivue.cmapper.addColormap(name, { R, G, B, A: shades.map(alphaOf), I: shades });
}

// mm of a voxel.
const sizes = [0, 1, 2].map((axis) => Math.hypot(...run.affine.slice(0, 3).map((row) => row[axis])));

// A NIfTI-1 file, because that is what the viewer reads.
function nifti(data) {
  const buffer = new ArrayBuffer(352 + data.byteLength);
  const header = new DataView(buffer);
  const floats = (at, numbers) => numbers.forEach((number, position) => header.setFloat32(at + 4 * position, number, true));
  header.setInt32(0, 348, true);
  [3, ...run.shape, 1, 1, 1, 1].forEach((size, position) => header.setInt16(40 + 2 * position, size, true));
  header.setInt16(70, 2, true);
  header.setInt16(72, 8, true);
  floats(76, [1, ...sizes]);
  floats(108, [352, 1]);
  header.setUint8(123, 2);
  header.setInt16(254, 1, true);
  floats(280, run.affine.slice(0, 3).flat());
  [..."n+1"].forEach((letter, position) => header.setUint8(344 + position, letter.charCodeAt(0)));
  new Uint8Array(buffer, 352).set(data);
  return buffer;
}

const layer = (data, name) => niivue.NVImage.new(nifti(data), `${name}.nii`, name, 1, null, 0, 255);

// The shade of every place of the box.
function picture(view) {
  const brightness = [run.underlay_brightness, run.uncoloured_brightness].map((share) => share * LAST_GREY / 255);
  const shade = view.categories ? categoryShades(view) : mapShades(view);
  return Uint8Array.from(voxels.at, (voxel, place) =>
    (voxel >= 0 && shade(voxel)) || voxels.underlay[place] * brightness[voxel < 0 ? 0 : 1]);
}

function mapShades(view) {
  const [low, high] = windowOf(view);
  return (voxel) => {
    const value = voxels.value(view.field, voxel) * view.factor;
    if (Number.isNaN(value) || (view.needs && voxels.value(view.needs, voxel) < run.negligible_f)) return 0;
    const share = Math.min(Math.max((value - low) / (high - low), 0), 1);
    return FIRST_SHADE + Math.round(share * (LAST_SHADE - FIRST_SHADE));
  };
}

function categoryShades(view) {
  const codes = view.field === FLAGS ? voxels.flags : voxels.regions;
  const orders = orderOf(view.categories);
  return (voxel) => (orders.has(codes[voxel]) ? shadeOf(orders.get(codes[voxel])) : 0);
}

// The mask is outlined just outside, regions along their borders, in the plane that is shown.
function lines() {
  const [mask, regions] = [byId("mask-line").checked, byId("region-lines").checked];
  const asked = [mask, regions, state.plane].join();
  if (drawnLines.asked !== asked) drawnLines = { asked, data: findLines(mask, regions) };
  return drawnLines.data;
}

let drawnLines = {}; // the same in all viewers
function findLines(mask, regions) {
  const data = new Uint8Array(voxels.at.length);
  const orders = orderOf(run.regions);
  if (!mask && !regions) return data;
  const strides = [1, run.shape[0], run.shape[0] * run.shape[1]];
  const codeAt = (place) => (voxels.at[place] < 0 ? -1 : voxels.regions[voxels.at[place]]);
  for (let place = 0; place < data.length; place++) {
    const here = codeAt(place);
    const around = strides.flatMap((stride, axis) => {
      if (axis === state.plane) return [];
      const along = Math.floor(place / stride) % run.shape[axis];
      return [along > 0 ? codeAt(place - stride) : here, along < run.shape[axis] - 1 ? codeAt(place + stride) : here];
    });
    if (here < 0 && mask && around.some((other) => other >= 0)) data[place] = shadeOf(Math.min(orders.size, MOST_CATEGORIES));
    if (orders.has(here) && regions && around.some((other) => other !== here)) data[place] = shadeOf(orders.get(here));
  }
  return data;
}

class Panel {
  constructor(view) {
    this.view = view;
    this.canvas = make("canvas", { "aria-hidden": "true" });
    this.scale = make("div", { class: "scale" });
    this.figure = make("figure", { "data-map": view.field }, make("figcaption", {}, make("strong", {}, view.label), this.scale),
      make("div", { class: "view" }, this.canvas));
  }

  async open() {
    const viewer = this.viewer = new niivue.Niivue({
      backColor: [0.08, 0.08, 0.08, 1],
      crosshairColor: [1, 0.85, 0.18, 0.9],
      // What is thinner than a pixel of the screen is lost.
      crosshairWidth: 1.6 * Math.max(...run.shape.map((size, axis) => size * sizes[axis])) / this.canvas.parentElement.clientWidth,
      crosshairWidthUnit: "mm",
      crosshairGap: 1.5,
      dragAndDropEnabled: false,
      dragMode: niivue.DRAG_MODE.slicer3D,
      fontColor: [1, 1, 1, 1],
      isForceMouseClickToVoxelCenters: true,
      isCornerOrientationText: true,
      isNearestInterpolation: true,
      isOrientationTextVisible: run.oriented,
      isRadiologicalConvention: true,
      loadingText: "",
      logLevel: "error",
      sagittalNoseLeft: true,
      sliceType: [niivue.SLICE_TYPE.SAGITTAL, niivue.SLICE_TYPE.CORONAL, niivue.SLICE_TYPE.AXIAL][state.plane],
    });
    // A double click or a long touch would change the brightness of the image below.
    viewer.resetBriCon = () => {};
    await viewer.attachToCanvas(this.canvas, false);
    this.canvas.setAttribute("tabindex", "-1");
    viewer.addVolume(await layer(picture(this.view), this.view.field));
    viewer.addVolume(await layer(lines(), LINE));
    viewer.createEmptyDrawing();
    viewer.drawLut = niivue.cmapper.makeDrawLut(penColours());
    viewer.drawOpacity = 1;
    viewer.refreshColormaps();
    this.mark(bitmap());
    viewer.onLocationChange = ({ vox }) => this.moved([...vox]);
    ["mousemove", "touchmove", "mouseup", "touchend"].forEach((kind) => this.canvas.addEventListener(kind, () => this.sharePan()));
    this.canvas.addEventListener("mouseup", (event) => { if (event.button === 0) takeDrawing(this); });
    this.canvas.addEventListener("touchend", () => takeDrawing(this));
    this.canvas.addEventListener("webglcontextlost", () => trouble("The browser has taken the pictures away, for want of memory: load the page again, with fewer maps."));
    this.describe();
  }

  moved(at) {
    if (this.quiet || sameAs(at)(state.at)) return;
    state.at = at;
    draw();
  }

  sharePan() {
    const own = [...this.viewer.scene.pan2Dxyzmm];
    panels.forEach((panel) => {
      if (panel !== this && !sameAs(own)([...panel.viewer.scene.pan2Dxyzmm])) panel.viewer.setPan2Dxyzmm(own);
    });
  }

  look() {
    this.quiet = true;
    this.viewer.scene.crosshairPos = this.viewer.vox2frac(state.at);
    this.viewer.drawScene();
    this.quiet = false;
  }

  repaint() {
    const [map, line] = this.viewer.volumes;
    map.img = picture(this.view);
    line.img = lines();
    this.viewer.updateGLVolume();
    this.describe();
  }

  mark(bitmap) {
    this.viewer.drawBitmap.set(bitmap);
    this.viewer.refreshDrawing(true);
  }

  describe() {
    if (this.view.categories) return;
    const [low, high] = windowOf(this.view);
    const bar = make("canvas", { width: 256, height: 1, class: "colours", "aria-hidden": "true" });
    const context = bar.getContext("2d");
    const pixels = context.createImageData(256, 1);
    for (let shade = 0; shade < 256; shade++) pixels.data.set([...mapColour(this.view, shade / 255), 255], 4 * shade);
    context.putImageData(pixels, 0, 0);
    this.scale.replaceChildren(inWords(low), bar, `${inWords(high)} ${this.view.unit}`);
  }

  close() {
    this.viewer?.cleanup();
    this.viewer?.gl.getExtension("WEBGL_lose_context")?.loseContext();
    this.figure.remove();
  }
}

// Opens and closes viewers one after the other, in the order of the maps.
let opening = Promise.resolve();
function showPanels() {
  opening = opening.then(async () => {
    for (const [field, panel] of panels) {
      if (state.shown.includes(field)) continue;
      panels.delete(field);
      panel.close();
    }
    for (const view of allViews.filter(({ field }) => state.shown.includes(field))) {
      if (panels.has(view.field)) continue;
      const panel = new Panel(view);
      const next = allViews.slice(allViews.indexOf(view) + 1).map(({ field }) => panels.get(field)?.figure).find(Boolean);
      byId("maps").insertBefore(panel.figure, next ?? null);
      await panel.open();
      panels.set(view.field, panel);
    }
    byId("legend").replaceChildren(...[...panels.values()].flatMap(({ view }) =>
      (view.categories ?? []).map(({ colour, words }) => swatch(colour, words))));
    byId("maps").dataset.ready = state.shown.join();
    draw();
  }).catch((error) => {
    trouble("The maps cannot be drawn in this browser. The numbers and signals of any voxel are below: choose it by its indices.");
    byId("pictures").hidden = true;
    console.warn(error);
  });
}

function zoom(factor) {
  panels.forEach(({ viewer }) => {
    const [x, y, z, before] = viewer.scene.pan2Dxyzmm;
    const after = Math.min(Math.max(before * factor, 1), 20);
    const here = viewer.frac2mm(viewer.scene.crosshairPos);
    const pan = [x, y, z].map((shift, axis) => shift + here[axis] * (before - after));
    viewer.setPan2Dxyzmm(after === 1 ? [0, 0, 0, 1] : [...pan, after]);
  });
}

// ---- The region drawn by hand, and pins ----

function penColours() {
  const colours = [[0, 0, 0], REGION_PEN, ...PIN_COLOURS.map(rgb)];
  const [R, G, B] = [0, 1, 2].map((part) => colours.map((colour) => colour[part]));
  return { R, G, B, A: colours.map((_, pen) => [0, 100][pen] ?? 255), labels: colours.map(String) };
}

const colourOf = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function bitmap() {
  const pens = Uint8Array.from(state.region);
  state.pins.forEach((at, pin) => { pens[placeOf(at)] = 2 + pin; });
  return pens;
}

function changeRegion(change) {
  state.before = [...state.before.slice(1 - MOST_STEPS_BACK), state.region.slice()];
  change();
  mark();
}

function mark() {
  const pens = bitmap();
  panels.forEach((panel) => panel.mark(pens));
  draw();
}

// What was drawn in one viewer. Pins are no part of it: where one lies, the region stays as it was, unless drawn over.
function takeDrawing(panel) {
  const { drawingEnabled, penValue } = panel.viewer.opts;
  if (!drawingEnabled) return;
  const drawn = panel.viewer.drawBitmap;
  const before = bitmap();
  if (before.every((pen, place) => pen === drawn[place])) return;
  // The viewer leaves out where a stroke ends.
  drawn[placeOf(state.at)] = penValue;
  changeRegion(() => drawn.forEach((pen, place) => {
    if (pen < 2) state.region[place] = pen && voxels.at[place] >= 0 ? 1 : 0;
  }));
}

function usePen(button) {
  const pressed = button && button.getAttribute("aria-pressed") !== "true";
  byId("drawing").querySelectorAll("button").forEach((other) => other.setAttribute("aria-pressed", String(pressed && other === button)));
  panels.forEach(({ viewer }) => {
    viewer.setPenValue(button?.id === "erase" ? 0 : 1, button?.id === "draw");
    viewer.setDrawingEnabled(Boolean(pressed));
  });
}

function takeVoxel() {
  if (voxelAt(state.at) < 0) return;
  changeRegion(() => { state.region[placeOf(state.at)] ^= 1; });
}

// All of the given region, or tissue cluster, that the chosen voxel lies in.
function takeRegion() {
  const code = voxels.regions[voxelAt(state.at)];
  changeRegion(() => voxels.at.forEach((voxel, place) => {
    if (voxel >= 0 && voxels.regions[voxel] === code) state.region[place] = 1;
  }));
}

function pin() {
  const there = state.pins.findIndex(sameAs(state.at));
  if (there >= 0) state.pins.splice(there, 1);
  else if (voxelAt(state.at) >= 0) state.pins = [...state.pins.slice(1 - MOST_PINS), state.at];
  mark();
}

// Those of the region as it is now, which take longer than all the rest.
let measuredRegion = { words: "", numbers: null };
function regionNumbers() {
  const inside = [];
  state.region.forEach((member, place) => { if (member) inside.push(voxels.at[place]); });
  const words = inside.join();
  if (measuredRegion.words !== words) measuredRegion = { words, numbers: inside.length ? measureRegion(inside) : null };
  return measuredRegion.numbers;
}

function measureRegion(inside) {
  const quartiles = Object.fromEntries(run.quantities.map(({ label }) => {
    const sorted = Float64Array.from(inside, (voxel) => voxels.value(label, voxel)).filter(Number.isFinite).sort();
    const at = (share) => {
      const place = share * (sorted.length - 1), below = Math.floor(place);
      return sorted[below] + (place - below) * ((sorted[below + 1] ?? sorted[below]) - sorted[below]);
    };
    return [label, [0.5, 0.25, 0.75].map(at)];
  }));
  if (!run.signals) return { voxels: inside.length, quartiles, mean: [], fit: null };
  const { bvals, sigma, volumes, bounds } = run.signals;
  const mean = bvals.map((_, position) =>
    inside.reduce((sum, voxel) => sum + voxels.value(`signal_${position}`, voxel), 0) / inside.length);
  return { voxels: inside.length, quartiles, mean, fit: fitWeighed(bvals, mean, sigma, volumes, bounds) };
}

// ---- The numbers ----

// The equation of sicnn_app/ivim/signal.py, with the maps whose names end in `suffix`; null without them.
function predictor(slice, voxel, suffix) {
  const [f, d, dstar, s0] = ["f", "d", "dstar", "s0"].map((label) => slice.value(label + suffix, voxel));
  if (![f, d, dstar, s0].every(Number.isFinite)) return null;
  return (b) => s0 * (f * Math.exp(-b * dstar) + (1 - f) * Math.exp(-b * d));
}

const predictorOf = (fit) => predictor({ value: (label) => fit?.[label] ?? NaN }, 0, "");
const measuredOf = (voxel) => run.signals.bvals.map((_, position) => voxels.value(`signal_${position}`, voxel));
const suffixes = ["", "_std", "_lsq"].filter((suffix) =>
  run.views.some((view) => (view.field.match(/_std$|_lsq$/)?.[0] ?? "") === suffix));

function showNumbers(voxel) {
  byId("numbers").replaceChildren(...run.quantities.map((quantity) => rowOf([
    `${quantity.symbol} (${quantity.unit})`,
    ...suffixes.map((suffix) => {
      const name = quantity.label + suffix;
      return fieldOf.has(name) ? numberOf(voxel, name, quantity.factor) : "";
    }),
  ])));
}

function showRegion(region) {
  byId("region").hidden = !region;
  if (!region) return;
  byId("region-title").textContent = `Region of ${region.voxels} voxel${region.voxels === 1 ? "" : "s"}`;
  const fitted = region.fit ? "In the colour of the region in the chart." : "The mean signal cannot be fitted.";
  byId("region-words").textContent = `${fitted}${regionWritten() ? "" : " The address of the page has no room for this region."}`;
  byId("region-numbers").replaceChildren(...run.quantities.map(({ label, symbol, unit, factor }) => {
    const [median, low, high] = region.quartiles[label].map((value) => inWords(value * factor));
    // Without perfusion any D* fits as well.
    const fitted = label === "dstar" && region.fit?.f < run.negligible_f ? NaN : region.fit?.[label];
    return rowOf([`${symbol} (${unit})`, fitted === undefined ? "" : inWords(fitted * factor), median, `${low} – ${high}`]);
  }));
}

function showPins() {
  byId("pinned").hidden = !state.pins.length;
  byId("pins").replaceChildren(...state.pins.map((at, position) => {
    const voxel = voxelAt(at);
    const square = make("span", { class: "swatch" });
    square.style.background = PIN_COLOURS[position];
    const goThere = make("button", { type: "button", class: "plain" }, square, indexWords(at));
    goThere.addEventListener("click", () => moveTo(at));
    const away = make("button", { type: "button", "aria-label": `Unpin voxel ${indexWords(at)}` }, "×");
    away.addEventListener("click", () => {
      state.pins = state.pins.filter((other) => other !== at);
      mark();
    });
    return rowOf([goThere, ...run.quantities.map(({ label, factor }) => numberOf(voxel, label, factor)), away]);
  }));
  byId("pin").textContent = state.pins.some(sameAs(state.at)) ? "Unpin this voxel" : "Pin this voxel";
}

function showSignals(measured, curves) {
  byId("signals").replaceChildren(...run.signals.bvals.map((b, position) => rowOf([
    String(b),
    inWords(measured[position]),
    inWords(run.signals.sigma[position] ?? NaN),
    ...curves.map((curve) => inWords(curve ? curve(b) : NaN)),
  ])));
}

function say(voxel) {
  const trust = trustWords(voxel);
  const region = regionWords(voxel);
  byId("where").textContent = `Voxel ${indexWords(state.at)}`;
  byId("inside").textContent = region ? `In ${region}.` : "";
  if (run.signals) {
    byId("take-region").hidden = !region;
    byId("take-region").textContent = `Take ${region}`;
  }
  byId("trust").textContent = trust;
  const numbers = voxel < 0 ? [] : run.quantities.map(({ label, symbol, factor, unit }) => {
    const spread = `${label}_std`;
    const sure = fieldOf.has(spread) ? ` plus or minus ${numberOf(voxel, spread, factor)}` : "";
    return `${symbol} ${numberOf(voxel, label, factor)}${sure} ${unit}`;
  });
  byId("said").textContent = [byId("where").textContent, ...numbers, trust, ...(region ? [`In ${region}.`] : [])].join("; ");
}

// ---- The chart: uPlot ----

const CURVE_POINTS = 200, CHART_HEIGHT = 280, TICK_ROOM = 34;
const AXES = {
  linear: { distr: 1 },
  root: { distr: 100, fwd: (b) => Math.sqrt(Math.max(b, 0)), bwd: (root) => root * root },
  // Logarithmic from the lowest b-value above 0 on, where b = 0 still has a place.
  log: { distr: 4, asinh: Math.min(...(run.signals?.bvals ?? []).filter((b) => b > 0), 1000) },
};
let plot = null;

function seriesOf(voxel, region) {
  const byMethod = [["own", "", OWN], ["lsq", "_lsq", LSQ]].map(([name, suffix, colour]) =>
    ({ name, colour: colourOf(colour), curve: predictor(voxels, voxel, suffix), dash: suffix ? [6, 4] : [] }));
  return [
    { name: "measured", colour: colourOf("--ink"), points: measuredOf(voxel), noise: true },
    ...byMethod.filter(({ curve }) => curve),
    ...state.pins.map((at, position) => ({
      name: `voxel ${indexWords(at)}`, colour: PIN_COLOURS[position], points: measuredOf(voxelAt(at)), curve: predictor(voxels, voxelAt(at), ""),
    })),
    ...(region ? [{ name: `mean of the region (${region.voxels})`, colour: colourOf(REGION), points: region.mean, curve: predictorOf(region.fit) }] : []),
  ];
}

function chart(series) {
  const { bvals, sigma } = run.signals;
  const last = bvals[bvals.length - 1];
  // Most of the bend lies at low b-values: points are closer there.
  const between = Array.from({ length: CURVE_POINTS + 1 }, (_, step) => last * (step / CURVE_POINTS) ** 3);
  const x = [...new Set([...bvals, ...between])].sort((one, other) => one - other);
  const lines = series.flatMap((one) => {
    const unit = byId("relative").checked ? one.curve?.(0) ?? series[1]?.curve?.(0) ?? one.points[0] : 1;
    const shown = { label: one.name, stroke: one.colour, scale: "y" };
    return [
      ...(one.points ? [{ ...shown, values: x.map((b) => (bvals.includes(b) ? finite(one.points[bvals.indexOf(b)] / unit) : null)),
        width: 0, points: { show: true, size: 7, fill: one.colour }, noise: one.noise ? 1 / unit : 0 }] : []),
      ...(one.curve ? [{ ...shown, values: x.map((b) => one.curve(b) / unit), width: 2, dash: one.dash, points: { show: false } }] : []),
    ];
  });
  const ink = colourOf("--ink");
  const axis = { stroke: ink, grid: { stroke: colourOf("--line"), width: 1 }, ticks: { stroke: colourOf("--line") }, font: "12px system-ui", labelFont: "12px system-ui", labelSize: 20 };
  plot?.destroy();
  plot = new uPlot({
    width: Math.max(byId("decay").clientWidth, 200),
    height: CHART_HEIGHT,
    legend: { show: false },
    cursor: { drag: { x: false, y: false } },
    scales: { x: { time: false, range: [0, last * 1.02], ...AXES[state.axis] }, y: { range: (_, low, high) => [0, 1.06 * (high || 1)] } },
    axes: [
      { ...axis, label: "b (s/mm²)", splits: (made) => thinned(bvals, (b) => made.valToPos(b, "x")), filter: (_, splits) => splits, values: (_, splits) => splits.map(String) },
      { ...axis, label: byId("relative").checked ? "signal / S0" : "signal (image units)", size: 56 },
    ],
    series: [{}, ...lines.map(({ values, ...line }) => line)],
    hooks: { draw: [(made) => lines.filter(({ noise }) => noise).forEach(({ values, noise }) => whiskers(made, x, values, bvals, sigma, noise, ink))] },
  }, [x, ...lines.map(({ values }) => values)], byId("decay"));
  byId("curves").replaceChildren(...series.map(({ name, colour }) => {
    const words = { own: document.querySelector("th.method").textContent, lsq: "least squares", measured: "measured, ± noise" }[name] ?? name;
    const square = make("span", { class: "swatch" });
    square.style.background = colour;
    return make("span", {}, square, words);
  }));
}

const finite = (value) => (Number.isFinite(value) ? value : null);

// b-values that have room for their number.
function thinned(bvals, positionOf) {
  const kept = [];
  bvals.forEach((b) => { if (!kept.length || positionOf(b) - positionOf(kept[kept.length - 1]) >= TICK_ROOM) kept.push(b); });
  return kept;
}

function whiskers(made, x, values, bvals, sigma, scale, colour) {
  const { ctx } = made;
  ctx.save();
  ctx.strokeStyle = colour;
  ctx.lineWidth = 1.3 * devicePixelRatio;
  ctx.beginPath();
  bvals.forEach((b, position) => {
    const value = values[x.indexOf(b)];
    const noise = (sigma[position] ?? 0) * scale;
    if (value === null || !noise) return;
    const across = made.valToPos(b, "x", true), end = 4 * devicePixelRatio;
    const [low, high] = [-noise, noise].map((shift) => made.valToPos(Math.max(value + shift, 0), "y", true));
    ctx.moveTo(across, low);
    ctx.lineTo(across, high);
    [low, high].forEach((at) => { ctx.moveTo(across - end, at); ctx.lineTo(across + end, at); });
  });
  ctx.stroke();
  ctx.restore();
}

// ---- Copy and download ----

function table(region) {
  const maps = run.fields.filter(({ name }) => !name.startsWith("signal_")).map(({ name }) => name);
  const bvals = run.signals?.bvals ?? [];
  const places = [["voxel", state.at], ...state.pins.map((at) => ["pin", at])];
  const rows = places.map(([kind, at]) => {
    const voxel = voxelAt(at);
    const flag = voxel < 0 || !run.flags.length ? "" : voxels.flags[voxel];
    return [kind, ...fileIndex(at), 1, ...maps.map((name) => voxels.value(name, voxel)), flag, ...bvals.map((_, position) => voxels.value(`signal_${position}`, voxel))];
  });
  if (region) {
    rows.push(["region, medians", "", "", "", region.voxels, ...maps.map((name) => region.quartiles[name]?.[0] ?? ""), "", ...bvals.map(() => "")]);
    rows.push(["region, fit of the mean signal", "", "", "", region.voxels, ...maps.map((name) => region.fit?.[name] ?? ""), "", ...region.mean]);
  }
  const head = ["what", "i", "j", "k", "voxels", ...maps, "flag", ...bvals.map((b) => `signal_b${b}`)];
  const cell = (value) => (typeof value === "number" ? (Number.isFinite(value) ? String(Number(value.toPrecision(4))) : "n/a") : `"${value}"`);
  return [head, ...rows].map((row) => row.map(cell).join(",")).join("\n") + "\n";
}

function save(blob, ending) {
  const link = make("a", { href: URL.createObjectURL(blob), download: `${run.name}_${ending}` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

const savePicture = (canvas, ending) => canvas.toBlob((blob) => save(blob, ending));

// Canvases side by side, each with its words above.
function montage(parts, columns) {
  const [width, height, head] = [Math.max(...parts.map(({ canvas }) => canvas.width)), Math.max(...parts.map(({ canvas }) => canvas.height)), 26];
  const sheet = make("canvas", { width: width * columns, height: (height + head) * Math.ceil(parts.length / columns) });
  const context = sheet.getContext("2d");
  context.fillStyle = colourOf("--card");
  context.fillRect(0, 0, sheet.width, sheet.height);
  context.fillStyle = colourOf("--ink");
  context.font = "15px system-ui";
  parts.forEach(({ canvas, words }, position) => {
    const [left, top] = [(position % columns) * width, Math.floor(position / columns) * (height + head)];
    context.fillText(words, left + 6, top + 18, width - 12);
    context.drawImage(canvas, left, top + head);
  });
  return sheet;
}

function mapsPicture() {
  const parts = [...panels.values()].map(({ view, viewer, canvas }) => {
    // Its picture is there until the browser shows the next one.
    viewer.drawScene();
    const copy = make("canvas", { width: canvas.width, height: canvas.height });
    copy.getContext("2d").drawImage(canvas, 0, 0);
    return { canvas: copy, words: view.categories ? view.label : `${view.label}, ${windowOf(view).map(inWords).join(" to ")} ${view.unit}` };
  });
  return montage(parts, Math.ceil(Math.sqrt(parts.length)));
}

// ---- The address ----

// Longer ones are cut by programs that pass addresses on.
const MOST_LETTERS = 1500;

// Rows of the region along the first axis of the box: where each begins, by its indices in the file, and its voxels.
// "" where they are too many.
function regionWritten() {
  const rows = [];
  for (let place = 0; place < state.region.length; place++) {
    if (!state.region[place]) continue;
    const [start, width] = [place, run.shape[0]];
    while (state.region[place + 1] && (place + 1) % width) place++;
    const at = [start % width, Math.floor(start / width) % run.shape[1], Math.floor(start / width / run.shape[1])];
    rows.push([...fileIndex(at), place - start + 1].join());
  }
  const written = rows.join(";");
  return written.length > MOST_LETTERS ? "" : written;
}

// What lies outside the box or the mask, as a region of a page made before may, is left out.
function readRegion(written) {
  for (const [, row, count] of (written ?? "").matchAll(/(\d+,\d+,\d+),(\d+)/g)) {
    const [[first, y, z]] = indicesIn(row);
    if (fileIndex([first, y, z]).join() !== row) continue;
    for (let x = first; x < Math.min(first + Number(count), run.shape[0]); x++) {
      const place = placeOf([x, y, z]);
      if (voxels.at[place] >= 0) state.region[place] = 1;
    }
  }
}

function address() {
  const parts = {
    voxel: fileIndex(state.at).join(),
    pins: state.pins.map((at) => fileIndex(at).join()).join(";"),
    ...(run.signals ? { region: regionWritten() } : {}),
    maps: state.shown.join(),
    plane: state.plane,
    axis: state.axis,
  };
  return "#" + Object.entries(parts).map(([key, value]) => `${key}=${value}`).join("&");
}

let waiting = 0;
function keepAddress() {
  clearTimeout(waiting);
  waiting = setTimeout(() => { if (location.hash !== address()) history.replaceState(null, "", address()); }, 200);
}

const indicesIn = (text) => (/^\d+,\d+,\d+$/.test(text ?? "") ? [boxIndex(text.split(",").map(Number))] : []);

function readAddress() {
  const parts = new URLSearchParams(location.hash.slice(1));
  const acquired = run.axes[2];
  const usual = matchMedia("(max-width: 520px)").matches ? ["f", "d", "dstar", FLAGS] : ["f", "d", "dstar", "s0", "f_std", "d_std", "dstar_std", FLAGS];
  const there = (fields) => allViews.map(({ field }) => field).filter((field) => fields.includes(field));
  const wanted = there((parts.get("maps") ?? "").split(","));
  [state.at] = [...indicesIn(parts.get("voxel")), boxIndex(run.first)];
  state.pins = (parts.get("pins") ?? "").split(";").flatMap(indicesIn).filter((at) => voxelAt(at) >= 0).slice(0, MOST_PINS);
  if (run.signals) readRegion(parts.get("region"));
  state.shown = wanted.length ? wanted : there(usual).length ? there(usual) : [allViews[0].field];
  state.plane = /^[012]$/.test(parts.get("plane")) ? Number(parts.get("plane")) : acquired;
  state.axis = parts.get("axis") in AXES ? parts.get("axis") : "linear";
}

// ---- All of it ----

function draw() {
  const voxel = voxelAt(state.at);
  panels.forEach((panel) => panel.look());
  fileIndex(state.at).forEach((index, axis) => { byId("ijk"[axis]).value = index; });
  const slice = byId("slice");
  slice.max = run.shape[state.plane];
  slice.disabled = run.shape[state.plane] === 1;
  slice.value = state.at[state.plane] + 1;
  const own = run.axes.indexOf(state.plane);
  const words = `${fileIndex(state.at)[own] + 1}`;
  byId("slice-words").textContent = `Slice ${words}`;
  slice.setAttribute("aria-valuetext", words);
  say(voxel);
  showNumbers(voxel);
  showPins();
  const region = regionNumbers();
  showRegion(region);
  keepAddress();
  if (!run.signals) return;
  const curves = ["", ...(fieldOf.has("f_lsq") ? ["_lsq"] : [])].map((suffix) => predictor(voxels, voxel, suffix));
  showSignals(measuredOf(voxel), curves);
  chart(seriesOf(voxel, region));
  byId("decay").setAttribute("aria-label",
    `Measured signals of voxel ${indexWords(state.at)} over the b-value with their fits; the numbers stand below.`);
}

function moveTo(at) {
  state.at = at.map((place, axis) => Math.min(Math.max(place, 0), run.shape[axis] - 1));
  draw();
}

const step = (axis, places) => moveTo(state.at.map((place, own) => place + (own === axis ? places : 0)));

// Across and down the picture run these axes: right is on the left, anterior and superior are on top.
function keyStep(key) {
  const [across, down] = [0, 1, 2].filter((axis) => axis !== state.plane);
  // Slices go up in the order of the file.
  const own = run.axes.indexOf(state.plane);
  const next = run.flipped[own] ? -1 : 1;
  const steps = {
    ArrowLeft: [across, 1], ArrowRight: [across, -1], ArrowUp: [down, 1], ArrowDown: [down, -1],
    PageUp: [state.plane, next], PageDown: [state.plane, -next],
  };
  return steps[key];
}

const ACTIONS = { p: pin, P: pin, " ": takeVoxel, "+": () => zoom(1.25), "-": () => zoom(0.8) };

function listen() {
  const maps = byId("maps");
  const focused = () => maps.contains(document.activeElement);
  // Before the viewer, which has keys and a wheel of its own.
  maps.addEventListener("keydown", (event) => {
    event.stopPropagation();
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const found = keyStep(event.key);
    const act = found ? () => step(...found) : ACTIONS[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  }, true);
  maps.addEventListener("keyup", (event) => event.stopPropagation(), true);
  maps.addEventListener("wheel", (event) => {
    event.stopPropagation();
    // The page scrolls on until the maps are used.
    if (!focused()) return;
    event.preventDefault();
    if (event.ctrlKey) zoom(event.deltaY < 0 ? 1.1 : 1 / 1.1);
    else step(...keyStep(event.deltaY < 0 ? "PageUp" : "PageDown"));
  }, { capture: true, passive: false });
  maps.addEventListener("dblclick", () => zoom(0));
  ["i", "j", "k"].forEach((id) => byId(id).addEventListener("change", () =>
    moveTo(boxIndex(["i", "j", "k"].map((axis) => Math.round(Number(byId(axis).value)) || 0)))));
  byId("slice").addEventListener("input", (event) => step(state.plane, Number(event.target.value) - 1 - state.at[state.plane]));
  byId("plane").addEventListener("change", (event) => {
    state.plane = Number(event.target.value);
    panels.forEach((panel) => {
      panel.viewer.setSliceType([niivue.SLICE_TYPE.SAGITTAL, niivue.SLICE_TYPE.CORONAL, niivue.SLICE_TYPE.AXIAL][state.plane]);
      panel.repaint();
    });
    draw();
  });
  ["mask-line", "region-lines"].forEach((id) => byId(id).addEventListener("change", () => panels.forEach((panel) => panel.repaint())));
  byId("closer").addEventListener("click", () => zoom(1.25));
  byId("further").addEventListener("click", () => zoom(0.8));
  byId("whole").addEventListener("click", () => zoom(0));
  byId("pin").addEventListener("click", pin);
  listenToWindows();
  byId("copy").addEventListener("click", async () => {
    const text = table(regionNumbers());
    const copied = await navigator.clipboard?.writeText(text).then(() => true, () => false);
    byId("done").textContent = copied ? "Copied." : "This browser does not let a page copy: download the numbers instead.";
  });
  byId("csv").addEventListener("click", () => save(new Blob([table(regionNumbers())], { type: "text/csv" }), "voxels.csv"));
  byId("maps-png").addEventListener("click", () => savePicture(mapsPicture(), "maps.png"));
  if (!run.signals) return;
  byId("chart-png").addEventListener("click", () => {
    const words = series().map(({ name }) => name).join(", ");
    savePicture(montage([{ canvas: plot.ctx.canvas, words }], 1), "chart.png");
  });
  byId("axis").addEventListener("change", (event) => { state.axis = event.target.value; draw(); });
  byId("relative").addEventListener("change", draw);
  byId("take").addEventListener("click", takeVoxel);
  byId("take-region").addEventListener("click", takeRegion);
  byId("undo").addEventListener("click", () => {
    if (!state.before.length) return;
    state.region = state.before.pop();
    mark();
  });
  byId("clear").addEventListener("click", () => changeRegion(() => state.region.fill(0)));
  byId("drawing").querySelectorAll("button").forEach((button) => button.addEventListener("click", () => usePen(button)));
  new ResizeObserver(() => plot?.setSize({ width: Math.max(byId("decay").clientWidth, 200), height: CHART_HEIGHT })).observe(byId("decay"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
}

const series = () => seriesOf(voxelAt(state.at), regionNumbers());

function listenToWindows() {
  const chosen = () => viewOf(byId("window-of").value);
  const show = () => {
    [byId("low").value, byId("high").value] = windowOf(chosen()).map((end) => Number(end.toPrecision(6)));
    byId("window-unit").textContent = chosen().unit;
  };
  const use = (ends) => {
    if (ends) state.windows.set(chosen().field, ends);
    else state.windows.delete(chosen().field);
    panels.get(chosen().field)?.repaint();
    show();
  };
  byId("window-of").append(...run.views.map(({ field, label, group }) => new Option(`${label} (${group})`, field)));
  byId("window-of").addEventListener("change", show);
  ["low", "high"].forEach((id) => byId(id).addEventListener("change", () => {
    const [low, high] = ["low", "high"].map((end) => byId(end).valueAsNumber);
    if (low < high) use([low, high]);
    else show();
  }));
  byId("window-reset").addEventListener("click", () => use(null));
  show();
}

function fillControls() {
  byId("plane").value = state.plane;
  // Without an orientation nobody knows how the slices lie.
  if (!run.oriented) [...byId("plane").options].forEach((option) => { option.text = ["i, j", "i, k", "j, k"][2 - option.value]; });
  if (run.signals) byId("axis").value = state.axis;
  byId("regions-choice").hidden = !run.regions.length;
  byId("regions-kind").textContent = run.regions_kind.toLowerCase();
  byId("which").append(...allViews.map(({ field, label, group }) => {
    const box = make("input", { type: "checkbox", value: field, "data-map": field });
    box.checked = state.shown.includes(field);
    box.addEventListener("change", () => {
      state.shown = [...byId("which").querySelectorAll("input:checked")].map((input) => input.value);
      showPanels();
    });
    return make("label", {}, box, ` ${label}${group ? ` (${group})` : ""}`);
  }));
  byId("pins-head").append(...["Voxel", ...run.quantities.map(({ symbol }) => symbol), ""].map((words, position) =>
    make(words || !position ? "th" : "td", words ? { scope: "col" } : {}, words)));
}

function trouble(words) {
  byId("trouble").textContent = words;
  byId("trouble").hidden = false;
}

async function start() {
  if (typeof DecompressionStream === "undefined") {
    trouble("This browser is older than 2023 and cannot open this page: use a newer one. The report shows the maps without it.");
    return;
  }
  voxels = new Voxels(await unpacked(run.packed));
  state.region = new Uint8Array(voxels.at.length);
  readAddress();
  document.querySelector(".viewer").hidden = false;
  fillControls();
  listen();
  if (!document.createElement("canvas").getContext("webgl2")) {
    trouble("This browser has no WebGL2, which the maps need. The numbers and signals of any voxel are below: choose it by its indices.");
    byId("pictures").hidden = true;
    if (run.signals) byId("drawing").hidden = true;
    draw();
    return;
  }
  draw();
  await loadViewer();
  showPanels();
}

start();
