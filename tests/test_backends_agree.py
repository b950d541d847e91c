"""The same traffic gives the same results, and the same errors, on both backends."""

import importlib.util
import json
import subprocess
import sys
from typing import Any

import pytest
from loopback import Certificate
from processes import TESTS, environment

pytestmark = pytest.mark.timeout(90)


def run(backend: str, certificate: Certificate) -> list[Any]:
    ran = subprocess.run(
        [sys.executable, TESTS / "agreement.py"],
        input=json.dumps({"cert": certificate.cert.decode(), "key": certificate.key.decode()}),
        env=environment(RAWQUIC_BACKEND=backend),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr
    answer = json.loads(ran.stdout)
    assert answer["backend"] == backend
    return answer["results"]


@pytest.fixture(scope="module")
def python_results(certificate: Certificate) -> list[Any]:
    return run("python", certificate)


def test_both_backends_agree(certificate: Certificate, python_results: list[Any]) -> None:
    if importlib.util.find_spec("rawquic._fastpath") is None:
        pytest.skip("the compiled data plane was not built: there is nothing to compare with")
    compiled_results = run("compiled", certificate)
    for ours, theirs in zip(compiled_results, python_results, strict=True):
        assert ours == theirs


def test_the_traffic_is_what_it_should_be(python_results: list[Any]) -> None:
    """The comparison above would not notice if both were wrong, or if nothing had run."""
    results: dict[str, list[Any]] = {}
    for name, value in python_results:
        results.setdefault(name, []).append(value)
    assert len(python_results) > 100
    assert results["stream of 1000000"][0][:2] == [36, True]
    assert results["too long"][0][0] == "StreamTooLong"
    assert results["read after reset"][0][2] == {"code": 77}
    assert results["untrusted"][0][0] == "CertificateInvalid"
    assert results["full"][0][0] == results["nobody"][0][0] == "ConnectionRefused"
    assert results["taken"] == [8000]
