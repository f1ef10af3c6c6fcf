// The portrait: which face speaks, and the region it may move in. A box is [x0, y0, x1, y1] in 0-1 of the framed picture.

import { at, filled, patiently, showFile } from "/studio/service.js";

const LEAST = 0.1; // of a region's sides
const STEP = 0.02; // of a key that moves it
const THUMBNAIL = 192; // pixels

/** seen: what the service answered about the file. region: auto, all or a box. The document is told "portrait". */
export const portrait = { file: null, face: null, seen: null, region: "auto" };
let looking = null;

export function choosePortrait(file) {
  Object.assign(portrait, { file, face: null, region: "auto" });
  at("portrait-name").textContent = file.name;
  at("faces").hidden = true;
  showFile(at("whole"), file);
  look();
}

/** Ask the service what it sees. */
export async function look() {
  if (portrait.file === null) return;
  looking?.abort();
  const { signal } = (looking = new AbortController());
  const say = (sentence) => (at("looking").textContent = sentence);
  portrait.seen = null;
  at("portrait-problem").textContent = "";
  say("Looking for the face …");
  draw();
  try {
    const form = filled({ portrait: portrait.file, face: portrait.face, model: at("model").value });
    const seen = await patiently("/v1/portraits", { method: "POST", body: form, signal }, say);
    at("framed").src = seen.picture;
    await at("framed").decode();
    if (signal.aborted) return;
    portrait.seen = seen;
    offerFaces(seen.faces);
  } catch (problem) {
    if (signal.aborted) return;
    if (problem.faces > 1) offerFaces(problem.faces);
    else at("portrait-problem").textContent = problem.message;
  }
  say("");
  draw();
}

function offerFaces(count) {
  at("faces").hidden = count < 2;
  const choices = Array.from({ length: count }, (_, index) => {
    const [label, input, text] = ["label", "input", "span"].map((name) => document.createElement(name));
    Object.assign(input, { type: "radio", name: "face", value: index + 1, checked: index + 1 === portrait.face });
    text.textContent = index + 1;
    input.ariaLabel = `face ${index + 1} from the left`;
    label.append(input, text);
    return label;
  });
  const focused = at("face-choice").contains(document.activeElement);
  at("face-choice").replaceChildren(...choices);
  if (focused) at("face-choice").querySelector(":checked")?.focus();
}

function draw() {
  at("framing").hidden = portrait.seen === null;
  at("whole").hidden = portrait.file === null || portrait.seen !== null;
  if (portrait.seen !== null) {
    place(at("face"), portrait.seen.face);
    drawRegion();
  }
  document.dispatchEvent(new Event("portrait"));
}

function place(element, [x0, y0, x1, y1]) {
  const edges = { left: x0, top: y0, width: x1 - x0, height: y1 - y0 };
  for (const [edge, share] of Object.entries(edges)) element.style[edge] = `${share * 100}%`;
}

const box = () => ({ auto: portrait.seen.region, all: [0, 0, 1, 1] })[portrait.region] ?? portrait.region;

/** As a request says it. */
export function regionWord() {
  return Array.isArray(portrait.region) ? portrait.region.map((share) => share.toFixed(4)).join() : portrait.region;
}

export function setRegion(region) {
  portrait.region = region;
  drawRegion();
}

function drawRegion() {
  const region = box();
  place(at("region"), region);
  for (const word of ["auto", "all"]) at(word).ariaPressed = String(portrait.region === word);
  const [x0, y0, x1, y1] = region.map((share) => `${Math.round(share * 100)}%`);
  const cut = portrait.seen.face.some((share, i) => (i < 2 ? share < region[i] : share > region[i]));
  at("region-said").textContent = `${x0} to ${x1} across, ${y0} to ${y1} down.${cut ? " It leaves out a part of the face." : ""}`;
}

/** The box after those of its four numbers that are named have moved; all four: it moves as a whole. */
function moved(before, moves, dx, dy) {
  const after = [...before];
  const clamp = (value, least, most) => Math.min(Math.max(value, least), most);
  if (moves.length === 4) {
    for (const [i, by] of [dx, dy].entries()) {
      const side = before[i + 2] - before[i];
      after[i] = clamp(before[i] + by, 0, 1 - side);
      after[i + 2] = after[i] + side;
    }
    return after;
  }
  for (const i of moves) {
    const to = before[i] + (i % 2 ? dy : dx);
    after[i] = i < 2 ? clamp(to, 0, before[i + 2] - LEAST) : clamp(to, before[i - 2] + LEAST, 1);
  }
  return after;
}

at("region").addEventListener("pointerdown", (down) => {
  if (down.button !== 0) return;
  const region = at("region");
  const [before, side] = [box(), at("frame").clientWidth];
  const moves = down.target.dataset.moves.split(" ").map(Number);
  const over = new AbortController();
  const listen = (name, act) =>
    region.addEventListener(name, (event) => event.pointerId === down.pointerId && act(event), { signal: over.signal });
  region.setPointerCapture(down.pointerId);
  listen("pointermove", ({ clientX, clientY }) =>
    setRegion(moved(before, moves, (clientX - down.clientX) / side, (clientY - down.clientY) / side)),
  );
  for (const end of ["pointerup", "pointercancel"]) listen(end, () => over.abort());
});

at("region").addEventListener("keydown", (event) => {
  const way = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] }[event.key];
  if (way === undefined) return;
  event.preventDefault();
  setRegion(moved(box(), event.shiftKey ? [2, 3] : [0, 1, 2, 3], ...way));
});

at("auto").addEventListener("click", () => setRegion("auto"));
at("all").addEventListener("click", () => setRegion("all"));
at("face-choice").addEventListener("change", (event) => {
  Object.assign(portrait, { face: Number(event.target.value), region: "auto" });
  look();
});

/** The framed picture, small, as a data URL. */
export function thumbnail() {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = THUMBNAIL;
  canvas.getContext("2d").drawImage(at("framed"), 0, 0, THUMBNAIL, THUMBNAIL);
  return canvas.toDataURL("image/jpeg", 0.8);
}
