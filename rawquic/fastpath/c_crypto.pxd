"""C declarations of the cryptography that the data plane calls: OpenSSL's and intel-ipsec-mb's.

Declarations only; nothing here is called, and nothing here has a body.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t


cdef extern from "openssl/crypto.h" nogil:
    int OPENSSL_VERSION
    const char *OpenSSL_version(int kind)
    void OPENSSL_cleanse(void *memory, size_t length)


cdef extern from "openssl/err.h" nogil:
    void ERR_clear_error()


cdef extern from "openssl/evp.h" nogil:
    ctypedef struct EVP_CIPHER:
        pass
    ctypedef struct EVP_CIPHER_CTX:
        pass
    ctypedef struct ENGINE:
        pass

    const EVP_CIPHER *EVP_aes_128_ecb()
    const EVP_CIPHER *EVP_aes_256_ecb()
    const EVP_CIPHER *EVP_chacha20()

    EVP_CIPHER_CTX *EVP_CIPHER_CTX_new()
    void EVP_CIPHER_CTX_free(EVP_CIPHER_CTX *context)  # cleanses the key

    # A NULL cipher and key keep those of the context; only the nonce and the direction are set.
    int EVP_CipherInit_ex(
        EVP_CIPHER_CTX *context, const EVP_CIPHER *cipher, ENGINE *engine,
        const uint8_t *key, const uint8_t *iv, int encrypt)
    int EVP_CipherUpdate(
        EVP_CIPHER_CTX *context, uint8_t *out, int *out_length, const uint8_t *text, int length)


cdef extern from "fastpath/aead_openssl.h" nogil:
    ctypedef struct rq_ossl_cipher:
        pass
    ctypedef struct rq_ossl_key:
        pass

    int rq_ossl_fetch(rq_ossl_cipher *cipher, const char *name)
    rq_ossl_key *rq_ossl_key_new(
        const rq_ossl_cipher *cipher, const uint8_t *key, size_t key_length)
    void rq_ossl_key_free(rq_ossl_key *key)  # cleanses the key
    int rq_ossl_seal(
        rq_ossl_key *key, const uint8_t *nonce, const uint8_t *aad, size_t aad_length,
        uint8_t *text, size_t text_length, const uint8_t *plain, const uint8_t *body,
        size_t body_length)
    int rq_ossl_open(
        rq_ossl_key *key, const uint8_t *nonce, const uint8_t *aad, size_t aad_length,
        uint8_t *text, size_t text_length, uint8_t *plain)


cdef extern from "fastpath/aead_ipsec_mb.h" nogil:
    ctypedef struct rq_imb_key:
        pass
    ctypedef struct rq_imb_train:
        pass

    int rq_imb_available()
    rq_imb_key *rq_imb_key_new(const uint8_t *key, size_t key_length)
    void rq_imb_key_free(rq_imb_key *key)  # cleanses the key
    int rq_imb_train_begin(rq_imb_train *train, const rq_imb_key *key)
    void rq_imb_train_end(rq_imb_train *train)
    void rq_imb_seal(
        rq_imb_train *train, const uint8_t *nonce, const uint8_t *aad, size_t aad_length,
        uint8_t *text, size_t text_length, const uint8_t *plain, const uint8_t *body,
        size_t body_length)
    int rq_imb_open(
        rq_imb_train *train, const uint8_t *nonce, const uint8_t *aad, size_t aad_length,
        const uint8_t *text, size_t text_length, uint8_t *plain)


cdef extern from "openssl/params.h" nogil:
    ctypedef struct OSSL_PARAM:
        pass

    OSSL_PARAM OSSL_PARAM_construct_utf8_string(const char *key, char *text, size_t length)
    OSSL_PARAM OSSL_PARAM_construct_end()


cdef extern from "openssl/evp.h" nogil:
    ctypedef struct EVP_MAC:
        pass
    ctypedef struct EVP_MAC_CTX:
        pass

    EVP_MAC *EVP_MAC_fetch(void *library, const char *algorithm, const char *properties)
    EVP_MAC_CTX *EVP_MAC_CTX_new(EVP_MAC *mac)
    EVP_MAC_CTX *EVP_MAC_CTX_dup(const EVP_MAC_CTX *context)
    void EVP_MAC_CTX_free(EVP_MAC_CTX *context)  # cleanses the key
    int EVP_MAC_init(
        EVP_MAC_CTX *context, const uint8_t *key, size_t length, const OSSL_PARAM *params)
    int EVP_MAC_update(EVP_MAC_CTX *context, const uint8_t *text, size_t length)
    int EVP_MAC_final(EVP_MAC_CTX *context, uint8_t *out, size_t *written, size_t room)
