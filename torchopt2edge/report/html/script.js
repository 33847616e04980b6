"use strict";
// Everything the report says is there without this script; it sorts, copies and opens for print.

const say = (text) => {
  document.getElementById("said").textContent = text;
};

const button = (text, act) => {
  const made = document.createElement("button");
  made.type = "button";
  made.textContent = text;
  made.addEventListener("click", () => act(made));
  return made;
};

// A cell's number, or its text; null goes last in either direction.
const worth = (row, column) => {
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
  const down = heads[column].getAttribute("aria-sort") === "ascending";
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row, at) => ({ row, at, worth: worth(row, column) }));
  rows.sort((a, b) => {
    if (a.worth === null || b.worth === null) {
      return (a.worth === null) - (b.worth === null) || a.at - b.at;
    }
    return (down ? -1 : 1) * compare(a.worth, b.worth) || a.at - b.at;
  });
  heads.forEach((head) => head.removeAttribute("aria-sort"));
  heads[column].setAttribute("aria-sort", down ? "descending" : "ascending");
  body.append(...rows.map((one) => one.row));
  say(`Sorted by ${heads[column].textContent.trim()}, ${down ? "descending" : "ascending"}`);
};

for (const table of document.querySelectorAll("table[data-sortable]")) {
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const text = head.textContent;
    head.replaceChildren(button(text, () => sort(table, column)));
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
  const made = button("Copy", async (self) => {
    const done = await copy(figure.querySelector("code"));
    self.textContent = done ? "Copied" : "Selected: press Ctrl+C";
    say(self.textContent);
    setTimeout(() => { self.textContent = "Copy"; }, 2000);
  });
  made.setAttribute("aria-label", `Copy: ${label}`);
  figure.append(made);
}

// What need not scroll is no stop for the Tab key.
const stops = () => {
  for (const region of document.querySelectorAll(".scroll, pre")) {
    const scrolls = region.scrollWidth > region.clientWidth + 1;
    if (scrolls) region.setAttribute("tabindex", "0");
    else region.removeAttribute("tabindex");
  }
};
addEventListener("resize", stops);
document.addEventListener("toggle", stops, true);
stops();

// Paper cannot be clicked.
addEventListener("beforeprint", () => {
  for (const fold of document.querySelectorAll("details:not([open])")) {
    fold.open = true;
    fold.dataset.printed = "";
  }
});
addEventListener("afterprint", () => {
  for (const fold of document.querySelectorAll("details[data-printed]")) {
    fold.open = false;
    delete fold.dataset.printed;
  }
});
