// Asking the service: the token, its refusals, and what it tells bit by bit.

export const at = (id) => document.getElementById(id);

/** The service does not do what it is asked; the message is a sentence. status: 0 where it does not answer at all. */
export class Problem extends Error {
  constructor(status, sentence, { faces = null, after = 5 } = {}) {
    super(sentence);
    Object.assign(this, { status, faces, after });
  }
}

/** Its answer, after the person has given a token where one is needed. Throws Problem. */
export async function ask(path, options = {}) {
  for (;;) {
    const token = sessionStorage.getItem("token");
    const headers = { ...options.headers, ...(token && { Authorization: `Bearer ${token}` }) };
    const answer = await fetch(path, { ...options, headers }).catch((error) => {
      throw error.name === "AbortError" ? error : new Problem(0, "The service cannot be reached.");
    });
    if (answer.ok) return answer;
    if (answer.status === 401) {
      await anotherToken(token);
      continue;
    }
    const said = await answer.json().catch(() => ({}));
    const after = Number(answer.headers.get("Retry-After")) || undefined;
    throw new Problem(answer.status, said.detail ?? `The service answers ${answer.status}.`, { faces: said.faces, after });
  }
}

export const asJson = async (path, options) => (await ask(path, options)).json();

/** The same, asked again where there is no room or no answer, until the signal ends it. say: is told what goes on. */
export async function patiently(path, options, say) {
  for (;;) {
    try {
      return await asJson(path, options);
    } catch (problem) {
      if (![0, 429, 503].includes(problem.status)) throw problem;
      const why = problem.status === 0 ? problem.message : "The service is full.";
      for (let left = problem.after; left > 0; left--) {
        say(`${why} Asking again in ${left} s.`);
        await wait(1, options.signal);
      }
    }
  }
}

let entered = null;

/** Resolves when there is another than the refused one. All who wait share one question. */
function anotherToken(refused) {
  if (sessionStorage.getItem("token") !== refused) return Promise.resolve();
  at("door-problem").textContent = refused === null ? "" : "The service does not know this token.";
  if (entered === null) {
    at("door").hidden = false;
    at("token").focus();
    entered = new Promise((resolve) => {
      at("door").onsubmit = (event) => {
        event.preventDefault();
        sessionStorage.setItem("token", at("token").value.trim());
        at("token").value = "";
        at("door").hidden = true;
        entered = null;
        resolve();
      };
    });
  }
  return entered;
}

export function wait(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, seconds * 1000);
    signal?.addEventListener("abort", () => (clearTimeout(timer), reject(signal.reason)), { once: true });
  });
}

/** An answer's body as it comes. Throws Problem where it breaks off. */
export async function* chunks(answer) {
  const reader = answer.body.getReader();
  const next = () =>
    reader.read().catch((error) => {
      throw error.name === "AbortError" ? error : new Problem(0, "The service has hung up.");
    });
  try {
    for (let read = await next(); !read.done; read = await next()) yield read.value;
  } finally {
    reader.cancel().catch(() => {}); // whoever stops listening hangs up
  }
}

export async function* lines(answer) {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const chunk of chunks(answer)) {
    const parts = (rest + decoder.decode(chunk, { stream: true })).split("\n");
    rest = parts.pop();
    yield* parts;
  }
}

/** A form of what is there. */
export function filled(fields) {
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) {
    if (value !== null && value !== undefined && value !== "") form.append(name, value);
  }
  return form;
}

/** Have an element show a file; null: nothing. */
export function showFile(element, file) {
  if (element.src.startsWith("blob:")) URL.revokeObjectURL(element.src);
  if (file === null) element.removeAttribute("src");
  else element.src = URL.createObjectURL(file);
}
