/** What happens when files are dropped, chosen or taken as an example. */

import { answerArticle, overview, refusalArticle } from "./answers.js";
import { el, plural } from "./dom.js";
import { uploads } from "./files.js";
import { answersTo, explanationsOf, operatingPoints, Problem, setToken } from "./server.js";

const EXAMPLES = { ecg: ["recording.hea", "recording.dat"], stay: ["stay.psv"] };
const AT_ONCE = 20;

const byId = (id) => document.getElementById(id);
const [drop, input, status, answers, tokenForm, tokenValue] =
  ["drop", "files", "status", "answers", "token", "token-value"].map(byId);

const say = (text) => { status.textContent = text; };
let waiting = Promise.resolve();
const shown = [];
let summary = null;
let unauthorised = [];

/** Work goes one after the other, so that a second drop waits for the first. */
function queue(work) {
  waiting = waiting.then(work).catch((error) => say(`Something went wrong on this page: ${error.message}`));
}

async function score(jobs) {
  document.body.classList.add("busy");
  try {
    for (const [i, job] of jobs.entries()) {
      say(`Scoring ${job.name}${jobs.length > 1 ? ` (${i + 1} of ${jobs.length})` : ""}…`);
      if (!(await scored(job))) {
        unauthorised = jobs.slice(i);
        return askForToken();
      }
    }
  } finally {
    document.body.classList.remove("busy");
  }
}

/** False where the server wants a token first. */
async function scored(job) {
  try {
    const found = await answersTo(job, say);
    show(found, job, (found[0].task && await operatingPoints(found[0].task)) || null);
    say(`Scored ${job.name}.`);
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    if (error.status === 401) return false;
    const refusal = { source: job.name, code: error.code, message: error.message, status: error.status, refused: true };
    add(refusalArticle(refusal), refusal);
    say(`${job.name} was not scored.`);
  }
  return true;
}

/** Articles for the answers: the first of them now, the others when asked for. */
function show(found, job, points, first = 0) {
  for (const [place, answer] of found.entries()) {
    if (place < first || place >= first + AT_ONCE) continue;
    const choice = points && found.length === 1 && { points, rescore: (point) => queue(() => rescored(job, point, points)) };
    add(answer.refused ? refusalArticle(answer) : answerArticle(answer, choice, () => explanationsOf(job, answer, place, say)), answer, job);
  }
  const rest = found.length - first - AT_ONCE;
  if (rest <= 0) return;
  const more = el("button", { class: "button more", type: "button" }, `Show ${plural(rest, "more answer")}`);
  more.addEventListener("click", () => { more.remove(); show(found, job, points, first + AT_ONCE); });
  answers.append(more);
}

/** The answer to the same files under another operating point, in the place of the one before. */
async function rescored(job, point, points) {
  say(`Scoring ${job.name} again…`);
  try {
    const [answer] = await answersTo(job, say, point);
    const entry = shown.find((each) => each.job === job);
    const choice = { points, rescore: (next) => queue(() => rescored(job, next, points)) };
    const article = answerArticle(answer, choice, () => explanationsOf(job, answer, 0, say));
    entry.article.replaceWith(article);
    Object.assign(entry, { article, answer });
    summarise();
    article.querySelector(".point select").focus();
    say(`Scored ${job.name} at the operating point ${point}.`);
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    say(`${job.name} was not scored again: ${error.message}`);
  }
}

function summarise() {
  if (shown.length < 2) return;
  const next = overview(shown);
  if (summary) summary.replaceWith(next);
  else answers.prepend(next);
  summary = next;
}

function add(article, answer, job) {
  const first = !document.body.classList.contains("answered");
  document.body.classList.add("answered");
  answers.append(article);
  shown.push({ article, answer, job });
  summarise();
  article.querySelector("h2").focus({ preventScroll: true });
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  if (!first || innerWidth < 700) article.scrollIntoView({ behavior: calm ? "auto" : "smooth", block: "start" });
}

function askForToken() {
  say("This server asks for an access token.");
  tokenForm.hidden = false;
  tokenValue.value = "";
  tokenValue.focus();
}

async function example(kind) {
  say("Fetching the example…");
  const files = await Promise.all(EXAMPLES[kind].map(async (name) => {
    const response = await fetch(`examples/${name}`, { credentials: "omit" });
    if (!response.ok) throw new Error(`the example ${name} is not on this server`);
    return new File([await response.blob()], name);
  }));
  return score(await uploads(files));
}

const take = (files) => {
  if (files.length) queue(async () => score(await uploads([...files])));
};

input.addEventListener("change", () => { take([...input.files]); input.value = ""; });
for (const button of document.querySelectorAll("[data-example]")) {
  button.addEventListener("click", () => queue(() => example(button.dataset.example)));
}
tokenForm.addEventListener("submit", (event) => {
  event.preventDefault();
  setToken(tokenValue.value);
  tokenForm.hidden = true;
  queue(() => score(unauthorised));
});

let inside = 0;
const mark = (change) => {
  inside = Math.max(0, inside + change);
  drop.classList.toggle("over", inside > 0);
};
const holdsFiles = (event) => event.dataTransfer?.types.includes("Files");
addEventListener("dragenter", (event) => { if (holdsFiles(event)) { event.preventDefault(); mark(1); } });
addEventListener("dragleave", (event) => { if (holdsFiles(event)) mark(-1); });
addEventListener("dragover", (event) => { if (holdsFiles(event)) event.preventDefault(); });
addEventListener("drop", (event) => {
  if (!holdsFiles(event)) return;
  event.preventDefault();
  inside = 0;
  mark(0);
  take([...event.dataTransfer.files]);
});
