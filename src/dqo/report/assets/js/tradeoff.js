// Quality against diversity: a point a run with both intervals, and the front.
function tradeoff(data) {
  if (!$("trade-chart")) return;
  const { x, y, fronts } = data.axes;
  const label = (name) => data.definitions[`e:${name}`].label;
  const fill = (select, names, key) => {
    select.append(...names.map((name) => el("option", { value: name }, label(name))));
    const kept = memory.get(key);
    if (names.includes(kept)) select.value = kept;
    select.addEventListener("change", () => { memory.set(key, select.value); $("trade-chart").redraw(); });
  };
  if (!x.length || !y.length) {
    $("tradeoff").querySelector(".controls").hidden = true;
    $("trade-chart").append(el("p", { class: "meta" }, "No run of this page has both a quality and a diversity: evaluate with a task or a reward."));
    return;
  }
  fill($("trade-x"), x, "trade-x");
  fill($("trade-y"), y, "trade-y");
  const rows = () => data.runs.map((run, i) => {
    const [a, b] = [data.evaluation[$("trade-x").value][i], data.evaluation[$("trade-y").value][i]];
    return a && b ? { i, name: plain(run.name), x: a[0], x1: a[1], x2: a[2], y: b[0], y1: b[1], y2: b[2] } : null;
  }).filter(Boolean);
  mount($("trade-chart"), (width) => {
    const [across, up] = [$("trade-x").value, $("trade-y").value];
    const points = rows();
    const better = data.definitions[`e:${across}`].better;
    const front = fronts[`${across}|${up}`].map((i) => points.find((point) => point.i === i));
    const told = (d) => `${d.name}: ${label(across)} ${number(d.x)} [${number(d.x1)}, ${number(d.x2)}], ${label(up)} ${number(d.y)} [${number(d.y1)}, ${number(d.y2)}]`;
    return chart({
      width, height: Math.min(460, Math.max(300, width * 0.5)), marginLeft: 52, marginBottom: 44, marginTop: 30, marginRight: 30, insetLeft: 40, insetRight: width > 600 ? 110 : 50, inset: 16, grid: true,
      x: { label: `${label(across)} ${better === "lower" ? "(less is better) ←" : "→"}`, reverse: better === "lower" }, y: { label: `↑ ${label(up)}` },
      marks: [
        Plot.line(front, { x: "x", y: "y", stroke: "var(--muted)", strokeDasharray: "4 4", strokeWidth: 1.2 }),
        Plot.link(points, { x1: "x1", x2: "x2", y: "y", stroke: (d) => colour(d.i), strokeWidth: 1.6, strokeOpacity: 0.75 }),
        Plot.link(points, { y1: "y1", y2: "y2", x: "x", stroke: (d) => colour(d.i), strokeWidth: 1.6, strokeOpacity: 0.75 }),
        Plot.dot(points, { x: "x", y: "y", r: 6, fill: (d) => colour(d.i), stroke: "var(--card)", strokeWidth: 1.5 }),
        Plot.text(points, { x: "x", y: "y", text: "name", dx: 10, dy: -11, textAnchor: "start", fill: (d) => colour(d.i), fontWeight: 600, fontSize: 13, stroke: "var(--card)", strokeWidth: 4 }),
        Plot.tip(points, Plot.pointer({ x: "x", y: "y", title: told, ...tipStyle })),
      ],
    }, `Quality against diversity. ${points.map(told).join(". ")}.`, points.map((d) => ({ x: d.x, y: d.y, text: told(d) })));
  });
}
