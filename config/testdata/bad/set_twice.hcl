name     = "a"
data_dir = "data/a"
name     = "b"

proxy {
  listen = "127.0.0.1:8080"
}

proxy {
  reject_status = 429
  listen        = "127.0.0.1:8090"
}
