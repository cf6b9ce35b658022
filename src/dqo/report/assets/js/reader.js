// The reader: choose a prompt, see every run's responses side by side, search, filter, sort.
const AT_ONCE = 150; // prompts in the list before "more"
const FOLD = 700; // characters of a response before "show all"

function reader(data) {
  if (!$("responses")) return;
  const { prompts, runs, metrics } = data.samples;
  const state = { prompt: 0, shown: [], limit: AT_ONCE, needle: "", ...memory.get("reader") };
  if (state.prompt >= prompts.length) state.prompt = 0;
  const answered = runs.map((_, i) => i).filter((i) => runs[i].some(Boolean)); // a run without responses has no column
  const shared = common(prompts.map((prompt) => prompt[1]));
  const mapped = prompts.every((prompt) => data.maps[prompt[0]]);
  const lower = prompts.map(() => null); // searched text of a prompt, made once it is needed
  const repeats = (group) => { const count = new Map(); group.r.forEach((text) => count.set(text, (count.get(text) ?? 0) + 1)); return count; };
  const keep = {
    all: () => true,
    pass: (group, k) => group.q != null && group.q[k] >= data.threshold,
    fail: (group, k) => group.q != null && group.q[k] < data.threshold,
    cut: (group, k) => group.f[k] === "l",
    same: (group, k) => group.r.indexOf(group.r[k]) !== group.r.lastIndexOf(group.r[k]),
  };
  const orders = sortings(data, metrics, runs);
  $("order").append(...orders.map((order, i) => el("option", { value: i }, order.label)));
  if (state.order < orders.length) $("order").value = state.order;
  $("only").value = state.only ?? "all";
  $("find").value = state.needle;

  const matches = (p) => {
    const only = keep[$("only").value];
    const passes = runs.some((rows) => rows[p]?.r.some((_, k) => only(rows[p], k)));
    if (!passes || !state.needle) return passes;
    lower[p] ??= [prompts[p][0], prompts[p][1], ...runs.flatMap((rows) => rows[p]?.r ?? [])].map((text) => text.toLowerCase());
    return lower[p].some((text) => text.includes(state.needle));
  };

  function list() {
    state.needle = $("find").value.trim().toLowerCase();
    const score = orders[Number($("order").value)].score;
    state.shown = prompts.map((_, p) => p).filter(matches);
    if (score) state.shown.sort((a, b) => (score(a) ?? Infinity) - (score(b) ?? Infinity));
    $("found").textContent = `${state.shown.length.toLocaleString("en")} of ${prompts.length.toLocaleString("en")} prompts`;
    if (state.shown.length && !state.shown.includes(state.prompt)) state.prompt = state.shown[0];
    rows();
    read();
  }

  function rows() {
    $("prompts").replaceChildren(...state.shown.slice(0, state.limit).map((p) => {
      const numbers = metrics.slice(0, 2).map((name, m) => {
        const values = data.arms.map((arm) => d3.mean(arm.runs, (i) => runs[i][p]?.m[m])).filter((value) => value != null);
        return values.length ? el("span", {}, `${data.definitions[`e:${name}`].label.replace(", held out", "")} ${values.map(number).join(" → ")}`) : null;
      });
      const map = data.maps[prompts[p][0]] && !mapped ? el("span", {}, "map") : null;
      return el("div", { class: "item", role: "option", id: `p${p}`, "aria-selected": p === state.prompt }, el("p", { dir: "auto" }, ...written((shared ? "… " : "") + prompts[p][1].slice(shared, shared + 300), state.needle)), el("small", {}, ...[...numbers, map].filter(Boolean).flatMap((node) => [node, " "])));
    }));
    $("further").hidden = state.shown.length <= state.limit;
    $("prompts").setAttribute("aria-activedescendant", `p${state.prompt}`);
  }

  function read() {
    memory.set("reader", { prompt: state.prompt, needle: state.needle, only: $("only").value, order: Number($("order").value) });
    const p = state.prompt;
    $("prompt-id").textContent = prompts[p][0];
    $("prompt").replaceChildren(...written(prompts[p][1], state.needle));
    const reference = prompts[p][2] ? el("p", { class: "meta" }, "Reference: ", el("bdi", {}, ...written(prompts[p][2]))) : null;
    if (reference) $("prompt").append(reference);
    const asked = runs.findIndex((rows) => rows[p]); // whose file the prompt and its reference are from
    for (const [place, what] of [[1, "prompt"], [2, "reference"]]) {
      const whole = prompts[p][3][place];
      if (whole) $("prompt").append(el("p", { class: "meta" }, `The page holds ${prompts[p][place].length.toLocaleString("en")} of ${whole.toLocaleString("en")} characters of the ${what}; all of them are in ${data.runs[asked].files.groups}, line ${runs[asked][p].l}.`));
    }
    drawMap(data, p, lit);
    $("columns").replaceChildren(...answered.map((i) => column(i, runs[i][p])));
  }

  function column(i, group) {
    const head = el("h3", {}, el("span", { class: `key key-${data.runs[i].arm % 8}` }), el("bdi", {}, data.runs[i].name));
    if (!group) return el("div", { class: "column" }, head, el("p", { class: "meta" }, "Did not answer this prompt."));
    const told = metrics.map((name, m) => group.m[m] == null ? null : el("span", { class: "num", tabindex: "0", "data-d": `e:${name}`, "data-s": data.runs[i].files.values, "data-x": "of this prompt alone" }, `${data.definitions[`e:${name}`].label} ${number(group.m[m])}`)).filter(Boolean).slice(0, 3);
    const count = repeats(group);
    const only = keep[$("only").value];
    const cards = group.r.map((text, k) => (only(group, k) ? response(i, group, k, count.get(text)) : null)).filter(Boolean);
    return el("div", { class: "column" }, head, el("p", { class: "meta" }, ...told.flatMap((node, k) => (k ? [" · ", node] : [node]))),
      ...(cards.length ? cards : [el("p", { class: "meta" }, "No response of this kind.")]));
  }

  function response(i, group, k, copies) {
    const text = group.r[k];
    const whole = group.n[k] ?? text.length;
    const body = el("p", { class: "text", dir: "auto" });
    const file = `${data.runs[i].files.groups}, line ${group.l}`;
    const head = [el("span", {}, `${k + 1}`)];
    if (group.q) head.push(el("span", { class: "num", tabindex: "0", "data-text": `Reward of this response. Source: ${file}` }, `quality ${number(group.q[k])}`));
    if (group.f[k] === "l") head.push(el("span", { class: "warn", title: "reached the token limit without ending" }, "cut off"));
    const first = group.r.indexOf(text);
    const again = first < k && $("only").value !== "same";
    if (again) head.push(el("span", { class: "warn" }, `the same as ${first + 1}`));
    else if (copies > 1) head.push(el("span", { class: "warn" }, `${copies}× the same`));
    if (!text.trim()) head.push(el("span", { class: "warn" }, "empty"));
    const card = el("article", { class: "response", id: `r${i}-${k}`, tabindex: "-1", "aria-label": `Response ${k + 1} of ${plain(data.runs[i].name)}` }, el("header", {}, ...head));
    if (again) return card;
    card.append(body);
    const found = state.needle ? text.toLowerCase().indexOf(state.needle) : -1;
    const fold = text.length > FOLD && found + state.needle.length < FOLD;
    body.append(...written(fold ? text.slice(0, FOLD) + "…" : text, state.needle));
    if (fold) {
      const more = el("button", { type: "button", class: "small" }, `Show all ${text.length.toLocaleString("en")} characters`);
      more.addEventListener("click", () => { body.replaceChildren(...written(text, state.needle)); more.remove(); });
      card.append(more);
    }
    if (whole > text.length) card.append(el("p", { class: "meta" }, `The page holds ${text.length.toLocaleString("en")} of ${whole.toLocaleString("en")} characters; all of them are in ${file}.`));
    return card;
  }

  function lit(i, k) {
    const card = $(`r${i}-${k}`);
    document.querySelectorAll(".response.lit").forEach((other) => other.classList.remove("lit"));
    card?.classList.add("lit");
    card?.scrollIntoView({ block: "center" });
    card?.focus({ preventScroll: true });
  }

  function go(step) {
    const at = state.shown.indexOf(state.prompt) + step;
    if (at < 0 || at >= state.shown.length) return;
    state.prompt = state.shown[at];
    if (at >= state.limit) state.limit += AT_ONCE;
    rows();
    read();
    // The list scrolls by itself; the page stays where the eyes are.
    const item = $(`p${state.prompt}`);
    $("prompts").scrollTop = item.offsetTop - $("prompts").offsetTop - $("prompts").clientHeight / 2;
  }

  const choose = (p) => { state.prompt = p; document.querySelectorAll(".item").forEach((item) => item.setAttribute("aria-selected", item.id === `p${p}`)); $("prompts").setAttribute("aria-activedescendant", `p${p}`); read(); };
  $("prompts").addEventListener("click", (event) => { const item = event.target.closest(".item"); if (item) choose(Number(item.id.slice(1))); });
  $("prompts").addEventListener("keydown", (event) => { const step = { ArrowDown: 1, ArrowUp: -1 }[event.key]; if (step) { event.preventDefault(); go(step); } });
  $("further").addEventListener("click", () => { state.limit += AT_ONCE; rows(); });
  $("previous").addEventListener("click", () => go(-1));
  $("next").addEventListener("click", () => go(1));
  let waiting = 0;
  $("find").addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(() => { state.limit = AT_ONCE; list(); }, 150); });
  for (const id of ["only", "order"]) $(id).addEventListener("change", list);
  document.addEventListener("keydown", (event) => {
    if (event.target.closest?.("input, select, textarea") || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "j") go(1);
    if (event.key === "k") go(-1);
    if (event.key === "/") { event.preventDefault(); $("find").focus(); }
  });
  list();
}

// How many characters all prompts begin with, whole words and only if they are many: the list leaves them out.
function common(texts) {
  if (texts.length < 2) return 0;
  let long = 0;
  while (long < texts[0].length && texts.every((text) => text[long] === texts[0][long])) long += 1;
  const words = texts[0].slice(0, long).search(/\S*$/);
  return words >= 25 && texts.every((text) => text.length > words) ? words : 0;
}

// File order first; then by what the last run lost against the first, or by the value where there is one run.
function sortings(data, metrics, runs) {
  const orders = [{ label: "as in the file", score: null }];
  metrics.slice(0, 3).forEach((name, m) => {
    const label = data.definitions[`e:${name}`].label;
    const last = runs.length - 1;
    const gain = (p) => (runs[0][p]?.m[m] == null || runs[last][p]?.m[m] == null ? null : runs[last][p].m[m] - runs[0][p].m[m]);
    if (last) {
      orders.push({ label: `${label}: largest loss`, score: gain });
      orders.push({ label: `${label}: largest gain`, score: (p) => (gain(p) == null ? null : -gain(p)) });
    } else {
      orders.push({ label: `${label}: lowest first`, score: (p) => runs[0][p]?.m[m] });
      orders.push({ label: `${label}: highest first`, score: (p) => (runs[0][p]?.m[m] == null ? null : -runs[0][p].m[m]) });
    }
  });
  return orders;
}
