/*
 * orchestra's part of a page: it reloads the page when the backend is ready again, swaps changed stylesheets,
 * and shows the errors of processes.
 *
 * The file is static: it needs no build step and contains nothing of the project. Its own <script> tag
 * describes the page (data-page, data-method, data-status); everything else comes over one WebSocket,
 * `live`, on the page's own origin, as JSON messages. The server decides: after each connect the page
 * reports its age, and a page older than the backend has to reload. So a lost connection, a sleeping laptop
 * and the back-forward cache need no special code here, and nothing can loop.
 *
 * The sections: the connection; reloading; what survives a reload; stylesheets; the overlay.
 *
 * It touches these parts of the page: two elements of its own beside <body>, each with a shadow root,
 * `sessionStorage` entries that begin with "orchestra.", and after a reload the saved fields and positions.
 * Text from the server becomes text nodes, never markup, so strict CSPs and Trusted Types are fine.
 */
(() => {
  "use strict";

  const GUARD = Symbol.for("orchestra.client");
  if (window[GUARD]) return;
  window[GUARD] = true;

  const OWN = "/__orchestra__/";
  const tag = (document.currentScript ?? document.querySelector(`script[src^="${OWN}client.js"]`))?.dataset ?? {};
  const method = tag.method ?? "GET";

  // --- The connection -------------------------------------------------------------------------------------

  // Milliseconds: a restart of orchestra is noticed soon, but a missing one is not polled all the time.
  const FIRST_DELAY = 250;
  const LONGEST_DELAY = 5000;
  const LIVE = `${location.protocol === "https:" ? "wss:" : "ws:"}//${location.host}${OWN}live`;

  // A page that is never admitted (through a tunnel with TLS) must not fill its console with errors.
  const MOST_REFUSALS = 5;

  let socket = null;
  let delay = FIRST_DELAY;
  let timer = 0;
  let refusals = 0;
  // Over: orchestra has ended, or the connection is forbidden, by a CSP or because of a sandboxed frame.
  let isOver = window.origin === "null";
  // Away: the page was left, perhaps for the back-forward cache.
  let isAway = false;
  let token = "";

  function connect() {
    clearTimeout(timer);
    if (socket || isOver || isAway) return;
    const opened = new WebSocket(LIVE);
    socket = opened;
    opened.onopen = () => {
      const page = { type: "page", from: tag.page ?? "backend", age: age(), path: location.pathname, method };
      opened.send(JSON.stringify({ ...page, status: Number(tag.status ?? 200) }));
    };
    opened.onmessage = (event) => {
      if (socket === opened) receive(JSON.parse(event.data));
    };
    opened.onclose = () => {
      if (socket !== opened) return;
      socket = null;
      refusals += 1;
      if (isOver || isAway || refusals === MOST_REFUSALS) return;
      // Jitter: many tabs must not reconnect in the same millisecond.
      timer = setTimeout(connect, delay * (0.75 + Math.random() / 2));
      delay = Math.min(2 * delay, LONGEST_DELAY);
    };
  }

  function disconnect() {
    clearTimeout(timer);
    const closed = socket;
    socket = null;
    closed?.close();
  }

  function receive(message) {
    switch (message.type) {
      case "hello":
        // Only now: a connection that is accepted and closed at once must not be retried fast.
        delay = FIRST_DELAY;
        refusals = -Infinity;
        token = message.token ?? "";
        // The current errors follow.
        errors.clear();
        return scheduleOverlay();
      case "reload":
        return reload();
      case "styles":
        return queueStyles(message.names);
      case "error.shown":
        if (message.at && message.at !== location.pathname) return;
        errors.set(message.process, message);
        return scheduleOverlay();
      case "cleared":
        errors.delete(message.process);
        forgive(message.process);
        return scheduleOverlay();
      case "log":
        return log(message);
      case "ended":
        isOver = true;
        overlay?.querySelector(".said").replaceChildren("orchestra has ended.");
        return disconnect();
    }
  }

  function log({ process, level, text }) {
    if (isInsideAnother()) return;
    const write = { error: console.error, warning: console.warn }[level] ?? console.info;
    write("[%s] %s", process, text);
  }

  // Whether this is a frame in a page of ours, which then shows the errors.
  function isInsideAnother() {
    try {
      return window.top !== window && Boolean(window.top.document);
    } catch {
      return false; // the other page is of another origin
    }
  }

  // Milliseconds since the first byte of the document arrived; goes on in the back-forward cache.
  function age() {
    const [entry] = performance.getEntriesByType("navigation");
    const arrived = performance.timeOrigin + (entry?.responseStart ?? 0);
    return Math.floor(performance.timeOrigin + performance.now() - whenSent(arrived, entry));
  }

  // The back button may show a document from the HTTP cache, which is as old as its transfer over the network.
  // A reload always asks the server, so the saved age can never lead to a second reload.
  function whenSent(arrived, entry) {
    const key = "orchestra.loaded";
    const here = location.pathname + location.search;
    const loaded = new Map(read(key) ?? []);
    const isCached = entry?.transferSize === 0 && entry.type !== "reload";
    if (isCached) return Math.min(loaded.get(here) ?? arrived, arrived);
    loaded.delete(here);
    write(key, [...loaded, [here, arrived]].slice(-MOST_PATHS));
    return arrived;
  }

  // --- Reloading ------------------------------------------------------------------------------------------

  // Milliseconds after which a reload was prevented: by "Leave site?", or an answer that is a download.
  const PREVENTED_AFTER = 5000;

  let isReloadDue = false;
  let isReloading = false;

  function reload() {
    // The new page reports its age, so a second restart meanwhile is not missed.
    if (isReloading) return;
    if (method !== "GET" && method !== "HEAD") {
      showBar("This page answers a form and is older than the code. A reload sends the form again.");
      return;
    }
    isReloadDue = document.hidden;
    if (isReloadDue) return;
    isReloading = true;
    saveView();
    setTimeout(() => {
      isReloading = false;
      showBar("This page is older than the code.");
    }, PREVENTED_AFTER);
    location.reload();
  }

  function showBar(text) {
    if (bar) return;
    bar = mount("orchestra-bar", BAR_STYLE);
    const again = element("button", "", "Reload");
    again.onclick = () => {
      saveView();
      location.reload();
    };
    const close = closeButton(() => {
      bar.host.remove();
      bar = null;
    });
    const shown = element("div", "bar", element("span", "", text), again, close);
    shown.setAttribute("role", "status");
    bar.append(shown);
  }

  // --- What survives a reload -----------------------------------------------------------------------------

  // A page with more than this is a generated one. All of it stays far below the 5 MB of sessionStorage.
  const MOST_FIELDS = 200;
  const MOST_PLACES = 50;
  const MOST_PATHS = 50;
  const LONGEST_VALUE = 20000;
  const MOST_CHARACTERS = 200000;
  // Milliseconds: the saved state of a page that did not come back (a redirect) is discarded.
  const NOTED_FOR = 120000;
  const VIEW = "orchestra.view:";
  // A page that temporarily replaces another one, until the error is fixed: the saved state is the other's.
  const isFailed = Number(tag.status) >= 500;

  const FIELDS = [
    "input:not([type=password], [type=file], [type=hidden], [type=submit], [type=button], [type=reset], [type=image])",
    "textarea",
    "select",
  ].join();
  // Fields that browsers' autocomplete treats as secret, and names of fields that can reveal a password.
  const SECRET = /(^| )(cc-|off|one-time-code|(current|new)-password)/;
  const SECRET_NAME = /passw|passphrase|passcode|pwd|secret|token|cvv|cvc|iban|card.?n/i;

  function read(key) {
    try {
      return JSON.parse(sessionStorage.getItem(key));
    } catch {
      return null; // there is none in a sandboxed frame
    }
  }

  function write(key, value) {
    try {
      sessionStorage.setItem(key, JSON.stringify(value));
    } catch {
      // Full, or disabled: the saved state is only a convenience.
    }
  }

  function mayBeNoted(field) {
    const rule = field.getAttribute("autocomplete") || field.form?.getAttribute("autocomplete") || "";
    const isSecret = SECRET.test(rule.toLowerCase()) || SECRET_NAME.test(`${field.name} ${field.id}`);
    return !isSecret && !field.disabled && !field.readOnly && field.getClientRects().length > 0;
  }

  const isChoice = (field) => field.type === "checkbox" || field.type === "radio";

  function valueOf(field) {
    if (isChoice(field)) return field.checked;
    return field.type === "select-multiple"
      ? Array.from(field.selectedOptions, (option) => option.value)
      : field.value;
  }

  function isUntouched(field) {
    if (isChoice(field)) return field.checked === field.defaultChecked;
    if (!field.options) return field.value === field.defaultValue || field.value === untouched(field).value;
    const chosen = Array.from(field.options).filter((option) => option.defaultSelected);
    const isFirst = chosen.length === 0 && field.type === "select-one" && field.selectedIndex <= 0;
    return isFirst || Array.from(field.options).every((option) => option.selected === option.defaultSelected);
  }

  // A slider or a colour has a value even if the page sets none.
  function untouched(field) {
    const copy = field.cloneNode();
    copy.value = field.defaultValue;
    return copy;
  }

  // All fields that may be saved, each with a key that finds it again in the next version of the page.
  function fields() {
    const found = new Map();
    for (const field of document.querySelectorAll(FIELDS)) {
      if (!mayBeNoted(field)) continue;
      const form = field.form?.id || field.form?.getAttribute("name") || "";
      const key = [form, field.type, field.name, field.id, isChoice(field) ? field.value : ""].join("\n");
      // Rows of a list have the same name, so their number is part of the key.
      found.set(key, [...(found.get(key) ?? []), field]);
    }
    const all = [];
    for (const [key, same] of found) {
      same.forEach((field, index) => all.push([`${key}\n${index}/${same.length}`, field]));
    }
    return all.slice(0, MOST_FIELDS);
  }

  // If a page is reloaded before it has restored the saved state, the next one restores it.
  let isRestored = false;

  function saveView() {
    if (isFailed || !isRestored) return;
    const noted = [];
    let room = MOST_CHARACTERS;
    for (const [key, field] of fields()) {
      const isFocused = field === document.activeElement;
      if (isUntouched(field) && !isFocused) continue;
      // A field that only has the focus keeps the new page's value.
      const value = isUntouched(field) ? null : valueOf(field);
      const size = key.length + String(value).length;
      if (size > LONGEST_VALUE || size > room) continue;
      room -= size;
      noted.push({ key, value, isFocused, caret: isFocused ? caretOf(field) : null });
    }
    const places = Array.from(document.querySelectorAll("[id]"))
      .filter((box) => box.scrollTop || box.scrollLeft)
      .slice(0, MOST_PLACES)
      .map((box) => [box.id, box.scrollLeft, box.scrollTop]);
    const view = { at: Date.now(), fields: noted, window: [scrollX, scrollY], places };
    write(VIEW + location.pathname, view);
  }

  function takeView() {
    const key = VIEW + location.pathname;
    const view = read(key);
    try {
      for (const each of Object.keys(sessionStorage)) {
        const isOld = each.startsWith(VIEW) && Date.now() - (read(each)?.at ?? 0) > NOTED_FOR;
        if (each === key || isOld) sessionStorage.removeItem(each);
      }
    } catch {
      return null;
    }
    return view && Date.now() - view.at <= NOTED_FOR ? view : null;
  }

  const caretOf = (field) => {
    try {
      return [field.selectionStart, field.selectionEnd];
    } catch {
      return null;
    }
  };

  function restoreFields(view) {
    const now = new Map(fields());
    for (const { key, value, isFocused, caret } of view.fields) {
      const field = now.get(key);
      if (!field) continue;
      if (value !== null && isUntouched(field)) setValue(field, value);
      if (isFocused && document.activeElement === document.body) {
        field.focus({ preventScroll: true });
        if (caret && caret[0] !== null) field.setSelectionRange(...caret);
      }
    }
  }

  function setValue(field, value) {
    if (JSON.stringify(valueOf(field)) === JSON.stringify(value)) return;
    if (isChoice(field)) field.checked = value;
    else if (field.type === "select-multiple") {
      for (const option of field.options) option.selected = value.includes(option.value);
    } else if (field.options && !Array.from(field.options, (option) => option.value).includes(value)) return;
    else field.value = value;
    // Listeners are notified of the value. No "change" event: some forms submit themselves on that.
    field.dispatchEvent(new Event("input", { bubbles: true }));
  }

  // Content that loads late (images, fonts) moves what is below it: the position is set again until the page
  // has loaded, unless the user has scrolled meanwhile.
  function restorePlaces(view) {
    let isOurs = true;
    for (const name of ["wheel", "touchstart", "keydown", "pointerdown"]) {
      addEventListener(name, () => (isOurs = false), { once: true, passive: true, capture: true });
    }
    const scroll = () => {
      if (!isOurs) return;
      scrollTo({ left: view.window[0], top: view.window[1], behavior: "instant" });
      for (const [id, left, top] of view.places) {
        document.getElementById(id)?.scrollTo({ left, top, behavior: "instant" });
      }
    };
    scroll();
    const scrollLate = () => [0, 100, 500].forEach((after) => setTimeout(scroll, after));
    if (document.readyState === "complete") scrollLate();
    else addEventListener("load", scrollLate, { once: true });
  }

  function restoreView() {
    isRestored = true;
    if (isFailed) return;
    const view = takeView();
    if (!view) return;
    restoreFields(view);
    restorePlaces(view);
  }

  // --- Stylesheets ----------------------------------------------------------------------------------------

  // Milliseconds: a stylesheet that takes longer is not replaced.
  const STYLE_TIMEOUT = 10000;

  // One after the other: two saves of the same file must not replace each other's replacement.
  let styles = Promise.resolve();
  // The page's own URL of a stylesheet that was inserted here.
  const ownUrls = new WeakMap();

  function queueStyles(names) {
    styles = styles.then(() => swapStyles(names)).catch(() => {});
  }

  async function swapStyles(names) {
    const found = Array.from(document.querySelectorAll('link[rel~="stylesheet"][href]'))
      .filter((link) => isSameOrigin(link.href) && !link.disabled)
      .map((link) => [link, [ownUrls.get(link) ?? link.href, ...importsOf(link.sheet)]]);
    const named = found.filter(([, urls]) => urls.some((url) => names.includes(fileName(url))));
    await Promise.all((named.length ? named : found).map(([link, urls]) => swap(link, urls)));
  }

  // The new one loads beside the old one, which is removed afterwards: the page is never without a style.
  async function swap(link, urls) {
    // Under their own URLs, too, so that their @imports, and the page's next reload, come from the cache.
    await Promise.allSettled(urls.map((url) => fetch(url, { cache: "reload" })));
    const fresh = link.cloneNode();
    const url = new URL(urls[0]);
    ownUrls.set(fresh, urls[0]);
    url.searchParams.set("orchestra", String(Date.now()));
    fresh.href = url.href;
    const isLoaded = await new Promise((resolve) => {
      fresh.onload = () => resolve(true);
      fresh.onerror = () => resolve(false);
      setTimeout(resolve, STYLE_TIMEOUT, false);
      link.after(fresh);
    });
    if (!isLoaded) console.warn("[orchestra] %s could not be loaded again", urls[0]);
    (isLoaded ? link : fresh).remove();
  }

  function importsOf(sheet, depth = 0) {
    // Deeper than people nest them; ends cyclic imports.
    if (!sheet || depth > 5) return [];
    try {
      return Array.from(sheet.cssRules)
        .filter((rule) => rule.styleSheet?.href && isSameOrigin(rule.styleSheet.href))
        .flatMap(({ styleSheet }) => [styleSheet.href, ...importsOf(styleSheet, depth + 1)]);
    } catch {
      return []; // a redirect has led to another origin
    }
  }

  const isSameOrigin = (url) => new URL(url, location.href).origin === location.origin;
  const fileName = (url) => decodeURI(new URL(url).pathname.split("/").pop());

  // --- The overlay ----------------------------------------------------------------------------------------

  const DISMISSED = "orchestra.dismissed";
  const PACKAGE = /\/(?:site-packages|dist-packages|\.?venv|\.tox|\.nox|lib\/python\d[\d.]*)\/|^</;

  const errors = new Map();
  let bar = null;
  let overlay = null;
  let overlayTimer = 0;
  let shown = "";
  let focusedBefore = null;

  const signature = (error) => {
    const { process, error_type, message, file, line, exit } = error;
    return JSON.stringify([process, error_type, message, file, line, exit]);
  };

  // After a reconnect the errors are sent again, one message each: they are drawn together.
  function scheduleOverlay() {
    clearTimeout(overlayTimer);
    overlayTimer = setTimeout(drawOverlay, 30);
  }

  function drawOverlay() {
    const all = Array.from(errors.values());
    const dismissed = read(DISMISSED) ?? [];
    const isNew = all.some((error) => !dismissed.includes(signature(error)));
    if (!isNew || isInsideAnother()) return removeOverlay();
    const next = all.map(signature).join("\n");
    if (overlay && next === shown) return;
    shown = next;
    if (!overlay) {
      overlay = mount("orchestra-overlay", OVERLAY_STYLE);
      focusedBefore = document.activeElement;
      addEventListener("keydown", onKey, true);
    }
    overlay.replaceChildren(panelOf(all));
    overlay.querySelector(".panel").focus({ preventScroll: true });
  }

  function removeOverlay() {
    if (!overlay) return;
    removeEventListener("keydown", onKey, true);
    overlay.host.remove();
    overlay = null;
    shown = "";
    if (focusedBefore?.isConnected) focusedBefore.focus({ preventScroll: true });
  }

  function dismiss() {
    write(DISMISSED, Array.from(errors.values(), signature));
    removeOverlay();
  }

  // The same error is shown again if it was cleared before.
  function forgive(process) {
    const dismissed = read(DISMISSED);
    if (dismissed) write(DISMISSED, dismissed.filter((each) => JSON.parse(each)[0] !== process));
  }

  function onKey(event) {
    // Vite's overlay covers ours and closes with the same key: one at a time.
    if (document.querySelector("vite-error-overlay")) return;
    if (event.key === "Escape") dismiss();
    else if (event.key === "Tab") moveFocus(event.shiftKey);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  function moveFocus(isBack) {
    const stops = Array.from(overlay.querySelectorAll("button, summary, pre"))
      .filter((stop) => stop.checkVisibility?.() ?? true);
    const at = stops.indexOf(overlay.activeElement);
    const next = isBack ? (at <= 0 ? stops.length : at) - 1 : (at + 1) % stops.length;
    stops[next].focus();
  }

  function panelOf(all) {
    const title = element("h1", "", all.length === 1 ? "" : `${all.length} processes have an error`);
    if (all.length === 1) title.append(element("b", "", all[0].process), ` ${stateOf(all[0])}`);
    title.id = "title";
    const said = element("span", "said");
    said.setAttribute("role", "status");
    const sections = all.map((error) => sectionOf(error, all.length > 1, said));
    const foot = element("footer", "", element("span", "", "Esc closes this; it goes away when the error is mended."), said);
    const head = element("header", "", title, closeButton(dismiss));
    const panel = element("div", "panel", head, element("div", "errors", ...sections), foot);
    panel.tabIndex = -1;
    panel.setAttribute("role", "dialog");
    panel.setAttribute("aria-modal", "true");
    panel.setAttribute("aria-labelledby", "title");
    const backdrop = element("div", "backdrop", panel);
    backdrop.onclick = (event) => {
      if (event.target === backdrop) dismiss();
    };
    return backdrop;
  }

  const stateOf = ({ is_fatal, exit, error_type }) => {
    if (is_fatal === false) return "has raised an exception";
    // The process lives: its program cannot be imported, or a command before its restart has failed.
    if (!exit) return "has an error";
    // Without an exception the exit is shown instead of its name.
    return exit !== error_type ? `has failed: ${exit}` : "has failed";
  };

  function sectionOf(error, isOneOfMany, said) {
    const frames = error.frames ?? [];
    // A program may have written a relative path, while the error's own place is absolute.
    const own = frames.findLast(({ file, line }) => line === error.line && `/${error.file}`.endsWith(`/${file}`));
    const shorten = shortener([error.file, ...frames.filter(isOwn).map((frame) => frame.file)]);
    const section = element("section", "");
    if (isOneOfMany) section.append(element("p", "process", element("b", "", error.process), ` ${stateOf(error)}`));
    if (error.error_type) section.append(element("h2", "", error.error_type));
    if (error.message) section.append(element("p", "message", error.message));
    if (error.file) {
      const place = placeOf(error.file, error.line, shorten, said);
      section.append(element("div", "own", place, own?.code ? codeOf(own.code) : ""));
    }
    if (frames.length > 1) section.append(traceOf(frames, own, shorten, said));
    if (error.last_lines?.length) section.append(linesOf(error.last_lines, frames.length === 0));
    return section;
  }

  function placeOf(file, line, shorten, said) {
    const shortened = shorten(file);
    const at = shortened.lastIndexOf("/") + 1;
    const name = element("b", "", `${shortened.slice(at)}:${line}`);
    const place = element("button", "place", shortened.slice(0, at), name);
    place.title = `Open ${file}:${line} in the editor`;
    place.onclick = () => openInEditor(file, line, said);
    return place;
  }

  async function openInEditor(file, line, said) {
    said.textContent = "";
    try {
      const answer = await fetch(`${location.origin}${OWN}open`, {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ token, file, line }),
      });
      said.textContent = answer.ok ? "Opened in the editor." : (await answer.text()).slice(0, 300);
    } catch {
      said.textContent = "orchestra does not answer.";
    }
  }

  // The newest call first; frames of packages in between are folded.
  function traceOf(frames, own, shorten, said) {
    const list = element("ol", "trace");
    let folded = [];
    const unfold = () => {
      if (folded.length) list.append(element("li", "", foldOf(folded)));
      folded = [];
    };
    for (const frame of [...frames].reverse()) {
      if (isOwn(frame)) {
        unfold();
        const where = element("span", "where", placeOf(frame.file, frame.line, shorten, said));
        if (frame.function) where.append(` in ${frame.function}`);
        list.append(element("li", "", where, frame.code && frame !== own ? codeOf(frame.code) : ""));
      } else folded.push(frame);
    }
    unfold();
    return element("div", "", element("h3", "", "Traceback, the newest call first"), list);
  }

  function foldOf(frames) {
    const packages = Array.from(new Set(frames.map(packageOf)));
    const names = packages.slice(0, 4).join(", ") + (packages.length > 4 ? " ..." : "");
    const count = frames.length === 1 ? "1 call" : `${frames.length} calls`;
    const rows = frames.map((frame) => {
      const where = element("span", "where", `${frame.file}:${frame.line}`);
      if (frame.function) where.append(` in ${frame.function}`);
      return element("li", "", where, frame.code ? codeOf(frame.code) : "");
    });
    return element("details", "", element("summary", "", `${count} in ${names}`), element("ol", "", ...rows));
  }

  const isOwn = (frame) => !PACKAGE.test(frame.file);

  function packageOf({ file }) {
    const [, inside] = /^.*(?:site-packages|dist-packages|lib\/python\d[\d.]*)\/(.+)$/.exec(file) ?? [];
    return (inside ?? file.replace(/^.*\//, "").replace(/^<(?:frozen )?|>$/g, "")).replace(/(\.py)?(\/.*|\.\w+)?$/, "");
  }

  function linesOf(lines, isOpen) {
    const text = element("pre", "", lines.join("\n"));
    text.tabIndex = 0;
    const details = element("details", "lines", element("summary", "", "Last lines of its output"), text);
    details.open = isOpen;
    return details;
  }

  function codeOf(code) {
    const text = element("pre", "code", code.trim());
    text.tabIndex = 0; // it may be wider than the panel, and is then scrolled
    return text;
  }

  // Paths from the parent of the folder that all have in common: "backend/app.py".
  function shortener(files) {
    const parts = files.filter(Boolean).map((file) => file.split("/").slice(0, -1));
    const common = parts.reduce((a, b) => a.slice(0, a.findIndex((part, at) => part !== b[at]) >>> 0), parts[0] ?? []);
    const prefix = common.slice(0, -1).join("/") + "/";
    return (file) => (file.startsWith(prefix) ? file.slice(prefix.length) : file);
  }

  // --- Drawing --------------------------------------------------------------------------------------------

  function element(name, className, ...content) {
    const made = document.createElement(name);
    if (className) made.className = className;
    made.append(...content);
    return made;
  }

  function closeButton(close) {
    const button = element("button", "close", "\u00d7");
    button.setAttribute("aria-label", "Close");
    button.title = "Close (Esc)";
    button.onclick = close;
    return button;
  }

  // Beside <body>, which may not be there yet. A style sheet of its own needs no permission of the page's CSP.
  function mount(name, style) {
    const host = document.createElement(name);
    const root = host.attachShadow({ mode: "open" });
    const sheet = new CSSStyleSheet();
    sheet.replaceSync(COMMON_STYLE + style);
    root.adoptedStyleSheets = [sheet];
    document.documentElement.append(host);
    return root;
  }

  // !important wins inside of the shadow root against the page's own rules. Vite's overlay is at 99999.
  const COMMON_STYLE = `
    :host {
      all: initial !important; position: fixed !important; z-index: 99998 !important;
      --paper: #fff; --ink: #24262b; --soft: #6a7079; --line: #e3e5e9; --tint: #f5f6f8;
      --accent: #c8372d; --link: #2459c4;
      color-scheme: light dark;
    }
    @media (prefers-color-scheme: dark) {
      :host {
        --paper: #1d1f24; --ink: #e4e6ea; --soft: #989fa9; --line: #33373e; --tint: #26292f;
        --accent: #ff7a6e; --link: #8ab4ff;
      }
    }
    @media print { :host { display: none !important } }
    * { box-sizing: border-box; margin: 0; padding: 0 }
    button { font: inherit; color: inherit; background: none; border: 0; cursor: pointer; text-align: start }
    :focus-visible { outline: 2px solid var(--link); outline-offset: 2px; border-radius: 4px }
    .close { font-size: 1.5rem; line-height: 1; color: var(--soft); padding: .1em .35em; border-radius: 6px }
    .close:hover { background: var(--tint); color: var(--ink) }
  `;

  const BAR_STYLE = `
    :host { inset: auto 0 0 0 !important; display: block !important; pointer-events: none !important }
    .bar {
      width: fit-content; margin: 12px auto; max-width: calc(100% - 24px);
      font: 14px/1.4 system-ui, sans-serif; color: var(--ink); background: var(--paper); pointer-events: auto;
      display: flex; align-items: center; gap: .75rem; padding: .5rem .5rem .5rem 1rem;
      border: 1px solid var(--line); border-radius: 10px; box-shadow: 0 6px 24px rgb(0 0 0 / .2);
    }
    .bar button:not(.close) { color: var(--link); font-weight: 600; padding: .2em .5em; border-radius: 6px }
    .bar button:not(.close):hover { background: var(--tint) }
  `;

  const OVERLAY_STYLE = `
    :host { inset: 0 !important; display: block !important }
    .backdrop {
      position: absolute; inset: 0; padding: clamp(8px, 6vh, 64px) clamp(8px, 4vw, 48px); background: rgb(16 18 22 / .55);
    }
    .panel {
      display: flex; flex-direction: column; max-width: 56rem; max-height: 100%; margin: 0 auto; overflow: hidden;
      color: var(--ink); background: var(--paper); font: 15px/1.5 system-ui, sans-serif; overflow-wrap: anywhere;
      border-radius: 12px; border-top: 4px solid var(--accent); box-shadow: 0 16px 64px rgb(0 0 0 / .35); outline: 0;
    }
    .errors { overflow: auto; overscroll-behavior: contain }
    header { display: flex; align-items: flex-start; gap: 1rem; padding: 1rem 1rem .2rem 1.5rem }
    h1 { flex: 1; font-size: .95rem; font-weight: 400; color: var(--soft) }
    h1 b, .process b { color: var(--ink); font-weight: 600 }
    section { padding: .25rem 1.5rem 1.25rem }
    section + section { border-top: 1px solid var(--line); padding-top: 1.25rem }
    .process { color: var(--soft); margin-bottom: .25rem }
    h2 { font-size: 1.35rem; font-weight: 650; line-height: 1.3; color: var(--accent) }
    .message {
      font-size: 1.15rem; line-height: 1.45; margin-top: .2rem; white-space: pre-wrap;
      max-height: 40vh; overflow: auto;
    }
    .own { margin-top: 1rem; border: 1px solid var(--line); border-radius: 8px; overflow: hidden }
    .own .place { display: block; width: 100%; padding: .55rem .9rem; background: var(--tint); font-size: .95rem }
    .own .code { padding: .8rem .9rem; font-size: .9rem; margin: 0; color: var(--ink) }
    .place { color: var(--link); overflow-wrap: anywhere }
    .place b { font-weight: 600 }
    .place:hover b { text-decoration: underline }
    .own :focus-visible { outline-offset: -2px }
    h3 { font-size: .85rem; font-weight: 600; color: var(--soft); margin: 1.25rem 0 .4rem }
    ol { list-style: none }
    .trace > li { padding: .35rem 0 }
    .where { color: var(--soft); font-size: .9rem }
    pre { font: 13px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; overflow: auto; tab-size: 4 }
    .code { color: var(--soft); margin-top: .1rem; padding-inline-start: 1rem }
    summary { color: var(--soft); font-size: .9rem; cursor: pointer; width: fit-content }
    summary:hover { color: var(--ink) }
    details ol { border-inline-start: 2px solid var(--line); padding-inline-start: .9rem; margin: .4rem 0 }
    details li { padding: .2rem 0 }
    .lines { margin-top: 1.1rem }
    .lines pre {
      margin-top: .5rem; padding: .8rem .9rem; max-height: 50vh; background: var(--tint); border-radius: 8px;
    }
    footer {
      display: flex; flex-wrap: wrap; justify-content: space-between; gap: .25rem 1rem; padding: .8rem 1.5rem;
      border-top: 1px solid var(--line); color: var(--soft); font-size: .85rem;
    }
    .said { color: var(--ink) }
    @media (max-width: 30rem) {
      header { padding: .7rem .6rem .1rem 1rem } section { padding: .25rem 1rem 1rem } footer { padding: .7rem 1rem }
    }
  `;

  // --- Start ----------------------------------------------------------------------------------------------

  document.addEventListener("visibilitychange", () => {
    if (document.hidden) return;
    connect();
    if (isReloadDue) reload();
  });
  addEventListener("online", connect);
  addEventListener("pagehide", () => {
    // An open connection would keep the page out of the back-forward cache.
    isAway = true;
    disconnect();
  });
  addEventListener("pageshow", (event) => {
    if (!event.persisted) return;
    isAway = isReloading = false;
    connect();
  });
  document.addEventListener("securitypolicyviolation", (event) => {
    if (event.disposition !== "enforce" || event.blockedURI !== LIVE) return;
    isOver = true;
    console.info("[orchestra] the page's Content-Security-Policy (connect-src) forbids live reloads");
  });
  if (document.readyState === "loading") addEventListener("DOMContentLoaded", restoreView, { once: true });
  else restoreView();
  connect();
})();
