"""When this end may update its 1-RTT keys (RFC 9001 §6.1).

Not before the handshake is confirmed, and not before a packet under the present keys was
acknowledged: a peer that missed an update could never follow the next one. A PING under the new
keys is what gets acknowledged. No keys here: aioquic derives and switches them.
"""


class KeyUpdates:
    """Turns `wanted` into one update at a time.

    Attributes:
        wanted: the application asked for an update that did not begin yet.
        done, peer_updates: how many were begun here, and by the peer.
    """

    def __init__(self) -> None:
        self.wanted = False
        self.done = self.peer_updates = 0
        self._confirmed = True  # a packet under the present keys was acknowledged
        self._asked = False  # a PING for that is on its way
        self._begun = False  # the present keys are our doing: the peer has to hear of them

    def may_begin(self) -> bool:
        """True when an update is to begin now, which counts it."""
        if not self.wanted or not self._confirmed:
            return False
        self.wanted = self._confirmed = False
        self._begun = True
        self.done += 1
        return True

    def ping(self) -> int | None:
        """The negative number of a PING to send now, so that the present keys get confirmed."""
        if self._confirmed or self._asked or not (self.wanted or self._begun):
            return None
        self._asked = True
        return -2 - self.peer_updates

    def ping_acked(self, number: int) -> None:
        self._asked = self._begun = False
        # One that went out before the peer's last update says nothing about the keys since.
        self._confirmed = number == -2 - self.peer_updates

    def peer_updated(self) -> None:
        self.peer_updates += 1
        self._confirmed = False
