/** Makers of elements: text goes in as text, so nothing a file contains can become markup. */

const SVG = "http://www.w3.org/2000/svg";

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(2).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

export const el = (name, attributes = {}, ...children) =>
  filled(document.createElement(name), attributes, children);

export const svg = (name, attributes = {}, ...children) =>
  filled(document.createElementNS(SVG, name), attributes, children);

let count = 0;
export const fresh = (prefix) => `${prefix}-${++count}`;

/** A list to choose from with its label; `change` gets the chosen value. */
export function setting(label, values, chosen, unit, change) {
  const id = fresh("setting");
  return el("span", { class: "setting" },
    el("label", { for: id }, label),
    el("select", { id, onchange: (event) => change(values[event.target.selectedIndex]) },
      values.map((value) => el("option", { value, selected: value === chosen }, `${value} ${unit}`.trim()))));
}

/** A probability for people: 0.0824 is "8.2 %"; what is not zero never reads as zero. */
export function percent(p) {
  if (p > 0 && p < 0.001) return "< 0.1 %";
  if (p < 1 && p > 0.999) return "> 99.9 %";
  return `${(100 * p).toFixed(1)} %`;
}

export const plural = (n, one, many = `${one}s`) => `${n} ${n === 1 ? one : many}`;

/** A sentence, with one full stop and a capital letter unless it starts with a name such as "aVR". */
export function sentence(text) {
  const whole = text.trim().replace(/\.+$/, "");
  const capital = /^[a-z][a-z-]*(\s|$)/.test(whole) ? whole[0].toUpperCase() + whole.slice(1) : whole;
  return `${capital}.`;
}

/** Rising whole numbers as spans: [1, 2, 3, 7] is "1 to 3, 7". */
export function spans(numbers) {
  const parts = [];
  for (const n of numbers) {
    const last = parts.at(-1);
    if (last && n === last[1] + 1) last[1] = n;
    else parts.push([n, n]);
  }
  return parts.map(([a, b]) => (a === b ? `${a}` : `${a} to ${b}`)).join(", ");
}
