// Shows the progress of one task's export. All data comes from Airflow's own REST API, with the viewer's login;
// the page inserts all of it as text, never as markup.

import {
  UNDER_WAY,
  causesOf,
  duration,
  element,
  fillBar,
  followTheme,
  get,
  getIfThere,
  getXCom,
  isId,
  measure,
  openOutside,
  progressRecord,
  put,
  showNotice,
  storeText,
  taskPath,
} from "./shared.js";

const REFRESH_MS = 5000;
const REFRESH_AT_REST_MS = 30000;
let shown = null;
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

function taskFromAddress() {
  const [dag, run, task] = ["dag_id", "run_id", "task_id"].map(parameter);
  if (![dag, run, task].every(isId)) return null;
  const index = parameter("map_index");
  return { path: taskPath(dag, run, task), mapIndex: /^\d+$/.test(index) ? Number(index) : -1 };
}

async function load({ path, mapIndex }) {
  const [task, value] = await Promise.all([
    get(mapIndex < 0 ? path : `${path}/${mapIndex}`),
    getXCom(path, "progress", mapIndex),
  ]);
  const progress = progressRecord(value);
  // Airflow stores the links shortly after the deferral.
  if (progress && (links.of !== progress.operation_name || Object.values(links.urls).includes(null))) {
    const answer = await getIfThere(`${path}/links?map_index=${mapIndex}`);
    links = { of: progress.operation_name, urls: answer?.extra_links ?? {} };
  }
  return { task, progress };
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
  const numbers = measure(task, progress);
  showState(progress, numbers);
  showNumbers(progress, numbers);
  showCauses(progress);
  showDetails(task, progress);
}

function showState(progress, numbers) {
  const [text, tone] = numbers.badge;
  put("badge", text);
  element("badge").className = `badge ${tone}`;
  const count = numbers.total.toLocaleString();
  put("headline", numbers.total ? `${numbers.percent} % of ${count} instances` : headlineBeforeCounts(progress));
  fillBar(element("bar"), progress, numbers);
  put("message", progress.message ?? "");
  element("message").hidden = !progress.message;
}

// Counts of the DICOM store or of the selection, which may be some minutes old.
function headlineBeforeCounts({ expected }) {
  if (!Number.isFinite(expected)) return "No instances counted yet";
  return `About ${expected.toLocaleString()} instances, none counted yet`;
}

function showNumbers(progress, numbers) {
  for (const key of ["success", "failure", "pending"]) put(key, progress[key].toLocaleString());
  element("failure").className = progress.failure ? "some" : "";
  put("elapsed", duration(numbers.elapsed));
  put("rate", numbers.rate ?? "–");
  put("remaining", numbers.remaining === null ? "–" : `~ ${duration(numbers.remaining)}`);
  element("estimate").hidden = numbers.byNow === null;
  put("estimate", `≈ ${numbers.byNow} % by now (estimate)`);
  const time = new Date(Date.parse(progress.observed_at)).toLocaleTimeString();
  put("freshness", numbers.isRunning ? `Counted ${duration(numbers.age)} ago, at ${time}.` : `As of ${time}.`);
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
  const isAsked = Number.isFinite(progress.known);
  element("causes").hidden = !isAsked;
  if (!isAsked) return;
  const [known, failed] = [progress.known.toLocaleString(), progress.failure.toLocaleString()];
  const more = progress.more_causes > 0 ? `; further causes: ${progress.more_causes.toLocaleString()}` : "";
  put("causes-title", `Causes: Cloud Logging lists ${known} of the ${failed} failed instances${more}`);
  element("causes-list").replaceChildren(...causesOf(progress).map(causeItem));
}

function showDetails(task, progress) {
  const dataset = progress.operation_name.split("/operations/")[0];
  put("store", storeText(task, dataset));
  put("destination", task.rendered_fields?.destination ?? "–");
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
