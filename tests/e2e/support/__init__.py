"""What the end-to-end tests share: the processes they start and the clients they ask with."""
