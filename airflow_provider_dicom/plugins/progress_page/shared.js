// What both pages need: requests to Airflow's own REST API with the viewer's login, and how values are shown.

// Airflow's states of a task that is not finished.
export const UNDER_WAY = new Set(["running", "deferred", "queued", "scheduled", "restarting", "up_for_reschedule"]);
// The states of a progress record: the text and the tone of the badge.
export const STATES = {
  RUNNING: ["Running", "busy"],
  SUCCEEDED: ["Succeeded", "good"],
  PARTIAL: ["Succeeded in part", "mixed"],
  FAILED: ["Failed", "bad"],
  CANCELLED: ["Cancelled", "bad"],
};

// The estimate ends at this age of a record: perhaps nothing has moved, or nobody counts.
const LONGEST_ESTIMATE_MS = 600000;

let clockOffset = 0;

// The time of Airflow's web server, because the viewer's clock may be wrong.
export function now() {
  return Date.now() + clockOffset;
}

export const element = (id) => document.getElementById(id);

export function put(id, text) {
  setText(element(id), text);
}

// A text that is the same is left alone: screen readers announce every change of a live region.
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function showNotice(notice) {
  put("notice", notice);
  element("notice").hidden = !notice;
}

// In Airflow's API, "~" stands for all DAGs, and dots and slashes lead to other paths.
export function isId(text) {
  return text !== "" && !/^[~.]*$/.test(text) && !/[/\\\u0000-\u001f]/.test(text);
}

export function taskPath(dag, run, task) {
  return ["dags", dag, "dagRuns", run, "taskInstances", task].map(encodeURIComponent).join("/");
}

export async function get(path) {
  const response = await fetch(new URL(`../api/v2/${path}`, location.href), {
    headers: { Accept: "application/json" },
    credentials: "same-origin",
    cache: "no-store",
  });
  const date = Date.parse(response.headers.get("Date") ?? "");
  if (!Number.isNaN(date)) clockOffset = date - Date.now();
  if (!response.ok) throw Object.assign(new Error(response.statusText), { status: response.status });
  return response.json();
}

export async function getIfThere(path) {
  try {
    return await get(path);
  } catch (error) {
    if (error.status === 404) return null;
    throw error;
  }
}

// The value of an XCom as Airflow stores it: JSON, or JSON as a text; undefined if there is none.
export async function getXCom(path, key, mapIndex) {
  const entry = await getIfThere(`${path}/xcomEntries/${key}?map_index=${mapIndex}&deserialize=false&stringify=false`);
  if (typeof entry?.value !== "string") return entry?.value;
  try {
    return JSON.parse(entry.value);
  } catch {
    return entry.value;
  }
}

// Any task may write an XCom of this name: what is no progress record of an export counts as none.
export function progressRecord(record) {
  if (typeof record !== "object" || record === null || !Object.hasOwn(STATES, record.state)) return null;
  if (typeof record.operation_name !== "string" || !record.operation_name.includes("/operations/")) return null;
  return ["success", "failure", "pending"].every((key) => Number.isFinite(record[key])) ? record : null;
}

// The causes in a progress record; older versions wrote none.
export function causesOf(progress) {
  const isCause = (cause) => Number.isFinite(cause?.count) && typeof cause.message === "string";
  return Array.isArray(progress?.causes) ? progress.causes.filter(isCause) : [];
}

// The counts, times and rate of a progress record; the task may have ended before the end of its export.
export function measure(task, progress) {
  const isRunning = progress.state === "RUNNING" && UNDER_WAY.has(task.state);
  const done = progress.success + progress.failure;
  const total = done + progress.pending;
  const begun = Date.parse(progress.create_time ?? task.start_date);
  const observed = Date.parse(progress.end_time ?? progress.observed_at);
  const perSecond = done / Math.max(1, (observed - begun) / 1000);
  const until = isRunning ? now() : observed;
  const left = (progress.pending / perSecond) * 1000 - (until - observed);
  const percentOf = (count) => (total ? Math.floor((count / total) * 100) : 0);
  // Many exports take turns to record their counts: between two records, the export goes on at its own rate.
  const age = now() - Date.parse(progress.observed_at);
  const isEstimated = isRunning && age > 0 && age < LONGEST_ESTIMATE_MS;
  // Never all: only the API says that an export has ended.
  const ahead = isEstimated ? Math.min((perSecond * age) / 1000, progress.pending * 0.99) : 0;
  const isAhead = percentOf(done + ahead) > percentOf(done);
  return {
    isRunning,
    total,
    percent: percentOf(done),
    age,
    ahead: isAhead ? ahead : 0,
    byNow: isAhead ? percentOf(done + ahead) : null,
    badge: progress.state === "RUNNING" && !isRunning ? [`Task ${task.state}`, "bad"] : STATES[progress.state],
    elapsed: until - begun,
    rate: done ? rateText(perSecond) : null,
    perSecond,
    remaining: isRunning && done && progress.pending ? Math.max(0, left) : null,
  };
}

// The parts of a progress bar.
export function fillBar(bar, progress, { isRunning, total, percent, ahead }) {
  bar.setAttribute("aria-valuenow", String(percent));
  const parts = [progress.success, progress.failure, ahead];
  parts.forEach((part, index) => {
    bar.children[index].style.width = part ? `${(100 * part) / total}%` : "0";
  });
  const [success, failure] = bar.children;
  success.classList.toggle("ended", !isRunning);
  // One of many thousands is still to be seen.
  failure.style.minWidth = progress.failure ? "3px" : "0";
}

export function duration(ms) {
  const seconds = Math.max(0, Math.round(ms / 1000));
  const [h, m, s] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60];
  if (h) return `${h} h ${m} min`;
  return m ? `${m} min ${s} s` : `${s} s`;
}

export function rateText(perSecond) {
  const [value, unit] = perSecond >= 1 ? [perSecond, "s"] : [perSecond * 60, "min"];
  return `${value.toLocaleString(undefined, { maximumFractionDigits: value < 10 ? 1 : 0 })} / ${unit}`;
}

export function storeText(task, dataset) {
  const store = task.rendered_fields?.dicom_store_id;
  return store ? `${dataset}/dicomStores/${store}` : `a store of ${dataset}`;
}

// Airflow's frame permits no new windows, and Google's console no frames: the parent document opens the link.
export function openOutside(event) {
  if (window.parent === window) return;
  try {
    const copy = window.parent.document.importNode(event.currentTarget);
    if (event.ctrlKey || event.metaKey || event.shiftKey || event.button === 1) copy.target = "_blank";
    // The addresses of the two documents differ, and so do the bases of a relative link.
    copy.href = event.currentTarget.href;
    event.preventDefault();
    copy.click();
  } catch {
    // In a frame of another site, the browser decides.
  }
}

export function followTheme() {
  let isDark = matchMedia("(prefers-color-scheme: dark)").matches;
  try {
    if (window.parent !== window) isDark = window.parent.document.documentElement.classList.contains("dark");
  } catch {
    // In a frame of another site, only the system's colour scheme is known.
  }
  document.documentElement.classList.toggle("dark", isDark);
}
