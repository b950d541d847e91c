# cython: language_level=3, boundscheck=True, wraparound=False, initializedcheck=False
# cython: embedsignature=True, freethreading_compatible=False
"""rawquic._fastpath: what happens per packet, compiled.

Its parts, each one concept, in dependency order (they are included once each and never nest):

c_socket     Linux's socket interface, declared
address      addresses as the kernel has them and as Python sees them
udp_errors   ICMP errors and refusals, noted
udp_receive  datagrams in, by recvmmsg or GRO
udp_send     datagrams out, by sendmmsg and GSO
udp          UdpSocket: batches for Python
aead_evp     AEAD by OpenSSL, one packet at a time
aead         packet protection: seal and open trains, header-protection masks, two providers
"""

cimport cython

include "fastpath/c_socket.pxd"
include "fastpath/address.pxi"
include "fastpath/udp_errors.pxi"
include "fastpath/udp_receive.pxi"
include "fastpath/udp_send.pxi"
include "fastpath/udp.pxi"
include "fastpath/aead_evp.pxi"
include "fastpath/aead.pxi"
