// Drawings of arrays by their axes, and galleries of pictures.

const MOST_SERIES = 10;
const MOST_BARS = 40;
const PER_PAGE = 24;
const CURVES_PER_PAGE = 8;
const SUMMED = ["mean", "sparseness", "selectivity", "class", "activation", "percentile", "dead"];
const MOST_NAMED = 24;

const classOf = (place) => `k${place % 10}`;

function axisNames(axis) {
  if (axis.labels.length) return axis.labels;
  if (axis.coordinates) return axis.coordinates.map((each) => number(each, 4));
  return Array.from({ length: axis.length }, (_, place) => String(place));
}

function arrayPanel(name, array) {
  const head = [element("h3", null, name), array.text ? element("p", { class: "lead" }, array.text) : null];
  const shape = array.axes.map((axis) => `${axis.name} ${number(axis.length)}`).join(" × ");
  const body = array.values === null ? [element("p", { class: "faint" }, `${shape}: too large for this page.`)] : drawnArray(name, array);
  return element("div", { class: "panel", "data-array": name }, ...head, ...(body ?? [element("p", { class: "faint" }, `${shape}.`)]));
}

// Steps are counted, whether or not they have numbers.
function counted(array) {
  const axes = array.axes.map((axis) => (axis.name !== "step" || axis.coordinates || axis.labels.length ? axis
    : { ...axis, coordinates: Array.from({ length: axis.length }, (_, place) => place) }));
  return { ...array, axes };
}

function drawnArray(name, given) {
  const array = counted(given);
  const [first, last] = [array.axes[0], array.axes.at(-1)];
  if (array.axes.length === 0) return [element("p", null, `${number(array.values[0], 6)} ${array.unit}`)];
  if (array.axes.length === 1) return last.coordinates ? [curves(name, array, [""])] : bars(name, array);
  if (array.axes.length !== 2) return null;
  if (first.name === "row" && last.name === "component" && last.length > 1) return points(name, array);
  if (last.coordinates && first.name !== "unit" && first.length <= MOST_SERIES) return [curves(name, array, axisNames(first)), key(axisNames(first))];
  if (last.coordinates && last.length > 1) return smallCurves(name, array);
  return map(name, array);
}

function curves(name, array, labels) {
  const axis = array.axes.at(-1);
  const series = labels.map((label, place) => ({ label, values: array.values.slice(place * axis.length, (place + 1) * axis.length) }));
  return lineChart(name, axis.coordinates, series, {
    width: 960, height: 320, xLabel: withUnit(axis.name, axis.unit), yLabel: array.unit, classes: series.map((_, place) => classOf(place + 1)),
  });
}

function key(labels) {
  return element("div", { class: "legend" }, ...labels.map((label, place) => element("span", { class: `chip ${classOf(place + 1)}` }, label)));
}

function withUnit(name, unit) {
  return unit ? `${name} (${unit})` : name;
}

function bars(name, array) {
  const names = axisNames(array.axes[0]);
  if (names.length > MOST_BARS) return [element("p", { class: "faint" }, `${number(names.length)} values.`), ...map(name, { ...array, axes: [{ ...array.axes[0], name: "", labels: [""], length: 1 }, array.axes[0]] })];
  return [barChart(name, names, array.values)];
}

// A curve for each unit, page by page; over angles, around a circle.
function smallCurves(name, array) {
  const [units, axis] = array.axes;
  const names = axisNames(units);
  const angles = /^deg/.test(axis.unit) || axis.unit === "°";
  const grid = element("div", { class: "plots" });
  const paged = pages(CURVES_PER_PAGE, (places) => grid.replaceChildren(...places.map((place) => {
    const values = array.values.slice(place * axis.length, (place + 1) * axis.length);
    const label = `${name}, ${units.name} ${names[place]}`;
    const options = { xLabel: withUnit(axis.name, axis.unit), yLabel: array.unit, classes: ["k1"] };
    const chart = (angles && polarChart(label, axis.coordinates, values)) || lineChart(label, axis.coordinates, [{ label: "", values }], options);
    return element("figure", null, chart, element("figcaption", null, `${units.name} ${names[place]}`));
  })));
  paged.set(names.map((_, place) => place));
  return [grid, paged.bar];
}

function map(name, array) {
  const [rows, columns] = array.axes;
  const [rowNames, columnNames] = [axisNames(rows), axisNames(columns)];
  const cell = (row, column) =>
    `${rows.name} ${rowNames[row]}, ${columns.name} ${columnNames[column]}: ${number(array.values[row * columns.length + column], 4)} ${array.unit}`;
  const label = `${name}: ${rows.name} downwards, ${columns.name} to the right`;
  if (rows.length <= MOST_NAMED && columns.length <= MOST_NAMED) return [gridChart(label, rowNames, columnNames, array.values, cell)];
  return heatMap(label, rows.length, columns.length, array.values, cell);
}

// The rows of a projection as points, coloured by their labels.
function points(name, array) {
  const size = array.axes[1].length;
  const rows = data.tables.rows ? rowsOf(data.tables.rows) : [];
  const labels = Array.from({ length: array.axes[0].length }, (_, row) => rows[row]?.label ?? "");
  const counts = new Map();
  labels.forEach((label) => counts.set(label, (counts.get(label) ?? 0) + 1));
  const common = [...counts.keys()].filter(Boolean).sort((one, other) => counts.get(other) - counts.get(one)).slice(0, 9);
  const group = (label) => (common.includes(label) ? classOf(common.indexOf(label)) : "k9");
  const coordinate = (component) => Array.from(labels, (_, row) => array.values[row * size + component]);
  const said = labels.map((label, row) => ({ group: group(label), title: [rows[row]?.name ?? `row ${row}`, label].filter(Boolean).join(": ") }));
  const names = axisNames(array.axes[1]).map((each) => (/^\d+$/.test(each) ? `component ${each}` : each));
  const chips = common.map((label) => element("span", { class: `chip ${group(label)}` }, `${label} (${number(counts.get(label))})`));
  if (common.length < [...counts.keys()].filter(Boolean).length) chips.push(element("span", { class: "chip k9" }, "others"));
  const chart = scatterChart(`${name}: ${many(labels.length, "row")}`, coordinate(0), coordinate(1), said, names);
  return [chart, chips.length ? element("div", { class: "legend" }, ...chips) : null];
}

// What tables of units say of the unit of a picture, which is named "LAYER/unit 3" or "LAYER[3]/0".
function unitFacts(known, name) {
  const row = known.get(name);
  const said = row ? SUMMED.filter((column) => row[column] !== null && row[column] !== undefined && row[column] !== false && row[column] !== "") : [];
  return said.length ? element("dl", { class: "facts" }, ...said.map((column) => element("div", null,
    element("dt", null, column), element("dd", null, typeof row[column] === "boolean" ? "yes" : text(row[column]))))) : null;
}

function knownUnits() {
  const found = new Map();
  for (const [name, table] of Object.entries(data.tables)) {
    if (!name.endsWith("/units") && name !== "objectives") continue;
    for (const row of rowsOf(table)) {
      const layer = row.layer ?? name.replace(/\/units$/, "");
      found.set(name === "objectives" ? `${row.objective ?? `${layer}[${row.unit}]`}/${row.picture ?? 0}` : `${layer}/unit ${row.unit}`, row);
    }
  }
  return found;
}

function gallery(pictures) {
  const known = knownUnits();
  const grid = element("div", { class: "gallery" });
  const paged = pages(PER_PAGE, (shown) => grid.replaceChildren(...(shown.length ? shown.map(([name, picture]) =>
    element("figure", { class: picture.width > 500 ? "wide" : null }, pictureButton(picture, name),
      element("figcaption", null, name, unitFacts(known, name), element("small", null, picture.text)))) : [element("p", { class: "none" }, "Nothing matches.")])));
  const count = element("span", { class: "count", role: "status" });
  const filter = element("input", { type: "search", placeholder: "Filter by name…", "aria-label": "Filter the pictures", oninput: draw });
  function draw() {
    const wanted = filter.value.trim().toLowerCase();
    const left = pictures.filter(([name, picture]) => `${name} ${picture.text}`.toLowerCase().includes(wanted));
    paged.set(left);
    count.textContent = left.length === pictures.length ? many(left.length, "picture") : `${number(left.length)} of ${many(pictures.length, "picture")}`;
  }
  draw();
  return [element("div", { class: "bar sticky" }, filter, count), grid, paged.bar];
}
