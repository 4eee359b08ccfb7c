"""HTTP and websocket routes. A route reads, hands over and answers; it never computes."""
