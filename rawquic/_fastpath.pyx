# cython: language_level=3, boundscheck=True, wraparound=False, initializedcheck=False
# cython: embedsignature=True, freethreading_compatible=False
"""rawquic._fastpath: what happens per packet, compiled.

Its parts, each one concept, in dependency order (they are included once each and never nest):

aead_evp  AEAD by OpenSSL, one packet at a time
aead      packet protection: seal and open trains, header-protection masks, two providers
"""

include "fastpath/aead_evp.pxi"
include "fastpath/aead.pxi"
