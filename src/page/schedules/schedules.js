// Schedules: add, cancel, remove.

import { ask, make } from "./api.js";
import { mark, markRefusal, whole } from "./form.js";
import { now } from "./time.js";

const form = document.querySelector("form[data-action=add-schedule]");
form.elements.time_zone.value = Intl.DateTimeFormat().resolvedOptions().timeZone;

const two = (number) => String(number).padStart(2, "0");

/** What was chosen by the reader's clock, as RFC 3339 with its offset from UTC. */
function withOffset(text) {
  const at = new Date(text);
  const minutes = -at.getTimezoneOffset();
  const offset = `${minutes < 0 ? "-" : "+"}${two(Math.floor(Math.abs(minutes) / 60))}:${two(Math.abs(minutes) % 60)}`;
  const date = `${String(at.getFullYear()).padStart(4, "0")}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;
  return `${date}T${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}${offset}`;
}

/** What is wrong with a time that must be in the future; nothing, if nothing is. */
function future(field, isNeeded) {
  if (field.validity.badInput) return "Choose a date and a time";
  if (field.value === "") return isNeeded ? "Choose when" : "";
  return new Date(field.value) > now() ? "" : "Choose a time in the future";
}

/** The JSON that was typed, so that numbers go as they are written; or the text that it is. */
function payload(text) {
  try {
    JSON.parse(text);
    return text;
  } catch {
    return JSON.stringify(text);
  }
}

/** What is wished for, as JSON. */
function wish({ what, when, ...fields }) {
  const order = what.value === "capture"
    ? { ship_name: fields.ship_name.value.trim(), duration: Number(fields.duration.value) }
    : { kind: fields.kind.value.trim() };
  if (when.value === "every") order.every_seconds = Number(fields.every_seconds.value);
  if (when.value === "cron") {
    order.cron = fields.cron.value.trim();
    order.time_zone = fields.time_zone.value.trim();
  } else if (fields.start_time.value !== "") {
    order.start_time = withOffset(fields.start_time.value);
  }
  if (when.value !== "once" && fields.until.value !== "") order.until = withOffset(fields.until.value);
  const text = JSON.stringify(order);
  if (what.value === "capture") return text;
  return `${text.slice(0, -1)},"payload":${payload(fields.payload.value)}}`;
}

async function add(form) {
  const names = [...form.elements].filter((field) => field.name);
  const fields = Object.fromEntries(names.map((field) => [field.name, field]));
  const [isCapture, when] = [fields.what.value === "capture", fields.when.value];
  document.getElementById("schedules-done").textContent = "";
  mark(form, {
    ship_name: isCapture && fields.ship_name.value.trim() === "" ? "Which ship? Write its name" : "",
    duration: isCapture ? whole(fields.duration.value, 1, 86_400) : "",
    kind: !isCapture && fields.kind.value.trim() === "" ? "Which kind? Write its name, such as echo" : "",
    payload: "",
    every_seconds: when === "every" ? whole(fields.every_seconds.value, 1, 31_622_400) : "",
    cron: when === "cron" && fields.cron.value.trim() === "" ? "When? As in 30 6 * * MON-FRI" : "",
    time_zone: when === "cron" && fields.time_zone.value.trim() === "" ? "Which zone? As in Europe/Berlin" : "",
    start_time: when === "cron" ? "" : future(fields.start_time, when === "once"),
    until: when === "once" ? "" : future(fields.until, false),
  });
  try {
    await make("/scheduler/", wish(fields));
  } catch (error) {
    markRefusal(form, error);
  }
  document.getElementById("schedules-done").textContent = "Scheduled.";
}

/** One that is gone already is what was wanted. */
async function unless(gone, asked) {
  try {
    await asked;
  } catch (error) {
    if (!gone.includes(error.status)) throw error;
  }
}

const path = ({ id }) => `/scheduler/${encodeURIComponent(id)}`;
// A bar of the timeline says its times in the reader's zone, as soon as it is pointed at.
const full = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "long" });
document.getElementById("schedules-timeline").addEventListener("pointerover", ({ target }) => {
  const bar = target.closest("rect[data-from]");
  if (!bar) return;
  const { says, from, to } = bar.dataset;
  const times = [from, to].filter(Boolean).map((at) => full.format(new Date(at)));
  bar.querySelector("title").textContent = `${says}: ${times.join(" – ")}`;
});


export const actions = {
  "add-schedule": add,
  "cancel-schedule": (_, data) => ask("POST", `${path(data)}/cancel`),
  "remove-schedule": async (_, data) => {
    await unless([404], ask("DELETE", path(data)));
    location.hash = "#schedules";
  },
};
