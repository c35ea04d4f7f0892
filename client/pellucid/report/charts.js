// Drawings in SVG: scales, curves, polar curves, points, bars; maps of numbers on a canvas.

// Round numbers that divide a range into some five steps.
function ticks(low, high, count = 5) {
  const span = high - low || Math.abs(high) || 1;
  const raw = span / count;
  const size = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((each) => each * size).find((each) => each >= raw);
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-6; value += step) found.push(Math.abs(value) < step * 1e-6 ? 0 : value);
  return found;
}

function range(values) {
  const known = values.filter((each) => each !== null && Number.isFinite(each));
  if (!known.length) return null;
  const low = known.reduce((one, other) => Math.min(one, other));
  const high = known.reduce((one, other) => Math.max(one, other));
  return low === high ? [low - (Math.abs(low) || 1) * 0.5, high + (Math.abs(high) || 1) * 0.5] : [low, high];
}

function scale([low, high], [from, to]) {
  return (value) => from + ((value - low) / (high - low)) * (to - from);
}

// Whether numbers grow by a factor rather than by a step, as frequencies often do.
function geometric(values) {
  if (values.length < 3 || values.some((each) => !(each > 0)) || Math.max(...values) < 6 * Math.min(...values)) return false;
  const factors = values.slice(1).map((each, at) => each / values[at]);
  return Math.min(...factors) > 1.05 && Math.max(...factors) < 1.3 * Math.min(...factors);
}

// Points joined by lines, with gaps where there is no value.
function path(points) {
  let up = true;
  return points.map(([x, y]) => {
    if (y === null || !Number.isFinite(y)) {
      up = true;
      return "";
    }
    const step = `${up ? "M" : "L"}${x.toFixed(1)} ${y.toFixed(1)}`;
    up = false;
    return step;
  }).join("");
}

// Curves over one axis of numbers; `series` have a label and values.
function lineChart(label, xs, series, { width = 320, height = 190, xLabel = "", yLabel = "", classes = ["k1"] } = {}) {
  const byFactor = geometric(xs);
  const place = byFactor ? Math.log2 : (value) => value;
  const yRange = range(series.flatMap((each) => each.values));
  const xRange = range(xs.map(place));
  if (!yRange || !xRange) return element("p", { class: "faint" }, "No values.");
  const [left, right, top, bottom] = [48, width - 10, 18, height - 34];
  const [across, y] = [scale(xRange, [left, right]), scale(yRange, [bottom, top])];
  const x = (value) => across(place(value));
  const xTicks = byFactor ? xs.filter((_, at) => at % Math.ceil(xs.length / 6) === 0) : ticks(...xRange, width > 500 ? 9 : 4);
  const marks = [
    ...ticks(...yRange, 4).map((value) => [
      drawn("line", { class: value === 0 ? "zero" : "axis", x1: left, x2: right, y1: y(value), y2: y(value) }),
      drawn("text", { class: "faint tick", x: left - 6, y: y(value) + 4, "text-anchor": "end" }, number(value)),
    ]),
    ...xTicks.map((value) =>
      drawn("text", { class: "faint tick", x: x(value), y: bottom + 16, "text-anchor": "middle" }, number(value))),
  ].flat();
  const curves = series.map((each, turn) =>
    drawn("g", { class: classes[turn % classes.length] },
      drawn("path", { class: "curve", d: path(xs.map((value, at) => [x(value), each.values[at] === null ? null : y(each.values[at])])) }),
      xs.length <= 30 ? xs.map((value, at) => (each.values[at] === null ? null
        : drawn("circle", { class: "dot", cx: x(value), cy: y(each.values[at]), r: 2.6 },
          drawn("title", null, `${each.label ? `${each.label}: ` : ""}${number(each.values[at], 4)} at ${number(value, 4)}`)))) : null));
  return drawn("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label },
    ...marks, ...curves,
    drawn("text", { class: "faint tick", x: right, y: height - 4, "text-anchor": "end" }, xLabel),
    drawn("text", { class: "faint tick", x: 4, y: 11 }, yLabel));
}

// A curve over angles in degrees. A curve over half a turn, as of orientations, is repeated in the other half.
function polarChart(label, angles, values) {
  const size = 230;
  const radius = 88;
  const most = Math.max(...values.map((each) => each ?? 0));
  if (!(most > 0)) return null;
  const around = Math.max(...angles) - Math.min(...angles) < 180 ? [0, 180] : [0];
  const points = around.flatMap((turn) => angles.map((angle, at) => {
    const [reach, turned] = [(Math.max(values[at] ?? 0, 0) / most) * radius, ((angle + turn) * Math.PI) / 180];
    return [reach * Math.cos(turned), -reach * Math.sin(turned)];
  }));
  const rings = [0.5, 1].map((share) => drawn("circle", { class: "axis", r: radius * share, fill: "none" }));
  const spokes = [0, 45, 90, 135, 180, 225, 270, 315].map((angle) => {
    const [across, down] = [Math.cos((angle * Math.PI) / 180), -Math.sin((angle * Math.PI) / 180)];
    return [
      drawn("line", { class: "axis", x2: across * radius, y2: down * radius }),
      drawn("text", { class: "faint tick", x: across * (radius + 14), y: down * (radius + 14) + 4, "text-anchor": "middle" }, `${angle}°`),
    ];
  });
  return drawn("svg", { viewBox: `${-size / 2} ${-size / 2} ${size} ${size}`, role: "img", "aria-label": label },
    ...rings, ...spokes.flat(),
    drawn("path", { class: "curve filled", d: `${path(points)}Z` }),
    ...points.map(([x, y]) => drawn("circle", { class: "dot", cx: x, cy: y, r: 2.4 })),
    drawn("text", { class: "faint tick", x: 3, y: -radius + 12 }, number(most)));
}

function scatterChart(label, xs, ys, points, names) {
  const [width, height] = [960, 560];
  const [xRange, yRange] = [range(xs), range(ys)];
  if (!xRange || !yRange) return element("p", { class: "faint" }, "No values.");
  const [x, y] = [scale(xRange, [50, width - 14]), scale(yRange, [height - 40, 14])];
  const marks = [
    ...ticks(...yRange).map((value) => [
      drawn("line", { class: "axis", x1: 50, x2: width - 14, y1: y(value), y2: y(value) }),
      drawn("text", { class: "faint tick", x: 44, y: y(value) + 4, "text-anchor": "end" }, number(value))]),
    ...ticks(...xRange, 9).map((value) => [
      drawn("line", { class: "axis", x1: x(value), x2: x(value), y1: 14, y2: height - 40 }),
      drawn("text", { class: "faint tick", x: x(value), y: height - 22, "text-anchor": "middle" }, number(value))]),
  ].flat();
  const dots = xs.map((value, at) => (value === null || ys[at] === null ? null
    : drawn("circle", { class: `point ${points[at].group}`, cx: x(value).toFixed(1), cy: y(ys[at]).toFixed(1), r: xs.length > 1500 ? 2.6 : 4.5 },
      drawn("title", null, points[at].title))));
  return drawn("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label }, ...marks, ...dots.filter(Boolean),
    drawn("text", { class: "faint", x: width - 14, y: height - 4, "text-anchor": "end" }, names[0]),
    drawn("text", { class: "faint", x: 4, y: 11 }, names[1]));
}

function barChart(label, names, values) {
  const [row, left, width] = [24, 210, 720];
  const most = Math.max(...values.map((each) => Math.abs(each ?? 0))) || 1;
  const negative = values.some((each) => each < 0);
  const zero = negative ? (left + width) / 2 : left;
  const reach = (negative ? (width - left) / 2 : width - left) - 70;
  const bars = names.map((name, at) => {
    const size = ((values[at] ?? 0) / most) * reach;
    const middle = at * row + row / 2;
    return drawn("g", null,
      drawn("text", { x: left - 10, y: middle + 4, "text-anchor": "end" }, name.length > 28 ? `${name.slice(0, 27)}…` : name, drawn("title", null, name)),
      drawn("rect", { class: "barfill", x: Math.min(zero, zero + size), y: middle - 8, width: Math.abs(size), height: 16, rx: 3 }),
      drawn("text", { class: "faint", x: zero + size + (size < 0 ? -6 : 6), y: middle + 4, "text-anchor": size < 0 ? "end" : "start" }, number(values[at])));
  });
  return drawn("svg", { viewBox: `0 0 ${width} ${names.length * row}`, role: "img", "aria-label": label }, ...bars);
}

// A few numbers as coloured squares with their names.
function gridChart(label, rowNames, columnNames, values, cell) {
  const [left, top, size] = [120, 26, Math.max(30, Math.min(90, 800 / columnNames.length))];
  const high = 24;
  const [low, most] = range(values) ?? [0, 1];
  const name = (said) => (said.length > 16 ? `${said.slice(0, 15)}…` : said);
  const squares = values.map((value, at) => {
    const [row, column] = [Math.floor(at / columnNames.length), at % columnNames.length];
    const square = drawn("rect", { class: "cell", x: left + column * size, y: top + row * high, width: size, height: high }, drawn("title", null, cell(row, column)));
    square.style.fill = value === null ? "transparent" : `color-mix(in oklab, var(--accent) ${(100 * (value - low)) / (most - low)}%, var(--sunken))`;
    return square;
  });
  return drawn("svg", { viewBox: `0 0 ${left + columnNames.length * size} ${top + rowNames.length * high}`, role: "img", "aria-label": label, width: left + columnNames.length * size },
    ...columnNames.map((said, at) => drawn("text", { class: "faint tick", x: left + (at + 0.5) * size, y: top - 8, "text-anchor": "middle" }, name(said), drawn("title", null, said))),
    ...rowNames.map((said, at) => drawn("text", { class: "faint tick", x: left - 8, y: top + at * high + 16, "text-anchor": "end" }, name(said), drawn("title", null, said))),
    ...squares);
}

// Numbers as colours: from the paper's colour, for the least, to the accent's, for the most; none is transparent.
function heatMap(label, rows, columns, values, cell) {
  const canvas = element("canvas", { width: columns, height: rows, role: "img", "aria-label": label });
  canvas.style.height = `${Math.min(Math.max(rows * 6, 60), 480)}px`;
  const brush = canvas.getContext("2d");
  const picture = brush.createImageData(columns, rows);
  const [low, high] = range(values) ?? [0, 1];
  values.forEach((value, at) => {
    if (value === null) return;
    const share = (value - low) / (high - low);
    picture.data.set([235 - share * 224, 232 - share * 122, 222 - share * 117, 255], at * 4);
  });
  brush.putImageData(picture, 0, 0);
  const said = element("p", { class: "faint" }, `From ${number(low)} to ${number(high)}.`);
  canvas.addEventListener("mousemove", (event) => {
    const box = canvas.getBoundingClientRect();
    const row = Math.min(rows - 1, Math.floor(((event.clientY - box.top) / box.height) * rows));
    const column = Math.min(columns - 1, Math.floor(((event.clientX - box.left) / box.width) * columns));
    if (row >= 0 && column >= 0) said.textContent = cell(row, column);
  });
  return [canvas, said];
}
