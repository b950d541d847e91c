# cython: language_level=3, boundscheck=True, wraparound=False, initializedcheck=False
# cython: embedsignature=True, freethreading_compatible=False
"""rawquic._fastpath: what happens per packet, compiled.

Its parts, each one concept, in dependency order (they are included once each and never nest):

c_socket     Linux's socket interface, declared
c_memory     pages of memory, declared
address      addresses as the kernel has them and as Python sees them
udp_errors   ICMP errors and refusals, noted
udp_receive  datagrams in, by recvmmsg or GRO
udp_send     datagrams out, by sendmmsg and GSO
udp_splice   large datagram trains out by reference to their pages
udp          UdpSocket: batches for Python
byte_order   numbers in network byte order
aead         packet protection: seal and open trains, header-protection masks, two providers
aead_trains  trains in one buffer, for Python
hkdf         HKDF, and packet keys out of TLS secrets
cursor       the one bounds-checked reader of received bytes; varints out
ranges       sorted disjoint ranges of numbers
rtt          round-trip time, PTO, loss delay
congestion   NewReno, CUBIC, HyStart++
pacing       a token bucket of 2 ms bursts
mtu          DPLPMTUD
ecn          whether packets are marked, and the peer's counts are believed
received_packets  duplicates, and the ACKs we send
sent_packets      the ring of packets that are not settled yet
send_blocks       memory for batches that the kernel may send from
send_half         what was written to a stream, until it is acknowledged
receive_half      reassembly into chunks that readers get whole
stream_table      streams by ID, and whose turn it is to send
datagram_queue    DATAGRAM payloads that wait
plane_state  what a DataPlane has besides: numbers, bounds, counts
data_plane   DataPlane: the state of a connection and what Python may call
inspection   what is inside of it, for tests; its counters
credit       what the peer may send, and windows that grow
streams      open, write, finish, reset, stop, read
recovery     ACKs in, loss detection, probe timeouts
placing      packets opened straight into what their reader gets
frames_in    the frames of a packet
packet_in    header protection off, key phases, decryption
frames_out   what is due, written into a packet
bulk_out     the rest of a train, where all of it is one transfer
packet_out   packets built, sealed, protected
handshake_packets  protection of packets with long headers, for the control plane
long_header  headers of such packets, likewise
packet_builder  such packets out of aioquic's frames, likewise
transport_parameters  the peer's, likewise
tls_blocks   length-prefixed blocks of TLS messages, likewise
qlog         events for a log, where one is kept
turn         whom a batch wakes, what leaves behind it
waiters      Waiter, Waiters, StreamTasks: what tasks wait on
stream_base  SendStreamBase, RecvStreamBase: what each message on a stream goes through
reactor      Reactor: the loop of an endpoint
loop_wait    the wait for its next batch, in the place of asyncio's loop
"""

cimport cython

from socket import SO_RCVBUF as _SO_RCVBUF, SOL_SOCKET as _SOL_SOCKET

from cpython.contextvars cimport PyContext_Enter, PyContext_Exit
from cpython.pythread cimport PyThread_get_thread_ident

from asyncio import CancelledError as _CancelledError
from collections import deque as _deque
from copy import copy as _copy

from rawquic.connection.interface import Event
from rawquic.endpoint.turn_python import (
    AT_ONCE as _AT_ONCE, FORKED as _FORKED, OTHER_THREAD as _OTHER_THREAD,
)
from rawquic.buffers import as_bytes as _as_bytes
from rawquic.errors import (
    DatagramTooLarge, DatagramUnsupported, StreamError, StreamFinished, StreamReset, StreamStopped,
)

include "fastpath/c_socket.pxd"
include "fastpath/c_memory.pxd"
include "fastpath/address.pxi"
include "fastpath/udp_errors.pxi"
include "fastpath/udp_receive.pxi"
include "fastpath/udp_send.pxi"
include "fastpath/udp_splice.pxi"
include "fastpath/udp.pxi"
include "fastpath/byte_order.pxi"
include "fastpath/aead.pxi"
include "fastpath/aead_trains.pxi"
include "fastpath/hkdf.pxi"
include "fastpath/cursor.pxi"
include "fastpath/ranges.pxi"
include "fastpath/rtt.pxi"
include "fastpath/congestion.pxi"
include "fastpath/pacing.pxi"
include "fastpath/mtu.pxi"
include "fastpath/ecn.pxi"
include "fastpath/received_packets.pxi"
include "fastpath/sent_packets.pxi"
include "fastpath/send_blocks.pxi"
include "fastpath/send_half.pxi"
include "fastpath/receive_half.pxi"
include "fastpath/stream_table.pxi"
include "fastpath/datagram_queue.pxi"
include "fastpath/plane_state.pxi"
include "fastpath/data_plane.pxi"
include "fastpath/inspection.pxi"
include "fastpath/credit.pxi"
include "fastpath/streams.pxi"
include "fastpath/recovery.pxi"
include "fastpath/placing.pxi"
include "fastpath/frames_in.pxi"
include "fastpath/packet_in.pxi"
include "fastpath/frames_out.pxi"
include "fastpath/bulk_out.pxi"
include "fastpath/packet_out.pxi"
include "fastpath/handshake_packets.pxi"
include "fastpath/long_header.pxi"
include "fastpath/packet_builder.pxi"
include "fastpath/transport_parameters.pxi"
include "fastpath/tls_blocks.pxi"
include "fastpath/qlog.pxi"
include "fastpath/c_time.pxd"
include "fastpath/turn.pxi"
include "fastpath/waiters.pxi"
include "fastpath/stream_base.pxi"
include "fastpath/reactor.pxi"
include "fastpath/loop_wait.pxi"
