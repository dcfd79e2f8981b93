// The page: reads the run's report, shows its groups, and asks again while the run is on and somebody is looking.

import { dressLikeAirflow, readReport, why } from "./airflow.js";
import { GroupView } from "./group_view.js";
import { RerunDialog } from "./rerun_dialog.js";

const PATIENCE = 2000; // milliseconds between two questions; five times the answer's own time, if that is longer
const LONGEST = 60_000;

const notice = document.getElementById("notice");
const views = new Map();
let timer = null;
let asked = 0; // of two answers under way at once the later one counts
let failures = 0;
let cleared = 0; // when something was, by the server's clock: another of its processes may still give an older report

const dialog = new RerunDialog((text, when) => {
  tell(text);
  cleared = when;
  ask();
});

function tell(text) {
  notice.textContent = text ?? "";
  notice.hidden = !text;
}

async function ask() {
  clearTimeout(timer);
  timer = null;
  const mine = (asked += 1);
  const began = performance.now();
  let answer;
  try {
    answer = await readReport();
  } catch (error) {
    if (mine !== asked) return;
    tell(why(error));
    failures += 1;
    if (![401, 403, 404].includes(error.status)) later(Math.min(LONGEST, PATIENCE * 2 ** failures));
    return;
  }
  if (mine !== asked) return;
  if (failures) tell(null);
  failures = 0;
  show(answer);
  const isOld = Date.parse(answer.report.read_at) < cleared;
  if (!answer.report.is_finished || isOld) later(Math.max(PATIENCE, 5 * (performance.now() - began)));
}

function later(milliseconds) {
  if (document.visibilityState === "visible") timer = setTimeout(ask, milliseconds);
}

function show({ report, may_clear: mayClear }) {
  if (notice.textContent === "Loading…") tell(null);
  const box = document.getElementById("groups");
  box.dataset.state = report.state;
  if (!report.groups.length) {
    tell("Nothing is fanned out in this run that a fan-in collects, so there is nothing to show here.");
  }
  const now = Date.parse(report.read_at);
  const titles = new Set(report.groups.map((group) => group.title));
  for (const [title, view] of views) {
    if (titles.has(title)) continue;
    view.element.remove();
    views.delete(title);
  }
  report.groups.forEach((group, index) => {
    let view = views.get(group.title);
    if (!view) {
      view = new GroupView(group.title, () => dialog.open(group.title));
      views.set(group.title, view);
    }
    if (box.children[index] !== view.element) box.insertBefore(view.element, box.children[index] ?? null);
    view.update(group, now, mayClear);
  });
}

document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "visible") ask();
  else clearTimeout(timer);
});

dressLikeAirflow();
ask();
