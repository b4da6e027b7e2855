/** Which of the chosen files belong together, and which task they are probably for. */

const STAY = /^[^\n]*\b(iculos|hour)\b/i;
const TABLE = /\.(psv|csv|tsv|txt)$/i;
const HEAD_BYTES = 65536;

/**
 * The chosen files as uploads: a WFDB header takes its signal files along, every other file goes alone.
 * @param {File[]} files
 * @returns {Promise<{name: string, task: string, files: File[]}[]>}
 */
export async function uploads(files) {
  const left = new Map(files.map((file) => [file.name, file]));
  const found = new Map();
  for (const header of files.filter((file) => /\.hea$/i.test(file.name))) {
    const names = signalFiles(await head(header)).filter((name) => left.has(name));
    found.set(header.name, [header, ...names.map((name) => left.get(name))]);
    for (const file of found.get(header.name)) left.delete(file.name);
  }
  for (const [name, file] of left) found.set(name, [file]);
  const order = files.map((file) => file.name).filter((name) => found.has(name));
  return Promise.all(
    [...new Set(order)].map(async (name) => ({ name, files: found.get(name), task: await task(found.get(name)[0]) })),
  );
}

/** Names of the signal files in the text of a WFDB header, each once. */
function signalFiles(text) {
  const lines = text.split(/\r?\n/).filter((line) => line.trim() && !line.startsWith("#"));
  return [...new Set(lines.slice(1).map((line) => line.trim().split(/\s+/)[0]))];
}

/** The task that a file is probably for; the server knows better, and says so with `wrong_task`. */
async function task(file) {
  if (/\.parquet$/i.test(file.name)) return "sepsis";
  return TABLE.test(file.name) && STAY.test(await head(file)) ? "sepsis" : "arrhythmia";
}

const head = (file) => file.slice(0, HEAD_BYTES).text();
