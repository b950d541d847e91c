"""The words of the protocol, and nothing that moves them.

A request is a stream that begins with a 64-bit big-endian number. Up to 2^63 it is the draft's: so
many bytes are wanted back. The server reads to the end of the stream, then sends exactly that many
bytes and the end, on the same stream, or on a new unidirectional one where the request came on a
unidirectional one. 2^64-1 is the draft's "until I stop you". Our additions are the numbers below:

ECHO    what follows is sent back as it comes: bytes, the end, and the code of a reset or a stop
DIGEST  what follows is read to the end; the answer is its SHA-256
RANDOM  a second number follows: the answer is that many random bytes, then their SHA-256
REPORT  the answer is a JSON object: CPU seconds and memory of the server's process, what it
        counted of this session's datagrams, the statistics of its end of the connection, and the
        codes with which peers closed the last sessions of the process
CLOSE   a second number follows: the server closes the session with it as the code
UPDATE  the server changes its packet protection keys, then ends the stream

A bidirectional stream that begins with any other number is reset.

A datagram that begins with the byte SINK is counted; any other one is sent back.
"""

ALPN = "perf"
WORD = 8  # bytes of a number
MOST = 1 << 63  # bytes that can be asked for
UNTIL_STOPPED = (1 << 64) - 1
ECHO = (1 << 64) - 2
DIGEST = (1 << 64) - 3
RANDOM = (1 << 64) - 4
REPORT = (1 << 64) - 5
CLOSE = (1 << 64) - 6
UPDATE = (1 << 64) - 7
SINK = 0
BOUNCE = 1
STOP_CODE = 0


def word(number: int) -> bytes:
    return number.to_bytes(WORD)
