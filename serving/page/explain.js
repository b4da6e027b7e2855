/** Asks the server once what moved an answer, then shows and hides it. */

import { el, setting } from "./dom.js";

/**
 * @param {() => Promise<object[]>} explain - each explanation as `ibt predict --explain` has it
 * @param {(explanation: object) => string} inWords - how to read one of them
 * @param {(explanation: object|null) => void} draw - is called when another one is shown, or none
 * @returns {{why: Element, outputs: Element, reason: Element}} a button, a choice among several findings, a sentence
 */
export function explainer(explain, inWords, draw) {
  const reason = el("p", { class: "reason", role: "status", hidden: true });
  const outputs = el("span", { class: "setting" });
  const why = el("button", { class: "button small", type: "button", "aria-pressed": "false", onclick: toggle }, "Explain");
  let explanations = null;
  let shown = null;

  async function toggle() {
    if (shown) return show(null);
    why.disabled = true;
    reason.hidden = false;
    reason.textContent = "Asking the server which parts moved this answer…";
    try {
      explanations ??= await explain();
      show(explanations[0]);
    } catch (error) {
      reason.textContent = `There is no explanation: ${error.message}`;
    }
    why.disabled = false;
    why.focus();
  }

  function show(explanation) {
    shown = explanation;
    why.setAttribute("aria-pressed", String(shown !== null));
    reason.hidden = !shown;
    const names = (explanations ?? []).map((each) => each.output);
    outputs.replaceChildren(...(shown && names.length > 1
      ? setting("Finding", names, shown.output, "", (name) => show(explanations.find((each) => each.output === name))).childNodes
      : []));
    if (shown) reason.textContent = inWords(shown);
    draw(shown);
  }

  return { why, outputs, reason };
}

/** The parts with the greatest effects above zero, as pairs of name and effect. */
export const strongest = (parts, most = 3) => parts.filter(([, effect]) => effect > 0).sort((a, b) => b[1] - a[1]).slice(0, most);

/** An effect with its sign: +0.31 or −0.12. */
export const signed = (effect) => `${effect < 0 ? "−" : "+"}${Math.abs(effect).toFixed(2)}`;

/** Opacity of the shade of a part, by the greatest effect of all. */
export const shade = (effect, highest) => (0.05 + 0.4 * (Math.abs(effect) / highest)).toFixed(3);
