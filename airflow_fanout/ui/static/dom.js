// Elements that several parts of the pages are made of.

export function element(tag, text, className = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

// A group's figures, as the server words them: [{name, value, note}, …].
export const figureElements = (figures) => figures.map(({ name, value, note }) => {
  const figure = element("div", "");
  figure.title = note;
  figure.append(element("dt", name), element("dd", value), element("dd", note, "note"));
  return figure;
});

export function stateElement(state) {
  const dot = element("span", state, "state");
  dot.dataset.state = state;
  return dot;
}
