// The definition and the source of a number: on hover, on focus, and by arrow keys through a table.
function tips(data) {
  const tip = $("tip");
  const describe = (node) => {
    if (node.dataset.text) return [node.dataset.text];
    const known = data.definitions[node.dataset.d];
    const lines = [el("b", {}, known ? known.label : node.dataset.d), known ? known.text : ""];
    const facts = [known?.range, known?.better && `${known.better} is better`, node.dataset.x].filter(Boolean);
    if (facts.length) lines.push(el("small", {}, facts.join(" · ")));
    if (node.dataset.s) lines.push(el("small", {}, `Source: ${node.dataset.s}`));
    return lines;
  };
  const show = (node) => {
    hide();
    tip.replaceChildren(...describe(node));
    tip.hidden = false;
    node.setAttribute("aria-describedby", "tip");
    place(node);
  };
  const place = (node) => {
    const at = node.getBoundingClientRect();
    const left = Math.min(at.left, innerWidth - tip.offsetWidth - 12);
    const below = at.bottom + 8 + tip.offsetHeight < innerHeight;
    tip.style.left = `${Math.max(12, left)}px`;
    tip.style.top = `${below ? at.bottom + 8 : Math.max(8, at.top - tip.offsetHeight - 8)}px`;
  };
  const hide = () => {
    tip.hidden = true;
    document.querySelectorAll("[aria-describedby=tip]").forEach((node) => node.removeAttribute("aria-describedby"));
  };
  const target = (event) => event.target.closest?.("[data-d], [data-text]");
  for (const kind of ["pointerover", "focusin", "click"]) {
    document.addEventListener(kind, (event) => { const node = target(event); node ? show(node) : hide(); });
  }
  document.addEventListener("focusout", hide);
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
  // Focus by keyboard scrolls its target into view: the tip then follows, a tip under a mouse goes.
  document.addEventListener("scroll", () => {
    const node = document.querySelector("[aria-describedby=tip]");
    if (node) node === document.activeElement ? place(node) : hide();
  }, { passive: true, capture: true });
  document.querySelectorAll(".num").forEach((node) => node.setAttribute("tabindex", node.closest("table") ? "-1" : "0"));
  document.querySelectorAll("table.grid").forEach(grid);
}

// One stop of the Tab key a table; arrows move through its numbers.
function grid(table) {
  const rows = [...table.tBodies[0].rows].map((row) => [...row.cells].map((cell) => cell.querySelector(".num, .term")));
  const width = Math.max(...rows.map((nodes) => nodes.length));
  const cells = rows.flat().filter(Boolean);
  cells.forEach((node, i) => node.setAttribute("tabindex", i ? "-1" : "0"));
  table.addEventListener("keydown", (event) => {
    const step = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
    const row = rows.findIndex((nodes) => nodes.includes(document.activeElement));
    if (!step || row < 0) return;
    event.preventDefault();
    let [r, c] = [row, rows[row].indexOf(document.activeElement)];
    do { r += step[0]; c += step[1]; } while (rows[r] && c >= 0 && c < width && !rows[r][c]);
    const next = rows[r]?.[c];
    if (!next) return;
    cells.forEach((node) => node.setAttribute("tabindex", node === next ? "0" : "-1"));
    next.focus();
  });
}

function theme() {
  const order = ["auto", "light", "dark"];
  const set = (name) => {
    document.documentElement.dataset.theme = name;
    $("theme").querySelector("span").textContent = name;
    $("theme").setAttribute("aria-label", `Theme: ${name === "auto" ? "as the system" : name}`);
    try { localStorage.setItem("dqo-theme", name); } catch { /* not kept */ }
  };
  let kept = null;
  try { kept = localStorage.getItem("dqo-theme"); } catch { /* none kept */ }
  if (order.includes(kept)) set(kept);
  $("theme").addEventListener("click", () => set(order[(order.indexOf(document.documentElement.dataset.theme) + 1) % 3]));
}
