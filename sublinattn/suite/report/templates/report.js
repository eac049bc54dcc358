"use strict";
const form = document.querySelector(".filters");
const body = document.querySelector(".ledger tbody");
const empty = document.querySelector(".empty");

function filter() {
  const want = Object.fromEntries(new FormData(form));
  const words = want.text.toLowerCase().split(/\s+/);
  let shown = 0;
  for (const row of body.rows) {
    const exact = ["outcome", "basis", "paper", "notebook"].every(key => !want[key] || row.dataset[key] === want[key]);
    row.hidden = !(exact && words.every(word => row.dataset.text.includes(word)));
    shown += !row.hidden;
  }
  form.querySelector("output").value = shown === body.rows.length ? "" : `${shown} of ${body.rows.length}`;
  empty.hidden = shown > 0;
}

function sort(head) {
  const up = head.getAttribute("aria-sort") !== "ascending";
  const key = row => row.cells[head.cellIndex].dataset.value;
  const order = (a, b) => key(a).localeCompare(key(b), "en", { numeric: true });
  for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  body.append(...[...body.rows].sort((a, b) => (up ? order(a, b) : order(b, a))));
}

form.addEventListener("input", filter);
form.addEventListener("submit", event => event.preventDefault());
empty.querySelector("button").addEventListener("click", () => { form.reset(); filter(); });
for (const head of document.querySelectorAll("th[data-sort]")) {
  head.tabIndex = 0;
  head.addEventListener("click", () => sort(head));
  head.addEventListener("keydown", event => { if (event.key === "Enter") sort(head); });
}
