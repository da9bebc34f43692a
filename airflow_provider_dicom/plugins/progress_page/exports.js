// Shows the export tasks of all DAGs. All data comes from Airflow's own REST API, with the viewer's login; the page
// inserts all of it as text, never as markup.

import { GROUPS, Listing, MAX_REQUESTS, Row, Search, keyOf, page, readValues } from "./exports_reader.js";
import { ago, isOnScreen, showRows } from "./exports_rows.js";
import { element, followTheme, now, put, rateText, measure, setText, showNotice } from "./shared.js";

const REFRESH_MS = 5000;
const REFRESH_AT_REST_MS = 30000;
// Lists are read with every other refresh.
const LIST_MS = 9000;
const TYPING_MS = 400;
const DEFAULTS = { group: "", store: "", days: 3, page: 0 };
// The filters outlive a visit to a task's page.
const STORED = "airflow-provider-dicom-exports";

const choice = { ...DEFAULTS, ...remembered() };
let source = newSource();
let rows = [];
let listedAt = null;
let turn = 0;
let timer = 0;

function remembered() {
  try {
    const { group, store, days } = JSON.parse(sessionStorage.getItem(STORED)) ?? {};
    return {
      group: GROUPS.some(({ key }) => key === group) ? group : "",
      store: typeof store === "string" ? store : "",
      days: [1, 3, 7, 30].includes(days) ? days : DEFAULTS.days,
    };
  } catch {
    return {};
  }
}

function newSource() {
  return choice.store ? new Search(choice) : new Listing(choice);
}

function choose(changes) {
  Object.assign(choice, { page: 0 }, changes);
  try {
    sessionStorage.setItem(STORED, JSON.stringify(choice));
  } catch {
    // Without storage, the filters last until the page is left.
  }
  source = newSource();
  listedAt = null;
  refresh();
}

async function refresh() {
  clearTimeout(timer);
  turn += 1;
  const mine = turn;
  // The page asks nothing while nobody sees it; "visibilitychange" goes on.
  if (document.visibilityState !== "visible") return;
  let pause = REFRESH_AT_REST_MS;
  element("main").ariaBusy = "true";
  try {
    const isLeft = await read(mine);
    if (mine !== turn) return;
    showNotice("");
    const isMoving = source.totals.running || source.totals.waiting || source.isUnderWay;
    if (isLeft || isMoving) pause = REFRESH_MS;
  } catch (error) {
    if (mine !== turn) return;
    const notice = noticeOfError(error);
    if (notice) element("content").hidden = true;
    showNotice(notice ?? "Airflow does not answer; trying again.");
  }
  followTheme();
  timer = setTimeout(refresh, pause);
  element("main").ariaBusy = "false";
}

// Reads what is due, and returns whether values of rows on the screen are still unread.
async function read(mine) {
  let budget = MAX_REQUESTS;
  if (listedAt === null || now() - listedAt >= LIST_MS || source.isComplete === false) {
    budget -= await source.read();
    if (mine !== turn) return false;
    listedAt = now();
    if (choice.page && choice.page * page.size >= source.total) return turnPage(0);
    const known = new Map(rows.map((row) => [keyOf(row.task), row]));
    rows = source.tasks.map((task) => {
      const row = known.get(keyOf(task));
      row?.adopt(task);
      return row ?? new Row(task);
    });
    show();
  }
  const isLeft = await readValues(rows.filter(isOnScreen), budget);
  if (mine === turn) show();
  return isLeft;
}

function turnPage(index) {
  choice.page = index;
  source.page = index;
  listedAt = null;
  refresh();
  return true;
}

function show() {
  element("content").hidden = false;
  showTotals();
  showSum();
  showRows(rows);
  element("exports").hidden = !rows.length;
  showSearched();
  showPages();
  const stores = new Set(rows.map(({ task }) => task.rendered_fields?.dicom_store_id).filter(Boolean));
  for (const option of element("stores").children) stores.delete(option.value);
  element("stores").append(...[...stores].map((store) => Object.assign(document.createElement("option"), { value: store })));
  showFreshness();
}

function showTotals() {
  const { totals } = source;
  for (const { key } of GROUPS) setText(element(`count-${key}`), totals[key]?.toLocaleString() ?? "–");
  const all = Object.values(totals).reduce((sum, total) => sum + total, 0);
  setText(element("count-"), Object.keys(totals).length < GROUPS.length ? "–" : all.toLocaleString());
  put("summary", `${totals.failed ?? 0} failed or retrying, ${totals.running ?? 0} running`);
}

// The sum of the rows of this page, because Airflow cannot add up the counts of others.
function showSum() {
  const running = rows.filter(({ group, progress }) => group === "running" && progress);
  const sum = { success: 0, failure: 0, pending: 0, perSecond: 0 };
  for (const { task, progress } of running) {
    for (const key of ["success", "failure", "pending"]) sum[key] += progress[key];
    sum.perSecond += measure(task, progress).perSecond;
  }
  const total = sum.success + sum.failure + sum.pending;
  const [share, count] = [Math.floor((100 * (sum.success + sum.failure)) / total), running.length];
  const exports = count === 1 ? "One running export" : `${count} running exports`;
  element("sum").hidden = !total;
  if (!total) return;
  put(
    "sum",
    `${exports} counted on this page: ${share} % of ${total.toLocaleString()} instances, ` +
      `${sum.failure.toLocaleString()} failed, ${rateText(sum.perSecond)}.`,
  );
}

function showSearched() {
  const isSearch = source instanceof Search;
  element("searched").hidden = !isSearch;
  if (isSearch) {
    const progress = source.isComplete ? `all ${source.size.toLocaleString()}` : `${source.searched.toLocaleString()} of at least ${source.size.toLocaleString()}`;
    put("searched", `Searched ${progress} exports; found ${source.total.toLocaleString()}.`);
  }
  element("empty").hidden = rows.length > 0 || source.isComplete === false;
  put("empty", emptyText());
}

function emptyText() {
  if (choice.store) return "No export of such a DICOM store: try another name, state or time.";
  if (choice.group) return "No export has this state.";
  return "No exports that you may see: none is running or waiting, and none has ended in this time.";
}

function showPages() {
  const { total } = source;
  const first = choice.page * page.size;
  element("pages").hidden = total <= page.size;
  put("page", `${(first + 1).toLocaleString()} to ${(first + rows.length).toLocaleString()} of ${total.toLocaleString()}`);
  element("previous").disabled = !choice.page;
  element("next").disabled = first + rows.length >= total;
}

function showFreshness() {
  put("freshness", listedAt === null ? "" : `List read ${ago(now() - listedAt)}.`);
}

function noticeOfError(error) {
  if (error.status === 401) return "You are not logged in to Airflow.";
  if (error.status === 403) return "Your role in Airflow does not permit you to list the tasks of DAGs.";
  return null;
}

function prepare() {
  for (const { key, name } of [{ key: "", name: "All" }, ...GROUPS]) {
    const label = element("group").content.firstElementChild.cloneNode(true);
    const input = label.querySelector("input");
    Object.assign(input, { value: key, checked: key === choice.group });
    input.addEventListener("change", () => choose({ group: key }));
    label.querySelector(".count").id = `count-${key}`;
    setText(label.querySelector(".name"), name);
    element("groups").append(label);
  }
  element("store").value = choice.store;
  element("days").value = String(choice.days);
  let typing = 0;
  element("store").addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => choose({ store: element("store").value.trim() }), TYPING_MS);
  });
  element("days").addEventListener("change", () => choose({ days: Number(element("days").value) }));
  element("filters").addEventListener("submit", (event) => event.preventDefault());
  element("previous").addEventListener("click", () => turnPage(choice.page - 1));
  element("next").addEventListener("click", () => turnPage(choice.page + 1));
  document.addEventListener("visibilitychange", refresh);
}

followTheme();
prepare();
refresh();
// Times advance between two responses.
setInterval(() => {
  if (element("content").hidden || document.visibilityState !== "visible") return;
  showRows(rows);
  showFreshness();
}, 1000);
