"""The endpoint: one UDP socket, its datagrams in and out, and who they belong to."""
