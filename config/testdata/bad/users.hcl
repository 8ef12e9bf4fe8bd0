name     = "a"
data_dir = "data/a"

proxy {
  users_file          = "testdata/files/bad-users"
  proxy_protocol_from = ["10.0.0.5", "0.0.0.0/0"]
}
