// Asks before anything is cleared, with all that would be; then has Airflow clear it.

import { clear, readPlan } from "./airflow.js";
import { count, counted, visible } from "./format.js";

const instance = ({ task_id, map_index, state }) =>
  `${visible(map_index < 0 ? task_id : `${task_id}[${map_index}]`)} (${state ?? "no state"})`;

const instances = (number) => counted(number, "task instance", "task instances");

export class RerunDialog {
  constructor(onCleared) {
    this.dialog = document.getElementById("rerun");
    this.find = (selector) => this.dialog.querySelector(selector);
    this.onCleared = onCleared;
    this.find(".cancel").addEventListener("click", () => this.dialog.close());
    this.find(".confirm").addEventListener("click", () => this.confirm());
    this.find(".causes input").addEventListener("change", () => this.showSum());
  }

  async open(title) {
    this.title = title;
    this.plan = null;
    this.find("h2").textContent = `Run again what failed in ${visible(title)}`;
    this.find(".sum").textContent = "Looking for what has to be cleared…";
    this.find(".plan").replaceChildren();
    this.find(".causes").hidden = true;
    this.find(".confirm").disabled = true;
    this.tell(null);
    if (!this.dialog.open) this.dialog.showModal();
    await this.load();
  }

  async load() {
    try {
      this.plan = await readPlan(this.title);
    } catch (error) {
      this.find(".sum").textContent = "";
      this.tell(error.message);
      return;
    }
    const { plan } = this;
    const parts = plan.groups.flatMap((group) => [
      [`Branches of ${visible(group.group)}`, group.branches.flatMap((branch) => branch.task_instances)],
      [`${visible(group.group)}, never expanded`, group.unexpanded],
      ["Fan-in", group.fan_ins],
    ]);
    parts.push(["Downstream of the fan-in", plan.downstream], ["Setups and teardowns", plan.setups_and_teardowns]);
    const shown = parts.filter(([, items]) => items.length)
      .map(([name, items]) => list(`${name}: ${count(items.length)}`, items.map(instance)));
    if (plan.causes.length) {
      const causes = [...plan.causes, ...plan.between];
      shown.push(list(`The cause lies before the branches: ${count(causes.length)}`, causes.map(instance)));
    }
    if (plan.notes.length) shown.push(list("Note", plan.notes.map(visible)));
    this.find(".plan").replaceChildren(...shown);
    this.find(".causes").hidden = !plan.causes.length;
    this.find(".causes span").textContent = "Clear the cause too; without it branches could only fail again";
    this.find(".causes input").checked = true;
    this.showSum();
    this.find(".cancel").focus(); // what can't be undone takes a step of one's own
  }

  get withCauses() {
    return this.plan.causes.length > 0 && this.find(".causes input").checked;
  }

  showSum() {
    const { plan } = this;
    const cleared = new Set([
      ...plan.groups.flatMap((group) => [
        ...group.branches.flatMap((branch) => branch.task_instances), ...group.unexpanded, ...group.fan_ins,
      ]),
      ...plan.downstream, ...plan.setups_and_teardowns, ...(this.withCauses ? [...plan.causes, ...plan.between] : []),
    ].map(instance));
    const number = instances(cleared.size);
    this.find(".sum").textContent = cleared.size ? `${number} will be cleared, and run again.` : "There is nothing to run again.";
    this.find(".confirm").textContent = cleared.size ? `Clear ${number}` : "Clear";
    this.find(".confirm").disabled = !cleared.size;
  }

  async confirm() {
    const button = this.find(".confirm");
    button.disabled = true;
    this.tell(null);
    try {
      const done = await clear(this.title, this.plan.plan, this.withCauses);
      this.dialog.close();
      const lines = [`Cleared ${instances(done.cleared.length)}.`];
      if (done.changed_meanwhile.length) lines.push(`${instances(done.changed_meanwhile.length)} had changed and were not cleared.`);
      lines.push(done.is_paused ? "The Dag is paused: unpause it, and they run." : "The scheduler runs them now.");
      this.onCleared(lines.join(" "), Date.parse(done.cleared_at));
    } catch (error) {
      if (error.status === 409) await this.load();
      this.tell(error.message);
    }
  }

  tell(problem) {
    this.find(".problem").hidden = problem === null;
    this.find(".problem").textContent = problem ?? "";
  }
}

function list(title, lines) {
  const box = document.createElement("div");
  box.append(Object.assign(document.createElement("h3"), { textContent: title }));
  const made = document.createElement("ul");
  for (const line of lines) made.append(Object.assign(document.createElement("li"), { textContent: line }));
  box.append(made);
  return box;
}
