// Where the responses to the chosen prompt lie in meaning: a panel a run on common axes, the other runs in grey.
function drawMap(data, prompt, open) {
  const found = data.maps[data.samples.prompts[prompt][0]];
  $("map").replaceChildren();
  $("map-box").hidden = !data.mapEncoder;
  if (!data.mapEncoder) return;
  if (!found) {
    $("map-note").textContent = `Maps are drawn for ${Object.keys(data.maps).length} of the prompts, those marked “map” in the list; this one has none.`;
    return;
  }
  $("map-note").textContent = `${data.mapNote ?? `Embedded with ${data.mapEncoder}, whole responses.`} Near is alike; the axes are the first two principal components of all panels together, ${percent(found.share[0])} and ${percent(found.share[1])} of the variance. Choose a point to read it.`;
  const groups = data.runs.map((run, i) => data.samples.runs[i][prompt]);
  const all = found.runs.flatMap((places, i) => (places ?? []).map(([x, y], r) => ({ i, r, x, y, text: plain(groups[i].r[r]).slice(0, 160) || "(empty)" })));
  const reach = (axis) => { const [low, high] = d3.extent(all, (d) => d[axis]); const gap = Math.max(0.05, (high - low) * 0.08); return [low - gap, high + gap]; };
  found.runs.forEach((places, i) => {
    if (!places) return;
    const figure = el("figure", { class: "chart" });
    const mine = all.filter((d) => d.i === i);
    caption(figure, plain(data.runs[i].name), null, `${new Set(mine.map((d) => d.text)).size} different texts of ${mine.length}`);
    $("map").append(figure);
    const told = (d) => `${d.r + 1}. ${d.text.slice(0, 90)}${d.text.length > 90 ? "…" : ""}`;
    mount(figure, (width) => {
      const host = chart({
        width, height: Math.min(250, width * 0.8), margin: 8, axis: null, x: { domain: reach("x") }, y: { domain: reach("y") },
        marks: [
          Plot.frame({ stroke: "var(--line)", rx: 6 }),
          Plot.dot(all.filter((d) => d.i !== i), { x: "x", y: "y", r: 3, fill: "var(--muted)", fillOpacity: 0.25 }),
          Plot.dot(mine, { x: "x", y: "y", r: 6, fill: colour(data.runs[i].arm), fillOpacity: 0.72, stroke: "var(--card)" }),
          Plot.tip(mine, Plot.pointer({ x: "x", y: "y", title: told, lineWidth: 24, ...tipStyle })),
        ],
      }, `Map of ${plain(data.runs[i].name)}'s responses.`, mine.map((d) => ({ x: d.x, y: d.y, text: told(d) })));
      const svg = host.firstChild;
      const choose = () => { if (svg.value) open(i, svg.value.r); };
      host.addEventListener("click", choose);
      host.addEventListener("keydown", (event) => { if (event.key === "Enter") choose(); });
      return host;
    });
  });
}
