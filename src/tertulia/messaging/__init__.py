"""Messages: mailboxes, deliveries, topics, requests and dead letters."""
