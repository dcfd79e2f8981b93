// Airflow around the tab: its addresses, its pages, its colours. The tab stands in a frame of Airflow's page.

// …/fan-out/dags/<dag>/page/<run>, or …/fan-out/dags/<dag>/history; both ids stay as they are, encoded.
const [, root, dag, run] = /^(.*?)\/fan-out\/dags\/([^/]+)\/(?:page\/(.+)|history)$/.exec(location.pathname);

const api = (what) => `${root}/fan-out/dags/${dag}/${what}/${run}`;

export class AnswerError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

// What to tell of an error.
export function why(error) {
  if (error.status === 401) return "Your session has ended. Reload the page to log in again.";
  if (error.status === 403) return "You may not see this: it takes the right to read the Dag's task instances and XComs.";
  if (error.status === 404) return error.message;
  return `It can't be read just now: ${error.message}`;
}

async function answer(url, options) {
  const response = await fetch(url, { headers: { Accept: "application/json" }, ...options });
  if (response.ok) return response.json();
  let message = response.statusText;
  try {
    message = (await response.json()).detail;
  } catch {
    // Not JSON: a proxy's page, say. Its status has to do.
  }
  throw new AnswerError(response.status, typeof message === "string" ? message : JSON.stringify(message));
}

export const readReport = () => answer(api("report"));

export const readHistory = () => answer(`${root}/fan-out/dags/${dag}/history/report`);

export const tabAddress = (runId) => `${root}/dags/${dag}/runs/${encodeURIComponent(runId)}/plugin/fan-out`;

export const readItems = (group, batch, start) =>
  answer(`${api("items")}?${new URLSearchParams({ group, batch, start })}`);

export const readPlan = (group) => answer(`${api("rerun")}?${new URLSearchParams({ group })}`);

export const clear = (group, plan, causes) =>
  answer(api("rerun"), {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ group, plan, causes }),
  });

export function logAddress({ task_id, map_index, tries }) {
  const mapped = map_index < 0 ? "" : `/mapped/${map_index}`;
  const attempt = tries ? `?try_number=${tries}` : "";
  return `${root}/dags/${dag}/runs/${run}/tasks/${encodeURIComponent(task_id)}${mapped}${attempt}`;
}

const framed = () => {
  try {
    return window.parent !== window && Boolean(window.parent.document);
  } catch {
    return false; // another site's frame; the Content-Security-Policy forbids that anyway
  }
};

// A link to one of Airflow's pages. Its frame may not lead the page around it elsewhere, so that one does it itself.
export function link(href, text, label) {
  const made = document.createElement("a");
  made.href = href;
  made.target = "_parent";
  made.textContent = text;
  if (label) made.setAttribute("aria-label", label);
  made.addEventListener("click", (event) => {
    event.stopPropagation();
    if (!framed()) return;
    event.preventDefault();
    const outer = window.parent.document.createElement("a");
    outer.href = href;
    const { ctrlKey, metaKey, shiftKey } = event;
    outer.dispatchEvent(new window.parent.MouseEvent("click", { bubbles: true, cancelable: true, ctrlKey, metaKey, shiftKey, view: window.parent }));
  });
  return made;
}

const SHADES = {
  bg: "bg", "bg-subtle": "bg-subtle", "bg-muted": "bg-muted", fg: "fg", "fg-muted": "fg-muted", border: "border",
  link: "brand-fg", success: "success-solid", failed: "failed-solid", upstream_failed: "upstream_failed-solid",
  skipped: "skipped-solid", running: "running-solid", queued: "queued-solid", scheduled: "scheduled-solid",
  deferred: "deferred-solid", up_for_retry: "up_for_retry-solid", up_for_reschedule: "up_for_reschedule-solid",
  removed: "removed-solid", restarting: "restarting-solid",
};

// Light or dark as Airflow's page is now, and in its colours, which an installation may have changed.
function dress() {
  const mine = document.documentElement;
  const preferred = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  const around = framed() ? window.parent.document.documentElement : null;
  const dark = around ? around.classList.contains("dark") : (localStorage.getItem("theme") ?? preferred) === "dark";
  mine.dataset.theme = dark ? "dark" : "light";
  if (!around) return;
  const style = window.parent.getComputedStyle(around);
  mine.style.setProperty("--font", window.parent.getComputedStyle(window.parent.document.body).fontFamily);
  for (const [name, token] of Object.entries(SHADES)) {
    const value = style.getPropertyValue(`--chakra-colors-${token}`).trim();
    if (value) mine.style.setProperty(`--${name}`, value);
  }
}

export function dressLikeAirflow() {
  dress();
  if (framed()) {
    new MutationObserver(dress).observe(window.parent.document.documentElement, { attributeFilter: ["class"] });
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", dress);
}
