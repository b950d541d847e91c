# cython: language_level=3, boundscheck=True, wraparound=False, initializedcheck=False
# cython: embedsignature=True, freethreading_compatible=False
"""rawquic._fastpath: what happens per packet, compiled.

Its parts, each one concept, in dependency order (they are included once each and never nest):

aead_evp    AEAD by OpenSSL, one packet at a time
aead        packet protection: seal and open trains, header-protection masks, two providers
rtt         round-trip time, PTO and loss delay of a path
congestion  NewReno and CUBIC, HyStart++: the window and the bytes in flight
pacing      token bucket: how much may leave now
mtu         path MTU discovery and black-hole detection
"""

include "fastpath/aead_evp.pxi"
include "fastpath/aead.pxi"
include "fastpath/rtt.pxi"
include "fastpath/congestion.pxi"
include "fastpath/pacing.pxi"
include "fastpath/mtu.pxi"
