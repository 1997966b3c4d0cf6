"""Downloading: what is shown, what is run, what stands in the way; checksums. No network, tools are stand-ins."""

import hashlib
import json
import logging
import os
import shutil
import stat

import pytest

from longview import InputError, cli
from longview.downloading import checksums
from longview.downloading import download as download_module
from longview.downloading.archives import ARCHIVES
from longview.downloading.download import download, shown, words

TOOLS = ("wget", "gsutil", "kaggle", "azcopy", "git", "unzip", "tar")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home without any account, and a PATH without any tool."""
    place = tmp_path / "home"
    place.mkdir()
    monkeypatch.setenv("HOME", str(place))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in [name for name in os.environ if name.startswith(("KAGGLE", "CLOUDSDK", "AIMI"))]:
        monkeypatch.delenv(name)
    return place


@pytest.fixture
def calls(tmp_path, home):
    """Stand-ins for all tools, which note how they were called; gives what they noted."""
    folder = tmp_path / "bin"
    folder.mkdir()
    log = tmp_path / "calls.txt"
    for name in TOOLS:
        file = folder / name
        file.write_text(f'#!/bin/sh\nprintf "%s" {name} >> {log}\nprintf " %s" "$@" >> {log}\necho >> {log}\n')
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return lambda: log.read_text().splitlines() if log.is_file() else []


def account(home, kind):
    if kind == "physionet":
        (home / ".netrc").write_text("machine physionet.org login ann password s3cret-word\n")
    elif kind == "kaggle":
        (home / ".kaggle").mkdir()
        (home / ".kaggle" / "kaggle.json").write_text('{"username": "ann", "key": "s3cret-word"}')
    elif kind == "google":
        (home / ".config" / "gcloud").mkdir(parents=True)
        (home / ".config" / "gcloud" / "application_default_credentials.json").write_text("{}")


def test_every_set_is_complete_and_every_source_of_the_internet_has_one():
    wanted = {"mimic", "cxr-lt-2023", "cxr-lt-2024", "cxr-lt-2026", "chexpert", "nih", "vinbig", "vindr", "padchest",
              "rsna", "openi", "nih-google", "covid-chestxray"}  # fmt: skip
    assert set(ARCHIVES) == wanted
    for name, archive in ARCHIVES.items():
        assert all((archive.title, archive.size, archive.licence, archive.access, archive.ways)), name
        assert archive.page.startswith("https://")
        for steps in archive.ways.values():
            assert steps
            for step in steps:
                assert not step.command or step.command[0] in {*TOOLS, "python"}
                assert "http://" not in " ".join(step.command)


def test_all_sets_are_listed_and_a_set_shows_commands_that_can_be_copied(home, capsys):
    download()
    out = capsys.readouterr().out
    assert all(name in out for name in ARCHIVES)
    download("mimic", home / "a b")
    out = capsys.readouterr().out
    lines = [line for line in out.splitlines() if line.startswith("wget")]
    assert len(lines) == 2
    assert f"-P '{home}/a b'" in lines[0] and "--user YOUR_NAME --ask-password" in lines[0]
    assert lines[1].endswith(f"-i '{home}/a b/IMAGE_FILENAMES' --base=https://physionet.org/files/mimic-cxr-jpg/2.1.0/")
    assert "signed" in out and f"--check '{home}/a b'" in out
    download("mimic", way="gsutil")
    assert "gsutil -u YOUR_PROJECT -m rsync -r gs://mimic-cxr-jpg-2.1.0.physionet.org DIR" in capsys.readouterr().out
    assert not list(home.iterdir())


@pytest.mark.parametrize("name", sorted(ARCHIVES))
def test_without_run_nothing_is_run_and_the_command_line_ends_well(name, calls, tmp_path, capsys):
    cli.main(["download", "--dataset", name, "--output", str(tmp_path / "raw")])
    out = capsys.readouterr().out
    assert ARCHIVES[name].title in out and "# 1." in out
    assert calls() == []
    assert not (tmp_path / "raw").exists()


def test_the_folder_is_made_before_the_first_command_that_writes_to_it(home, capsys):
    target = home / "a b"
    for name, archive in ARCHIVES.items():
        for way, steps in archive.ways.items():
            download(name, target, way=way)
            lines = [line for line in capsys.readouterr().out.splitlines() if f"'{target}" in line and line[0] != "#"]
            by_hand = not any(step.command for step in steps)
            assert by_hand or lines[0] == f"mkdir -p '{target}'", (name, way)
            assert not by_hand or not any(line.startswith("mkdir") for line in lines), (name, way)
    with pytest.raises(InputError, match=rf"The commands:\nmkdir -p '{target}'\nkaggle "):
        download("vinbig", target, run=True)


def test_with_run_the_tool_is_called_and_the_password_stays_where_it_is(calls, home, tmp_path, capsys, caplog):
    account(home, "physionet")
    caplog.set_level(logging.INFO)
    download("vindr", tmp_path / "raw", run=True)
    assert calls() == [
        f"wget -r -N -c -np -nH --cut-dirs=3 --reject index.html* -P {tmp_path}/raw "
        "https://physionet.org/files/vindr-cxr/1.0.0/"
    ]
    assert "--check" in caplog.text
    assert "s3cret" not in caplog.text + capsys.readouterr().out


def test_kaggle_downloads_then_unpacks(calls, home, tmp_path):
    account(home, "kaggle")
    download("rsna", tmp_path / "raw", run=True)
    name = "rsna-pneumonia-detection-challenge"
    assert calls() == [
        f"kaggle competitions download -c {name} -p {tmp_path}/raw",
        f"unzip -n -q {tmp_path}/raw/{name}.zip -d {tmp_path}/raw",
    ]


def test_a_personal_link_is_handed_to_the_tool_and_never_shown(calls, home, tmp_path, capsys, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("AIMI_URL", "https://host/chexpert?sig=s3cret")
    download("chexpert", tmp_path / "raw")
    download("chexpert", tmp_path / "raw", run=True)
    assert calls()[0].startswith(f"azcopy copy https://host/chexpert?sig=s3cret {tmp_path}/raw --recursive=true")
    shown_text = capsys.readouterr().out
    assert '"$AIMI_URL"' in shown_text
    assert "s3cret" not in caplog.text + shown_text


def test_what_is_missing_is_said_with_the_commands_and_nothing_is_run(calls, home, tmp_path, monkeypatch):
    for name, options, text in (
        ("vindr", {}, r"no account in ~/\.netrc.*wget --user YOUR_NAME --ask-password -r"),
        ("vinbig", {}, r"no account .*kaggle\.json.*kaggle competitions download"),
        ("mimic", {"way": "gsutil"}, r"gcloud auth login.*--project NAME.*gsutil -u YOUR_PROJECT"),
        ("chexpert", {}, r"AIMI_URL does not hold.*azcopy copy \"\$AIMI_URL\""),
        ("padchest", {}, r"not to be had by a command.*bimcv"),
        ("nih", {"way": "ftp"}, "--way ftp: nih comes by wget, kaggle, kagglehub"),
        ("imagenet", {}, "no data set 'imagenet'; there are mimic"),
    ):
        with pytest.raises(InputError, match=f"(?s){text}"):
            download(name, tmp_path / "raw", run=True, **options)
    with pytest.raises(InputError, match="--output DIR"):
        download("nih", run=True)
    account(home, "physionet")
    (tmp_path / "bin" / "wget").unlink()
    with pytest.raises(InputError, match="wget is not installed"):
        download("vindr", tmp_path / "raw", run=True)
    monkeypatch.setattr(download_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="kagglehub is not installed"):
        download("rsna", tmp_path / "raw", way="kagglehub", run=True)
    assert calls() == []
    assert not (tmp_path / "raw").exists()


def test_the_command_line_ends_with_2_where_something_is_missing(calls, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["download", "--dataset", "vindr", "--output", str(tmp_path / "raw"), "--run"])
    assert stop.value.code == 2
    assert ".netrc" in capsys.readouterr().err


def test_a_broken_netrc_is_an_error_that_does_not_quote_it(calls, home, tmp_path):
    (home / ".netrc").write_text("machine physionet.org login ann password pass word-s3cret\n")
    with pytest.raises(InputError, match=r"\.netrc cannot be read \(line \d\)") as caught:
        download("vindr", tmp_path / "raw", run=True)
    assert "s3cret" not in str(caught.value)


def test_a_tool_that_fails_is_an_error_that_says_so_and_what_is_done_is_not_done_again(calls, home, tmp_path, caplog):
    (tmp_path / "bin" / "git").write_text("#!/bin/sh\nexit 3\n")
    with pytest.raises(InputError, match=r"git ended with code 3.*goes on"):
        download("covid-chestxray", tmp_path / "raw", run=True)
    (tmp_path / "raw" / ".git").mkdir()
    download("covid-chestxray", tmp_path / "raw", run=True)


def test_steps_by_hand_are_named_at_the_end(calls, tmp_path, caplog):
    download("nih", tmp_path / "raw", run=True)
    assert len(calls()) == 24
    assert calls()[1] == f"tar -xzf {tmp_path}/raw/images_001.tar.gz -C {tmp_path}/raw"
    assert "left to do by hand" in caplog.text and "Data_Entry_2017_v2020.csv" in caplog.text


def test_kagglehub_gets_the_folder_by_its_variable():
    (step,) = ARCHIVES["rsna"].ways["kagglehub"]
    line = shown(step, {"output": "/data/r s", "project": ""})
    assert line.startswith("KAGGLEHUB_CACHE='/data/r s' python -c ")
    assert "competition_download" in words(step, {})[2]


@pytest.fixture
def sums(tmp_path, home):
    """A folder of 12 files with their sums; two are listed that are not there."""
    folder = tmp_path / "raw"
    (folder / "files").mkdir(parents=True)
    lines = []
    for number in range(12):
        content = f"film {number}".encode() * 1000
        (folder / "files" / f"{number:02d} a.jpg").write_bytes(content)
        lines.append(f"{hashlib.sha256(content).hexdigest()}  files/{number:02d} a.jpg")
    lines += [f"{'0' * 64}  files/gone_{number}.jpg" for number in range(2)]
    (folder / "SHA256SUMS.txt").write_text("\n".join(lines) + "\n")
    return folder


def test_a_check_counts_missing_files_and_fails_on_differing_ones(sums, caplog):
    caplog.set_level(logging.INFO)
    download(check=sums)
    assert "2 listed files are not there, first files/gone_0.jpg, files/gone_1.jpg" in caplog.text
    assert "12 files are as published" in caplog.text
    for number in (3, 7):
        (sums / "files" / f"{number:02d} a.jpg").write_bytes(b"cut")
    with pytest.raises(InputError, match=r"2 of 12 files .* differ.*files/03 a\.jpg, files/07 a\.jpg"):
        download("mimic", check=sums)


def test_a_second_check_reads_only_what_changed_and_a_stopped_one_goes_on(sums, monkeypatch):
    read = []
    real = checksums.sha256
    monkeypatch.setattr(checksums, "sha256", lambda file: read.append(file.name) or real(file))
    monkeypatch.setattr(checksums, "_AT_ONCE", 4)
    before = sorted(sums.rglob("*"))

    def stops(file):
        if file.name.startswith("05"):
            raise KeyboardInterrupt
        return real(file)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checksums, "sha256", stops)
        download(check=sums)
    download(check=sums)
    assert sorted(read) == [f"{number:02d} a.jpg" for number in range(5, 12)]
    read.clear()
    (sums / "files" / "01 a.jpg").write_bytes(b"film 1" * 1000)
    download(check=sums)
    assert read == ["01 a.jpg"]
    assert sorted(sums.rglob("*")) == before  # nothing is written among the data


def test_notes_cut_by_a_kill_are_left_out(sums):
    download(check=sums)
    state = checksums.state_file(sums)
    notes = state.read_text()
    state.write_text(notes[:-10])
    download(check=sums)
    assert len([line for line in state.read_text().splitlines() if is_json(line)]) >= 11


def is_json(line):
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def test_no_sums_or_a_damaged_file_of_them_is_an_error(sums):
    with pytest.raises(InputError, match="publishes no sums"):
        download("nih", check=sums)
    (sums / "SHA256SUMS.txt").write_text("no sum\n")
    with pytest.raises(InputError, match="line 1 is not"):
        download(check=sums)
    (sums / "SHA256SUMS.txt").write_text(f"{'0' * 64}  ../../etc/passwd\n")
    with pytest.raises(InputError, match="line 1 is not"):
        download(check=sums)
    (sums / "SHA256SUMS.txt").unlink()
    with pytest.raises(InputError, match=r"SHA256SUMS\.txt is not there"):
        download(check=sums)


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="compares with coreutils' sha256sum")
def test_sums_are_those_of_sha256sum(tmp_path):
    file = tmp_path / "a"
    file.write_bytes(bytes(range(256)) * 5000)
    assert checksums.sha256(file) == os.popen(f"sha256sum {file}").read().split()[0]
