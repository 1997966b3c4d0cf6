"use strict";
// Nothing here is needed to read the page: tables come sorted, and every label has its own part below the charts.
(() => {
  document.documentElement.classList.add("js");

  const keyOf = (cell) => {
    const number = cell.querySelector("data");
    if (number) return Number(number.value);
    const text = cell.textContent.trim();
    return text === "" || text === "–" ? null : text;
  };
  const compare = (a, b, sign) => {
    if (a === null || b === null) return (a === null) - (b === null); // what is not defined comes last
    return sign * (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));
  };
  const sortBy = (table, header) => {
    const column = [...header.parentNode.cells].indexOf(header);
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row) => [keyOf(row.cells[column]), row]);
    const numeric = rows.some(([key]) => typeof key === "number");
    const before = header.getAttribute("aria-sort");
    const rising = before ? before === "descending" : !numeric;
    for (const other of header.parentNode.cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", rising ? "ascending" : "descending");
    rows.sort((one, other) => compare(one[0], other[0], rising ? 1 : -1));
    body.append(...rows.map(([, row]) => row));
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    for (const header of table.tHead.rows[0].cells) {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...header.childNodes);
      header.append(button);
      button.addEventListener("click", () => sortBy(table, header));
    }
  }

  const picker = document.getElementById("label-picker");
  if (!picker) return;
  const explorer = document.getElementById("labels");
  const places = [explorer, document.getElementById("uncertainty")].filter(Boolean);
  const within = (what) => places.flatMap((place) => [...place.querySelectorAll(what)]);
  const told = document.getElementById("picked");
  const hint = told.textContent;
  const cards = [...document.querySelectorAll("details.card")];
  const pick = (number) => {
    picker.value = number;
    for (const place of places) place.classList.toggle("one", number !== "");
    for (const part of within("[data-label].on")) part.classList.remove("on");
    for (const row of within(`tr[data-label="${number}"]`)) row.classList.add("on");
    for (const part of within(`svg [data-label="${number}"]`)) {
      part.classList.add("on");
      part.parentNode.append(part); // over the others
    }
    for (const card of cards) {
      card.hidden = number !== "" && card.dataset.label !== number;
      if (card.dataset.label === number) card.open = true;
    }
    const summary = cards.find((card) => card.dataset.label === number)?.querySelector("summary");
    told.replaceChildren(...(summary ? [...summary.cloneNode(true).childNodes] : [hint]));
    for (const step of document.querySelectorAll("[data-step]")) step.disabled = picker.options.length < 2;
  };
  const go = (number) => {
    const where = number === "" ? "#labels" : `#label-${number}`;
    try { history.replaceState(null, "", where); } catch { /* a page inside another may not change its address */ }
    pick(number);
  };
  picker.addEventListener("change", () => go(picker.value));
  for (const step of document.querySelectorAll("[data-step]")) {
    step.addEventListener("click", () => {
      const count = picker.options.length;
      go(picker.options[(picker.selectedIndex + Number(step.dataset.step) + count) % count].value);
    });
  }
  for (const curve of within(".curve[data-label]")) {
    curve.addEventListener("click", () => go(curve.dataset.label));
  }
  const fromAddress = () => {
    const found = /^#label-(\d+)$/.exec(location.hash);
    if (!found || ![...picker.options].some((option) => option.value === found[1])) return false;
    pick(found[1]);
    return true;
  };
  addEventListener("hashchange", () => { if (fromAddress()) explorer.scrollIntoView(); });
  if (fromAddress()) explorer.scrollIntoView();
  else pick("");
})();
