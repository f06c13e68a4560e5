// The pipeline: send a test message, read dead letters, edit them and send them again.

import { ask, answer, make } from "./api.js";
import { now } from "./time.js";

const element = (id) => document.getElementById(id);
const wait = (ms) => new Promise((done) => setTimeout(done, ms));
/** How long it is watched where a message lands. */
const WATCHED_MS = 60_000;
/** Letters of a file that are shown; the others go again as they are. */
const SHOWN_MAX = 100;

/** Counts what is watched in a place, so that only the last one writes there. */
const watched = new WeakMap();

/** Says where the messages of a receipt land, until they have. */
async function follow(receipt, place, said) {
  const turn = (watched.get(place) ?? 0) + 1;
  watched.set(place, turn);
  if (!receipt) {
    place.textContent = `${said} There is no receipt: the latest files show where it lands.`;
    return;
  }
  const end = Date.now() + WATCHED_MS;
  for (let pause = 100; watched.get(place) === turn; pause = Math.min(pause * 1.5, 1000)) {
    let report;
    try {
      report = await ask("GET", `/receipt/${receipt}`);
    } catch (error) {
      place.textContent = `${said} Where it lands cannot be seen now: ${error.message}`;
      return;
    }
    if (watched.get(place) !== turn) return;
    const files = report.parts.flatMap((part) => part.files);
    const kept = files.filter((file) => !file.dead);
    const names = kept.map(({ file }) => file ?? "no file, as the program made nothing of it");
    const dead = kept.length < files.length ? " No worker could do it: see dead letters." : "";
    const waiting = report.waiting > 0 ? ` ${report.waiting} waiting…` : "";
    const text = `${said}${waiting}${names.length ? ` In ${names.join(", ")}` : ""}${dead}`;
    // What is written is read out, even if it is the same.
    if (place.textContent !== text) place.textContent = text;
    if (report.waiting === 0) return;
    if (Date.now() > end) {
      place.textContent += " Nobody has taken it in a minute: is a message-consumer running?";
      return;
    }
    await wait(pause);
  }
}

async function send(form) {
  const [timestamp, value] = [form.elements.timestamp.value.trim(), form.elements.value.value];
  element("pipeline-sent").textContent = "";
  const message = () => [{ timestamp: timestamp || new Date(now()).toISOString(), value }];
  const { receipt } = await make("/message", JSON.stringify({ timestamp, value }), message);
  follow(receipt, element("pipeline-sent"), "Stored.");
}

/** What is open: the number of the file, and its letters as they are and as they are edited. */
let opened = { number: "", letters: [] };

/** Keeps what is typed, as far as the browser has room for it. */
function keep(key, text) {
  try {
    sessionStorage.setItem(key, text);
  } catch {
    // It stands in its field.
  }
}

const draft = (offset) => `dead.${opened.number}.${offset}`;

/** A line of the file: what is known of the letter, and its message as it was received. */
function read(line) {
  // It is the last member, and a quote within a text is escaped: this is where it begins.
  const mark = ',"message":';
  const { offset, reason, attempts } = JSON.parse(line);
  return { offset, reason, attempts, raw: line.slice(line.indexOf(mark) + mark.length, -1) };
}

function show(letter, canEdit) {
  const set = document.createElement("fieldset");
  set.className = "letter";
  const label = document.createElement("label");
  const field = document.createElement("textarea");
  field.spellcheck = false;
  field.readOnly = !canEdit;
  field.name = `offset-${letter.offset}`;
  field.value = (canEdit && sessionStorage.getItem(draft(letter.offset))) || letter.raw;
  field.addEventListener("input", () => keep(draft(letter.offset), field.value));
  const reason = document.createElement("span");
  reason.className = "reason bad";
  reason.textContent = letter.reason;
  const times = letter.attempts === 1 ? "once" : `${letter.attempts} times`;
  label.append(`Offset ${letter.offset}, tried ${times} by itself`, reason, field);
  set.append(label);
  return { ...letter, field, set };
}

async function open({ number, resent }) {
  const [dialog, note, list] = [element("dead"), element("dead-note"), element("dead-letters")];
  const canEdit = resent === undefined;
  opened = { number, letters: [] };
  watched.set(note, (watched.get(note) ?? 0) + 1);
  element("dead-title").textContent = `Dead letters ${number}`;
  element("dead-send").hidden = true;
  dialog.querySelector(".wrong").textContent = "";
  note.textContent = "Loading…";
  list.replaceChildren();
  dialog.showModal();
  try {
    const got = await answer("GET", `/dead/${number}?format=lines&limit=${SHOWN_MAX}`);
    const lines = (await got.text()).split("\n").filter((line) => line !== "");
    if (!dialog.open || opened.number !== number) return;
    opened.letters = lines.map((line) => show(read(line), canEdit));
    list.replaceChildren(...opened.letters.map((letter) => letter.set));
    const more = got.headers.has("Link") ? `The first ${lines.length} are shown; the others go as they are. ` : "";
    note.textContent = canEdit
      ? `${more}Mend what is wrong, or the program, and send all of them again, once.`
      : `${more}They were sent again.`;
    element("dead-send").hidden = !canEdit;
  } catch (error) {
    if (opened.number === number) note.textContent = error.message;
  }
}

async function resend() {
  const { number, letters } = opened;
  const edited = letters.filter(({ field, raw }) => field.value.trim() !== raw);
  for (const { field, offset } of edited) {
    try {
      JSON.parse(field.value);
    } catch (error) {
      field.focus();
      throw new Error(`The message at offset ${offset} is no JSON: ${error.message}`);
    }
  }
  // As text, so that numbers go as they are written.
  const edits = edited.map(({ offset, field }) => `{"offset":${offset},"message":${field.value}}`);
  const body = edits.length ? `{"messages":[${edits.join(",")}]}` : undefined;
  const { messages, receipt } = await ask("POST", `/dead/${number}/resend`, body);
  for (const { offset, field } of letters) {
    sessionStorage.removeItem(draft(offset));
    field.readOnly = true;
  }
  element("dead-send").hidden = true;
  follow(receipt, element("dead-note"), `Sent again: ${messages}, of them edited: ${edits.length}.`);
}

export const actions = { "send-message": send, "open-dead": (_, data) => void open(data), "resend-dead": resend };
