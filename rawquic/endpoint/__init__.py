"""The I/O layer: one UDP socket, many connections.

`udp_endpoint` is the loop (batch in, route, batch out, timers); `routing` finds the connection of a
packet; `accept` answers clients that have none yet; `linger` repeats closes; `io` is how the socket
meets the event loop; `udp_python` and `turn_python` are the pure-Python twins of compiled parts:
batched UDP, and what happens before the loop sleeps.
"""
