// What failed in a group, and why: branches with one kind of error are one row, which opens to each of them.

import { link, logAddress } from "./airflow.js";
import { element, stateElement } from "./dom.js";
import { count, counted, visible } from "./format.js";

const AT_FIRST = 20; // kinds, and branches of a kind, that are listed unasked

export class FailedList {
  constructor(root) {
    this.root = root;
    this.listed = AT_FIRST;
    this.opened = new Map(); // error of an opened kind -> how many of its branches to list
    this.find = (selector) => root.querySelector(selector);
    this.find(".more").addEventListener("click", () => {
      this.listed = Infinity;
      this.show();
    });
  }

  update(group) {
    this.group = group;
    this.outcomes = group.items ?? group;
    this.noun = group.items ? ["item", "items"] : ["branch", "branches"];
    this.show();
  }

  show() {
    const { errors, problems, problem_count: total } = this.outcomes;
    this.root.hidden = !total;
    if (!total) return;
    this.find("summary").textContent = this.group.failures;
    const focused = this.root.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    const ofKind = errors.map(() => []);
    for (const problem of problems) ofKind[problem.kind]?.push(problem);
    const rows = errors.slice(0, this.listed).flatMap((kind, index) => this.rowsOf(kind, ofKind[index]));
    const more = this.find(".more");
    more.hidden = errors.length <= this.listed;
    more.textContent = `Show ${count(errors.length - this.listed)} more kinds`;
    const others = total - errors.reduce((sum, kind) => sum + kind.number, 0);
    if (others && more.hidden) rows.push(wide(`${count(others)} more, of other kinds`));
    this.find("tbody").replaceChildren(...rows);
    if (focused) this.find(`button[data-key="${CSS.escape(focused)}"]`)?.focus();
  }

  rowsOf(kind, problems) {
    if (kind.names.length === 1 && !kind.unnamed) return problems.map(problemRow);
    const key = `${kind.state}: ${kind.error}`;
    const most = this.opened.get(key) ?? 0;
    const rows = [this.kindRow(kind, key, most > 0), ...problems.slice(0, most).map(problemRow)];
    for (const row of rows.slice(1)) row.className = "inside";
    if (!most) return rows;
    if (problems.length > most) {
      const button = this.button(`Show ${count(problems.length - most)} more`, `more ${key}`, () => this.opened.set(key, Infinity));
      rows.push(wide(button));
    } else {
      const unlisted = kind.number - problems.reduce((sum, problem) => sum + problem.items, 0);
      if (unlisted) rows.push(wide(`${count(unlisted)} more: open the batches below`));
    }
    return rows;
  }

  kindRow(kind, key, isOpen) {
    const row = element("tr", "");
    row.className = "kind";
    const number = element("th", "");
    number.scope = "row";
    const toggle = this.button(`${isOpen ? "▾" : "▸"} ${counted(kind.number, ...this.noun)}`, key, () => {
      if (!this.opened.delete(key)) this.opened.set(key, AT_FIRST);
    });
    toggle.setAttribute("aria-expanded", String(isOpen));
    const names = element("span", kind.names.map(visible).join(", ") + (kind.unnamed ? ` and ${count(kind.unnamed)} more` : ""));
    names.hidden = isOpen;
    number.append(toggle, names);
    row.append(number, stateCell(kind.state), element("td", visible(kind.error ?? "–")), element("td", ""), element("td", ""));
    return row;
  }

  button(text, key, onClick) {
    const button = element("button", text);
    button.type = "button";
    button.dataset.key = key;
    button.addEventListener("click", () => {
      onClick();
      this.show();
    });
    return button;
  }
}

function problemRow(problem) {
  const row = element("tr", "");
  const name = element("th", "");
  name.scope = "row";
  name.append(element("span", visible(problem.name) + (problem.items > 1 ? `: ${counted(problem.items, "item", "items")}` : "")));
  const log = element("td", "");
  if (problem.task_id !== null) log.append(link(logAddress(problem), "Log", `Log of ${visible(problem.name)}`));
  row.append(
    name, stateCell(problem.state), element("td", visible(problem.error ?? "–")),
    element("td", problem.item_tries ?? problem.tries ?? "–"), log,
  );
  return row;
}

function stateCell(state) {
  const cell = element("td", "");
  cell.append(stateElement(state));
  return cell;
}

function wide(content) {
  const row = element("tr", "");
  row.className = "inside";
  const cell = element("td", "");
  cell.colSpan = 5;
  cell.append(content);
  row.append(cell);
  return row;
}
