from pathlib import Path

import pytest
from pellucid_server.config import Config, ConfigError, PoolConfig, load, worker_environment
from pydantic import ValidationError


@pytest.fixture
def file(tmp_path):
    def write(text):
        path = tmp_path / "settings.toml"
        path.write_text(text)
        return path

    return write


def test_without_file_or_variables_everything_has_its_default():
    config = load()

    assert (config.server.port, config.server.metrics_port, config.server.host) == (50051, 9464, "127.0.0.1")
    assert (config.pool.devices, config.pool.queue_limit) == (("cpu",), 64)
    assert (config.limits.predict_rows, config.limits.attribute_rows, config.limits.explanations) == (1024, 64, 8)


def test_a_file_is_read(file):
    config = load(file('[server]\nport = 1234\n[pool]\ndevices = ["cuda:0", "cuda:1"]\n[models]\nrepository = "/m"\n'))

    assert (config.server.port, config.pool.devices) == (1234, ("cuda:0", "cuda:1"))
    assert config.models.repository == Path("/m")


def test_variables_win_over_the_file_and_options_over_both(file, monkeypatch):
    path = file("[server]\nport = 1\nmetrics_port = 1\nhost = 'file'\n")
    monkeypatch.setenv("PELLUCID_SERVER__METRICS_PORT", "2")
    monkeypatch.setenv("PELLUCID_SERVER__HOST", "variable")

    config = load(path, {"server": {"host": "option"}})

    assert (config.server.port, config.server.metrics_port, config.server.host) == (1, 2, "option")


def test_a_variable_names_the_file(file, monkeypatch):
    monkeypatch.setenv("PELLUCID_CONFIG", str(file("[server]\nport = 77\n")))

    assert load().server.port == 77


def test_a_variable_separates_devices_by_commas(monkeypatch):
    monkeypatch.setenv("PELLUCID_POOL__DEVICES", "cuda:0, cpu")

    assert load().pool.devices == ("cuda:0", "cpu")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[server]\nprot = 1\n", "server.prot is 1: there is no such setting."),
        ("[sever]\nport = 1\n", "there is no such setting"),
        ("[server]\nport = 70000\n", "server.port is 70000: "),
        ("[server]\ngrace_seconds = nan\n", "server.grace_seconds is nan: "),
        ('[pool]\ndevices = ["gpu"]\n', "pool.devices.0 is 'gpu': "),
        ("[pool]\ndevices = []\n", "pool.devices is "),
        ("[server\n", "is not TOML"),
    ],
)
def test_a_wrong_setting_is_named_with_its_value(file, text, message):
    with pytest.raises(ConfigError) as caught:
        load(file(text))

    assert message in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.toml cannot be read: No such file"):
        load(tmp_path / "nowhere.toml")


def test_a_variable_of_no_section_is_refused(monkeypatch):
    monkeypatch.setenv("PELLUCID_POOOL__QUEUE_LIMIT", "3")

    with pytest.raises(ConfigError, match="PELLUCID_POOOL__QUEUE_LIMIT names no section"):
        load()


def test_a_variable_of_no_setting_is_refused(monkeypatch):
    monkeypatch.setenv("PELLUCID_POOL__QUEUE_LIMITS", "3")

    with pytest.raises(ConfigError, match=r"pool\.queue_limits is '3': there is no such setting"):
        load()


def test_nothing_can_be_changed_later():
    with pytest.raises(ValidationError):
        PoolConfig().queue_limit = 3


def test_every_setting_says_what_it_does():
    sections = [field.annotation for field in Config.model_fields.values()]
    undocumented = [
        f"{section.__name__}.{name}"
        for section in sections
        for name, field in section.model_fields.items()
        if not field.description
    ]
    assert undocumented == []


def test_each_device_has_its_worker_and_its_share_of_the_cores(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: range(16), raising=False)
    config = load(None, {"pool": {"devices": "cpu,cpu,cuda:0"}, "models": {"repository": "/m"}})

    settings = config.worker_settings()

    assert [(each.device, each.threads, each.model_repository) for each in settings] == [
        ("cpu", 7, "/m"),
        ("cpu", 7, "/m"),
        ("cuda:0", 7, "/m"),
    ]


@pytest.mark.parametrize("cores", [1, 2])
def test_few_cores_are_one_thread(monkeypatch, cores):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: range(cores), raising=False)

    assert load().worker_settings()[0].threads == 1


def test_a_number_of_threads_that_is_given_holds():
    assert load(None, {"worker": {"threads": 5}}).worker_settings()[0].threads == 5


def test_a_workers_environment_is_this_one_with_threads_that_sleep(monkeypatch):
    monkeypatch.setenv("SOMETHING", "else")

    environment = worker_environment(3)

    assert {name: environment[name] for name in ("SOMETHING", "OMP_NUM_THREADS", "OMP_WAIT_POLICY")} == {
        "SOMETHING": "else",
        "OMP_NUM_THREADS": "3",
        "OMP_WAIT_POLICY": "PASSIVE",
    }
