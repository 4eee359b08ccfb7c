"""What the commands of `selfalign-client` do."""
