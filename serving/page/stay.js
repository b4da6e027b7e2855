/** The risk over the hours of a stay, what moved it and the vital signs below, and one hour at a time read out. */

import { el, fresh, percent, svg } from "./dom.js";
import { explainer, shade, signed, strongest } from "./explain.js";
import { printAnswer, savePicture } from "./export.js";

const DEMOGRAPHIC = new Set(["Age", "Gender", "Unit1", "Unit2", "HospAdmTime", "ICULOS"]);
export const VARYING = 34;
export const unmeasured = (hour) => hour.missing.filter((name) => !DEMOGRAPHIC.has(name));

/** Share of the hours of the Challenge's public training sets with a SepsisLabel of 1: 27,916 of 1,552,210. */
const USUAL_RISK = 27916 / 1552210;

const EXPLAINED_HOURS = 168;
const HEIGHT = 300;
const STRIP = 46;
const MARGIN = { top: 18, right: 16, bottom: 40, left: 52 };
const TICKS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.25];

/**
 * @param {{hours: object[], record: string, vitals?: object[]}} answer - as the server sent it
 * @param {() => Promise<object[]>} explain - asks what moved the highest risk
 */
export function stayFigure({ hours, record, vitals = [] }, explain) {
  const strips = vitals.filter((vital) => vital.values.some((value) => value !== null));
  const holder = el("div", { class: "chart" });
  const slider = el("input", {
    id: fresh("hour"), type: "range", min: "0", max: String(hours.length - 1), step: "1",
    oninput: () => choose(Number(slider.value)),
  });
  const readout = el("output", { class: "readout", for: slider.id });
  let width = 0;
  let scales = null;
  let chosen = hours.length - 1;
  let shown = null;
  const { why, reason } = explainer(explain, (explanation) => inWords(explanation, hours), (explanation) => {
    shown = explanation;
    width = 0;
    draw();
  });

  function choose(index) {
    chosen = index;
    slider.value = String(index);
    const hour = hours[index];
    slider.setAttribute("aria-valuetext", `hour ${hour.hour}, risk ${percent(hour.risk)}, ${hour.alarm ? "alarm" : "no alarm"}`);
    readout.replaceChildren(...details(hour, strips, index));
    if (scales) mark(holder, scales, hour, strips.length);
  }

  function draw() {
    if (holder.clientWidth === width || holder.clientWidth <= MARGIN.left + MARGIN.right) return;
    width = holder.clientWidth;
    scales = scalesOf(hours, width);
    holder.replaceChildren(chart(hours, scales, strips, shown));
    choose(chosen);
  }

  const point = (event) => {
    const x = event.clientX - holder.getBoundingClientRect().left;
    const hour = scales.hourAt(x);
    choose(hours.reduce((best, h, i) => (Math.abs(h.hour - hour) < Math.abs(hours[best].hour - hour) ? i : best), 0));
  };
  holder.addEventListener("pointermove", (event) => { if (event.pointerType === "mouse") point(event); });
  holder.addEventListener("click", point);
  new ResizeObserver(draw).observe(holder);
  choose(chosen);
  return el("figure", { class: "stay" },
    el("ul", { class: "fine legend" },
      ["risk", "threshold", "alarm"].map((name) => el("li", { class: name }, name))),
    holder,
    reason,
    el("div", { class: "pick" }, el("label", { for: slider.id }, "Hour"), slider),
    readout,
    el("figcaption", { class: "fine" },
      "The risk is the model's estimate that sepsis begins within the next 6 hours or has begun (Sepsis-3, as in the PhysioNet/CinC Challenge 2019). ",
      `Only ${percent(USUAL_RISK)} of the hours of that Challenge are of this kind: ${percent(hours[0].threshold)}, from which this operating point alarms, `,
      `is ${(hours[0].threshold / USUAL_RISK).toFixed(1)} times as much. Where the threshold lies is a choice between early alarms and false ones, not a diagnosis.`,
      strips.length ? " The strips under the curve show the vital signs as the model read them." : ""),
    el("div", { class: "exports" },
      hours.length <= EXPLAINED_HOURS && why,
      el("button", { class: "button small", type: "button", onclick: () => savePicture(holder.querySelector("svg"), record) }, "Save as PNG"),
      el("button", { class: "button small", type: "button", onclick: (event) => printAnswer(event.target) }, "Print or PDF")));
}

export const highestOf = (hours) => hours.reduce((a, b) => (b.risk > a.risk ? b : a));

/** The hours and variables that moved the highest risk most, and how to read them. */
function inWords({ time, channels }, hours) {
  const listed = (parts, sign) => strongest(parts.map(([name, effect]) => [name, sign * effect]))
    .map(([name, effect]) => `${name} (${signed(sign * effect)})`).join(", ");
  const parts = [time.map((part) => [`hour ${part.start}`, part.effect]), Object.entries(channels)];
  const [raised, lowered] = [1, -1].map((sign) => parts.map((each) => listed(each, sign)).filter(Boolean).join("; "));
  const moved = [raised && `raised most by ${raised}`, lowered && `lowered most by ${lowered}`].filter(Boolean).join(". It was ");
  return `The risk of hour ${highestOf(hours).hour}, the highest, was ${moved || "moved by no single part"}. The numbers are what its log odds lose `
    + "without the measurements of that hour, or without that variable throughout. The darker an hour, the more it raised the risk "
    + "(orange) or lowered it (green). This shows what the model relied on, not what causes what.";
}

/** A band for every hour that moved the highest risk, and a line at that hour. */
function bands({ time }, hours, s, bottom) {
  const most = Math.max(...time.map((part) => Math.abs(part.effect)));
  const peak = s.x(highestOf(hours).hour);
  return [
    ...time.filter((part) => part.effect !== 0).map(({ start, effect }) => svg("rect", {
      class: effect > 0 ? "moved" : "moved lowered", x: s.x(start - 0.5), y: MARGIN.top,
      width: s.x(start + 0.5) - s.x(start - 0.5), height: bottom - MARGIN.top, "fill-opacity": shade(effect, most),
    })),
    svg("path", { class: "explained-hour", d: `M${peak} ${MARGIN.top}V${bottom}` }),
  ];
}

function details(hour, strips, index) {
  const measurements = strips.filter((vital) => vital.values[index] !== null)
    .map((vital) => `${vital.name} ${shown(vital.values[index])} ${spelt(vital.unit)}`);
  const absent = unmeasured(hour);
  const measured = hour.inserted
    ? "This hour is missing from the file."
    : `${VARYING - absent.length} of ${VARYING} variables measured.`;
  return [
    el("p", {},
      el("strong", {}, `Hour ${hour.hour}: risk ${percent(hour.risk)}`),
      `, threshold ${percent(hour.threshold)}: `,
      el("strong", { class: hour.alarm ? "alarm-word" : null }, hour.alarm ? "alarm" : "no alarm"), ". ", measured),
    el("p", { class: "fine" }, absent.length ? `Not measured in this hour: ${absent.join(", ")}.` : "Everything was measured in this hour."),
    measurements.length > 0 && el("p", { class: "vitals" }, measurements.join(", ")),
  ].filter(Boolean);
}

function scalesOf(hours, width) {
  const first = hours[0].hour - 0.5;
  const last = Math.max(hours.at(-1).hour, hours[0].hour + 5) + 0.5;
  const highest = hours.reduce((most, h) => Math.max(most, h.risk), 0);
  const top = Math.min(1.02, Math.max(1.2 * highest, 2 * hours[0].threshold));
  const [w, h] = [width - MARGIN.left - MARGIN.right, HEIGHT - MARGIN.top - MARGIN.bottom];
  return {
    width, top, first, last,
    x: (hour) => MARGIN.left + ((hour - first) / (last - first)) * w,
    y: (risk) => MARGIN.top + (1 - risk / top) * h,
    hourAt: (x) => first + ((x - MARGIN.left) / w) * (last - first),
  };
}

const spelt = (unit) => unit.replace("degC", "°C");
const shown = (value) => `${+value.toFixed(1)}`;

function chart(hours, s, strips, shown) {
  const height = HEIGHT + strips.length * STRIP;
  const threshold = hours[0].threshold;
  const line = hours.map((h, i) => `${i ? "L" : "M"}${s.x(h.hour).toFixed(1)} ${s.y(h.risk).toFixed(1)}`).join("");
  const size = hours.length > 100 ? 1.6 : 2.8;
  const label = `Risk of sepsis over ${hours.length} hours against the threshold of ${percent(threshold)}; the slider below reads every hour`;
  return svg("svg", { width: s.width, height, viewBox: `0 0 ${s.width} ${height}`, role: "img", "aria-label": label },
    runs(hours).map(([a, b]) => svg("rect", {
      class: "alarm-span", x: s.x(a - 0.5), y: MARGIN.top, width: s.x(b + 0.5) - s.x(a - 0.5), height: s.y(0) - MARGIN.top,
    })),
    shown && bands(shown, hours, s, strips.length ? height : s.y(0)),
    axes(s),
    svg("path", { class: "threshold-line", d: `M${MARGIN.left} ${s.y(threshold)}H${s.width - MARGIN.right}` }),
    svg("path", { class: "risk-line", d: line }),
    hours.map((h) => (h.alarm ? diamond(s.x(h.hour), s.y(h.risk), 1.7 * size) : svg("circle", {
      class: h.inserted ? "risk-dot hollow" : "risk-dot", cx: s.x(h.hour), cy: s.y(h.risk), r: size,
    }))),
    svg("text", { class: "threshold-text", x: MARGIN.left + 6, y: s.y(threshold) - 6 }, `threshold ${percent(threshold)}`),
    strips.map((vital, i) => strip(vital, hours, s, HEIGHT + i * STRIP, shown?.channels[vital.name])),
    svg("g", { class: "cursor" }));
}

/** One vital sign: its values with lines between neighbouring hours, its range at the left, its name and effect above. */
function strip({ name, unit, values }, hours, s, top, effect) {
  const numbers = values.filter((value) => value !== null);
  const [low, high] = [Math.min(...numbers), Math.max(...numbers)];
  const [upper, lower] = [top + 23, top + STRIP - 5];
  const y = (value) => (high > low ? lower - ((value - low) / (high - low)) * (lower - upper) : (upper + lower) / 2);
  let d = "";
  const dots = [];
  values.forEach((value, i) => {
    if (value === null) return;
    const follows = i && values[i - 1] !== null && hours[i - 1].hour === hours[i].hour - 1;
    d += `${follows ? "L" : "M"}${s.x(hours[i].hour).toFixed(1)} ${y(value).toFixed(1)}`;
    const alone = !follows && (values[i + 1] ?? null) === null;
    if (alone) dots.push(svg("circle", { class: "vital-dot", cx: s.x(hours[i].hour), cy: y(value), r: 2 }));
  });
  return svg("g", { class: "vital", "data-name": name },
    svg("path", { class: "rule", d: `M${MARGIN.left} ${top + 4}H${s.width - MARGIN.right}` }),
    svg("path", { class: "vital-line", d }),
    dots,
    svg("text", { x: MARGIN.left, y: top + 16 }, `${name} (${spelt(unit)})`, effect !== undefined && svg("tspan", { class: effect < 0 ? "moving lowered" : "moving" }, ` ${signed(effect)}`)),
    high > low && svg("text", { x: MARGIN.left - 8, y: upper + 4, "text-anchor": "end" }, shown(high)),
    svg("text", { x: MARGIN.left - 8, y: (high > low ? lower : (upper + lower) / 2) + 4, "text-anchor": "end" }, shown(low)));
}

function axes(s) {
  const step = TICKS.find((t) => s.top / t <= 6) ?? 0.25;
  const levels = Array.from({ length: Math.floor(s.top / step + 1e-9) + 1 }, (_, i) => i * step);
  const every = [1, 2, 4, 6, 12, 24, 48].find((n) => ((s.width - MARGIN.left) / (s.last - s.first)) * n > 34) ?? 96;
  const hours = [];
  for (let hour = Math.ceil(s.first / every) * every; hour <= s.last; hour += every) hours.push(hour);
  const digits = step < 0.01 ? 1 : 0;
  return svg("g", { class: "axes" },
    levels.map((level) => [
      svg("path", { class: level ? "rule" : "rule base", d: `M${MARGIN.left} ${s.y(level)}H${s.width - MARGIN.right}` }),
      svg("text", { x: MARGIN.left - 8, y: s.y(level) + 4, "text-anchor": "end" }, `${(100 * level).toFixed(digits)} %`),
    ]),
    hours.map((hour) => svg("text", { x: s.x(hour), y: HEIGHT - MARGIN.bottom + 18, "text-anchor": "middle" }, `${hour}`)),
    svg("text", { x: (s.width + MARGIN.left - MARGIN.right) / 2, y: HEIGHT - 4, "text-anchor": "middle" }, "hours since ICU admission"));
}

const diamond = (x, y, r) => svg("path", { class: "alarm-mark", d: `M${x} ${y - r}l${r} ${r}l-${r} ${r}l-${r} -${r}z` });

/** First and last hour of every run of alarms. */
function runs(hours) {
  const found = [];
  hours.forEach((h, i) => {
    if (!h.alarm) return;
    if (i && hours[i - 1].alarm) found.at(-1)[1] = h.hour;
    else found.push([h.hour, h.hour]);
  });
  return found;
}

function mark(holder, s, hour, strips) {
  const bottom = strips ? HEIGHT + strips * STRIP : s.y(0);
  holder.querySelector(".cursor").replaceChildren(
    svg("path", { d: `M${s.x(hour.hour)} ${MARGIN.top}V${bottom}` }),
    svg("circle", { cx: s.x(hour.hour), cy: s.y(hour.risk), r: 6 }));
}
