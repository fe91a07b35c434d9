"""Storages of trials: what an address may be, what errors say and hide, who is kept out, what a torn journal costs."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import optuna
import pytest
from optuna.exceptions import StorageInternalError
from postgres import start_postgres
from sqlalchemy.exc import OperationalError

from evitlab.sweep import storages
from evitlab.sweep.storages import LostClaimError, Storage, SweepError, ignore_outage

SECRET = "wal/l@by%7"
QUOTED = "wal%2Fl%40by%257"
NOWHERE = f"postgresql://lab:{QUOTED}@127.0.0.1:1/trials"
"""Nobody listens at port 1."""


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(storages, "OPENING_S", 0.0)


def refuse(address: str) -> str:
    with pytest.raises(SweepError) as caught:
        Storage(address)
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__
    return message


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("", "--storage must be a database's URL or a journal file's path, but got ''"),
        ("mysql://lab:wallaby@host/trials", "--storage must be postgresql://..., sqlite:///FILE or the path of a"),
        ("postgresql://lab:wallaby@host:port/trials", "--storage must be postgresql://..., sqlite:///FILE or the pa"),
        (
            "sqlite://",
            "--storage must be postgresql://..., sqlite:///FILE or the path of a journal file, but got sqlite",
        ),
        ("sqlite:///:memory:", "--storage must be postgresql://..., sqlite:///FILE or the path of a journal file, but"),
        ("lab:wallaby@host/trials", "--storage must begin with postgresql:// where it names a user, but it has no ://"),
        ("postgresql:/lab:wallaby@host/t", "--storage must begin with postgresql:// where it names a user"),
        ("postgresql://lab:kanga@wallaby@127.0.0.1:1/trials", "--storage must have one @, before the host"),
        ("postgresql://lab:kanga@roo/wallaby@127.0.0.1:1/trials", "--storage must have one @, before the host"),
        ("postgresql+nosuch://lab:wallaby@host/trials", "postgresql://host/trials: the trials cannot be kept there: "),
        ("sqlite:////nosuch/folder/trials.db", "/nosuch/folder/trials.db: the trials cannot be kept there: unable"),
        ("/proc/nosuch/trials.journal", "/proc/nosuch/trials.journal: No such file or directory"),
    ],
)
def test_a_wrong_address_is_one_sentence_that_names_no_password(address, problem, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = refuse(address)
    assert message.startswith(problem)
    assert "wallaby" not in message
    assert "kanga" not in message
    assert list(tmp_path.iterdir()) == []  # nor does a file or folder bear it


def test_a_folder_is_no_journal(tmp_path):
    assert refuse(str(tmp_path)).startswith("--storage must be a database's URL or a journal file's path, but got '/")


def test_a_server_that_does_not_answer_is_one_sentence_without_its_password():
    message = refuse(f"{NOWHERE}?sslpassword={QUOTED}")
    assert message.startswith("postgresql://127.0.0.1:1/trials: the trials cannot be kept there: ")
    assert "refused" in message
    assert "lab" not in message.replace("evitlab", "")
    assert not [form for form in (SECRET, QUOTED) if form in message]


@pytest.mark.parametrize("form", [SECRET, QUOTED])
@pytest.mark.parametrize("kind", [StorageInternalError, lambda said: OperationalError("SELECT 1", {}, Exception(said))])
def test_no_form_of_the_password_gets_through_an_error(tmp_path, monkeypatch, form, kind):
    storage = Storage(f"sqlite:///{tmp_path}/trials.db")
    monkeypatch.setattr(storage, "_secrets", storages._secrets(storages._parse(NOWHERE)))
    with pytest.raises(SweepError) as caught, storage.one_line_errors():
        raise kind(f"cannot reach postgresql://lab:{form}@host\nand advice")
    assert "cannot reach postgresql://lab:***@host" in str(caught.value)
    assert "advice" not in str(caught.value)


def test_passwords_in_the_query_are_secrets_too():
    found = storages._secrets(storages._parse("postgresql://h/t?password=first&sslpassword=second&sslmode=require"))
    assert set(found) == {"first", "second"}


def test_a_driver_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    assert refuse(NOWHERE).endswith("needs a driver: pip install 'evitlab[postgres]'")


def test_a_missing_folder_is_made_for_a_journal_and_another_file_is_left_alone(tmp_path):
    path = tmp_path / "new" / "trials.journal"
    Storage(str(path))
    assert path.is_file()
    other = tmp_path / "notes.txt"
    other.write_text("no journal\n")
    assert refuse(str(other)) == f"{other}: is not a journal of trials, nor empty"
    assert other.read_text() == "no journal\n"


def test_nothing_is_made_where_something_is_only_to_be_read(tmp_path):
    for address in (f"{tmp_path}/trials.journal", f"sqlite:///{tmp_path}/trials.db"):
        with pytest.raises(SweepError, match="no worker has shared a study there, as there is no such file"):
            Storage(address, new=False)
    assert list(tmp_path.iterdir()) == []


def make_study(storage: Storage) -> optuna.Study:
    return optuna.create_study(storage=storage.optuna, study_name="s", load_if_exists=True)


def test_half_a_line_of_a_killed_writer_does_not_spoil_a_journal(tmp_path):
    path = tmp_path / "trials.journal"
    study = make_study(Storage(str(path)))
    study.set_user_attr("first", 1)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"op_code":2,"worker_id":"gone","st')
    study.set_user_attr("second", 2)
    assert path.read_bytes().startswith(whole + b'{"op_code":')
    assert make_study(Storage(str(path))).user_attrs == {"first": 1, "second": 2}


def test_a_journal_on_a_full_disk_is_one_sentence(tmp_path):
    storage = Storage(str(tmp_path / "trials.journal"))
    study = make_study(storage)
    os.remove(tmp_path / "trials.journal")
    os.symlink("/dev/full", tmp_path / "trials.journal")
    with pytest.raises(SweepError, match=r"trials\.journal: No space left on device$"), storage.one_line_errors():
        study.set_user_attr("a", 1)


HOLD = """
import sys, time
from evitlab.sweep.storages import Storage
with Storage(sys.argv[1]).exclusive("s"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("address", ["sqlite:///{}/trials.db", "{}/trials.journal"])
def test_a_claim_keeps_another_process_out_and_ends_with_it(address, tmp_path):
    address = address.format(tmp_path)
    storage = Storage(address)
    with subprocess.Popen([sys.executable, "-c", HOLD, address], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        asked = []

        def give_up_after_a_while() -> None:
            asked.append(time.monotonic())
            if len(asked) == 3:
                raise InterruptedError

        with pytest.raises(InterruptedError), storage.exclusive("s", give_up_after_a_while):
            pytest.fail("two claim at once")
        other.kill()
        other.wait()
    with storage.exclusive("s", lambda: None):
        pass


def test_postgresql_keeps_others_out_and_a_claim_that_a_crash_broke_is_told(monkeypatch):
    with start_postgres() as server:
        monkeypatch.setattr(storages, "OPENING_S", 15.0)
        first, second = Storage(server.url), Storage(server.url)
        assert first.label == f"postgresql://127.0.0.1:{server.port}/postgres"
        with first.exclusive("s"):
            with pytest.raises(InterruptedError), second.exclusive("s", interrupt):
                pytest.fail("two claim at once")
            with second.exclusive("another"):
                pass
        with second.exclusive("s", interrupt):
            pass
        with pytest.raises(LostClaimError), first.exclusive("s", interrupt):
            server.restart()
        make_study(second)  # its connections were broken too
        wrong = f"postgresql://lab:{QUOTED}@127.0.0.1:{server.port}/postgres"
        monkeypatch.setattr(storages, "OPENING_S", 0.0)
        message = refuse(wrong)
    assert "password authentication failed" in message
    assert not [form for form in (SECRET, QUOTED) if form in message]


def interrupt() -> None:
    raise InterruptedError


def test_several_threads_claim_in_turn(tmp_path):
    inside, most = [], []

    def claim() -> None:
        for _ in range(5):
            with Storage(str(tmp_path / "trials.journal")).exclusive("s"):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.001)
                inside.pop()

    threads = [threading.Thread(target=claim) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 15


def test_patience_ends_and_looks_up_meanwhile(tmp_path, monkeypatch):
    storage = Storage(f"sqlite:///{tmp_path}/trials.db")
    now = [0.0]
    monkeypatch.setattr(storages.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(storages.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    tries, looks = [], []

    def fail() -> None:
        tries.append(now[0])
        raise OperationalError("SELECT 1", {}, Exception("the database restarts"))

    with pytest.raises(OperationalError):
        storage.patiently(fail)
    assert tries == [0.0]  # a file does not come back
    monkeypatch.setattr(storage, "_patience_s", 2.0)
    tries.clear()
    with pytest.raises(OperationalError):
        storage.patiently(fail, lambda: looks.append(1))
    assert tries == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert len(looks) == 4
    answers = iter([LostClaimError(), OperationalError("SELECT 1", {}, Exception()), None])

    def answer() -> str:
        if (error := next(answers)) is not None:
            raise error
        return "done"

    assert storage.patiently(answer) == "done"


def test_an_outage_is_nobodys_trouble_and_a_mistake_of_ours_is():
    for error in (StorageInternalError(), KeyError(), OSError(), OperationalError("SELECT 1", {}, Exception())):
        with ignore_outage():
            raise error
    with pytest.raises(ZeroDivisionError), ignore_outage():
        raise ZeroDivisionError


def test_labels_have_no_user_no_password_and_no_query(tmp_path):
    label = storages._label(storages._parse(f"postgresql://lab:{QUOTED}@host:5433/trials?sslpassword=x"))  # type: ignore[arg-type]
    assert label == "postgresql://host:5433/trials"
    assert Storage(f"sqlite:///{tmp_path}/t.db").label == str(tmp_path / "t.db")
    assert Storage(str(tmp_path / "t.journal")).label == str(tmp_path / "t.journal")
    assert Path(tmp_path / "t.journal.lock").exists() is False  # made by those who write
