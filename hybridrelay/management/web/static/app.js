// Keeps a page up to date. Without this script, pages show the same, as it was when they were loaded.
//
// Parts of a page that change have the attribute data-live. The server sends them as trees ([tag, attributes,
// children] or text), from which elements are made one by one: this script never parses HTML.

const REFRESH_MS = 5000, AFTER_EVENT_MS = 1000;

const format = new Intl.DateTimeFormat(undefined, {
  year: "numeric", month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit",
});
const today = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const withZone = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "long" });

/** Write times in the viewer's time zone. */
function showTimes(root) {
  for (const element of root.querySelectorAll("time[datetime]")) {
    const date = new Date(element.getAttribute("datetime"));
    if (!Number.isNaN(date.getTime())) {
      const isToday = date.toDateString() === new Date().toDateString();
      const text = isToday ? `today, ${today.format(date)}` : format.format(date);
      if (element.textContent !== text) element.textContent = text;
      element.title = withZone.format(date);
    }
  }
}

/** Add a button that copies a command. */
function addCopyButtons(root) {
  if (!navigator.clipboard) return;
  for (const element of root.querySelectorAll("[data-copy]")) {
    if (element.querySelector(".copy")) continue;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "button copy";
    button.textContent = "Copy";
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(element.querySelector("code").textContent);
        button.textContent = "Copied";
        announce("Copied");
      } catch {
        button.textContent = "Not allowed";
      }
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
    element.append(button);
  }
}

/** Say something to those who do not see the screen. */
function announce(text) {
  document.getElementById("announcements").textContent = text;
}

/** Make an element of a tree. */
function make(tree) {
  if (typeof tree === "string") return document.createTextNode(tree);
  const [tag, attributes, children] = tree;
  if (tag === "script" || tag === "style") throw new Error(`no ${tag} here`);
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (!name.startsWith("on")) element.setAttribute(name, value);
  }
  element.append(...children.map(make));
  return element;
}

/** Change an element into what a tree says, and keep as much of it as possible: focus, selection, open details. */
function change(node, tree) {
  if (typeof tree === "string") {
    if (node.nodeType !== Node.TEXT_NODE) node.replaceWith(make(tree));
    else if (node.data !== tree) node.data = tree;
    return;
  }
  const [tag, attributes, children] = tree;
  if (node.nodeType !== Node.ELEMENT_NODE || node.localName !== tag) {
    node.replaceWith(make(tree));
    return;
  }
  if (tag === "time" && node.getAttribute("datetime") === attributes.datetime) return;
  for (const name of node.getAttributeNames()) {
    if (!(name in attributes) && !(tag === "details" && name === "open")) node.removeAttribute(name);
  }
  for (const [name, value] of Object.entries(attributes)) {
    if (!name.startsWith("on") && node.getAttribute(name) !== value) node.setAttribute(name, value);
  }
  if (tag === "input" || tag === "select" || tag === "textarea") return;
  const present = [...node.childNodes].filter((child) => !child.classList?.contains("copy"));
  children.forEach((child, index) => {
    if (index < present.length) change(present[index], child);
    else node.append(make(child));
  });
  for (const extra of present.slice(children.length)) extra.remove();
}

let isRefreshing = false;

async function refresh() {
  if (isRefreshing || document.hidden) return;
  isRefreshing = true;
  try {
    const response = await fetch(location.href, { headers: { Accept: "application/json" }, redirect: "error" });
    if (!response.ok || !response.headers.get("Content-Type").startsWith("application/json")) return;
    for (const [id, tree] of Object.entries(await response.json())) {
      const element = document.getElementById(id);
      if (element) change(element, tree);
    }
    showTimes(document);
    addCopyButtons(document);
  } catch {
    // The relay cannot be reached, or the session has ended: what is shown stays, and the next attempt may succeed.
  } finally {
    isRefreshing = false;
  }
}

/** Follow events while the page is visible: one stream for each page, because a browser opens few connections. */
function follow(url, onEvent) {
  let source = null, last = null;
  const open = () => {
    if (source || document.hidden) return;
    const start = new URL(url, location.href);
    if (last !== null) start.searchParams.set("since", last);
    source = new EventSource(start);
    source.addEventListener("message", (event) => {
      last = event.lastEventId || last;
      onEvent(JSON.parse(event.data));
    });
  };
  const close = () => { source?.close(); source = null; };
  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
  addEventListener("pagehide", close);
  addEventListener("pageshow", open);
  open();
}

showTimes(document);
addCopyButtons(document);
document.getElementById("zone").textContent = ` · Times are in ${format.resolvedOptions().timeZone}`;
const events = document.body.dataset.events;
if (events && document.querySelector("[data-live]")) {
  let timer = 0;
  const soon = () => {
    if (!timer) timer = setTimeout(() => { timer = 0; refresh(); }, AFTER_EVENT_MS);
  };
  follow(events, soon);
  setInterval(refresh, REFRESH_MS);
  document.addEventListener("visibilitychange", refresh);
}
