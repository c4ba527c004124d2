// The page: views are chosen by the fragment of the address, as in #/conn?id=….

import { el, set, setText } from "./dom.js";
import { Live } from "./live.js";
import { overview } from "./overview.js";
import { conns } from "./conns.js";
import { conn } from "./conn.js";
import { sockets } from "./sockets.js";
import { topology } from "./topology.js";
import { drops } from "./drops.js";
import { capture } from "./capture.js";

const views = { "": overview, conns, conn, sockets, topology, drops, capture };

const main = document.getElementById("main");
const status = document.getElementById("status");
const said = document.getElementById("said");
const json = document.getElementById("json");
const pause = document.getElementById("pause");

const live = new Live((text) => setText(status, text));

// announceEvery is how many milliseconds lie between two sentences for screen readers.
const announceEvery = 5000;
let announced = -announceEvery, pending = 0;

// announce says a sentence to screen readers; of several in a short time, the last.
function announce(text) {
  clearTimeout(pending);
  const wait = announced + announceEvery - performance.now();
  pending = setTimeout(() => {
    announced = performance.now();
    setText(said, text);
  }, Math.max(wait, 0));
}

// A Context is what a view may use until it is left.
class Context {
  constructor() {
    this.left = false;
    this.cleanups = [];
  }

  stream(path, parameters, handlers, options) {
    if (this.left) return { change() {}, close() {} };
    return live.stream(path, parameters, handlers, options);
  }

  // every calls f again and again while the page is seen and not paused.
  every(milliseconds, f) {
    if (this.left) return;
    const timer = setInterval(async () => {
      if (!live.wanted) return;
      try {
        await f();
        if (!this.left) live.tell();
      } catch {
        if (!this.left) setText(status, "connection lost, trying again");
      }
    }, milliseconds);
    this.onleave(() => clearInterval(timer));
  }

  onleave(f) {
    this.cleanups.push(f);
  }

  leave() {
    this.left = true;
    this.cleanups.forEach((f) => f());
  }

  announce(text) {
    if (!this.left) announce(text);
  }

  status(text) {
    if (!this.left) setText(status, text);
  }

  json(href) {
    set(json, "href", href);
  }

  replace(fragment) {
    if (!this.left) history.replaceState(null, "", fragment);
  }

  fail(err) {
    this.announce(`That failed: ${err.message}`);
    this.status(`failed: ${err.message}`);
  }
}

let current = new Context(), shown = false;

async function show() {
  const fragment = location.hash;
  if (fragment && !fragment.startsWith("#/")) return; // the link that skips to the content
  let [path, query] = fragment.slice(2).split("?", 2);
  current.leave();
  live.closeAll();
  const context = current = new Context();
  main.setAttribute("aria-busy", "true");
  let view;
  try {
    path = decodeURIComponent(path);
    if (!Object.hasOwn(views, path)) throw new Error(`There is no view "${path}".`);
    view = await views[path](context, new URLSearchParams(query ?? ""));
  } catch (err) {
    view = { title: "That did not work", json: "api/overview", node: [el("p", { role: "alert" }, err.message), el("p", null, el("a", { href: "#/" }, "To the overview"))] };
  }
  if (context.left) return;
  const heading = el("h1", { tabindex: "-1" }, view.title);
  main.replaceChildren(heading, ...[view.node].flat());
  main.setAttribute("aria-busy", "false");
  document.title = `${view.title} – usernet inspector`;
  context.json(view.json);
  for (const a of document.querySelectorAll("#nav a")) {
    const here = a.getAttribute("href") === "#/" + (path === "conn" ? "conns" : path);
    if (here) a.setAttribute("aria-current", "page");
    else a.removeAttribute("aria-current");
  }
  // At the first view the focus stays where the browser has put it.
  if (shown) {
    heading.focus({ preventScroll: true });
    window.scrollTo(0, 0);
  }
  shown = true;
  live.tell();
}

pause.addEventListener("click", () => {
  live.pause(!live.paused);
  pause.setAttribute("aria-pressed", String(live.paused));
});
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
window.addEventListener("hashchange", show);
show();
