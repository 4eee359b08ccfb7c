"""What runs around the server: the demo, container, systemd unit, runbook."""
