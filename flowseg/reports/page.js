"use strict";
for (const data of document.querySelectorAll(".data")) {
  const body = data.querySelector("tbody");
  const heads = [...data.querySelectorAll("th")];
  const rows = [...body.rows];
  heads.forEach((head, column) => head.firstChild.addEventListener("click", () => {
    const value = (row) => {
      const cell = row.cells[column];
      return "v" in cell.dataset ? Number(cell.dataset.v) : cell.textContent;
    };
    const numbers = rows.some((row) => "v" in row.cells[column].dataset);
    const before = head.getAttribute("aria-sort");
    const down = before ? before === "ascending" : numbers;
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    rows.sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      const order = typeof x === "number" && typeof y === "number"
        ? x - y : String(x).localeCompare(String(y), "en", { numeric: true });
      return down ? -order : order;
    });
    body.append(...rows);
  }));
  const field = data.querySelector("input");
  if (field) field.addEventListener("input", () => {
    const words = field.value.toLowerCase().split(/\s+/);
    for (const row of rows) {
      const text = [...row.cells].map((cell) => cell.textContent).join(" ").toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
    }
  });
}
