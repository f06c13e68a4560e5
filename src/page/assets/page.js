// The page: which view is shown, what a click or a form does, who is logged in, what was typed.

import { ask, token, whenLocked } from "./api.js";
import { connect, disconnect, look, whenState } from "./live.js";
import { writeTimes } from "./time.js";
import { actions as calculations } from "./calculations.js";
import { actions as pipeline } from "./pipeline.js";
import { actions as schedules } from "./schedules.js";
import { actions as ships } from "./ships.js";

const element = (id) => document.getElementById(id);
const sections = [...document.querySelectorAll("main > section")];

// Views: the address says which, and what of it.

function show() {
  const [name, focus = ""] = location.hash.slice(1).split(/\?(.*)/s);
  const section = sections.find((section) => section.id === name) ?? sections[0];
  for (const other of sections) {
    other.hidden = other !== section;
    if (!other.hidden) continue;
    // A dialog that is not seen would keep everything else from being used.
    for (const dialog of other.querySelectorAll("dialog[open]")) dialog.close();
  }
  element("confirm").close();
  notify("");
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${section.id}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${section.dataset.title} · async-data-processor`;
  look(focus ? `${section.id}?${focus}` : section.id);
}
addEventListener("hashchange", show);

// The address is the view's.
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  element("main").focus();
});

// Actions: a click on what has `data-action`, or the submit of a form that has.

const actions = {
  ...calculations,
  ...pipeline,
  ...schedules,
  ...ships,
  login,
  "close-dialog": (button) => button.closest("dialog").close(),
};

/** What is being done: a second click on it does nothing. A disabled button would lose the focus. */
const busy = new WeakSet();

async function act(source) {
  if (busy.has(source)) return;
  busy.add(source);
  // What was clicked: what comes meanwhile may make another button of it.
  const data = { ...source.dataset };
  const wrong = source.localName === "form" ? source.querySelector(".wrong") : null;
  if (wrong) wrong.textContent = "";
  source.setAttribute("aria-busy", "true");
  try {
    if (data.confirm && !(await confirmed(data.confirm))) return;
    await actions[data.action](source, data);
    if (!wrong) notify("");
  } catch (error) {
    if (wrong) wrong.textContent = error.message;
    else notify(error.message);
  } finally {
    source.removeAttribute("aria-busy");
    busy.delete(source);
  }
}

document.addEventListener("submit", (event) => {
  if (!event.target.dataset.action) return;
  event.preventDefault();
  act(event.target);
});
document.addEventListener("click", (event) => {
  const source = event.target.closest("button[data-action]");
  if (source) act(source);
});

function notify(text) {
  element("notice").textContent = text;
  element("notice").hidden = text === "";
}

/** Asks a person whether they mean it. */
function confirmed(text) {
  const dialog = element("confirm");
  element("confirm-text").textContent = text;
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((done) => {
    dialog.addEventListener("close", () => done(dialog.returnValue === "yes"), { once: true });
  });
}

// What was typed survives a reload, a crash of the tab, and whatever else but an answer.

for (const form of document.querySelectorAll("main form[data-action]")) {
  for (const field of form.elements) {
    if (!field.name || field.type === "password") continue;
    const key = `typed.${form.dataset.action}.${field.name}`;
    const property = field.type === "checkbox" ? "checked" : "value";
    const typed = sessionStorage.getItem(key);
    if (typed !== null) field[property] = property === "checked" ? typed === "true" : typed;
    field.addEventListener("input", () => sessionStorage.setItem(key, field[property]));
  }
}

// Who is logged in, and what they may do.

let session = { name: "", may_write: true };
let isLocked = document.body.hasAttribute("data-locked");
const ENTER_AGAIN_MS = 2000;
/** Whether the token that is there does. */
let isIn = !isLocked;

function mayWrite() {
  document.body.toggleAttribute("data-reads-only", !session.may_write);
  for (const button of document.querySelectorAll("[data-writes]")) {
    if (session.may_write) continue;
    button.disabled = true;
    button.title = "Your token does not have the scope write";
  }
}
document.addEventListener("shown", mayWrite);

/** Asks for a token, or for another one. */
function lock(said) {
  // Tokens may have come while the page was open.
  isLocked = true;
  isIn = false;
  disconnect();
  const dialog = element("login");
  if (!dialog.open) {
    dialog.querySelector(".wrong").textContent = token.get() ? said : "";
    dialog.showModal();
  }
}
whenLocked(lock);

/** Who it is. A token that may not even read does as little as a wrong one. */
async function whoIsIn() {
  try {
    return await ask("GET", "/page/session");
  } catch (error) {
    if (error.status === 403) lock(error.message);
    throw error;
  }
}

async function enter() {
  if (isLocked) {
    session = await whoIsIn();
    isIn = true;
    element("who").textContent = session.may_write ? session.name : `${session.name} (reads only)`;
    element("who").hidden = element("logout").hidden = false;
    for (const button of document.querySelectorAll("[data-writes]")) {
      button.disabled = false;
      button.removeAttribute("title");
    }
    mayWrite();
  }
  if (element("login").open) element("login").close();
  connect();
}

async function login(form) {
  token.set(form.elements.token.value.trim());
  try {
    await enter();
    form.reset();
  } catch (error) {
    token.clear();
    throw error;
  }
}

// Without a token there is nothing behind the dialog. A browser closes it all the same at the
// second Escape.
element("login").addEventListener("cancel", (event) => event.preventDefault());
element("login").addEventListener("close", () => {
  if (!isIn) element("login").showModal();
});
element("logout").addEventListener("click", () => {
  // What was typed is for nobody who comes next.
  sessionStorage.clear();
  for (const form of document.forms) form.reset();
  location.reload();
});

// Whether what is shown is what stands.

const WORDS = { live: "Live", connecting: "Connecting…", lost: "No connection: trying again" };
let isAsking = false;

whenState(async (state) => {
  element("link").dataset.state = state;
  element("link").textContent = WORDS[state];
  document.body.toggleAttribute("data-stale", state !== "live");
  // A socket does not tell why it is refused: a token may have been taken away.
  if (state !== "live" && !isAsking) {
    isAsking = true;
    await whoIsIn().catch(() => {});
    isAsking = false;
  }
});

/** Enters, as soon as it is told who that is; where a token is asked for, the dialog is open. */
function begin() {
  enter().catch(() => {
    if (element("login").open) return;
    connect();
    setTimeout(begin, ENTER_AGAIN_MS);
  });
}

writeTimes(document);
show();
begin();
