name     = "a"
data_dir = "data/a"

proxy {
  listen        = "weir.example.com:8080"
  allow_clients = []
}

api {
  listen          = "[::]:8081"
  read_token_file = "testdata/files/token"
}
