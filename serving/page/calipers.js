/** Two calipers on a tracing: each is a point that is dragged, or moved by the arrow keys, with its lines of time and voltage. */

import { svg } from "./dom.js";

const STEP = { ms: 5, mv: 0.05 };
const LARGE = 10;
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** Where calipers begin: seconds from the left edge of the tracing, and millimetres from the top of the paper. */
export const begin = () => [{ seconds: 1, y: 12 }, { seconds: 2, y: 22 }];

/** What lies between two calipers, in words; the rate is that of beats which lie so far apart. */
export function between([a, b], { gain }) {
  const ms = Math.round(1000 * Math.abs(b.seconds - a.seconds));
  const mv = Math.abs(b.y - a.y) / gain;
  return `Between the calipers: ${ms} ms${ms >= 200 ? ` (${Math.round(60000 / ms)}/min)` : ""}, ${mv.toFixed(2)} mV.`;
}

/**
 * Draw two calipers.
 * @param {{seconds: number, y: number}[]} points - they are changed in place
 * @param {{left: number, right: number, height: number, speed: number, gain: number}} paper - in millimetres
 * @param {() => void} moved
 */
export function calipers(points, paper, moved) {
  return points.map((point, i) => caliper(point, "AB"[i], paper, moved));
}

function caliper(point, name, { left, right, height, speed, gain }, moved) {
  const upright = svg("path", {});
  const level = svg("path", {});
  const handle = svg("circle", { class: "handle", r: 1.8 });
  const reach = svg("circle", { class: "reach", r: 6 });
  const label = svg("text", { "text-anchor": "middle" }, name);
  const node = svg("g", {
    class: "caliper", role: "slider", tabindex: "0", "aria-label": `Caliper ${name}; arrow keys move it, with Shift further`,
    "aria-valuemin": "0", "aria-valuemax": String(Math.round((1000 * (right - left)) / speed)),
    onpointerdown: (event) => { event.preventDefault(); node.focus(); node.setPointerCapture(event.pointerId); },
    onpointermove: (event) => { if (node.hasPointerCapture(event.pointerId)) follow(event); },
    onkeydown: press,
  }, upright, level, handle, reach, label);

  function follow(event) {
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(node.ownerSVGElement.getScreenCTM().inverse());
    set((at.x - left) / speed, at.y);
  }

  function press(event) {
    const arrow = ARROWS[event.key];
    if (!arrow) return;
    event.preventDefault();
    const times = event.shiftKey ? LARGE : 1;
    set(point.seconds + (arrow[0] * times * STEP.ms) / 1000, point.y + arrow[1] * times * STEP.mv * gain);
  }

  function set(seconds, y) {
    point.seconds = Math.min(Math.max(seconds, 0), (right - left) / speed);
    point.y = Math.min(Math.max(y, 0), height);
    place();
    moved();
  }

  function place() {
    const x = left + point.seconds * speed;
    upright.setAttribute("d", `M${x} 0V${height}`);
    level.setAttribute("d", `M0 ${point.y}H${right}`);
    for (const circle of [handle, reach]) { circle.setAttribute("cx", x); circle.setAttribute("cy", point.y); }
    label.setAttribute("x", Math.min(x + 4, right - 2));
    label.setAttribute("y", Math.max(point.y - 2.5, 4));
    node.setAttribute("aria-valuenow", String(Math.round(1000 * point.seconds)));
    node.setAttribute("aria-valuetext", `${Math.round(1000 * point.seconds)} ms from the left, ${(-point.y / gain).toFixed(2)} mV from the top`);
  }

  set(point.seconds, point.y);
  return node;
}
