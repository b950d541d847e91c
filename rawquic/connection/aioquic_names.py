"""Every private name of aioquic that rawquic uses, so that a release which breaks one is noticed.

`rawquic` pins aioquic to `>=1.7.2,<1.8`; tests/test_aioquic_names.py holds this list against the
installed release and against rawquic's own source.
"""

CONNECTION_ATTRIBUTES = (
    "_QuicConnection__frame_handlers",
    "_ack_delay",
    "_close_event",
    "_close_pending",
    "_crypto_streams",
    "_datagrams_pending",
    "_handshake_complete",
    "_handshake_confirmed",
    "_host_cid_seq",
    "_host_cids",
    "_is_client",
    "_local_ack_delay_exponent",
    "_local_active_connection_id_limit",
    "_local_initial_source_connection_id",
    "_local_max_data",
    "_local_max_stream_data_bidi_local",
    "_local_max_stream_data_bidi_remote",
    "_local_max_stream_data_uni",
    "_local_max_streams_bidi",
    "_local_max_streams_uni",
    "_local_next_stream_id_bidi",
    "_local_next_stream_id_uni",
    "_loss",
    "_max_datagram_size",
    "_network_paths",
    "_original_destination_connection_id",
    "_packet_number",
    "_peer_cid",
    "_peer_cid_available",
    "_remote_ack_delay_exponent",
    "_remote_active_connection_id_limit",
    "_remote_max_data",
    "_remote_max_datagram_frame_size",
    "_remote_max_idle_timeout",
    "_remote_max_stream_data_bidi_local",
    "_remote_max_stream_data_bidi_remote",
    "_remote_max_stream_data_uni",
    "_remote_max_streams_bidi",
    "_remote_max_streams_uni",
    "_retry_source_connection_id",
    "_state",
    "_streams",
    "_streams_blocked_bidi",
    "_streams_blocked_pending",
    "_streams_blocked_uni",
    "_streams_queue",
    "_version",
)

CONNECTION_METHODS = (
    "_close_end",
    "_get_or_create_stream",
    "_handle_ack_frame",
    "_handle_connection_close_frame",
    "_handle_crypto_frame",
    "_handle_max_data_frame",
    "_handle_max_stream_data_frame",
    "_handle_new_connection_id_frame",
    "_idle_timeout",
    "_log_key_updated",
    "_on_connection_limit_delivery",
    "_on_max_stream_data_delivery",
    "_parse_transport_parameters",
    "_replenish_connection_ids",
    "_serialize_transport_parameters",
    "_unblock_streams",
    "_write_connection_close_frame",
    "_write_connection_limits",
    "_write_stream_limits",
)

SENDER_ATTRIBUTES = ("_buffer", "_buffer_stop", "_reset_error_code")
RECEIVER_ATTRIBUTES = ("_buffer", "_buffer_start", "_ranges")
RECOVERY_ATTRIBUTES = (
    "_cc",
    "_pacer",
    "_rtt_initialized",
    "_rtt_min",
    "_rtt_smoothed",
    "_rtt_variance",
)
TLS_ATTRIBUTES = ("_peer_certificate", "_peer_certificate_chain", "_receive_buffer")
