// What the page was asked to check: units that detect what is not allowed, and units that changed.

function listed(caption, columns, rows) {
  const table = sortableTable(caption, columns.map(([name, label, kind]) => ({
    name, label, kind, value: (row) => row[name], cell: name === "iou" ? (row) => share(row.iou) : undefined,
  })), { pageSize: 10 });
  table.set(rows);
  return element("div", { class: "panel" }, table.node);
}

function auditSection() {
  if (!data.audit) return null;
  const units = data.audit;
  const concepts = new Set(units.map((unit) => unit.concept)).size;
  const lead = units.length ? `${many(units.length, "unit")} detect${units.length === 1 ? "s" : ""} ${many(concepts, "concept")} that ${concepts === 1 ? "is" : "are"} not allowed.` : "No unit detects a concept that is not allowed.";
  const columns = [["layer", "Layer", "text"], ["unit", "Unit", "number"], ["concept", "Concept", "text"], ["category", "Category", "text"], ["iou", "IoU", "number"]];
  return section("audit", "Audit", lead, units.length ? listed("Units that detect what is not allowed", columns, units) : null);
}

function comparisonSection() {
  if (!data.comparison) return null;
  const { changed, same, appeared, vanished } = data.comparison;
  const lead = `Since the version before, ${many(changed.length, "unit")} changed what ${changed.length === 1 ? "it detects" : "they detect"}, and ${number(same)} did not.`;
  const names = (label, concepts) => (concepts.length ? element("p", null, element("b", null, `${label}: `), concepts.join(", ")) : null);
  const columns = [["layer", "Layer", "text"], ["unit", "Unit", "number"], ["before", "Before", "text"], ["after", "After", "text"]];
  return section("comparison", "Changes", lead, names("New concepts", appeared), names("Vanished concepts", vanished),
    changed.length ? listed("Units that changed", columns, changed) : null);
}
