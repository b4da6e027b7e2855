/** The tracing on ECG paper, 25 mm/s and 10 mm/mV at first; one unit of the drawing is one millimetre of the paper. */

import { begin, between, calipers } from "./calipers.js";
import { el, fresh, setting, svg } from "./dom.js";
import { explainer, shade, signed, strongest } from "./explain.js";
import { printAnswer, savePicture } from "./export.js";

const SPEEDS = [25, 50];
const GAINS = [5, 10, 20];
const ZOOMS = [1, 1.5, 2, 3];
const USUAL = { speed: 25, gain: 10 };
const PULSE = 10;
const SECONDS = 10;
const NARROWEST = 52;
const RHYTHM = "II";
const widthAt = (speed) => PULSE + SECONDS * speed;

const LAYOUTS = {
  "3 × 4 and rhythm": { rows: 4, pitch: 30, top: 20, bottom: 15, cells: threeByFour },
  "12 rows": { rows: 12, pitch: 20, top: 15, bottom: 15, cells: twelveRows },
};

const EXPLAINED_SECONDS = 60;

/**
 * @param {string} record - its name, for the picture
 * @param {() => Promise<object[]>} [explain] - asks what moved the findings; each explanation as `ibt predict --explain` has it
 * @param {{sampling_rate: number, scale: number, seconds: number, leads: string[], missing: string[],
 *          values: (number|null)[][]}} signal - integers; millivolts are value times scale
 */
export function ecgFigure(signal, record, explain) {
  let layout = Object.keys(LAYOUTS)[0];
  let start = 0;
  let zoom = 1;
  let points = null;
  const scale = { ...USUAL };
  const windows = Math.max(1, Math.ceil(signal.seconds / SECONDS - 1e-9));
  const sheet = el("div", { class: "sheet", role: "region", tabindex: "0", "aria-label": "ECG tracing; scrolls sideways where it is wider than the screen" });
  const place = el("span", { class: "place", role: "status" });
  const earlier = el("button", { class: "button small", type: "button", onclick: () => turn(-1) }, "Earlier");
  const later = el("button", { class: "button small", type: "button", onclick: () => turn(1) }, "Later");

  const measured = el("output", { class: "measured", hidden: true });
  const measure = el("button", { class: "button small", type: "button", "aria-pressed": "false", onclick: toggle }, "Calipers");

  let shown = null;
  const { why, outputs, reason } = explainer(explain, inWords, (explanation) => { shown = explanation; draw(); });

  function draw() {
    const seconds = Math.min(SECONDS, signal.seconds - start);
    place.textContent = `${start} to ${+(start + seconds).toFixed(1)} s of ${+signal.seconds.toFixed(1)} s`;
    earlier.disabled = start === 0;
    later.disabled = start + SECONDS >= signal.seconds;
    const drawing = paper(signal, LAYOUTS[layout], start, seconds, scale, shown);
    const { width, height } = drawing.viewBox.baseVal;
    const times = (zoom * width) / widthAt(USUAL.speed);
    drawing.style.width = `${100 * times}%`;
    drawing.style.minWidth = `${NARROWEST * times}rem`;
    const tell = () => { measured.textContent = between(points, scale); };
    if (points) drawing.append(...calipers(points, { left: PULSE, right: width, height, ...scale }, tell));
    drawing.setAttribute("role", points ? "group" : "img"); // what is inside an image cannot be operated
    sheet.replaceChildren(drawing);
    note.textContent = `${scale.speed} mm/s, ${scale.gain} mm/mV: a large square is ${5 / scale.speed} s wide and ${5 / scale.gain} mV high. `;
  }

  function toggle() {
    points = points ? null : begin();
    measured.hidden = !points;
    measure.setAttribute("aria-pressed", String(points !== null));
    draw();
  }

  function turn(by) {
    start = Math.min(windows - 1, Math.max(0, start / SECONDS + by)) * SECONDS;
    draw();
  }

  const note = el("span", {});
  const choose = (name) => { layout = name; draw(); };
  draw();
  return el("figure", { class: "ecg" },
    el("div", { class: "tools" },
      choices("Layout of the leads", Object.keys(LAYOUTS), layout, choose),
      setting("Speed", SPEEDS, scale.speed, "mm/s", (value) => { scale.speed = value; draw(); }),
      setting("Gain", GAINS, scale.gain, "mm/mV", (value) => { scale.gain = value; draw(); }),
      setting("Zoom", ZOOMS, zoom, "×", (value) => { zoom = value; draw(); }),
      measure,
      explain && signal.seconds < EXPLAINED_SECONDS && why,
      outputs,
      windows > 1 && el("div", { class: "turn" }, earlier, place, later),
      el("div", { class: "exports" },
        el("button", { class: "button small", type: "button", onclick: () => savePicture(sheet.querySelector("svg"), record) }, "Save as PNG"),
        el("button", { class: "button small", type: "button", onclick: (event) => printAnswer(event.target) }, "Print or PDF"))),
    sheet,
    reason,
    measured,
    el("figcaption", { class: "fine" },
      note,
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

/** The strongest parts of an explanation, and how to read it. */
function inWords({ output, time, channels }) {
  const most = strongest(time.map((part) => [`${part.start} to ${part.end} s`, part.effect]));
  const leads = strongest(Object.entries(channels));
  if (!most.length && !leads.length) return `No single part raised ${output}.`;
  const parts = [...most, ...leads].map(([name, effect]) => `${name} (${signed(effect)})`).join(", ");
  return `${output} was raised most by ${parts}. The numbers are what its log odds lose when a straight line replaces that stretch of all leads, `
    + "or that lead throughout. The darker a stretch, the more it raised the finding. This shows what the model relied on, not what causes what.";
}

/** A band of the whole height for every stretch that raised the finding; in both layouts time runs from left to right. */
function bands({ time }, start, seconds, { speed }, height) {
  const highest = Math.max(...time.map((part) => part.effect));
  return time.filter((part) => part.effect > 0 && part.end > start && part.start < start + seconds).map((part) => {
    const from = Math.max(part.start, start);
    const until = Math.min(part.end, start + seconds);
    return svg("rect", { class: "moved", x: PULSE + (from - start) * speed, y: 0, width: (until - from) * speed, height,
      "fill-opacity": shade(part.effect, highest) });
  });
}

function paper(signal, layout, start, seconds, scale, shown) {
  const width = widthAt(scale.speed);
  const room = Math.max(1, scale.gain / USUAL.gain);
  const height = room * (layout.top + (layout.rows - 1) * layout.pitch + layout.bottom);
  const baseline = (row) => room * (layout.top + row * layout.pitch);
  const moving = new Map(shown ? strongest(Object.entries(shown.channels)) : []);
  const label = `12-lead ECG, ${+seconds.toFixed(1)} seconds, leads ${signal.leads.join(", ")}`;
  return svg("svg", { class: "paper", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label },
    svg("path", { class: "fine-grid", d: grid(width, height, 1) }),
    svg("path", { class: "coarse-grid", d: grid(width, height, 5) }),
    shown && bands(shown, start, seconds, scale, height),
    Array.from({ length: layout.rows }, (_, row) =>
      svg("path", { class: "trace", d: `M2 ${baseline(row)}h1v-${scale.gain}h5v${scale.gain}h1` })),
    layout.cells(signal.leads, seconds).map((cell) => lead(signal, cell, start, baseline(cell.row), scale, moving)));
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

function lead(signal, { name, row, from, seconds }, start, baseline, scale, moving) {
  const x = PULSE + from * scale.speed;
  const absent = signal.missing.includes(name);
  const first = Math.round((start + from) * signal.sampling_rate);
  const last = Math.round((start + from + seconds) * signal.sampling_rate);
  const values = signal.values[signal.leads.indexOf(name)].slice(first, last + 1);
  return svg("g", { "data-lead": name, "data-row": row },
    from > 0 && svg("path", { class: "separator", d: `M${x} ${baseline - 3}v6` }),
    !absent && svg("path", { class: "trace", d: trace(values, signal, x, baseline, scale) }),
    svg("text", { x: x + 1.5, y: baseline - 8.5, class: moving.has(name) ? "moving" : null },
      absent ? `${name} (no signal)` : moving.has(name) ? `${name} ${signed(moving.get(name))}` : name));
}

function trace(values, { sampling_rate, scale: millivolts }, x0, baseline, { speed, gain }) {
  const dx = speed / sampling_rate;
  let d = "";
  let pen = "M";
  values.forEach((value, i) => {
    if (value === null) { pen = "M"; return; }
    d += `${pen}${(x0 + i * dx).toFixed(2)} ${(baseline - value * millivolts * gain).toFixed(2)}`;
    pen = "L";
  });
  return d;
}
