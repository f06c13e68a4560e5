// Calculations: order, cancel, and see all digits of a result.

import { ask, answer, make } from "./api.js";

/** Digits of a paragraph: so that a browser lays out only those that are seen. */
const PARAGRAPH = 5000;
/** Digits that are shown; more than that is for a file. */
const SHOWN_MAX = 2_000_000;

let whole = null;

/** A number as the server writes it: in groups of three digits. */
const grouped = (count) => String(count).replace(/\B(?=(\d{3})+$)/g, "\u202f");

/** R4's three messages, and the server's limit. */
function wrong(text, most) {
  if (text === "") return "Required";
  if (!/^[+-]?\d+(\.0*)?$/.test(text)) return "Must be a whole number";
  if (text.startsWith("-") || /^\+?0+(\.0*)?$/.test(text)) return "Must be a positive number";
  if (Number(text) > Number(most)) return `Must be at most ${most}`;
  return "";
}

async function calculate(form) {
  const { input } = form.elements;
  const message = wrong(input.value.trim(), input.dataset.max);
  input.setAttribute("aria-invalid", String(message !== ""));
  if (message) {
    input.focus();
    throw new Error(message);
  }
  await make("/factorial", JSON.stringify({ input: Math.trunc(Number(input.value)) }));
}

/** Counts what is opened, so that only the last one is shown. */
let turn = 0;

async function open({ id, n }) {
  const mine = ++turn;
  const dialog = document.getElementById("digits");
  const [title, note, text] = ["title", "note", "text"].map(
    (part) => document.getElementById(`digits-${part}`),
  );
  whole = null;
  title.textContent = `${n}!`;
  note.textContent = "Loading…";
  text.replaceChildren();
  dialog.showModal();
  try {
    const got = await answer("GET", `/factorial/${id}?format=text`);
    const digits = await got.text();
    if (turn !== mine || !dialog.open) return;
    whole = { digits, name: `${n}-factorial.txt` };
    const shown = digits.slice(0, SHOWN_MAX);
    for (let at = 0; at < shown.length; at += PARAGRAPH) {
      const paragraph = document.createElement("p");
      paragraph.textContent = shown.slice(at, at + PARAGRAPH);
      text.append(paragraph);
    }
    const count = grouped(digits.length);
    note.textContent = shown.length < digits.length
      ? `${count} digits, of which the first ${grouped(shown.length)} are shown. Download has all.`
      : `${count} digits`;
  } catch (error) {
    if (turn === mine) note.textContent = error.message;
  }
}

async function copy() {
  if (!whole) return;
  const note = document.getElementById("digits-note");
  try {
    await navigator.clipboard.writeText(whole.digits);
    note.textContent = `${grouped(whole.digits.length)} digits copied`;
  } catch {
    note.textContent = "This browser does not let the page copy: use Download.";
  }
}

function download() {
  if (!whole) return;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([whole.digits], { type: "text/plain" }));
  link.download = whole.name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

export const actions = {
  calculate,
  // Not waited for: who closes it before all has come may open it again.
  "open-digits": (_, data) => void open(data),
  "copy-digits": copy,
  "download-digits": download,
  "cancel-calculation": (_, { id }) => ask("DELETE", `/factorial/${id}`),
};
