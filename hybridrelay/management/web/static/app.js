// Keeps a page up to date. Without this script, pages show the same, as it was when they were loaded.
//
// Parts of a page that change have the attribute data-live. The server sends them as trees ([tag, attributes,
// children] or text), from which elements are made one by one: this script never parses HTML.

// An attempt fails if there is no response after TIMEOUT_MS. After a failure, the pauses between attempts become longer.
const REFRESH_MS = 5000, AFTER_EVENT_MS = 1000, TIMEOUT_MS = 10000, FIRST_RETRY_MS = 1000, LAST_RETRY_MS = 30000;

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

// --- whether what the page shows is up to date

const connection = { failures: 0, isOver: false, answeredAt: new Date() };

/** Show a banner that says why the page is not updated, and say it to those who do not see the screen.
 *  @param {string} text - null: the page is up to date.
 *  @param {Array} action - a label, and where it leads or what it does. */
function showBanner(text, action = null) {
  const banner = document.getElementById("banner");
  document.body.classList.toggle("stale", text !== null);
  if ((banner.dataset.text ?? null) === text) return;
  if (text === null) {
    delete banner.dataset.text;
    banner.hidden = true;
    banner.replaceChildren();
    announce("The page is up to date again.");
    return;
  }
  banner.dataset.text = text;
  const paragraph = document.createElement("p");
  paragraph.textContent = text;
  banner.replaceChildren(paragraph);
  if (action) {
    const [label, does] = action, element = document.createElement(typeof does === "string" ? "a" : "button");
    element.className = "button";
    element.textContent = label;
    if (typeof does === "string") {
      element.href = does;
    } else {
      element.type = "button";
      element.addEventListener("click", does);
    }
    banner.append(element);
  }
  banner.hidden = false;
  announce(text);
}

function succeeded() {
  Object.assign(connection, { failures: 0, isOver: false, answeredAt: new Date() });
  showBanner(null);
  document.dispatchEvent(new Event("refreshed"));
}

/** The request for newer parts has failed.
 *  @param {number} status - of the response; 0: there was none. */
function failed(status) {
  connection.failures += 1;
  const at = connection.answeredAt, isToday = at.toDateString() === new Date().toDateString();
  const since = (isToday ? today : format).format(at);
  if (status === 401) {
    connection.isOver = true;
    const here = new URL(location.href);
    here.searchParams.delete("done");
    const text = `Your login has ended. This page shows the state at ${since}, and is no longer updated.`;
    showBanner(text, ["Log in again", `/login?next=${encodeURIComponent(here.pathname + here.search)}`]);
  } else if (connection.failures === 1) {
    return;  // a single failure may have been a request that the browser itself has ended
  } else if (status === 0) {
    const text = `The relay has not answered since ${since}. This page shows the state at that time, and is updated as soon `
      + "as the relay answers again.";
    showBanner(text, ["Try now", refresh]);
  } else {
    const what = status === 404 ? "What this page shows no longer exists" : `The relay answers with status ${status}`;
    showBanner(`${what}. This page shows the state at ${since}.`, ["Reload the page", () => location.reload()]);
  }
}

let isRefreshing = false, nextRefresh = 0;

/** Get the parts of the page that change, and show them. Then wait for the next time. */
async function refresh() {
  if (isRefreshing || document.hidden) return;
  isRefreshing = true;
  clearTimeout(nextRefresh);
  try {
    const response = await fetch(location.href, {
      headers: { Accept: "application/json" }, redirect: "manual", signal: AbortSignal.timeout(TIMEOUT_MS),
    });
    if (response.ok && response.headers.get("Content-Type").startsWith("application/json")) {
      for (const [id, tree] of Object.entries(await response.json())) {
        const element = document.getElementById(id);
        if (element) change(element, tree);
      }
      showTimes(document);
      addCopyButtons(document);
      succeeded();
    } else {
      // Without a login, pages redirect to the page for logging in.
      failed(response.type === "opaqueredirect" ? 401 : response.status);
    }
  } catch {
    failed(0);
  } finally {
    isRefreshing = false;
    document.body.dataset.failures = connection.failures;
    const { failures, isOver } = connection;
    const pause = failures ? Math.min(FIRST_RETRY_MS * 2 ** (failures - 1), LAST_RETRY_MS) : REFRESH_MS;
    // After the login has ended, the next attempt is when the page is shown again: there may be a new login by then.
    if (!isOver) nextRefresh = setTimeout(refresh, pause);
  }
}

/**
 * Follow events while the page is visible: one stream for each page, because a browser opens few connections. A stream
 * that ends without an event is not followed by another one at once: a proxy may end all of them.
 */
function follow(url, onEvent) {
  let source = null, last = null, retryAt = 0;  // by performance.now()
  const open = () => {
    if (source || document.hidden || connection.failures || performance.now() < retryAt) return;
    retryAt = performance.now() + LAST_RETRY_MS;
    const start = new URL(url, location.href);
    if (last !== null) start.searchParams.set("since", last);
    source = new EventSource(start);
    source.addEventListener("message", (event) => {
      retryAt = 0;
      last = event.lastEventId || last;
      onEvent();
    });
    // The relay ends each stream after some minutes; it also fails if the relay is unavailable, or the login has
    // ended. The next request for newer parts shows whether another stream can begin.
    source.addEventListener("error", () => { end(); onEvent(); });
  };
  const end = () => { source?.close(); source = null; };
  const close = () => { end(); retryAt = 0; };  // because nobody looks at the page
  document.addEventListener("refreshed", open);
  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
  addEventListener("pagehide", close);
  addEventListener("pageshow", open);
  open();
}

/** Submit a form once, also after a double click, until there is a response or an attempt would have failed. */
const submitted = new Set();
function allowSubmissions() {
  for (const form of submitted) form.querySelector("[type=submit]")?.removeAttribute("aria-disabled");
  submitted.clear();
}
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.method !== "post") return;
  if (submitted.has(form)) {
    event.preventDefault();
    return;
  }
  submitted.add(form);
  // A button with the attribute "disabled" would lose the focus.
  form.querySelector("[type=submit]")?.setAttribute("aria-disabled", "true");
  setTimeout(allowSubmissions, TIMEOUT_MS);
});
// The browser may show the page again as it was when the form was submitted.
addEventListener("pageshow", allowSubmissions);

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
  nextRefresh = setTimeout(refresh, REFRESH_MS);
  document.addEventListener("visibilitychange", refresh);
  addEventListener("pageshow", (event) => { if (event.persisted) refresh(); });
  document.dispatchEvent(new Event("refreshed"));  // by the response with the page itself
}
