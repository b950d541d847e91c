"""rawquic: raw QUIC sessions for Python."""
