// A group's branches -> the rows of its time line: filtered, sorted, batches opened. No document is touched here.

const ORDER = [
  "failed", "upstream_failed", "missing", "running", "restarting", "deferred", "up_for_retry", "up_for_reschedule",
  "queued", "scheduled", "waiting", "skipped", "success", "removed",
];
const NATURAL = new Intl.Collator("en", { numeric: true });

export const stateOf = (branch) => (branch.is_stopped ? "stopped" : branch.state);

export const byState = (a, b) => rank(a) - rank(b);

const rank = (state) => {
  const found = ORDER.indexOf(state === "stopped" ? "skipped" : state);
  return found < 0 ? ORDER.length : found;
};

const time = (text) => (text === null ? null : Date.parse(text));

// Every time the branch was queued and ran: [{state, queued, started, ended, isLast, number}], in milliseconds.
export function tries(branch, now) {
  const made = branch.earlier_tries.map((each) => ({
    state: each.state ?? "removed", queued: time(each.queued), started: time(each.started), ended: time(each.ended),
    number: each.number, isLast: false,
  }));
  const ended = time(branch.ended);
  const isOn = ended === null && (branch.started !== null || branch.queued !== null);
  made.push({
    state: branch.state, queued: time(branch.queued), started: time(branch.started), ended: isOn ? now : ended,
    number: branch.tries, isLast: true,
  });
  return made;
}

export function span(attempt) {
  const start = attempt.queued ?? attempt.started;
  const end = attempt.ended ?? attempt.started ?? attempt.queued;
  return start === null || end === null ? null : [Math.min(start, end), end];
}

// Seconds from start to end of the last try; null if it hasn't started.
export function took(branch, now) {
  const last = tries(branch, now).at(-1);
  return last.started === null || last.ended === null ? null : Math.max(0, (last.ended - last.started) / 1000);
}

const COMPARE = {
  declared: () => 0,
  start: (a, b) => (a.began ?? Infinity) - (b.began ?? Infinity) || 0,
  duration: (a, b) => (b.took ?? -1) - (a.took ?? -1),
  state: (a, b) => byState(a.state, b.state),
  name: (a, b) => NATURAL.compare(a.branch.name, b.branch.name),
};

// One entry for each branch; sorted anew only if something has changed.
export function entries(branches, now) {
  return branches.map((branch, index) => {
    const all = tries(branch, now);
    const last = all.at(-1);
    return { branch, index, tries: all, began: last.started ?? last.queued, took: took(branch, now), state: stateOf(branch) };
  });
}

// opened: Map of batch index -> {items, total}; items are rows below their batch.
export function rowsOf(all, { name, states, sort, opened }) {
  const wanted = name.toLowerCase();
  const rows = [];
  const sorted = [...all].sort((a, b) => COMPARE[sort](a, b) || a.index - b.index);
  for (const entry of sorted) {
    const open = opened.get(entry.branch.map_index);
    const inside = open ? open.items.filter((item) => fits(item.name, [item.state], wanted, states)) : [];
    if (!fits(entry.branch.name, statesIn(entry), wanted, states) && !inside.length) continue;
    rows.push({ kind: "branch", entry });
    if (!open) continue;
    for (const item of inside) rows.push({ kind: "item", item, entry });
    if (open.items.length < open.total) rows.push({ kind: "more", entry, left: open.total - open.items.length });
  }
  return rows;
}

const fits = (name, its, wanted, states) =>
  (!states.size || its.some((state) => states.has(state))) && (!wanted || name.toLowerCase().includes(wanted));

// A branch's state; of a batch those of its items.
const statesIn = (entry) => (entry.branch.items ? Object.keys(entry.branch.items) : [entry.state]);

// How many branches, or items, there are in each state: Map of state -> number.
export function stateCounts(all) {
  const counts = new Map();
  for (const entry of all) {
    const its = entry.branch.items ?? { [entry.state]: 1 };
    for (const [state, number] of Object.entries(its)) counts.set(state, (counts.get(state) ?? 0) + number);
  }
  return counts;
}
