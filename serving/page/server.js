/** Talks to the service this page came from, and to nothing else. */

const ROUTES = { arrhythmia: "v1/arrhythmia?signal=true", sepsis: "v1/sepsis?vitals=true" };
const OTHER = { arrhythmia: "sepsis", sepsis: "arrhythmia" };
const TRIES = 5;
const LONGEST_WAIT = 30;

/** A refusal or a failure, with the machine-readable reason where the server gave one. */
export class Problem extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

let token = "";
export const setToken = (value) => { token = value.trim(); };

/**
 * The answers to one upload: predictions and refusals, in order.
 * @param {{name: string, task: string, files: File[]}} upload
 * @param {(text: string) => void} say - tells the user what is going on
 * @param {string} [point] - operating point; the default one if left out
 * @throws {Problem}
 */
export async function answersTo(upload, say, point = "") {
  try {
    return await ask(upload, ROUTES[upload.task], say, point);
  } catch (error) {
    if (error.code !== "wrong_task") throw error;
    return ask(upload, ROUTES[OTHER[upload.task]], say, point);
  }
}

/** Which parts moved one of the answers to an upload; asked for apart, because it takes far longer than an answer. */
export async function explanationsOf(upload, answer, place, say) {
  const alone = answer.task === "sepsis" ? `&only=${place + 1}` : "";
  const [explained] = await ask(upload, `v1/${answer.task}?explain=true${alone}`, say, answer.operating_point);
  if (explained.not_explained) throw new Problem(200, "not_explained", explained.not_explained);
  return explained.explanations;
}

/** Operating points by task, asked for once; nothing where the server does not tell. */
let points = null;
export async function operatingPoints(task) {
  if (!points) {
    const headers = { Accept: "application/json", ...(token && { Authorization: `Bearer ${token}` }) };
    const response = await fetch("v1/models", { headers, credentials: "omit" }).catch(() => null);
    if (!response?.ok) return null;
    const { models } = await response.json();
    points = Object.fromEntries(models.map((model) => [model.task, model.operating_points]));
  }
  return points[task];
}

async function ask(upload, route, say, point) {
  for (let tried = 1; ; tried++) {
    const response = await send(upload, route, point);
    const busy = response.status === 429 || response.status === 503;
    if (!busy || tried === TRIES) return read(response);
    const seconds = Math.min(Number(response.headers.get("Retry-After")) || 2 ** tried, LONGEST_WAIT);
    say(`The server is busy. Trying ${upload.name} again in ${seconds} s.`);
    await new Promise((resolve) => setTimeout(resolve, 1000 * seconds * (1 + Math.random() / 4)));
  }
}

async function send(upload, route, point) {
  const body = new FormData();
  for (const file of upload.files) body.append("files", file, file.name);
  const headers = { Accept: "application/json", ...(token && { Authorization: `Bearer ${token}` }) };
  try {
    const chosen = point && `&operating_point=${encodeURIComponent(point)}`;
    return await fetch(`${route}${chosen}`, { method: "POST", body, headers, credentials: "omit" });
  } catch {
    throw new Problem(0, "unreachable", "The server could not be reached, or a file could not be read (folders cannot).");
  }
}

async function read(response) {
  const answer = await response.json().catch(() => null);
  if (response.ok && answer) return answer.stays ?? [answer];
  throw new Problem(
    response.status,
    answer?.code ?? `http_${response.status}`,
    answer?.detail ?? answer?.title ?? "The server gave no reason.",
  );
}
