"""aead_openssl.h with a provider that fails: nothing counts as success that does not say so."""

import ctypes
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

HEADER = Path(__file__).parents[1] / "rawquic" / "fastpath" / "aead_openssl.h"
# Each of its functions answers with a digit of `answers`.
SOURCE = """
#include "aead_openssl.h"
static const int *answers;
static int init(void *context, const unsigned char *key, size_t key_length,
    const unsigned char *iv, size_t iv_length, const OSSL_PARAM *params) { return answers[0]; }
static int update(void *context, unsigned char *out, size_t *written, size_t room,
    const unsigned char *in, size_t length) { return answers[1]; }
static int final(void *context, unsigned char *out, size_t *written, size_t room)
    { return answers[2]; }
static int get_params(void *context, OSSL_PARAM *params) { return answers[3]; }
static const rq_ossl_cipher cipher = {
    .encrypt_init = init, .decrypt_init = init, .update = update, .final = final,
    .get_params = get_params,
};
int seal(const int *all) {
    rq_ossl_key key = {&cipher, NULL, {{0}}};
    uint8_t nonce[12] = {0}, packet[64] = {0};
    answers = all;
    return rq_ossl_seal(&key, nonce, packet, 4, packet + 4, 8, packet + 4, packet, 0);
}
int open_(const int *all) {
    rq_ossl_key key = {&cipher, NULL, {{0}}};
    uint8_t nonce[12] = {0}, packet[64] = {0};
    answers = all;
    return rq_ossl_open(&key, nonce, packet, 4, packet + 4, 8, packet + 4);
}
"""


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    compiler = shlex.split(os.environ.get("CC", "cc"))
    if not HEADER.exists() or shutil.which(compiler[0]) is None:
        pytest.skip("needs the sources and a C compiler")
    folder = tmp_path_factory.mktemp("provider")
    (folder / "provider.c").write_text(SOURCE)
    library = folder / "provider.so"
    command = [*compiler, "-shared", "-fPIC", f"-I{HEADER.parent}", str(folder / "provider.c")]
    result = subprocess.run(
        [*command, "-o", str(library), "-lcrypto"], capture_output=True, text=True
    )
    if "No such file" in result.stderr:
        pytest.skip("needs the headers of OpenSSL 3")
    assert result.returncode == 0, result.stderr
    return ctypes.CDLL(str(library))


@pytest.mark.parametrize("failing", [0, -1])
@pytest.mark.parametrize("at", range(4), ids=["init", "update", "final", "get_params"])
def test_a_call_that_fails(provider: ctypes.CDLL, at: int, failing: int) -> None:
    answers = (ctypes.c_int * 4)(1, 1, 1, 1)
    assert provider.seal(answers) == provider.open_(answers) == 1
    answers[at] = failing
    assert provider.seal(answers) == 0
    assert provider.open_(answers) == (at == 3)  # which is not asked for the tag
