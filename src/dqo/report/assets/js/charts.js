// Charts by Observable Plot: drawn for the width there is, readable by keyboard and as a table.

// Draws as soon as the figure has a width, and again when that changes.
function mount(figure, draw) {
  let width = 0;
  let plot = el("div", { class: "plot" });
  figure.append(plot);
  const redraw = () => {
    const fresh = draw(Math.max(220, width));
    plot.replaceWith(fresh);
    plot = fresh;
  };
  figure.redraw = () => { if (width) redraw(); };
  new ResizeObserver(([entry]) => {
    const now = Math.floor(entry.contentRect.width);
    if (now && Math.abs(now - width) > 1) { width = now; redraw(); }
  }).observe(figure);
}

// `points`: what the arrow keys step through, [{x, y, text}] in data units; `label`: the chart in one sentence.
function chart(options, label, points = []) {
  const svg = Plot.plot({
    style: { background: "transparent", color: "var(--muted)", fontSize: "12px", fontFamily: "inherit" },
    ...options,
  });
  const host = el("div", { class: "plot", tabindex: "0", role: "img", "aria-label": `${label}${points.length ? " Arrow keys step through the points." : ""}` }, svg);
  let at = -1;
  host.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step || !points.length) return;
    event.preventDefault();
    at = (at + step + points.length) % points.length;
    const drawing = svg.tagName === "svg" ? svg : svg.querySelector("svg");
    const box = drawing.getBoundingClientRect();
    const place = { clientX: box.left + svg.scale("x").apply(points[at].x), clientY: box.top + svg.scale("y").apply(points[at].y) };
    drawing.dispatchEvent(new PointerEvent("pointermove", { ...place, bubbles: true, pointerType: "mouse" }));
    say(points[at].text);
  });
  return host;
}

function caption(figure, title, key, note) {
  const term = key ? el("button", { type: "button", class: "term", "data-d": key }, title) : el("span", {}, title);
  figure.append(el("figcaption", {}, term, note ? el("small", {}, note) : null));
}

function legend(names, colours) {
  return el("div", { class: "legend" }, ...names.map((name, i) => {
    const dot = el("i");
    dot.style.background = colours[i];
    return el("span", {}, dot, el("bdi", {}, name));
  }));
}

// The chart's numbers as a table, made when it is opened.
function asTable(figure, head, rows) {
  const details = el("details", {}, el("summary", {}, "Numbers"));
  details.addEventListener("toggle", () => {
    if (!details.open || details.querySelector("table")) return;
    const cells = (row, tag) => row.map((cell) => el(tag, {}, el("bdi", {}, typeof cell === "number" || cell == null ? number(cell) : cell)));
    details.append(el("div", { class: "scroll" }, el("table", {},
      el("thead", {}, el("tr", {}, ...cells(head, "th"))), el("tbody", {}, ...rows().map((row) => el("tr", {}, ...cells(row, "td")))))));
  });
  figure.append(details);
}

const tipStyle = { fill: "var(--card)", stroke: "var(--line)", textPadding: 8, fontSize: 12.5, pathFilter: "none" };
