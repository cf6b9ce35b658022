// Any run can be the one that the others are compared with; without scripts it is the first.
function against() {
  const select = $("against");
  if (!select) return;
  const kept = memory.get("against");
  if ([...select.options].some((option) => option.value === kept)) select.value = kept;
  const show = () => document.querySelectorAll(".against").forEach((table) => { table.hidden = table.dataset.base !== select.value; });
  select.addEventListener("change", () => { memory.set("against", select.value); show(); });
  show();
}
