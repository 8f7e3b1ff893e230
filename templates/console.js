// Without this everything works: links and forms load whole pages. With it, the part of the page that changes is exchanged
// for that of the next one, so that scrolling and focus stay where they are.
"use strict";

document.documentElement.classList.add("scripted");

const said = (text) => { document.getElementById("said").textContent = text; };

function localTimes(root) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    time.title = new Date(time.dateTime).toLocaleString(undefined, { dateStyle: "full", timeStyle: "long" });
  }
}

// XMLHttpRequest parses a page without running anything in it, and needs no text that becomes markup.
function load(address) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("GET", address);
    request.responseType = "document";
    request.onload = () => resolve({ page: request.response, address: request.responseURL });
    request.onerror = reject;
    request.send();
  });
}

let latest = 0;

async function show(address, remember) {
  const turn = ++latest;
  document.documentElement.setAttribute("aria-busy", "true");
  let answer;
  try {
    answer = await load(address);
  } catch {
    answer = {};
  }
  if (turn !== latest) return;
  document.documentElement.removeAttribute("aria-busy");
  const next = answer.page?.getElementById("main");
  if (!next || !answer.page.querySelector(".top")) {
    location.assign(address);
    return;
  }
  for (const part of [".top", "#main", ".bottom"]) {
    document.querySelector(part).replaceWith(document.adoptNode(answer.page.querySelector(part)));
  }
  document.title = answer.page.title;
  const hash = new URL(address, location.href).hash;
  if (remember) history.pushState(null, "", answer.address + hash);
  localTimes(document);
  lookAgain();
  said(document.title);
  const target = hash && document.getElementById(hash.slice(1));
  if (target) target.scrollIntoView();
  else if (remember) window.scrollTo(0, 0);
  document.getElementById("main").focus({ preventScroll: true });
}

const inConsole = (url) =>
  url.origin === location.origin && /^\/console(\/|$)/.test(url.pathname) && !/\.\w+$/.test(url.pathname);

document.addEventListener("click", (event) => {
  const copier = event.target.closest("[data-copy-link]");
  if (copier) {
    navigator.clipboard.writeText(location.href).then(() => said("The link was copied"), () => {});
    return;
  }
  const link = event.target.closest("a[href]");
  if (!link || event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
  // A link in a chart is an SVG one: its address is an object.
  const url = new URL(link.href.baseVal ?? link.href, location.href);
  const samePage = url.pathname === location.pathname && url.search === location.search && url.hash;
  if (!inConsole(url) || samePage || link.hasAttribute("download") || link.hasAttribute("data-whole")) return;
  event.preventDefault();
  show(url.href, true);
});

document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.method !== "get" || form.hasAttribute("data-whole")) return;
  // `form.action` is a field of that name, where there is one.
  const url = new URL(form.getAttribute("action") ?? location.pathname, location.href);
  const fields = [...new FormData(form, event.submitter)].filter(([, value]) => value !== "");
  url.search = new URLSearchParams(fields).toString();
  if (!inConsole(url)) return;
  event.preventDefault();
  show(url.href, true);
});

window.addEventListener("popstate", () => show(location.href, false));

// What goes on in the background is looked at again, without a word and without taking the focus, until it is over.
function lookAgain() {
  const part = document.querySelector("[data-again]");
  if (!part) return;
  const here = location.href;
  setTimeout(async () => {
    const answer = await load(here).catch(() => ({}));
    if (location.href !== here || !part.isConnected) return;
    const next = answer.page?.querySelector("[data-again]");
    if (!next) return show(here, false);
    part.replaceWith(document.adoptNode(next));
    lookAgain();
  }, 2000);
}

localTimes(document);
lookAgain();
