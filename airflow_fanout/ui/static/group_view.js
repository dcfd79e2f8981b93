// One group of the run: how far it is, what it brought, what failed and why, and its time line.

import { element, figureElements } from "./dom.js";
import { FailedList } from "./failed_list.js";
import { visible } from "./format.js";
import { TimeLine } from "./time_line.js";

export class GroupView {
  constructor(title, onAgain) {
    this.element = document.getElementById("group").content.firstElementChild.cloneNode(true);
    this.find = (selector) => this.element.querySelector(selector);
    this.find(".title").textContent = visible(title);
    this.element.setAttribute("aria-label", `Group ${visible(title)}`);
    this.find(".again").addEventListener("click", onAgain);
    this.failed = new FailedList(this.find(".failed"));
    this.timeLine = new TimeLine(this.find(".time-line"), title);
  }

  update(group, now, mayClear) {
    this.outcomes = group.items ?? group;
    this.find(".mode").textContent = group.mode === "prefix" ? "by prefix" : group.mode;
    this.find(".head").textContent = group.headline;
    this.showProgress();
    this.find(".figures").replaceChildren(...figureElements(group.figures));
    const advice = this.find(".advice");
    advice.hidden = !group.advice.length;
    advice.replaceChildren(...group.advice.map(({ text }) => element("li", visible(text))));
    this.find(".again").hidden = !mayClear || !(this.outcomes.problem_count || this.outcomes.stopped);
    this.failed.update(group);
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
}
