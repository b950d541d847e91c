"""The sans-IO layer: one QUIC connection as a state machine; `now` is an argument, sockets are not.

`interface` says what the session layer may ask of a connection. `control` is what rawquic adds to
aioquic's control plane; `plain` is a whole connection on aioquic alone, the pure-Python fallback.
"""
