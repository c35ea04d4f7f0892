// Puts the page together.

const dissected = Boolean(data.tables.dictionary);
const OWN = new Set(dissected ? ["dictionary", "categories", "top", "concepts"] : []);

function themeButton() {
  const button = document.getElementById("theme");
  const themes = ["auto", "light", "dark"];
  let place = 0;
  button.hidden = false;
  button.addEventListener("click", () => {
    place = (place + 1) % themes.length;
    button.querySelector("span").textContent = themes[place];
    if (place) document.documentElement.dataset.theme = themes[place];
    else delete document.documentElement.dataset.theme;
  });
}

function build() {
  const units = dissected ? new Set(rowsOf(data.tables.dictionary).map((row) => `${row.layer}/unit ${row.unit}`)) : new Set();
  const isPoints = ([, array]) => array.axes[0]?.name === "row" && array.axes[1]?.name === "component";
  const arrays = sorted(Object.entries(data.arrays), (each) => Number(isPoints(each)), true);
  const pictures = Object.entries(data.pictures).filter(([name]) => !units.has(name)).sort(([one], [other]) => collator.compare(one, other));
  const tables = Object.entries(data.tables).filter(([name, table]) => !OWN.has(name) && table.columns.length);
  if (dissected) main.append(...dictionarySections());
  const seen = pictures.length ? [section("pictures", "Pictures", null, ...gallery(pictures))] : [];
  const curved = arrays.length ? [section("arrays", "Curves and maps", null, ...arrays.map(([name, array]) => arrayPanel(name, array)))] : [];
  // What is to be looked at first: the points of a projection, the pictures of other methods.
  main.append(...(data.method === "projection" ? [...curved, ...seen] : [...seen, ...curved]));
  if (tables.length) main.append(section("tables", "Tables", null, ...tables.map(([name, table]) => plainTable(name, table, { open: !dissected }))));
  if (!dissected && !pictures.length && !arrays.length && !tables.length) main.append(element("p", { class: "none" }, "The answer has no tables, arrays or pictures."));
}

themeButton();
build();
document.documentElement.dataset.ready = "yes";
