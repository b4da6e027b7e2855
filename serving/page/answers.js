/** One article for each answer: what was found, on what, by which model; or why nothing was. */

import { el, fresh, percent, plural, sentence, spans } from "./dom.js";
import { ecgFigure } from "./ecg.js";
import { csvOf, jsonOf, saveButton } from "./export.js";
import { findingsTable, isNormal, isRhythm, positiveOf } from "./findings.js";
import { highestOf, stayFigure, VARYING, unmeasured } from "./stay.js";

/** What to do about a refusal, where there is more to say than the server's own line does. */
const HINTS = {
  no_signal_file: "A signal file needs its header: choose the .hea file and its signal files together.",
  missing_signal_file: "A WFDB header needs its signal files: choose the .hea and the .dat or .mat together.",
  no_such_file: "A WFDB header needs its signal files: choose the .hea and the .dat or .mat together.",
  unsupported_format: "ECGs are read as WFDB, SCP-ECG, DICOM, HL7 aECG, GE MUSE, Philips XML, EDF, BDF, CSV and arrays; stays as PSV, CSV and TSV.",
  unreachable: "Check the connection, then choose the file again.",
};

export function refusalArticle({ source, code, message, status }) {
  const busy = status === 429 || status === 503;
  const title = fresh("answer");
  return el("article", { class: "answer refused", id: fresh("article"), "aria-labelledby": title },
    el("header", {},
      el("h2", { id: title, tabindex: "-1" }, `${source}: ${busy ? "the server is too busy" : "not scored"}`),
    ),
    el("p", { class: "lead" }, sentence(message)),
    HINTS[code] && el("p", {}, HINTS[code]),
    el("p", { class: "fine" }, "Reason: ", el("code", {}, code), ". No score is better than a wrong one."),
  );
}

/**
 * @param {object} answer - as the server sent it
 * @param {{points: Record<string, {description: string}>, rescore: (point: string) => void}} [choice] - operating points
 * @param {() => Promise<object[]>} [explain] - what moved the answer
 */
export function answerArticle(answer, choice, explain) {
  const title = fresh("answer");
  const ecg = answer.task === "arrhythmia";
  const { signal, vitals, ...contract } = answer;
  return el("article", { class: "answer", id: fresh("article"), "aria-labelledby": title },
    el("header", {},
      el("div", {},
        el("h2", { id: title, tabindex: "-1" }, answer.record),
        el("p", { class: "fine" }, described(answer)),
      ),
      el("div", { class: "exports" },
        saveButton("JSON", answer.record, "json", () => jsonOf(contract)),
        saveButton("CSV", answer.record, "csv", () => csvOf([answer]))),
    ),
    el("div", { class: "lead" }, ecg ? positives(answer) : el("p", {}, ...alarms(answer))),
    choice && pointChooser(answer, choice),
    warnings(answer),
    ecg ? signal && ecgFigure(signal, answer.record, explain) : stayFigure(answer, explain),
    el("div", { class: ecg ? "columns" : null },
      ecg && findingsTable(answer.findings),
      about(answer),
    ),
    el("p", { class: "notice" }, answer.notice),
  );
}

function described({ task, input }) {
  if (task === "arrhythmia") {
    const leads = plural(input.leads.length, "lead");
    return `ECG, ${input.format}, ${input.sampling_rate} Hz, ${input.duration.toFixed(1)} s, ${leads}`;
  }
  const hours = plural(input.hours, "hour");
  return `ICU stay, ${input.format}, ${hours} (${input.first_hour} to ${input.last_hour} since admission)`;
}

/** Rhythm, heart rate, axis and abnormal findings, a line each; one may be positive only because no other came nearer. */
function positives({ findings, heart_rate: rate, axis }) {
  const found = positiveOf(findings);
  const rhythm = found.filter(isRhythm);
  const other = found.filter((f) => !isRhythm(f));
  const nearest = found.length === 1 && found[0].probability < found[0].threshold;
  const perMinute = typeof rate === "number" ? rate : rate?.bpm;
  return [
    rhythm.length > 0 && el("p", {}, "Rhythm: ", ...named(rhythm), "."),
    perMinute > 0 && el("p", {}, "Heart rate: ", el("strong", {}, `${Math.round(perMinute)}/min`),
      typeof axis?.degrees === "number" && [", frontal axis: ", el("strong", {}, `${axis.degrees}°`)], ", computed from the tracing."),
    el("p", {}, other.length ? "Findings: " : "No abnormal finding besides the rhythm", ...named(other), "."),
    nearest && el("p", { class: "fine" }, "No finding reached its threshold; this one came nearest, and the model always names one."),
  ];
}

const named = (findings) => findings.flatMap((f, i) =>
  [i ? ", " : "", el("strong", { class: isNormal(f) ? null : "alarm-word" }, f.name), ` (${percent(f.probability)})`]);

/** Other thresholds are applied by asking the server again: the page decides nothing itself. */
function pointChooser(answer, { points, rescore }) {
  const id = fresh("point");
  const chosen = answer.operating_point;
  return el("div", { class: "point" },
    el("label", { for: id }, "Operating point"),
    el("select", { id, onchange: (event) => rescore(event.target.value) },
      Object.keys(points).map((name) => el("option", { value: name, selected: name === chosen }, name.replaceAll("_", " ")))),
    el("span", { class: "fine" }, sentence(points[chosen]?.description ?? "")));
}

/** A line for each answer, to be sorted and to jump from: what several files are looked at first. */
export function overview(entries) {
  let order = { column: -1, up: true };
  const columns = ["Record", "Task", "Result", "Highest"];
  const body = el("tbody", {});
  const heads = columns.map((text, column) => el("th", { scope: "col" },
    el("button", { class: "sort", type: "button", onclick: () => sort(column) }, text)));
  const rows = entries.map(({ article, answer }) => {
    const { result, highest } = summary(answer);
    const name = answer.record ?? answer.source;
    const link = el("a", { href: `#${article.id}` }, name);
    return { keys: [name, answer.task ?? "refused", result, highest],
      row: el("tr", {}, el("th", { scope: "row" }, link), el("td", {}, answer.refused ? "" : answer.task),
        el("td", {}, result), el("td", { class: "number" }, answer.refused ? "" : percent(highest))) };
  });
  function sort(column) {
    order = { column, up: order.column === column ? !order.up : column < 3 };
    rows.sort((a, b) => (a.keys[column] > b.keys[column] ? 1 : a.keys[column] < b.keys[column] ? -1 : 0) * (order.up ? 1 : -1));
    heads.forEach((head, i) => head.setAttribute("aria-sort", i === column ? (order.up ? "ascending" : "descending") : "none"));
    body.replaceChildren(...rows.map((each) => each.row));
  }
  body.append(...rows.map((each) => each.row));
  const scored = entries.map((entry) => entry.answer).filter((answer) => !answer.refused);
  const title = fresh("overview");
  return el("section", { class: "overview", "aria-labelledby": title },
    el("header", {}, el("h2", { id: title }, plural(entries.length, "answer")),
      el("div", { class: "exports" }, ["arrhythmia", "sepsis"].map((task) => {
        const own = scored.filter((answer) => answer.task === task);
        return own.length > 0 && saveButton(`CSV: ${task}`, task, "csv", () => csvOf(own));
      }))),
    el("div", { class: "wide" }, el("table", {}, el("thead", {}, el("tr", {}, heads)), body)));
}

function summary(answer) {
  if (answer.refused) return { result: `not scored (${answer.code})`, highest: -1 };
  if (answer.task === "arrhythmia") {
    const found = positiveOf(answer.findings);
    return { result: found.map((f) => f.abbreviation.replace("|", "/")).join(", "), highest: Math.max(...found.map((f) => f.probability), 0) };
  }
  const alarmed = answer.hours.filter((h) => h.alarm).length;
  return { result: alarmed ? `alarm in ${plural(alarmed, "hour")}` : "no alarm", highest: Math.max(...answer.hours.map((h) => h.risk)) };
}

function alarms({ hours }) {
  const highest = highestOf(hours);
  const latest = hours.at(-1);
  const alarmed = hours.filter((h) => h.alarm).map((h) => h.hour);
  const first = alarmed.length
    ? [el("strong", {}, `Alarm in ${alarmed.length} of ${plural(hours.length, "hour")}`), `: ${hourly(alarmed)}. `]
    : [el("strong", {}, "No alarm"), ` in ${plural(hours.length, "hour")}. `];
  return [...first,
    `Highest risk ${percent(highest.risk)} in hour ${highest.hour}, latest ${percent(latest.risk)} in hour ${latest.hour}.`];
}

const hourly = (hours) => `hour${hours.length > 1 ? "s" : ""} ${spans(hours)}`;

function warnings({ warnings: found }) {
  if (!found.length) return null;
  return el("div", { class: "warnings", role: "note" },
    el("h3", {}, found.length === 1 ? "A reason to trust this answer less" : "Reasons to trust this answer less"),
    el("ul", {}, found.map((w) => el("li", {}, `${sentence(w.message)} `, el("code", {}, w.code)))),
  );
}

function about(answer) {
  const { input, bundle } = answer;
  const rows = [
    ["Source", input.source],
    ["Changed before scoring", input.changes.length ? input.changes.map((c) => sentence(c)).join(" ") : "Nothing."],
    input.leads && ["Leads as found", input.leads.join(", ")],
    input.never_measured?.length && ["Never measured", input.never_measured.join(", ")],
    input.read_as && ["Units", input.units_stated ? "As the source states them." : `Not stated; read as: ${input.read_as.map(readAs).join(", ")}.`],
    ["Model", `${bundle.name} ${bundle.version}, ${bundle.variant} on ${answer.device}`],
    ["Thresholds", `operating point “${answer.operating_point}”`],
    ["Fingerprint", el("code", { title: bundle.sha256 }, bundle.sha256.slice(0, 12))],
  ];
  return el("section", { class: "about" },
    el("h3", {}, "About this answer"),
    el("dl", {}, rows.filter(Boolean).map(([term, text]) => el("div", {}, el("dt", {}, term), el("dd", {}, text)))),
    answer.hours && hoursTable(answer.hours),
  );
}

const readAs = ({ variable, unit, median, lowest, highest }) =>
  `${variable} ${median}${lowest < highest ? ` (${lowest} to ${highest})` : ""} ${unit}`;

function hoursTable(hours) {
  const head = ["Hour", "Risk", "Result", "Measured"].map((text) => el("th", { scope: "col" }, text));
  const rows = hours.map((h) => el("tr", { class: h.alarm ? "positive" : null },
    el("th", { scope: "row" }, `${h.hour}`),
    el("td", {}, percent(h.risk)),
    el("td", {}, h.alarm ? "alarm" : "no alarm"),
    el("td", {}, h.inserted ? "hour missing" : `${VARYING - unmeasured(h).length} of ${VARYING}`),
  ));
  return el("details", { class: "hours" },
    el("summary", {}, "Every hour as a table"),
    el("table", {}, el("thead", {}, el("tr", {}, head)), el("tbody", {}, rows)),
  );
}
