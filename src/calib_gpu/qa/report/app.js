// The page: table of scans (sort, find), plots over the night, and the scan that the address names (#scan_025650).

const byId = (id) => document.getElementById(id);
const night = JSON.parse(byId("night").textContent).scans;
const body = document.querySelector("#scans tbody");
const rows = [...body.rows];

/** Sort the table by a column; empty cells come last in both directions. */
function sortBy(button) {
  const head = button.closest("th"), column = head.cellIndex, numeric = button.dataset.kind === "number";
  const down = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down > 0 ? "ascending" : "descending");
  const key = (row) => row.cells[column].dataset.value;
  rows.sort((a, b) => {
    const [u, v] = [key(a), key(b)];
    if (u === "" || v === "") return (u === "") - (v === "");
    return down * (numeric ? Number(u) - Number(v) : u.localeCompare(v, "en", { numeric: true }));
  });
  body.append(...rows);
}

/** Show the rows that hold all words of the text. */
function find(text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const row of rows) {
    const there = row.textContent.toLowerCase();
    row.hidden = !words.every((word) => there.includes(word));
    shown += row.hidden ? 0 : 1;
  }
  byId("found").textContent = words.length ? `${shown} of ${rows.length}` : "";
}

/** Times with air on both sides, five minutes at least. */
function timeRange([lo, hi]) {
  const air = Math.max(0.04 * (hi - lo), 5 / 60);
  return [lo - air, hi + air];
}

/** One quantity over the night: a point a scan, a link each; `ends` gives a bar. */
function nightChart(points, bands, width, label, title) {
  const first = Math.floor(Math.min(...points.map((p) => p.mjd)));
  const hours = (p) => 24 * (p.mjd - first);
  const made = chart({
    width, height: 250, title, y: { range: padded(extent(points.flatMap((p) => [p.value, ...p.ends]))), label },
    x: { range: timeRange(extent(points.map(hours))), label: "UTC", ticks: timeTicks, text: clock },
  });
  for (const p of points) {
    const x = made.x(hours(p)), kind = `k${bands.indexOf(p.band) % 4}`;
    const link = node("a", { svg: true, href: `#${p.id}`, "aria-label": `${p.id}: ${p.value}` }, node("title", {}, `${p.id}: ${p.value}`));
    if (p.ends.every(Number.isFinite)) link.append(node("line", { class: `bar ${kind}`, x1: x, x2: x, y1: made.y(p.ends[0]), y2: made.y(p.ends[1]) }));
    link.append(node("circle", { class: p.odd ? "warn" : `dot ${kind}`, cx: x, cy: made.y(p.value), r: points.length > 150 ? 2 : 3.5 }));
    made.plot.append(link);
  }
  return made.svg;
}

function nightPlots() {
  const place = byId("plots"), width = columnWidth(place);
  const bands = [...new Set(night.map((scan) => scan.band))];
  const timed = night.filter((scan) => scan.mjd !== null);
  const water = timed.filter((s) => s.pwv !== null).map((s) => ({
    ...s, value: s.pwv, ends: s.pwvErr === null ? [] : [s.pwv - s.pwvErr, s.pwv + s.pwvErr], odd: !["ok", "fixed"].includes(s.pwvStatus) }));
  const dry = night.length > 0 && night.every((s) => !s.corrected);
  const trec = timed.filter((s) => s.trec !== null).map((s) => ({ ...s, value: s.trec, ends: s.trecEnds, odd: false }));
  const names = bands.length > 1 ? legend(bands.map((band, k) => [`k${k % 4}`, band || "no band"])) : node("span", {});
  place.replaceChildren(
    figure("Water vapour", water.length ? nightChart(water, bands, width, "PWV, mm", "PWV over the night") : nothing(dry ? "No water vapour was used: not corrected for the atmosphere." : "No scan has a water vapour."),
      water.length ? "Bar: scatter over the OFFs of the scan, or the error of the fit; red: at a bound or a fallback." : ""),
    figure("Receiver temperature", node("div", {}, trec.length ? nightChart(trec, bands, width, `T_rec (${[...new Set(trec.map((s) => s.sidebands))].join(", ")}), K`, "T_rec over the night") : nothing("No scan has a T_rec."), names),
      trec.length ? "Median over the pixels; bar: least to largest." : ""),
  );
}

/** Width of a chart in a grid of one or two columns. */
function columnWidth(place) {
  const all = place.clientWidth || 640;
  return Math.max(270, (all >= 856 ? (all - 16) / 2 : all) - 22);
}

/** Links to the neighbours of a scan and back to the table. */
function neighbours(id) {
  const at = night.findIndex((scan) => scan.id === id), link = (scan, text) => node("a", { href: `#${scan.id}` }, text);
  const out = node("nav", { class: "back", "aria-label": "scans" }, node("a", { href: "#" }, "All scans"));
  if (at > 0) out.append(link(night[at - 1], `← ${night[at - 1].id}`));
  if (at >= 0 && at < night.length - 1) out.append(link(night[at + 1], `${night[at + 1].id} →`));
  return out;
}

let shown = null;

/** Show what the address names: a scan, or the table. */
function route(moveFocus) {
  let id = location.hash.slice(1);
  try { id = decodeURIComponent(id); } catch { /* not an encoded name: taken as it is */ }
  const data = byId(`data-${id}`), place = byId("detail"), top = byId("overview");
  place.hidden = !data;
  top.hidden = Boolean(data);
  shown = data ? id : null;
  if (!data) {
    place.replaceChildren();
    if (id === "failures") { const list = byId(id); if (list) { list.open = true; list.scrollIntoView(); } }
    return;
  }
  const record = JSON.parse(data.textContent);
  const heading = node("h2", { tabindex: "-1" }, [record.id, record.source, record.mode].filter(Boolean).join(" · "));
  place.replaceChildren(neighbours(id), heading);
  place.append(...detail(record, columnWidth(place)));
  if (moveFocus) {
    scrollTo(0, 0);
    heading.focus({ preventScroll: true });
  }
}

for (const button of document.querySelectorAll("#scans th button")) button.addEventListener("click", () => sortBy(button));
byId("find").addEventListener("input", (event) => find(event.target.value));
byId("find").addEventListener("keydown", (event) => {
  const first = rows.find((row) => !row.hidden && row.dataset.id);
  if (event.key === "Enter" && first) location.hash = first.dataset.id;
});
addEventListener("keydown", (event) => {
  const typing = event.target instanceof HTMLInputElement;
  if (event.key === "Escape" && shown) location.hash = "";
  else if (event.key === "/" && !typing && !shown) { event.preventDefault(); byId("find").focus(); }
});
addEventListener("hashchange", () => route(true));
let timer = 0, drawn = innerWidth;
addEventListener("resize", () => {
  clearTimeout(timer);
  timer = setTimeout(() => {
    if (innerWidth === drawn) return; // a phone's address bar changes the height alone
    drawn = innerWidth;
    if (shown) route(false);
    else nightPlots();
  }, 150);
});
nightPlots();
route(false);
document.documentElement.dataset.ready = "true";
