// Curves of the training log: what matters first, detectors of reward hacking apart, everything else on demand.
const MAIN = ["quality", "diversity/vendi", "diversity/credit", "alpha", "kl", "completions/mean_length", "entropy", "reward", "completions/clipped_ratio"];
const SPANS = ["generate", "reward", "embed", "credit", "update", "other"];
const SPAN_COLOURS = ["var(--run-1)", "var(--run-5)", "var(--run-2)", "var(--run-4)", "var(--run-3)", "var(--run-0)"];

function training(data) {
  if (!$("training")) return;
  const logged = [...new Set(data.training.flatMap((table) => Object.keys(table ?? {})))].filter((name) => name !== "step" && !name.startsWith("time/"));
  const hack = logged.filter((name) => name.startsWith("hack/"));
  const first = MAIN.filter((name) => logged.includes(name));
  const rest = logged.filter((name) => !first.includes(name) && !hack.includes(name));
  first.forEach((name) => curve(data, name, $("train-charts")));
  if (!logged.includes("kl")) $("train-charts").append(el("figure", { class: "chart" }, el("figcaption", {}, "KL"), el("p", { class: "meta" }, "Not logged: with beta = 0 TRL loads no reference model.")));
  hack.forEach((name) => curve(data, name, $("hack-charts")));
  $("hack").hidden = !hack.length;
  $("more-count").textContent = rest.length;
  $("more").hidden = !rest.length;
  $("more").addEventListener("toggle", () => rest.forEach((name) => curve(data, name, $("more-charts"))), { once: true });
  for (const [i] of data.arms.map((arm) => arm.runs)) if (data.training[i]?.["time/step"]) times(data, data.training[i], i); // one seed tells it
  if (!$("time-charts").children.length) { $("time-charts").previousElementSibling.remove(); $("time-charts").previousElementSibling.remove(); }
  if (!logged.includes("num_tokens")) $("train-x").parentElement.hidden = true;
  const redraw = () => {
    memory.set("smooth", $("smooth").value);
    document.querySelectorAll("#training figure").forEach((figure) => figure.redraw?.());
  };
  for (const id of ["smooth", "train-x"]) $(id).addEventListener("input", redraw);
}

// Exponential moving average, corrected for its start; gaps stay gaps.
function smoothed(values, weight) {
  let [mean, norm] = [0, 0];
  return values.map((value) => {
    if (value == null) return null;
    mean = weight * mean + (1 - weight) * value;
    norm = weight * norm + (1 - weight);
    return mean / norm;
  });
}

function curve(data, name, box) {
  const known = data.definitions[`t:${name}`];
  const figure = el("figure", { class: "chart", "data-metric": name });
  caption(figure, plain(known.label), `t:${name}`, known.range);
  box.append(figure);
  const series = data.training.map((table, i) => ({ i, arm: data.runs[i].arm, table, name: plain(data.runs[i].name), values: table?.[name] })).filter((s) => s.values);
  mount(figure, (width) => {
    const weight = Number($("smooth").value);
    const axis = $("train-x").value;
    const rows = series.flatMap((s) => {
      const strong = smoothed(s.values, weight);
      const across = s.table[axis] ?? s.table.step;
      return s.values.map((y, k) => ({ i: s.i, arm: s.arm, name: s.name, step: s.table.step[k], x: across[k], y, s: strong[k] })).filter((d) => d.y != null && d.x != null);
    });
    const told = (d) => `${d.name}, step ${d.step.toLocaleString("en")}\n${number(d.s)} smoothed, ${number(d.y)} logged`;
    const raw = weight > 0 && new Set(rows.map((d) => d.y)).size > series.length;
    const last = series.map((s) => rows.findLast((d) => d.i === s.i)).filter(Boolean);
    const text = last.map((d) => `${d.name} ends at ${number(d.s)}, step ${d.step}`).join("; ");
    return chart({
      width, height: 190, marginLeft: 46, marginRight: 14, marginTop: 12, marginBottom: 28, inset: 4,
      x: { label: null, ticks: Math.min(6, width / 70), tickFormat: (v) => d3.format(v >= 10000 ? "~s" : "d")(v) }, y: { label: null, grid: true, ticks: 4, nice: true, tickFormat: ticked },
      marks: [
        raw ? Plot.line(rows, { x: "x", y: "y", z: "i", stroke: (d) => colour(d.arm), strokeOpacity: 0.28, strokeWidth: 1 }) : null,
        Plot.line(rows, { x: "x", y: "s", z: "i", stroke: (d) => colour(d.arm), strokeWidth: 2 }),
        Plot.dot(last, { x: "x", y: "s", r: 3.5, fill: (d) => colour(d.arm) }),
        Plot.tip(rows, Plot.pointer({ x: "x", y: "s", title: told, ...tipStyle })),
      ],
    }, `${plain(known.label)} by ${axis}: ${text}.`, rows.map((d) => ({ x: d.x, y: d.s, text: told(d) })));
  });
  const arms = [...new Set(series.map((s) => s.arm))];
  if (series.length > 1) figure.append(legend(arms.map((arm) => plain(data.arms[arm].name)), arms.map(colour)));
  asTable(figure, ["step", ...series.map((s) => s.name)], () => {
    const steps = [...new Set(series.flatMap((s) => s.table.step))].sort((a, b) => a - b);
    const shown = steps.filter((_, k) => k % Math.ceil(steps.length / 12) === 0 || k === steps.length - 1);
    return shown.map((step) => [String(step), ...series.map((s) => s.values[s.table.step.indexOf(step)] ?? null)]);
  });
}

// As long as they fit beside a chart: 0.004 as it is, 0.00000001 as 1e−8.
const ticked = (v) => (v !== 0 && Math.abs(v) < 0.0005 ? v.toExponential(0).replaceAll("-", "−") : Math.abs(v) >= 10000 ? d3.format("~s")(v) : v.toLocaleString("en", { maximumFractionDigits: 4 }).replace("-", "−"));

function times(data, table, i) {
  const total = table["time/step"];
  const share = (name, k) => name === "other"
    ? Math.max(0, 1 - SPANS.slice(0, -1).reduce((sum, span) => sum + (table[`time/${span}`]?.[k] ?? 0), 0) / total[k])
    : (table[`time/${name}`]?.[k] ?? 0) / total[k];
  const spans = SPANS.filter((name) => name === "other" || table[`time/${name}`]);
  const rows = table.step.flatMap((step, k) => (total[k] ? spans.map((name) => ({ step, name, share: share(name, k) })) : []));
  const mean = (name) => d3.mean(rows.filter((d) => d.name === name), (d) => d.share) ?? 0;
  const figure = el("figure", { class: "chart" });
  const cost = percent(mean("embed") + mean("credit"));
  caption(figure, plain(data.runs[i].name), "t:time/step", `diversity: ${cost} of ${number(d3.mean(total))} s per step`);
  figure.append(legend(spans.map((name) => `${name} ${percent(mean(name))}`), spans.map((name) => SPAN_COLOURS[SPANS.indexOf(name)])));
  $("time-charts").append(figure);
  mount(figure, (width) => chart({
    width, height: 150, marginLeft: 46, marginRight: 14, marginTop: 8, marginBottom: 26,
    x: { label: null, ticks: Math.min(6, width / 70), tickFormat: "d" }, y: { label: null, ticks: 3, tickFormat: "%", domain: [0, 1] },
    marks: [Plot.areaY(rows, Plot.stackY({ x: "step", y: "share", z: "name", order: spans, fill: (d) => SPAN_COLOURS[SPANS.indexOf(d.name)], fillOpacity: 0.8, clip: true }))],
  }, `Shares of a step's time in ${plain(data.runs[i].name)}: ${spans.map((name) => `${name} ${percent(mean(name))}`).join(", ")}.`));
}
