// The page: which view is shown, what a click or a form does, who is logged in, what was typed.

import { ask, token, whenLocked } from "./api.js";
import { connect, disconnect, look, whenState } from "./live.js";
import { writeTimes } from "./time.js";
import { actions as calculations } from "./calculations.js";
import { actions as pipeline } from "./pipeline.js";
import { actions as schedules } from "./schedules.js";
import { actions as ships } from "./ships.js";

const isLocked = document.body.hasAttribute("data-locked");
const element = (id) => document.getElementById(id);
const sections = [...document.querySelectorAll("main > section")];

// Views: the address says which, and what of it.

function show() {
  const [name, focus = ""] = location.hash.slice(1).split(/\?(.*)/s);
  const section = sections.find((section) => section.id === name) ?? sections[0];
  for (const other of sections) other.hidden = other !== section;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${section.id}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${section.dataset.title} · async-data-processor`;
  look(focus ? `${section.id}?${focus}` : section.id);
}
addEventListener("hashchange", show);

// Actions: a click on what has `data-action`, or the submit of a form that has.

const actions = {
  ...calculations,
  ...pipeline,
  ...schedules,
  ...ships,
  login,
  "close-dialog": (button) => button.closest("dialog").close(),
};

async function act(source) {
  const form = source.localName === "form" ? source : null;
  const buttons = form ? [...form.querySelectorAll("button:not([type=button])")] : [source];
  const wrong = form?.querySelector(".wrong");
  if (wrong) wrong.textContent = "";
  for (const button of buttons) button.disabled = true;
  try {
    if (source.dataset.confirm && !(await confirmed(source.dataset.confirm))) return;
    await actions[source.dataset.action](source);
    if (!wrong) notify("");
  } catch (error) {
    if (wrong) wrong.textContent = error.message;
    else notify(error.message);
  } finally {
    for (const button of buttons) button.disabled = false;
    mayWrite();
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

async function enter() {
  if (isLocked) {
    session = await ask("GET", "/page/session");
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

whenLocked((said) => {
  isIn = false;
  disconnect();
  const dialog = element("login");
  if (!dialog.open) {
    dialog.querySelector(".wrong").textContent = token.get() ? said : "";
    dialog.showModal();
  }
});
// Without a token there is nothing behind the dialog. A browser closes it all the same at the
// second Escape.
element("login").addEventListener("cancel", (event) => event.preventDefault());
element("login").addEventListener("close", () => {
  if (!isIn) element("login").showModal();
});
element("logout").addEventListener("click", () => {
  token.clear();
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
  if (state !== "live" && isLocked && !isAsking) {
    isAsking = true;
    await ask("GET", "/page/session").catch(() => {});
    isAsking = false;
  }
});

writeTimes(document);
show();
enter().catch(() => {
  // Locked: the dialog is open. Away: it is tried again.
  if (!element("login").open) connect();
});
