/** The findings of one recording: bars of probability with a mark at each threshold, and the result in words. */

import { el, fresh, percent, plural } from "./dom.js";

const RHYTHMS = new Set(["NSR", "SA", "SB", "STach", "AF", "AFL", "Brady", "PR"]);
export const isRhythm = (finding) => RHYTHMS.has(finding.abbreviation);
export const isNormal = (finding) => finding.abbreviation === "NSR";

/** Positive findings: the rhythm first, then everything else, each by probability. */
export const positiveOf = (findings) => findings.filter((f) => f.positive)
  .sort((a, b) => isRhythm(b) - isRhythm(a) || b.probability - a.probability);

export function findingsTable(findings) {
  const found = positiveOf(findings.filter((f) => f.evaluable));
  const negative = findings.filter((f) => f.evaluable && !f.positive).sort((a, b) => b.probability - a.probability);
  const others = findings.filter((f) => !f.evaluable).sort((a, b) => b.probability - a.probability);
  const title = fresh("findings");
  return el("section", { class: "findings", "aria-labelledby": title },
    el("h3", { id: title }, "Findings"),
    el("p", { class: "fine key" },
      el("span", { class: "sample bar", "aria-hidden": "true" }), "probability ",
      el("span", { class: "sample mark", "aria-hidden": "true" }), "threshold of each finding"),
    table(found),
    negative.length > 0 && el("details", { class: "negatives" },
      el("summary", {}, `${plural(negative.length, "finding")} negative`),
      table(negative)),
    others.length > 0 && el("details", {},
      el("summary", {}, `${plural(others.length, "finding")} not evaluable`),
      el("p", { class: "fine" }, "Training had too few of these; their figures are shown but never count."),
      table(others)),
  );
}

function table(findings) {
  const head = ["Finding", "", "Probability", "Threshold", "Result"];
  return el("table", {},
    el("thead", {}, el("tr", {}, head.map((text) => (text ? el("th", { scope: "col" }, text) : el("td", {}))))),
    el("tbody", {}, findings.map(row)));
}

function row(finding) {
  const status = finding.status;
  const normal = finding.positive && isNormal(finding);
  return el("tr", { class: normal ? "normal" : status.replace(" ", "-") },
    el("th", { scope: "row" }, finding.name, " ", el("span", { class: "fine" }, finding.abbreviation.replace("|", ", "))),
    el("td", { class: "bar-cell" }, bar(finding)),
    el("td", { class: "number" }, percent(finding.probability)),
    el("td", { class: "number fine" }, percent(finding.threshold)),
    el("td", { class: "result" }, status));
}

/** Lengths are set on the element, because the page's own policy allows no style attribute. */
function bar({ probability, threshold }) {
  const length = el("span", { class: "length" });
  const mark = el("span", { class: "mark" });
  length.style.width = `${100 * probability}%`;
  mark.style.left = `${100 * threshold}%`;
  return el("span", { class: "bar", "aria-hidden": "true" }, length, mark);
}
