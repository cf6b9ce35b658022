// Start: unpack, then draw from top to bottom.
theme();
unpack().then((data) => {
  tips(data);
  if (memory.get("smooth") && $("smooth")) $("smooth").value = memory.get("smooth");
  tradeoff(data);
  training(data);
  draws(data);
  reader(data);
  against();
  live(data);
  document.documentElement.dataset.ready = "yes";
}).catch((error) => {
  document.querySelector("main").prepend(el("p", { class: "cautions" }, `The charts could not be drawn: ${error.message}. A browser of 2023 or later is needed.`));
  throw error;
});
