"""The Helm chart's copies: Helm reads nothing outside of a chart."""

from scripts.chart_files import ROOT, leftovers, written


def test_the_charts_copies_are_up_to_date_and_python_scripts_chart_files_py_writes_them():
    stale = [str(path) for path, text in written().items() if (ROOT / path).read_text("utf-8") != text]

    assert stale == []
    assert leftovers() == []


def test_the_charts_schema_knows_every_setting_but_those_for_tests():
    from json import loads

    from pellucid_server.config import Config

    definitions = loads((ROOT / "deploy/helm/pellucid/values.schema.json").read_text("utf-8"))["$defs"]

    assert set(definitions["settings"]["properties"]) == set(Config.model_fields) - {"faults"}
    for name, section in Config.model_fields.items():
        if name not in ("faults", "classes"):
            known = definitions[f"settings.{section.annotation.__name__}"]
            assert set(known["properties"]) == set(section.annotation.model_fields)
            assert not known["additionalProperties"]
