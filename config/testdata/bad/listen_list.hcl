name     = "a"
data_dir = "data/a"

proxy {
  listen    = ["127.0.0.1:8080", "[::1]:8080", "127.0.0.1:8080", ":8080"]
  protocols = ["http", "http"]
}

api {
  listen = "127.0.0.1:8080"
}
