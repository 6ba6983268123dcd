// Tables: rows of hidden methods go, one rule's choices or all settings stay, headings sort.

const settings = $("settings");
const ruleNotes = Object.fromEntries(all("[data-rule]").map(each => [each.dataset.rule, each.textContent]));

function filterRows() {
  const rule = $("rule").value;
  const words = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  settings.classList.toggle("every", rule === "");
  for (const row of settings.tBodies[0].rows) {
    const chosen = !rule || row.dataset.rules.split(" ").includes(rule);
    const text = row.textContent.toLowerCase();
    row.hidden = !(isShown(row.dataset.group) && chosen && words.every(word => text.includes(word)));
  }
  $("rule-note").textContent = rule ? `One row per method, chosen by ${rule}: ${ruleNotes[rule]}.` : "Every setting; the highlighted rows are chosen by id_validation.";
}

function filterMatched() {
  const reference = $("reference");
  for (const part of all(".matched")) part.hidden = part.dataset.reference !== reference.value;
  for (const row of all(".matched tr[data-group]")) row.hidden = !isShown(row.dataset.group);
}

function sortBy(heading) {
  const headings = [...heading.parentNode.cells];
  const column = headings.indexOf(heading);
  // figures start with their highest, names with their first
  const next = {none: column ? "descending" : "ascending", ascending: "descending", descending: "ascending"};
  const direction = next[heading.getAttribute("aria-sort")];
  headings.forEach(other => other.setAttribute("aria-sort", "none"));
  heading.setAttribute("aria-sort", direction);
  const sign = direction === "ascending" ? 1 : -1;
  const value = row => row.cells[column].dataset.value;
  const body = settings.tBodies[0];
  // what has no value comes last in either direction
  body.append(...[...body.rows].sort((a, b) => (value(a) === "") - (value(b) === "") || sign * (value(a) - value(b))));
}

for (const heading of settings.tHead.rows[0].cells) heading.addEventListener("click", () => sortBy(heading));
draws(settings, filterRows);
draws($("reference"), filterMatched);
