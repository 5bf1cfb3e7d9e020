"""What is shipped: the built archives hold what an installed app needs, and the README tells the truth."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import django_push

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """Build the sdist, and from it the wheel, once."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    [wheel] = out.glob("*.whl")
    [sdist] = out.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as opened:
        in_wheel = {name: opened.read(name) for name in opened.namelist()}
    with tarfile.open(sdist) as opened:
        in_sdist = {name.partition("/")[2] for name in opened.getnames()}
    return in_wheel, in_sdist


def shipped(*patterns):
    """Return the package's own files of some kinds, by their path in the checkout."""
    package = ROOT / "django_push"
    return {
        str(path.relative_to(ROOT))
        for pattern in patterns
        for path in package.rglob(pattern)
        if "__pycache__" not in path.parts
    }


@pytest.mark.slow
def test_wheel_brings_code_templates_and_catalogues(archives):
    """Everything under the package that runs, is shown or is translated is in the wheel."""
    in_wheel, _ = archives
    wanted = shipped("*.py", "*.html", "*.txt", "*.css", "*.mo", "*.po", "py.typed")
    assert {name for name in wanted if name.endswith((".html", ".mo"))}
    assert wanted - set(in_wheel) == set()


@pytest.mark.slow
def test_wheel_brings_nothing_else(archives):
    """The wheel installs one package: no tests, no example."""
    in_wheel, _ = archives
    tops = {name.split("/")[0] for name in in_wheel}
    assert tops == {"django_push", f"django_push_tokens-{django_push.__version__}.dist-info"}


@pytest.mark.slow
def test_sdist_brings_tests_docs_and_example(archives):
    """A packager can run the tests, build the docs and try the example from the sdist."""
    _, in_sdist = archives
    wanted = {
        "tests/settings.py",
        "tests/test_packaging.py",
        "docs/conf.py",
        "docs/index.rst",
        "example_project/manage.py",
        "benchmarks/send.py",
        "setup.cfg",
        "pyproject.toml",
        "CHANGELOG.rst",
        "LICENSE",
        "README.rst",
    }
    assert wanted - in_sdist == set()


@pytest.mark.slow
def test_wheel_names_its_version_and_extras(archives):
    """The metadata has the package's version, its three requirements and its extras."""
    in_wheel, _ = archives
    [metadata] = [text.decode() for name, text in in_wheel.items() if name.endswith("/METADATA")]
    assert f"Version: {django_push.__version__}\n" in metadata
    for line in ("Requires-Dist: Django>=5.2", "Provides-Extra: fcm", "Requires-Python: >=3.10"):
        assert line in metadata


def test_public_names_all_load():
    """Every name that the package promises can be imported from it."""
    for name in django_push.__all__:
        assert getattr(django_push, name) is not None
        assert name in dir(django_push)


def test_unknown_name_is_an_attribute_error():
    """A name that the package does not have is an ordinary AttributeError."""
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = django_push.no_such_name
