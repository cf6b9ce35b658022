// A page that `dqo report --watch` keeps writing loads itself again, but not under a reader's hands.
function live(data) {
  if (!data.refresh) return;
  const kept = memory.get("place");
  const back = () => { if (kept != null) scrollTo({ top: kept, behavior: "instant" }); };
  requestAnimationFrame(() => requestAnimationFrame(back)); // the charts have their heights by then
  let [touched, paused] = [0, memory.get("paused") === true];
  const told = () => {
    $("live").textContent = paused ? "Live updates are paused." : `Live: read again every ${data.refresh} s.`;
    $("pause").textContent = paused ? "Go on" : "Pause";
  };
  $("pause").addEventListener("click", () => { paused = !paused; memory.set("paused", paused); told(); });
  for (const kind of ["keydown", "pointerdown", "input", "wheel"]) addEventListener(kind, () => { touched = Date.now(); }, { passive: true });
  addEventListener("pagehide", () => memory.set("place", scrollY));
  setInterval(() => { if (!paused && !document.hidden && Date.now() - touched > 8000) location.reload(); }, data.refresh * 1000);
  told();
}
