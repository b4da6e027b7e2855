/** Which of the chosen files belong together, and which task they are probably for. */

const STAY = /^[^\n]*\b(iculos|hour)\b/i;
const ARRAY = /\.(npy|npz|mat|csv|tsv|txt)$/i;
const LAYOUT = /\.(toml|json)$/i;
const TABLE = /\.(psv|csv|tsv|txt)$/i;
const HEAD_BYTES = 65536;

/**
 * The chosen files as uploads: a WFDB header takes its signal files along, an array the file that states its
 * layout; every other file goes alone.
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
  const layouts = [...left.values()].filter((file) => LAYOUT.test(file.name));
  const arrays = [...left.values()].filter((file) => ARRAY.test(file.name));
  for (const array of arrays) {
    const own = layouts.filter((file) => [stem(array), "layout"].includes(stem(file)));
    found.set(array.name, [array, ...own]);
    for (const file of [array, ...own]) left.delete(file.name);
  }
  for (const [name, file] of left) found.set(name, [file]);
  const order = files.map((file) => file.name).filter((name) => found.has(name));
  return Promise.all([...new Set(order)].map(async (name) => upload(name, found.get(name))));
}

async function upload(name, files) {
  const task = await taskOf(files[0]);
  return { name, task, files: task === "sepsis" ? files.slice(0, 1) : files };
}

const stem = (file) => file.name.replace(/\.[^.]*$/, "");

/** Names of the signal files in the text of a WFDB header, each once. */
function signalFiles(text) {
  const lines = text.split(/\r?\n/).filter((line) => line.trim() && !line.startsWith("#"));
  return [...new Set(lines.slice(1).map((line) => line.trim().split(/\s+/)[0]))];
}

/** The task that a file is probably for; the server knows better, and says so with `wrong_task`. */
async function taskOf(file) {
  if (/\.parquet$/i.test(file.name)) return "sepsis";
  return TABLE.test(file.name) && STAY.test(await head(file)) ? "sepsis" : "arrhythmia";
}

const head = (file) => file.slice(0, HEAD_BYTES).text();
