"use strict";
// Everything here is an extra: without it, the page says the same.

// The theme: that of the system, until the button is pressed.
const theme = document.getElementById("theme");
const system = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (document.documentElement.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";
const nameTheme = () => { theme.textContent = isDark() ? "Light colors" : "Dark colors"; };
theme.addEventListener("click", () => {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  nameTheme();
});
system.addEventListener("change", nameTheme);
nameTheme();
theme.hidden = false;

// Long tables: a button in each head sorts, and a field above searches.
const collator = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });

function compareCells(a, b) {
  const [x, y] = [a.dataset.order, b.dataset.order];
  if (x === undefined || y === undefined) return collator.compare(a.textContent, b.textContent);
  return Number(x) - Number(y);
}

function sortBy(table, head) {
  const column = head.cellIndex;
  const isFirst = !head.hasAttribute("aria-sort");
  const falls = isFirst ? head.classList.contains("number") : head.getAttribute("aria-sort") === "ascending";
  for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", falls ? "descending" : "ascending");
  const body = table.tBodies[0];
  const sign = falls ? -1 : 1;
  body.append(...[...body.rows].sort((a, b) => sign * compareCells(a.cells[column], b.cells[column])));
}

function search(table, text, output) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  let n = 0;
  for (const row of table.tBodies[0].rows) {
    const found = row.textContent.toLowerCase();
    row.hidden = !words.every((word) => found.includes(word));
    n += row.hidden ? 0 : 1;
  }
  output.textContent = words.length ? `${n} of ${table.tBodies[0].rows.length} rows` : "";
}

for (const part of document.querySelectorAll(".table.long")) {
  const table = part.querySelector("table");
  for (const head of table.tHead.rows[0].cells) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    button.addEventListener("click", () => sortBy(table, head));
    head.append(button);
  }
  const tools = part.querySelector(".tools");
  const [field, output] = [tools.querySelector("input"), tools.querySelector("output")];
  field.addEventListener("input", () => search(table, field.value, output));
  tools.hidden = false;
}
