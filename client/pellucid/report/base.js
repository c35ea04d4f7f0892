// What all parts share: the data, elements, numbers, pages of a long list.

const data = JSON.parse(document.getElementById("data").textContent);
const main = document.getElementById("main");
const collator = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

// Texts are only ever written as text nodes and attributes, never as markup.
function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.flat().filter((each) => each !== null && each !== undefined && each !== false));
  return node;
}

function element(tag, attributes, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

function drawn(tag, attributes, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

// A number as people read it: whole ones with commas, others with so many significant digits.
function number(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  if (Number.isInteger(value) && Math.abs(value) < 1e15) return value.toLocaleString("en");
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-4) return value.toExponential(digits - 1);
  return size >= 1000 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(digits)));
}

// A share with three places, so that a column of them lines up.
function share(value) {
  return value === null || value === undefined ? "–" : value.toFixed(3);
}

function many(count, noun, plural = `${noun}s`) {
  return `${number(count)} ${count === 1 ? noun : plural}`;
}

function compare(one, other) {
  if (typeof one === "string" || typeof other === "string") return collator.compare(String(one), String(other));
  return Number(one) - Number(other);
}

// Sorted, equal ones in their order; what has no value comes last, whichever way round.
function sorted(items, value, descending) {
  const known = items.filter((each) => value(each) !== null && value(each) !== undefined);
  const unknown = items.filter((each) => value(each) === null || value(each) === undefined);
  known.sort((one, other) => (descending ? -1 : 1) * compare(value(one), value(other)));
  return [...known, ...unknown];
}

// The rows of a table as objects by column.
function rowsOf(table) {
  return Array.from({ length: table.rows }, (_, row) =>
    Object.fromEntries(table.columns.map((column) => [column.name, column.values[row]])));
}

// Shows a long list page by page: only what is seen is made.
function pages(size, show) {
  const said = element("span", { "aria-live": "polite" });
  const back = element("button", { class: "quiet", type: "button", onclick: () => turn(-1) }, "← Back");
  const on = element("button", { class: "quiet", type: "button", onclick: () => turn(1) }, "Next →");
  const bar = element("nav", { class: "pager", "aria-label": "Pages" }, back, said, on);
  let items = [];
  let page = 0;
  function draw() {
    const last = Math.max(0, Math.ceil(items.length / size) - 1);
    page = Math.min(page, last);
    show(items.slice(page * size, (page + 1) * size));
    bar.hidden = last === 0;
    back.disabled = page === 0;
    on.disabled = page === last;
    said.textContent = `Page ${number(page + 1)} of ${number(last + 1)}`;
  }
  function turn(by) {
    page += by;
    draw();
  }
  function set(given) {
    items = given;
    page = 0;
    draw();
  }
  return { bar, set };
}

function section(id, title, lead, ...children) {
  const heading = element("h2", { id }, title);
  return element("section", { "aria-labelledby": id }, heading, lead ? element("p", { class: "lead" }, lead) : null, ...children);
}

// A picture that can be enlarged; `hidden` for one whose type is not shown.
function pictureButton(picture, name) {
  if (!picture || !picture.address) return element("div", { class: "blank" }, picture ? "A picture that is not shown" : "No picture");
  const small = picture.width < 200 ? "small" : null;
  const image = () => element("img", {
    src: picture.address, alt: picture.text || name, width: picture.width, height: picture.height, loading: "lazy", decoding: "async", class: small,
  });
  const open = () => {
    const zoom = document.getElementById("zoom");
    zoom.querySelector("figure").replaceChildren(image(), element("figcaption", null, name, element("small", null, picture.text)));
    zoom.showModal();
  };
  return element("button", { class: "picture", type: "button", "aria-label": `Enlarge: ${picture.text || name}`, onclick: open }, image());
}
