/** One article for each answer: what was found, on what, by which model; or why nothing was. */

import { el, fresh, percent, plural, sentence, spans } from "./dom.js";
import { ecgFigure } from "./ecg.js";
import { findingsTable } from "./findings.js";
import { stayFigure, VARYING, unmeasured } from "./stay.js";

/** What to do about a refusal, where there is more to say than the server's own line does. */
const HINTS = {
  no_signal_file: "A signal file needs its header: choose the .hea file and its signal files together.",
  missing_signal_file: "A WFDB header needs its signal files: choose the .hea and the .dat or .mat together.",
  no_such_file: "A WFDB header needs its signal files: choose the .hea and the .dat or .mat together.",
  unsupported_format: "The page of the API lists the formats that this server reads.",
  unreachable: "Check the connection, then choose the file again.",
};

export function refusalArticle({ source, code, message, status }) {
  const busy = status === 429 || status === 503;
  const title = fresh("answer");
  return el("article", { class: "answer refused", "aria-labelledby": title },
    el("header", {},
      el("h2", { id: title, tabindex: "-1" }, `${source}: ${busy ? "the server is too busy" : "not scored"}`),
    ),
    el("p", { class: "lead" }, sentence(message)),
    HINTS[code] && el("p", {}, HINTS[code]),
    el("p", { class: "fine" }, "Reason: ", el("code", {}, code), ". No score is better than a wrong one."),
  );
}

export function answerArticle(answer) {
  const title = fresh("answer");
  const ecg = answer.task === "arrhythmia";
  const { signal, ...contract } = answer;
  return el("article", { class: "answer", "aria-labelledby": title },
    el("header", {},
      el("div", {},
        el("h2", { id: title, tabindex: "-1" }, answer.record),
        el("p", { class: "fine" }, described(answer)),
      ),
      downloadButton(contract),
    ),
    el("p", { class: "lead" }, ...(ecg ? positives(answer) : alarms(answer))),
    warnings(answer),
    ecg ? signal && ecgFigure(signal) : stayFigure(answer),
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

/** The positive findings in a sentence; one may be positive only because no other came nearer. */
function positives({ findings }) {
  const found = findings.filter((f) => f.positive).sort((a, b) => b.probability - a.probability);
  const named = found.flatMap((f, i) => [i ? ", " : "", el("strong", {}, f.name), ` (${percent(f.probability)})`]);
  const nearest = found.length === 1 && found[0].probability < found[0].threshold;
  return ["Positive: ", ...named, ".",
    nearest ? " No finding reached its threshold; this one came nearest, and the model always names one." : ""];
}

function alarms({ hours }) {
  const highest = hours.reduce((a, b) => (b.risk > a.risk ? b : a));
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

function downloadButton(answer) {
  const name = `${answer.record.replace(/[^\p{L}\p{N}._-]+/gu, "_") || "answer"}.json`;
  const save = () => {
    const url = URL.createObjectURL(new Blob([JSON.stringify(answer, null, 2)], { type: "application/json" }));
    el("a", { href: url, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
  };
  return el("button", { class: "button", type: "button", onclick: save, "aria-label": `Download ${name}` }, "Download JSON");
}
