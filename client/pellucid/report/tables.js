// Tables that can be sorted by each column, filtered and paged.

// `columns` have a name, a label, a kind ("number", "flag" or "text"), `value(row)`, and perhaps `cell(row)`.
function sortableTable(caption, columns, { pageSize = 50, onSort = null } = {}) {
  const body = element("tbody");
  const heads = columns.map((column) => {
    const order = element("button", { type: "button", title: column.text || null, onclick: () => toggle(column) },
      column.label, column.unit ? element("small", null, ` (${column.unit})`) : null);
    return element("th", { scope: "col", class: column.kind === "number" ? "num" : null, "data-column": column.name }, order);
  });
  const table = element("table", null, element("caption", { class: "hidden" }, caption), element("thead", null, element("tr", null, ...heads)), body);
  const wrap = element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption }, table);
  const paged = pages(pageSize, (rows) => body.replaceChildren(...(rows.length ? rows.map(line) : [nothing()])));
  let shown = [];
  let by = { column: null, descending: false };

  function nothing() {
    return element("tr", null, element("td", { colspan: columns.length, class: "none" }, "Nothing matches."));
  }
  function line(row) {
    return element("tr", null, ...columns.map((column, place) => {
      const content = column.cell ? column.cell(row) : text(column.value(row), column.kind);
      const attributes = { class: column.kind === "number" ? "num" : null };
      return place === 0 ? element("th", { scope: "row", ...attributes }, content) : element("td", attributes, content);
    }));
  }
  function toggle(column) {
    const again = by.column === column.name;
    sortBy(column.name, again ? !by.descending : column.kind !== "text");
    if (onSort) onSort(by);
  }
  function sortBy(name, descending) {
    by = { column: name, descending };
    heads.forEach((head) => {
      if (head.dataset.column === name) head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    draw();
  }
  function draw() {
    const column = columns.find((each) => each.name === by.column);
    paged.set(column ? sorted(shown, column.value, by.descending) : shown);
  }
  function set(rows) {
    shown = rows;
    draw();
  }
  return { node: element("div", null, wrap, paged.bar), set, sortBy };
}

function text(value, kind) {
  if (value === null || value === undefined || value === "") return "";
  if (kind === "flag") return value ? "yes" : "no";
  return typeof value === "number" ? number(value, 4) : value;
}

// A table of the findings, as it came, with a field to filter it by; `cells` write some columns in their own way.
function plainTable(name, table, { open = true, cells = {} } = {}) {
  const rows = rowsOf(table);
  // A column in which nothing has a value says nothing.
  const known = table.columns.filter((column) => !rows.length || column.values.some((each) => each !== null && each !== ""));
  const columns = known.map((column) => ({ ...column, label: column.name, value: (row) => row[column.name], cell: cells[column.name] }));
  const shown = sortableTable(table.text || name, columns, { pageSize: 25 });
  const count = element("span", { class: "count", role: "status" });
  const filter = element("input", { type: "search", placeholder: "Filter…", "aria-label": `Filter ${name}`, oninput: draw });
  function draw() {
    const wanted = filter.value.trim().toLowerCase();
    const left = rows.filter((row) => !wanted || columns.some((column) => text(column.value(row), column.kind).toLowerCase().includes(wanted)));
    shown.set(left);
    count.textContent = left.length === rows.length ? many(rows.length, "row") : `${number(left.length)} of ${many(rows.length, "row")}`;
  }
  draw();
  const bar = rows.length > 5 ? element("div", { class: "bar" }, filter) : null;
  return element("details", { class: "panel", "data-table": name, open },
    element("summary", null, element("h3", null, name), count), table.text ? element("p", { class: "lead" }, table.text) : null, bar, shown.node);
}
