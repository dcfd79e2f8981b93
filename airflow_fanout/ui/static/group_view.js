// One group of the run: how far it is, what it brought, what failed and why, and its time line.

import { link, logAddress } from "./airflow.js";
import { bytes, count, counted, ratio, seconds, share, visible } from "./format.js";
import { byState, stateOf } from "./rows.js";
import { TimeLine } from "./time_line.js";

const DONE = new Set(["success", "failed", "upstream_failed", "skipped", "missing"]);
const PROBLEMS = new Set(["failed", "upstream_failed", "missing"]);
const AT_FIRST = 20; // failed branches that are listed unasked
const MODES = { static: "static", mapped: "mapped", batched: "batched", prefix: "by prefix" };

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
    this.find(".mode").textContent = MODES[group.mode] ?? group.mode;
    this.find(".head").textContent = head(group);
    this.showProgress();
    this.showFigures();
    const { limit } = group;
    this.find(".limit").hidden = limit === null;
    this.find(".limit").textContent = limit === null ? "" : `${limit}.`;
    const advice = this.find(".advice");
    advice.hidden = !group.advice.length;
    advice.replaceChildren(...group.advice.map((each) => element("li", visible(each.text))));
    this.problems = problems(group);
    this.find(".again").hidden = !mayClear || !this.problems.total;
    this.showFailed();
    const isEmpty = !group.branches.length;
    this.find(".time-line").hidden = isEmpty;
    if (!isEmpty) this.timeLine.update(group, now);
  }

  showProgress() {
    const states = this.group.items?.states ?? this.group.states;
    const bar = this.find(".progress");
    bar.replaceChildren();
    for (const state of Object.keys(states).sort(byState).reverse()) {
      if (state === "removed") continue;
      const part = element("span", "");
      part.dataset.state = state;
      part.style.flexGrow = String(states[state]);
      bar.append(part);
    }
  }

  showFigures() {
    const { group } = this;
    const atOnce = `${count(group.peak_concurrency)} of ${count(group.declared_concurrency)}`;
    const effective = group.effective_concurrency;
    const [slowest] = group.items?.slowest.length ? group.items.slowest : group.slowest;
    const figures = [
      ["Work", seconds(group.work_seconds), "Seconds inside the branches' code, added up"],
      ["Wall", seconds(group.wall_seconds), "From the first queued to the last one's end"],
      ["Speed-up", ratio(group.speed_up), "Work divided by wall"],
      ["Overhead", share(group.overhead_share), "Share of the time from queued to end that was no work"],
      ["At once", atOnce, `At the busiest moment, of all ${group.items === null ? "branches" : "batches"}`],
      ["Possible at once", effective === null ? "–" : count(effective), "What Airflow's limits let through now"],
      ["CPU", seconds(group.cpu_seconds), "CPU time inside the branches' code"],
      ["Memory", bytes(group.peak_memory_bytes), "At most, of one branch's process"],
      ["Slowest", slowest ? `${visible(slowest.name)}, ${seconds(slowest.seconds)}` : "–", "The slowest by its own work"],
    ];
    const shown = figures.map(([name, value, why]) => {
      const pair = element("div", "");
      pair.title = why;
      pair.append(element("dt", name), element("dd", value));
      return pair;
    });
    this.find(".figures").replaceChildren(...shown);
  }

  showFailed() {
    const { total, listed, unlisted } = this.problems;
    const box = this.find(".failed");
    box.hidden = !total;
    if (!total) return;
    this.find(".failed summary").textContent = `Failed: ${counted(total, this.problems.one, this.problems.many)}`;
    const rows = listed.slice(0, this.listed).map((each) => {
      const row = element("tr", "");
      const state = element("td", "");
      const dot = element("span", stateOf(each));
      dot.className = "state";
      dot.dataset.state = each.state;
      state.append(dot);
      const log = element("td", "");
      if (each.task_id !== null) log.append(link(logAddress(each), "Log", `Log of ${visible(each.name)}`));
      const name = element("th", titleOf(each));
      name.scope = "row";
      row.append(name, state, element("td", each.error === null ? "–" : visible(each.error)), element("td", each.tries ?? "–"), log);
      return row;
    });
    this.find(".failed tbody").replaceChildren(...rows);
    const more = this.find(".more");
    const left = listed.length - rows.length;
    more.hidden = left <= 0;
    more.textContent = `Show ${count(left)} more`;
    if (unlisted && left <= 0) {
      const note = element("td", `${count(unlisted)} more: open the batches below`);
      note.colSpan = 5;
      const row = element("tr", "");
      row.append(note);
      this.find(".failed tbody").append(row);
    }
  }
}

function head(group) {
  const batched = group.items !== null;
  const states = batched ? group.items.states : group.states;
  const total = batched ? group.items.total : group.total;
  const causes = group.causes.map((each) => `${each.task_id}${each.map_index < 0 ? "" : `[${each.map_index}]`} (${each.state})`);
  const cause = causes.length ? [`the cause lies before: ${causes.slice(0, AT_FIRST).join(", ")}${causes.length > AT_FIRST ? ", …" : ""}`] : [];
  if (!total && group.unexpanded !== null) return [`not expanded: ${group.unexpanded}`, ...cause].join(" · ");
  const of = (state) => states[state] ?? 0;
  const done = Object.keys(states).filter((each) => DONE.has(each)).reduce((sum, each) => sum + of(each), 0);
  const stopped = batched ? 0 : group.branches.filter((each) => each.is_stopped).length;
  const said = [`${count(done)} of ${counted(total, batched ? "item" : "branch", batched ? "items" : "branches")} done`];
  if (batched) said.push(`in ${counted(group.total, "batch", "batches")}`);
  for (const state of Object.keys(states).sort(byState)) {
    if (state === "success" || !of(state)) continue;
    if (state === "skipped" && stopped) {
      if (of(state) > stopped) said.push(`${count(of(state) - stopped)} skipped`);
      said.push(`${count(stopped)} stopped`);
    } else said.push(`${count(of(state))} ${state.replaceAll("_", " ")}`);
  }
  if (group.degraded) said.push("degraded");
  return [...said, ...cause].join(" · ");
}

// What left no value though it should have: {total, listed, unlisted, one, many}.
function problems(group) {
  const branches = group.branches.filter((each) => PROBLEMS.has(each.state) || each.is_stopped);
  if (group.items === null || !group.items.problem_count) {
    const kind = group.items === null ? ["branch", "branches"] : ["batch", "batches"];
    return { total: branches.length, listed: branches, unlisted: 0, one: kind[0], many: kind[1] };
  }
  const tries = new Map(group.branches.map((each) => [each.map_index, each.tries]));
  const listed = group.items.problems.map((each) => ({ ...each, tries: tries.get(each.map_index) ?? null }));
  const total = group.items.problem_count;
  const unlisted = total - listed.reduce((sum, each) => sum + each.items, 0);
  return { total, listed, unlisted, one: "item", many: "items" };
}

// A batch that left no record stands for all its items; of a branch of several tasks the one that failed is named.
function titleOf(problem) {
  if (typeof problem.items === "number" && problem.items > 1) return `${visible(problem.name)}: ${counted(problem.items, "item", "items")}`;
  return problem.step ? `${visible(problem.name)} (${visible(problem.step)})` : visible(problem.name);
}

function element(tag, text) {
  const made = document.createElement(tag);
  made.textContent = text;
  return made;
}
