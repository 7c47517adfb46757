// Charts, and the table of runs that sorts and filters. Everything comes from the JSON in the page, which
// sicnn_app/group/charts.py describes: nothing is requested. uPlot draws axes and enlarges; marks are ours.

const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const runs = data.runs.map(([name, report, rating], place) => ({ name, report, rating, place, row: byId(`run-${name}`) }));
const runOfRow = new Map(runs.map((run) => [run.row, run]));
const state = { region: 0, fit: true, pinned: null, pointed: null };
let charts = [];

function made(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

// Three digits, as sicnn_app.derivatives.facts.format_number writes them.
function inWords(value) {
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size < 1e-3 || size >= 1e6) return String(Number(value.toPrecision(3)));
  return size < 100 ? value.toPrecision(3) : value.toFixed(0);
}

const withUnit = (measure, value) => inWords(value) + measure.ending;

// Smallest and largest, of more values than a function takes arguments.
const extent = (values) => values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);

// ---- Marks ----

const MARKS = [
  ["run", {}],
  ["outlier", { level: 1 }],
  ["far outlier", { level: 2 }],
  ["least squares", { fit: true }],
  ["rated good", { rating: "good" }],
  ["rated doubtful", { rating: "doubtful" }],
  ["rated unusable", { rating: "unusable" }],
];

function colours(element) {
  const style = getComputedStyle(element);
  const names = ["ink", "muted", "line", "accent", "card", "warn-line", "bad-line"];
  return Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
}

function outline(ctx, mark, x, y, size) {
  ctx.beginPath();
  if (mark.rating === "unusable") {
    for (const side of [-1, 1]) {
      ctx.moveTo(x - size, y - side * size);
      ctx.lineTo(x + size, y + side * size);
    }
  } else if (mark.rating === "doubtful") {
    ctx.moveTo(x, y - 1.3 * size);
    ctx.lineTo(x + 1.2 * size, y + 0.9 * size);
    ctx.lineTo(x - 1.2 * size, y + 0.9 * size);
    ctx.closePath();
  } else if (mark.level === 2) {
    ctx.moveTo(x, y - 1.5 * size);
    ctx.lineTo(x + 1.5 * size, y);
    ctx.lineTo(x, y + 1.5 * size);
    ctx.lineTo(x - 1.5 * size, y);
    ctx.closePath();
  } else {
    ctx.arc(x, y, size, 0, 2 * Math.PI);
  }
}

function drawMark(ctx, mark, x, y, ratio, colour, faded) {
  outline(ctx, mark, x, y, (mark.level ? 4 : 3) * ratio);
  ctx.lineWidth = (mark.level || mark.rating === "unusable" ? 2 : 1.2) * ratio;
  ctx.globalAlpha = faded ? 0.1 : 1;
  if (mark.rating === "unusable") {
    ctx.strokeStyle = colour.ink;
    ctx.stroke();
    return;
  }
  ctx.fillStyle = mark.level === 2 ? colour["bad-line"] : mark.level === 1 ? colour.card : mark.fit ? colour.muted : colour.accent;
  if (!mark.level) ctx.globalAlpha *= 0.65;
  ctx.fill();
  ctx.globalAlpha = faded ? 0.1 : 1;
  ctx.strokeStyle = mark.level === 1 ? colour["warn-line"] : colour.ink;
  if (mark.level === 1 || mark.rating) ctx.stroke();
}

function drawKey() {
  const used = MARKS.filter(([, mark]) => !mark.rating || runs.some((run) => run.rating === mark.rating));
  byId("key").replaceChildren(
    ...used.map(([words, mark]) => {
      const ratio = window.devicePixelRatio;
      const canvas = made("canvas", { width: 16 * ratio, height: 16 * ratio, ariaHidden: "true" });
      drawMark(canvas.getContext("2d"), mark, 8 * ratio, 8 * ratio, ratio, colours(byId("key")), false);
      return made("li", {}, canvas, words);
    }),
  );
}

// ---- Charts ----

const STRIP = 58;
const LABEL = 18;
const DOT = 5;

// Distances from the middle by which points that would hide one another move apart.
function swarm(places, room) {
  const columns = places.map((place) => Math.floor(place / DOT));
  const sizes = new Map();
  columns.forEach((column) => sizes.set(column, (sizes.get(column) ?? 0) + 1));
  const ranks = new Map();
  return columns.map((column) => {
    const rank = ranks.get(column) ?? 0;
    ranks.set(column, rank + 1);
    const step = Math.min(DOT, room / Math.max(Math.floor(sizes.get(column) / 2), 1));
    return step * (rank % 2 ? (rank + 1) / 2 : -rank / 2);
  });
}

function roundTicks(low, high) {
  const ticks = [];
  for (let power = Math.floor(Math.log10(low)); 10 ** power <= high; power++) {
    ticks.push(...[1, 2, 5].map((first) => Number(`${first}e${power}`)).filter((tick) => tick >= low && tick <= high));
  }
  return ticks;
}

// Content: title, across and up (names of axes), ending, points {run, x, y, strip, mark, words}, strips, lines.
class Chart {
  constructor(parent, content) {
    Object.assign(this, content);
    this.at = -1;
    this.order = this.points.map((_, place) => place);
    this.order.sort((one, other) => this.points[one].strip - this.points[other].strip || this.points[one].x - this.points[other].x);
    this.plot = made("div", { className: "plot", tabIndex: 0 });
    this.plot.setAttribute("role", "application");
    this.plot.setAttribute("aria-label", `${this.title}: ${this.points.length} points. Arrow keys go from point to point, Enter marks a run.`);
    this.tip = made("div", { className: "tip", hidden: true });
    this.element = made("div", { className: "chart" }, made("p", { className: "title", textContent: this.title }), this.plot);
    if (this.lines.length) {
      this.element.append(made("p", { className: "note", textContent: this.lines.map(([, words]) => words).join("; ") }));
    }
    parent.append(this.element);
    this.plot.addEventListener("keydown", (event) => this.key(event));
    this.plot.addEventListener("blur", ({ relatedTarget }) => this.plot.contains(relatedTarget) || point(null));
  }

  get height() {
    return (this.strips.length ? this.strips.length * STRIP : 220) + 56;
  }

  make() {
    const scatter = this.strips.length === 0;
    let [low, high] = extent([...this.points.map((one) => one.x), ...this.strips.flatMap((strip) => strip.box ?? [])]);
    const logarithmic = this.logarithmic && low > 0;
    const [there, back] = logarithmic ? [Math.log, Math.exp] : [Number, Number];
    const margin = 0.04 * (there(high) - there(low)) || 0.05 * Math.abs(there(high)) || 1;
    [low, high] = [back(there(low) - margin), back(there(high) + margin)];
    const [bottom, top] = extent([0, ...this.points.map((one) => one.y), ...this.lines.map(([value]) => value)]);
    const spare = 0.06 * (top - bottom) || 1;
    const ends = scatter ? [bottom - spare, top + spare] : [0, 1];
    const axis = {
      stroke: () => this.colour.muted,
      grid: { stroke: () => this.colour.line, width: 1 },
      ticks: { show: false },
      font: "11px system-ui, sans-serif",
      labelFont: "12px system-ui, sans-serif",
    };
    const round = logarithmic && roundTicks(low, high).length > 1;
    const across = {
      ...axis,
      label: this.across,
      size: 26,
      labelSize: 22,
      space: 46,
      ...(logarithmic && {
        splits: (u, _, from, to) => (round && roundTicks(from, to).length > 1 ? roundTicks(from, to) : [from, Math.sqrt(from * to), to]),
        filter: (_, splits) => splits,
        values: (_, splits) => splits.map((value) => String(Number(value.toPrecision(2)))),
      }),
    };
    this.ends = [low, high];
    this.colour = colours(this.element);
    this.u = new uPlot(
      {
        width: this.plot.clientWidth || 300,
        height: this.height,
        padding: [6, 12, 0, scatter ? 0 : 12],
        legend: { show: false },
        cursor: { x: false, y: false, points: { show: false }, drag: { x: true, y: false } },
        scales: {
          x: { time: false, distr: logarithmic ? 3 : 1, log: 10, range: (_, from, to) => [from, to] },
          y: { range: () => ends },
        },
        axes: [across, { ...axis, show: scatter, label: this.up, size: 46, labelSize: 20 }],
        series: [{}, { points: { show: false } }],
        hooks: {
          drawClear: [() => (this.colour = colours(this.element))],
          draw: [() => this.draw()],
          setCursor: [(u) => this.hover(u.cursor)],
        },
      },
      [[low, high], [null, null]],
      this.plot,
    );
    this.u.over.append(this.tip);
    // On its links the pointer is at no point.
    for (const event of ["mousemove", "mousedown", "click"]) this.tip.addEventListener(event, (happened) => happened.stopPropagation());
    this.u.over.addEventListener("mousedown", (event) => (this.pressed = event.clientX));
    this.u.over.addEventListener("click", (event) => {
      if (Math.abs(event.clientX - this.pressed) < 4) this.pin();
    });
  }

  resize() {
    this.u.setSize({ width: this.plot.clientWidth, height: this.height });
  }

  // Places of the points in pixels of the plotting area.
  place() {
    const { u } = this;
    const ratio = uPlot.pxRatio;
    const xs = this.points.map((one) => u.valToPos(one.x, "x"));
    const offsets = this.strips.map(() => []);
    this.strips.forEach((strip, number) => {
      const own = this.points.flatMap((one, place) => (one.strip === number ? [place] : []));
      const moved = swarm(own.map((place) => xs[place]), (STRIP - LABEL) / 2 - DOT);
      own.forEach((place, position) => (offsets[number][place] = moved[position]));
    });
    this.places = this.points.map((one, place) => [
      xs[place],
      this.strips.length ? this.middle(one.strip) + offsets[one.strip][place] : u.valToPos(one.y, "y"),
    ]);
    return [u.bbox.left, u.bbox.top, ratio];
  }

  middle(strip) {
    return strip * STRIP + LABEL + (STRIP - LABEL) / 2;
  }

  draw() {
    const { ctx, bbox } = this.u;
    const [left, top, ratio] = this.place();
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    const toX = (value) => this.u.valToPos(value, "x", true);
    for (const [value, , kind] of this.lines) {
      const y = this.u.valToPos(value, "y", true);
      ctx.setLineDash(kind === "limit" ? [5 * ratio, 4 * ratio] : []);
      ctx.strokeStyle = this.colour.muted;
      ctx.lineWidth = 1.4 * ratio;
      ctx.stroke(new Path2D(`M${bbox.left} ${y}h${bbox.width}`));
    }
    ctx.setLineDash([]);
    this.points.forEach((one, place) => {
      const [x, y] = this.places[place];
      drawMark(ctx, one.mark, left + x * ratio, top + y * ratio, ratio, this.colour, one.run.row.hidden);
    });
    ctx.globalAlpha = 1;
    ctx.strokeStyle = ctx.fillStyle = this.colour.ink;
    ctx.textAlign = "left";
    ctx.textBaseline = "middle";
    ctx.font = `${11.5 * ratio}px system-ui, sans-serif`;
    this.strips.forEach((strip, number) => {
      const y = top + this.middle(number) * ratio;
      ctx.fillText(strip.label, left, y - (STRIP / 2 - 4) * ratio, bbox.width);
      if (!strip.box) return;
      const [low, lower, median, upper, high] = strip.box.map(toX);
      const [half, end] = [11 * ratio, 5 * ratio];
      ctx.lineWidth = 1.6 * ratio;
      ctx.stroke(new Path2D(`M${low} ${y}H${lower}M${upper} ${y}H${high}M${low} ${y - end}V${y + end}M${high} ${y - end}V${y + end}`));
      ctx.strokeRect(lower, y - half, upper - lower, 2 * half);
      ctx.lineWidth = 3 * ratio;
      ctx.stroke(new Path2D(`M${median} ${y - half}V${y + half}`));
    });
    ctx.restore();
    this.rings();
  }

  hover({ left, top }) {
    if (!this.places || this.plot === document.activeElement) return;
    let [nearest, least] = [-1, 12];
    if (left >= 0) {
      this.places.forEach(([x, y], place) => {
        const distance = Math.hypot(x - left, y - top);
        if (distance < least) [nearest, least] = [place, distance];
      });
    }
    this.look(nearest);
  }

  look(place) {
    if (place === this.at) return;
    this.at = place;
    point(place < 0 ? null : this.points[place].run, this);
  }

  pin() {
    const one = this.points[this.at];
    pin(one ? one.run : null, this);
  }

  key(event) {
    const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -Infinity, End: Infinity };
    if (event.target !== this.plot) return;
    if (event.key in steps) {
      const now = this.order.indexOf(this.at);
      const next = now < 0 ? 0 : Math.min(Math.max(now + steps[event.key], 0), this.order.length - 1);
      this.look(this.order[next]);
      byId("said").textContent = this.words(this.order[next]);
    } else if (event.key === "Enter") this.pin();
    else if (event.key === "Escape") pin(null);
    else return;
    event.preventDefault();
  }

  words(place) {
    const { run, words } = this.points[place];
    return `${run.name}: ${words}${run.rating ? `, rated ${run.rating}` : ""}`;
  }

  // Rings around the runs that are looked at, and what is known of the point under the pointer.
  rings() {
    this.u.over.querySelectorAll(".ring").forEach((ring) => ring.remove());
    const looked = [state.pinned, state.pointed].filter(Boolean);
    this.points.forEach((one, place) => {
      const [x, y] = this.places[place];
      if (!looked.includes(one.run) || x < 0 || x > this.u.over.clientWidth) return;
      const ring = made("i", { className: "ring" });
      Object.assign(ring.style, { left: `${x}px`, top: `${y}px` });
      this.u.over.append(ring);
    });
    const place = state.from === this && state.pinned && !state.pointed ? this.kept : this.at;
    this.tip.hidden = !(place >= 0);
    if (this.tip.hidden) return;
    const { run } = this.points[place];
    const kept = run === state.pinned && state.from === this;
    if (kept) this.kept = place;
    // A link that is made anew between press and release is not followed.
    const told = `${kept} ${place}`;
    if (told !== this.told) {
      this.tip.className = kept ? "tip kept" : "tip";
      this.tip.replaceChildren(made("div", { textContent: this.words(place) }), ...(kept ? links(run) : []));
      this.told = told;
    }
    const [x, y] = this.places[place];
    const room = this.u.over.clientWidth - this.tip.offsetWidth;
    this.tip.style.left = `${Math.max(Math.min(x - this.tip.offsetWidth / 2, room), 0)}px`;
    this.tip.style.top = `${y + 14}px`;
  }
}

function links(run) {
  const row = made("a", { href: `#${run.row.id}`, textContent: "row in the table" });
  return run.report ? [made("a", { href: run.report, textContent: "report" }), row] : [row];
}

function point(run, chart = null) {
  charts.forEach((one) => one !== chart && (one.at = -1));
  state.pointed = run;
  charts.forEach((one) => one.rings());
}

function pin(run, chart = null) {
  runs.forEach((one) => one.row.classList.toggle("pinned", one === run));
  Object.assign(state, { pinned: run, from: chart });
  const clear = made("button", { type: "button", textContent: "clear" });
  clear.addEventListener("click", () => pin(null));
  byId("pinned").replaceChildren(...(run ? [`Marked: ${run.name} `, ...links(run).flatMap((link) => [link, " "]), clear] : []));
  charts.forEach((one) => one.rings());
}

function drawCharts() {
  charts.forEach((chart) => chart.u.destroy());
  charts = [];
  const places = [...document.querySelectorAll(".agreement")];
  [byId("parameter-charts"), byId("quality-charts"), ...places].forEach((place) => place.replaceChildren());
  const shown = (item) => item.region === state.region && (state.fit || !item.kind.endsWith("fit"));
  data.measures.forEach((measure, number) => {
    const ofRun = measure.of_run ? { ...state, region: 0 } : state;
    const strips = data.strips.filter((strip) => strip.measure === number && (measure.of_run ? strip.region === 0 : shown(strip)));
    if (!strips.length) return;
    const points = strips.flatMap((strip, place) =>
      strip.runs.map((run, position) => ({
        run: runs[run],
        x: strip.values[position],
        strip: place,
        mark: { rating: runs[run].rating, level: strip.levels[position], fit: strip.kind.endsWith("fit") },
        words: withUnit(measure, strip.values[position]) + (strip.levels[position] ? `, ${MARKS[strip.levels[position]][0]}` : ""),
      })),
    );
    const parent = byId(measure.of_run ? "quality-charts" : "parameter-charts");
    const content = { title: measure.title, across: measure.axis, logarithmic: measure.logarithmic, points, strips, lines: [] };
    charts.push(new Chart(parent, content));
  });
  data.pairs.filter(({ region }) => region === state.region).forEach((pairs) => {
    const measure = data.measures[pairs.measure];
    const points = pairs.runs.map((run, position) => {
      const [first, second] = [pairs.first[position], pairs.second[position]];
      return {
        run: runs[run],
        x: (first + second) / 2,
        y: second - first,
        strip: 0,
        mark: { rating: runs[run].rating },
        words: `${withUnit(measure, first)} and then ${withUnit(measure, second)}`,
      };
    });
    const title = `${measure.title}: Bland-Altman plot`;
    const content = { title, across: `Mean of both: ${measure.axis}`, up: "Second less first", points, strips: [], lines: pairs.lines };
    charts.push(new Chart(places[pairs.section], content));
  });
  // All of them share the width of the page.
  charts.forEach((chart) => chart.make());
}

// ---- Table of runs ----

const table = byId("run-table");
const body = table.tBodies[0];
const heads = [...table.tHead.rows[0].cells];
const SIGNS = "✔≈✘?";

// Numbers by their size, verdicts and ratings from good to bad, words as people count; what is missing last.
function sortKey(cell) {
  const text = cell.textContent.trim();
  if (text === "" || text === "n/a") return [2, ""];
  if (SIGNS.includes(text[0])) return [0, SIGNS.indexOf(text[0])];
  const number = Number(text.replaceAll(",", "").replace(" %", ""));
  return Number.isNaN(number) ? [1, text] : [0, number];
}

const collator = new Intl.Collator("en", { numeric: true });

function sortBy(place, descending) {
  const keyed = [...body.rows].map((row) => [row, sortKey(row.cells[place])]);
  const sign = descending ? -1 : 1;
  keyed.sort(([, one], [, other]) => {
    if (one[0] === 2 || other[0] === 2) return one[0] - other[0];
    return sign * (one[0] - other[0] || (one[0] ? collator.compare(one[1], other[1]) : one[1] - other[1]));
  });
  body.append(...keyed.map(([row]) => row));
  heads.forEach((head, column) => {
    if (column === place) head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  });
}

function filter() {
  const words = byId("find").value.toLowerCase().split(/\s+/).filter(Boolean);
  let count = 0;
  runs.forEach((run) => {
    const text = run.row.textContent.toLowerCase();
    run.row.hidden = !words.every((word) => text.includes(word));
    count += !run.row.hidden;
  });
  byId("count").textContent = words.length ? `${count} of ${runs.length} runs` : "";
  charts.forEach((chart) => chart.u.redraw(false));
}

function fillTable() {
  byId("over").textContent = state.region ? data.regions[state.region] : "the whole mask";
  heads.forEach((head, column) => {
    if (!head.dataset.measure) return;
    const { measure, kind } = head.dataset;
    const cells = new Map();
    data.strips.forEach((strip) => {
      const asked = kind === "fit" ? ["fit", "apart fit"] : ["own", "apart"];
      if (strip.region === state.region && strip.measure === Number(measure) && asked.includes(strip.kind)) {
        strip.runs.forEach((run, position) => cells.set(run, inWords(strip.values[position])));
      }
    });
    runs.forEach((run) => (run.row.cells[column].textContent = cells.get(run.place) ?? "n/a"));
  });
}

// ---- Beginning ----

function prepareTable() {
  heads.forEach((head, place) => {
    const button = made("button", { type: "button", textContent: head.textContent });
    button.addEventListener("click", () => sortBy(place, head.ariaSort === "ascending"));
    head.replaceChildren(button);
  });
  runs.forEach((run) => {
    const button = made("button", { type: "button", className: "mark-run", textContent: "◎", title: "Mark in the charts" });
    button.setAttribute("aria-label", `Mark ${run.name} in the charts`);
    run.row.cells[0].append(button);
  });
  body.addEventListener("click", (event) => {
    if (!event.target.matches(".mark-run")) return;
    pin(runOfRow.get(event.target.closest("tr")));
    byId("parameters").scrollIntoView();
  });
}

// A report leads to the row of its run.
function pinNamed() {
  const run = runs.find(({ row }) => `#${row.id}` === decodeURIComponent(location.hash));
  if (!run) return;
  if (run !== state.pinned) pin(run);
  // Where a row lies is known once the rows are laid out.
  byId("runs").style.contentVisibility = "visible";
  run.row.scrollIntoView({ block: "center" });
}

function redraw() {
  drawKey();
  charts.forEach((chart) => chart.u.redraw(false));
}

byId("region").append(...data.regions.map((name, place) => new Option(name, place)));
byId("fit").parentElement.hidden = !data.strips.some(({ kind }) => kind === "fit");
byId("region").addEventListener("change", (event) => {
  state.region = Number(event.target.value);
  fillTable();
  drawCharts();
});
byId("fit").addEventListener("change", (event) => {
  state.fit = event.target.checked;
  drawCharts();
});
byId("find").addEventListener("input", filter);
byId("choose").addEventListener("submit", (event) => event.preventDefault());
[byId("choose"), ...document.querySelectorAll(".drawn")].forEach((element) => (element.hidden = false));
prepareTable();
drawKey();
drawCharts();
pinNamed();
window.addEventListener("hashchange", pinNamed);
new ResizeObserver(() => charts.forEach((chart) => chart.resize())).observe(byId("parameter-charts"));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
for (const [event, paper] of [["beforeprint", true], ["afterprint", false]]) {
  window.addEventListener(event, () => {
    document.documentElement.classList.toggle("paper", paper);
    redraw();
  });
}
