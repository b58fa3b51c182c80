"use strict";

const find = (id) => document.getElementById(id);
const sheet = find("sheet");
const pen = sheet.getContext("2d");
const CSS_PX_PER_MM = 96 / 25.4;
const PEN_PX = 2.5;
const LINE = 0.66; // of the sheet's height, where style.css prints a line

/** Strokes on the sheet: lists of [ms, x, y] in pixels of the style sheet, y downwards. */
let strokes = [];
let stroke = null;
let pointer = null;
let pxPerMm = CSS_PX_PER_MM;
let scaleSet = false;
let key = newKey();
/** Counts what was asked: an answer to an older question is not shown. */
let asked = 0;
let asking = false;
let waiting = null;

function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

// --- the sheet ---

function fitSheet() {
  const ratio = window.devicePixelRatio || 1;
  sheet.width = Math.round(sheet.clientWidth * ratio);
  sheet.height = Math.round(sheet.clientHeight * ratio);
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  redraw();
}

function line(points, from) {
  pen.lineWidth = PEN_PX;
  pen.lineCap = pen.lineJoin = "round";
  pen.strokeStyle = "#1d1c1a";
  pen.beginPath();
  const start = points[Math.max(0, from - 1)];
  pen.moveTo(start[1], start[2]);
  for (const [, x, y] of points.slice(from)) pen.lineTo(x, y);
  if (points.length === 1) pen.lineTo(start[1] + 0.01, start[2]);
  pen.stroke();
}

function redraw() {
  pen.clearRect(0, 0, sheet.clientWidth, sheet.clientHeight);
  for (const points of strokes) line(points, 0);
  if (stroke) line(stroke, 0);
  find("hint").hidden = strokes.length > 0 || stroke !== null;
  find("undo").disabled = find("clear").disabled = strokes.length === 0;
}

function pointsOf(event) {
  const box = sheet.getBoundingClientRect();
  const between = event.getCoalescedEvents ? event.getCoalescedEvents() : [];
  const events = between.length ? between : [event];
  return events.map((e) => [e.timeStamp, e.clientX - box.left, e.clientY - box.top]);
}

function add(points) {
  const before = stroke.length;
  for (const point of points) {
    const last = stroke.at(-1);
    if (!last || point[0] >= last[0]) stroke.push(point);
  }
  if (stroke.length > before) line(stroke, before);
}

sheet.addEventListener("pointerdown", (event) => {
  if (stroke || event.button !== 0) return;
  event.preventDefault();
  pointer = event.pointerId;
  sheet.setPointerCapture(pointer);
  stroke = [];
  const box = sheet.getBoundingClientRect();
  add([[event.timeStamp, event.clientX - box.left, event.clientY - box.top]]);
  find("hint").hidden = true;
});

sheet.addEventListener("pointermove", (event) => {
  if (stroke && event.pointerId === pointer) add(pointsOf(event));
});

function lift(event) {
  if (!stroke || event.pointerId !== pointer) return;
  strokes.push(stroke);
  stroke = pointer = null;
  redraw();
  askDrawing();
}
sheet.addEventListener("pointerup", lift);
sheet.addEventListener("pointercancel", lift);
new ResizeObserver(fitSheet).observe(sheet);

find("undo").addEventListener("click", () => {
  strokes.pop();
  redraw();
  if (strokes.length) askDrawing();
  else nothing();
});

find("clear").addEventListener("click", () => {
  clearSheet();
  nothing();
  sheet.scrollIntoView({ block: "nearest" });
});

function clearSheet() {
  strokes = [];
  key = newKey();
  redraw();
}

for (const button of document.querySelectorAll("[data-example]")) {
  button.addEventListener("click", async () => {
    const told = await request(`/example/${button.dataset.example}`, { method: "GET" });
    if (told.error) return problem(told.error);
    clearSheet();
    // The word is made in mm; where the sheet is too narrow it is drawn smaller.
    const every = told.strokes.flat();
    const right = Math.max(...every.map((point) => point[1]));
    const low = Math.max(...every.map((point) => point[2]));
    const room = Math.min((sheet.clientWidth - 32) / right, (sheet.clientHeight - 32) / low);
    const scale = Math.min(pxPerMm, room);
    const left = (sheet.clientWidth - right * scale) / 2;
    // On the printed line, unless the word would leave the sheet.
    const free = sheet.clientHeight - low * scale;
    const top = Math.min(Math.max(LINE * sheet.clientHeight - told.line * scale, 0), free);
    strokes = told.strokes.map((points) =>
      points.map(([ms, x, y]) => [ms, left + x * scale, top + y * scale]));
    redraw();
    askDrawing();
  });
}

// --- the scale ---

function setScale(pixels, bySomebody) {
  pxPerMm = bySomebody ? pixels / 50 : CSS_PX_PER_MM;
  scaleSet = bySomebody;
  find("ruler").style.width = `${50 * pxPerMm}px`;
  find("scale-value").textContent = Math.round(50 * pxPerMm);
  find("scale-now").textContent = scaleNow();
}

function scaleNow() {
  return scaleSet ? `${Math.round(pxPerMm * 25.4)} pixels an inch, set by you`
    : "96 pixels an inch, assumed";
}

find("scale-slider").addEventListener("input", (event) => setScale(Number(event.target.value), true));
find("scale-slider").addEventListener("change", () => strokes.length && askDrawing());
find("scale-reset").addEventListener("click", () => {
  find("scale-slider").value = Math.round(50 * CSS_PX_PER_MM);
  setScale(0, false);
  if (strokes.length) askDrawing();
});

// --- asking ---

async function request(url, options) {
  try {
    const response = await fetch(url, { cache: "no-store", ...options });
    const text = await response.text();
    try {
      return JSON.parse(text);
    } catch {
      return { error: `The server answered with ${response.status} and no reason: try again.` };
    }
  } catch {
    return { error: "The server does not answer: is rvsm serve still running in its terminal?" };
  }
}

/** Ask about the drawing, the answer first and the evidence after; only the newest state waits. */
function askDrawing() {
  const points = strokes.reduce((sum, one) => sum + one.length, 0);
  if (points > Number(document.body.dataset.mostPoints)) {
    problem("The drawing is too long: clear it and write a single word.");
    return;
  }
  const body = JSON.stringify({ strokes, px_per_mm: pxPerMm });
  const headers = { "content-type": "application/json" };
  ask(async (current) => {
    for (const explain of ["no", "yes"]) {
      const url = `/drawing?explain=${explain}&key=${key}`;
      const told = await request(url, { method: "POST", headers, body });
      if (!current()) return;
      show(told);
      if (told.error || told.probability === null) return;
    }
  });
}

function askScan(file) {
  if (file.size > Number(document.body.dataset.mostBytes)) {
    const most = Number(document.body.dataset.mostBytes) / 1e6;
    problem(`${file.name} is larger than ${most} MB: send a smaller one, or a part of it.`);
    return;
  }
  clearSheet();
  find("file-name").textContent = file.name;
  const query = new URLSearchParams({
    as: document.querySelector("input[name=as]:checked").value,
    dpi: find("dpi").value,
  });
  const headers = { "content-type": "application/octet-stream" };
  find("answer").hidden = true;
  say("Reading the scan …", "soft");
  ask(async (current) => {
    const told = await request(`/scan?${query}`, { method: "POST", headers, body: file });
    if (current()) show(told);
  });
}

async function ask(question) {
  const number = ++asked;
  waiting = () => question(() => number === asked);
  find("answer").classList.add("busy");
  if (asking) return;
  asking = true;
  while (waiting) {
    const next = waiting;
    waiting = null;
    await next();
  }
  asking = false;
  find("answer").classList.remove("busy");
}

// --- the answer ---

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

function say(text, className, more) {
  const lines = [make("p", className, text)];
  if (more) lines.push(make("p", "soft", more));
  find("status").replaceChildren(...lines);
}

function problem(sentence) {
  asked += 1;
  find("answer").hidden = true;
  say(sentence, "problem");
}

function nothing() {
  asked += 1;
  find("answer").hidden = true;
  say("Nothing to look at yet.", "soft");
}

function capital(text) {
  return text[0].toUpperCase() + text.slice(1);
}

/** The probability that an answer goes by. */
function percentOf(word) {
  return word.calibrated_percent ?? word.percent;
}

function show(told) {
  if (told.error) {
    problem(told.error);
    return;
  }
  if (told.probability === null) {
    say(capital(told.answer), "said", `${capital(told.reason)}.`);
    find("answer").hidden = true;
    return;
  }
  const of = told.words.length > 1 ? `, over ${told.words.length} words` : "";
  const known = told.calibrated === null ? "" : `, ${told.calibrated_percent} calibrated`;
  const decides = told.calibrated ?? told.probability;
  const shaky = `Probability of shaky: ${told.percent}${known}${of}`;
  const why = told.answer === "unsure"
    ? `; between ${told.unsure.map((p) => `${100 * p} %`).join(" and ")} the answer is left open` : "";
  say(capital(told.answer), `said ${told.answer}`, `${shaky}${why}.`);
  find("needle").style.left = `${100 * decides}%`;
  showTremor(told);
  showWords(told.words);
  find("notes").replaceChildren(...told.notes.map((note) => make("li", "", note)));
  find("answer").hidden = false;
}

function tile(name, value) {
  const entry = make("div");
  entry.append(make("dt", "", name), make("dd", "", value));
  return entry;
}

function showTremor(told) {
  const tremor = told.tremor;
  find("tremor").hidden = find("tremor-note").hidden = !tremor;
  if (!tremor) return;
  const hz = tremor.frequency_hz === null ? "–" : `${tremor.frequency_hz.toFixed(1)} Hz`;
  const mm = tremor.rms_mm === null ? "–" : `${tremor.rms_mm.toFixed(2)} mm`;
  find("tremor").replaceChildren(tile("tremor frequency", hz), tile("RMS amplitude, 3–12 Hz", mm));
  const note = [];
  if (tremor.reason) note.push(`${tremor.rms_mm === null ? "Not measured" : "No frequency"}: ${tremor.reason}.`);
  if (tremor.rms_mm !== null) {
    note.push(`Measured over ${tremor.seconds.toFixed(1)} s of strokes at ${scaleNow()}.`);
    note.push("Letters written fast move the pen in this band too.");
  }
  const there = tremor.rms_mm === null ? ""
    : `, where ${mm} become ${(tremor.rms_mm * told.scale).toFixed(2)}`;
  if (told.x_height_mm !== null) note.push(
    `Your small letters are about ${told.x_height_mm.toFixed(1)} mm high: the network, which ` +
    `learned from letters of 2.5 mm, reads the drawing at ${told.scale.toFixed(2)} times its ` +
    `size${there}.`);
  find("tremor-note").textContent = note.join(" ");
}

function showWords(words) {
  find("words").classList.toggle("one", words.length === 1);
  find("words-title").textContent = words.length > 1 ? "The words" : "What the network read";
  find("words").replaceChildren(...words.map((word, number) => {
    const figure = make("figure");
    const paper = make("div", "paper");
    const picture = make("img");
    picture.src = word.picture;
    picture.onload = () => {
      paper.style.aspectRatio = picture.naturalWidth / picture.naturalHeight;
    };
    picture.alt = `Word ${number + 1} as the network read it: ${word.answer}, ${percentOf(word)} shaky`;
    paper.append(picture);
    if (word.evidence) {
      const overlay = make("img", "overlay");
      overlay.src = word.evidence;
      overlay.alt = "";
      paper.append(overlay);
    }
    figure.append(paper);
    if (words.length > 1) {
      const caption = make("figcaption");
      caption.append(make("span", `said ${word.answer}`, word.answer), make("span", "soft", percentOf(word)));
      figure.append(caption);
    }
    return figure;
  }));
}

find("tint").addEventListener("change", (event) =>
  find("words").classList.toggle("plain", !event.target.checked));

// --- scans ---

let last = null;

function take(file) {
  last = file;
  askScan(file);
}

find("file").addEventListener("change", (event) => {
  if (event.target.files.length) take(event.target.files[0]);
  event.target.value = ""; // the same file may be chosen again
});

for (const option of [...document.querySelectorAll("input[name=as]"), find("dpi")]) {
  option.addEventListener("change", () => last && !strokes.length && askScan(last));
}

let over = 0;
const carriesFile = (event) => event.dataTransfer && [...event.dataTransfer.types].includes("Files");
addEventListener("dragenter", (event) => {
  if (!carriesFile(event)) return;
  over += 1;
  find("veil").hidden = false;
});
addEventListener("dragleave", (event) => {
  if (!carriesFile(event)) return;
  over -= 1;
  if (over <= 0) find("veil").hidden = true;
});
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  over = 0;
  find("veil").hidden = true;
  if (event.dataTransfer.files.length) take(event.dataTransfer.files[0]);
});

setScale(0, false);
