"use strict";
// Everything in the report is there without this script; it sorts, copies, and unfolds for print.

const announce = (text) => {
  document.getElementById("status").textContent = text;
};

const addButton = (text, act) => {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = text;
  button.addEventListener("click", () => act(button));
  return button;
};

// A cell's number, or its text; null goes last in either direction.
const sortKey = (row, column) => {
  const cell = row.cells[column];
  const text = cell.querySelector("bdi").textContent;
  if (cell.dataset.value !== undefined && !cell.classList.contains("text")) {
    return Number(cell.dataset.value.replace("inf", "Infinity"));
  }
  return text === "" ? null : text;
};

const compare = (a, b) => {
  if (typeof a === "number" && typeof b === "number") return a - b;
  return String(a).localeCompare(String(b), "en", { numeric: true });
};

const sort = (table, column) => {
  const heads = [...table.tHead.rows[0].cells];
  const descending = heads[column].getAttribute("aria-sort") === "ascending";
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row, index) => ({ row, index, key: sortKey(row, column) }));
  rows.sort((a, b) => {
    if (a.key === null || b.key === null) {
      return (a.key === null) - (b.key === null) || a.index - b.index;
    }
    return (descending ? -1 : 1) * compare(a.key, b.key) || a.index - b.index;
  });
  heads.forEach((head) => head.removeAttribute("aria-sort"));
  const direction = descending ? "descending" : "ascending";
  heads[column].setAttribute("aria-sort", direction);
  body.append(...rows.map((each) => each.row));
  announce(`Sorted by ${heads[column].textContent.trim()}, ${direction}`);
};

for (const table of document.querySelectorAll("table[data-sortable]")) {
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const text = head.textContent;
    head.replaceChildren(addButton(text, () => sort(table, column)));
  });
}

// navigator.clipboard is missing where a browser does not trust a file; selecting always works.
const copy = async (code) => {
  try {
    await navigator.clipboard.writeText(code.textContent);
    return true;
  } catch {
    const range = document.createRange();
    range.selectNodeContents(code);
    const selection = window.getSelection();
    selection.removeAllRanges();
    selection.addRange(range);
    return document.execCommand("copy");
  }
};

for (const figure of document.querySelectorAll("figure.code")) {
  const label = figure.querySelector("figcaption").textContent;
  const copyButton = addButton("Copy", async (button) => {
    const copied = await copy(figure.querySelector("code"));
    button.textContent = copied ? "Copied" : "Selected: press Ctrl+C";
    announce(button.textContent);
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
  copyButton.setAttribute("aria-label", `Copy: ${label}`);
  figure.append(copyButton);
}

// The Tab key stops only at regions that scroll.
const updateTabStops = () => {
  for (const region of document.querySelectorAll(".scroll, pre")) {
    const scrolls = region.scrollWidth > region.clientWidth + 1;
    if (scrolls) region.setAttribute("tabindex", "0");
    else region.removeAttribute("tabindex");
  }
};
addEventListener("resize", updateTabStops);
document.addEventListener("toggle", updateTabStops, true);
updateTabStops();

// Folded blocks are opened for print, since paper cannot be clicked.
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details:not([open])")) {
    details.open = true;
    details.dataset.printed = "";
  }
});
addEventListener("afterprint", () => {
  for (const details of document.querySelectorAll("details[data-printed]")) {
    details.open = false;
    delete details.dataset.printed;
  }
});
