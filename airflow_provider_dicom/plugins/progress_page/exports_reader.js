// Reads the export tasks of all DAGs from Airflow's REST API, which returns only what the viewer may see.
//
// A refresh sends at most MAX_REQUESTS requests, however many tasks and rows there are. Lists of tasks contain the
// states, DICOM stores and destinations; counts are XComs, which Airflow returns one by one. So a refresh reads the
// XComs of some rows only: rows that have not been read first, then running ones, the oldest first.

import { causesOf, get, getIfThere, getXCom, now, progressRecord, taskPath } from "./shared.js";

export const MAX_REQUESTS = 10;
// The most rows of a page; an Airflow with a lower "maximum_page_limit" lowers it.
export const page = { size: 50 };
const OPERATOR = "DicomStoreExportOperator";
const BATCH_SIZE = 100;
// A search leaves half of the first refreshes, and more of the later ones, to the rows.
const SEARCH_REQUESTS = 5;
const DAY_MS = 86400000;

// In the order of attention. "order" puts what has been running for the longest time first, and of what has ended
// the newest.
export const GROUPS = [
  { key: "failed", name: "Failed or retrying", states: ["failed", "upstream_failed", "up_for_retry"], order: "-end_date", hasEnded: true },
  { key: "running", name: "Running", states: ["running", "deferred", "restarting", "up_for_reschedule"], order: "start_date" },
  { key: "waiting", name: "Waiting", states: ["queued", "scheduled", "none"], order: "run_after" },
  { key: "done", name: "Done", states: ["success", "skipped"], order: "-end_date", hasEnded: true },
];

export function groupOf(task) {
  return GROUPS.find((group) => group.states.includes(task.state ?? "none"))?.key;
}

export function keyOf(task) {
  return [task.dag_id, task.dag_run_id, task.task_id, task.map_index].join("\n");
}

async function list(group, days, offset, limit) {
  const query = new URLSearchParams({ operator: OPERATOR, order_by: group.order, offset, limit });
  for (const state of group.states) query.append("state", state);
  if (group.hasEnded) query.set("end_date_gte", new Date(now() - days * DAY_MS).toISOString());
  const { task_instances: tasks, total_entries: total } = await get(`dags/~/dagRuns/~/taskInstances?${query}`);
  return { tasks, total, isCut: tasks.length < Math.min(limit, total - offset) };
}

// One page of all exports: Airflow filters, sorts and counts.
export class Listing {
  constructor({ group, days, page: index }) {
    Object.assign(this, { group, days, page: index });
    this.tasks = [];
    this.totals = {};
  }

  get total() {
    return GROUPS.filter(({ key }) => !this.group || key === this.group).reduce((sum, { key }) => sum + (this.totals[key] ?? 0), 0);
  }

  async read() {
    const found = [];
    let skipped = this.page * page.size;
    for (const group of GROUPS) {
      const isWanted = !this.group || group.key === this.group;
      // A list without rows still has the total.
      const limit = isWanted ? page.size - found.length : 0;
      const { tasks, total, isCut } = await list(group, this.days, isWanted ? skipped : 0, limit);
      this.totals[group.key] = total;
      if (isCut && tasks.length) {
        page.size = found.length + tasks.length;
        return this.read();
      }
      if (!isWanted) continue;
      found.push(...tasks);
      skipped = Math.max(0, skipped - total);
    }
    this.tasks = found;
    return GROUPS.length;
  }
}

// The exports of some DICOM stores. Airflow cannot filter by DICOM store, so the lists are read from the beginning
// to the end, a few at a time and over and over again.
export class Search {
  constructor({ group, days, page: index, store }) {
    this.groups = GROUPS.filter(({ key }) => !group || key === group);
    Object.assign(this, { days, page: index, words: store.toLowerCase() });
    this.found = new Map();
    this.sizes = {};
    this.isComplete = false;
    this.begin();
  }

  begin() {
    this.seen = new Set();
    this.searched = 0;
    this.position = { group: 0, offset: 0 };
  }

  get tasks() {
    const order = GROUPS.map(({ key }) => key);
    const all = [...this.found.values()].sort((one, other) => order.indexOf(groupOf(one)) - order.indexOf(groupOf(other)));
    return all.slice(this.page * page.size, (this.page + 1) * page.size);
  }

  get total() {
    return this.found.size;
  }

  get isUnderWay() {
    return !this.isComplete || this.searched > 0;
  }

  get size() {
    return Object.values(this.sizes).reduce((sum, size) => sum + size, 0);
  }

  get totals() {
    const totals = Object.fromEntries(this.groups.map(({ key }) => [key, 0]));
    for (const task of this.found.values()) totals[groupOf(task)] += 1;
    return totals;
  }

  async read() {
    const { position } = this;
    for (let requests = 1; requests <= SEARCH_REQUESTS; requests += 1) {
      const group = this.groups[position.group];
      const { tasks, total } = await list(group, this.days, position.offset, BATCH_SIZE);
      this.sizes[group.key] = total;
      this.searched += tasks.length;
      for (const task of tasks.filter((one) => this.matches(one))) {
        this.seen.add(keyOf(task));
        this.found.set(keyOf(task), task);
      }
      position.offset += tasks.length;
      if (tasks.length && position.offset < total) continue;
      Object.assign(position, { group: position.group + 1, offset: 0 });
      if (position.group < this.groups.length) continue;
      this.end();
      return requests;
    }
    return SEARCH_REQUESTS;
  }

  end() {
    for (const key of this.found.keys()) if (!this.seen.has(key)) this.found.delete(key);
    this.isComplete = true;
    this.begin();
  }

  matches(task) {
    const { project_id, location, dataset_id, dicom_store_id } = task.rendered_fields ?? {};
    return [project_id, location, dataset_id, dicom_store_id].filter(Boolean).join("/").toLowerCase().includes(this.words);
  }
}

// What is known of one task. What was read of an earlier try or state is read again.
export class Row {
  constructor(task) {
    this.adopt(task);
  }

  adopt(task) {
    const version = [task.try_number, task.state, task.end_date].join();
    if (version !== this.version) Object.assign(this, { version, values: {}, isForbidden: false, readAt: null });
    this.task = task;
  }

  get group() {
    return groupOf(this.task);
  }

  get progress() {
    return progressRecord(this.values.progress) ?? progressOfResult(this.values.return_value);
  }

  // The value to read next, or null.
  get unread() {
    const { task, values, progress, group } = this;
    if (group === "waiting" || ["skipped", "upstream_failed"].includes(task.state)) return null;
    const missing = (name) => !Object.hasOwn(values, name);
    if (missing("progress")) return "progress";
    if (group === "running" || this.isForbidden) return null;
    if (task.state === "success" && missing("return_value") && !(progress && task.rendered_fields?.destination)) return "return_value";
    if (progress?.failure && !this.causes.length && missing("failures")) return "failures";
    if (group === "failed" && !progress?.message && !this.causes.length && missing("log")) return "log";
    return null;
  }

  // Texts and counts, the most frequent first; the record of the end has them, or the failures are grouped here.
  get causes() {
    const recorded = causesOf(this.progress);
    return recorded.length ? recorded.map(({ message, count }) => [message, count]) : groupFailures(this.values.failures);
  }

  async read(name) {
    const { task, version } = this;
    const path = taskPath(task.dag_id, task.dag_run_id, task.task_id);
    let value;
    try {
      value = name === "log" ? await lastError(path, task) : await getXCom(path, name, task.map_index);
    } catch (error) {
      // Other rows may still be readable.
      if (!error.status || error.status === 401) throw error;
      this.isForbidden ||= error.status === 403;
      if (error.status >= 500 && Object.hasOwn(this.values, name)) return;
    }
    if (version !== this.version) return;
    this.values[name] = value;
    this.readAt = now();
  }
}

// Reads values of rows, and returns whether unread ones are left.
export async function readValues(rows, budget) {
  const unread = rows.filter((row) => row.unread);
  const running = rows.filter((row) => row.group === "running" && !row.unread).sort((one, other) => one.readAt - other.readAt);
  const chosen = [...unread.map((row) => [row, row.unread]), ...running.map((row) => [row, "progress"])].slice(0, budget);
  await Promise.all(chosen.map(([row, name]) => row.read(name)));
  return rows.some((row) => row.unread);
}

function progressOfResult(result) {
  if (typeof result !== "object" || result === null) return null;
  return progressRecord({ observed_at: result.end_time, message: null, ...result });
}

// Messages without the instances' names.
function groupFailures(failures) {
  const counts = new Map();
  for (const failure of Array.isArray(failures) ? failures : []) {
    if (typeof failure?.message !== "string") continue;
    const cause = failure.message.replaceAll(failure.resource_path || "\u0000", "…").replace(/[\s:…]+$/, "");
    counts.set(cause, (counts.get(cause) ?? 0) + 1);
  }
  return [...counts].sort(([, one], [, other]) => other - one);
}

// The error that ended a try, from the task's log.
async function lastError(path, task) {
  const log = await getIfThere(`${path}/logs/${task.try_number}?map_index=${task.map_index}&full_content=true`);
  const events = Array.isArray(log?.content) ? log.content : [];
  const error = events.findLast((event) => event?.error_detail?.length)?.error_detail[0];
  return error ? `${error.exc_type}: ${error.exc_value}` : null;
}
