"""The page of all settings is what the code says."""

from pellucid_server.config import Config

from scripts.settings_page import PAGE, page


def test_the_page_of_settings_is_up_to_date_and_python_scripts_settings_page_py_writes_it():
    assert PAGE.read_text("utf-8") == page()


def test_the_page_has_every_setting_of_every_section_but_those_for_tests():
    sections = Config().model_dump(exclude={"faults", "classes"})

    for section, settings in sections.items():
        part = page().split(f"## [{section}]\n", 1)[1].split("\n## ", 1)[0]
        for name in settings:
            assert f"| `{name}` |" in part
    assert "faults" not in page()
