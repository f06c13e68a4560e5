// What is live: one WebSocket that says what is looked at, and puts what comes into its place
// without touching what stays: focus, selection, what is open, what is typed.

import { token } from "./api.js";
import { setClock, writeTimes } from "./time.js";

const PAUSES_MS = [250, 500, 1000, 2000, 5000];
const BEAT_MS = 10_000;
const ANSWER_MS = 8000;
/** The most bytes that the server hears of what is looked at. */
const LOOKED_AT_BYTES_MAX = 1024;
/** The server does not know what is looked at: an old link, perhaps. */
const NO_VIEW = 1008;

let socket = null;
let lookedAt = "";
let tries = 0;
let timer = 0;
let overdue = 0;
let onState = () => {};

/** Calls with `live`, `connecting` or `lost` when that changes. */
export const whenState = (call) => (onState = call);

function send() {
  if (socket?.readyState !== WebSocket.OPEN) return;
  socket.send(document.hidden ? "" : lookedAt);
  overdue ||= setTimeout(lose, ANSWER_MS);
}

/** Looks at `view?focus` from now on. */
export function look(text) {
  if (new TextEncoder().encode(text).length > LOOKED_AT_BYTES_MAX) return lookAtNothing();
  lookedAt = text;
  send();
}

/** Leaves an address that says nothing: not as a step back, which would lead there again. */
function lookAtNothing() {
  location.replace("#");
}

/** Opens the socket, at once if it is not open. */
export function connect() {
  if (socket && socket.readyState <= WebSocket.OPEN) return;
  disconnect();
  const url = `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/page/live`;
  const bearer = token.get() ? [`bearer.${encodeURIComponent(token.get())}`] : [];
  const opened = new WebSocket(url, ["page", ...bearer]);
  socket = opened;
  overdue = setTimeout(lose, ANSWER_MS);
  opened.onopen = () => {
    answered();
    onState("live");
    send();
  };
  opened.onmessage = ({ data }) => {
    answered();
    tries = 0;
    if (data.includes("\n")) show(data);
    else setClock(Number(data));
  };
  opened.onclose = ({ code }) => {
    if (code === NO_VIEW) lookAtNothing();
    lose();
  };
}

function answered() {
  clearTimeout(overdue);
  overdue = 0;
}

/** Ends the socket; the next one has the token that is there then. */
export function disconnect() {
  clearTimeout(timer);
  answered();
  if (!socket) return;
  // A dead link tells its end only after a minute, and nothing of it is of use by then.
  socket.onopen = socket.onmessage = socket.onclose = null;
  socket.close();
  socket = null;
}

function lose() {
  disconnect();
  const pause = PAUSES_MS[Math.min(tries, PAUSES_MS.length - 1)];
  timer = setTimeout(connect, pause * (0.5 + Math.random() / 2));
  tries += 1;
  onState(tries > 3 ? "lost" : "connecting");
}

setInterval(send, BEAT_MS);
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) connect();
  send();
});
addEventListener("online", connect);

function show(data) {
  const end = data.indexOf("\n");
  const [address, id] = data.slice(0, end).split("#");
  if (address !== lookedAt) return;
  const element = document.getElementById(id);
  if (!element) return;
  const fresh = document.createElement("template");
  fresh.innerHTML = data.slice(end + 1);
  writeTimes(fresh.content);
  morph(element, fresh.content);
  element.dispatchEvent(new CustomEvent("shown", { bubbles: true }));
}

/** Makes the children of `old` those of `fresh`, keeping every element that is in both. */
function morph(old, fresh) {
  const byId = new Map();
  const staying = new Set([...fresh.children].map((child) => child.id));
  for (const child of [...old.children]) {
    // What has gone goes first: whatever else is moved loses the focus.
    if (child.id && !staying.has(child.id)) child.remove();
    else if (child.id) byId.set(child.id, child);
  }
  let place = old.firstChild;
  for (const child of [...fresh.childNodes]) {
    let kept = child.id ? byId.get(child.id) : null;
    if (!kept && !child.id) {
      kept = place;
      while (kept && kept.id && kept.nodeType === Node.ELEMENT_NODE) kept = kept.nextSibling;
      if (kept && (kept.nodeName !== child.nodeName)) kept = null;
    }
    if (kept && kept.nodeName === child.nodeName) {
      while (place && place !== kept && place.nodeType !== Node.ELEMENT_NODE) {
        const next = place.nextSibling;
        place.remove();
        place = next;
      }
      if (kept === place) place = place.nextSibling;
      else old.insertBefore(kept, place);
      update(kept, child);
    } else {
      old.insertBefore(child, place);
    }
  }
  while (place) {
    const next = place.nextSibling;
    place.remove();
    place = next;
  }
}

function update(old, fresh) {
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  if (old.isEqualNode(fresh)) return;
  // What a person has opened stays open, and what they have closed stays closed.
  const isTheirs = (name) => name === "open" && old.localName === "details";
  for (const { name, value } of fresh.attributes) {
    if (old.getAttribute(name) !== value && !isTheirs(name)) old.setAttribute(name, value);
  }
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && !isTheirs(name)) old.removeAttribute(name);
  }
  morph(old, fresh);
}
