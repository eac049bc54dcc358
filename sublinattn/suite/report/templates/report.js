"use strict";

// Numbers of a figure's points under the pointer; without this script the browser's own tooltips have them.
for (const plot of document.querySelectorAll(".plot:has(svg)")) {
  const layer = plot.querySelector("svg");
  const points = [...layer.querySelectorAll("circle")].map(c => [c, c.querySelector("title").textContent]);
  for (const [circle] of points) circle.querySelector("title").remove();
  const tip = document.createElement("output");
  tip.className = "tip";
  tip.hidden = true;
  plot.append(tip);
  let last = null;
  const show = event => {
    const box = layer.getBoundingClientRect();
    const scale = layer.viewBox.baseVal.width / box.width;
    const x = (event.clientX - box.left) * scale, y = (event.clientY - box.top) * scale;
    let best = null, least = 12 * scale;
    for (const point of points) {
      const distance = Math.hypot(point[0].cx.baseVal.value - x, point[0].cy.baseVal.value - y);
      if (distance < least) [best, least] = [point, distance];
    }
    if (last) last.classList.remove("on");
    last = best && best[0];
    tip.hidden = !best;
    if (!best) return;
    last.classList.add("on");
    tip.value = best[1];
    const left = last.cx.baseVal.value / scale, top = last.cy.baseVal.value / scale;
    tip.style.left = `${Math.max(0, Math.min(left + 10, box.width - tip.offsetWidth))}px`;
    tip.style.top = `${top > tip.offsetHeight + 14 ? top - tip.offsetHeight - 10 : top + 14}px`;
  };
  plot.addEventListener("pointermove", show);
  plot.addEventListener("pointerdown", show);
  plot.addEventListener("pointerleave", () => { tip.hidden = true; if (last) last.classList.remove("on"); });
}

// The list of claims: search, filters, order. Filters stand in the address, so that Back and a shared link keep them.
const form = document.querySelector(".filters");
if (form) {
  const body = document.querySelector(".ledger tbody");
  const empty = document.querySelector(".empty");
  const keys = ["outcome", "basis", "paper", "notebook"];

  const filter = () => {
    const want = Object.fromEntries(new FormData(form));
    const words = want.text.toLowerCase().split(/\s+/);
    let shown = 0;
    for (const row of body.rows) {
      const exact = keys.every(key => !want[key] || row.dataset[key] === want[key]);
      row.hidden = !(exact && words.every(word => row.dataset.text.includes(word)));
      shown += !row.hidden;
    }
    form.querySelector("output").value = shown === body.rows.length ? "" : `${shown} of ${body.rows.length}`;
    empty.hidden = shown > 0;
  };
  const write = () => {
    const set = [...new FormData(form)].filter(([, value]) => value);
    history.replaceState(null, "", set.length ? `#${new URLSearchParams(set)}` : "#ledger");
    filter();
  };
  const read = () => {
    if (!location.hash.includes("=")) return;
    const given = new URLSearchParams(location.hash.slice(1));
    for (const name of ["text", ...keys]) form.elements[name].value = given.get(name) ?? "";
    filter();
    document.querySelector("#ledger").scrollIntoView();
  };
  form.addEventListener("input", write);
  form.addEventListener("submit", event => event.preventDefault());
  empty.querySelector("button").addEventListener("click", () => { form.reset(); write(); });
  addEventListener("hashchange", read);
  read();
}

// Tables whose columns sort.
const sort = head => {
  const up = head.getAttribute("aria-sort") !== "ascending";
  const rows = head.closest("table").tBodies[0];
  const number = head.dataset.sort === "number";
  const key = row => row.cells[head.cellIndex].dataset.value;
  const order = (a, b) => {
    const [one, two] = [key(a), key(b)];
    if (!one || !two) return !one - !two; // rows without a value come last, either way
    const by = number ? Number(one) - Number(two) : one.localeCompare(two, "en", { numeric: true });
    return up ? by : -by;
  };
  for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  rows.append(...[...rows.rows].sort(order));
};
for (const head of document.querySelectorAll("th[data-sort]")) {
  head.tabIndex = 0;
  head.addEventListener("click", () => sort(head));
  head.addEventListener("keydown", event => { if (event.key === "Enter") sort(head); });
}
