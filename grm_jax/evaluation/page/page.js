
"use strict";
// Texts of models and data reach the page through textContent and createTextNode only.
const DATA = JSON.parse(document.getElementById("records").textContent);
const ROW = 58; // height of a row of the list, as in page.css
const NAMES = { right: "right", wrong: "wrong", tie: "tie", none: "no verdict", single: "one response" };
const $ = (id) => document.getElementById(id);

function make(tag, fields = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(fields)) {
    if (name === "class") element.className = value;
    else if (name === "text") element.textContent = value;
    else if (name in element && typeof value !== "string") element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

// A text, with what is searched for marked.
function marked(tag, className, text) {
  const element = make(tag, { class: className });
  const words = state.words.filter((word) => word.length > 1);
  if (!words.length) {
    element.textContent = text;
    return element;
  }
  const pattern = new RegExp(words.map((w) => w.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")).join("|"), "gi");
  let end = 0;
  for (const match of text.matchAll(pattern)) {
    element.append(text.slice(end, match.index), make("mark", { text: match[0] }));
    end = match.index + match[0].length;
  }
  element.append(text.slice(end));
  return element;
}

const state = { words: [], shown: [], at: 0 };
const items = DATA.items;
const methods = []; // [stage, vote]
for (const item of items)
  for (const [stage, drawn] of Object.entries(item.drawn))
    for (const vote of Object.keys(drawn.votes))
      if (!methods.some(([s, v]) => s === stage && v === vote)) methods.push([stage, vote]);

function voteOf(item, method) {
  const drawn = item.drawn[method[0]];
  if (!drawn || !drawn.votes[method[1]]) return null;
  const [result, tops, totals, voters] = drawn.votes[method[1]];
  return { result, tops, totals, voters };
}

function method() {
  return methods[Number($("method").value)] || ["", ""];
}

function haystack(item) {
  if (item.haystack === undefined) {
    const texts = [item.suite, item.subset, item.uid, ...item.responses];
    for (const [, text] of item.messages) texts.push(text);
    for (const drawn of Object.values(item.drawn))
      for (const sample of drawn.samples) if (sample[4]) texts.push(...sample[4]);
    item.haystack = texts.join("\n").toLowerCase();
  }
  return item.haystack;
}

function fill(id, options) {
  const select = $(id);
  const before = select.value;
  select.replaceChildren(...options.map(([value, text]) => make("option", { value: String(value), text })));
  if (options.some(([value]) => String(value) === before)) select.value = before;
}

function unique(values) {
  return [...new Set(values)];
}

function fillSubsets() {
  const suite = $("suite").value;
  const subsets = unique(items.filter((item) => !suite || item.suite === suite).map((item) => item.subset));
  fill("subset", [["", "all"], ...subsets.filter(Boolean).map((name) => [name, name])]);
}

function setUp() {
  $("title").textContent = DATA.title;
  fill("suite", [["", "all"], ...unique(items.map((item) => item.suite)).map((name) => [name, name])]);
  fillSubsets();
  fill("method", methods.map(([, vote], i) => [i, vote]));
  fill("result", [["", "any"], ...Object.entries(NAMES)]);
  fill("disagreement", [["", "any"], ["0", "none"], ["0.01", "some"], ["0.25", "25 % or more"], ["0.5", "half or more"]]);
  fill("order", [["data", "as in the data"], ["most", "most disagreement"], ["least", "least disagreement"]]);
}

function choose() {
  const suite = $("suite").value, subset = $("subset").value, result = $("result").value;
  const disagreement = $("disagreement").value, picked = method();
  state.words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const splits = (item) => item.drawn[picked[0]]?.disagreement ?? null;
  state.shown = items.filter((item) => {
    if (suite && item.suite !== suite) return false;
    if (subset && item.subset !== subset) return false;
    const vote = voteOf(item, picked);
    if (!vote || (result && vote.result !== result)) return false;
    if (disagreement) {
      const share = splits(item);
      if (share === null || (disagreement === "0" ? share > 0 : share < Number(disagreement))) return false;
    }
    return state.words.every((word) => haystack(item).includes(word));
  });
  const order = $("order").value;
  if (order !== "data") {
    const sign = order === "most" ? -1 : 1;
    state.shown.sort((a, b) => sign * ((splits(a) ?? -1) - (splits(b) ?? -1)));
  }
  const results = state.shown.map((item) => voteOf(item, picked).result).filter((name) => name !== "single");
  const right = results.filter((name) => name === "right").length;
  const share = results.length ? `; ${((100 * right) / results.length).toFixed(1)} % right` : "";
  $("count").textContent = `${state.shown.length.toLocaleString("en")} of ${items.length.toLocaleString("en")} comparisons${share}`;
  $("space").style.height = `${state.shown.length * ROW}px`;
}

function drawList() {
  const list = $("list");
  const first = Math.max(0, Math.floor(list.scrollTop / ROW) - 5);
  const last = Math.min(state.shown.length, first + Math.ceil(list.clientHeight / ROW) + 10);
  const rows = [];
  for (let i = first; i < last; i++) {
    const item = state.shown[i];
    const vote = voteOf(item, method());
    const query = item.messages.length ? item.messages[item.messages.length - 1][1] : "";
    const row = make("div", { class: "row", role: "option", "data-i": String(i), "aria-selected": String(i === state.at) },
      make("div", { text: query.slice(0, 160) }),
      make("span", { class: `chip ${vote.result}`, text: NAMES[vote.result] }),
      make("small", { text: [item.suite, item.subset, item.uid].filter(Boolean).join(" · ") }),
      make("small", { text: splitText(item) }));
    row.style.top = `${i * ROW}px`;
    rows.push(row);
  }
  $("space").replaceChildren(...rows);
}

function splitText(item) {
  const share = item.drawn[method()[0]]?.disagreement ?? null;
  return share === null ? "" : `${Math.round(100 * share)} % differ`;
}

const named = (indices) => indices.map((i) => `Response ${i + 1}`).join(" and ");

function verdictText(vote, item) {
  if (vote.result === "none") return "no sample has scores";
  const totals = vote.totals.map((total) => String(Number(total.toFixed(3)))).join(", ");
  const of = `${vote.voters} sample${vote.voters === 1 ? "" : "s"}`;
  return item.responses.length === 1 ? `mean score ${totals} of ${of}` : `${named(vote.tops)}; totals ${totals} of ${of}`;
}

function drawResponses(item) {
  const cards = item.responses.map((text, i) => {
    const gold = item.responses.length > 1 && item.gold.includes(i);
    const head = make("div", { class: "head" }, make("strong", { text: `Response ${i + 1}` }),
      gold ? make("span", { class: "chip gold", text: "right" }) : null);
    return make("div", {}, head, marked("div", `text long${gold ? " gold-card" : ""}`, text));
  });
  return make("div", { class: "responses" }, ...cards);
}

function drawSamples(item, drawn) {
  const single = item.responses.length === 1;
  const meta = drawn.samples.some((sample) => sample[6] !== null);
  const heads = ["sample", "shown in order", ...item.responses.map((_, i) => `Response ${i + 1}`), "verdict"];
  if (meta) heads.push("meta score", "kept");
  const body = drawn.samples.map(([index, order, scores, result, , , score, kept]) => {
    const best = scores ? Math.max(...scores) : null;
    const cells = item.responses.map((_, i) => make("td", {
      class: `${scores && !single && scores[i] === best ? "top" : ""} ${!single && item.gold.includes(i) ? "gold" : ""}`,
      text: scores ? String(scores[i]) : "–",
    }));
    const verdict = make("td", {}, make("span", { class: `chip ${result}`, text: NAMES[result] }));
    const guided = meta ? [make("td", { text: score === null ? "–" : score.toFixed(3) }), make("td", { text: kept ? "●" : "" })] : [];
    return make("tr", {}, make("td", { text: String(index) }), make("td", { text: order.map((j) => j + 1).join(" ") }), ...cells, verdict, ...guided);
  });
  return make("div", { class: "scroll" }, make("table", {},
    make("thead", {}, make("tr", {}, ...heads.map((text) => make("th", { text })))), make("tbody", {}, ...body)));
}

function drawTexts(item, drawn) {
  const found = [];
  let open = 2, left = 0;
  for (const [index, order, scores, result, parts, notes, score] of drawn.samples) {
    if (!parts) {
      left += 1;
      continue;
    }
    const facts = [scores ? `scores ${scores.join(", ")}` : "no scores", ...notes];
    if (score !== null) facts.push(`meta score ${score.toFixed(3)}`);
    if (order.some((j, i) => j !== i))
      facts.push(`the text calls ${order.map((j, i) => `Response ${j + 1} “${i + 1}”`).join(", ")}`);
    const blocks = ["principles", "critique", "scores"].map((name, i) =>
      parts[i] ? make("div", { class: "part" }, make("b", { text: name }), marked("pre", "", parts[i])) : null);
    const searched = state.words.length && state.words.some((word) => parts.join("\n").toLowerCase().includes(word));
    found.push(make("details", { open: open-- > 0 || Boolean(searched) },
      make("summary", {}, make("strong", { text: `Sample ${index}` }), make("span", { class: `chip ${result}`, text: NAMES[result] }),
        make("small", { text: facts.join("; ") })), ...blocks));
  }
  if (left) found.push(make("p", { class: "facts", text: `The texts of ${left} more samples are in trajectories/; their scores are above.` }));
  return found;
}

function drawDetail() {
  const detail = $("detail");
  const item = state.shown[state.at];
  if (!item) {
    detail.replaceChildren(...DATA.notes.map((text) => make("p", { class: "facts", text })), make("p", { text: "Nothing is left by these filters." }));
    return;
  }
  const link = make("a", { href: hashOf(item), text: "link" });
  const parts = [make("h2", { text: item.uid }),
    make("p", { class: "facts" }, [item.suite, item.subset].filter(Boolean).join(" · "), " · ", link)];
  for (const [stage, vote] of methods) {
    const one = voteOf(item, [stage, vote]);
    if (one) parts.push(make("p", { class: "facts" }, make("span", { class: `chip ${one.result}`, text: NAMES[one.result] }),
      ` ${vote}: ${verdictText(one, item)}`));
  }
  if (item.responses.length === 1) parts.push(make("p", { class: "facts", text: `In truth: ${item.gold.length ? "correct" : "not correct"}` }));
  parts.push(make("h3", { text: "Query" }));
  for (const [role, text] of item.messages) {
    if (item.messages.length > 1) parts.push(make("p", { class: "facts", text: role }));
    parts.push(marked("div", "text long", text));
  }
  parts.push(make("h3", { text: item.responses.length > 1 ? "Responses" : "Response" }), drawResponses(item));
  const order = Object.entries(item.drawn).sort(([a], [b]) => (b === method()[0]) - (a === method()[0]));
  for (const [stage, drawn] of order)
    parts.push(make("h3", { text: stage }), drawSamples(item, drawn), make("h3", { text: `${stage}: critiques` }), ...drawTexts(item, drawn));
  parts.push(make("h3", { text: "About this page" }), ...DATA.notes.map((text) => make("p", { class: "facts", text })));
  detail.replaceChildren(...parts);
  detail.scrollTop = 0;
}

const hashOf = (item) => `#${encodeURIComponent(`${item.suite}/${item.uid}`)}`;

function select(i, { scroll = true, link = true } = {}) {
  state.at = Math.max(0, Math.min(i, state.shown.length - 1));
  const list = $("list"), top = state.at * ROW;
  if (scroll && (top < list.scrollTop || top + ROW > list.scrollTop + list.clientHeight))
    list.scrollTop = top - list.clientHeight / 2;
  drawList();
  drawDetail();
  if (link && state.shown[state.at]) history.replaceState(null, "", hashOf(state.shown[state.at]));
}

function update() {
  const item = state.shown[state.at];
  choose();
  select(Math.max(0, state.shown.indexOf(item)), { link: false });
}

function fromHash() {
  const name = location.hash.slice(1);
  const i = state.shown.findIndex((item) => hashOf(item).slice(1) === name);
  if (i >= 0) select(i, { link: false });
}

let timer = 0;
$("search").addEventListener("input", () => {
  clearTimeout(timer);
  timer = setTimeout(update, 150);
});
for (const id of ["subset", "method", "result", "disagreement", "order"]) $(id).addEventListener("change", update);
$("suite").addEventListener("change", () => {
  fillSubsets();
  update();
});
$("list").addEventListener("scroll", drawList, { passive: true });
$("list").addEventListener("click", (event) => {
  const row = event.target.closest(".row");
  if (row) select(Number(row.dataset.i), { scroll: false });
});
addEventListener("resize", drawList);
addEventListener("hashchange", fromHash);
addEventListener("keydown", (event) => {
  const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
  if (event.key === "Escape" && typing) event.target.blur();
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "j" || event.key === "ArrowDown") select(state.at + 1);
  else if (event.key === "k" || event.key === "ArrowUp") select(state.at - 1);
  else if (event.key === "/") $("search").focus();
  else return;
  event.preventDefault();
});

setUp();
choose();
select(0, { link: false });
fromHash();
