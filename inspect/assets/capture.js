// Captures: a form, and the file as a download.

import { el, card, setText } from "./dom.js";
import { get, post } from "./live.js";
import { bytes } from "./units.js";

export async function capture(app) {
  const { host } = await get("overview");
  const said = el("p", { role: "status", id: "capture-status" }, "No capture runs.");
  const start = el("button", { type: "submit", class: "main" }, "Start the capture");
  const stop = el("button", { type: "button", disabled: true, onclick: () => abort?.abort() }, "Give up");
  let abort = null, ticking = 0;
  const field = (name, label, hint, attributes) => {
    const id = "capture-" + name;
    return el("div", { class: "field" }, el("label", { for: id }, label),
      el("input", { id, name, "aria-describedby": id + "-hint", autocomplete: "off", ...attributes }), el("p", { id: id + "-hint", class: "note" }, hint));
  };
  const form = el("form", { class: "capture", onsubmit: submit },
    field("filter", "Filter", "For example: tcp port 80, or host 192.0.2.1 and not arp. Empty: all frames.", { type: "text", spellcheck: "false" }),
    field("seconds", "Seconds", "1 to 60.", { type: "number", min: 1, max: 60, step: "any", value: 5, required: true }),
    field("bytes", "Bytes of the file, at most", "Up to 67,108,864 (64 MiB).", { type: "number", min: 1, max: 67108864, value: 8388608, required: true }),
    field("snap", "Bytes of each frame, at most", "0 keeps whole frames.", { type: "number", min: 0, max: 262144, value: 0, required: true }),
    el("div", { class: "buttons" }, start, stop), said);

  async function submit(event) {
    event.preventDefault();
    if (abort) return;
    abort = new AbortController();
    start.disabled = true;
    stop.disabled = false;
    const body = new URLSearchParams(new FormData(form));
    const seconds = Number(body.get("seconds"));
    setText(said, `Capturing for ${seconds} s.`);
    // A clock of its own: it is seen, but not read aloud each second.
    const began = performance.now();
    ticking = setInterval(() => setText(clock, `${Math.max(seconds - (performance.now() - began) / 1000, 0).toFixed(0)} s are left.`), 500);
    try {
      const response = await post("api/capture", body, abort.signal);
      const blob = await response.blob();
      download(blob, fileName(response));
      setText(said, `Done: ${bytes(blob.size)} were saved as a pcapng file.`);
    } catch (err) {
      setText(said, err.name === "AbortError" ? "The capture was given up." : `The capture failed: ${err.message}`);
    } finally {
      clearInterval(ticking);
      setText(clock, "");
      abort = null;
      start.disabled = false;
      stop.disabled = true;
    }
  }
  const clock = el("p", { class: "note clock", "aria-hidden": "true" });
  form.append(clock);
  app.onleave(() => abort?.abort());
  const secrets = host.has_secrets
    ? "The file contains the secrets of the TLS connections of this program, so Wireshark decrypts them. Give it to nobody who must not read them."
    : "The program has given the inspector no TLS secrets, so TLS stays encrypted.";
  return {
    title: "Capture", json: "api/overview",
    node: card("Capture frames for Wireshark",
      host.can_capture ? [el("p", null, "The frames of all interfaces as a pcapng file; dropped frames carry the reason as a comment. ", secrets), form]
        : el("p", null, "This inspector makes no captures.")),
  };
}

// fileName is the name that the server gave.
function fileName(response) {
  const m = /filename="?([\w.+-]+)"?/.exec(response.headers.get("Content-Disposition") ?? "");
  return m ? m[1] : "usernet.pcapng";
}

function download(blob, name) {
  const href = URL.createObjectURL(blob);
  const a = el("a", { href, download: name, hidden: true });
  document.body.append(a);
  a.click();
  a.remove();
  setTimeout(() => URL.revokeObjectURL(href), 60000);
}
