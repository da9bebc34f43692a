// Shows rows of export tasks. A row that stays keeps its elements, so that focus and scroll position stay as well.

import { STATES, duration, element, fillBar, measure, now, openOutside, setText, storeText } from "./shared.js";
import { keyOf } from "./exports_reader.js";

const SHOWN_CAUSES = 3;
// A row whose values are older than this says so: other rows have been read in the meantime.
const OLD_MS = 30000;
const BADGES = {
  failed: ["Failed", "bad"],
  upstream_failed: ["Upstream failed", "bad"],
  up_for_retry: ["Up for retry", "mixed"],
  running: STATES.RUNNING,
  deferred: STATES.RUNNING,
  restarting: ["Restarting", "busy"],
  up_for_reschedule: ["Up for reschedule", "busy"],
  queued: ["Queued", "calm"],
  scheduled: ["Scheduled", "calm"],
  none: ["Not started", "calm"],
  success: STATES.SUCCEEDED,
  skipped: ["Skipped", "calm"],
};
const shown = new Map();

export function showRows(rows) {
  const body = element("rows");
  const focused = document.activeElement;
  const wanted = new Set(rows.map((row) => keyOf(row.task)));
  for (const [key, node] of shown) {
    if (wanted.has(key)) continue;
    node.remove();
    shown.delete(key);
  }
  rows.forEach((row, index) => {
    const key = keyOf(row.task);
    if (!shown.has(key)) shown.set(key, newRow(row.task));
    const node = shown.get(key);
    if (body.children[index] !== node) body.insertBefore(node, body.children[index] ?? null);
    fill(node, row);
  });
  // A row that moves loses the focus.
  if (focused?.isConnected && focused !== document.activeElement) focused.focus({ preventScroll: true });
}

export function isOnScreen(row) {
  const box = shown.get(keyOf(row.task))?.getBoundingClientRect();
  return Boolean(box) && box.bottom > 0 && box.top < window.innerHeight;
}

function newRow(task) {
  const node = element("row").content.firstElementChild.cloneNode(true);
  const link = node.querySelector(".task");
  const ids = ["dags", task.dag_id, "runs", task.dag_run_id, "tasks", task.task_id];
  if (task.map_index >= 0) ids.push("mapped", String(task.map_index));
  link.href = new URL(`../${ids.map(encodeURIComponent).join("/")}/plugin/dicom-export`, location.href).href;
  link.addEventListener("click", openOutside);
  link.addEventListener("auxclick", openOutside);
  return node;
}

function fill(node, row) {
  const { task, progress } = row;
  const part = (name) => node.querySelector(`.${name}`);
  const numbers = progress && row.group !== "waiting" ? measure(task, progress) : null;
  const [text, tone] = badgeOf(row);
  setText(part("badge"), text);
  part("badge").className = `badge ${tone}`;
  setText(part("try"), task.try_number > 1 ? `try ${task.try_number}` : "");
  const index = task.map_index >= 0 ? ` [${task.rendered_map_index ?? task.map_index}]` : "";
  setText(part("task"), `${task.dag_display_name ?? task.dag_id} · ${task.task_display_name ?? task.task_id}${index}`);
  setText(part("run"), task.dag_run_id);
  fillStore(part, row);
  part("bar").hidden = !numbers?.total;
  if (numbers?.total) {
    fillBar(part("bar"), progress, numbers);
    part("bar").setAttribute("aria-label", `Progress of ${part("store").textContent}`);
  }
  setText(part("counts"), countsText(row, numbers));
  part("counts").classList.toggle("some", Boolean(numbers && progress.failure));
  fillCauses(part("causes"), row);
  fillTimes(part, row, numbers);
}

function badgeOf({ task, progress }) {
  if (task.state === "success" && progress?.state === "PARTIAL") return STATES.PARTIAL;
  if (task.state === "failed" && progress?.state === "CANCELLED") return STATES.CANCELLED;
  return BADGES[task.state ?? "none"] ?? [task.state, "calm"];
}

// Airflow deletes the rendered fields of old runs; the result of a successful task still has the store.
function fillStore(part, { task, progress, values }) {
  const fields = task.rendered_fields ?? {};
  const result = values.return_value ?? {};
  const dataset = progress?.operation_name.split("/operations/")[0];
  const full = fields.dicom_store_id && dataset ? storeText(task, dataset) : textOf(result.dicom_store);
  const short = textOf(fields.dicom_store_id) || full.split("/").at(-1);
  setText(part("store"), short || (dataset ? storeText(task, dataset) : "–"));
  part("store").title = full;
  setText(part("destination"), textOf(fields.destination) || textOf(result.destination));
}

function textOf(value) {
  return typeof value === "string" ? value : "";
}

function countsText({ task, progress, values, group, isForbidden }, numbers) {
  if (isForbidden && !numbers) return "Your role in Airflow does not permit you to see this DAG's XComs.";
  if (numbers?.total) {
    const counts = `${progress.success.toLocaleString()} exported, ${progress.failure.toLocaleString()} failed`;
    const byNow = numbers.byNow === null ? "" : ` (≈ ${numbers.byNow} % by now)`;
    const total = numbers.total.toLocaleString();
    return numbers.isRunning ? `${numbers.percent} % of ${total}${byNow}: ${counts}` : counts;
  }
  if (group === "waiting" || ["skipped", "upstream_failed"].includes(task.state)) return "";
  if (!Object.hasOwn(values, "progress")) return "…";
  if (typeof values.return_value === "string") return "Submitted; the task did not wait for the end.";
  if (numbers) return "No instances counted yet";
  return group === "running" ? "No counts yet" : "No counts";
}

function fillCauses(list, row) {
  const message = row.progress?.message || row.values.log;
  const causes = row.causes;
  const lines = causes.slice(0, SHOWN_CAUSES).map(([cause, count]) => `${count.toLocaleString()} × ${cause}`);
  if (causes.length > SHOWN_CAUSES) lines.push(`and ${causes.length - SHOWN_CAUSES} more causes`);
  if (!lines.length && row.group !== "running" && message) lines.push(message);
  list.hidden = !lines.length;
  lines.forEach((line, index) => {
    const item = list.children[index] ?? list.appendChild(document.createElement("li"));
    setText(item, line);
    item.title = line;
  });
  while (list.children.length > lines.length) list.lastElementChild.remove();
}

function fillTimes(part, row, numbers) {
  const { task, progress, group, readAt } = row;
  const since = (time) => now() - Date.parse(time);
  const begun = task.start_date ? since(task.start_date) : 0;
  const elapsed = numbers?.elapsed ?? (task.end_date ? begun - since(task.end_date) : begun);
  let [time, age] = ["", ""];
  if (group === "running") {
    time = numbers && numbers.remaining !== null ? `~ ${roughly(numbers.remaining)} left` : `for ${roughly(elapsed)}`;
    age = numbers ? `counted ${ago(since(progress.observed_at))}` : `started ${ago(begun)}`;
  } else if (group === "waiting") {
    age = `due ${ago(since(task.run_after))}`;
  } else if (task.end_date) {
    time = begun ? `took ${roughly(elapsed)}` : "";
    age = `ended ${ago(since(task.end_date))}`;
  }
  setText(part("time"), time);
  setText(part("rate"), numbers?.rate ?? "");
  setText(part("age"), age);
  part("age").title = task.end_date ? new Date(task.end_date).toLocaleString() : "";
  const isOld = group === "running" && readAt !== null && now() - readAt > OLD_MS;
  setText(part("read"), isOld ? `read ${ago(now() - readAt)}` : "");
}

export function ago(ms) {
  return `${roughly(ms)} ago`;
}

// Nobody needs the seconds of what took minutes, or the minutes of what took many hours.
function roughly(ms) {
  const minutes = Math.floor(ms / 60000);
  if (minutes >= 2880) return `${Math.floor(minutes / 1440)} days`;
  if (minutes >= 600) return `${Math.floor(minutes / 60)} h`;
  return minutes >= 1 && minutes < 60 ? `${minutes} min` : duration(ms);
}
