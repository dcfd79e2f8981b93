// A group's branches -> the rows of its time line: filtered, sorted, batches opened. No document is touched here.

const NATURAL = new Intl.Collator("en", { numeric: true });

export const stateOf = (branch) => (branch.is_stopped ? "stopped" : branch.state);

const time = (text) => (text === null ? null : Date.parse(text));

// Every time the branch was queued and ran: [{state, queued, started, ended, isLast}], in milliseconds.
function tries(branch, now) {
  return [...branch.earlier_tries, branch].map((attempt) => {
    const [queued, started, ended] = [attempt.queued, attempt.started, attempt.ended].map(time);
    const isLast = attempt === branch;
    const isOn = isLast && ended === null && (started ?? queued) !== null;
    return { state: attempt.state ?? "removed", queued, started, ended: isOn ? now : ended, isLast };
  });
}

const COMPARE = {
  declared: () => 0,
  start: (a, b) => (a.began ?? Infinity) - (b.began ?? Infinity) || 0,
  duration: (a, b) => (b.branch.elapsed_seconds ?? -1) - (a.branch.elapsed_seconds ?? -1),
  state: (a, b) => a.rank - b.rank,
  name: (a, b) => NATURAL.compare(a.branch.name, b.branch.name),
};

// One entry for each branch; the report has states in the order in which they are sorted.
export function entries({ branches, states }, now) {
  const order = Object.keys(states);
  return branches.map((branch, index) => {
    const attempts = tries(branch, now);
    const { started, queued } = attempts.at(-1);
    return {
      branch, index, tries: attempts, began: started ?? queued, state: stateOf(branch), rank: order.indexOf(branch.state),
    };
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

const fits = (name, present, wanted, states) =>
  (!states.size || present.some((state) => states.has(state))) && (!wanted || name.toLowerCase().includes(wanted));

// A branch's state; of a batch those of its items.
const statesIn = (entry) => (entry.branch.items ? Object.keys(entry.branch.items) : [entry.state]);

// How many branches, or items, there are in each state: [[state, number], …], those that were chosen among them.
export function stateCounts(all, order, chosen) {
  const counts = new Map(order.flatMap((state) => (state === "skipped" ? ["stopped", state] : [state])).map((state) => [state, 0]));
  for (const entry of all) {
    const present = entry.branch.items ?? { [entry.state]: 1 };
    for (const [state, number] of Object.entries(present)) counts.set(state, (counts.get(state) ?? 0) + number);
  }
  for (const state of chosen) if (!counts.has(state)) counts.set(state, 0);
  return [...counts].filter(([state, number]) => number || chosen.has(state));
}
