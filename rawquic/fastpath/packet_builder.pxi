# aioquic's `QuicPacketBuilder` for Initial and Handshake packets, member for member: aioquic's frame
# writers use it, and what it builds is the same, byte for byte. It encrypts nothing itself, and it
# draws no packet number: the first one is given, and they count up from there.

cdef enum:
    DATAGRAM_LEAST_ROOM = 128  # for another packet in the same datagram
    NUMBER_SENT = 2  # bytes of a packet number, and of a packet's length


@cython.final
cdef class HandshakePacket:
    """The members of aioquic's `QuicSentPacket`."""

    cdef public object epoch, packet_number, packet_type, sent_time
    cdef public bint in_flight, is_ack_eliciting, is_crypto_packet
    cdef public Py_ssize_t sent_bytes
    cdef public list delivery_handlers, quic_logger_frames


cdef class PacketBuilder:
    """Puts frames into packets, and packets into datagrams.

    A subclass says with class attributes what aioquic calls things:

    buffer_type  its `Buffer`. stop  its exception for a frame that has no room.
    epochs       a dict from packet type to epoch, of the two types that are built here
    initial      the packet type of Initial packets
    first_byte   a function (version, packet type, bits) of the first byte
    outside      frame types that are not in flight; unasked: those that elicit no ACK
    crypto       the type of CRYPTO frames. paths: those whose datagrams are padded
    """

    cdef public object max_flight_bytes, max_total_bytes, quic_logger_frames

    cdef:
        bytes _host_cid, _peer_cid, _peer_token
        bint _is_client, _open, _needs_padding
        object _version, _logger, _buffer, _type, _crypto
        list _datagrams, _packets
        Py_ssize_t _buffer_capacity, _flight_capacity, _header_size, _start
        Py_ssize_t _flight_bytes, _total_bytes, _datagram_flight_bytes
        long long _number
        HandshakePacket _packet

    def __init__(
        self, *, bytes host_cid, bytes peer_cid, version, bint is_client,
        Py_ssize_t max_datagram_size, long long packet_number=0, bytes peer_token=b"",
        quic_logger=None, bint spin_bit=False,
    ):
        self._host_cid, self._peer_cid, self._peer_token = host_cid, peer_cid, peer_token
        self._is_client, self._version, self._logger = is_client, version, quic_logger
        self._datagrams, self._packets = [], []
        self._number = packet_number
        self._buffer = self.buffer_type(max_datagram_size)
        self._buffer_capacity = self._flight_capacity = max_datagram_size

    cdef Py_ssize_t _tell(self) except -1:
        return self._buffer.tell()

    @property
    def packet_is_empty(self):
        assert self._packet is not None
        return self._tell() - self._start <= self._header_size

    @property
    def packet_number(self):
        return self._number

    @property
    def remaining_buffer_space(self):
        return self._buffer_capacity - self._tell() - AEAD_TAG_LENGTH

    @property
    def remaining_flight_space(self):
        return self._flight_capacity - self._tell() - AEAD_TAG_LENGTH

    def flush(self):
        """(datagrams, packets) so far."""
        if self._packet is not None:
            self._end_packet()
        self._end_datagram()
        datagrams, packets = self._datagrams, self._packets
        self._datagrams, self._packets = [], []
        return datagrams, packets

    def start_frame(self, frame_type, Py_ssize_t capacity=1, handler=None, handler_args=()):
        """The buffer for a frame of at least `capacity` bytes; `stop` where there is no room."""
        cdef Py_ssize_t at = self._tell()
        cdef bint in_flight = frame_type not in self.outside
        if self._packet is None:
            raise RuntimeError("start_frame() without start_packet()")
        if at - self._start <= self._header_size:  # RFC 9001 §5.4.2: it will be sampled
            capacity = max(capacity, NUMBER_MOST - NUMBER_SENT)
        if self._buffer_capacity - at - AEAD_TAG_LENGTH < capacity or (
            in_flight and self._flight_capacity - at - AEAD_TAG_LENGTH < capacity
        ):
            raise self.stop
        self._buffer.push_uint_var(frame_type)
        if frame_type not in self.unasked:
            self._packet.is_ack_eliciting = True
        if in_flight:
            self._packet.in_flight = True
        if frame_type == self.crypto:
            self._packet.is_crypto_packet = True
        if frame_type in self.paths:
            self._needs_padding = True
        if handler is not None:
            self._packet.delivery_handlers.append((handler, handler_args))
        return self._buffer

    def start_packet(self, packet_type, crypto):
        """Begin a packet, and a datagram where it does not fit into the one that is open."""
        cdef Py_ssize_t start, header_size, token = len(self._peer_token)
        cdef HandshakePacket packet
        epoch = self.epochs[packet_type]
        if self._packet is not None:
            self._end_packet()
        start = self._tell()
        if self._buffer_capacity - start < DATAGRAM_LEAST_ROOM:
            self._end_datagram()
            start = 0
        if not self._open:
            if self.max_total_bytes is not None:
                self._buffer_capacity = min(
                    self._buffer_capacity, <Py_ssize_t>self.max_total_bytes - self._total_bytes)
            self._flight_capacity = self._buffer_capacity
            if self.max_flight_bytes is not None:
                self._flight_capacity = min(
                    self._flight_capacity, <Py_ssize_t>self.max_flight_bytes - self._flight_bytes)
            self._datagram_flight_bytes = 0
            self._open = True
            self._needs_padding = False
        header_size = 11 + len(self._peer_cid) + len(self._host_cid)
        if packet_type is self.initial:
            header_size += <Py_ssize_t>varint_size(<uint64_t>token) + token
        if start + header_size >= self._buffer_capacity:
            raise self.stop
        packet = HandshakePacket.__new__(HandshakePacket)
        packet.epoch, packet.packet_type, packet.packet_number = epoch, packet_type, self._number
        packet.delivery_handlers, packet.quic_logger_frames = [], []
        self._packet, self._crypto, self._type = packet, crypto, packet_type
        self._start, self._header_size = start, header_size
        self.quic_logger_frames = packet.quic_logger_frames
        self._buffer.seek(start + header_size)

    cdef int _end_packet(self) except -1:
        cdef Py_ssize_t size = self._tell() - self._start
        cdef Py_ssize_t padding
        cdef HandshakePacket packet = self._packet
        cdef bytes plain
        buffer = self._buffer
        if size > self._header_size:
            padding = NUMBER_MOST - NUMBER_SENT + self._header_size - size
            if self._type is self.initial and (self._is_client or packet.is_ack_eliciting):
                self._needs_padding = True  # RFC 9000 §14.1
            if padding > 0:  # RFC 9001 §5.4.2
                buffer.push_bytes(bytes(padding))
                size += padding
                packet.in_flight = True
                if self._logger is not None:
                    packet.quic_logger_frames.append(self._logger.encode_padding_frame())
            buffer.seek(self._start)
            buffer.push_uint8(self.first_byte(self._version, self._type, NUMBER_SENT - 1))
            buffer.push_uint32(self._version)
            buffer.push_uint8(len(self._peer_cid))
            buffer.push_bytes(self._peer_cid)
            buffer.push_uint8(len(self._host_cid))
            buffer.push_bytes(self._host_cid)
            if self._type is self.initial:
                buffer.push_uint_var(len(self._peer_token))
                buffer.push_bytes(self._peer_token)
            buffer.push_uint16(
                size - self._header_size + NUMBER_SENT + AEAD_TAG_LENGTH | 0x4000)
            buffer.push_uint16(self._number & 0xFFFF)
            plain = buffer.data_slice(self._start, self._start + size)
            buffer.seek(self._start)
            buffer.push_bytes(self._crypto.encrypt_packet(
                PyBytes_FromStringAndSize(PyBytes_AS_STRING(plain), self._header_size),
                PyBytes_FromStringAndSize(
                    PyBytes_AS_STRING(plain) + self._header_size, size - self._header_size),
                self._number))
            packet.sent_bytes = self._tell() - self._start
            self._packets.append(packet)
            if packet.in_flight:
                self._datagram_flight_bytes += packet.sent_bytes
            self._number += 1
        else:
            buffer.seek(self._start)  # nothing was written: there is no packet
        self._packet = None
        self.quic_logger_frames = None
        return 0

    cdef int _end_datagram(self) except -1:
        cdef Py_ssize_t size = self._tell()
        cdef Py_ssize_t padding
        if size == 0:
            return 0
        padding = self._buffer_capacity - size
        if self._needs_padding and padding > 0:
            # Behind the last packet: no PADDING frames, and not in flight (RFC 9002 §2).
            self._buffer.push_bytes(bytes(padding))
            size += padding
        self._datagrams.append(self._buffer.data)
        self._flight_bytes += self._datagram_flight_bytes
        self._total_bytes += size
        self._open = False
        self._buffer.seek(0)
        return 0
