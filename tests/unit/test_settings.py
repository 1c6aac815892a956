"""The settings file: every fault at once, no silent misspelling, no secret, and paths that mean what they say."""

from __future__ import annotations

from pathlib import Path

import pytest

from dicom_node.settings import SETTINGS_VARIABLE, Settings, SettingsError, read_settings

PACS = 'name = "pacs"\nkind = "pacs"\nhost = "10.0.0.1"\nport = 104\ncalled_ae = "PACS"\n'


def write(folder: Path, text: str, name: str = "radnode.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def faults(folder: Path, text: str) -> str:
    with pytest.raises(SettingsError) as caught:
        read_settings(write(folder, text))
    return str(caught.value)


def test_an_empty_file_gives_the_defaults_on_loopback(tmp_path: Path) -> None:
    settings = read_settings(write(tmp_path, ""))
    assert settings.receiver.host == settings.web.host == "127.0.0.1"
    assert settings.destination == () and settings.profiles_list() == ["default"]


def test_every_part_of_a_whole_file_arrives(tmp_path: Path) -> None:
    text = f"""
        accept_research = false
        [receiver]
        port = 0
        ae_titles = ["A", "B"]
        peers = [{{ ae_title = "CR1", addresses = ["10.0.0.7"] }}]
        [assembly]
        ct_quiet_s = 1.5
        archive_count = "pacs"
        [[profile]]
        name = "english"
        language = "en"
        [[destination]]
        {PACS}
        profile = "english"
    """
    settings = read_settings(write(tmp_path, text))
    assert settings.receiver.ae_titles == ("A", "B") and settings.receiver.peers[0].addresses == ("10.0.0.7",)
    assert settings.assembly.ct_quiet_s == 1.5 and not settings.accept_research
    assert settings.profile_of("pacs").language == "en"
    with pytest.raises(KeyError):
        settings.profile_of("absent")


def test_every_fault_is_told_at_once_with_its_place(tmp_path: Path) -> None:
    told = faults(
        tmp_path,
        """
        data = "x"
        [receiver]
        port = "many"
        [worker]
        count = -1
        device = "tpu"
        memory_limit_mib = 1
        [web]
        port = 70000
        [assembly]
        ct_quiet_s = -1
        [[destination]]
        name = "pacs"
        kind = "pacs"
        """,
    )
    places = ("data", "receiver.port", "worker.count", "worker.device", "worker.memory_limit_mib", "web.port")
    for place in (*places, "assembly.ct_quiet_s", "destination.0.pacs.host", "destination.0.pacs.called_ae"):
        assert f"  {place}: " in told
    assert "10 fault(s)" in told and "radnode.toml" in told


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("port = 104", "port"),
        ("[receiver]\nprot = 104", "receiver.prot"),
        ('[receiver]\npeers = [{ ae_title = "A", adresses = [] }]', "receiver.peers.0.adresses"),
        ("[storage]\nretention_day = 1", "storage.retention_day"),
        ("[assembly]\nquiet_s = 1", "assembly.quiet_s"),
        ('[[profile]]\nlang = "ru"', "profile.0.lang"),
        (f"[[destination]]\n{PACS}tls_cert = 1", "destination.0.pacs.tls_cert"),
    ],
)
def test_an_unknown_key_is_a_fault_wherever_it_stands(tmp_path: Path, text: str, place: str) -> None:
    assert f"  {place}: " in faults(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f'[[destination]]\n{PACS}profile = "gone"', "names profile 'gone', which is not set"),
        (f'[[destination]]\n{PACS}profile = "gone"', "which is not set; there are: default"),
        (
            f'[[profile]]\nname = "moscow"\n[[destination]]\n{PACS}',
            "names profile 'default', which is not set; there are: moscow. A settings file that names a profile must "
            "name `default`, too",
        ),
        (f"profile = []\n[[destination]]\n{PACS}", "which is not set; there are: none"),
        (f"[[destination]]\n{PACS}[[destination]]\n{PACS}", "two destinations are called 'pacs'"),
        ("[[profile]]\n[[profile]]\n", "two profiles are called 'default'"),
        ('[assembly]\narchive_count = "pacs"', "archive_count names 'pacs', which is no destination"),
        ("[storage]\nsoft_free_bytes = 1\nhard_free_bytes = 2", "soft_free_bytes must not be less"),
        ("[delivery]\nfirst_retry_s = 99\nlongest_retry_s = 9", "first_retry_s must not be more"),
        ('[receiver]\npeers = [{ ae_title = "" }]', "1 to 16 characters"),
        ("[[receiver", "not valid TOML"),
    ],
)
def test_what_contradicts_itself_is_refused(tmp_path: Path, text: str, told: str) -> None:
    assert told in faults(tmp_path, text)


def test_a_file_in_another_encoding_or_absent_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "old.toml").write_bytes("data_dir = 'данные'".encode("cp1251"))
    for name, told in (("old.toml", "not valid TOML"), ("absent.toml", "cannot be read"), (".", "cannot be read")):
        with pytest.raises(SettingsError, match=told):
            read_settings(tmp_path / name)


def test_relative_paths_are_meant_from_the_settings_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "etc"
    folder.mkdir()
    text = f"""
        data_dir = "../data"
        routes_file = "routes.toml"
        [models]
        folders = ["own", "/opt/models"]
        [[destination]]
        {PACS}
        tls = {{ ca_file = "ca.pem" }}
        [[record]]
        name = "ris"
        kind = "mllp"
        host = "127.0.0.1"
        port = 2575
        document = "forms/ris.toml"
        [outbox]
        context_file = "context.toml"
    """
    path = write(folder, text)
    monkeypatch.chdir(tmp_path)
    settings = read_settings(path.relative_to(tmp_path))
    assert settings.data_dir.resolve() == tmp_path / "data"
    assert settings.routes_file == folder / "routes.toml"
    assert settings.models.folders == (folder / "own", Path("/opt/models"))
    assert settings.model_folders[-1].parts[-2:] == ("models", "zoo")
    assert settings.destination[0].tls is not None and settings.destination[0].tls.ca_file == folder / "ca.pem"
    (ris,) = settings.record
    assert ris.kind == "mllp" and ris.document == str(folder / "forms" / "ris.toml")
    assert settings.outbox.context_file == folder / "context.toml"
    assert settings.ledger_url == f"sqlite:///{settings.data_dir}/ledger.sqlite3"


def test_without_a_file_the_variable_names_it_and_else_the_folder_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(SETTINGS_VARIABLE, raising=False)
    assert read_settings().data_dir == tmp_path / "var"
    monkeypatch.setenv(SETTINGS_VARIABLE, str(write(tmp_path, 'data_dir = "here"')))
    assert read_settings().data_dir == tmp_path / "here"
    other = write(tmp_path, 'data_dir = "there"', "other.toml")
    assert read_settings(other).data_dir == tmp_path / "there"


def test_secrets_have_no_place_in_the_file_and_are_never_repeated(tmp_path: Path) -> None:
    web = '[[destination]]\nname = "web"\nkind = "dicomweb"\nurl = "https://archive/dicom-web"\n'
    for line in ('password = "geheim"', 'token = "geheim"', 'url = "https://me:geheim@archive/"', 'port = "geheim"'):
        text = web.replace('url = "https://archive/dicom-web"\n', "") + line if line.startswith("url") else web + line
        assert "geheim" not in faults(tmp_path, text)
    described = str(Settings.model_json_schema()).lower()
    assert "'password'" not in described and "'token'" not in described


def test_the_zoo_can_be_left_out(tmp_path: Path) -> None:
    settings = read_settings(write(tmp_path, '[models]\nfolders = ["own"]\ninclude_zoo = false'))
    assert settings.model_folders == (tmp_path / "own",)
