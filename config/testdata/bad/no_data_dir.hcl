# A server without a data directory.
name = "a"
role = "server"
