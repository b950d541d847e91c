/* AEAD by OpenSSL: one key, one packet at a time; which packets, and what a failure means, is
 * aead.pxi's to say. Never lets plaintext out of a packet whose tag does not match.
 *
 * EVP finds the cipher, so that OpenSSL's configuration decides which provider has it. Each packet
 * then goes to that provider by the functions it offers (provider-cipher(7)): EVP on the way finds
 * out by name, for each packet, how long a nonce is, and takes a fifth more for a full packet.
 */
#ifndef RAWQUIC_AEAD_OPENSSL_H
#define RAWQUIC_AEAD_OPENSSL_H

#include <openssl/core_dispatch.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/provider.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define RQ_OSSL_TAG_LENGTH ((size_t)16)
#define RQ_OSSL_NONCE_LENGTH ((size_t)12)
#define RQ_OSSL_NAME_ROOM 64 /* for one of a cipher's names; OpenSSL's own are shorter */

/* What a provider does for one cipher. 1 from it is success; one that says -1 has failed. */
typedef struct {
    EVP_CIPHER *fetched; /* owned, while the process lives: keeps the provider loaded */
    OSSL_FUNC_cipher_newctx_fn *new_context;
    OSSL_FUNC_cipher_freectx_fn *free_context; /* cleanses the key */
    OSSL_FUNC_cipher_encrypt_init_fn *encrypt_init;
    OSSL_FUNC_cipher_decrypt_init_fn *decrypt_init;
    OSSL_FUNC_cipher_update_fn *update;
    OSSL_FUNC_cipher_final_fn *final;
    OSSL_FUNC_cipher_get_ctx_params_fn *get_params;
} rq_ossl_cipher;

/* A context keeps its key for life and is given only the nonce: a key set-up costs as much as a
 * packet. For one thread at a time. */
typedef struct {
    const rq_ossl_cipher *cipher;
    void *context;     /* owned; the provider's */
    OSSL_PARAM tag[2]; /* where the provider finds the tag of the packet at hand, or puts it */
} rq_ossl_key;

/* Take the functions of `entry`, which ends with a zero; 0 where one is missing. */
static int rq_ossl_take_functions(rq_ossl_cipher *cipher, const OSSL_DISPATCH *entry) {
    for (; entry->function_id != 0; entry++) {
        switch (entry->function_id) {
        case OSSL_FUNC_CIPHER_NEWCTX:
            cipher->new_context = OSSL_FUNC_cipher_newctx(entry);
            break;
        case OSSL_FUNC_CIPHER_FREECTX:
            cipher->free_context = OSSL_FUNC_cipher_freectx(entry);
            break;
        case OSSL_FUNC_CIPHER_ENCRYPT_INIT:
            cipher->encrypt_init = OSSL_FUNC_cipher_encrypt_init(entry);
            break;
        case OSSL_FUNC_CIPHER_DECRYPT_INIT:
            cipher->decrypt_init = OSSL_FUNC_cipher_decrypt_init(entry);
            break;
        case OSSL_FUNC_CIPHER_UPDATE:
            cipher->update = OSSL_FUNC_cipher_update(entry);
            break;
        case OSSL_FUNC_CIPHER_FINAL:
            cipher->final = OSSL_FUNC_cipher_final(entry);
            break;
        case OSSL_FUNC_CIPHER_GET_CTX_PARAMS:
            cipher->get_params = OSSL_FUNC_cipher_get_ctx_params(entry);
            break;
        default:
            break;
        }
    }
    return cipher->new_context && cipher->free_context && cipher->encrypt_init &&
           cipher->decrypt_init && cipher->update && cipher->final && cipher->get_params;
}

/* Find the functions of the provider that `fetched` came from; 0 where it offers too little. */
static int rq_ossl_find_functions(rq_ossl_cipher *cipher, const EVP_CIPHER *fetched) {
    int no_cache = 0; /* of no concern: what was fetched is kept, and with it its functions */
    const OSSL_ALGORITHM *algorithm = OSSL_PROVIDER_query_operation(
        EVP_CIPHER_get0_provider(fetched), OSSL_OP_CIPHER, &no_cache);
    char name[RQ_OSSL_NAME_ROOM];

    for (; algorithm != NULL && algorithm->algorithm_names != NULL; algorithm++) {
        /* "one:other name:1.2.3"; by any of them EVP knows the cipher. */
        const size_t length = strcspn(algorithm->algorithm_names, ":");
        if (length >= sizeof(name))
            continue;
        memcpy(name, algorithm->algorithm_names, length);
        name[length] = 0;
        if (EVP_CIPHER_is_a(fetched, name))
            return rq_ossl_take_functions(cipher, algorithm->implementation);
    }
    return 0;
}

/* Have the cipher that OpenSSL calls `name`; 0 where no provider has it. Not for two threads at
 * once. */
static int rq_ossl_fetch(rq_ossl_cipher *cipher, const char *name) {
    EVP_CIPHER *fetched;

    if (cipher->fetched != NULL)
        return 1;
    fetched = EVP_CIPHER_fetch(NULL, name, NULL);
    if (fetched == NULL || !rq_ossl_find_functions(cipher, fetched)) {
        EVP_CIPHER_free(fetched);
        return 0;
    }
    cipher->fetched = fetched;
    return 1;
}

/* NULL where memory is short. */
static rq_ossl_key *rq_ossl_key_new(const rq_ossl_cipher *cipher, const uint8_t *bytes,
                                    size_t key_length) {
    rq_ossl_key *key = (rq_ossl_key *)malloc(sizeof(*key));

    if (key == NULL)
        return NULL;
    key->cipher = cipher;
    key->context = cipher->new_context(
        OSSL_PROVIDER_get0_provider_ctx(EVP_CIPHER_get0_provider(cipher->fetched)));
    key->tag[0] = OSSL_PARAM_construct_octet_string(OSSL_CIPHER_PARAM_AEAD_TAG, NULL,
                                                    RQ_OSSL_TAG_LENGTH);
    key->tag[1] = OSSL_PARAM_construct_end();
    if (key->context != NULL &&
        cipher->encrypt_init(key->context, bytes, key_length, NULL, 0, NULL) == 1)
        return key;
    if (key->context != NULL)
        cipher->free_context(key->context);
    free(key);
    return NULL;
}

static void rq_ossl_key_free(rq_ossl_key *key) {
    if (key == NULL)
        return;
    key->cipher->free_context(key->context);
    free(key);
}

/* Encrypt or decrypt `length` bytes of `from` to `to`; with NULL there, they are authenticated
 * alone. Both ciphers give as many bytes as they take, at once. */
static inline int rq_ossl_update(const rq_ossl_key *key, uint8_t *to, const uint8_t *from,
                                 size_t length) {
    size_t written = 0;

    return length == 0 ||
           key->cipher->update(key->context, to, &written, length, from, length) == 1;
}

/* Encrypt plain, which may be text, and then body_length bytes of body, to text[0:text_length], and
 * write the tag behind it; 0 where OpenSSL fails. */
static inline int rq_ossl_seal(rq_ossl_key *key, const uint8_t *nonce, const uint8_t *aad,
                               size_t aad_length, uint8_t *text, size_t text_length,
                               const uint8_t *plain, const uint8_t *body, size_t body_length) {
    const rq_ossl_cipher *cipher = key->cipher;
    const size_t own = text_length - body_length;
    size_t written = 0;

    key->tag[0].data = text + text_length;
    if (cipher->encrypt_init(key->context, NULL, 0, nonce, RQ_OSSL_NONCE_LENGTH, NULL) == 1 &&
        rq_ossl_update(key, NULL, aad, aad_length) && rq_ossl_update(key, text, plain, own) &&
        rq_ossl_update(key, text + own, body, body_length) &&
        cipher->final(key->context, text + text_length, &written, RQ_OSSL_TAG_LENGTH) == 1 &&
        cipher->get_params(key->context, key->tag) == 1)
        return 1;
    ERR_clear_error(); /* what is left would be read as an error of this thread's TLS */
    return 0;
}

/* Decrypt text[0:text_length], its tag behind it, to plain, which may be text. Returns 1 where the
 * tag matches; 0 where it does not, with plain zeroed. */
static inline int rq_ossl_open(rq_ossl_key *key, const uint8_t *nonce, const uint8_t *aad,
                               size_t aad_length, uint8_t *text, size_t text_length,
                               uint8_t *plain) {
    const rq_ossl_cipher *cipher = key->cipher;
    size_t written = 0;

    key->tag[0].data = text + text_length;
    if (cipher->decrypt_init(key->context, NULL, 0, nonce, RQ_OSSL_NONCE_LENGTH, key->tag) == 1 &&
        rq_ossl_update(key, NULL, aad, aad_length) &&
        rq_ossl_update(key, plain, text, text_length) &&
        cipher->final(key->context, plain, &written, text_length) == 1) /* in constant time */
        return 1;
    OPENSSL_cleanse(plain, text_length); /* written before the tag was known to be wrong */
    ERR_clear_error();
    return 0;
}

#endif
