// Times in the reader's zone: `<time datetime>` as date and time, with `data-age` as an age, with
// `data-elapsed` as a span that goes on. The exact value stands in the title.

const date = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });
const exact = new Intl.DateTimeFormat(undefined, {
  dateStyle: "full",
  timeStyle: "long",
});

/** By how much the server's clock is ahead of this one, in ms. */
let ahead = 0;
export const setClock = (serverNow) => (ahead = serverNow - Date.now());
/** The time by the server's clock, in ms since 1970. */
export const now = () => Date.now() + ahead;

/** As the server writes a span: ms, s, m, h. */
export function span(ms) {
  const tenths = (unit) => (Math.floor((ms * 10) / unit) / 10).toFixed(1);
  if (ms < 1000) return `${Math.max(0, Math.round(ms))} ms`;
  if (ms < 60_000) return `${tenths(1000)} s`;
  if (ms < 3_600_000) return `${tenths(60_000)} m`;
  return `${tenths(3_600_000)} h`;
}

function age(ms) {
  const seconds = Math.abs(Math.round(ms / 1000));
  const [amount, unit] =
    seconds < 60 ? [seconds, "s"]
    : seconds < 3600 ? [Math.floor(seconds / 60), "min"]
    : seconds < 86_400 ? [Math.floor(seconds / 3600), "h"]
    : [Math.floor(seconds / 86_400), "d"];
  if (seconds === 0) return "now";
  return ms >= 0 ? `${amount} ${unit} ago` : `in ${amount} ${unit}`;
}

function write(element) {
  const at = new Date(element.getAttribute("datetime") ?? element.dataset.time);
  if (Number.isNaN(at.getTime())) return;
  let text;
  if (element.hasAttribute("data-age")) text = age(now() - at);
  else if (element.hasAttribute("data-elapsed")) text = span(now() - at);
  else if (element.hasAttribute("data-time")) text = clock.format(at);
  else text = date.format(at);
  if (element.textContent !== text) element.textContent = text;
  if (element.localName === "time") {
    const title = `${exact.format(at)} (${element.getAttribute("datetime")})`;
    if (element.title !== title) element.title = title;
  }
}

/** Writes all times within an element. */
export function writeTimes(root) {
  for (const element of root.querySelectorAll("time[datetime], text[data-time]")) write(element);
}

setInterval(() => {
  for (const element of document.querySelectorAll("time[data-age], time[data-elapsed]")) {
    if (element.checkVisibility()) write(element);
  }
}, 1000);
