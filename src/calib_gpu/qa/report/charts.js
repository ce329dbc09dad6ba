// Charts as SVG. Colours come from the style sheet, so that dark mode and print need no redrawing.

/** Numbers packed by pack.py: code 0 is NaN, the others are linear between lo and hi. */
function unpack(packed) {
  const raw = atob(packed.d), wide = packed.b === 16;
  const out = new Float64Array(wide ? raw.length / 2 : raw.length);
  const scale = (packed.hi - packed.lo) / (2 ** packed.b - 2);
  for (let i = 0; i < out.length; i++) {
    const code = wide ? raw.charCodeAt(2 * i) + 256 * raw.charCodeAt(2 * i + 1) : raw.charCodeAt(i);
    out[i] = code === 0 ? NaN : packed.lo + (code - 1) * scale;
  }
  return out;
}

/** Row k of a packed [rows, columns] array. */
const rowOf = (values, shape, k) => values.subarray(k * shape[1], (k + 1) * shape[1]);

/** Least and largest finite number; [0, 1] without any. */
function extent(values) {
  let lo = Infinity, hi = -Infinity;
  for (const v of values) if (Number.isFinite(v)) { lo = Math.min(lo, v); hi = Math.max(hi, v); }
  return lo <= hi ? [lo, hi] : [0, 1];
}

/** A range with some air on both sides; never empty. */
function padded([lo, hi], share = 0.06) {
  const air = hi > lo ? share * (hi - lo) : Math.abs(lo) * 0.05 || 0.5;
  return [lo - air, hi + air];
}

/** Round numbers within a range (which may run downwards), about n of them. */
function ticks(from, to, n) {
  const lo = Math.min(from, to), hi = Math.max(from, to), raw = (hi - lo) / n;
  if (!(raw > 0) || !Number.isFinite(raw)) return [];
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].find((m) => m * power >= raw * 0.999) * power;
  const out = [];
  for (let k = Math.ceil(lo / step - 1e-6); k * step <= hi + 1e-6 * step; k++) out.push(k * step);
  return out;
}

/** The fewest round numbers within a range, at least n and never a single one: one label is no scale. */
function scaleTicks(from, to, n) {
  for (let wanted = n; wanted < 4 * n; wanted++) {
    const out = ticks(from, to, wanted);
    if (out.length > 1) return out;
  }
  return ticks(from, to, 4 * n);
}

/** Round times within a range in hours, about n of them. */
function timeTicks(lo, hi, n) {
  const steps = [1, 2, 5, 10, 15, 30, 60, 120, 180, 360, 720, 1440].map((minutes) => minutes / 60);
  const step = steps.find((s) => s >= ((hi - lo) / n) * 0.999) || 24 * Math.ceil((hi - lo) / n / 24);
  const out = [];
  for (let k = Math.ceil(lo / step - 1e-6); k * step <= hi + 1e-6; k++) out.push(k * step);
  return out;
}

/** Hours since midnight as hh:mm. */
function clock(hours) {
  const minutes = Math.round(hours * 60), text = (v) => String(v).padStart(2, "0");
  return `${text(Math.floor(minutes / 60) % 24)}:${text(minutes % 60)}`;
}

/** A number at a tick, with the digits that tell it from its neighbour. */
function tickText(value, all) {
  const step = all.length > 1 ? Math.abs(all[1] - all[0]) : Math.abs(value) || 1;
  if (value !== 0 && (Math.abs(value) >= 1e6 || step < 1e-4)) return value.toExponential(1);
  return value.toFixed(Math.max(0, Math.min(6, -Math.floor(Math.log10(step) + 1e-6))));
}

/** An element with attributes and children; strings become text, never markup. */
function node(name, attributes = {}, ...children) {
  const inSvg = ["svg", "g", "path", "rect", "line", "circle", "text", "image", "title", "clipPath", "defs"].includes(name)
    || attributes.svg;
  const made = inSvg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) if (key !== "svg" && value !== null) made.setAttribute(key, value);
  made.append(...children.filter((child) => child !== null));
  return made;
}

/** A path through points, broken where one is missing. */
function pathOf(xs, ys) {
  let d = "", pen = "M";
  for (let i = 0; i < xs.length; i++) {
    if (!Number.isFinite(ys[i])) { pen = "M"; continue; }
    d += `${pen}${xs[i].toFixed(1)} ${ys[i].toFixed(1)}`;
    if (pen === "M" && !Number.isFinite(ys[i + 1])) d += "h.6"; // a lone point
    pen = "L";
  }
  return d;
}

/** Areas between two curves, broken where one is missing. */
function areaOf(xs, low, high) {
  let d = "", start = -1;
  for (let i = 0; i <= xs.length; i++) {
    const there = i < xs.length && Number.isFinite(low[i]) && Number.isFinite(high[i]);
    if (there && start < 0) start = i;
    if (!there && start >= 0) {
      const up = [], down = [];
      for (let k = start; k < i; k++) {
        up.push(`${xs[k].toFixed(1)} ${high[k].toFixed(1)}`);
        down.unshift(`${xs[k].toFixed(1)} ${low[k].toFixed(1)}`);
      }
      d += `M${up.join("L")}L${down.join("L")}Z`;
      start = -1;
    }
  }
  return d;
}

/** Radio velocities, km/s, over frequencies, GHz, of a line at `rest`; null where that is not known. */
const velocityAxis = (rest) => (rest
  ? { of: (f) => 299792.458 * (1 - f / rest), back: (v) => rest * (1 - v / 299792.458), label: `radio velocity of ${rest.toFixed(6)} GHz, km/s` }
  : null);

let clips = 0;

/**
 * An empty chart: {svg, plot, x, y, box}. `x` and `y` turn values into coordinates; `plot` is clipped to the frame.
 * Options: width, height, x and y ({range, label, text}), title (what a screen reader says), bare (no axis labels),
 * equal (same scale on both axes), x.second (another scale above, see velocityAxis).
 */
function chart(options) {
  const { width, title, bare = false, right = 10 } = options;
  const second = bare ? null : options.x.second;
  const left = bare ? 40 : 58, top = second ? 36 : 8, bottom = bare ? 20 : 36;
  let height = options.height;
  const [x0, x1] = options.x.range, [y0, y1] = options.y.range;
  const inner = width - left - right;
  if (options.equal) height = Math.min(1.3 * width, Math.max(140, inner * Math.abs((y1 - y0) / (x1 - x0)) + top + bottom));
  const box = { x: left, y: top, w: inner, h: height - top - bottom };
  const x = (v) => box.x + ((v - x0) / (x1 - x0)) * box.w;
  const y = (v) => box.y + (1 - (v - y0) / (y1 - y0)) * box.h;
  const svg = node("svg", { viewBox: `0 0 ${width} ${height.toFixed(0)}`, role: "img", "aria-label": title });
  const clip = `clip${++clips}`;
  svg.append(node("defs", {}, node("clipPath", { id: clip }, node("rect", { x: box.x, y: box.y, width: box.w, height: box.h }))));
  const xt = (options.x.ticks || (bare ? scaleTicks : ticks))(x0, x1, bare ? 2 : Math.max(3, width / 110)), yt = scaleTicks(y0, y1, bare ? 3.5 : 5);
  for (const v of xt) {
    svg.append(node("line", { class: "tick", x1: x(v), x2: x(v), y1: box.y, y2: box.y + box.h }));
    svg.append(node("text", { x: x(v), y: box.y + box.h + 14, "text-anchor": "middle" }, (options.x.text || tickText)(v, xt)));
  }
  for (const v of yt) {
    svg.append(node("line", { class: "tick", x1: box.x, x2: box.x + box.w, y1: y(v), y2: y(v) }));
    svg.append(node("text", { x: box.x - 5, y: y(v) + 4, "text-anchor": "end" }, (options.y.text || tickText)(v, yt)));
  }
  if (second) {
    const all = ticks(second.of(x0), second.of(x1), Math.max(3, width / 110));
    for (const v of all) svg.append(node("text", { x: x(second.back(v)), y: top - 5, "text-anchor": "middle" }, tickText(v, all)));
    svg.append(node("text", { x: box.x + box.w / 2, y: 12, "text-anchor": "middle" }, second.label));
  }
  if (!bare) {
    svg.append(node("text", { x: box.x + box.w / 2, y: height - 4, "text-anchor": "middle" }, options.x.label));
    const middle = box.y + box.h / 2;
    svg.append(node("text", { x: 12, y: middle, "text-anchor": "middle", transform: `rotate(-90 12 ${middle})` }, options.y.label));
  }
  const plot = node("g", { "clip-path": `url(#${clip})` });
  svg.append(plot, node("rect", { class: "frame", x: box.x, y: box.y, width: box.w, height: box.h }));
  return { svg, plot, x, y, box };
}

/** Centres of n bins between the ends of an axis. */
const centres = ([first, last], n) => Float64Array.from({ length: n }, (_, i) => first + ((i + 0.5) / n) * (last - first));

// viridis at nine points
const COLOURS = [[68, 1, 84], [71, 44, 122], [59, 81, 139], [44, 113, 142], [33, 144, 141], [39, 173, 129], [92, 200, 99],
  [170, 220, 50], [253, 231, 37]];

/** Colour [r, g, b] of a share between 0 and 1. */
function colour(share) {
  const at = Math.max(0, Math.min(1, share)) * (COLOURS.length - 1), k = Math.min(COLOURS.length - 2, Math.floor(at));
  return COLOURS[k].map((v, i) => Math.round(v + (at - k) * (COLOURS[k + 1][i] - v)));
}

/** A packed [rows, columns] image as a data URL; missing values are transparent, row 0 is the upper one. */
function imageUrl(packed) {
  const [rows, columns] = packed.n, values = unpack(packed);
  const canvas = node("canvas", { width: columns, height: rows });
  const context = canvas.getContext("2d"), pixels = context.createImageData(columns, rows);
  const scale = packed.hi > packed.lo ? 1 / (packed.hi - packed.lo) : 0;
  values.forEach((v, i) => {
    if (Number.isFinite(v)) pixels.data.set([...colour((v - packed.lo) * scale), 255], 4 * i);
  });
  context.putImageData(pixels, 0, 0);
  return canvas.toDataURL();
}

/** An image between the given ends of its axes, with a colour bar. */
function raster(packed, options) {
  const made = chart({ ...options, right: 72 });
  const { box } = made, [y0, y1] = options.y.range, flip = y1 > y0; // row 0 lies at the first end of the axis y
  const image = node("image", { href: imageUrl(packed), x: box.x, y: box.y, width: box.w, height: box.h, preserveAspectRatio: "none" });
  if (flip) image.setAttribute("transform", `translate(0 ${2 * box.y + box.h}) scale(1 -1)`);
  made.plot.append(image);
  const bar = { x: box.x + box.w + 8, w: 9, n: 32 };
  for (let i = 0; i < bar.n; i++) {
    const [r, g, b] = colour((i + 0.5) / bar.n);
    made.svg.append(node("rect", { x: bar.x, width: bar.w, y: box.y + box.h * (1 - (i + 1) / bar.n), height: box.h / bar.n + 0.5, fill: `rgb(${r} ${g} ${b})` }));
  }
  const ends = [packed.lo, packed.hi].map((v) => (Math.abs(v) >= 100 ? v.toFixed(0) : v.toPrecision(2)));
  made.svg.append(node("text", { x: bar.x + 12, y: box.y + box.h }, ends[0]), node("text", { x: bar.x + 12, y: box.y + 9 }, ends[1]));
  const middle = box.y + box.h / 2;
  made.svg.append(node("text", { x: bar.x + 56, y: middle, "text-anchor": "middle", transform: `rotate(-90 ${bar.x + 56} ${middle})` }, options.unit));
  return made;
}
