"use strict";
(() => {
  const table = document.getElementById("layers");
  if (!table) return;
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  const controls = document.getElementById("controls");
  const text = document.getElementById("filter-text");
  const precision = document.getElementById("filter-precision");
  const which = document.getElementById("filter-which");
  const count = document.getElementById("count");
  controls.hidden = false;

  const haystack = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));

  function matches(row) {
    const words = text.value.toLowerCase().split(/\s+/).filter(Boolean);
    return words.every((word) => haystack.get(row).includes(word))
      && (!precision.value || row.dataset.precision === precision.value)
      && (!which.value || (" " + row.dataset.is + " ").includes(" " + which.value + " "));
  }

  function filter() {
    let shown = 0;
    for (const row of rows) {
      row.hidden = !matches(row);
      if (!row.hidden) shown += 1;
    }
    count.textContent = shown + " of " + rows.length + " layers";
  }

  function value(row, column, numeric) {
    const cell = row.cells[column];
    if (!numeric) return cell.textContent.trim();
    return cell.dataset.v === "" ? null : Number(cell.dataset.v);
  }

  function sort(header) {
    const column = header.cellIndex;
    const numeric = header.classList.contains("number");
    const descending = header.getAttribute("aria-sort") === "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const order = rows.map((row, index) => ({ row, index, key: value(row, column, numeric) }));
    order.sort((a, b) => {
      if (a.key === null || b.key === null) {
        return (a.key === null) - (b.key === null) || a.index - b.index;
      }
      const compared = numeric ? (a.key > b.key) - (a.key < b.key) : a.key.localeCompare(b.key, "en", { numeric: true });
      return (descending ? -compared : compared) || a.index - b.index;
    });
    body.append(...order.map((entry) => entry.row));
  }

  for (const header of table.tHead.rows[0].cells) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    button.addEventListener("click", () => sort(header));
    header.append(button);
  }
  text.addEventListener("input", filter);
  for (const control of [precision, which]) control.addEventListener("change", filter);
  document.getElementById("filter-reset").addEventListener("click", () => {
    text.value = precision.value = which.value = "";
    filter();
  });

  function reveal() {
    const row = document.getElementById(location.hash.slice(1));
    if (row && row.hidden) {
      document.getElementById("filter-reset").click();
      row.scrollIntoView();
    }
  }
  window.addEventListener("hashchange", reveal);
  filter();
})();
