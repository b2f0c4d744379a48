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

/** The columns of a chart: all intervals of the range, also those that the answer leaves out because nothing happened. */
function columns(answer, fields, kind, seconds, isRelative) {
  const step = answer.resolution, known = new Map(answer.value.map((one) => [one.time, one]));
  const now = Math.floor(Date.now() / 1000), end = Math.floor(now / step) * step;
  const times = [];
  for (let at = end - Math.floor(seconds / step) * step; at < end; at += step) times.push(at);
  if (known.has(end)) times.push(end);
  // The relay takes its samples just after the end of an interval, so the last one may not be there yet.
  else if (!known.has(times.at(-1))) times.pop();
  const series = fields.map((field) => times.map((at) => {
    const value = known.get(at)?.[field] ?? 0;
    return kind === "rate" ? value / step : value;
  }));
  if (isRelative) {
    for (const values of series) {
      const highest = Math.max(...values) || 1;
      values.forEach((value, index) => { values[index] = (100 * value) / highest; });
    }
  }
  return [times, ...series];
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
      label, stroke: colour(`--series-${index + 1}`), width: 2, points: { show: false },
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
    const values = labels.map((label, at) => `${label} ${format(series[at][index])}`).join(", ");
    const said = `${time.format(new Date(times[index] * 1000))}: ${values}`;
    document.getElementById("announcements").textContent = said;
  });
}

const page = document.querySelector("[data-history]");
const charts = [...document.querySelectorAll(".chart")].map((element) => ({ element, plot: null }));
const { history: url, seconds, scale } = page.dataset;
const isRelative = scale === "relative", isLong = Number(seconds) > 86400;
let answer = null;

function show(chart, isNew) {
  const { fields, kind, labels } = chart.element.dataset;
  const names = labels.split("|"), format = formatter(kind, isRelative);
  const data = columns(answer, fields.split("|"), kind, Number(seconds), isRelative);
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
let loadedAt = 0;

/** Draw the charts anew, if the drawing is old. */
async function load() {
  if (document.hidden || Date.now() - loadedAt < PAUSE_MS) return;
  const before = loadedAt;
  loadedAt = Date.now();
  try {
    const response = await fetch(url, { headers: { Accept: "application/json" } });
    if (!response.ok) throw new Error(`status ${response.status}`);
    answer = await response.json();
    for (const chart of charts) show(chart, false);
    page.classList.remove("stale");
  } catch {
    // What is drawn stays, in grey. If the relay is away, the page's banner says so.
    loadedAt = before;
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
