// One scan: everything that is drawn of a record of summary.py.

const GHZ = "signal frequency, GHz";
const PANEL = 170; // width of a small chart: that of the narrowest panel, so that its text is not made smaller

/** A figure with a heading, a drawing and a line of explanation. */
function figure(title, drawing, note) {
  return node("figure", {}, node("h3", {}, title), drawing, node("figcaption", {}, note));
}

/** What is said where there is nothing to draw. */
const nothing = (why) => node("p", { class: "note" }, why);

/** A table from headings and rows of text. */
function tableOf(heads, rows, numeric = [], kind = "") {
  const cell = (name, text, k) => node(name, numeric.includes(k) ? { class: "n" } : {}, text instanceof Node ? text : String(text ?? ""));
  const body = node("tbody", {}, ...rows.map((row) => node("tr", row.dead ? { class: "dead" } : {}, ...row.map((text, k) => cell("td", text, k)))));
  return node("div", { class: "wide", tabindex: "0" }, node("table", { class: kind }, node("thead", {}, node("tr", {}, ...heads.map((text, k) => cell("th", text, k)))), body));
}

/** A score with its band, as in the table of scans. */
function badge(score, band) {
  const kinds = ["good", "below standard", "warning", "serious"], k = kinds.indexOf(band);
  return node("span", { class: `badge ${k < 0 ? "qx" : `q${k}`}` }, score === null ? "not computed" : `${score.toFixed(2)} ${band}`);
}

const legend = (items) => node("div", { class: "legend" }, ...items.map(([kind, text]) => node("span", {}, node("i", { class: kind }), text)));

/** The three curves of one pixel in a chart of the given width. */
function pixelChart(record, curve, k, width, what, bare) {
  const n = curve.mean.n, mean = rowOf(curve.values.mean, n, k);
  const made = chart({
    width, height: bare ? 116 : 260, bare, title: `${what} of pixel ${record.pixels[k]} against frequency`,
    x: { range: record.signal, label: GHZ, second: velocityAxis(record.rest) }, y: { range: padded(curve.view), label: `${what}, K` },
  });
  const x = centres(record.signal, n[1]).map(made.x), y = (values) => values.map(made.y);
  made.plot.append(node("path", { class: "envelope", d: areaOf(x, y(rowOf(curve.values.low, n, k)), y(rowOf(curve.values.high, n, k))) }));
  made.plot.append(node("path", { class: "curve k0", d: pathOf(x, y(mean)) }));
  const bad = rowOf(record.badValues, n, k), step = made.box.w / n[1];
  bad.forEach((share, i) => {
    if (share > 0) made.plot.append(node("rect", {
      class: "badmark", x: made.box.x + i * step, y: made.box.y + made.box.h - 4, width: Math.max(1.5, step), height: 4, "fill-opacity": 0.6 + 0.4 * share }));
  });
  return made.svg;
}

/** Small charts of all pixels; one that is pressed becomes wide. */
function panels(record, name, what) {
  const curve = record.curves[name];
  curve.values = { low: unpack(curve.low), mean: unpack(curve.mean), high: unpack(curve.high) };
  return node("div", { class: "panels" }, ...record.pixels.map((pixel, k) => {
    const dead = record.dead.includes(k);
    const panel = node("button", { type: "button", class: dead ? "panel dead" : "panel", "aria-expanded": "false" },
      node("span", {}, dead ? `${pixel}: dead` : pixel), pixelChart(record, curve, k, PANEL, what, true));
    panel.addEventListener("click", () => {
      const wide = panel.getAttribute("aria-expanded") !== "true";
      panel.setAttribute("aria-expanded", String(wide));
      panel.lastChild.replaceWith(pixelChart(record, curve, k, wide ? Math.max(300, panel.clientWidth - 20) : PANEL, what, !wide));
    });
    return panel;
  }));
}

/** Curves [rows] against frequency in one chart; `kinds` are the classes of the rows. */
function curvesChart(range, rows, options) {
  const made = chart({ height: 240, x: { range, label: options.axis || GHZ }, ...options });
  for (const [values, kind] of rows) {
    const x = centres(range, values.length).map(made.x);
    made.plot.append(node("path", { class: `curve ${kind}`, d: pathOf(x, values.map(made.y)) }));
  }
  return made;
}

function skyFigures(record, width) {
  const sky = record.sky, out = [];
  if (!sky.observed) return [figure("Sky signal", nothing(sky.why), "")];
  const n = sky.observed.n, observed = unpack(sky.observed), fitted = sky.fitted ? unpack(sky.fitted) : null;
  const kinds = ["k0", "k1", "k2", "k3"], rows = [];
  for (let k = 0; k < n[0]; k++) {
    rows.push([rowOf(observed, n, k), kinds[k]]);
    if (fitted) rows.push([rowOf(fitted, n, k), `${kinds[k]} dash`]);
  }
  const range = padded(extent(rows.flatMap(([values]) => [...values])));
  const drawn = curvesChart(record.signal, rows, { width, y: { range, label: "T'_sky = S_H + T'_hot, K" }, title: "sky observed and fitted" });
  const items = sky.references.map((text, k) => [kinds[k], text]);
  if (fitted) items.push(["dash", "fitted"]);
  out.push(figure("Sky, observed and fitted", node("div", {}, drawn.svg, legend(items)),
    fitted ? "Mean over the pixels, from OFF and loads; the model is at the airmass of the ON." : `Mean over the pixels. No fit: ${sky.why}.`));
  if (fitted) {
    const rest = [];
    for (let k = 0; k < n[0]; k++) rest.push([rowOf(observed, n, k).map((v, i) => v - fitted[k * n[1] + i]), kinds[k]]);
    const spread = padded(extent([0, ...rest.flatMap(([values]) => [...values])]));
    const made = curvesChart(record.signal, rest, { width, y: { range: spread, label: "observed - fitted, K" }, title: "residual of the sky fit" });
    made.plot.append(node("line", { class: "zero", x1: made.box.x, x2: made.box.x + made.box.w, y1: made.y(0), y2: made.y(0) }));
    out.push(figure("Residual of S_H", node("div", {}, made.svg, legend(items.slice(0, n[0]))),
      "Sky observed less sky fitted, mean over the pixels, for each reference; it is the same for S_H and T'_sky. Noise around zero: the fit is good. "
      + "Structure over the band: T_atm, eta_f or the opacity table do not fit."));
  }
  if (!sky.transmission) return [...out, figure("Transmission", nothing("not corrected for the atmosphere: none was used"), "")];
  const values = unpack(sky.transmission), m = sky.transmission.n;
  const both = [[rowOf(values, m, 0), "k0"]], names = [["k0", "signal band"]];
  if (rowOf(values, m, 1).some(Number.isFinite)) { both.push([rowOf(values, m, 1), "k1"]); names.push(["k1", "image band, at the same channel"]); }
  const top = Math.min(1, extent(values)[1] * 1.08);
  const made = curvesChart(record.signal, both, { width, y: { range: [0, top || 1], label: "transmission" }, title: "transmission of both bands" });
  out.push(figure("Transmission", node("div", {}, made.svg, legend(names)), record.image
    ? `Along the line of sight of the first ON. Image band ${record.image.map((v) => v.toFixed(2)).join(" to ")} GHz.` : "Along the line of sight of the first ON."));
  return out;
}

/** An axis of pixel numbers. */
const pixelAxis = (n) => ({ range: [-0.5, n - 0.5], label: "pixel, in store order", text: (v) => (Number.isInteger(v) ? String(v) : "") });

function noiseFigure(record, width) {
  const column = (label) => record.columns.find((c) => c.label === label)?.values;
  const expected = column("rms expected"), measured = column("rms measured");
  if (!expected || !measured) return figure("Noise", nothing("not computed: L1 has no noise metrics"), "");
  const n = expected.length, all = [...expected, ...measured].filter((v) => v !== null);
  const made = chart({
    width, height: 240, title: "noise of a dump in every pixel, measured and expected",
    x: pixelAxis(n),
    y: { range: all.length ? [0, 1.35 * Math.max(...all)] : [0, 1], label: "rms of a dump, K" },
  });
  expected.forEach((v, k) => {
    if (v === null) return;
    const [low, high] = [made.y(0.9 * v), made.y(1.2 * v)], half = Math.min(9, 0.4 * made.box.w / n);
    made.plot.append(node("rect", { class: "ok", x: made.x(k) - half, width: 2 * half, y: high, height: low - high }));
    made.plot.append(node("circle", { class: "ring", cx: made.x(k), cy: made.y(v), r: 4 }));
    if (measured[k] !== null) made.plot.append(node("circle", { class: measured[k] > 1.5 * v ? "warn" : "dot", cx: made.x(k), cy: made.y(measured[k]), r: 2.6 }, node("title", {}, `${record.pixels[k]}: ${measured[k]} K, expected ${v} K`)));
  });
  return figure("Noise against the radiometer equation", made.svg, "Ring: expected from T_sys and integration time; dot: measured; shaded: 0.9 to 1.2 of the expected.");
}

function imageFigures(record, width) {
  const rows = record.dumps;
  const fall = raster(record.waterfall, { width, height: 300, x: { range: record.signal, label: GHZ }, y: { range: [rows, 0], label: "ON dump, in time" }, unit: `${record.scale}, K`, title: "waterfall of the dumps" });
  const power = raster(record.power, { width, height: 300, x: pixelAxis(record.pixels.length), y: { range: [rows, 0], label: "ON dump, in time" }, unit: "K", title: "band mean of every dump and pixel" });
  return [
    figure("Waterfall", fall.svg, `${record.scale} of the ON dumps, median over the pixels${record.corrected ? "" : "; not corrected for the atmosphere"}.`),
    figure("Band mean of the dumps", power.svg, "Mean over the band less its median in time: steps and drifts of single pixels stand out."),
  ];
}

function mapFigures(record, width) {
  const map = record.map, out = [];
  const where = map.found ? `${map.window[0].toFixed(3)} to ${map.window[1].toFixed(3)} GHz` : "the whole band (no line stands out)";
  if (!map.values) out.push(figure("Map", nothing(map.why), ""));
  else {
    const x = { range: [map.x[1], map.x[0]], label: "longitude offset, arcsec" }, y = { range: map.y, label: "latitude offset, arcsec" };
    const mirrored = (packed) => raster(packed, { width, equal: true, x, y, unit: packed === map.values ? "K km/s" : "spectra", title: "map" });
    for (const [packed, title, note] of [
      [map.values, "Integrated intensity", `${record.scale} over ${where}${map.found ? ", less the median of the rest" : ""}; cells of ${map.cell} arcsec.`],
      [map.hits, "Spectra in each cell", "Coverage by all pixels."]]) {
      const made = mirrored(packed), image = made.plot.querySelector("image"), b = made.box;
      image.setAttribute("transform", `translate(${2 * b.x + b.w} ${2 * b.y + b.h}) scale(-1 -1)`); // longitude to the left, latitude up
      out.push(figure(title, made.svg, note));
    }
  }
  if (record.coverage) {
    const track = unpack(record.coverage.track), m = record.coverage.track.n, lon = rowOf(track, m, 0), lat = rowOf(track, m, 1);
    const [dx, dy] = record.coverage.offsets;
    const px = dx.map((v) => v + lon[0]), py = dy.map((v) => v + lat[0]);
    const ex = padded(extent([...lon, ...px])), ey = padded(extent([...lat, ...py]));
    const made = chart({ width, equal: true, height: 240, title: "path of the reference beam", x: { range: [ex[1], ex[0]], label: "longitude offset, arcsec" }, y: { range: ey, label: "latitude offset, arcsec" } });
    made.plot.append(node("path", { class: "curve k0", d: pathOf(Array.from(lon, made.x), Array.from(lat, made.y)) }));
    px.forEach((v, k) => made.plot.append(node("circle", { class: record.dead.includes(k) ? "warn" : "dot k1", cx: made.x(v), cy: made.y(py[k]), r: 3 }, node("title", {}, record.pixels[k]))));
    out.push(figure("Path on the sky", made.svg, "Line: reference beam over the ON dumps; dots: the pixels at its first position (red: dead)."));
  }
  return out;
}

function pixelTable(record) {
  const columns = record.columns.filter((c) => c.values && !c.label.startsWith("rms e") && !c.label.startsWith("rms m"));
  if (record.sky.residual) columns.push({ label: "sky residual", unit: "K", values: record.sky.residual });
  const text = (v) => (v === null ? "" : Math.abs(v) >= 1000 ? v.toFixed(0) : String(Number(v.toPrecision(3))));
  const rows = record.pixels.map((name, k) => Object.assign([record.dead.includes(k) ? `${name} (dead)` : name, ...columns.map((c) => text(c.values[k]))], { dead: record.dead.includes(k) }));
  const missing = record.columns.filter((c) => !c.values).map((c) => c.label);
  const heads = ["pixel", ...columns.map((c) => (c.unit ? `${c.label}, ${c.unit}` : c.label))];
  return [tableOf(heads, rows, heads.map((_, k) => k).slice(1), "dense"), missing.length ? nothing(`not computed for this scan: ${missing.join(", ")}`) : null];
}

/** The whole page of a scan; `width` is that of a chart in a column. */
function detail(record, width) {
  record.badValues = unpack(record.bad);
  const score = record.score;
  const notes = [...record.warnings, ...record.scanFlags.map((name) => `scan flag ${name}`)];
  const facts = node("dl", {}, ...record.facts.flatMap(([label, text]) => [node("dt", {}, label), node("dd", {}, text)]));
  const checks = score.checks.map(([label, value, text, band]) => [label, badge(value, band), text]);
  const flags = record.flags.length ? tableOf(["flag", "samples", "share", "meaning"], record.flags.map(([name, n, share, meaning]) => [name, n.toLocaleString("en"), `${Number((100 * share).toPrecision(3))} %`, meaning]), [1, 2], "flags") : nothing("none");
  return [
    node("p", { class: "reason" }, badge(score.value, score.band), score.reason ? ` ${score.reason}` : ""),
    node("div", { class: "two" }, figure("Score: the least of these counts", tableOf(["check", "score", "why"], checks, [], "checks"), ""),
      figure("What it was made with", facts, notes.length ? notes.join("; ") : "No warnings.")),
    node("h2", {}, "Pixels"), ...pixelTable(record),
    node("h2", {}, `Receiver temperature T_rec (${record.sidebands}), K`), panels(record, "trec", "T_rec"),
    node("h2", {}, "System temperature T_sys, K"), panels(record, "tsys", "T_sys"),
    node("h2", {}, `Mean spectrum ${record.scale}, K${record.corrected ? "" : " (not corrected for the atmosphere)"}`), panels(record, "spectrum", record.scale),
    node("p", { class: "note" }, `Line: mean of ${Math.ceil(record.shape[0] / record.bad.n[1])} channels; shaded: least to largest; red: bad channels. Press a panel to enlarge it.`),
    node("h2", {}, "Atmosphere and noise"), node("div", { class: "two" }, ...skyFigures(record, width), noiseFigure(record, width)),
    node("h2", {}, "Dumps and map"), node("div", { class: "two" }, ...imageFigures(record, width), ...mapFigures(record, width)),
    node("h2", {}, "Flags"), flags,
  ].filter((part) => part !== null);
}
