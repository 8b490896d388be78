"""How Ray is set and loaded, and who may read the token; without Ray."""

import os
import sys

import pytest

from retorq.acting import ray_settings
from retorq.acting.ray_settings import SAFE, SETTINGS, Environment, in_use, own_token, read_token, require_ray
from retorq.types import UserError

TOKEN = "0123456789abcdef" * 4


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """As in a program that has not used Ray yet."""
    monkeypatch.setattr(ray_settings, "_loaded", None)
    monkeypatch.setattr(ray_settings, "_token", "")


class Module:
    def __init__(self, version):
        self.__version__ = version


def test_the_environment_is_put_back(monkeypatch):
    monkeypatch.setenv("RETORQ_A", "before")
    monkeypatch.setenv("RETORQ_B", "before")
    monkeypatch.delenv("RETORQ_C", raising=False)
    before = dict(os.environ)
    environment = Environment({"RETORQ_A": "now", "RETORQ_B": None, "RETORQ_C": "now"})
    assert (os.environ["RETORQ_A"], os.environ["RETORQ_C"], "RETORQ_B" in os.environ) == ("now", "now", False)
    os.environ["RAY_OF_ITS_OWN"] = "set by Ray"
    environment.restore()
    assert dict(os.environ) == before
    os.environ["RETORQ_A"] = "later"
    environment.restore()
    assert os.environ["RETORQ_A"] == "later"


def test_a_missing_ray_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pool is 'ray', but Ray is not installed; run: pip install 'retorq\[dist\]'"):
        require_ray(SAFE)


def test_one_that_was_imported_by_somebody_else_is_refused(monkeypatch):
    """Whatever the environment says now: it may have been loaded before."""
    for name, value in SAFE.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(sys.modules, "ray", Module("2.60.0"))
    with pytest.raises(UserError, match="imported before its safe settings"):
        require_ray(SAFE)


def test_one_that_was_loaded_here_is_taken_again_with_the_same_settings(monkeypatch):
    module = Module("2.60.0")
    monkeypatch.setitem(sys.modules, "ray", module)
    monkeypatch.setattr(ray_settings, "_loaded", (module, dict(SAFE)))
    assert require_ray(SAFE) is module
    with pytest.raises(UserError, match="for one host or for several before"):
        require_ray(SETTINGS)


@pytest.mark.parametrize("version", ["2.9.3", "2.59.1", "1.99.0"])
def test_an_old_one_is_refused(monkeypatch, version):
    module = Module(version)
    monkeypatch.setitem(sys.modules, "ray", module)
    monkeypatch.setattr(ray_settings, "_loaded", (module, dict(SAFE)))
    with pytest.raises(UserError, match=rf"Ray is {version}, .* install 2\.60 or newer"):
        require_ray(SAFE)


def test_a_program_has_one_token():
    """Ray keeps the first."""
    first = own_token()
    assert own_token() == in_use(first) == first
    assert len(first) == 64
    with pytest.raises(UserError, match="already has another token in this program"):
        in_use(TOKEN)


def token_file(folder, text=TOKEN + "\n", mode=0o600):
    path = folder / "token"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_a_token_that_only_its_owner_can_read_is_read(tmp_path):
    assert read_token(token_file(tmp_path)) == TOKEN
    assert read_token(token_file(tmp_path, mode=0o400)) == TOKEN


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o644])
def test_a_token_that_others_can_read_or_write_is_refused(tmp_path, mode):
    path = token_file(tmp_path, mode=mode)
    with pytest.raises(UserError, match=rf"token file '{path}' can be read by others; run: chmod 600 {path}"):
        read_token(path)


@pytest.mark.parametrize("text", ["", "short", "a" * 31, f"{TOKEN} {TOKEN}"])
def test_what_is_no_token_is_refused(tmp_path, text):
    with pytest.raises(UserError, match="holds no token of at least 32 characters; make it anew with"):
        read_token(token_file(tmp_path, text))


def test_a_token_of_another_user_is_refused(tmp_path, monkeypatch):
    path = token_file(tmp_path)
    monkeypatch.setattr(os, "getuid", lambda: path.stat().st_uid + 1)
    with pytest.raises(UserError, match="belongs to another user; make your own with"):
        read_token(path)
    with pytest.raises(UserError, match="belongs to another user; copy the head's token file to this host"):
        read_token(path, copied=True)


def test_a_missing_token_is_made_by_the_command_that_is_told(tmp_path):
    """Word for word, in a folder that is not there yet."""
    import subprocess

    path = tmp_path / "new" / "token"
    with pytest.raises(UserError, match="does not exist; make it once with") as caught:
        read_token(path)
    line = str(caught.value).split("with ", 1)[1].split(" and copy")[0]
    subprocess.run(["bash", "-c", line], check=True)
    assert len(read_token(path)) == 64


def test_where_the_head_has_made_it_a_token_is_copied(tmp_path):
    """One that is made there would be another one."""
    for text in (None, "short"):
        path = tmp_path / "token" if text is None else token_file(tmp_path, text)
        with pytest.raises(UserError, match="; copy the head's token file to this host") as caught:
            read_token(path, copied=True)
        assert "openssl" not in str(caught.value)


def test_a_folder_is_no_token(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read_token(tmp_path)
