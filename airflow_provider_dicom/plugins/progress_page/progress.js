// Shows the progress of one task's export. All data comes from Airflow's own REST API, with the viewer's login;
// the page inserts all of it as text, never as markup.

const REFRESH_MS = 5000;
const REFRESH_AT_REST_MS = 30000;
// The estimate ends at this age of a record: perhaps nothing has moved, or nobody counts.
const LONGEST_ESTIMATE_MS = 600000;
// Airflow's states of a task that is not finished.
const UNDER_WAY = new Set(["running", "deferred", "queued", "scheduled", "restarting", "up_for_reschedule"]);
const STATES = {
  RUNNING: ["Running", "busy"],
  SUCCEEDED: ["Succeeded", "good"],
  PARTIAL: ["Succeeded in part", "mixed"],
  FAILED: ["Failed", "bad"],
  CANCELLED: ["Cancelled", "bad"],
};

const element = (id) => document.getElementById(id);
let shown = null;
let clockOffset = 0;
let links = { of: null, urls: {} };

// URLSearchParams would turn "+" into a space, but Airflow 3.1 inserts a run's id unquoted.
function parameter(name) {
  const found = new RegExp(`[?&]${name}=([^&]*)`).exec(location.search);
  try {
    return found ? decodeURIComponent(found[1]) : "";
  } catch {
    return "";
  }
}

// In Airflow's API, "~" stands for all DAGs, and dots and slashes lead to other paths.
function isId(text) {
  return text !== "" && !/^[~.]*$/.test(text) && !/[/\\\u0000-\u001f]/.test(text);
}

function taskFromAddress() {
  const [dag, run, task] = ["dag_id", "run_id", "task_id"].map(parameter);
  if (![dag, run, task].every(isId)) return null;
  const index = parameter("map_index");
  const path = ["dags", dag, "dagRuns", run, "taskInstances", task].map(encodeURIComponent).join("/");
  return { path, mapIndex: /^\d+$/.test(index) ? Number(index) : -1 };
}

async function get(path) {
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

async function getIfThere(path) {
  try {
    return await get(path);
  } catch (error) {
    if (error.status === 404) return null;
    throw error;
  }
}

// Any task may write an XCom of this name: what is no progress record of an export counts as none.
function progressRecord(value) {
  let record = value;
  try {
    if (typeof value === "string") record = JSON.parse(value);
  } catch {
    return null;
  }
  if (typeof record !== "object" || record === null || !Object.hasOwn(STATES, record.state)) return null;
  if (typeof record.operation_name !== "string" || !record.operation_name.includes("/operations/")) return null;
  return ["success", "failure", "pending"].every((key) => Number.isFinite(record[key])) ? record : null;
}

async function load({ path, mapIndex }) {
  const [task, entry] = await Promise.all([
    get(mapIndex < 0 ? path : `${path}/${mapIndex}`),
    getIfThere(`${path}/xcomEntries/progress?map_index=${mapIndex}&deserialize=false&stringify=false`),
  ]);
  const progress = progressRecord(entry?.value);
  // Airflow stores the links shortly after the deferral.
  if (progress && (links.of !== progress.operation_name || Object.values(links.urls).includes(null))) {
    const answer = await getIfThere(`${path}/links?map_index=${mapIndex}`);
    links = { of: progress.operation_name, urls: answer?.extra_links ?? {} };
  }
  return { task, progress };
}

function duration(ms) {
  const seconds = Math.max(0, Math.round(ms / 1000));
  const [h, m, s] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60];
  if (h) return `${h} h ${m} min`;
  return m ? `${m} min ${s} s` : `${s} s`;
}

function rateText(perSecond) {
  const [value, unit] = perSecond >= 1 ? [perSecond, "s"] : [perSecond * 60, "min"];
  return `${value.toLocaleString(undefined, { maximumFractionDigits: value < 10 ? 1 : 0 })} / ${unit}`;
}

function put(id, text) {
  element(id).textContent = text;
}

function showNotice(notice) {
  put("notice", notice);
  element("notice").hidden = !notice;
}

function noticeWithoutProgress(task) {
  if (UNDER_WAY.has(task.state)) return "No counts yet: the first poll of the export brings them.";
  if (!task.state) return "The task has not started yet.";
  return "Nothing to show: this task has no progress record of an export.";
}

function show({ task, progress }) {
  if (task.state === null || progress === null) {
    element("export").hidden = true;
    showNotice(noticeWithoutProgress(task));
    return;
  }
  showNotice("");
  element("export").hidden = false;
  const isRunning = progress.state === "RUNNING" && UNDER_WAY.has(task.state);
  showState(task, progress, isRunning);
  showNumbers(task, progress, isRunning);
  showEstimate(task, progress, isRunning);
  showCauses(progress);
  showDetails(task, progress);
}

function showState(task, progress, isRunning) {
  // The task may have ended before the end of its export.
  const isCut = progress.state === "RUNNING" && !isRunning;
  const [text, tone] = isCut ? [`Task ${task.state}`, "bad"] : (STATES[progress.state] ?? [progress.state, "busy"]);
  put("badge", text);
  element("badge").className = tone;
  const total = progress.success + progress.failure + progress.pending;
  const share = total ? (progress.success + progress.failure) / total : 0;
  const count = total.toLocaleString();
  put("headline", total ? `${Math.floor(share * 100)} % of ${count} instances` : "No instances counted yet");
  const bar = element("bar");
  bar.setAttribute("aria-valuenow", String(Math.floor(share * 100)));
  element("bar-success").style.width = `${total ? (100 * progress.success) / total : 0}%`;
  element("bar-success").className = isRunning ? "" : "ended";
  element("bar-failure").style.width = `${total ? (100 * progress.failure) / total : 0}%`;
  put("message", progress.message ?? "");
  element("message").hidden = !progress.message;
}

function showNumbers(task, progress, isRunning) {
  for (const key of ["success", "failure", "pending"]) put(key, progress[key].toLocaleString());
  element("failure").className = progress.failure ? "some" : "";
  const begun = Date.parse(progress.create_time ?? task.start_date);
  const observed = Date.parse(progress.end_time ?? progress.observed_at);
  const until = isRunning ? Date.now() + clockOffset : observed;
  const done = progress.success + progress.failure;
  const perSecond = done / Math.max(1, (observed - begun) / 1000);
  put("elapsed", duration(until - begun));
  put("rate", done ? rateText(perSecond) : "–");
  const left = (progress.pending / perSecond) * 1000 - (until - observed);
  put("remaining", isRunning && done && progress.pending ? `~ ${duration(left)}` : "–");
}

// Many exports take turns to record their counts: between two records, the export goes on at its own rate.
function showEstimate(task, progress, isRunning) {
  const observed = Date.parse(progress.observed_at);
  const time = new Date(observed).toLocaleTimeString();
  const age = Date.now() + clockOffset - observed;
  const done = progress.success + progress.failure;
  const total = done + progress.pending;
  const perMs = done / Math.max(1000, observed - Date.parse(progress.create_time ?? task.start_date));
  const isEstimated = isRunning && total > 0 && age > 0 && age < LONGEST_ESTIMATE_MS;
  // Never all: only the API says that an export has ended.
  const share = isEstimated ? Math.min(done + perMs * age, done + progress.pending * 0.99) / total : 0;
  const isAhead = Math.floor(share * 100) > Math.floor((done / Math.max(1, total)) * 100);
  element("estimate").hidden = !isAhead;
  put("estimate", `≈ ${Math.floor(share * 100)} % by now (estimate)`);
  element("bar-estimate").style.width = isAhead ? `${100 * (share - done / total)}%` : "0";
  put("freshness", isRunning ? `Counted ${duration(age)} ago, at ${time}.` : `As of ${time}.`);
}

// Older versions wrote records without causes.
function isCause(cause) {
  return typeof cause === "object" && cause !== null && Number.isFinite(cause.count) && typeof cause.message === "string";
}

function textElement(name, className, text) {
  return Object.assign(document.createElement(name), { className, textContent: text });
}

function causeItem(cause) {
  const item = document.createElement("li");
  item.append(textElement("span", "count", `${cause.count.toLocaleString()} ×`), textElement("span", "cause", cause.message));
  const paths = Array.isArray(cause.resource_paths) ? cause.resource_paths.filter((path) => typeof path === "string") : [];
  const more = cause.count - paths.length;
  const rest = paths.length && more > 0 ? [`and ${more.toLocaleString()} more`] : [];
  item.append(...[...paths, ...rest].map((path) => textElement("span", "paths", path)));
  return item;
}

function showCauses(progress) {
  const causes = Array.isArray(progress.causes) ? progress.causes.filter(isCause) : [];
  const isAsked = Number.isFinite(progress.known);
  element("causes").hidden = !isAsked;
  if (!isAsked) return;
  const [known, failed] = [progress.known.toLocaleString(), progress.failure.toLocaleString()];
  const more = progress.more_causes > 0 ? `; further causes: ${progress.more_causes.toLocaleString()}` : "";
  put("causes-title", `Causes: Cloud Logging lists ${known} of the ${failed} failed instances${more}`);
  element("causes-list").replaceChildren(...causes.map(causeItem));
}

function showDetails(task, progress) {
  const dataset = progress.operation_name.split("/operations/")[0];
  const rendered = task.rendered_fields ?? {};
  const store = rendered.dicom_store_id;
  put("store", store ? `${dataset}/dicomStores/${store}` : `a store of ${dataset}`);
  put("destination", rendered.destination ?? "–");
  put("operation", progress.operation_name);
  const anchors = Object.entries(links.urls)
    .filter(([, url]) => typeof url === "string" && url.startsWith("https://"))
    .map(([name, url]) => {
      const anchor = document.createElement("a");
      Object.assign(anchor, { textContent: name, href: url, target: "_blank", rel: "noopener noreferrer" });
      anchor.addEventListener("click", openOutside);
      return anchor;
    });
  element("links").replaceChildren(...anchors);
  element("links").hidden = !anchors.length;
}

// Airflow's frame permits no new windows, and Google's console no frames: the parent document opens the link.
function openOutside(event) {
  if (window.parent === window) return;
  try {
    const copy = window.parent.document.importNode(event.currentTarget);
    event.preventDefault();
    copy.click();
  } catch {
    // In a frame of another site, the browser decides.
  }
}

function followTheme() {
  let isDark = matchMedia("(prefers-color-scheme: dark)").matches;
  try {
    if (window.parent !== window) isDark = window.parent.document.documentElement.classList.contains("dark");
  } catch {
    // In a frame of another site, only the system's colour scheme is known.
  }
  document.documentElement.classList.toggle("dark", isDark);
}

function noticeOfError(error) {
  if (error.status === 401) return "You are not logged in to Airflow.";
  if (error.status === 403) return "Your role in Airflow does not permit you to see this DAG's tasks or XComs.";
  if (error.status === 404) return "Airflow knows no such task.";
  return null;
}

async function refresh(where) {
  let pause = REFRESH_MS;
  try {
    if (document.visibilityState === "visible") {
      shown = await load(where);
      show(shown);
    }
    if (shown && !UNDER_WAY.has(shown.task.state)) pause = REFRESH_AT_REST_MS;
  } catch (error) {
    const notice = noticeOfError(error);
    if (notice || shown === null) element("export").hidden = true;
    if (notice) shown = null;
    showNotice(notice ?? "Airflow does not answer; trying again.");
    pause = REFRESH_AT_REST_MS;
  }
  followTheme();
  setTimeout(refresh, pause, where);
}

followTheme();
const where = taskFromAddress();
if (where === null) showNotice("Airflow knows no such task.");
else refresh(where);
// The elapsed time advances between two responses.
setInterval(() => shown?.progress && !element("export").hidden && show(shown), 1000);
