// What keeps a person from using what is shown: a list of findings in words, empty if nothing does.

const findings = [];
const shown = element => element.checkVisibility({ visibilityProperty: true });
const all = selector => [...document.querySelectorAll(selector)].filter(shown);
const short = element => element.outerHTML.slice(0, 160);

if (document.documentElement.lang === "") findings.push("the document has no language");
if (document.title === "") findings.push("the document has no title");
const heads = all("h1");
if (heads.length !== 1) findings.push(`${heads.length} headings of the first level`);

const ids = [...document.querySelectorAll("[id]")].map(element => element.id);
const twice = ids.filter((id, at) => ids.indexOf(id) !== at);
if (twice.length) findings.push(`ids that stand twice: ${twice}`);

for (const field of all("input, select, textarea")) {
  const named = field.labels?.length || field.getAttribute("aria-label")
    || field.getAttribute("aria-labelledby") || field.type === "hidden";
  if (!named) findings.push(`a field without a label: ${short(field)}`);
}
for (const button of all("button, a[href], summary, [role=button], [role=tab]")) {
  const name = button.innerText.trim() || button.getAttribute("aria-label") || button.title;
  if (!name) findings.push(`something to press that has no name: ${short(button)}`);
}
for (const image of all("img, svg")) {
  if (image.parentElement.closest("svg, [role=img]")) continue;
  const named = image.getAttribute("aria-label") || image.getAttribute("aria-labelledby")
    || image.getAttribute("alt") || image.querySelector("title")
    || image.closest("[aria-hidden=true]");
  if (!named) findings.push(`a picture without words: ${short(image)}`);
}
for (const table of all("table")) {
  if (!table.querySelector("th")) findings.push(`a table without heads: ${short(table)}`);
}
for (const part of document.querySelectorAll("[aria-labelledby], [aria-describedby]")) {
  for (const name of ["aria-labelledby", "aria-describedby"]) {
    for (const id of (part.getAttribute(name) ?? "").split(/\s+/).filter(Boolean)) {
      if (!document.getElementById(id)) findings.push(`${name} of nothing: ${short(part)}`);
    }
  }
}

// Contrast (WCAG 2.2, 1.4.3). A canvas turns any way to write a colour into bytes.
const pen = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
const known = new Map();
function bytes(colour) {
  if (!known.has(colour)) {
    pen.clearRect(0, 0, 1, 1);
    pen.fillStyle = colour;
    pen.fillRect(0, 0, 1, 1);
    const [red, green, blue, alpha] = pen.getImageData(0, 0, 1, 1).data;
    known.set(colour, [red, green, blue, alpha / 255]);
  }
  return known.get(colour);
}
const over = (top, below, alpha = top[3]) =>
  [0, 1, 2].map(part => top[part] * alpha + below[part] * (1 - alpha)).concat(1);
function ground(element) {
  const layers = [];
  for (let at = element; at; at = at.parentElement) {
    const colour = bytes(getComputedStyle(at).backgroundColor);
    if (colour[3] > 0) layers.push(colour);
    if (colour[3] === 1) break;
  }
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  return layers.reduceRight((below, top) => over(top, below), dark ? [18, 18, 18, 1] : [255, 255, 255, 1]);
}
function light(colour) {
  const [red, green, blue] = colour.slice(0, 3).map(part => {
    const share = part / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}
const told = new Set();
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const text = walker.currentNode.data.trim();
  const element = walker.currentNode.parentElement;
  if (text === "" || !shown(element) || element.closest(":disabled, option, noscript, script")) continue;
  if (element.matches(".unseen, .skip")) continue;
  const style = getComputedStyle(element);
  let opacity = 1;
  for (let at = element; at; at = at.parentElement) opacity *= getComputedStyle(at).opacity;
  const below = ground(element);
  const ink = bytes(element instanceof SVGElement ? style.fill : style.color);
  const mixed = over(ink, below, ink[3] * opacity);
  const [more, less] = [light(mixed), light(below)].sort((one, other) => other - one);
  const ratio = (more + 0.05) / (less + 0.05);
  const size = parseFloat(style.fontSize);
  const isLarge = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
  const key = `${mixed} ${below}`;
  if (ratio < (isLarge ? 3 : 4.5) && !told.has(key)) {
    told.add(key);
    findings.push(`${JSON.stringify(text.slice(0, 40))} has a contrast of ${ratio.toFixed(2)}: ${short(element)}`);
  }
}

// A phone would show a wider page smaller, and say that its window is as wide.
const { scrollWidth } = document.scrollingElement;
const { clientWidth } = document.documentElement;
if (scrollWidth > clientWidth) {
  // What is placed by itself is cut only by what it is placed in.
  const around = element =>
    getComputedStyle(element).position === "absolute" ? element.offsetParent : element.parentElement;
  const isCut = element => {
    for (let at = around(element); at && at !== document.body; at = around(at)) {
      if (getComputedStyle(at).overflowX !== "visible") return true;
    }
    return false;
  };
  const wide = [...document.body.querySelectorAll("body *")].filter(element =>
    shown(element) && element.getBoundingClientRect().right > clientWidth + 1 && !isCut(element));
  const last = wide.filter(element => !wide.some(other => other !== element && element.contains(other)));
  findings.push(`${scrollWidth} pixels wide in ${clientWidth}: ${last.slice(0, 3).map(short)}`);
}
return findings;
