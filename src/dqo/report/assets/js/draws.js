// pass@n and max@n against n, with their intervals.
function draws(data) {
  if (!$("draw-charts")) return;
  for (const kind of ["pass", "max"]) {
    const counts = Object.keys(data.evaluation).map((name) => name.match(`^${kind}@(\\d+)$`)).filter(Boolean).map((match) => Number(match[1])).sort((a, b) => a - b);
    const rows = counts.flatMap((n) => data.arms.map((run, i) => ({ n, i, name: plain(run.name), value: data.evaluation[`${kind}@${n}`][i] })))
      .filter((d) => d.value).map((d) => ({ ...d, y: d.value[0], y1: d.value[1], y2: d.value[2] }));
    if (counts.length < 2 || !rows.length) continue;
    const figure = el("figure", { class: "chart" });
    caption(figure, `${kind}@n`, `e:${kind}@${counts.at(-1)}`, kind === "pass" ? `chance of a response with reward of at least ${data.threshold}` : "expected best reward of n draws");
    $("draw-charts").append(figure);
    const runs = data.arms.map((run, i) => i).filter((i) => rows.some((d) => d.i === i));
    figure.append(legend(runs.map((i) => plain(data.arms[i].name)), runs.map(colour)));
    const told = (d) => `${d.name}, ${d.n} ${d.n === 1 ? "draw" : "draws"}: ${number(d.y)} [${number(d.y1)}, ${number(d.y2)}]`;
    mount(figure, (width) => chart({
      width, height: 260, marginLeft: 46, marginRight: 16, marginBottom: 40, inset: 6,
      x: { type: "log", label: "draws n →", ticks: counts, tickFormat: "d" }, y: { label: null, grid: true, ticks: 5 },
      marks: [
        Plot.areaY(rows, { x: "n", y1: "y1", y2: "y2", z: "i", fill: (d) => colour(d.i), fillOpacity: 0.13 }),
        Plot.line(rows, { x: "n", y: "y", z: "i", stroke: (d) => colour(d.i), strokeWidth: 2 }),
        Plot.dot(rows, { x: "n", y: "y", r: 3.5, fill: (d) => colour(d.i) }),
        Plot.tip(rows, Plot.pointer({ x: "n", y: "y", title: told, ...tipStyle })),
      ],
    }, `${kind}@n. ${rows.map(told).join(". ")}.`, rows.map((d) => ({ x: d.n, y: d.y, text: told(d) }))));
    asTable(figure, ["n", ...runs.map((i) => plain(data.arms[i].name))], () => counts.map((n) => [String(n), ...runs.map((i) => data.evaluation[`${kind}@${n}`][i]?.[0] ?? null)]));
  }
  if (!$("draw-charts").children.length) $("draws").hidden = true;
}
