// The screen: a video while it is being made, and when it is done.

import { ask, at, chunks, Problem, showFile, wait } from "/studio/service.js";

const screen = at("screen");

export function clearScreen(poster) {
  for (const element of [screen, at("download")]) element.hidden = true;
  showFile(screen, null);
  screen.poster = poster;
  screen.load();
}

/** Show a job's video as it grows, while that is wanted and the browser can: what it refuses, it would refuse again. */
export async function preview(job, wanted, signal) {
  const target = { buffer: null, source: null, filled: 0 };
  while ("MediaSource" in window && wanted()) {
    try {
      await fill(target, await ask(`/v1/jobs/${job}/stream`, { signal }), wanted);
      if (wanted() && target.source?.readyState === "open") target.source.endOfStream();
      return;
    } catch (problem) {
      if (!(problem instanceof Problem)) return;
      await wait(1, signal).catch(() => {});
    }
  }
}

/** Append a stream's bytes but for those that an earlier one brought: they are the same whoever makes the video. */
async function fill(target, answer, wanted) {
  let known = target.filled;
  let fresh = new Uint8Array(0);
  for await (const chunk of chunks(answer)) {
    if (!wanted()) return; // the screen is another's by now
    fresh = joined(fresh, chunk.subarray(Math.min(known, chunk.length)));
    known = Math.max(known - chunk.length, 0);
    if (target.buffer === null) {
      const codec = codecOf(fresh);
      if (codec === null) continue; // its beginning is not all there yet
      await open(target, codec);
    }
    await append(target.buffer, fresh);
    target.filled += fresh.length;
    fresh = new Uint8Array(0);
    begin();
  }
}

function joined(one, other) {
  const both = new Uint8Array(one.length + other.length);
  both.set(one);
  both.set(other, one.length);
  return both;
}

/** As in RFC 6381: profile, compatibility and level, which follow the version in the box avcC. */
function codecOf(bytes) {
  const start = bytes.findIndex((_, i) => [0x61, 0x76, 0x63, 0x43].every((letter, offset) => bytes[i + offset] === letter));
  if (start < 0 || start + 8 > bytes.length) return null;
  const three = Array.from(bytes.subarray(start + 5, start + 8), (byte) => byte.toString(16).padStart(2, "0"));
  return `video/mp4; codecs="avc1.${three.join("")}, mp4a.40.2"`;
}

async function open(target, codec) {
  target.source = new MediaSource();
  const opened = new Promise((resolve) => target.source.addEventListener("sourceopen", resolve, { once: true }));
  showFile(screen, target.source);
  screen.hidden = false;
  await opened;
  target.buffer = target.source.addSourceBuffer(codec);
}

function append(buffer, bytes) {
  return new Promise((resolve, reject) => {
    buffer.onupdateend = resolve;
    buffer.onerror = reject;
    buffer.appendBuffer(bytes);
  });
}

/** Play from the first picture on, which can come a moment after 0. */
function begin() {
  if (screen.dataset.begun === screen.src || screen.buffered.length === 0) return;
  screen.dataset.begun = screen.src;
  screen.currentTime = screen.buffered.start(0);
  play();
}

const play = () => screen.play().catch(() => {}); // where that is not allowed the person presses play

/** Show the finished video, from where its preview was, and offer it as a file. Throws Problem. */
export async function present(job, name, signal) {
  const video = await (await ask(`/v1/jobs/${job}/video`, { signal })).blob();
  const { currentTime, paused, ended } = screen;
  const playing = !screen.hidden && !paused;
  showFile(screen, video);
  screen.hidden = false;
  screen.currentTime = ended ? 0 : currentTime;
  if (playing) play();
  Object.assign(at("download"), { href: screen.src, download: name, hidden: false });
}
