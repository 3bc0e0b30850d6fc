"use strict";
// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0
// Everything that comes from the cluster reaches the page as text, by textContent: there is no HTML in this file.
const interval = 5000, points = 60;
const $ = (id) => document.getElementById(id);
const svgNS = "http://www.w3.org/2000/svg";

// el returns an element with a class and children, which are elements or texts.
function el(tag, className, ...children) {
  const e = document.createElement(tag);
  if (className) e.className = className;
  e.append(...children);
  return e;
}
// text changes an element only if that is needed, so that screen readers do not repeat it.
function text(e, value) {
  value = String(value);
  if (e.textContent !== value) e.textContent = value;
}
const whole = new Intl.NumberFormat("en-US");
function bytes(n) {
  const units = ["B", "kB", "MB", "GB", "TB", "PB"];
  let i = 0;
  while (n >= 1000 && i < units.length - 1) { n /= 1000; i++; }
  return (i > 0 && n < 10 ? n.toFixed(1) : Math.round(n)) + " " + units[i];
}
function duration(seconds) {
  const s = Math.abs(seconds);
  if (s < 90) return Math.round(s) + " s";
  if (s < 5400) return Math.round(s / 60) + " min";
  if (s < 172800) return Math.round(s / 3600) + " h";
  return whole.format(Math.round(s / 86400)) + " days";
}
const minute = (time) => time.slice(0, 16).replace("T", " ") + " UTC";

// history has, for each Mapping that was shown lately, the rates of the last polls. Its size is bounded by what is shown.
const history = new Map();
// record adds the rate since the last reading of the kernel, which may be older than the last poll.
function record(key, traffic, read) {
  const total = traffic.bytesFromClients + traffic.bytesToClients;
  let h = history.get(key);
  if (!h) history.set(key, h = { total, at: read, rates: [] });
  else if (read > h.at) {
    h.rates.push(Math.max(0, (total - h.total) * 1000 / (read - h.at)));
    if (h.rates.length > points) h.rates.shift();
    h.total = total;
    h.at = read;
  }
  return h.rates;
}
function forget(now) {
  for (const [key, h] of history) if (now - h.at > 300000) history.delete(key);
}

function sparkline(svg, rates) {
  const top = Math.max(...rates, 1);
  const at = rates.map((r, i) => ((i + points - rates.length) * 140 / (points - 1)).toFixed(1) + "," + (26 - 24 * r / top).toFixed(1));
  svg.firstChild.setAttribute("points", at.join(" "));
}

// rows are the rows of the table by Mapping; they are updated in place, so that the focus stays.
const rows = new Map();
const columns = ["", "Ready", "External", "Open", "Connections", "Traffic", "Refused", "Why"];
function newRow() {
  const tr = el("tr");
  tr.setAttribute("role", "row");
  const cells = columns.map((label, i) => {
    const td = el("td", [3, 4, 6].includes(i) ? "n" : "");
    td.setAttribute("role", "cell");
    if (label) td.dataset.label = label;
    tr.append(td);
    return td;
  });
  const name = el("span", "name"), service = el("div", "muted"), tag = el("span", "tag"), frontends = el("ul", "mono"), rate = el("div", "muted"), why = el("ul");
  const svg = document.createElementNS(svgNS, "svg");
  svg.setAttribute("viewBox", "0 0 140 28");
  svg.setAttribute("aria-hidden", "true");
  svg.append(document.createElementNS(svgNS, "polyline"));
  cells[0].append(name, service);
  cells[1].append(el("div", "", tag));
  cells[2].append(frontends);
  cells[5].append(el("div", "", svg, rate));
  cells[7].append(why);
  return { tr, cells, name, service, tag, frontends, svg, rate, why, shown: "" };
}

function frontend(value) {
  const b = el("button", "", value);
  b.type = "button";
  b.title = "Explain a connection to it";
  b.addEventListener("click", () => {
    const [, to, protocol] = /^(.*?)(?:-\d+)?\/(\w+)$/.exec(value) || [];
    if (!to) return;
    $("destination-input").value = to;
    $("protocol-input").value = protocol;
    $("source-input").focus();
  });
  return el("li", "", b);
}

function updateRow(m, read) {
  const key = m.namespace + "/" + m.name;
  let r = rows.get(key);
  if (!r) rows.set(key, r = newRow());
  text(r.name, key);
  text(r.service, "to Service " + m.service);
  text(r.tag, m.elsewhere ? "elsewhere" : m.ready ? "ready" : "not ready");
  r.tag.className = "tag " + (m.elsewhere ? "" : m.ready ? "good" : "bad");
  const t = m.traffic;
  text(r.cells[3], t ? whole.format(t.open) : "–");
  text(r.cells[4], t ? whole.format(t.connections) : "–");
  text(r.cells[6], t && t.dropped !== undefined ? whole.format(t.dropped + t.rejected) : "–");
  if (t && t.dropped !== undefined) r.cells[6].title = `${whole.format(t.dropped)} dropped: the source is not allowed; ${whole.format(t.rejected)} rejected: no endpoint`;
  const rates = t ? record(key, t, read) : [];
  sparkline(r.svg, rates);
  text(r.rate, !t ? "none" : rates.length ? bytes(rates[rates.length - 1]) + "/s" : bytes(t.bytesFromClients + t.bytesToClients));
  r.cells[5].title = t ? `${bytes(t.bytesFromClients)} from clients, ${bytes(t.bytesToClients)} to clients` : "";
  const lists = JSON.stringify([m.frontends, m.moreFrontends, m.findings, m.moreFindings]);
  if (r.shown !== lists) {
    r.shown = lists;
    const outside = (m.frontends || []).map(frontend), why = (m.findings || []).map((f) => el("li", "", f.message + " ", el("span", "muted", f.reason)));
    if (m.moreFrontends) outside.push(el("li", "muted", `and ${whole.format(m.moreFrontends)} more`));
    if (m.moreFindings) why.push(el("li", "muted", `and ${whole.format(m.moreFindings)} more`));
    r.frontends.replaceChildren(...outside);
    r.why.replaceChildren(...why);
    r.cells[2].classList.toggle("empty", !outside.length);
    r.cells[7].classList.toggle("empty", !why.length);
  }
  return r.tr;
}

function showMappings(v, now, read) {
  const next = v.mappings.map((m) => updateRow(m, read));
  const body = $("rows");
  if (next.length !== body.children.length || next.some((tr, i) => body.children[i] !== tr)) body.replaceChildren(...next);
  const keep = new Set(next);
  for (const [key, r] of rows) if (!keep.has(r.tr)) rows.delete(key);
  forget(now);
  const first = (v.page - 1) * 50 + 1;
  text($("found"), !v.found ? "No Mapping matches." : `${whole.format(first)} to ${whole.format(first + v.mappings.length - 1)} of ${whole.format(v.found)}`);
  $("pages").hidden = v.pages < 2;
  text($("page"), `Page ${whole.format(v.page)} of ${whole.format(v.pages)}`);
  $("previous").disabled = v.page <= 1;
  $("next").disabled = v.page >= v.pages;
  page = v.page;
}

function dot(good) { return el("span", "dot " + (good ? "good" : "bad")); }

// list shows items again only if they changed.
function list(id, items, make) {
  const e = $(id), key = JSON.stringify(items);
  if (e.dataset.key === key) return;
  e.dataset.key = key;
  e.replaceChildren(...items.map(make));
}

// pairLines says what each box of a pair is, and what is wrong.
function pairLines(p) {
  const role = (f) => f.role.role + (f.healthy ? "" : ", not everything is in effect") + (f.missed || []).map((a) => `, ${a} does not answer`).join("");
  const able = (f) => f.healthy && (f.role.role === "primary" || f.role.role === "backup");
  const lines = [{ good: able(p.own), name: "this gateway", text: role(p.own) }];
  if (p.peerProblem || !p.peer) lines.push({ good: false, name: "peer", text: p.peerProblem || "has not answered yet" });
  else lines.push({ good: able(p.peer), name: p.peer.instance, text: role(p.peer) });
  for (const d of p.differences || []) lines.push({ good: false, name: "differs", text: d });
  if (p.syncProblem) lines.push({ good: false, name: "sync", text: p.syncProblem });
  return lines;
}

function showGateway(v, now) {
  document.title = `${v.instance}: ${v.state} – SmartNat`;
  text($("instance"), v.instance);
  text($("version"), "smartnatd " + v.version);
  text($("state"), v.state);
  $("state").className = "badge " + ({ "in effect": "good", degraded: "bad" }[v.state] || "warn");
  list("missing", v.missing || [], (m) => el("li", "bad", m));
  $("missing").hidden = !v.missing;
  text($("count-ready"), whole.format(v.counts.ready));
  text($("count-all"), whole.format(v.counts.all - v.counts.elsewhere));
  text($("count-more"), `${whole.format(v.counts.problems)} not ready` + (v.counts.elsewhere ? `, ${whole.format(v.counts.elsewhere)} for another gateway` : ""));
  const s = v.source, servers = s.servers || [];
  $("source-dot").className = "dot " + (s.connected ? "good" : "bad");
  text($("source"), servers.length ? (s.connected ? "relay, connected" : "relay, not connected") : s.origin + (s.connected ? ", connected" : ""));
  list("servers", servers, (r) => el("li", "", el("span", "mono", r.name), el("span", "muted", (r.inUse ? "in use" : "spare") + (r.failures ? `, ${whole.format(r.failures)} failed requests` : ""))));
  text($("contact"), s.problem || (s.lastContact ? `last answer ${duration((now - Date.parse(s.lastContact)) / 1000)} ago` : ""));
  const left = s.credentialEnds ? (Date.parse(s.credentialEnds) - now) / 1000 : null;
  text($("credential"), left === null ? "none" : left > 0 ? duration(left) : "expired");
  text($("credential-date"), left === null ? "that ends" : (left > 0 ? "ends " : "ended ") + minute(s.credentialEnds));
  list("pair", v.pair ? pairLines(v.pair) : [], (l) => el("li", "", dot(l.good), el("strong", "", l.name), el("span", "", l.text)));
  $("pair-card").hidden = !v.pair;
  list("uplinks", v.uplinks, (u) => el("li", "", dot(u.up), el("strong", "", u.link), el("span", "", u.up ? "up" : "down"), el("span", "mono", (u.addresses || []).join(", ")),
    el("span", "muted", (u.gateways || []).length ? "next hop " + u.gateways.join(", ") : "")));
  list("findings", v.findings || [], (f) => el("li", "", f.message + " ", el("span", "muted", `${f.field}, ${f.reason}`)));
  $("host").hidden = !v.findings;
}

let page = 1, timer = 0, asked = 0;
// poll asks for what the filter selects. An answer that a later question has overtaken is not shown.
async function poll() {
  clearTimeout(timer);
  const mine = ++asked;
  const query = new URLSearchParams({ search: $("search").value, show: $("show").value, sort: $("sort").value, page });
  try {
    const response = await fetch("/api/status?" + query, { cache: "no-store" });
    if (!response.ok) throw new Error((await response.text()).trim());
    const v = await response.json();
    if (mine !== asked) return;
    const now = Date.parse(v.time);
    showGateway(v, now);
    showMappings(v, now, v.trafficRead ? Date.parse(v.trafficRead) : now);
    $("lost").hidden = true;
  } catch (e) {
    if (mine !== asked) return;
    text($("lost"), "smartnatd does not answer, this is what it said last: " + e.message);
    $("lost").hidden = false;
  }
  if (!document.hidden) timer = setTimeout(poll, interval);
}
function restart() { page = 1; poll(); }
let typing = 0;
$("search").addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(restart, 200); });
$("show").addEventListener("change", restart);
$("sort").addEventListener("change", restart);
$("filter").addEventListener("submit", (e) => { e.preventDefault(); restart(); });
$("previous").addEventListener("click", () => { page--; poll(); });
$("next").addEventListener("click", () => { page++; poll(); });
document.addEventListener("visibilitychange", () => { if (!document.hidden) poll(); });

function showAnswer(a) {
  const good = a.verdict === "forwarded" || a.verdict === "passed";
  const parts = [el("span", "tag " + (good ? "good" : "bad"), a.verdict), el("p", "sentence", a.sentence)];
  if (a.advice) parts.push(el("p", "", a.advice));
  const steps = el("dl");
  for (const s of a.steps || []) steps.append(el("dt", "", s.name), el("dd", "", s.text));
  const connections = a.connections || [];
  steps.append(el("dt", "", "connections"), el("dd", "", connections.length ? `${connections.length} now: ` + connections.slice(0, 3).map((c) => `${c.client} to ${c.backend}`).join("; ") : "none"));
  parts.push(steps);
  if (a.rules) parts.push(el("details", "", el("summary", "", "Rules in the kernel that matched"), el("pre", "mono", a.rules.join("\n"))));
  $("answer").replaceChildren(...parts);
}
$("explain").addEventListener("submit", async (e) => {
  e.preventDefault();
  const button = e.target.querySelector("button");
  button.disabled = true;
  try {
    const query = new URLSearchParams({ source: $("source-input").value.trim(), destination: $("destination-input").value.trim(), protocol: $("protocol-input").value });
    const response = await fetch("/api/explain?" + query, { cache: "no-store" });
    if (!response.ok) throw new Error((await response.text()).trim());
    showAnswer(await response.json());
  } catch (error) {
    $("answer").replaceChildren(el("p", "notice bad", error.message));
  }
  button.disabled = false;
});
poll();
