// Quality against diversity: a point an arm with both intervals, and the front.
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
  const rows = () => data.arms.map((run, i) => {
    const [a, b] = [data.evaluation[$("trade-x").value][i], data.evaluation[$("trade-y").value][i]];
    return a && b ? { i, name: plain(run.name), x: a[0], x1: a[1], x2: a[2], y: b[0], y1: b[1], y2: b[2] } : null;
  }).filter(Boolean);
  mount($("trade-chart"), (width) => {
    const [across, up] = [$("trade-x").value, $("trade-y").value];
    const points = rows();
    const better = data.definitions[`e:${across}`].better;
    const front = fronts[`${across}|${up}`].map((i) => points.find((point) => point.i === i));
    const told = (d) => `${d.name}: ${label(across)} ${number(d.x)} [${number(d.x1)}, ${number(d.x2)}], ${label(up)} ${number(d.y)} [${number(d.y1)}, ${number(d.y2)}]`;
    const plotted = {
      width, height: Math.min(460, Math.max(300, width * 0.5)), marginLeft: 52, marginBottom: 44, marginTop: 30, marginRight: 30, insetLeft: 40, insetRight: width > 600 ? 110 : 50, inset: 16, grid: true,
      x: { label: `${label(across)} ${better === "lower" ? "(less is better) ←" : "→"}`, reverse: better === "lower" }, y: { label: `↑ ${label(up)}` },
      marks: [
        Plot.line(front, { x: "x", y: "y", stroke: "var(--muted)", strokeDasharray: "4 4", strokeWidth: 1.2 }),
        Plot.link(points, { x1: "x1", x2: "x2", y: "y", stroke: (d) => colour(d.i), strokeWidth: 1.6, strokeOpacity: 0.75 }),
        Plot.link(points, { y1: "y1", y2: "y2", x: "x", stroke: (d) => colour(d.i), strokeWidth: 1.6, strokeOpacity: 0.75 }),
        Plot.dot(points, { x: "x", y: "y", r: 6, fill: (d) => colour(d.i), stroke: "var(--card)", strokeWidth: 1.5 }),
        Plot.tip(points, Plot.pointer({ x: "x", y: "y", title: told, ...tipStyle })),
      ],
    };
    const scales = Plot.plot(plotted);
    const places = spots(points.map((d) => ({ x: scales.scale("x").apply(d.x), y: scales.scale("y").apply(d.y), wide: 7.6 * d.name.length })), width);
    const names = points.map((d, k) => Plot.text([d], { x: "x", y: "y", text: "name", ...places[k], fill: colour(d.i), fontWeight: 600, fontSize: 13, stroke: "var(--card)", strokeWidth: 4 }));
    plotted.marks.splice(-1, 0, ...names);
    return chart(plotted, `Quality against diversity. ${points.map(told).join(". ")}.`, points.map((d) => ({ x: d.x, y: d.y, text: told(d) })));
  });
}

// Where each name stands beside its point: the first place that covers no other name or point, or the one that covers fewest.
function spots(points, width) {
  const boxes = points.map(({ x, y }) => ({ x1: x - 8, x2: x + 8, y1: y - 8, y2: y + 8 }));
  return points.map(({ x, y, wide }, k) => {
    const tried = [[10, -11, "start"], [10, 13, "start"], [-10, -11, "end"], [-10, 13, "end"], [0, -20, "middle"], [0, 22, "middle"], [10, -27, "start"], [10, 29, "start"], [-10, -27, "end"], [-10, 29, "end"]].map(([dx, dy, textAnchor]) => {
      const x1 = x + dx - { start: 0, end: wide, middle: wide / 2 }[textAnchor];
      const box = { x1, x2: x1 + wide, y1: y + dy - 8, y2: y + dy + 8 };
      const covered = boxes.filter((other, o) => o !== k && box.x1 < other.x2 && other.x1 < box.x2 && box.y1 < other.y2 && other.y1 < box.y2).length;
      return { dx, dy, textAnchor, box, cost: covered + (box.x1 < 4 || box.x2 > width - 4 ? 10 : 0) };
    });
    const best = tried.reduce((a, b) => (b.cost < a.cost ? b : a));
    boxes.push(best.box);
    return { dx: best.dx, dy: best.dy, textAnchor: best.textAnchor };
  });
}
