// One group of the run: how far it is, what it brought, what failed and why, and its time line.

import { link, logAddress } from "./airflow.js";
import { count, counted, visible } from "./format.js";
import { TimeLine } from "./time_line.js";

const AT_FIRST = 20; // failed branches that are listed unasked

export class GroupView {
  constructor(title, onAgain) {
    this.element = document.getElementById("group").content.firstElementChild.cloneNode(true);
    this.find = (selector) => this.element.querySelector(selector);
    this.find(".title").textContent = visible(title);
    this.element.setAttribute("aria-label", `Group ${visible(title)}`);
    this.find(".again").addEventListener("click", onAgain);
    this.find(".more").addEventListener("click", () => {
      this.listed = Infinity;
      this.showFailed();
    });
    this.listed = AT_FIRST;
    this.timeLine = new TimeLine(this.find(".time-line"), title);
  }

  update(group, now, mayClear) {
    this.group = group;
    this.outcomes = group.items ?? group;
    this.find(".mode").textContent = group.mode === "prefix" ? "by prefix" : group.mode;
    this.find(".head").textContent = group.headline;
    this.showProgress();
    this.find(".figures").replaceChildren(...group.figures.map(({ name, value, note }) => {
      const figure = element("div", "");
      const explained = element("dd", note);
      explained.className = "note";
      figure.title = note;
      figure.append(element("dt", name), element("dd", value), explained);
      return figure;
    }));
    const advice = this.find(".advice");
    advice.hidden = !group.advice.length;
    advice.replaceChildren(...group.advice.map(({ text }) => element("li", visible(text))));
    this.find(".again").hidden = !mayClear || !(this.outcomes.problem_count || this.outcomes.stopped);
    this.showFailed();
    const isEmpty = !group.branches.length;
    this.find(".time-line").hidden = isEmpty;
    if (!isEmpty) this.timeLine.update(group, now);
  }

  showProgress() {
    const { states } = this.outcomes;
    const parts = Object.keys(states).filter((state) => state !== "removed").reverse().map((state) => {
      const part = element("span", "");
      part.dataset.state = state;
      part.style.flexGrow = String(states[state]);
      return part;
    });
    this.find(".progress").replaceChildren(...parts);
  }

  showFailed() {
    const { problems, problem_count: total } = this.outcomes;
    this.find(".failed").hidden = !total;
    if (!total) return;
    this.find(".failed summary").textContent = this.group.failures;
    const rows = problems.slice(0, this.listed).map(problemRow);
    const more = this.find(".more");
    const left = problems.length - rows.length;
    more.hidden = left <= 0;
    more.textContent = `Show ${count(left)} more`;
    const unlisted = total - problems.reduce((sum, problem) => sum + problem.items, 0);
    if (unlisted && left <= 0) {
      const note = element("td", `${count(unlisted)} more: open the batches below`);
      note.colSpan = 5;
      const row = element("tr", "");
      row.append(note);
      rows.push(row);
    }
    this.find(".failed tbody").replaceChildren(...rows);
  }
}

function problemRow(problem) {
  const row = element("tr", "");
  const name = element("th", "");
  name.scope = "row";
  name.append(element("span", visible(problem.name) + (problem.items > 1 ? `: ${counted(problem.items, "item", "items")}` : "")));
  const state = element("td", "");
  const dot = element("span", problem.state);
  dot.className = "state";
  dot.dataset.state = problem.state;
  state.append(dot);
  const log = element("td", "");
  if (problem.task_id !== null) log.append(link(logAddress(problem), "Log", `Log of ${visible(problem.name)}`));
  row.append(name, state, element("td", visible(problem.error ?? "–")), element("td", problem.item_tries ?? problem.tries ?? "–"), log);
  return row;
}

function element(tag, text) {
  const made = document.createElement(tag);
  made.textContent = text;
  return made;
}
