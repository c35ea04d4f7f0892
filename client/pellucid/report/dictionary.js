// The semantic dictionary: tiles, categories by layer, and the units as cards or as a table.

const CARDS_PER_PAGE = 24;
const KNOWN = ["color", "texture", "shape", "part", "object", "scene", "material", "position", "pattern"];
const SAME = { colour: "color", colours: "color", colors: "color", textures: "texture", shapes: "shape", parts: "part", objects: "object", scenes: "scene", materials: "material", positions: "position" };

function readUnits() {
  return rowsOf(data.tables.dictionary).map((row, place) => {
    const picture = data.pictures[`${row.layer}/unit ${row.unit}`] ?? null;
    // Whether it detects, by the method's word, else by there being a concept.
    const detector = row.detector === null || row.detector === undefined ? Boolean(row.concept) : row.detector;
    return { ...row, place, picture, detector: Boolean(detector && row.concept), concept: row.concept || null, category: row.category || "", top: [] };
  });
}

function categoryClasses(units) {
  const rank = (name) => (KNOWN.indexOf(SAME[name] ?? name) + KNOWN.length + 1) % (KNOWN.length + 1);
  const named = [...new Set(units.map((unit) => unit.category).filter(Boolean))].sort((one, other) => rank(one) - rank(other) || collator.compare(one, other));
  const free = [...KNOWN.keys(), 9].filter((place) => !named.some((name) => KNOWN.indexOf(SAME[name] ?? name) === place));
  return new Map(named.map((name) => {
    const known = KNOWN.indexOf(SAME[name] ?? name);
    return [name, `k${known >= 0 ? known : free.shift() ?? 9}`];
  }));
}

function dictionarySections() {
  const units = readUnits();
  const classes = categoryClasses(units);
  const layers = [...new Set(units.map((unit) => unit.layer))];
  const byUnit = new Map(units.map((unit) => [`${unit.layer}/${unit.unit}`, unit]));
  if (data.tables.top) for (const row of rowsOf(data.tables.top)) byUnit.get(`${row.layer}/${row.unit}`)?.top.push(row);
  const browser = unitBrowser(units, layers, classes);
  const categories = classes.size ? categoriesSection(units, layers, classes, browser.choose) : null;
  return [tiles(units), auditSection(), comparisonSection(), categories, browser.node, conceptsSection(browser.choose)].filter(Boolean);
}

function tiles(units) {
  const detectors = units.filter((unit) => unit.detector);
  const said = [
    [number(units.length), units.length === 1 ? "unit" : "units"],
    [number(detectors.length), `${detectors.length === 1 ? "detects" : "detect"} a concept (${units.length ? Math.round((100 * detectors.length) / units.length) : 0} %)`],
    [number(new Set(detectors.map((unit) => unit.concept)).size), "distinct concepts"],
    [number(units.filter((unit) => unit.dead).length), "dead units"],
  ];
  return element("ul", { class: "tiles", "aria-label": "In short" }, ...said.map(([value, label]) => element("li", null, element("b", null, value), element("span", null, label))));
}

// A bar for each layer, as long as its units: the detectors by category, the rest, and those that are dead.
function categoriesSection(units, layers, classes, choose) {
  const [left, width, row] = [170, 1120, 46];
  const hatch = drawn("defs", null, drawn("pattern", { id: "hatch", width: 6, height: 6, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
    drawn("rect", { class: "segment rest", width: 6, height: 6 }), drawn("line", { class: "zero", y2: 6 })));
  const lines = layers.map((layer, place) => {
    const own = units.filter((unit) => unit.layer === layer);
    const detectors = own.filter((unit) => unit.detector);
    const counts = [...classes.keys(), ""].map((category) => ({ category, units: detectors.filter((unit) => unit.category === category) })).filter((each) => each.units.length);
    const dead = own.filter((unit) => unit.dead && !unit.detector).length;
    const parts = counts.map(({ category, units: those }) => ({
      label: `${layer}, ${category || "no category"}: ${many(those.length, "unit")}, ${many(new Set(those.map((unit) => unit.concept)).size, "concept")}`,
      count: those.length, class: `segment ${classes.get(category) ?? "k9"}`, choose: () => choose({ layer, category }),
    }));
    parts.push({ label: `${layer}: ${many(own.length - detectors.length - dead, "unit")} without a concept`, count: own.length - detectors.length - dead, class: "segment rest" });
    parts.push({ label: `${layer}: ${many(dead, "dead unit")}`, count: dead, class: "segment dead" });
    const unit = (width - left) / own.length;
    let from = left;
    const drawnParts = parts.filter((part) => part.count).map((part) => {
      const size = part.count * unit;
      const bar = drawn("g", { onclick: part.choose ?? (() => {}) },
        drawn("rect", { class: part.class, x: from + 0.75, y: place * row + 17, width: Math.max(size - 1.5, 0.5), height: 22, rx: Math.min(4, size / 2) }, drawn("title", null, part.label)),
        part.choose && size > 26 ? drawn("text", { class: "inside", x: from + size / 2, y: place * row + 33, "text-anchor": "middle" }, number(part.count)) : null);
      from += size;
      return bar;
    });
    const concepts = new Set(detectors.map((each) => each.concept)).size;
    return drawn("g", null,
      drawn("text", { x: left - 14, y: place * row + 33, "text-anchor": "end" }, layer.length > 22 ? `…${layer.slice(-21)}` : layer, drawn("title", null, layer)),
      drawn("text", { class: "faint tick", x: left + 1, y: place * row + 11 }, `${number(detectors.length)} of ${many(own.length, "unit")}, ${many(concepts, "concept")}`),
      ...drawnParts);
  });
  const said = layers.map((layer) => `${layer}: ${[...classes.keys()].map((category) => `${category} ${units.filter((unit) => unit.layer === layer && unit.detector && unit.category === category).length}`).join(", ")}`).join("; ");
  const chart = drawn("svg", { id: "category-chart", viewBox: `0 0 ${width} ${layers.length * row}`, role: "img", "aria-label": `Detectors by category. ${said}` }, hatch, ...lines);
  const legend = element("div", { class: "legend", role: "group", "aria-label": "Show one category" }, ...[...classes].map(([category, name]) => {
    const count = units.filter((unit) => unit.detector && unit.category === category).length;
    return element("button", { type: "button", onclick: () => choose({ category }) }, element("span", { class: `chip ${name}` }, `${category} ${number(count)}`));
  }));
  return section("categories", "Categories", "How many units of each layer detect a concept, by the concept's category. Grey units detect none; hatched ones are dead.",
    element("div", { class: "panel" }, chart, legend));
}

// The other way round: from the concepts to the units that detect them.
function conceptsSection(choose) {
  if (!data.tables.concepts) return null;
  const cells = { concept: (row) => element("button", { class: "link", type: "button", onclick: () => choose({ concept: row.concept }) }, row.concept) };
  return section("concepts", "Concepts and their units", "A concept leads to the units that detect it.", plainTable("concepts", data.tables.concepts, { cells }));
}

// The IoU on one scale for all units, with its error and what chance gives.
function meter(unit, most, kind) {
  const x = (value) => 2 + (Math.min(Math.max(value ?? 0, 0), most) / most) * 236;
  const [iou, error, chance] = [unit.iou, unit.iou_error, unit.iou_chance];
  const label = `IoU ${number(iou)}${error ? `, plus or minus ${number(error)}` : ""}${chance === null || chance === undefined ? "" : `, by chance ${number(chance)}`}`;
  return drawn("svg", { class: `meter ${kind}`, viewBox: "0 0 240 26", preserveAspectRatio: "none", role: "img", "aria-label": label },
    drawn("title", null, label),
    drawn("rect", { class: "track", x: 2, y: 7, width: 236, height: 12, rx: 4 }),
    drawn("rect", { class: "value", x: 2, y: 7, width: Math.max(x(iou) - 2, 0), height: 12, rx: 4 }),
    chance === null || chance === undefined ? null : drawn("line", { class: "chance", x1: x(chance), x2: x(chance), y1: 2, y2: 24 }),
    error ? drawn("path", { class: "error", d: `M${x(iou - error)} 13H${x(iou + error)}M${x(iou - error)} 9v8M${x(iou + error)} 9v8` }) : null);
}

function unitCard(unit, most, classes) {
  const kind = classes.get(unit.category) ?? "k9";
  const near = unit.concept && !unit.detector ? `nearest: ${unit.concept}` : null;
  const name = unit.dead ? "dead" : unit.detector ? unit.concept : near ?? "no concept";
  const more = [
    ["precision", share(unit.precision)], ["recall", share(unit.recall)], ["threshold", number(unit.threshold)],
    ["next", unit.runner_up ? `${unit.runner_up} (${share(unit.runner_up_iou)})` : "–"],
    ["best", (data.best?.[unit.layer]?.[unit.unit] ?? []).map(([concept, iou]) => `${concept} ${share(iou)}`).join(", ")],
    ["top rows", unit.top.map((row) => row.name ?? row.row).filter((each, at, all) => all.indexOf(each) === at).join(", ")],
  ].filter(([, value]) => value && value !== "–");
  return element("li", { class: `card ${unit.detector ? "" : "weak"}`, "data-unit": `${unit.layer}/${unit.unit}` },
    unit.picture ? pictureButton(unit.picture, `${unit.layer}, unit ${unit.unit}`) : null,
    element("div", { class: "body" },
      element("div", { class: "where" }, element("span", null, `${unit.layer} · unit ${unit.unit}`), unit.category ? element("span", { class: `chip ${kind}` }, unit.category) : null),
      element("h3", null, name),
      unit.iou === null || unit.iou === undefined ? null : meter(unit, most, kind),
      element("div", { class: "numbers" },
        element("span", null, "IoU ", element("b", null, share(unit.iou)), unit.iou_error ? ` ± ${share(unit.iou_error)}` : null),
        unit.iou_chance === null || unit.iou_chance === undefined ? null : element("span", null, `chance ${share(unit.iou_chance)}`),
        unit.runner_up ? element("span", null, `then ${unit.runner_up} ${share(unit.runner_up_iou)}`) : null),
      more.length ? element("details", null, element("summary", null, "More"), element("dl", null, ...more.flatMap(([label, value]) => [element("dt", null, label), element("dd", null, value)]))) : null));
}
