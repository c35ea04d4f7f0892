from pathlib import Path

import pytest
from pellucid_server import config as settings_module
from pellucid_server.config import Config, ConfigError, load, worker_environment
from pellucid_server.settings.sections import DEFAULT_CLASSES, ClassConfig, PoolConfig
from pydantic import ValidationError

SECTIONS = sorted(set(Config.model_fields) - {"classes"})


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
    assert (config.pool.devices, config.pool.hang_seconds) == (("cpu",), 30)
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
        ('[pool]\ndevices = ["gpu"]\n', 'pool.devices.0 is \'gpu\': a device is "cpu", or "cuda:" and its number'),
        ("[server]\ncaller_key = 'X-Caller'\n", "server.caller_key is 'X-Caller': a metadata key is 1 to 64 of a-z"),
        ("[server]\ncaller_key = 'caller-bin'\n", 'and does not end in "-bin".'),
        ("[server]\npriority_key = 'grpc-timeout'\n", "server.priority_key is 'grpc-timeout': "),
        ("[classes.bulk]\nwieght = 3\n", "classes.bulk.wieght is 3: there is no such setting."),
        ("[classes.bulk]\nweight = 0\n", "classes.bulk.weight is 0: Input should be greater than 0."),
        ("[classes.bulk]\nqueue_rows = -1\n", "classes.bulk.queue_rows is -1: "),
        ("[classes]\nbulk = 3\n", "classes.bulk is 3: "),
        ("[classes.Night]\nweight = 3\n", "classes has 'Night': a class's name is 1 to 32 of a-z, 0-9 and -"),
        ("[classes.interactive]\nexplanations = false\n", "explanations that name no class are interactive"),
        ("[pool]\ndevices = []\n", "pool.devices is []: there must be one device at least."),
        ("[server\n", "is not TOML"),
        ("[server]\nport = " + "1" * 5000, "has a number of too many digits, or is nested too deep."),
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
    monkeypatch.setenv("PELLUCID_POOOL__HANG_SECONDS", "3")

    with pytest.raises(ConfigError, match="PELLUCID_POOOL__HANG_SECONDS names no section"):
        load()


def test_a_variable_of_no_setting_is_refused(monkeypatch):
    monkeypatch.setenv("PELLUCID_POOL__HANG_SECOND", "3")

    with pytest.raises(ConfigError, match=r"pool\.hang_second is '3': there is no such setting"):
        load()


def test_nothing_can_be_changed_later():
    with pytest.raises(ValidationError):
        PoolConfig().hang_seconds = 3


@pytest.mark.parametrize("section", [*(Config.model_fields[name].annotation for name in SECTIONS), ClassConfig])
def test_every_setting_says_what_it_does(section):
    assert [name for name, field in section.model_fields.items() if not field.description] == []


def test_a_class_that_is_given_in_part_keeps_its_other_defaults(file):
    classes = load(file("[classes.predictions]\nweight = 7\n")).classes

    assert classes["predictions"] == ClassConfig(weight=7, queue_rows=1 << 13, queue_seconds=10, explanations=False)
    assert classes["interactive"] == DEFAULT_CLASSES["interactive"]


def test_a_class_of_ones_own_stands_beside_the_default_ones(file):
    classes = load(file("[classes.night-shift]\nqueue_seconds = 3600\n")).classes

    assert set(classes) == {"predictions", "interactive", "bulk", "night-shift"}
    assert classes["night-shift"] == ClassConfig(queue_seconds=3600)


def test_a_variable_changes_one_setting_of_a_class_and_the_file_others(file, monkeypatch):
    monkeypatch.setenv("PELLUCID_CLASSES__BULK__QUEUE_ROWS", "5")
    monkeypatch.setenv("PELLUCID_CLASSES__PREDICTIONS__EXPLANATIONS", "true")

    classes = load(file("[classes.bulk]\nqueue_rows = 1\nqueue_bytes = 2\n")).classes

    assert (classes["bulk"].queue_rows, classes["bulk"].queue_bytes, classes["bulk"].queue_seconds) == (5, 2, 600)
    assert classes["predictions"].explanations


def test_workers_are_told_the_weights(file):
    (settings,) = load(file("[classes.night]\nweight = 0.5\n")).worker_settings()

    assert settings.class_weights == {"predictions": 100, "interactive": 10, "bulk": 1, "night": 0.5}


@pytest.mark.parametrize(("hang_seconds", "heartbeat_seconds"), [(30.0, 1.0), (2.0, 0.5)])
def test_several_heartbeats_are_missed_before_a_worker_counts_as_hung(hang_seconds, heartbeat_seconds):
    (settings,) = load(None, {"pool": {"hang_seconds": hang_seconds}}).worker_settings()

    assert settings.heartbeat_seconds == heartbeat_seconds


@pytest.mark.parametrize("key", ["x-tenant", "caller_id", "a", "x-bin-n", "robin"])
def test_a_metadata_key_may_be_any_that_carries_text(key):
    assert load(None, {"server": {"caller_key": key}}).server.caller_key == key


def test_each_device_has_its_worker_and_its_share_of_the_cores(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: range(16), raising=False)
    config = load(None, {"pool": {"devices": "cpu,cpu,cuda:0"}, "models": {"repository": "/m"}})

    settings = config.worker_settings()

    assert [(each.device, each.threads, each.model_repository) for each in settings] == [
        ("cpu", 8, "/m"),
        ("cpu", 8, "/m"),
        ("cuda:0", 8, "/m"),
    ]


@pytest.mark.parametrize(("cores", "workers", "threads"), [(1, 1, 1), (2, 1, 2), (2, 3, 1), (7, 2, 3)])
def test_a_worker_has_its_share_of_the_cores_and_one_thread_at_least(monkeypatch, cores, workers, threads):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: range(cores), raising=False)

    settings = load(None, {"pool": {"devices": ",".join(["cpu"] * workers)}}).worker_settings()

    assert [each.threads for each in settings] == [threads] * workers


@pytest.mark.parametrize(
    ("written", "threads"),
    [
        ("400000 100000", 4),
        ("250000 100000", 2),
        ("50000 100000", 1),
        ("max 100000", 16),
        ("", 16),
        ("1 0", 16),
        (None, 16),
    ],
)
def test_a_containers_limit_of_processor_time_bounds_the_threads(monkeypatch, tmp_path, written, threads):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: range(16), raising=False)
    monkeypatch.setattr(settings_module, "_CPU_QUOTA", tmp_path / "cpu.max")
    if written is not None:
        (tmp_path / "cpu.max").write_text(written)

    assert load().worker_settings()[0].threads == threads


@pytest.mark.parametrize("wanted", [True, False])
def test_a_second_graph_for_speed_can_be_turned_off(wanted):
    assert load(None, {"worker": {"fast_graph": wanted}}).worker_settings()[0].fast_graph is wanted


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


def test_without_settings_there_is_neither_tls_nor_access_control():
    config = load()

    assert (config.tls.paths, config.access.file, config.server.health_port) == ((), None, 50052)


def test_tls_and_access_are_set_by_variables_too(monkeypatch):
    for name, value in {"CERTIFICATE": "/tls/tls.crt", "KEY": "/tls/tls.key", "CLIENT_CA": "/tls/ca.crt"}.items():
        monkeypatch.setenv(f"PELLUCID_TLS__{name}", value)
    monkeypatch.setenv("PELLUCID_ACCESS__FILE", "/access/access.toml")

    config = load()

    assert config.tls.paths == (Path("/tls/tls.crt"), Path("/tls/tls.key"), Path("/tls/ca.crt"))
    assert config.access.file == Path("/access/access.toml")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"certificate": "c"}, "certificate and key go together"),
        ({"key": "k"}, "certificate and key go together"),
        ({"client_ca": "ca"}, "client_ca needs certificate and key"),
    ],
)
def test_half_of_tls_is_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        load(None, {"tls": given})


def test_variables_of_the_command_do_not_disturb_the_server(monkeypatch):
    for name in ("USE_TLS", "TOKEN", "TOKEN_FILE", "ROOT_CERTIFICATES", "CLIENT_CERTIFICATE", "CLIENT_KEY"):
        monkeypatch.setenv(f"PELLUCID_{name}", "1")

    assert load().tls.paths == ()
