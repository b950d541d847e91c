# HKDF (RFC 5869) and HKDF-Expand-Label (RFC 8446 §7.1) by OpenSSL's HMAC. A context for each hash
# is fetched once and copied for each use, so that no secret stays in one. Keys are made by aead.pxi.

from rawquic.fastpath.c_crypto cimport (
    EVP_MAC, EVP_MAC_CTX, EVP_MAC_CTX_dup, EVP_MAC_CTX_free, EVP_MAC_CTX_new,
    EVP_MAC_fetch, EVP_MAC_final, EVP_MAC_init, EVP_MAC_update, OSSL_PARAM,
    OSSL_PARAM_construct_end, OSSL_PARAM_construct_utf8_string,
)

cdef enum:
    HASH_MOST = 48  # bytes of a SHA-384
    LABEL_MOST = 255  # of HKDF-Expand-Label's label and of its context (RFC 8446 §7.1)

_HASH_LENGTHS = {"sha256": 32, "sha384": 48}

# Contexts under a key of zeros, one for each hash; they live as long as the process.
cdef EVP_MAC_CTX *_hmac_sha256 = NULL
cdef EVP_MAC_CTX *_hmac_sha384 = NULL


cdef EVP_MAC_CTX *hmac_template(str name) except NULL:
    """A context for HMAC with this hash. It has a key: OpenSSL 3.0 copies none without."""
    cdef uint8_t zeros[HASH_MOST]
    cdef OSSL_PARAM params[2]
    cdef bytes digest = name.encode()
    cdef EVP_MAC *mac = EVP_MAC_fetch(NULL, b"HMAC", NULL)
    cdef EVP_MAC_CTX *context = NULL
    if mac != NULL:
        context = EVP_MAC_CTX_new(mac)  # holds the fetched HMAC, which is never freed
    params[0] = OSSL_PARAM_construct_utf8_string(b"digest", PyBytes_AS_STRING(digest), 0)
    params[1] = OSSL_PARAM_construct_end()
    memset(zeros, 0, HASH_MOST)
    if context == NULL or EVP_MAC_init(context, zeros, HASH_MOST, params) != 1:
        EVP_MAC_CTX_free(context)
        ERR_clear_error()
        raise MemoryError(f"no memory for HMAC, or OpenSSL has no {name}")
    return context


cdef EVP_MAC_CTX *hmac_context(str name) except NULL:
    """A context of the caller's own for HMAC with this hash; `EVP_MAC_init` gives it its key."""
    global _hmac_sha256, _hmac_sha384
    cdef EVP_MAC_CTX *context
    if name == "sha256":
        if _hmac_sha256 == NULL:
            _hmac_sha256 = hmac_template(name)
        context = EVP_MAC_CTX_dup(_hmac_sha256)
    elif name == "sha384":
        if _hmac_sha384 == NULL:
            _hmac_sha384 = hmac_template(name)
        context = EVP_MAC_CTX_dup(_hmac_sha384)
    else:
        raise ValueError(f"hash is {name!r}; allowed are {_quoted(_HASH_LENGTHS)}")
    if context == NULL:
        raise MemoryError("no memory for HMAC")
    return context


cdef size_t expand_info(
    uint8_t *info, bytes label, bytes context, Py_ssize_t length
) except 0:
    """Write HkdfLabel and the counter of the only block; how many bytes. `info` has room for all."""
    cdef size_t label_length = <size_t>len(label), context_length = <size_t>len(context)
    if label_length + 6 > LABEL_MOST or context_length > LABEL_MOST:
        raise ValueError("a label or its context is longer than 255 bytes")
    info[0] = <uint8_t>(length >> 8)
    info[1] = <uint8_t>length
    info[2] = <uint8_t>(label_length + 6)
    memcpy(info + 3, b"tls13 ", 6)
    memcpy(info + 9, PyBytes_AS_STRING(label), label_length)
    info[9 + label_length] = <uint8_t>context_length
    memcpy(info + 10 + label_length, PyBytes_AS_STRING(context), context_length)
    info[10 + label_length + context_length] = 1
    return 11 + label_length + context_length


@cython.final
cdef class _Expansion:
    """HMAC under one secret, for as many labels as are wanted; the key is set up once."""

    cdef:
        EVP_MAC_CTX *_mac  # owned
        Py_ssize_t _length  # of the hash
        bint _fresh

    def __cinit__(self, str hash_name, bytes secret):
        self._mac = hmac_context(hash_name)
        self._length = _HASH_LENGTHS[hash_name]
        if EVP_MAC_init(
            self._mac, <const uint8_t *>PyBytes_AS_STRING(secret), <size_t>len(secret), NULL
        ) != 1:
            ERR_clear_error()
            raise MemoryError()  # and no second try without the secret
        self._fresh = True

    def __dealloc__(self):
        EVP_MAC_CTX_free(self._mac)

    cdef bytes hmac(self, const uint8_t *text, size_t text_length, Py_ssize_t length):
        """The first `length` bytes of the HMAC of `text`."""
        cdef uint8_t out[HASH_MOST]
        cdef size_t written = 0
        cdef bytes result
        if (
            not (self._fresh or EVP_MAC_init(self._mac, NULL, 0, NULL) == 1)
            or EVP_MAC_update(self._mac, text, text_length) != 1
            or EVP_MAC_final(self._mac, out, &written, HASH_MOST) != 1
        ):
            OPENSSL_cleanse(out, HASH_MOST)
            ERR_clear_error()
            raise RuntimeError("OpenSSL's HMAC failed")
        self._fresh = False
        result = out[:length]
        OPENSSL_cleanse(out, HASH_MOST)
        return result

    cdef bytes expand(self, bytes label, bytes context, Py_ssize_t length):
        """HKDF-Expand-Label; `length` is at most that of the hash, so that it is one block."""
        cdef uint8_t info[2 * LABEL_MOST + 11]
        if not 0 < length <= self._length:
            raise ValueError(f"length is {length}; allowed is 1 to {self._length}")
        return self.hmac(info, expand_info(info, label, context, length), length)


def hkdf_extract(str hash_name not None, bytes salt not None, bytes material not None) -> bytes:
    """HKDF-Extract (RFC 5869 §2.2). ValueError for another hash than SHA-256 and SHA-384."""
    cdef _Expansion expansion = _Expansion(hash_name, salt)
    return expansion.hmac(
        <const uint8_t *>PyBytes_AS_STRING(material), <size_t>len(material), expansion._length)


def hkdf_expand_label(
    str hash_name not None, bytes secret not None, bytes label not None, bytes context not None,
    Py_ssize_t length,
) -> bytes:
    """HKDF-Expand-Label (RFC 8446 §7.1), of one block. ValueError says which argument is wrong."""
    cdef _Expansion expansion = _Expansion(hash_name, secret)
    return expansion.expand(label, context, length)


def derive_packet_key(
    str cipher not None, bytes secret not None, bytes prefix not None, bytes hp=None, *,
    str provider not None="auto",
) -> PacketKey:
    """The packet protection key of a TLS secret (RFC 9001 §5.1).

    prefix  of the labels: b"quic " for QUIC 1, b"quicv2 " for QUIC 2 (RFC 9369 §3.3.2)
    hp      the header-protection key, where it is that of an earlier key phase (RFC 9001 §6.1)
    """
    cdef str hash_name = "sha384" if cipher == "aes-256-gcm" else "sha256"
    cdef Py_ssize_t length = 16 if cipher == "aes-128-gcm" else 32
    cdef _Expansion expansion = _Expansion(hash_name, secret)
    return PacketKey(
        cipher,
        expansion.expand(prefix + b"key", b"", length),
        expansion.expand(prefix + b"iv", b"", AEAD_NONCE_LENGTH),
        expansion.expand(prefix + b"hp", b"", length) if hp is None else hp,
        provider=provider,
    )
