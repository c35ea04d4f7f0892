// Units to search, filter and sort, as cards or as a table.

const COLUMNS = [
  ["layer", "Layer", "text"], ["unit", "Unit", "number"], ["concept", "Concept", "text"], ["category", "Category", "text"],
  ["iou", "IoU", "number"], ["iou_chance", "Chance", "number"], ["runner_up", "Runner-up", "text"],
  ["runner_up_iou", "its IoU", "number"], ["precision", "Precision", "number"], ["recall", "Recall", "number"],
  ["threshold", "Threshold", "number"], ["detector", "Detector", "flag"], ["dead", "Dead", "flag"],
];
const SHARES = new Set(["iou_chance", "runner_up_iou", "precision", "recall"]);
const ORDERS = [
  ["iou", true, "Highest IoU"], ["concept", false, "Concept, A to Z"], ["category", false, "Category"], ["unit", false, "Unit"], ["precision", true, "Highest precision"],
];

function unitBrowser(units, layers, classes) {
  const most = Math.max(...units.map((unit) => Math.max((unit.iou ?? 0) + (unit.iou_error ?? 0), unit.iou_chance ?? 0)), 0.05);
  const state = { view: "cards", order: "iou", descending: true, concept: null };
  const there = new Set(data.tables.dictionary.columns.map((column) => column.name));
  const has = (name) => there.has(name) && units.some((unit) => unit[name] !== null && unit[name] !== "");

  const search = element("input", { type: "search", id: "search", placeholder: "Search concepts, units… ( / )", "aria-label": "Search concepts, categories and units", oninput: () => { state.concept = null; draw(); } });
  const layer = options("layer", "Layer", [["", "All layers"], ...layers.map((each) => [each, each])]);
  const category = options("category", "Category", [["", "All categories"], ...[...classes.keys()].map((each) => [each, each])]);
  const order = options("order", "Order", ORDERS.filter(([name]) => has(name)).map(([name, , label]) => [name, label]), () => {
    [state.order, state.descending] = ORDERS.find(([name]) => name === order.value);
  });
  const detectors = element("input", { type: "checkbox", id: "detectors", onchange: draw });
  const count = element("span", { class: "count", id: "count", role: "status" });
  const cards = element("ul", { class: "cards", "aria-label": "Units" });
  const paged = pages(CARDS_PER_PAGE, (shown) => cards.replaceChildren(...(shown.length ? shown.map((unit) => unitCard(unit, most, classes)) : [element("li", { class: "none" }, "Nothing matches.")])));
  const own = new Set([...COLUMNS.map(([name]) => name), "iou_error"]);
  const others = data.tables.dictionary.columns.filter(({ name }) => !own.has(name)).map(({ name, kind }) => [name, name, kind]);
  const texts = new Map(data.tables.dictionary.columns.map((each) => [each.name, each.text]));
  const table = sortableTable("Units and their concepts", [...COLUMNS.filter(([name]) => there.has(name)), ...others].map(column), {
    onSort: (by) => {
      [state.order, state.descending] = [by.column, by.descending];
      order.value = ORDERS.find(([name, descending]) => name === by.column && descending === by.descending)?.[0] ?? "";
    },
  });
  const asCards = element("div", { id: "cards" }, cards, paged.bar);
  const asTable = element("div", { id: "table", hidden: true }, table.node);
  const views = ["cards", "table"].map((name) => element("button", { type: "button", "aria-pressed": String(name === state.view), onclick: () => show(name) }, name === "cards" ? "Cards" : "Table"));

  function options(id, label, choices, changed = () => {}) {
    const node = element("select", { id, "aria-label": label, onchange: () => { changed(); draw(); } }, ...choices.map(([value, said]) => element("option", { value }, said)));
    return node;
  }
  function column([name, label, kind]) {
    const value = (unit) => (name === "concept" && !unit.concept ? null : unit[name]);
    const found = { name, label, kind, value, text: texts.get(name) };
    if (name === "category") found.cell = (unit) => (unit.category ? element("span", { class: `chip ${classes.get(unit.category) ?? "k9"}` }, unit.category) : "");
    if (name === "concept") found.cell = (unit) => (unit.detector ? element("b", null, unit.concept) : element("span", { class: "faint" }, unit.concept ?? ""));
    if (SHARES.has(name)) found.cell = (unit) => (unit[name] === null ? "" : share(unit[name]));
    if (name === "iou") found.cell = (unit) => (unit.iou === null ? "" : [meter(unit, most, classes.get(unit.category) ?? "k9"), share(unit.iou), unit.iou_error ? element("small", { class: "faint" }, ` ± ${share(unit.iou_error)}`) : null]);
    return found;
  }
  function show(view) {
    state.view = view;
    [asCards.hidden, asTable.hidden] = [view !== "cards", view !== "table"];
    views.forEach((button, place) => button.setAttribute("aria-pressed", String(["cards", "table"][place] === view)));
    order.hidden = view !== "cards";
    draw();
  }
  function matches(unit, words) {
    const said = `${unit.concept ?? ""} ${unit.category} ${unit.runner_up ?? ""} ${unit.layer} unit ${unit.unit}`.toLowerCase();
    return (!layer.value || unit.layer === layer.value) && (!category.value || unit.category === category.value)
      && (state.concept === null || unit.concept === state.concept) && (!detectors.checked || unit.detector) && words.every((word) => said.includes(word));
  }
  function draw() {
    const words = state.concept === null ? search.value.trim().toLowerCase().split(/\s+/).filter(Boolean) : [];
    const found = units.filter((unit) => matches(unit, words));
    if (state.view === "cards") paged.set(sorted(found, (unit) => (state.order === "iou" && !unit.detector ? (unit.iou ?? 0) - 2 : unit[state.order]), state.descending));
    else {
      table.set(found);
      table.sortBy(state.order, state.descending);
    }
    count.textContent = found.length === units.length ? many(units.length, "unit") : `${number(found.length)} of ${many(units.length, "unit")}`;
  }
  // From the chart and the concepts: the units that detect a concept of a category, or this concept.
  function choose({ layer: chosen = "", category: wanted = "", concept = null }) {
    [layer.value, category.value, detectors.checked, search.value, state.concept] = [chosen, wanted, true, concept ?? "", concept];
    draw();
    node.scrollIntoView({ block: "start" });
  }
  document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
    event.preventDefault();
    search.focus();
  });
  const bar = element("div", { class: "bar sticky", role: "search", "aria-label": "Units" }, search, layers.length > 1 ? layer : null, classes.size ? category : null,
    element("label", { class: "check" }, detectors, "Detectors only"), order, element("div", { class: "switch", role: "group", "aria-label": "View" }, ...views), count);
  const node = section("units", "Units and their concepts", "Each bar is the IoU on one scale; the dashed mark is what chance gives, the line is the error.", bar, asCards, asTable);
  draw();
  return { node, choose };
}
