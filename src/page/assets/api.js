// The API as the page calls it: with the token, and with words for what went wrong.

const KEY = "token";

/** The token, as long as this tab lives. */
export const token = {
  get: () => sessionStorage.getItem(KEY),
  set: (text) => sessionStorage.setItem(KEY, text),
  clear: () => sessionStorage.removeItem(KEY),
};

/** Called when a token is needed, or the one there is does not do. */
let onLocked = () => {};
export const whenLocked = (call) => (onLocked = call);

/** What a refusal says, in whichever shape its path has. */
async function reason(got) {
  const text = await got.text();
  try {
    const body = JSON.parse(text);
    const said = body.error ?? body.detail ?? body.title;
    if (said) return typeof said === "string" ? said : JSON.stringify(said);
  } catch {
    // It is no JSON: the status says it.
  }
  return `${got.status} ${got.statusText}`;
}

/** Asks, and has the answer; an Error with the server's words for whatever is not 2xx. */
export async function answer(method, path, body, headers = {}) {
  const request = { method, headers: { ...headers } };
  if (token.get()) request.headers.Authorization = `Bearer ${token.get()}`;
  if (body !== undefined) {
    request.headers["Content-Type"] = "application/json";
    // A text is JSON already: numbers in it are as somebody has written them.
    request.body = typeof body === "string" ? body : JSON.stringify(body);
  }
  let got;
  try {
    got = await fetch(path, request);
  } catch {
    throw new Error("The server cannot be reached. What you typed is still here: try again.");
  }
  if (got.ok) return got;
  const said = await reason(got);
  if (got.status === 401) onLocked(said);
  throw Object.assign(new Error(said), { status: got.status });
}

/** The same, with the answer's JSON; null where there is none. */
export async function ask(method, path, body, headers) {
  const got = await answer(method, path, body, headers);
  const text = await got.text();
  return text === "" ? null : JSON.parse(text);
}

/**
 * What was sent to a path without an answer: what was wished for, the body of it, and the key under
 * which it is made once.
 */
const unanswered = new Map();

/**
 * Has something made by a POST; tried again without a change of what is wished for, it is still
 * made once. `body` makes the request's body, unless it is the wish itself.
 */
export async function make(path, wish, body = () => wish) {
  if (unanswered.get(path)?.wish !== wish) {
    unanswered.set(path, { wish, body: body(), key: `page-${Date.now()}-${Math.random()}` });
  }
  const sent = unanswered.get(path);
  try {
    const made = await ask("POST", path, sent.body, { "Idempotency-Key": sent.key });
    unanswered.delete(path);
    return made;
  } catch (error) {
    // Without a plain refusal it may have been made.
    if (error.status >= 400 && error.status < 500) unanswered.delete(path);
    throw error;
  }
}
