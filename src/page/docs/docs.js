// The API as people read it, written from /openapi.json. All of it is put in as text.

const DOCUMENT = "/openapi.json";
/** The heading of what needs no token. */
const OPEN = "about the server";
const METHODS = ["get", "post", "put", "patch", "delete"];
const EXAMPLES = {
  "date-time": "2026-11-22T07:30:00Z",
  uuid: "019a0000-0000-7000-8000-000000000000",
};

const byId = (id) => document.getElementById(id);
const isLocked = document.body.hasAttribute("data-locked");

/** An element; of its children, texts stay texts and nothing is left out. */
function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

const code = (text) => make("code", {}, text);
const said = (text) => (text ? make("p", {}, text) : null);
const within = (heading, ...parts) => [make("h3", {}, heading), ...parts];

/** What a `$ref` stands for. */
function resolved(api, part) {
  if (!part?.$ref) return part ?? {};
  const steps = part.$ref.replace(/^#\//, "").split("/");
  return steps.reduce((found, step) => found?.[step], api) ?? {};
}

// Schemas.

const nameOf = (part) => part.$ref?.split("/").at(-1);
const schemaId = (name) => `schema-${name}`;

/** A type in a few words: `array of Entry`, `integer, 1 or more`. */
function kind(schema) {
  const name = nameOf(schema);
  if (name) return [make("a", { href: `#${schemaId(name)}` }, name)];
  if (schema === true || Object.keys(schema).length === 0) return ["anything"];
  if (schema.const !== undefined) return [code(JSON.stringify(schema.const))];
  if (schema.enum) {
    return schema.enum.flatMap((value, at) => [at ? " or " : "", code(JSON.stringify(value))]);
  }
  for (const either of [schema.oneOf, schema.anyOf]) {
    if (either) return either.flatMap((one, at) => [at ? " or " : "", ...kind(one)]);
  }
  if (schema.allOf) return schema.allOf.flatMap((one, at) => [at ? " and " : "", ...kind(one)]);
  const type = [schema.type ?? "anything"].flat().join(" or ");
  if (type === "array" && schema.items) return ["array of ", ...kind(schema.items), limits(schema)];
  return [type, limits(schema)];
}

function limits(schema) {
  const [least, most] = [
    schema.minimum ?? schema.minLength ?? schema.minItems,
    schema.maximum ?? schema.maxLength ?? schema.maxItems,
  ];
  const unit = schema.maxLength ?? schema.minLength ? " characters"
    : schema.maxItems ?? schema.minItems ? " elements" : "";
  const words = [
    schema.format,
    least !== undefined && most !== undefined ? `${least} to ${most}${unit}`
    : least !== undefined ? `${least}${unit} or more`
    : most !== undefined ? `${most}${unit} or less` : undefined,
    schema.default !== undefined ? `default ${JSON.stringify(schema.default)}` : undefined,
    schema.pattern !== undefined ? `matching ${schema.pattern}` : undefined,
  ];
  return words.filter((word) => word !== undefined).map((word) => `, ${word}`).join("");
}

/** The members of an object, and of what is in it. */
function members(schema) {
  const parts = [schema, ...(schema.allOf ?? []), ...(schema.oneOf ?? []), ...(schema.anyOf ?? [])];
  const lists = parts.filter((part) => part.properties).map((part) => {
    const rows = Object.entries(part.properties).map(([name, member]) =>
      make(
        "li",
        {},
        code(name),
        " ",
        ...kind(member),
        part.required?.includes(name) ? ", required" : "",
        member.description ? `: ${member.description}` : "",
        members(member),
      ),
    );
    return make("ul", { class: "members" }, rows);
  });
  if (schema.items && !nameOf(schema.items)) lists.push(...members(schema.items));
  return lists;
}

const described = (schema) => [
  make("p", {}, ...kind(schema), schema.description ? `: ${schema.description}` : ""),
  ...members(schema),
];

/** A value that a schema allows, as small as it may be. */
function example(api, schema, depth = 0) {
  const plain = resolved(api, schema);
  if (plain.const !== undefined) return plain.const;
  if (plain.example !== undefined) return plain.example;
  if (plain.default !== undefined) return plain.default;
  if (plain.enum) return plain.enum[0];
  const either = plain.oneOf ?? plain.anyOf ?? plain.allOf;
  if (either && !plain.properties) return example(api, either[0], depth + 1);
  switch ([plain.type].flat()[0]) {
    case "object": {
      if (depth > 5) return {};
      const all = Object.entries(plain.properties ?? {});
      const needed = all.filter(([name]) => plain.required?.includes(name));
      const chosen = needed.length > 0 ? needed : all.slice(0, 1);
      return Object.fromEntries(
        chosen.map(([name, member]) => [name, example(api, member, depth + 1)]),
      );
    }
    case "array":
      return plain.items && depth <= 5 ? [example(api, plain.items, depth + 1)] : [];
    case "integer":
    case "number":
      return plain.minimum ?? 1;
    case "boolean":
      return true;
    case "null":
      return null;
    default:
      return EXAMPLES[plain.format] ?? "text";
  }
}

// Operations.

/** The scope that a request needs, as the server has it: who reads reads, all else writes. */
const scope = (operation, method) =>
  !operation.security?.length ? "no token" : method === "get" ? "scope read" : "scope write";

const inQuotes = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

/** A line for the shell. What stands in the path is left to variables. */
function curl(api, path, method, operation) {
  const body = resolved(api, operation.requestBody).content;
  const words = ["curl"];
  // As curl does by itself.
  if (method !== (body ? "post" : "get")) words.push("-X", method.toUpperCase());
  if (isLocked && operation.security?.length) words.push('-H "Authorization: Bearer $TOKEN"');
  if (body) {
    const type = "application/json" in body ? "application/json" : Object.keys(body)[0];
    words.push(`-H ${inQuotes(`Content-Type: ${type}`)}`);
    const value = example(api, body[type].schema ?? {});
    words.push(`-d ${inQuotes(typeof value === "string" ? value : JSON.stringify(value))}`);
  }
  const named = path.replace(/\{(\w+)\}/g, (_, name) => `$${name.toUpperCase()}`);
  words.push(named === path ? location.origin + path : `"${location.origin}${named}"`);
  return words.join(" ");
}

function parameters(api, all) {
  const rows = all.map((part) => resolved(api, part)).map((part) =>
    make(
      "tr",
      {},
      make("td", {}, code(part.name)),
      make("td", {}, part.in, part.required ? ", required" : ""),
      make("td", { class: "long" }, ...kind(part.schema ?? {}),
        part.description ? `: ${part.description}` : ""),
    ),
  );
  const heads = ["name", "in", "what"].map((head) => make("th", { scope: "col" }, head));
  const table = make("table", {}, make("thead", {}, make("tr", {}, heads)), make("tbody", {}, rows));
  return within("Parameters", make("div", { class: "scroll" }, table));
}

const content = (of) => Object.entries(of ?? {}).flatMap(([type, { schema }]) => [
  make("p", {}, code(type)),
  ...(schema ? described(schema) : []),
]);

function answers(api, all) {
  const rows = Object.entries(all ?? {}).flatMap(([status, part]) => {
    const answer = resolved(api, part);
    const headers = Object.entries(answer.headers ?? {}).map(([name, header]) =>
      make("p", {}, "Header ", code(name), header.description ? `: ${header.description}` : ""));
    const what = [answer.description ?? "", ...headers, ...content(answer.content)];
    return [make("dt", {}, status), make("dd", {}, what)];
  });
  return within("Answers", make("dl", { class: "answers" }, rows));
}

function operation(api, path, method, shared, part) {
  const all = [...(shared ?? []), ...(part.parameters ?? [])];
  const body = resolved(api, part.requestBody);
  const line = curl(api, path, method, part);
  const copy = make("button", { type: "button", class: "quiet" }, "Copy");
  copy.addEventListener("click", () => copied(copy, line));
  return make(
    "details",
    { class: "operation", id: `${method}-${path}` },
    make(
      "summary",
      {},
      make("code", { class: "method" }, method.toUpperCase()),
      code(path),
      make("span", {}, part.summary ?? ""),
      make("span", { class: "scope" }, scope(part, method)),
    ),
    said(part.description),
    make("div", { class: "curl" }, make("pre", { tabindex: "0" }, line), copy),
    all.length ? parameters(api, all) : [],
    body.content ? within("Body", said(body.description), ...content(body.content)) : [],
    answers(api, part.responses),
    make("p", {}),
  );
}

async function copied(button, text) {
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    // Without TLS a browser lets no page copy: the line is marked, for the keyboard.
    getSelection().selectAllChildren(button.previousSibling);
    button.textContent = "Marked";
  }
  setTimeout(() => (button.textContent = "Copy"), 2000);
}

// The page.

function filter() {
  const words = byId("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const all = [...document.querySelectorAll(".operation, .schema")];
  for (const one of all) {
    const text = one.textContent.toLowerCase();
    one.hidden = !words.every((word) => text.includes(word));
  }
  for (const group of document.querySelectorAll("#operations > section, #schemas > section")) {
    group.hidden = !group.querySelector("details:not([hidden])");
  }
  const shown = all.filter((one) => !one.hidden && one.matches(".operation")).length;
  const requests = `${shown} ${shown === 1 ? "request" : "requests"}`;
  byId("matches").textContent = words.length ? requests : `${requests} in all`;
}

function unfold() {
  const isOpen = byId("unfold").getAttribute("aria-pressed") !== "true";
  byId("unfold").setAttribute("aria-pressed", String(isOpen));
  byId("unfold").textContent = isOpen ? "Close all" : "Open all";
  for (const one of document.querySelectorAll(".operation, .schema")) one.open = isOpen;
}

/** Opens what the address names. */
function openNamed() {
  const named = byId(decodeURIComponent(location.hash.slice(1)));
  if (named?.localName !== "details") return;
  named.hidden = false;
  named.open = true;
  named.scrollIntoView();
  named.querySelector("summary").focus();
}

/** Sections by the first word of their paths; what anybody may ask comes last. */
function show(api) {
  const groups = new Map();
  for (const [path, methods] of Object.entries(api.paths ?? {})) {
    for (const method of METHODS.filter((method) => methods[method])) {
      const group = methods[method].security?.length ? path.split("/")[1] : OPEN;
      const shown = operation(api, path, method, methods.parameters, methods[method]);
      groups.set(group, [...(groups.get(group) ?? []), shown]);
    }
  }
  const ordered = [...groups].sort(([one], [other]) => (one === OPEN) - (other === OPEN));
  const sections = ordered.map(([group, all]) => make("section", {}, make("h2", {}, group), all));
  byId("operations").replaceChildren(...sections);
  const schemas = Object.entries(api.components?.schemas ?? {}).map(([name, schema]) =>
    make(
      "details",
      { class: "schema", id: schemaId(name) },
      make("summary", {}, code(name)),
      ...described(schema),
    ),
  );
  byId("schemas").replaceChildren(make("section", {}, make("h2", {}, "Schemas"), schemas));
  filter();
  openNamed();
}

async function load() {
  try {
    const got = await fetch(DOCUMENT);
    if (!got.ok) throw new Error(`${got.status} ${got.statusText}`);
    show(await got.json());
  } catch (error) {
    const retry = make("button", { type: "button" }, "Try again");
    retry.addEventListener("click", load);
    const what = make("strong", {}, "The description cannot be read now. ");
    byId("operations").replaceChildren(
      make("div", { class: "trouble", role: "alert" }, make("p", {}, what, error.message), retry),
    );
  }
}

byId("filter").addEventListener("input", filter);
byId("search").addEventListener("submit", (event) => event.preventDefault());
byId("unfold").addEventListener("click", unfold);
addEventListener("hashchange", openNamed);
// As `/` does on many pages: to the filter.
addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.target.matches("input")) return;
  event.preventDefault();
  byId("filter").focus();
});
load();
