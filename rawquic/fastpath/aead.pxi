# Packet protection (RFC 9001 §5): AEAD and header-protection masks of one direction and one key
# phase, behind one interface with two providers. Handles whole trains, without the GIL and
# without Python objects. It never picks a packet number, never touches a header, and never lets
# out plaintext that was not authenticated.

cimport cython
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy

from rawquic.fastpath.c_crypto cimport (
    ERR_clear_error, EVP_CIPHER, EVP_CIPHER_CTX, EVP_CIPHER_CTX_free, EVP_CIPHER_CTX_new,
    EVP_CipherInit_ex, EVP_CipherUpdate, EVP_aes_128_ecb, EVP_aes_256_ecb, EVP_chacha20,
    OPENSSL_VERSION, OPENSSL_cleanse, OpenSSL_version, rq_imb_available, rq_imb_key,
    rq_imb_key_free, rq_imb_key_new, rq_imb_open, rq_imb_seal, rq_imb_train,
    rq_imb_train_begin, rq_imb_train_end, rq_ossl_cipher, rq_ossl_fetch, rq_ossl_key,
    rq_ossl_key_free, rq_ossl_key_new, rq_ossl_open, rq_ossl_seal,
)

cdef enum:
    AEAD_TAG_LENGTH = 16
    AEAD_NONCE_LENGTH = 12
    HP_SAMPLE_LENGTH = 16
    HP_MASK_LENGTH = 5
    HEAD_MOST = 32    # of OpenJob.head
    # No UDP payload is longer; what is checked against it fits OpenSSL's int.
    AEAD_PACKET_MAX = 65535
    # Packets that a Python-level train hands to C at a time.
    AEAD_CHUNK = 64

cdef enum AeadCipher:
    AES_128_GCM
    AES_256_GCM
    CHACHA20_POLY1305

cdef rq_ossl_cipher _ossl_ciphers[3]  # by AeadCipher; each fetched when a key first wants it

cdef object _PACKET_NUMBER_END = 1 << 62  # RFC 9000 §12.3

_AEAD_CIPHERS = {
    "aes-128-gcm": (AES_128_GCM, 16),
    "aes-256-gcm": (AES_256_GCM, 32),
    "chacha20-poly1305": (CHACHA20_POLY1305, 32),
}


cdef struct SealJob:
    # Room for header, ciphertext and tag. Owner: the train's buffer.
    uint8_t *packet
    # The header, and the plaintext but for `body`: `packet` itself, or elsewhere, so that nothing
    # but what is sealed is ever written to `packet`. Owner: the train's buffer.
    const uint8_t *plain
    size_t header_length
    size_t length  # header, ciphertext and tag
    uint64_t packet_number
    # The last body_length bytes of the plaintext are read here; NULL where there are none. Owner:
    # whoever queued the data; it outlives the call.
    const uint8_t *body
    size_t body_length


cdef struct OpenJob:
    # The packet, header protection already removed. Owner: the receive arena.
    uint8_t *packet
    size_t header_length
    size_t length  # header, ciphertext and tag
    uint64_t packet_number
    bint opened  # set by the call
    # Where the plaintext goes; NULL: where the ciphertext is. What was in the first head_length
    # bytes there is back when the call ends, and `head` has what was opened to them.
    uint8_t *into
    size_t head_length
    uint8_t head[HEAD_MOST]


cdef inline void packet_nonce(const uint8_t *iv, uint64_t number, uint8_t *nonce) noexcept nogil:
    """RFC 9001 §5.3: the packet number, left-padded to the IV's length, exclusive-or the IV."""
    memcpy(nonce, iv, AEAD_NONCE_LENGTH - 8)
    store_64(
        nonce + AEAD_NONCE_LENGTH - 8, load_64(iv + AEAD_NONCE_LENGTH - 8) ^ number)


cdef inline bint packet_fits(size_t header_length, size_t length) noexcept nogil:
    """True where a packet has a sane length and room for its header and its tag."""
    return (
        AEAD_TAG_LENGTH <= length <= AEAD_PACKET_MAX
        and header_length <= length - AEAD_TAG_LENGTH
    )


cdef EVP_CIPHER_CTX *mask_context(const EVP_CIPHER *cipher, const uint8_t *key) noexcept nogil:
    """For header protection: a context that keeps its key for life, or NULL.

    Its padding is left as it is: only ECB has one, at an end that is never asked for.
    """
    cdef EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new()
    if context != NULL and EVP_CipherInit_ex(context, cipher, NULL, key, NULL, 1) != 1:
        EVP_CIPHER_CTX_free(context)
        return NULL
    return context


@cython.final
cdef class PacketKey:
    """Packet protection keys of one direction and one key phase.

    cipher    "aes-128-gcm", "aes-256-gcm" or "chacha20-poly1305"
    key       AEAD key: 16 bytes for AES-128, 32 for the others
    iv        12 bytes
    hp        header-protection key, as long as `key`; a key update keeps it (RFC 9001 §6)
    provider  "openssl", "ipsec-mb" (AES-GCM only), or "auto": ipsec-mb where it can serve

    ValueError says which argument is wrong. The C functions are for one thread at a time, and
    the caller sees to that; the Python methods lock.
    """

    cdef:
        AeadCipher _cipher
        uint8_t _iv[AEAD_NONCE_LENGTH]
        bint _made              # by __init__, which runs once
        bint _alive             # False: there are no keys (any more), every call fails
        rq_imb_key *_imb        # owned; NULL: OpenSSL seals and opens
        rq_ossl_key *_ossl      # owned; NULL: ipsec-mb seals and opens
        EVP_CIPHER_CTX *_hp     # owned
        cython.pymutex _lock    # held by the Python methods while C has the contexts

        # What the AEAD limits of RFC 9001 §6.6 count; acting on them is the data plane's.
        readonly uint64_t sealed        # packets sealed
        readonly uint64_t failed_opens  # packets whose tag did not match

    def __init__(
        self, cipher: str, key: bytes, iv: bytes, hp: bytes, *, provider: str = "auto"
    ):
        if self._made:
            raise TypeError("a packet key is made once; make another one")
        if cipher not in _AEAD_CIPHERS:
            raise ValueError(f"cipher is {cipher!r}; allowed are {_quoted(_AEAD_CIPHERS)}")
        kind, key_length = _AEAD_CIPHERS[cipher]
        for name, value, length in (
            ("key", key, key_length), ("iv", iv, AEAD_NONCE_LENGTH), ("hp", hp, key_length)
        ):
            if len(value) != length:
                raise ValueError(f"{name} has {len(value)} bytes; {cipher} takes {length}")
        if provider not in ("auto", "openssl", "ipsec-mb"):
            raise ValueError(
                f"provider is {provider!r}; allowed are 'auto', 'openssl' and 'ipsec-mb'")
        self._cipher = kind
        memcpy(self._iv, PyBytes_AS_STRING(iv), AEAD_NONCE_LENGTH)
        if provider == "ipsec-mb":
            if self._cipher == CHACHA20_POLY1305:
                raise ValueError("provider 'ipsec-mb' is for AES-GCM; use 'openssl' for ChaCha20")
            if not rq_imb_available():
                raise ValueError("provider 'ipsec-mb' is not available; see aead_providers()")
        self._set_keys(
            <const uint8_t *>PyBytes_AS_STRING(key), <size_t>key_length,
            <const uint8_t *>PyBytes_AS_STRING(hp),
            provider != "openssl" and self._cipher != CHACHA20_POLY1305 and rq_imb_available())

    cdef int _set_keys(
        self, const uint8_t *key, size_t key_length, const uint8_t *hp, bint ipsec_mb
    ) except -1:
        cdef rq_ossl_cipher *cipher = &_ossl_ciphers[<int>self._cipher]
        cdef bytes name = self.cipher.encode()
        cdef const EVP_CIPHER *mask = EVP_chacha20()
        if self._cipher != CHACHA20_POLY1305:
            mask = EVP_aes_128_ecb() if self._cipher == AES_128_GCM else EVP_aes_256_ecb()
        if ipsec_mb:
            self._imb = rq_imb_key_new(key, key_length)
        elif rq_ossl_fetch(cipher, PyBytes_AS_STRING(name)):
            self._ossl = rq_ossl_key_new(cipher, key, key_length)
        self._hp = mask_context(mask, hp)
        if self._hp == NULL or (self._imb == NULL and self._ossl == NULL):
            self.discard()
            ERR_clear_error()
            raise MemoryError("no memory for a packet key, or its cipher is disabled in OpenSSL")
        self._alive = self._made = True
        return 0

    def __dealloc__(self):
        self.discard()

    # For the data plane: C, without the GIL, one thread at a time.

    cdef void discard(self) noexcept nogil:
        """Wipe the keys; every later call fails. No call may be under way in this process."""
        self._alive = False
        rq_imb_key_free(self._imb)
        rq_ossl_key_free(self._ossl)
        EVP_CIPHER_CTX_free(self._hp)  # cleanses, as do the two above
        self._imb = NULL
        self._ossl = NULL
        self._hp = NULL
        OPENSSL_cleanse(self._iv, AEAD_NONCE_LENGTH)

    cdef Py_ssize_t seal_packets(self, const SealJob *jobs, Py_ssize_t count) noexcept nogil:
        """Seal a train and return how many packets were sealed, in order.

        Fewer than `count`: the key is wiped, a job is malformed, or the provider failed. The
        packet where it stopped and those behind it must not be sent.
        """
        cdef rq_imb_train train
        cdef const SealJob *job
        cdef uint8_t nonce[AEAD_NONCE_LENGTH]
        cdef uint8_t *text
        cdef size_t text_length
        cdef Py_ssize_t i, done = 0
        if not self._alive or (self._imb != NULL and not rq_imb_train_begin(&train, self._imb)):
            return 0
        for i in range(count):
            job = &jobs[i]
            if not packet_fits(job.header_length, job.length):
                break
            text = job.packet + job.header_length
            text_length = job.length - job.header_length - AEAD_TAG_LENGTH
            if job.body_length > text_length:
                break
            packet_nonce(self._iv, job.packet_number, nonce)
            if job.plain != job.packet:
                copy_short(job.packet, job.plain, job.header_length)
            if self._imb != NULL:
                rq_imb_seal(
                    &train, nonce, job.packet, job.header_length, text, text_length,
                    job.plain + job.header_length, job.body, job.body_length)
            elif not rq_ossl_seal(
                self._ossl, nonce, job.packet, job.header_length, text, text_length,
                job.plain + job.header_length, job.body, job.body_length,
            ):
                break
            done += 1
        if self._imb != NULL:
            rq_imb_train_end(&train)
        self.sealed += <uint64_t>done
        return done

    cdef Py_ssize_t open_packets(self, OpenJob *jobs, Py_ssize_t count) noexcept nogil:
        """Open packets, set `opened` of each, and return how many did not open.

        The plaintext of a packet that did not open is zeroed; its header and its last 16 bytes
        are left (those may be a stateless reset token).
        """
        cdef rq_imb_train train
        cdef OpenJob *job
        cdef uint8_t nonce[AEAD_NONCE_LENGTH]
        cdef uint8_t covered[HEAD_MOST]
        cdef uint8_t *text
        cdef uint8_t *plain
        cdef size_t text_length
        cdef Py_ssize_t i, failed = 0
        cdef bint able = self._alive and (
            self._imb == NULL or rq_imb_train_begin(&train, self._imb))
        for i in range(count):
            job = &jobs[i]
            job.opened = False
            if not able or not packet_fits(job.header_length, job.length):
                failed += 1
                continue
            text = job.packet + job.header_length
            text_length = job.length - job.header_length - AEAD_TAG_LENGTH
            packet_nonce(self._iv, job.packet_number, nonce)
            plain = text
            if job.into != NULL:
                plain = job.into
                copy_short(covered, plain, job.head_length)
            if self._imb != NULL:
                job.opened = rq_imb_open(
                    &train, nonce, job.packet, job.header_length, text, text_length, plain)
            else:
                job.opened = rq_ossl_open(
                    self._ossl, nonce, job.packet, job.header_length, text, text_length, plain)
            if job.into != NULL:
                copy_short(job.head, plain, job.head_length)
                copy_short(plain, covered, job.head_length)
            if not job.opened:
                failed += 1
                self.failed_opens += 1
        if able and self._imb != NULL:
            rq_imb_train_end(&train)
        return failed

    cdef bint open_packet(
        self, uint8_t *packet, size_t header_length, size_t length, uint64_t packet_number
    ) noexcept nogil:
        """Open one packet in place; see open_packets."""
        cdef OpenJob job
        job.into = NULL
        job.packet = packet
        job.header_length = header_length
        job.length = length
        job.packet_number = packet_number
        return self.open_packets(&job, 1) == 0

    cdef bint hp_masks(
        self, const uint8_t *samples, uint8_t *masks, Py_ssize_t count
    ) noexcept nogil:
        """Masks of `count` 16-byte samples (RFC 9001 §5.4), each in the first 5 of 16 bytes.

        `masks` has 16 * count bytes and may be `samples`. False: the key is wiped, the provider
        failed, or the train is absurd; the masks are then not to be used.
        """
        cdef uint8_t zeros[HP_MASK_LENGTH]
        cdef int written = 0
        cdef Py_ssize_t i
        if not self._alive or not 0 <= count <= AEAD_PACKET_MAX:
            return False
        if self._cipher != CHACHA20_POLY1305:
            # RFC 9001 §5.4.3: AES-ECB of the sample. Blocks are independent: one call for all.
            return count == 0 or EVP_CipherUpdate(
                self._hp, masks, &written, samples, <int>(count * HP_SAMPLE_LENGTH)) == 1
        # RFC 9001 §5.4.4: the sample is block counter and nonce, which is OpenSSL's IV as it is.
        zeros[:] = [0, 0, 0, 0, 0]
        for i in range(count):
            if EVP_CipherInit_ex(
                self._hp, NULL, NULL, NULL, samples + i * HP_SAMPLE_LENGTH, 1
            ) != 1 or EVP_CipherUpdate(
                self._hp, masks + i * HP_SAMPLE_LENGTH, &written, zeros, HP_MASK_LENGTH
            ) != 1:
                return False
        return True

    # For Python: tests, benchmarks and the floor measurement.

    @property
    def cipher(self) -> str:
        """The cipher's name, as it was given."""
        if self._cipher == AES_128_GCM:
            return "aes-128-gcm"
        return "aes-256-gcm" if self._cipher == AES_256_GCM else "chacha20-poly1305"

    @property
    def provider(self) -> str:
        """Who seals and opens, "openssl" or "ipsec-mb"; header protection is always OpenSSL's."""
        self._check_alive()
        return "openssl" if self._imb == NULL else "ipsec-mb"

    cdef int _check_alive(self) except -1:
        if not self._alive:
            raise ValueError("this packet key was wiped")
        return 0

    def wipe(self) -> None:
        """Wipe the keys; every later use raises ValueError. Waits for a train under way."""
        with nogil, self._lock:
            self.discard()

    def seal(
        self, header: bytes, packet_number: int, plaintext: bytes, split: int | None = None
    ) -> bytes:
        """Return header, ciphertext and tag.

        `split`: the plaintext before it is encrypted in place, that behind it from where it is.
        """
        cdef SealJob job
        cdef Py_ssize_t own = len(plaintext) if split is None else _bounded(
            "split", split, 0, len(plaintext))
        cdef Py_ssize_t done
        cdef Py_ssize_t length = _bounded(
            "packet length", len(header) + len(plaintext) + AEAD_TAG_LENGTH,
            AEAD_TAG_LENGTH, AEAD_PACKET_MAX)
        cdef bytearray packet = bytearray(header)
        job.packet_number = _bounded("packet_number", packet_number, 0, _PACKET_NUMBER_END - 1)
        packet += plaintext[:own]
        packet += bytes(length - len(packet))
        job.packet = <uint8_t *>PyByteArray_AS_STRING(packet)
        job.plain = job.packet
        job.header_length = <size_t>len(header)
        job.length = <size_t>length
        job.body = <const uint8_t *>PyBytes_AS_STRING(plaintext) + own
        job.body_length = <size_t>(len(plaintext) - own)
        self._check_alive()
        with nogil, self._lock:
            done = self.seal_packets(&job, 1)
        if done != 1:
            self._check_alive()
            raise RuntimeError("the AEAD provider failed")
        return bytes(packet)

    def open(self, packet: bytes, header_length: int, packet_number: int) -> bytes:
        """Return the plaintext; ValueError("authentication failed") where the tag is wrong."""
        cdef bytearray scratch = bytearray(packet)
        cdef uint8_t *start = <uint8_t *>PyByteArray_AS_STRING(scratch)
        cdef Py_ssize_t length = _bounded(
            "packet length", len(packet), AEAD_TAG_LENGTH, AEAD_PACKET_MAX)
        cdef Py_ssize_t header = _bounded(
            "header_length", header_length, 0, length - AEAD_TAG_LENGTH)
        cdef uint64_t number = _bounded(
            "packet_number", packet_number, 0, _PACKET_NUMBER_END - 1)
        cdef bint opened
        self._check_alive()
        with nogil, self._lock:
            opened = self.open_packet(start, <size_t>header, <size_t>length, number)
        if not opened:
            self._check_alive()
            raise ValueError("authentication failed")
        return bytes(scratch[header:length - AEAD_TAG_LENGTH])

    def masks(self, samples: bytes) -> bytes:
        """Header-protection masks, 5 bytes each, of samples of 16 bytes each."""
        cdef Py_ssize_t count = len(samples) // HP_SAMPLE_LENGTH
        cdef bytearray wide = bytearray(samples)
        cdef uint8_t *blocks = <uint8_t *>PyByteArray_AS_STRING(wide)
        cdef bint made
        if len(samples) % HP_SAMPLE_LENGTH:
            raise ValueError(f"samples has {len(samples)} bytes; a multiple of 16 is allowed")
        _bounded("number of samples", count, 0, AEAD_PACKET_MAX)
        self._check_alive()
        with nogil, self._lock:
            made = self.hp_masks(blocks, blocks, count)
        if not made:
            self._check_alive()
            raise RuntimeError("the header-protection cipher failed")
        return b"".join([
            bytes(wide[at:at + HP_MASK_LENGTH]) for at in range(0, len(wide), HP_SAMPLE_LENGTH)
        ])

    def seal_train(
        self, buffer: bytearray, segment: int, header_length: int,
        first_packet_number: int, count: int,
    ) -> None:
        """Seal `count` packets of `segment` bytes in place, tag included, without the GIL.

        The last one ends with the buffer where that comes first.
        """
        self._train(buffer, segment, header_length, first_packet_number, count, True)

    def open_train(
        self, buffer: bytearray, segment: int, header_length: int,
        first_packet_number: int, count: int,
    ) -> int:
        """Open what seal_train sealed, in place; return how many packets failed."""
        return self._train(buffer, segment, header_length, first_packet_number, count, False)

    cdef Py_ssize_t _train(
        self, bytearray buffer, object segment, object header_length,
        object first_packet_number, object count, bint seal,
    ) except -1:
        cdef Py_buffer view
        cdef Py_ssize_t packets = _bounded("count", count, 1, len(buffer))
        cdef size_t size = <size_t>_bounded("segment", segment, AEAD_TAG_LENGTH, AEAD_PACKET_MAX)
        cdef Py_ssize_t length = len(buffer)
        cdef Py_ssize_t before_last = (packets - 1) * <Py_ssize_t>size
        cdef Py_ssize_t last = min(length - before_last, <Py_ssize_t>size)
        cdef Py_ssize_t result
        if last < AEAD_TAG_LENGTH:
            raise ValueError(
                f"buffer has {length} bytes; {count} packets of {segment} need more than"
                f" {before_last + AEAD_TAG_LENGTH - 1}")
        cdef size_t header = <size_t>_bounded(
            "header_length", header_length, 0, last - AEAD_TAG_LENGTH)
        cdef uint64_t number = _bounded(
            "first_packet_number", first_packet_number, 0, _PACKET_NUMBER_END - packets)
        self._check_alive()
        # The view keeps the buffer from being resized while the GIL is not held.
        PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
        try:
            with nogil, self._lock:
                result = run_train(
                    self, <uint8_t *>view.buf, size, <size_t>last, header, number, packets, seal)
        finally:
            PyBuffer_Release(&view)
        if result != 0:
            self._check_alive()
            if seal:
                raise RuntimeError("the AEAD provider failed")
        return result


cdef str _quoted(names):
    return ", ".join(repr(name) for name in names)


cdef object _bounded(str name, object value, object low, object high):
    """`value`, or a ValueError that says what is allowed."""
    if not low <= value <= high:
        raise ValueError(f"{name} is {value}; {low} to {high} are allowed")
    return value


def openssl_version() -> str:
    """Version of the OpenSSL that runs, such as "OpenSSL 3.0.19 27 Jan 2026"."""
    return OpenSSL_version(OPENSSL_VERSION).decode()


def aead_providers() -> tuple[str, ...]:
    """AEAD providers that work here, the fastest for AES-GCM first.

    "ipsec-mb" is one where it was compiled in, the processor has AES-NI and PCLMULQDQ, and the
    library's self-test passed.
    """
    return ("ipsec-mb", "openssl") if rq_imb_available() else ("openssl",)
