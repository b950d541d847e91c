# AEAD by OpenSSL's EVP: one key, one packet at a time. Contexts keep their key for life and are
# given only the nonce, since a key set-up or a fetch costs as much as a packet. It never leaves
# the plaintext of a packet whose tag does not match; which packets, is aead.pxi's to say.

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t

from rawquic.fastpath.c_crypto cimport (
    ERR_clear_error, EVP_CIPHER, EVP_CIPHER_CTX, EVP_CIPHER_CTX_ctrl, EVP_CIPHER_CTX_free,
    EVP_CIPHER_CTX_new, EVP_CTRL_AEAD_GET_TAG, EVP_CTRL_AEAD_SET_TAG, EVP_CipherFinal_ex,
    EVP_CipherInit_ex, EVP_CipherUpdate, OPENSSL_cleanse,
)

cdef enum:
    AEAD_TAG_LENGTH = 16
    AEAD_NONCE_LENGTH = 12


cdef bint evp_seal(
    EVP_CIPHER_CTX *context, const uint8_t *nonce, const uint8_t *aad, size_t aad_length,
    uint8_t *text, size_t text_length, const uint8_t *plain, const uint8_t *body,
    size_t body_length,
) noexcept nogil:
    """Encrypt `plain`, which may be `text`, then `body`, to `text`; the tag behind it."""
    cdef size_t own = text_length - body_length
    cdef int written = 0
    if EVP_CipherInit_ex(context, NULL, NULL, NULL, nonce, 1) != 1:
        return False
    if aad_length and EVP_CipherUpdate(context, NULL, &written, aad, <int>aad_length) != 1:
        return False
    if own and EVP_CipherUpdate(context, text, &written, plain, <int>own) != 1:
        return False
    if body_length and EVP_CipherUpdate(
        context, text + own, &written, body, <int>body_length
    ) != 1:
        return False
    # Neither GCM nor ChaCha20-Poly1305 has text left to write at the end.
    if EVP_CipherFinal_ex(context, text + text_length, &written) != 1:
        return False
    return EVP_CIPHER_CTX_ctrl(
        context, EVP_CTRL_AEAD_GET_TAG, AEAD_TAG_LENGTH, text + text_length) == 1


cdef bint evp_open(
    EVP_CIPHER_CTX *context, const uint8_t *nonce, const uint8_t *aad, size_t aad_length,
    uint8_t *text, size_t text_length, uint8_t *plain,
) noexcept nogil:
    """Decrypt `text`, its tag behind it, to `plain`, which may be `text`.

    Where the tag does not match, `plain` is zeroed.
    """
    cdef int written = 0
    if (
        EVP_CipherInit_ex(context, NULL, NULL, NULL, nonce, 0) == 1
        and EVP_CIPHER_CTX_ctrl(
            context, EVP_CTRL_AEAD_SET_TAG, AEAD_TAG_LENGTH, text + text_length) == 1
        and (
            aad_length == 0
            or EVP_CipherUpdate(context, NULL, &written, aad, <int>aad_length) == 1
        )
        and (
            text_length == 0
            or EVP_CipherUpdate(context, plain, &written, text, <int>text_length) == 1
        )
        # Compares the tags in constant time. Writes no text (see evp_seal).
        and EVP_CipherFinal_ex(context, plain, &written) == 1
    ):
        return True
    # EVP has written the plaintext before it could know.
    OPENSSL_cleanse(plain, text_length)
    # What is left in the thread's error queue would be read as an error of somebody's TLS.
    ERR_clear_error()
    return False


cdef EVP_CIPHER_CTX *evp_context(
    const EVP_CIPHER *cipher, const uint8_t *key
) noexcept nogil:
    """A context that keeps its key for life, or NULL.

    Its padding is left as it is: only ECB has one, at an end that is never asked for; and a setting
    of it is made anew with each nonce, which costs 30 ns.
    """
    cdef EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new()
    if context == NULL:
        return NULL
    if EVP_CipherInit_ex(context, cipher, NULL, key, NULL, 1) != 1:
        EVP_CIPHER_CTX_free(context)
        return NULL
    return context
