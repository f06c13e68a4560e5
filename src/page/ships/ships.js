// Ships: choose one, start and stop streams.

import { ask } from "./api.js";
import { mark, whole } from "./form.js";

async function find(form) {
  const ship = form.elements.ship.value.trim();
  mark(form, { ship: ship === "" ? "Which ship? Write its name" : "" });
  location.hash = `#ships?ship=${encodeURIComponent(ship)}`;
}

async function start(form) {
  const { ship_name, host, port, rate, lifetime_seconds } = form.elements;
  mark(form, {
    host: host.value.trim() === "" ? "Where to? Write a host, such as 127.0.0.1" : "",
    port: whole(port.value, 1, 65_535),
    rate: rate.value.trim() === "" ? "" : whole(rate.value, 0, 10_000_000),
    lifetime_seconds: lifetime_seconds.value.trim() === "" ? "" : whole(lifetime_seconds.value, 1, 31_536_000),
  });
  const wish = { host: host.value.trim(), port: Number(port.value) };
  if (ship_name.value.trim() !== "") wish.ship_name = ship_name.value.trim();
  for (const field of [rate, lifetime_seconds]) {
    if (field.value.trim() !== "") wish[field.name] = Number(field.value);
  }
  await ask("POST", "/stream/", wish);
}

async function stop(_, { id }) {
  try {
    await ask("DELETE", `/stream/${encodeURIComponent(id)}`);
  } catch (error) {
    // It has ended meanwhile, which is what was wanted.
    if (error.status !== 404) throw error;
  }
}

export const actions = { "find-ship": find, "start-stream": start, "stop-stream": stop };
