// HL7 v2 vital signs in, sepsis risk out: for a JavaScript step of Mirth Connect (Rhino, so ECMAScript 5).
//
// rowOf takes the text of an ORU^R01 and returns the hour for /v1/sepsis/next; oruOf takes the answer and
// returns an ORU^R01. Nothing is guessed: an unknown unit, a time that is missing or lies before the
// admission is an error, and the channel's error queue keeps the message.

var VITALS = {
  "8867-4": { name: "HR", unit: "/min" },
  "59408-5": { name: "O2Sat", unit: "%" },
  "8310-5": { name: "Temp", unit: "Cel" },
  "8480-6": { name: "SBP", unit: "mm[Hg]" },
  "8478-0": { name: "MAP", unit: "mm[Hg]" },
  "8462-4": { name: "DBP", unit: "mm[Hg]" },
  "9279-1": { name: "Resp", unit: "/min" },
};

function segmentsOf(text) {
  return text.split(/[\r\n]+/).filter(function (line) { return line.length > 3; })
    .map(function (line) { return line.split("|"); });
}

function first(segments, name) {
  for (var i = 0; i < segments.length; i++) if (segments[i][0] === name) return segments[i];
  throw new Error("the message has no segment " + name);
}

function timeOf(text, what) {
  var found = /^(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)/.exec(text || "");
  if (!found) throw new Error(what + " has no date and time to the minute");
  return Date.UTC(+found[1], +found[2] - 1, +found[3], +found[4], +found[5]);
}

// The hour of the stay as a row; the visit is the name under which the channel keeps the state.
function rowOf(text) {
  var segments = segmentsOf(text);
  var visit = first(segments, "PV1");
  var admitted = timeOf(visit[44], "PV1-44 (admission)");
  var observed = timeOf(first(segments, "OBR")[7], "OBR-7 (observation)");
  if (observed < admitted) throw new Error("the observation lies before the admission");
  var row = { ICULOS: Math.floor((observed - admitted) / 3600000) + 1 };
  segments.forEach(function (segment) {
    if (segment[0] !== "OBX") return;
    var vital = VITALS[(segment[3] || "").split("^")[0]];
    // final, corrected or preliminary; an empty value was not measured
    if (!vital || !segment[5] || ["F", "C", "P"].indexOf(segment[11]) < 0) return;
    var unit = (segment[6] || "").split("^")[0];
    if (segment[2] !== "NM" || unit !== vital.unit) {
      throw new Error(vital.name + " must be a number in " + vital.unit);
    }
    var value = Number(segment[5]);
    if (!isFinite(value)) throw new Error(vital.name + " is not a number");
    row[vital.name] = value;
  });
  return { visit: (visit[19] || "").split("^")[0], row: row };
}

// An ORU^R01 with the risk of the last hour of an answer of /v1/sepsis/next.
function oruOf(text, answer, id, now) {
  var segments = segmentsOf(text);
  var header = first(segments, "MSH");
  var hour = answer.hours[answer.hours.length - 1];
  var model = answer.bundle.name + " " + answer.bundle.version;
  return [
    ["MSH", "^~\\&", "IBT", "", header[2], header[3], now, "", "ORU^R01^ORU_R01", id, header[10], "2.5.1"],
    first(segments, "PID"),
    first(segments, "PV1"),
    ["OBR", "1", "", id, "IBT-SEPSIS^Sepsis risk^L", "", "", now],
    ["OBX", "1", "NM", "IBT-RISK^Sepsis risk^L", "", String(hour.risk), "1", "0-" + hour.threshold,
      hour.alarm ? "H" : "N", "", "", "F", "", "", now, "", "", model],
  ].map(function (segment) { return segment.join("|"); }).join("\r") + "\r";
}

if (typeof module !== "undefined") module.exports = { rowOf: rowOf, oruOf: oruOf };
