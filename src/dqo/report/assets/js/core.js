// What every other file of the page uses: the data, elements, numbers and text that a model wrote.
const $ = (id) => document.getElementById(id);

async function unpack() {
  const packed = Uint8Array.from(atob($("data").textContent.trim()), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

// Elements are made, never parsed: a string can only become a text node or an attribute.
function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) if (value != null) node.setAttribute(name, value);
  node.append(...children.filter((child) => child != null));
  return node;
}

function number(value) {
  if (value == null) return "–";
  const size = Math.abs(value);
  if (size > 0 && size < 0.0005) return value.toExponential(1).replaceAll("-", "−");
  const digits = size >= 1000 ? 0 : size >= 100 ? 1 : size >= 10 ? 2 : 3;
  return value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits }).replace("-", "−");
}

const percent = (share) => `${Math.round(100 * share)} %`;
const colour = (i) => `var(--run-${i % 8})`;
const say = (text) => { $("said").textContent = text; };

// Controls that turn the direction of a line, or that do not show at all, are shown by their code.
const CONTROL = /[\u0000-\u0008\u000b\u000c\u000d\u000e-\u001f\u007f-\u009f\u061c\u200b\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]/;
const code = (c) => `U+${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;
const plain = (text) => [...text].map((c) => (CONTROL.test(c) ? `[${code(c)}]` : c)).join("");

function written(source, needle = "") {
  const text = source.replaceAll("\r\n", "\n");
  const nodes = [];
  const marked = (part) => {
    const lower = needle ? part.toLowerCase() : "";
    let from = 0;
    for (let at = needle ? lower.indexOf(needle) : -1; at >= 0 && nodes.length < 2000; at = lower.indexOf(needle, from)) {
      nodes.push(part.slice(from, at), el("mark", {}, part.slice(at, at + needle.length)));
      from = at + needle.length;
    }
    nodes.push(part.slice(from));
  };
  let rest = text;
  for (let at = rest.search(CONTROL); at >= 0 && nodes.length < 2000; at = rest.search(CONTROL)) {
    marked(rest.slice(0, at));
    nodes.push(el("span", { class: "ctl", title: "control character" }, code(rest[at])));
    rest = rest.slice(at + 1);
  }
  marked(nodes.length < 2000 ? rest : plain(rest));
  return nodes;
}

// What the reader has chosen survives a reload of a live page; a browser that forbids storage loses only that.
const memory = {
  get(name) { try { return JSON.parse(sessionStorage.getItem(`dqo-${name}`)); } catch { return null; } },
  set(name, value) { try { sessionStorage.setItem(`dqo-${name}`, JSON.stringify(value)); } catch { /* not kept */ } },
};
