// The page of a Dag: its last runs, group by group, and which branches failed how often.

import { dressLikeAirflow, link, readHistory, tabAddress, why } from "./airflow.js";
import { element, figureElements, stateElement } from "./dom.js";
import { count, counted, duration, localTime, visible } from "./format.js";

const ratio = (number) => (number === null ? "–" : `${number.toFixed(1)}×`);

function row(kind, cells) {
  const made = element("tr", "");
  cells.forEach((content, index) => {
    const cell = element(kind === "th" || index === 0 ? "th" : "td", "");
    if (cell.localName === "th") cell.scope = kind === "th" ? "col" : "row";
    cell.append(content);
    made.append(cell);
  });
  return made;
}

function groupElement(group) {
  const made = document.getElementById("group").content.firstElementChild.cloneNode(true);
  const find = (selector) => made.querySelector(selector);
  const title = visible(group.title);
  const nouns = group.mode === "batched" ? ["item", "items"] : ["branch", "branches"];
  made.setAttribute("aria-label", `Group ${title}`);
  find(".title").textContent = title;
  find(".mode").textContent = group.mode === "prefix" ? "by prefix" : group.mode;
  find(".head").textContent = group.headline;
  find(".figures").replaceChildren(...figureElements(group.figures));
  find(".walls").replaceChildren(...wallElements(group.runs));
  const heading = ["Run", "State", "Queued", group.mode === "batched" ? "Items" : "Branches", "Failed", "Wall", "Work", "Speed-up", `Per ${nouns[0]}`];
  find(".runs thead").append(row("th", heading));
  find(".runs tbody").append(...group.runs.map((run) => row("td", [
    link(tabAddress(run.run_id), visible(run.run_id)), stateElement(run.state), localTime(run.queued),
    count(run.total), count(run.failed), duration(run.wall_seconds), duration(run.work_seconds),
    ratio(run.speed_up), duration(run.mean_work_seconds),
  ])));
  const { failures, failure_count: total } = group;
  find(".failed").hidden = !total;
  find(".failed summary").textContent = `${counted(total, ...nouns)} failed in one of these runs or more`;
  find(".failed tbody").append(...failures.map((branch) => row("td", [
    element("span", visible(branch.name)), `${count(branch.failed)} of ${counted(branch.runs, "run", "runs")}`,
    visible(branch.error ?? "–"),
  ])));
  if (total > failures.length) find(".failed").append(element("p", `and ${count(total - failures.length)} more`));
  return made;
}

// A bar for each run, the oldest first, as high as its wall is long.
function wallElements(runs) {
  const longest = Math.max(...runs.map((run) => run.wall_seconds ?? 0)) || 1;
  return runs.toReversed().map((run) => {
    const bar = element("span", "");
    bar.dataset.state = run.failed && run.state === "success" ? "up_for_retry" : run.state;
    bar.style.height = `${Math.max(4, (100 * (run.wall_seconds ?? 0)) / longest)}%`;
    bar.title = `${visible(run.run_id)}: ${duration(run.wall_seconds)}, ${count(run.failed)} failed`;
    return bar;
  });
}

async function show() {
  const notice = document.getElementById("notice");
  const box = document.getElementById("groups");
  let history;
  try {
    history = await readHistory();
  } catch (error) {
    notice.textContent = why(error);
    return;
  }
  const unread = history.unread ? `, ${count(history.unread)} of which can't be read any more` : "";
  notice.textContent = history.groups.length
    ? `The last ${counted(history.runs, "run", "runs")}${unread}.`
    : "Nothing was fanned out in the last runs that a fan-in collects, so there is nothing to show here.";
  box.replaceChildren(...history.groups.map(groupElement));
  box.dataset.state = "shown";
}

dressLikeAirflow();
show();
