/* AES-GCM by intel-ipsec-mb's direct interface, or stubs where it was not compiled in.
 *
 * One key, one packet at a time; which packets, and what a failure means, is aead.pxi's to say.
 * Never lets plaintext out of a packet whose tag does not match.
 */
#ifndef RAWQUIC_AEAD_IPSEC_MB_H
#define RAWQUIC_AEAD_IPSEC_MB_H

#include <stddef.h>
#include <stdint.h>

#define RQ_IMB_TAG_LENGTH 16

/* An expanded AES-GCM key. Constant once made, so that threads may share it. */
typedef struct rq_imb_key rq_imb_key;

#if RAWQUIC_HAVE_IPSEC_MB

#include <intel-ipsec-mb.h>
#include <openssl/crypto.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct rq_imb_key {
    struct gcm_key_data data; /* first: the library wants it on 64 bytes, and its own header says so
                                 to the compiler only where LINUX is defined */
    size_t key_length;
};

#define RQ_IMB_ALIGNMENT ((size_t)64)
#define RQ_IMB_WHOLE ((size_t)2048) /* bytes; in larger packets the calls weigh less */

/* What a train needs: looked up once, used for each of its packets. */
typedef struct {
    const struct gcm_key_data *key; /* owner: the rq_imb_key that the train was begun with */
    aes_gcm_enc_dec_t encrypt;
    aes_gcm_enc_dec_t decrypt;
    aes_gcm_init_t init;
    aes_gcm_enc_dec_update_t update;
    aes_gcm_enc_dec_finalize_t finalize;
    struct gcm_context_data context; /* cleansed at its end */
    /* The plaintext of a packet in one piece: encrypting it with one call, and copying it to where
     * the first cache has it, costs less than two calls. Text of packets only: not cleansed. */
    uint8_t whole[RQ_IMB_WHOLE + 64] __attribute__((aligned(64)));
} rq_imb_train;

/* The library's manager is not for two threads at once: each thread makes its own on first use.
 * The pthread key exists for its destructor, which frees the manager of a thread that ends. */
static __thread IMB_MGR *rq_imb_manager; /* owner: this thread */
static pthread_key_t rq_imb_thread_key;
static pthread_once_t rq_imb_once = PTHREAD_ONCE_INIT;
static int rq_imb_has_thread_key;

static void rq_imb_thread_ends(void *manager) {
    rq_imb_manager = NULL;
    free_mb_mgr((IMB_MGR *)manager);
}

static void rq_imb_make_thread_key(void) {
    rq_imb_has_thread_key = pthread_key_create(&rq_imb_thread_key, rq_imb_thread_ends) == 0;
}

/* True where the manager runs AES-GCM on AES-NI and PCLMULQDQ and passed its self-test. The
 * library also has an emulation for processors without them: slow, and not constant-time. */
static int rq_imb_usable(IMB_MGR *manager, IMB_ARCH arch) {
    const uint64_t wanted = IMB_FEATURE_AESNI | IMB_FEATURE_PCLMULQDQ;
    if (imb_get_errno(manager) != 0 || arch < IMB_ARCH_SSE)
        return 0;
    if ((manager->features & wanted) != wanted)
        return 0;
#ifdef IMB_FEATURE_AESNI_EMU
    if (manager->features & IMB_FEATURE_AESNI_EMU)
        return 0;
#endif
#ifdef IMB_FEATURE_SELF_TEST
    if ((manager->features & IMB_FEATURE_SELF_TEST) &&
        !(manager->features & IMB_FEATURE_SELF_TEST_PASS))
        return 0;
#endif
    return 1;
}

/* This thread's manager, made on first use; NULL where the library cannot run here. */
static IMB_MGR *rq_imb_thread_manager(void) {
    IMB_ARCH arch = IMB_ARCH_NONE;
    IMB_MGR *manager;

    if (rq_imb_manager != NULL)
        return rq_imb_manager;
    if (pthread_once(&rq_imb_once, rq_imb_make_thread_key) != 0 || !rq_imb_has_thread_key)
        return NULL;
    manager = alloc_mb_mgr(0);
    if (manager == NULL)
        return NULL;
    init_mb_mgr_auto(manager, &arch);
    if (!rq_imb_usable(manager, arch) || pthread_setspecific(rq_imb_thread_key, manager) != 0) {
        free_mb_mgr(manager);
        return NULL;
    }
    rq_imb_manager = manager;
    return manager;
}

static inline int rq_imb_available(void) {
    return rq_imb_thread_manager() != NULL;
}

/* Expand a key of 16 or 32 bytes; NULL where the library cannot run or memory is short. */
static inline rq_imb_key *rq_imb_key_new(const uint8_t *bytes, size_t key_length) {
    const size_t size = (sizeof(rq_imb_key) + RQ_IMB_ALIGNMENT - 1) & ~(RQ_IMB_ALIGNMENT - 1);
    IMB_MGR *manager = rq_imb_thread_manager();
    rq_imb_key *key;

    if (manager == NULL || (key_length != 16 && key_length != 32))
        return NULL;
    key = (rq_imb_key *)aligned_alloc(RQ_IMB_ALIGNMENT, size);
    if (key == NULL)
        return NULL;
    key->key_length = key_length;
    if (key_length == 16)
        IMB_AES128_GCM_PRE(manager, bytes, &key->data);
    else
        IMB_AES256_GCM_PRE(manager, bytes, &key->data);
    return key;
}

static inline void rq_imb_key_free(rq_imb_key *key) {
    if (key == NULL)
        return;
    OPENSSL_cleanse(key, sizeof(*key));
    free(key);
}

/* Look up what `key` needs on this thread; 0 where the thread cannot have a manager. */
static inline int rq_imb_train_begin(rq_imb_train *train, const rq_imb_key *key) {
    const IMB_MGR *manager = rq_imb_thread_manager();

    if (manager == NULL)
        return 0;
    train->key = &key->data;
    if (key->key_length == 16) {
        train->encrypt = manager->gcm128_enc;
        train->decrypt = manager->gcm128_dec;
        train->init = manager->gcm128_init;
        train->update = manager->gcm128_enc_update;
        train->finalize = manager->gcm128_enc_finalize;
    } else {
        train->encrypt = manager->gcm256_enc;
        train->decrypt = manager->gcm256_dec;
        train->init = manager->gcm256_init;
        train->update = manager->gcm256_enc_update;
        train->finalize = manager->gcm256_enc_finalize;
    }
    return 1;
}

/* The context holds counter blocks and key stream of the last packet. */
static inline void rq_imb_train_end(rq_imb_train *train) {
    OPENSSL_cleanse(&train->context, sizeof(train->context));
}

/* Encrypt plain, which may be text, and then body_length bytes of body, to text[0:text_length], and
 * write the tag behind it. */
static inline void rq_imb_seal(rq_imb_train *train, const uint8_t *nonce, const uint8_t *aad,
                               size_t aad_length, uint8_t *text, size_t text_length,
                               const uint8_t *plain, const uint8_t *body, size_t body_length) {
    const size_t own = text_length - body_length;
    uint8_t *tag = text + text_length;

    if (body_length == 0 || own == 0) {
        train->encrypt(train->key, &train->context, text, own == 0 && body_length ? body : plain,
                       text_length, nonce, aad, aad_length, tag, RQ_IMB_TAG_LENGTH);
        return;
    }
    if (text_length <= RQ_IMB_WHOLE) {
        uint8_t *whole = train->whole + (64 - own % 64); /* so that body is aligned */
        memcpy(whole, plain, own);
        memcpy(whole + own, body, body_length);
        train->encrypt(train->key, &train->context, text, whole, text_length, nonce, aad,
                       aad_length, tag, RQ_IMB_TAG_LENGTH);
        return;
    }
    train->init(train->key, &train->context, nonce, aad, aad_length);
    train->update(train->key, &train->context, text, plain, own);
    train->update(train->key, &train->context, text + own, body, body_length);
    train->finalize(train->key, &train->context, tag, RQ_IMB_TAG_LENGTH);
}

/* Decrypt text[0:text_length], its tag behind it, to plain, which may be text. Returns 1 where the
 * tag matches; 0 where it does not, with plain zeroed. */
static inline int rq_imb_open(rq_imb_train *train, const uint8_t *nonce, const uint8_t *aad,
                              size_t aad_length, const uint8_t *text, size_t text_length,
                              uint8_t *plain) {
    uint8_t tag[RQ_IMB_TAG_LENGTH];

    train->decrypt(train->key, &train->context, plain, text, text_length, nonce, aad, aad_length,
                   tag, RQ_IMB_TAG_LENGTH);
    if (CRYPTO_memcmp(tag, text + text_length, RQ_IMB_TAG_LENGTH) == 0)
        return 1;
    OPENSSL_cleanse(plain, text_length);
    OPENSSL_cleanse(tag, sizeof(tag)); /* the right tag of a forgery is nobody's to find */
    return 0;
}

#else /* !RAWQUIC_HAVE_IPSEC_MB: no key can be made, so nothing below rq_imb_key_free is reached */

typedef struct {
    int unused;
} rq_imb_train;

static inline int rq_imb_available(void) {
    return 0;
}

static inline rq_imb_key *rq_imb_key_new(const uint8_t *bytes, size_t key_length) {
    (void)bytes;
    (void)key_length;
    return NULL;
}

static inline void rq_imb_key_free(rq_imb_key *key) {
    (void)key;
}

static inline int rq_imb_train_begin(rq_imb_train *train, const rq_imb_key *key) {
    (void)train;
    (void)key;
    return 0;
}

static inline void rq_imb_train_end(rq_imb_train *train) {
    (void)train;
}

static inline void rq_imb_seal(rq_imb_train *train, const uint8_t *nonce, const uint8_t *aad,
                               size_t aad_length, uint8_t *text, size_t text_length,
                               const uint8_t *plain, const uint8_t *body, size_t body_length) {
    (void)train, (void)nonce, (void)aad, (void)aad_length;
    (void)text, (void)text_length, (void)plain, (void)body, (void)body_length;
}

static inline int rq_imb_open(rq_imb_train *train, const uint8_t *nonce, const uint8_t *aad,
                              size_t aad_length, const uint8_t *text, size_t text_length,
                              uint8_t *plain) {
    (void)train, (void)nonce, (void)aad, (void)aad_length;
    (void)text, (void)text_length, (void)plain;
    return 0;
}

#endif
#endif
