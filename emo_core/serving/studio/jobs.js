// The jobs of this tab: one is on the stage, the others in the list.

import { asJson, ask, at, lines, wait } from "/studio/service.js";
import { clearScreen, present, preview } from "/studio/screen.js";

const KEPT = 20; // that the list remembers
const POLL = 3; // seconds between two looks at those that are not on the stage
const WORDS = {
  queued: "Waiting for its turn",
  running: "Being made",
  done: "Done",
  failed: "It failed",
  cancelled: "Cancelled",
  gone: "The service no longer has it",
};

// A reload finds them again; other people's pictures go with the tab. Each: a status of the service, picture and title.
const jobs = JSON.parse(sessionStorage.getItem("jobs") ?? "[]");
let stage = null; // of a job: { job, stop, signal, pace, previewed, presented }
const isOver = (job) => !["queued", "running"].includes(job.state);

/** A job was accepted. */
export function add(job) {
  jobs.unshift(job);
  jobs.length = Math.min(jobs.length, KEPT);
  show(job);
  at("stage").scrollIntoView({ block: "nearest" }); // on a phone it lies below the order
}

function show(job) {
  stage?.stop.abort();
  const stop = new AbortController();
  stage = { job, stop, signal: stop.signal, pace: null, previewed: false, presented: false };
  clearScreen(job.picture);
  told(job, {});
  follow(stage);
}

/** There is something new about a job. */
function told(job, news) {
  Object.assign(job, news);
  sessionStorage.setItem("jobs", JSON.stringify(jobs));
  drawJobs();
  if (stage?.job !== job) return;
  drawStage();
  if (job.state === "running" && !stage.previewed) {
    stage.previewed = true;
    const { signal } = stage;
    preview(job.id, () => !signal.aborted && !isOver(job), signal);
  }
  if (job.state === "done" && !stage.presented) {
    stage.presented = true;
    const name = `${job.title.split(", ").at(-1).replace(/\.[^.]*$/, "")}.mp4`;
    const { signal } = stage;
    present(job.id, name, signal).catch((problem) => {
      if (!signal.aborted) failed(job, problem);
    });
  }
}

function failed(job, problem) {
  if (problem.status === 404) told(job, { state: "gone" });
  else if (stage?.job === job) at("failure").textContent = problem.message;
}

/** Events of the job on the stage, to its end. */
async function follow({ job, signal }) {
  for (let pause = 1; !isOver(job) && !signal.aborted; pause = Math.min(pause * 2, 15)) {
    try {
      for await (const line of lines(await ask(`/v1/jobs/${job.id}/events`, { signal }))) {
        if (!line.startsWith("data: ")) continue;
        told(job, JSON.parse(line.slice(6)));
        pause = 1;
      }
    } catch (problem) {
      if (signal.aborted) return;
      failed(job, problem);
    }
    if (!isOver(job)) await wait(pause, signal).catch(() => {});
  }
}

/** The others are asked after: a browser has few connections to one service, and events keep one each. */
async function askAfterOthers() {
  for (const job of jobs.filter((job) => !isOver(job) && job !== stage?.job)) {
    await asJson(`/v1/jobs/${job.id}`).then((news) => told(job, news), (problem) => failed(job, problem));
  }
  setTimeout(askAfterOthers, POLL * 1000);
}

function drawStage() {
  const { job } = stage;
  at("empty").hidden = true;
  at("shown").hidden = false;
  if (at("state").textContent !== WORDS[job.state]) at("state").textContent = WORDS[job.state];
  at("title").textContent = job.title;
  at("bar").hidden = at("cancel").hidden = isOver(job);
  at("bar").value = job.progress;
  at("count").textContent = job.state === "running" ? `${job.frames_done} of ${job.frames_total} frames${timeLeft()}` : "";
  at("failure").textContent = job.error ?? "";
}

function timeLeft() {
  const { frames_done: done, frames_total: total } = stage.job;
  const now = performance.now() / 1000;
  stage.pace ??= { since: now, from: done };
  if (done <= stage.pace.from) return "";
  const seconds = ((total - done) * (now - stage.pace.since)) / (done - stage.pace.from);
  return seconds < 90 ? `, about ${Math.ceil(seconds)} s left` : `, about ${Math.round(seconds / 60)} min left`;
}

function drawJobs() {
  at("history").hidden = jobs.length === 0;
  // Buttons stay the same ones, else whoever is on one with the keyboard would lose it at every event.
  jobs.forEach((job, index) => {
    const item = at("jobs").children[index] ?? at("jobs").appendChild(newItem());
    const [button, picture, title, state] = ["button", "img", "span span", "small"].map((part) => item.querySelector(part));
    button.onclick = () => show(job);
    button.ariaCurrent = String(stage?.job === job);
    if (picture.src !== job.picture) picture.src = job.picture;
    title.textContent = job.title;
    state.textContent = job.state === "running" ? `${WORDS.running}, ${Math.round(job.progress * 100)}%` : WORDS[job.state];
  });
}

function newItem() {
  const names = ["li", "button", "img", "span", "span", "small"];
  const [item, button, picture, text, title, state] = names.map((name) => document.createElement(name));
  picture.alt = "";
  text.append(title, state);
  button.append(picture, text);
  item.append(button);
  return item;
}

at("cancel").addEventListener("click", async () => {
  const { job } = stage;
  at("cancel").disabled = true;
  await asJson(`/v1/jobs/${job.id}`, { method: "DELETE" }).then((news) => told(job, news), (problem) => failed(job, problem));
  at("cancel").disabled = false;
});

if (jobs.length > 0) show(jobs.find((job) => !isOver(job)) ?? jobs[0]);
askAfterOthers();
