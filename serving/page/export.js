/** Answers as files: JSON as the server sent it, CSV for a spreadsheet, PNG of a drawing. */

import { el } from "./dom.js";

const DRAWN = ["fill", "stroke", "stroke-width", "stroke-dasharray", "stroke-linejoin", "stroke-linecap",
  "fill-opacity", "font-size", "font-weight", "font-family", "paint-order", "opacity", "text-anchor"];
const PICTURE_WIDTH = 2600;
const CAPTION = 80;

const fileName = (record, ending) => `${record.replace(/[^\p{L}\p{N}._-]+/gu, "_") || "answer"}.${ending}`;

export function save(blob, record, ending) {
  const url = URL.createObjectURL(blob);
  el("a", { href: url, download: fileName(record, ending) }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

export function saveButton(text, record, ending, blob) {
  const name = fileName(record, ending);
  return el("button", {
    class: "button small", type: "button", "aria-label": `${text}: download ${name}`, onclick: () => save(blob(), record, ending),
  }, text);
}

export const jsonOf = (answer) => new Blob([JSON.stringify(answer, null, 2)], { type: "application/json" });

/** One line per finding of a recording, or per hour of a stay. */
export function csvOf(answers) {
  const ecg = answers.every((answer) => answer.task === "arrhythmia");
  const head = ecg
    ? ["record", "code", "abbreviation", "name", "probability", "threshold", "status", "bundle", "version", "operating_point"]
    : ["record", "hour", "risk", "threshold", "alarm", "inserted", "bundle", "version", "operating_point"];
  const rows = answers.flatMap((answer) => {
    const model = { record: answer.record, bundle: answer.bundle.name, version: answer.bundle.version, operating_point: answer.operating_point };
    return (answer.findings ?? answer.hours).map((entry) => head.map((name) => cell(name in model ? model[name] : entry[name])));
  });
  return new Blob([[head.join(","), ...rows.map((row) => row.join(","))].join("\r\n"), "\r\n"], { type: "text/csv" });
}

/** A cell; what a spreadsheet would take as a formula gets an apostrophe. */
function cell(value) {
  let text = String(value ?? "");
  if (typeof value === "string" && /^[=+\-@\t\r]/.test(text)) text = `'${text}`;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** Print the article of a control alone; the browser's dialogue also saves it as PDF. */
export function printAnswer(control) {
  const article = control.closest("article");
  article.classList.add("printed");
  document.body.classList.add("prints-one");
  addEventListener("afterprint", () => {
    article.classList.remove("printed");
    document.body.classList.remove("prints-one");
  }, { once: true });
  print();
}

/** The drawing as PNG, with the look that it has on the page. */
export async function savePicture(drawing, record) {
  const copy = drawing.cloneNode(true);
  const originals = [drawing, ...drawing.querySelectorAll("*")];
  [copy, ...copy.querySelectorAll("*")].forEach((node, i) => {
    const look = getComputedStyle(originals[i]);
    for (const name of DRAWN) node.setAttribute(name, look.getPropertyValue(name));
  });
  const { width, height } = drawing.viewBox.baseVal;
  const scale = PICTURE_WIDTH / width;
  copy.setAttribute("width", PICTURE_WIDTH);
  copy.setAttribute("height", height * scale);
  const picture = new Image();
  picture.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(new XMLSerializer().serializeToString(copy))}`;
  await picture.decode();
  const canvas = el("canvas", { width: PICTURE_WIDTH, height: Math.round(height * scale) + CAPTION });
  const context = canvas.getContext("2d");
  context.fillStyle = getComputedStyle(drawing.parentElement).backgroundColor;
  if (/, 0\)$/.test(context.fillStyle) || context.fillStyle === "#000000") context.fillStyle = "#ffffff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(picture, 0, 0, canvas.width, canvas.height - CAPTION);
  context.fillStyle = getComputedStyle(drawing.parentElement).color;
  context.font = `${CAPTION * 0.5}px sans-serif`;
  context.fillText(`${record}. Research software, not a medical device.`, CAPTION / 2, canvas.height - CAPTION * 0.3);
  canvas.toBlob((blob) => save(blob, record, "png"), "image/png");
}
