/** The tracing on ECG paper: 25 mm/s and 10 mm/mV; one unit of the drawing is one millimetre of the paper. */

import { el, fresh, svg } from "./dom.js";
import { savePicture } from "./export.js";

const MM_PER_SECOND = 25;
const MM_PER_MV = 10;
const PULSE = 10;
const SECONDS = 10;
const WIDTH = PULSE + SECONDS * MM_PER_SECOND;
const RHYTHM = "II";

const LAYOUTS = {
  "3 × 4 and rhythm": { rows: 4, pitch: 30, top: 20, bottom: 15, cells: threeByFour },
  "12 rows": { rows: 12, pitch: 20, top: 15, bottom: 15, cells: twelveRows },
};

/**
 * @param {string} record - its name, for the picture
 * @param {{sampling_rate: number, scale: number, seconds: number, leads: string[], missing: string[],
 *          values: (number|null)[][]}} signal - integers; millivolts are value times scale
 */
export function ecgFigure(signal, record) {
  let layout = Object.keys(LAYOUTS)[0];
  let start = 0;
  const windows = Math.max(1, Math.ceil(signal.seconds / SECONDS - 1e-9));
  const sheet = el("div", { class: "sheet", role: "region", tabindex: "0", "aria-label": "ECG tracing; scrolls sideways where it is wider than the screen" });
  const place = el("span", { class: "place", role: "status" });
  const earlier = el("button", { class: "button small", type: "button", onclick: () => turn(-1) }, "Earlier");
  const later = el("button", { class: "button small", type: "button", onclick: () => turn(1) }, "Later");

  function draw() {
    const seconds = Math.min(SECONDS, signal.seconds - start);
    place.textContent = `${start} to ${+(start + seconds).toFixed(1)} s of ${+signal.seconds.toFixed(1)} s`;
    earlier.disabled = start === 0;
    later.disabled = start + SECONDS >= signal.seconds;
    sheet.replaceChildren(paper(signal, LAYOUTS[layout], start, seconds));
  }

  function turn(by) {
    start = Math.min(windows - 1, Math.max(0, start / SECONDS + by)) * SECONDS;
    draw();
  }

  const choose = (name) => { layout = name; draw(); };
  draw();
  return el("figure", { class: "ecg" },
    el("div", { class: "tools" },
      choices("Layout of the leads", Object.keys(LAYOUTS), layout, choose),
      windows > 1 && el("div", { class: "turn" }, earlier, place, later),
      el("button", { class: "button small", type: "button", onclick: () => savePicture(sheet.querySelector("svg"), record) }, "Save as PNG")),
    sheet,
    el("figcaption", { class: "fine" },
      "25 mm/s, 10 mm/mV: a large square is 0.2 s wide and 0.5 mV high. ",
      `Shown at ${signal.sampling_rate} Hz before any filter, medians removed.`,
      signal.missing.length ? ` Without signal: ${signal.missing.join(", ")}.` : ""),
  );
}

function choices(legend, names, chosen, choose) {
  const group = fresh("choice");
  return el("fieldset", { class: "choices" },
    el("legend", { class: "unseen" }, legend),
    names.map((name) => el("label", {},
      el("input", { type: "radio", name: group, value: name, checked: name === chosen, onchange: () => choose(name) }),
      el("span", {}, name))));
}

function paper(signal, layout, start, seconds) {
  const height = layout.top + (layout.rows - 1) * layout.pitch + layout.bottom;
  const baseline = (row) => layout.top + row * layout.pitch;
  const label = `12-lead ECG, ${+seconds.toFixed(1)} seconds, leads ${signal.leads.join(", ")}`;
  return svg("svg", { class: "paper", viewBox: `0 0 ${WIDTH} ${height}`, role: "img", "aria-label": label },
    svg("path", { class: "fine-grid", d: grid(WIDTH, height, 1) }),
    svg("path", { class: "coarse-grid", d: grid(WIDTH, height, 5) }),
    Array.from({ length: layout.rows }, (_, row) =>
      svg("path", { class: "trace", d: `M2 ${baseline(row)}h1v-${MM_PER_MV}h5v${MM_PER_MV}h1` })),
    layout.cells(signal.leads, seconds).map((cell) => lead(signal, cell, start, baseline(cell.row))));
}

function grid(width, height, step) {
  let d = "";
  for (let x = 0; x <= width; x += step) d += `M${x} 0V${height}`;
  for (let y = 0; y <= height; y += step) d += `M0 ${y}H${width}`;
  return d;
}

/** Three rows of four leads, each column a quarter of the time, and the rhythm strip throughout. */
function threeByFour(leads, seconds) {
  const part = seconds / 4;
  const cells = leads.map((name, i) =>
    ({ name, row: i % 3, from: part * Math.floor(i / 3), seconds: part }));
  return [...cells, { name: RHYTHM, row: 3, from: 0, seconds }];
}

function twelveRows(leads, seconds) {
  return leads.map((name, row) => ({ name, row, from: 0, seconds }));
}

function lead(signal, { name, row, from, seconds }, start, baseline) {
  const x = PULSE + from * MM_PER_SECOND;
  const absent = signal.missing.includes(name);
  const first = Math.round((start + from) * signal.sampling_rate);
  const last = Math.round((start + from + seconds) * signal.sampling_rate);
  const values = signal.values[signal.leads.indexOf(name)].slice(first, last + 1);
  return svg("g", { "data-lead": name, "data-row": row },
    from > 0 && svg("path", { class: "separator", d: `M${x} ${baseline - 3}v6` }),
    !absent && svg("path", { class: "trace", d: trace(values, signal, x, baseline) }),
    svg("text", { x: x + 1.5, y: baseline - 8.5 }, absent ? `${name} (no signal)` : name));
}

function trace(values, { sampling_rate, scale }, x0, baseline) {
  const dx = MM_PER_SECOND / sampling_rate;
  let d = "";
  let pen = "M";
  values.forEach((value, i) => {
    if (value === null) { pen = "M"; return; }
    d += `${pen}${(x0 + i * dx).toFixed(2)} ${(baseline - value * scale * MM_PER_MV).toFixed(2)}`;
    pen = "L";
  });
  return d;
}
