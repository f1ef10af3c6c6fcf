// The studio: a page over the service's HTTP API. What is given, and the order that it becomes.

import { add } from "/studio/jobs.js";
import { choosePortrait, look, portrait, regionWord, thumbnail } from "/studio/portrait.js";
import { asJson, ask, at, filled, patiently, showFile } from "/studio/service.js";

const order = at("order");
let sound = null;
let models = [];
let making = null;

function chooseSound(file) {
  sound = file;
  at("sound-name").textContent = file.name;
  at("heard").hidden = false;
  showFile(at("heard"), file);
  draw();
}

function draw() {
  at("models").hidden = models.length < 2;
  at("speeds").hidden = models.find(({ id }) => id === at("model").value)?.knows_speeds === false;
  const parts = [
    [portrait.seen, "a portrait"],
    [sound, "a voice"],
    [at("consent").checked, "your word that the people agreed"],
  ];
  const missing = parts.filter(([there]) => !there).map(([, what]) => what);
  at("make").disabled = missing.length > 0 || making !== null;
  at("stop").hidden = making === null;
  if (making === null) at("needed").textContent = missing.length ? `Still needed: ${missing.join(", ")}.` : "";
}

function wish() {
  const { model, speed, steps, seed, guidance } = Object.fromEntries(new FormData(order));
  return filled({
    portrait: portrait.file,
    audio: sound,
    face: portrait.face,
    region: regionWord(),
    speed: at("speeds").hidden ? null : speed,
    ...{ model, steps, seed, guidance },
  });
}

async function make() {
  const { signal } = (making = new AbortController());
  const [title, picture] = [`${portrait.file.name}, ${sound.name}`, thumbnail()];
  // One key for all attempts: whatever gets lost, it is one job. (crypto.randomUUID is not there without TLS.)
  const key = crypto.getRandomValues(new Uint32Array(4)).join("-");
  const say = (sentence) => (at("needed").textContent = sentence);
  at("problem").textContent = "";
  say("Sending …");
  draw();
  try {
    const options = { method: "POST", body: wish(), headers: { "Idempotency-Key": key }, signal };
    add({ ...(await patiently("/v1/jobs", options, say)), title, picture });
  } catch (problem) {
    if (!signal.aborted) at("problem").textContent = problem.message;
  }
  making = null;
  draw();
}

const failed = (problem) => (at("problem").textContent = problem.message);

async function useSamples() {
  const sample = async (name) => {
    const content = await (await ask(`/v1/samples/${name}`)).blob();
    return new File([content], name, { type: content.type });
  };
  at("samples").disabled = true;
  try {
    choosePortrait(await sample("portrait.png"));
    chooseSound(await sample("voice.wav"));
  } catch (problem) {
    failed(problem);
  }
  at("samples").disabled = false;
}

const TAKERS = { portrait: choosePortrait, sound: chooseSound };
for (const [name, take] of Object.entries(TAKERS)) {
  at(name).addEventListener("change", () => {
    const [file] = at(name).files;
    at(name).value = ""; // so that the same file can be chosen again
    if (file) take(file);
  });
}

// A file may be dropped anywhere; only where its type says nothing the place decides.
const zoneOf = (event) => event.target.closest?.("[data-drop]");
function light(zone) {
  for (const each of document.querySelectorAll("[data-drop]")) each.classList.toggle("dragged", each === zone);
}
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  light(zoneOf(event));
});
document.addEventListener("dragleave", () => light(null));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  light(null);
  for (const file of event.dataTransfer.files) {
    const kind = { image: "portrait", audio: "sound", video: "sound" }[file.type.split("/")[0]];
    TAKERS[kind ?? zoneOf(event)?.dataset.drop]?.(file);
  }
});

document.addEventListener("portrait", draw);
at("samples").addEventListener("click", useSamples);
at("consent").addEventListener("change", draw);
at("stop").addEventListener("click", () => making?.abort());
at("model").addEventListener("change", () => {
  draw();
  look();
});
order.addEventListener("submit", (event) => {
  event.preventDefault();
  make();
});
// A field that is folded away cannot show what is wrong with it.
order.addEventListener("invalid", () => (at("more").open = true), true);

draw();
asJson("/v1/models").then((found) => {
  models = found;
  at("model").replaceChildren(...models.map(({ id }) => new Option(id)));
  draw();
}, failed);
