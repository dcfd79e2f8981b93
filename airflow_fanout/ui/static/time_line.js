// The time line of one group: thousands of rows, of which only those in sight are in the document.

import { link, logAddress, readItems } from "./airflow.js";
import { amount, count, counted, duration, localTime, megabytes, tickLabel, visible } from "./format.js";
import { entries, rowsOf, stateCounts, stateOf } from "./rows.js";
import { timeScale } from "./time_scale.js";

const ROW = 28; // pixels; fan_out.css has the same
const WIDEST_TICK = 60; // pixels
const LABEL = 0.08; // of the width: what a label needs
const HINT = "Thin: queued. Thick: running. Pale: an earlier try. Point at a row, or press the arrow keys.";
const AROUND = 6; // rows above and below those in sight

let made = 0;

export class TimeLine {
  constructor(root, title) {
    this.root = root;
    this.title = title;
    this.id = `rows-${(made += 1)}`;
    this.find = (selector) => root.querySelector(selector);
    this.scroller = this.find(".scroller");
    this.sizer = this.find(".sizer");
    this.chosen = { name: "", states: new Set(), sort: "declared", opened: new Map() };
    this.active = -1;
    this.rows = [];
    this.scale = timeScale([]);
    this.find(".by-name").addEventListener("input", (event) => {
      this.chosen.name = event.target.value;
      this.arrange();
    });
    this.find(".sort").addEventListener("change", (event) => {
      this.chosen.sort = event.target.value;
      this.arrange();
    });
    this.scroller.addEventListener("scroll", () => this.soon(), { passive: true });
    this.scroller.addEventListener("keydown", (event) => this.onKey(event));
    this.scroller.addEventListener("focus", () => {
      // Not by a click: that would be left without the row it began on, or with another one.
      if (this.scroller.matches(":focus-visible")) this.activate(Math.max(this.active, 0));
    });
    this.scroller.addEventListener("pointerover", (event) => this.read(this.rowAt(event.target)));
    this.scroller.addEventListener("click", (event) => {
      const index = this.rowIndexAt(event.target);
      if (index >= 0) this.open(index);
    });
    new ResizeObserver(() => {
      this.showAxis();
      this.draw();
    }).observe(this.scroller);
  }

  update(group, now) {
    this.isBatched = group.items !== null;
    this.states = Object.keys((group.items ?? group).states);
    this.all = entries(group, now);
    this.scale = timeScale(group.segments);
    this.scroller.setAttribute("aria-label", `${this.isBatched ? "Batches" : "Branches"} of ${this.title}`);
    this.showStates();
    this.arrange();
    for (const index of this.chosen.opened.keys()) {
      if (!group.is_finished) this.load(index, 0);
    }
  }

  showStates() {
    const box = this.find(".by-state");
    const focused = box.contains(document.activeElement) ? document.activeElement.dataset.name : null;
    box.replaceChildren();
    for (const [state, number] of stateCounts(this.all, this.states, this.chosen.states)) {
      const button = document.createElement("button");
      button.type = "button";
      button.dataset.name = state;
      button.dataset.state = state === "stopped" ? "skipped" : state;
      button.setAttribute("aria-pressed", String(this.chosen.states.has(state)));
      button.textContent = `${state} ${count(number)}`;
      button.addEventListener("click", () => {
        if (!this.chosen.states.delete(state)) this.chosen.states.add(state);
        this.showStates();
        this.arrange();
      });
      box.append(button);
      if (state === focused) button.focus();
    }
  }

  arrange() {
    const kept = this.rows[this.active];
    this.rows = rowsOf(this.all, this.chosen);
    this.active = kept ? this.rows.findIndex((row) => same(row, kept)) : -1;
    this.sizer.style.height = `${this.rows.length * ROW}px`;
    this.scroller.setAttribute("aria-rowcount", String(this.rows.length));
    this.scroller.classList.toggle("empty", !this.rows.length);
    this.showAxis();
    this.draw();
    if (this.detailed) this.showDetail(this.rows.find((row) => same(row, this.detailed)) ?? null);
    this.read(this.rows[this.active] ?? null);
  }

  showAxis() {
    const ticks = this.find(".ticks");
    ticks.replaceChildren();
    const most = Math.min(8, Math.max(1, Math.floor(ticks.clientWidth / WIDEST_TICK)));
    const last = (this.scale.cuts[0]?.from ?? 1) - LABEL;
    for (const { seconds, at: left } of this.scale.ticks(most)) {
      const tick = div("tick", left > last ? "" : tickLabel(seconds));
      tick.style.left = `${left * 100}%`;
      ticks.append(tick);
    }
    for (const cut of this.scale.cuts) {
      const mark = div("cut", "");
      mark.style.left = `${cut.from * 100}%`;
      mark.style.width = `${cut.width * 100}%`;
      mark.title = `${duration(cut.seconds)} in which nothing ran`;
      ticks.append(mark);
    }
  }

  soon() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.draw();
    });
  }

  draw() {
    const first = Math.max(0, Math.floor(this.scroller.scrollTop / ROW) - AROUND);
    const last = Math.min(this.rows.length, first + Math.ceil(this.scroller.clientHeight / ROW) + 2 * AROUND);
    const drawn = document.createDocumentFragment();
    for (let index = first; index < last; index += 1) drawn.append(this.row(index));
    this.sizer.replaceChildren(drawn);
    const active = this.active >= first && this.active < last;
    if (active) this.scroller.setAttribute("aria-activedescendant", `${this.id}-${this.active}`);
    else this.scroller.removeAttribute("aria-activedescendant");
  }

  row(index) {
    const row = this.rows[index];
    const element = div(`row ${row.kind}`, "");
    element.id = `${this.id}-${index}`;
    element.style.top = `${index * ROW}px`;
    element.dataset.index = String(index);
    element.setAttribute("role", "row");
    element.setAttribute("aria-rowindex", String(index + 1));
    element.classList.toggle("active", index === this.active);
    if (row.kind === "more") {
      element.append(cell("name", `${count(row.left)} more items: press Enter or click`));
      return element;
    }
    const { entry } = row;
    const shown = row.kind === "item" ? row.item : entry.branch;
    const state = stateOf(shown);
    const name = cell("name", visible(shown.name));
    if (row.kind === "branch" && this.isBatched) {
      const isOpen = this.chosen.opened.has(entry.branch.map_index);
      element.setAttribute("aria-expanded", String(isOpen));
      name.prepend(div("twist", isOpen ? "▾" : "▸"));
    }
    element.setAttribute("aria-level", row.kind === "item" ? "2" : "1");
    const bars = cell("bars", "");
    bars.setAttribute("aria-label", this.textOf(row));
    if (row.kind === "branch") for (const attempt of entry.tries) this.bar(bars, attempt);
    const dot = cell("state", state);
    dot.dataset.state = state === "stopped" ? "skipped" : shown.state;
    const time = row.kind === "item" ? shown.work_seconds : shown.elapsed_seconds;
    element.append(name, bars, dot, cell("took", duration(time)));
    return element;
  }

  bar(bars, attempt) {
    const { place } = this.scale;
    const add = (kind, from, to, state) => {
      if (from === null || to === null || to < from) return;
      const bar = div(`bar ${kind}`, "");
      bar.style.left = `${place(from) * 100}%`;
      bar.style.width = `${Math.max(0, place(to) - place(from)) * 100}%`;
      bar.dataset.state = state;
      bars.append(bar);
    };
    add("wait", attempt.queued, attempt.started ?? attempt.ended, "queued");
    add(attempt.isLast ? "run" : "run earlier", attempt.started, attempt.ended, attempt.state);
  }

  // What a row tells, in one line; for those who point at it, and for those who can't see it.
  textOf(row) {
    if (row.kind === "more") return "";
    if (row.kind === "item") {
      const { item } = row;
      return [
        visible(item.name), stateOf(item), `work ${duration(item.work_seconds)}`,
        item.tries > 1 && `try ${item.tries}`,
        item.error && visible(item.error),
      ].filter(Boolean).join(" · ");
    }
    const { branch, tries, state } = row.entry;
    const last = tries.at(-1);
    const waited = last.queued !== null && last.started !== null ? (last.started - last.queued) / 1000 : null;
    return [
      visible(branch.name), state,
      waited !== null && `queued ${duration(Math.max(0, waited))}`,
      branch.elapsed_seconds !== null && `ran ${duration(branch.elapsed_seconds)}`,
      branch.work_seconds !== null && `work ${duration(branch.work_seconds)}`,
      branch.tries > 1 && `try ${branch.tries}`,
      branch.error && visible(branch.error),
    ].filter(Boolean).join(" · ");
  }

  read(row) {
    const text = row ? this.textOf(row) : HINT;
    const readout = this.find(".readout");
    if (readout.textContent !== text) readout.textContent = text;
  }

  rowIndexAt(target) {
    const element = target.closest?.(".row");
    return element ? Number(element.dataset.index) : -1;
  }

  rowAt(target) {
    return this.rows[this.rowIndexAt(target)] ?? this.rows[this.active] ?? null;
  }

  activate(index) {
    if (!this.rows.length) return;
    this.active = Math.min(Math.max(index, 0), this.rows.length - 1);
    const top = this.active * ROW;
    if (top < this.scroller.scrollTop) this.scroller.scrollTop = top;
    else if (top + ROW > this.scroller.scrollTop + this.scroller.clientHeight) {
      this.scroller.scrollTop = top + ROW - this.scroller.clientHeight;
    }
    this.draw();
    this.read(this.rows[this.active]);
  }

  onKey(event) {
    const page = Math.max(1, Math.floor(this.scroller.clientHeight / ROW) - 1);
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    const row = this.rows[this.active];
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in steps) this.activate(this.active + steps[event.key]);
    else if ((event.key === "Enter" || event.key === " ") && row) this.open(this.active);
    else if (event.key === "ArrowRight" && row && this.isBatched) this.toggle(row, true);
    else if (event.key === "ArrowLeft" && row && this.isBatched) this.toggle(row, false);
    else if (event.key === "Escape" && this.detailed) this.showDetail(null);
    else return;
    event.preventDefault();
  }

  open(index) {
    this.activate(index);
    const row = this.rows[index];
    if (row.kind === "more") {
      this.load(row.entry.branch.map_index, this.chosen.opened.get(row.entry.branch.map_index).items.length);
      return;
    }
    if (row.kind === "branch" && this.isBatched) this.toggle(row, !this.chosen.opened.has(row.entry.branch.map_index));
    this.showDetail(row);
    this.find(".detail").scrollIntoView({ block: "nearest" });
  }

  toggle(row, isOpen) {
    const batch = row.entry.branch.map_index;
    if (isOpen && !this.chosen.opened.has(batch)) {
      this.chosen.opened.set(batch, { items: [], total: 0 });
      this.load(batch, 0);
    } else if (!isOpen) {
      this.chosen.opened.delete(batch);
      this.arrange();
    }
  }

  async load(batch, start) {
    try {
      const page = await readItems(this.title, batch, start);
      const known = this.chosen.opened.get(batch);
      if (!known) return; // closed in the meantime
      const items = [...known.items];
      items.splice(page.start, page.items.length, ...page.items);
      this.chosen.opened.set(batch, { items, total: page.total });
      this.arrange();
    } catch (error) {
      this.find(".readout").textContent = `The items can't be read: ${error.message}`;
    }
  }

  showDetail(row) {
    this.detailed = row;
    const box = this.find(".detail");
    box.hidden = row === null;
    box.replaceChildren();
    if (row === null) return;
    const { branch } = row.entry;
    const shown = row.kind === "item" ? row.item : branch;
    const state = div("state", stateOf(shown));
    state.dataset.state = shown.state;
    const title = document.createElement("h3");
    title.append(visible(shown.name));
    const close = document.createElement("button");
    close.type = "button";
    close.className = "close";
    close.textContent = "Close";
    close.addEventListener("click", () => {
      this.showDetail(null);
      this.scroller.focus();
    });
    box.append(close, title, state);
    if (shown.error) box.append(div("error", visible(shown.error)));
    const facts = row.kind === "item"
      ? [["Work", duration(shown.work_seconds)], ["Tries", shown.tries === null ? "–" : count(shown.tries)], ["Batch", visible(branch.name)]]
      : [
        ["Queued", localTime(branch.queued)], ["Started", localTime(branch.started)], ["Ended", localTime(branch.ended)],
        ["Took", duration(branch.elapsed_seconds)], ["Work", duration(branch.work_seconds)],
        ["CPU", duration(branch.cpu_seconds)], ["Memory", megabytes(branch.peak_memory_bytes)], ["Tries", branch.tries === null ? "–" : count(branch.tries)],
        ["Read", amount(branch.read_bytes)], ["Written", amount(branch.written_bytes)],
        ["Host", branch.host ? visible(branch.host) : "–"],
      ];
    if (row.kind === "branch" && branch.steps.length) {
      facts.push(["Steps", branch.steps.map(({ name, seconds }) => `${visible(name)} ${duration(seconds)}`).join(", ")]);
    }
    if (row.kind === "branch" && branch.items) {
      const items = Object.entries(branch.items).map(([name, number]) => `${count(number)} ${name}`).join(", ");
      facts.unshift(["Items", items]);
    }
    const list = document.createElement("dl");
    for (const [name, value] of facts) {
      const pair = div("", "");
      pair.append(Object.assign(document.createElement("dt"), { textContent: name }));
      pair.append(Object.assign(document.createElement("dd"), { textContent: value }));
      list.append(pair);
    }
    box.append(list);
    const before = row.kind === "branch" ? branch.earlier_tries : [];
    if (before.length) {
      const states = before.map(({ number, state }) => `${number}: ${state ?? "unknown"}`).join(", ");
      box.append(div("before", `${counted(before.length, "earlier try", "earlier tries")} — ${states}`));
    }
    if (branch.task_id !== null) box.append(link(logAddress(branch), "Open the log"));
  }
}

function same(a, b) {
  if (a.kind !== b.kind || a.entry.index !== b.entry.index) return false;
  return a.kind !== "item" || a.item.name === b.item.name;
}

function div(className, text) {
  const element = document.createElement("div");
  if (className) element.className = className;
  element.textContent = text;
  return element;
}

function cell(className, text) {
  const element = div(`cell ${className}`, text);
  element.setAttribute("role", "gridcell");
  return element;
}
