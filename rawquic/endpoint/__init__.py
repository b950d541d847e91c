"""The I/O layer: one UDP socket, many connections.

`udp_endpoint` is the loop (batch in, route, batch out, timers); `routing` finds the connection of a
packet; `accept` answers clients that have none yet; `linger` repeats closes; `io` is how the socket
meets the event loop; `udp_python` is the pure-Python twin of the compiled batched UDP.
"""
