// Draws the charts of the page "Monitor" with uPlot, from the same API call that the page names. Each chart can be
// read with the arrow keys, and has a table below it.
/* global uPlot */

const UNITS = ["bytes/s", "kB/s", "MB/s", "GB/s", "TB/s"];

function rate(value) {
  let unit = 0;
  while (value >= 999.5 && unit < UNITS.length - 1) { value /= 1000; unit += 1; }
  return `${value >= 99.5 || unit === 0 ? Math.round(value) : value.toFixed(1)} ${UNITS[unit]}`;
}

const whole = new Intl.NumberFormat(undefined, { maximumFractionDigits: 0 });
const STEPS = [1, 2, 5].flatMap((step) => [...Array(12).keys()].map((power) => step * 10 ** power)).sort((a, b) => a - b);
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const day = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric" });
const time = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

function formatter(kind, isRelative) {
  if (isRelative) return (value) => `${Math.round(value)} %`;
  return kind === "rate" ? rate : (value) => whole.format(value);
}

/** The columns of a chart: all intervals of the range. If an answer has no values for an interval, nothing happened in it;
 *  or, before the relay was started, nothing is known about it (null).
 *  @param {object} earlier - the minutes before the relay was started; null if the answer has that time as well. */
function columns(answer, earlier, fields, kind, seconds, isRelative) {
  const step = answer.resolution, known = new Map(answer.value.map((one) => [one.time, one]));
  const minutes = new Map(earlier?.value.map((one) => [one.time, one]));
  const end = Math.floor(answer.answeredAt / step) * step;
  const begin = end - Math.floor(seconds / step) * step, start = Math.floor(answer.startedAt / step) * step;
  const change = earlier ? Math.floor(answer.startedAt / earlier.resolution) * earlier.resolution : begin;
  const times = [], lengths = [];
  const add = (at, length) => { times.push(at); lengths.push(length); };
  if (earlier) {
    const length = earlier.resolution;
    for (let at = Math.ceil(begin / length) * length; at < change; at += length) add(at, length);
  }
  for (let at = Math.max(begin, change); at < end; at += step) add(at, step);
  if (known.has(end)) add(end, step);
  // The relay takes its samples just after the end of an interval, so the last one may not be there yet.
  else if (times.length && !known.has(times.at(-1))) times.pop();
  const series = fields.map((field) => times.map((at, index) => {
    const value = (at < change ? minutes : known).get(at)?.[field] ?? (at < start ? null : 0);
    if (value === null) return null;
    if (kind === "rate") return value / lengths[index];
    return kind === "sum" ? (value * step) / lengths[index] : value;
  }));
  if (isRelative) {
    for (const values of series) {
      const highest = Math.max(...values) || 1;
      values.forEach((value, index) => { values[index] = value === null ? null : (100 * value) / highest; });
    }
  }
  return [times, ...series];
}

/** The points of a chart that have a gap on both sides, where no line is drawn. */
function alone(plot, series) {
  const values = plot.data[series];
  const found = [...values.keys()].filter((at) => values[at] != null && values[at - 1] == null && values[at + 1] == null);
  return found.length ? found : null;
}

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function draw(element, data, labels, format, isRelative) {
  const axis = { stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false } };
  return new uPlot({
    width: Math.max(200, element.clientWidth), height: 200,
    legend: { show: false }, cursor: { drag: { x: false, y: false } },
    scales: { y: { range: (plot, low, high) => [0, isRelative ? 105 : Math.max(high * 1.1, 1)] } },
    axes: [
      { ...axis, space: 70, values: (plot, values) => values.map((at) => (isLong ? day : clock).format(new Date(at * 1000))) },
      { ...axis, size: 74, incrs: STEPS, values: (plot, values) => values.map(format) },
    ],
    series: [{}, ...labels.map((label, index) => ({
      label, stroke: colour(`--series-${index + 1}`), width: 2, points: { show: false, filter: alone },
      fill: index === 0 ? `${colour("--series-1")}22` : undefined,
    }))],
  }, data, element);
}

/** Read values with the arrow keys. */
function addKeys(element, chart, labels, format) {
  let index = null;
  element.addEventListener("keydown", (event) => {
    const count = chart.plot.data[0].length;
    const moves = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -Infinity, End: Infinity };
    if (!(event.key in moves) || !count) return;
    event.preventDefault();
    index = Math.min(count - 1, Math.max(0, (index ?? count) + moves[event.key]));
    const [times, ...series] = chart.plot.data;
    chart.plot.setCursor({ left: chart.plot.valToPos(times[index], "x"), top: 10 });
    const values = labels.map((label, at) => `${label} ${series[at][index] === null ? "unknown" : format(series[at][index])}`).join(", ");
    const said = `${time.format(new Date(times[index] * 1000))}: ${values}`;
    document.getElementById("announcements").textContent = said;
  });
}

const page = document.querySelector("[data-history]");
const charts = [...document.querySelectorAll(".chart")].map((element) => ({ element, plot: null }));
const { history: url, minutes: minutesUrl, seconds, scale } = page.dataset;
const isRelative = scale === "relative", isLong = Number(seconds) > 86400;
let answer = null, earlier = null;

function show(chart, isNew) {
  const { fields, kind, labels } = chart.element.dataset;
  const names = labels.split("|"), format = formatter(kind, isRelative);
  const data = columns(answer, earlier, fields.split("|"), kind, Number(seconds), isRelative);
  if (chart.plot && !isNew) {
    chart.plot.setData(data);
  } else {
    const isFirst = chart.plot === null;
    chart.plot?.destroy();
    chart.plot = draw(chart.element, data, names, format, isRelative);
    if (isFirst) addKeys(chart.element, chart, names, format);
  }
  chart.element.dataset.highest = Math.max(0, ...data.slice(1).flat());
}

const PAUSE_MS = Number(seconds) <= 3600 ? 4500 : 60000;
let nextLoadAt = 0;  // by performance.now()

/** The answer to a request, with the time of the relay's clock: the clock of this machine may be wrong. */
async function get(path) {
  const response = await fetch(path, { headers: { Accept: "application/json" } });
  if (!response.ok) throw new Error(`status ${response.status}`);
  return { ...await response.json(), answeredAt: Date.parse(response.headers.get("Date")) / 1000 };
}

let earlierIsUntil = 0;

/** Get the minutes before the relay was started, once. Intervals of ten seconds are only in the memory of the relay. */
async function loadEarlier() {
  const { startedAt } = answer, begin = answer.answeredAt - Number(seconds);
  if (!minutesUrl || startedAt === earlierIsUntil) return;
  const until = Math.floor(startedAt / 60) * 60;
  earlier = until > begin ? await get(`${minutesUrl}&from=${begin}&to=${until}`) : null;
  earlierIsUntil = startedAt;
}

/** Draw the charts anew, if the drawing is old. */
async function load() {
  const now = performance.now(), before = nextLoadAt;
  if (document.hidden || now < nextLoadAt) return;
  nextLoadAt = now + PAUSE_MS;
  try {
    answer = await get(url);
    await loadEarlier();
    for (const chart of charts) show(chart, false);
    page.classList.remove("stale");
  } catch {
    // What is drawn stays, in grey. If the relay is unavailable, the page's banner says so.
    nextLoadAt = before;
    page.classList.add("stale");
  }
}

new ResizeObserver(() => {
  for (const { element, plot } of charts) {
    if (plot && Math.abs(plot.width - element.clientWidth) > 1) plot.setSize({ width: element.clientWidth, height: 200 });
  }
}).observe(page);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  if (answer) charts.forEach((chart) => show(chart, true));
});
// The script that keeps the page up to date says when the relay has answered.
document.addEventListener("refreshed", load);
