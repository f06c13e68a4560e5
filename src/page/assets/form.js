// What is wrong in a form stands at its field.

/** What is wrong with a text that must be a whole number; nothing, if it is one. */
export function whole(text, least, most) {
  const trimmed = text.trim();
  const number = Number(trimmed);
  const is_right = /^\d+$/.test(trimmed) && number >= least && number <= most;
  return is_right ? "" : `Write a whole number from ${least} to ${most}`;
}

/** Puts a message at each field, by name; an Error if there is one, for the form as a whole. */
export function mark(form, messages) {
  let first = null;
  for (const [name, message] of Object.entries(messages)) {
    const field = form.elements[name];
    const label = field.closest("label");
    let place = label.querySelector(".at-field");
    if (!place) {
      place = document.createElement("span");
      place.className = "at-field";
      place.id = `${form.dataset.action}-${name}-wrong`;
      label.append(place);
      field.setAttribute("aria-describedby", place.id);
    }
    place.textContent = message;
    field.setAttribute("aria-invalid", String(message !== ""));
    if (message !== "") first ??= field;
  }
  if (first) {
    first.focus();
    throw new Error("Please correct what is marked.");
  }
}

/** The same for what the server says, `name: what is wrong`, if it has a field of that name. */
export function markRefusal(form, error) {
  const [, name, message] = /^(\w+): (.*)$/s.exec(error.message) ?? [];
  if (name && form.elements[name]?.closest("label")) mark(form, { [name]: message });
  throw error;
}
